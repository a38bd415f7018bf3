"""Tokenizers made from SentencePiece models: what they share, and those of encoders, T5 and Pegasus.

Each architecture numbers the pieces of its `.model` file in its own way, prepares text in its own way, and has its own
special tokens around texts. A `tokenizer.json`, where there is one, is taken as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import Any, ClassVar, NamedTuple, Self, cast

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, processors

from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.tokenizer.base import PreTrainedTokenizerFast, Token, TokenizerOptions, own_backend
from pellucid.tokenizer.files import TokenizerFiles, build, token_from_file
from pellucid.tokenizer.sentencepiece import (
    Piece,
    SentencePieceModel,
    bpe,
    find_merges,
    joined,
    model_normalizer,
    read_model,
    unigram,
    words,
)

Vocab = Sequence[Piece] | Mapping[str, int]


class Pipeline(NamedTuple):
    """The steps around the model of a backend."""

    normalizer: Any
    pre_tokenizer: Any
    decoder: Any


class SentencePieceTokenizer(PreTrainedTokenizerFast):
    """Base of the tokenizers that a `.model` file makes; not used alone.

    Args:
        vocab_file: path of a `.model` file.
        vocab: in its place, the vocabulary in the order of the architecture: `(piece, score)` for each piece, or for
            architectures that merge (Llama, Gemma, NLLB) the number of each piece.
        merges: for those, pairs of pieces; by default all that the vocabulary stands for.
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of a vocabulary; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of a vocabulary.
        **options: see `OPTIONS` of the class.
    """

    MERGES: ClassVar[bool] = False
    """Whether pieces are found by merging characters (BPE), not by their probability (Unigram)."""
    BYTE_FALLBACK: ClassVar[bool] = False
    PIPELINE_OPTIONS: ClassVar[tuple[str, ...]] = ("add_prefix_space",)
    """Options that change how text is prepared. Given by hand, they go before what a `tokenizer.json` says."""
    MASK_FLAGS: ClassVar[dict[str, bool]] = {}
    """How the mask token matches where files do not say it."""
    TEMPLATES: ClassVar[tuple[str, str] | None] = None
    """What goes around one text (`$A`) and around two (`$B`), by names of special tokens."""

    def __init__(
        self,
        vocab_file: str | PathLike[str] | None = None,
        *,
        vocab: Vocab | None = None,
        merges: Sequence[tuple[str, str]] | None = None,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Any,
    ) -> None:
        self._check_names(options)
        given = {**self._file_defaults(), **options}
        if sum(way is not None for way in (vocab_file, vocab, tokenizer_object, tokenizer_file)) != 1:
            raise InputError(
                f"{type(self).__name__}: wanted one of vocab_file, vocab, tokenizer_object and tokenizer_file; to load "
                f"a checkpoint: {type(self).__name__}.from_pretrained(name)"
            )
        own = options.get("additional_special_tokens")
        if own is not None and "extra_special_tokens" not in options:
            given["additional_special_tokens"] = self._extra_tokens(list(own), given)
        if vocab_file is not None:
            backend = self._from_model(read_model(vocab_file, follow=True), given)
        elif vocab is not None:
            backend = self._from_vocab(vocab, merges, None, given)
        else:
            backend = own_backend(tokenizer_object, tokenizer_file)
            if options.keys() & self.PIPELINE_OPTIONS:
                self._set_pipeline(backend, given)
        self._start(backend, given)

    # ------------------------------------------------------------------ what an architecture says

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        """The pieces of a file in the order of the architecture."""
        return {piece: index for index, piece in enumerate(model.pieces)} if cls.MERGES else model.scored

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        """How text is prepared and put together again.

        Args:
            charsmap: the normalizer that a file brings, or `None`.
            options: of the tokenizer.
        """
        prepend = cls._prepend(options)
        return Pipeline(charsmap, words(prepend), joined(prepend))

    @classmethod
    def _prepend(cls, options: Mapping[str, Any]) -> Any:
        return "never" if options.get("add_prefix_space") is False else "always"

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        """The special tokens without a name, where files do not list them.

        Args:
            own: those of the `.model` file, or given by hand.
            options: of the tokenizer.
        """
        return own

    # ------------------------------------------------------------------ making

    @classmethod
    def _from_files(cls, files: TokenizerFiles, overrides: dict[str, Any]) -> Self:
        tokenizer = super()._from_files(files, overrides)
        if "tokenizer.json" in files.paths and overrides.keys() & cls.PIPELINE_OPTIONS:
            cls._set_pipeline(tokenizer._tokenizer, {**cls._file_defaults(), **tokenizer.init_kwargs})
        return tokenizer

    @classmethod
    def _build(cls, files: TokenizerFiles, given: dict[str, Any]) -> Tokenizer:
        path = next((path for name, path in files.paths.items() if name.endswith(".model")), None)
        if path is None:
            return build(files, cls.__name__, {**cls.DEFAULT_TOKENS, **given})
        return cls._from_model(read_model(path), given)

    @classmethod
    def _from_model(cls, model: SentencePieceModel, given: dict[str, Any]) -> Tokenizer:
        """The backend that a file makes; its special tokens are added to the options where these name none."""
        options = cls._with_texts(given)
        if not given.keys() & {"additional_special_tokens", "extra_special_tokens"}:
            given["additional_special_tokens"] = cls._extra_tokens([*model.added_tokens], options)
        merges = None
        if cls.MERGES:
            numbers = {piece: index for index, piece in enumerate(model.pieces)}
            merges = find_merges(numbers, source=model.source)
        return cls._from_vocab(cls._vocab_of(model, options), merges, model_normalizer(model), options, model)

    @classmethod
    def _from_vocab(
        cls,
        vocab: Vocab,
        merges: Sequence[tuple[str, str]] | None,
        charsmap: Any,
        options: Mapping[str, Any],
        model: SentencePieceModel | None = None,
    ) -> Tokenizer:
        options = cls._with_texts(options)
        source = cls.__name__ if model is None else model.source
        if isinstance(vocab, Mapping) is not cls.MERGES:
            wanted = "{piece: number}" if cls.MERGES else "[(piece, score), …]"
            raise InputError(f"vocab: got {type(vocab).__name__}, wanted {wanted}")
        if isinstance(vocab, Mapping):
            pairs = find_merges(vocab, source=source) if merges is None else merges
            backend = bpe(vocab, pairs, unk_token=cls._merges_unknown(options), byte_fallback=cls.BYTE_FALLBACK)
        else:
            unknown = str(options["unk_token"])
            index = next((index for index, piece in enumerate(vocab) if piece[0] == unknown), None)
            if index is None:
                if model is None:
                    raise InputError(f"vocab: it lacks the unknown token {quoted(unknown)}; name another as unk_token")
                index = model.unk_id
            backend = unigram(vocab, index, source=source)
        cls._set_pipeline(backend, options, charsmap)
        return backend

    @classmethod
    def _with_texts(cls, given: Mapping[str, Any]) -> dict[str, Any]:
        """The options, with special tokens as text: those of the architecture where none is given."""
        tokens = {name: token_from_file(given.get(name), name) for name in cls.DEFAULT_TOKENS}
        named = {name: str(token) for name, token in tokens.items() if token is not None}
        return {**given, **cls.DEFAULT_TOKENS, **named}

    @classmethod
    def _merges_unknown(cls, options: Mapping[str, Any]) -> str | None:
        """The piece for what has none, where pieces are merged."""
        return str(options["unk_token"])

    @classmethod
    def _set_pipeline(cls, backend: Tokenizer, options: Mapping[str, Any], charsmap: Any = None) -> None:
        """Let a backend prepare text as the options say; its own table of replacements stays."""
        if _is_byte_level(backend):
            return
        present = backend.normalizer
        steps = present if isinstance(present, normalizers.Sequence) else [present]
        charsmap = charsmap or next(
            (step for step in cast(Any, steps) if isinstance(step, normalizers.Precompiled)), None
        )
        made = cls._pipeline(charsmap, options)
        backend.normalizer, backend.pre_tokenizer, backend.decoder = made

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        mask = given.get("mask_token", self.DEFAULT_TOKENS.get("mask_token"))
        if self.MASK_FLAGS and isinstance(mask, str):
            given["mask_token"] = AddedToken(mask, special=True, **self.MASK_FLAGS)
        if not given.keys() & {"additional_special_tokens", "extra_special_tokens"}:
            given["additional_special_tokens"] = self._extra_tokens([], {**self.DEFAULT_TOKENS, **given})
        super()._start(backend, given, kept)

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        if self.TEMPLATES is not None:
            self._put_around(*self.TEMPLATES)

    def _put_around(self, single: str, pair: str) -> None:
        """Let special tokens go around texts: `"{bos_token} $A {eos_token}"`, with token types after a colon."""
        names = [name for name in self.special_tokens_map if f"{{{name}}}" in single + pair]
        tokens = {name: str(getattr(self, name)) for name in names}
        if f"{single} {pair}".count("{") != sum(f"{single} {pair}".count(f"{{{name}}}") for name in names):
            return  # a token was taken away: then the file's own way stays
        templates = [[part.format(**tokens) for part in template.split()] for template in (single, pair)]
        numbers = {tokens[name]: getattr(self, f"{name}_id") for name in names}
        self._tokenizer.post_processor = processors.TemplateProcessing(
            single=cast(Any, templates[0]), pair=cast(Any, templates[1]), special_tokens=cast(Any, [*numbers.items()])
        )

    def _saved_class(self) -> str:
        """This class if it is for such a model; the general one for what else a `tokenizer.json` may hold."""
        wanted = models.BPE if self.MERGES else models.Unigram
        standard = isinstance(self._tokenizer.model, wanted) and not _is_byte_level(self._tokenizer)
        return type(self).__name__ if standard else "PreTrainedTokenizerFast"


def _is_byte_level(backend: Tokenizer) -> bool:
    """Whether a backend writes text as bytes, as GPT-2 does, whatever its class is called."""
    step = backend.pre_tokenizer
    steps = cast(Any, step) if isinstance(step, pre_tokenizers.Sequence) else [step]
    return any(isinstance(one, pre_tokenizers.ByteLevel) for one in steps)


def fairseq_pieces(model: SentencePieceModel, options: Mapping[str, Any]) -> list[Piece]:
    """The order of fairseq: four special tokens in front, in place of the first three pieces of the file."""
    names = ("bos_token", "pad_token", "eos_token", "unk_token")
    return [*((str(options[name]), 0.0) for name in names), *model.scored[3:]]


# ---------------------------------------------------------------------- XLM-RoBERTa and CamemBERT


class XLMRobertaTokenizer(SentencePieceTokenizer):
    """XLM-RoBERTa's tokenizer: pieces of normalized text, as `<s> A </s></s> B </s>`."""

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    TEMPLATES = ("{bos_token} $A {eos_token}", "{bos_token} $A {eos_token} {eos_token} $B {eos_token}")
    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "sentencepiece.bpe.model",
        "tokenizer_file": "tokenizer.json",
    }

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        return [*fairseq_pieces(model, options), (str(options["mask_token"]), 0.0)]


class CamembertTokenizer(XLMRobertaTokenizer):
    """CamemBERT's tokenizer: as XLM-RoBERTa's, with the numbers that its training left unused."""

    MASK_FLAGS: ClassVar[dict[str, bool]] = {"lstrip": True}

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        return [
            ("<s>NOTUSED", 0.0),
            (str(options["pad_token"]), 0.0),
            ("</s>NOTUSED", 0.0),
            (str(options["unk_token"]), 0.0),
            ("<unk>NOTUSED", -100.0),
            *model.scored[1:],
            (str(options["mask_token"]), 0.0),
        ]

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        return own or ["<s>NOTUSED", "</s>NOTUSED", "<unk>NOTUSED"]


# ---------------------------------------------------------------------- ALBERT and DeBERTa


class AlbertOptions(TokenizerOptions, total=False):
    """Further keywords of ALBERT's tokenizer."""

    do_lower_case: bool
    keep_accents: bool


class AlbertTokenizer(SentencePieceTokenizer):
    """ALBERT's tokenizer: pieces of text in lower case without accents, as `[CLS] A [SEP] B [SEP]`."""

    OPTIONS = AlbertOptions
    PIPELINE_OPTIONS: ClassVar[tuple[str, ...]] = ("add_prefix_space", "do_lower_case", "keep_accents")
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "<unk>",
        "sep_token": "[SEP]",
        "pad_token": "<pad>",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    TEMPLATES = (
        "{cls_token}:0 $A:0 {sep_token}:0",
        "{cls_token}:0 $A:0 {sep_token}:0 $B:1 {sep_token}:1",
    )
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"do_lower_case": True, "keep_accents": False}

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        """A comma after a digit stands alone: pieces such as `2010,` are made too improbable to be chosen."""
        return [
            (piece, score - 100.0) if piece.endswith(",") and piece[-2:-1].isdigit() else (piece, score)
            for piece, score in model.scored
        ]

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        steps: list[Any] = [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not _flag(options, "keep_accents"):
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
        if _flag(options, "do_lower_case"):
            steps.append(normalizers.Lowercase())
        if charsmap is not None:
            steps.append(charsmap)
        return super()._pipeline(normalizers.Sequence(steps), options)


class DebertaV2Options(TokenizerOptions, total=False):
    """Further keywords of DeBERTa's tokenizer."""

    do_lower_case: bool
    split_by_punct: bool


class DebertaV2Tokenizer(SentencePieceTokenizer):
    """The tokenizer of DeBERTa v2 and v3: pieces of text with its spaces put in order, as `[CLS] A [SEP] B [SEP]`."""

    OPTIONS = DebertaV2Options
    PIPELINE_OPTIONS: ClassVar[tuple[str, ...]] = ("add_prefix_space", "do_lower_case", "split_by_punct")
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "[CLS]",
        "eos_token": "[SEP]",
        "unk_token": "[UNK]",
        "sep_token": "[SEP]",
        "pad_token": "[PAD]",
        "cls_token": "[CLS]",
        "mask_token": "[MASK]",
    }
    TEMPLATES = AlbertTokenizer.TEMPLATES
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spm.model", "tokenizer_file": "tokenizer.json"}
    model_input_names: list[str] = ["input_ids", "attention_mask", "token_type_ids"]

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"do_lower_case": False, "split_by_punct": False}

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        steps: list[Any] = [normalizers.Lowercase()] if _flag(options, "do_lower_case") else []
        steps += [
            normalizers.Replace(Regex(r"\s{2,}|[\n\r\t]"), " "),
            normalizers.NFC(),
            normalizers.Strip(left=False, right=True),
        ]
        prepend: Any = "first" if options.get("add_prefix_space") is False else "always"
        splitters: list[Any] = [words(prepend, whitespace=False)]
        if _flag(options, "split_by_punct"):
            splitters.insert(0, pre_tokenizers.Punctuation(behavior="isolated"))
        return Pipeline(normalizers.Sequence(steps), pre_tokenizers.Sequence(splitters), joined(prepend))


def _flag(options: Mapping[str, Any], name: str) -> bool:
    if not isinstance(options[name], bool):
        raise InputError(f"{name}: got {quoted(options[name])}, wanted True or False")
    return bool(options[name])


# ---------------------------------------------------------------------- T5 and Pegasus


class T5Options(TokenizerOptions, total=False):
    """Further keywords of T5's tokenizer; `legacy` is accepted and changes nothing, since files say how to split."""

    extra_ids: int
    legacy: bool


class T5Tokenizer(SentencePieceTokenizer):
    """The tokenizer of T5, mT5 and UMT5: pieces, as `A </s> B </s>`, with sentinels `<extra_id_0>` and so on."""

    OPTIONS = T5Options
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    TEMPLATES = ("$A {eos_token}", "$A {eos_token} $B {eos_token}")
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"extra_ids": 100}

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        """The sentinels stand at the end of the vocabulary, the first one last."""
        return [*model.scored, *((token, 0.0) for token in reversed(_sentinels(options)))]

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        sentinels = _sentinels(options)
        present = [token for token in own if "<extra_id_" in str(token)]
        if present and sentinels and len(present) != len(sentinels):
            raise InputError(
                f"extra_ids: got {len(sentinels)}, and additional_special_tokens has {len(present)} sentinels; leave "
                "one of them out"
            )
        return own if present else [*own, *sentinels]

    def get_sentinel_tokens(self) -> list[str]:
        """The sentinels among the special tokens."""
        return [token for token in self.extra_special_tokens if token.startswith("<extra_id_")]

    def get_sentinel_token_ids(self) -> list[int | None]:
        """Their numbers."""
        return [self._id(token) for token in self.get_sentinel_tokens()]


def _sentinels(options: Mapping[str, Any]) -> list[str]:
    count = options["extra_ids"]
    if isinstance(count, bool) or not isinstance(count, int) or not 0 <= count <= 100_000:
        raise InputError(f"extra_ids: got {quoted(count)}, wanted a whole number from 0 to 100,000")
    return [f"<extra_id_{index}>" for index in range(count)]


class PegasusOptions(TokenizerOptions, total=False):
    """Further keywords of Pegasus's tokenizer."""

    mask_token_sent: str | None
    offset: int


class PegasusTokenizer(SentencePieceTokenizer):
    """Pegasus's tokenizer: pieces, as `A B </s>`, numbered after the tokens that its pretraining used."""

    OPTIONS = PegasusOptions
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "pad_token": "<pad>",
        "eos_token": "</s>",
        "unk_token": "<unk>",
        "mask_token": "<mask_2>",
    }
    TEMPLATES = ("$A {eos_token}", "$A $B {eos_token}")
    vocab_files_names: ClassVar[dict[str, str]] = {"vocab_file": "spiece.model", "tokenizer_file": "tokenizer.json"}

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"mask_token_sent": "<mask_1>", "offset": 103}

    @classmethod
    def _vocab_of(cls, model: SentencePieceModel, options: Mapping[str, Any]) -> Vocab:
        """After the first two pieces stand the mask of sentences, that of words, and the unused tokens."""
        masks = (options["mask_token_sent"], options["mask_token"])
        return [
            *((str(options[name]), 0.0) for name in ("pad_token", "eos_token")),
            *((str(mask), 0.0) for mask in masks if mask is not None),
            *((token, -100.0) for token in _unused(options)),
            *model.scored[2:],
        ]

    @classmethod
    def _pipeline(cls, charsmap: Any, options: Mapping[str, Any]) -> Pipeline:
        first = normalizers.Replace("\n", " ") if charsmap is None else charsmap
        steps = normalizers.Sequence([first, normalizers.Replace(Regex(" {2,}"), " ")])
        return Pipeline(steps, words(whitespace=False), joined())

    @classmethod
    def _extra_tokens(cls, own: list[Token], options: Mapping[str, Any]) -> list[Token]:
        sent = options["mask_token_sent"]
        return [*([] if sent is None else [str(sent)]), *_unused(options)]


def _unused(options: Mapping[str, Any]) -> list[str]:
    offset = options["offset"]
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset <= 100_000:
        raise InputError(f"offset: got {quoted(offset)}, wanted a whole number from 0 to 100,000")
    return [f"<unk_{index}>" for index in range(2, offset)]


XLMRobertaTokenizerFast = XLMRobertaTokenizer
CamembertTokenizerFast = CamembertTokenizer
AlbertTokenizerFast = AlbertTokenizer
DebertaV2TokenizerFast = DebertaV2Tokenizer
T5TokenizerFast = T5Tokenizer
PegasusTokenizerFast = PegasusTokenizer
