"""BPE over bytes: GPT-2's tokenizer, and those of RoBERTa, BART, Blenderbot, Qwen2 and GPT-NeoX that came from it.

Text is split by a pattern into words, each with the space before it. Every byte of a word is one of 256 printable
characters (a space is `Ġ`), and pairs of neighbours are merged, in the order in which they were learned, until no known
pair is left. So there is no unknown text. The vocabulary is `vocab.json`, the pairs are `merges.txt`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, ClassVar, Unpack

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from pellucid.errors import FileError, InputError
from pellucid.files import MB, quoted, read_json, read_text
from pellucid.tokenizer.base import PreTrainedTokenizerFast, TokenizerOptions, own_backend
from pellucid.tokenizer.files import BUILDERS, Options, needed

VOCABULARY_LIMIT = 64 * MB

Vocab = str | PathLike[str] | Mapping[str, int]
Merges = str | PathLike[str] | Sequence[str] | Sequence[tuple[str, str]]


# ---------------------------------------------------------------------- vocabulary and merges


class BytePairTokenizer(PreTrainedTokenizerFast):
    """A tokenizer from a vocabulary and the pairs to merge; base of the classes here, not used alone.

    Args:
        vocab_file: path of a `vocab.json`, or the vocabulary as `{token: number}`.
        merges_file: path of a `merges.txt`, or the pairs in order, as tuples or as `"first second"`.
        vocab: the same as `vocab_file`, by its newer name.
        merges: the same as `merges_file`, by its newer name.
        tokenizer_object: a `tokenizers.Tokenizer` to take in place of a vocabulary; it is copied.
        tokenizer_file: path of a `tokenizer.json` to take in place of a vocabulary.
        **options: see `TokenizerOptions`, and the class's own options.
    """

    FILES: ClassVar[tuple[str, str]] = ("vocab.json", "merges.txt")
    NEW_VOCABULARY: ClassVar[tuple[str, ...]] = ()
    """Names of the special tokens, in order, that are the vocabulary of a tokenizer made without one."""
    AFFIXES: ClassVar[dict[str, str]] = {"continuing_subword_prefix": "", "end_of_word_suffix": ""}
    vocab_files_names: ClassVar[dict[str, str]] = {
        "vocab_file": "vocab.json",
        "merges_file": "merges.txt",
        "tokenizer_file": "tokenizer.json",
    }

    def __init__(
        self,
        vocab_file: Vocab | None = None,
        merges_file: Merges | None = None,
        *,
        vocab: Vocab | None = None,
        merges: Merges | None = None,
        tokenizer_object: Tokenizer | None = None,
        tokenizer_file: str | PathLike[str] | None = None,
        **options: Unpack[TokenizerOptions],
    ) -> None:
        self._check_names(options)
        given: dict[str, Any] = dict(options)
        vocab, merges = vocab_file if vocab is None else vocab, merges_file if merges is None else merges
        if tokenizer_object is not None or tokenizer_file is not None:
            if vocab is not None or merges is not None:
                raise InputError(f"{type(self).__name__}: got a vocabulary and a whole tokenizer, wanted one of them")
            self._start(own_backend(tokenizer_object, tokenizer_file), given)
            return
        given = {**self._file_defaults(), **given}
        described = {**self.DEFAULT_TOKENS, **given}
        if vocab is None:
            tokens = dict.fromkeys(str(described[name]) for name in self.NEW_VOCABULARY)
            vocab = {token: index for index, token in enumerate(tokens)}
        numbers = dict(vocab) if isinstance(vocab, Mapping) else read_vocab_json(vocab, follow=True)
        pairs = read_merges(merges, follow=True) if isinstance(merges, (str, PathLike)) else check_merges(merges or [])
        self._start(self._backend(numbers, pairs, described, "merges"), given)

    @classmethod
    def from_files(cls, paths: Mapping[str, Path], options: Options) -> Tokenizer:
        """The backend from a vocabulary and its merges in files; entry of `BUILDERS`."""
        form = cls.FILES if cls.FILES[0] in paths else BytePairTokenizer.FILES
        vocab, merges = needed(paths, *form)
        return cls._backend(read_vocab_json(vocab), read_merges(merges), options, str(merges))

    @classmethod
    def _backend(cls, vocab: dict[str, int], merges: list[tuple[str, str]], options: Options, source: str) -> Tokenizer:
        """The backend of this class; `source` of the merges is for messages."""
        try:
            model = models.BPE(vocab, merges, **cls._model_options(options))
        except Exception as error:  # the library has no narrower class
            reason = (str(error).splitlines() or ["no reason given"])[0]
            error_class = InputError if source == "merges" else FileError
            raise error_class(f"{source}: not made for this vocabulary: {reason}") from error
        backend = Tokenizer(model)
        cls._set_steps(backend, options)
        return backend

    @classmethod
    def _model_options(cls, options: Options) -> dict[str, Any]:
        return {**cls.AFFIXES, "fuse_unk": False}

    @classmethod
    def _set_steps(cls, backend: Tokenizer, options: Options) -> None:
        """Give the backend the steps before and after the merging that the class stands for."""
        raise AssertionError(f"{cls.__name__} says nothing about its steps")

    def _saved_class(self) -> str:
        """This class if its files make the same tokenizer again; a pipeline of another make needs the general one."""
        usual = Tokenizer(models.BPE())
        self._set_steps(usual, {"add_prefix_space": self.add_prefix_space})
        own = self._tokenizer
        same = _state(own.normalizer) == _state(usual.normalizer) and _state(own.pre_tokenizer) == _state(
            usual.pre_tokenizer
        )
        return type(self).__name__ if same else "PreTrainedTokenizerFast"


def read_vocab_json(path: str | PathLike[str], *, follow: bool = False) -> dict[str, int]:
    """The vocabulary in a JSON file: one object, number by token."""
    vocab = read_json(path, VOCABULARY_LIMIT, follow=follow)
    if not isinstance(vocab, dict):
        raise FileError(f"{path}: got a JSON {type(vocab).__name__}, wanted an object of numbers by token")
    for token, index in vocab.items():
        if type(index) is not int or not 0 <= index < 2**32:
            raise FileError(f"{path}: {quoted(token)}: got {quoted(index)}, wanted the token's number")
    return vocab


def read_merges(path: str | PathLike[str], *, follow: bool = False) -> list[tuple[str, str]]:
    """The pairs in a `merges.txt`: two tokens a line with one space between, the pair to merge first first."""
    # Only a line feed ends a line: others of Unicode's line ends may be part of a token.
    lines = read_text(path, VOCABULARY_LIMIT, follow=follow).split("\n")
    pairs = []
    for number, line in enumerate(lines, start=1):
        line = line.removesuffix("\r")
        if not line or line.startswith("#version"):
            continue
        first, space, second = line.partition(" ")
        if not first or not second or " " in second or not space:
            raise FileError(f"{path}: line {number}: got {quoted(line)}, wanted two tokens with one space between")
        pairs.append((first, second))
    return pairs


def check_merges(merges: Any) -> list[tuple[str, str]]:
    """Pairs to merge, given as tuples or as `"first second"`, as tuples."""
    if not isinstance(merges, (list, tuple)):
        raise InputError(f"merges: got {type(merges).__name__}, wanted a path or a list of pairs")
    pairs = []
    for position, pair in enumerate(merges):
        parts = (
            tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) if isinstance(pair, (list, tuple)) else ()
        )
        if len(parts) != 2 or not all(isinstance(part, str) and part for part in parts):
            raise InputError(f"merges[{position}]: got {quoted(pair)}, wanted a pair of tokens")
        pairs.append((parts[0], parts[1]))
    return pairs


def _state(step: Any) -> Any:
    """What a step of a backend does, as data."""
    if step is None:
        return None
    state = json.loads(step.__getstate__())
    for part in (state, *state.get("pretokenizers", [])):
        part.pop("trim_offsets", None)  # only a post-processor looks at it
    return state


# ---------------------------------------------------------------------- the classes


class ByteLevelOptions(TokenizerOptions, total=False):
    """Further keywords of the byte-level tokenizers."""

    errors: str
    trim_offsets: bool


class GPT2Tokenizer(BytePairTokenizer):
    """GPT-2's tokenizer: byte-level BPE, nothing around the text. OPT's is the same with `add_bos_token=True`.

    Arguments as in `BytePairTokenizer`. `add_prefix_space` puts a space before a text that has none, so that its first
    word is tokenized as within a sentence. `errors` is accepted: bytes that are no text decode as `�`.
    """

    OPTIONS = ByteLevelOptions
    DEFAULT_TOKENS: ClassVar[dict[str, str]] = dict.fromkeys(("unk_token", "bos_token", "eos_token"), "<|endoftext|>")

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"add_prefix_space": False}

    @classmethod
    def _set_steps(cls, backend: Tokenizer, options: Options) -> None:
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=bool(options.get("add_prefix_space")))
        backend.decoder = decoders.ByteLevel()


class RobertaTokenizer(GPT2Tokenizer):
    """RoBERTa's tokenizer: GPT-2's, with `<s> A </s>` around a text and `<s> A </s></s> B </s>` around a pair.

    Arguments as in `GPT2Tokenizer`. `trim_offsets` (default true) leaves the space before a word out of its offsets.
    """

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "sep_token": "</s>",
        "cls_token": "<s>",
        "unk_token": "<unk>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    }
    NEW_VOCABULARY = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        trim = options.get("trim_offsets", True)
        if not isinstance(trim, bool):
            raise InputError(f"trim_offsets: got {quoted(trim)}, wanted True or False")
        surround_as_roberta(self, trim)


class BartTokenizer(RobertaTokenizer):
    """BART's tokenizer: RoBERTa's."""


class BlenderbotTokenizer(GPT2Tokenizer):
    """Blenderbot's tokenizer: GPT-2's with a space before each text; its checkpoints put `</s>` after it.

    Arguments as in `GPT2Tokenizer`. That `</s>` stands in the checkpoints' `tokenizer.json`; a tokenizer made from a
    vocabulary and merges adds it with `add_eos_token=True`.
    """

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = RobertaTokenizer.DEFAULT_TOKENS
    NEW_VOCABULARY = ("bos_token", "pad_token", "eos_token", "unk_token", "mask_token")

    @classmethod
    def _file_defaults(cls) -> dict[str, Any]:
        return {"add_prefix_space": True}

    def _start(self, backend: Tokenizer, given: dict[str, Any], kept: dict[str, Any] | None = None) -> None:
        super()._start(backend, mask_with_space(given, self.DEFAULT_TOKENS["mask_token"]), kept)


class Qwen2Tokenizer(GPT2Tokenizer):
    """Qwen2's and Qwen3's tokenizer: byte-level BPE of text in Unicode's composed form (NFC), each digit by itself.

    Arguments as in `GPT2Tokenizer`.
    """

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = dict.fromkeys(("unk_token", "eos_token", "pad_token"), "<|endoftext|>")
    NEW_VOCABULARY = ("eos_token",)

    @classmethod
    def _set_steps(cls, backend: Tokenizer, options: Options) -> None:
        backend.normalizer = normalizers.NFC()
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(_QWEN_WORDS), behavior="isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=bool(options.get("add_prefix_space")), use_regex=False),
            ]
        )
        backend.decoder = decoders.ByteLevel()

    def _add_missing_tokens(self, options: dict[str, Any], kept: dict[str, Any]) -> None:
        super()._add_missing_tokens(options, kept)
        self._tokenizer.add_tokens([AddedToken(token, special=True) for token in self.all_special_tokens])


_QWEN_WORDS = "|".join(
    [
        "(?i:'s|'t|'re|'ve|'m|'ll|'d)",  # English endings
        r"[^\r\n\p{L}\p{N}]?\p{L}+",  # a word, with a space or other sign before it
        r"\p{N}",  # one digit
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",  # punctuation
        r"\s*[\r\n]+",  # line ends
        r"\s+(?!\S)",  # spaces, but for the one that belongs to the next word
        r"\s+",
    ]
)
"""What a word is. The order counts: the first alternative that fits is taken."""


class GPTNeoXTokenizer(GPT2Tokenizer):
    """GPT-NeoX's tokenizer: byte-level BPE of text in Unicode's composed form (NFC).

    Arguments as in `GPT2Tokenizer`. What goes around a text is decided by `add_bos_token` and `add_eos_token` alone.
    """

    DEFAULT_TOKENS: ClassVar[dict[str, str]] = {**GPT2Tokenizer.DEFAULT_TOKENS, "pad_token": "<|padding|>"}
    NEW_VOCABULARY = ("unk_token", "pad_token")

    @classmethod
    def _set_steps(cls, backend: Tokenizer, options: Options) -> None:
        super()._set_steps(backend, options)
        backend.normalizer = normalizers.NFC()

    def _prepare_backend(self, options: dict[str, Any]) -> None:
        super()._prepare_backend(options)
        self._surround()

    def _saved_class(self) -> str:
        """The general class where something goes around texts: loading this one takes that away again."""
        return "PreTrainedTokenizerFast" if any(self._around.values()) else super()._saved_class()


def surround_as_roberta(tokenizer: PreTrainedTokenizerFast, trim_offsets: bool) -> None:
    """Put `<s> A </s>`, or `<s> A </s></s> B </s>`, by the names of the tokens that the tokenizer has."""
    begin, end = tokenizer.cls_token, tokenizer.sep_token
    begin_id, end_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    if begin is None or end is None or begin_id is None or end_id is None:
        return
    tokenizer.backend_tokenizer.post_processor = processors.RobertaProcessing(
        (end, end_id), (begin, begin_id), trim_offsets, bool(tokenizer.add_prefix_space)
    )


def mask_with_space(given: dict[str, Any], default: str) -> dict[str, Any]:
    """Options in which the mask token takes the space before it, unless it is described as doing something else."""
    mask = given.get("mask_token", default)
    return {**given, "mask_token": AddedToken(mask, lstrip=True, special=True)} if isinstance(mask, str) else given


GPT2TokenizerFast = GPT2Tokenizer
RobertaTokenizerFast = RobertaTokenizer
BartTokenizerFast = BartTokenizer
BlenderbotTokenizerFast = BlenderbotTokenizer
Qwen2TokenizerFast = Qwen2Tokenizer
GPTNeoXTokenizerFast = GPTNeoXTokenizer

_CLASSES = (GPT2Tokenizer, RobertaTokenizer, BartTokenizer, BlenderbotTokenizer, Qwen2Tokenizer, GPTNeoXTokenizer)
BUILDERS.update({one.__name__: one.from_files for one in _CLASSES})
