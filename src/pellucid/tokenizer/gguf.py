"""Tokenizers inside GGUF files: pieces, scores or merges, kinds of pieces and special ids, made into a backend.

`tokenizer.ggml.model` names the method: `llama` is SentencePiece's BPE by scores, `gpt2` byte-level BPE by merges,
`bert` word pieces, `t5` Unigram. How `gpt2` cuts text into words is in no file: `tokenizer.ggml.pre` only names it, and
a name that is not in `SPLITS` is refused, since another rule would give other tokens without anybody noticing.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pellucid.errors import FileError
from pellucid.files import quoted
from pellucid.gguf import GgufFile, read_gguf
from pellucid.tokenizer import sentencepiece
from pellucid.tokenizer.files import CHAT_TEMPLATE_LIMIT, TokenizerFiles, word_piece
from pellucid.tokenizer.sentencepiece import BYTE, CONTROL, NORMAL, PIECE_LENGTH, PIECE_LIMIT, SPACE, USER_DEFINED

TEXT_LIMIT = 8_000_000
"""How many characters all pieces may have together; the largest published vocabularies have 3 million."""

_GGML = "tokenizer.ggml."
_IDS = {
    "bos_token": ("bos_token_id",),
    "eos_token": ("eos_token_id",),
    "unk_token": ("unknown_token_id",),
    "sep_token": ("seperator_token_id", "separator_token_id"),  # spelt wrongly in the format
    "pad_token": ("padding_token_id",),
    "cls_token": ("cls_token_id",),
    "mask_token": ("mask_token_id",),
}
"""Special token → the keys that its number may stand under."""
_PHI3_KEEPING_SPACES = ("<unk>", "<s>", "<|endoftext|>")
"""Phi-3's other special tokens take the white space behind them along, which the format has no key for."""


def read_tokenizer(path: Path, source: str) -> TokenizerFiles:
    """What a GGUF file says about its tokenizer; `source` is the name it goes by in messages."""
    vocabulary = _Vocabulary(read_gguf(path))
    make = _MAKERS.get(vocabulary.kind)
    if make is None:
        raise vocabulary.file.refuse(f"{_GGML}model", f"one of {sorted(_MAKERS)}")
    found = TokenizerFiles(source, class_name="PreTrainedTokenizerFast")
    found.config = vocabulary.options()
    found.backend = make(vocabulary, found)
    found.backend.add_special_tokens(vocabulary.added(CONTROL))
    found.backend.add_tokens(vocabulary.added(USER_DEFINED))
    return found


class _Vocabulary:
    """The pieces of a file, checked, and what else it says about its tokenizer."""

    def __init__(self, file: GgufFile) -> None:
        self.file = file
        self.kind = file.text(f"{_GGML}model") or ""
        self.pieces = file.texts(f"{_GGML}tokens") or []
        self.numbers = {piece: index for index, piece in enumerate(self.pieces)}
        if not 0 < len(self.pieces) <= PIECE_LIMIT:
            raise file.refuse(f"{_GGML}tokens", f"from 1 to {PIECE_LIMIT:,} pieces")
        if len(self.numbers) != len(self.pieces) or "" in self.numbers:
            raise file.refuse(f"{_GGML}tokens", "pieces that stand there once and are not empty")
        if max(map(len, self.pieces)) > PIECE_LENGTH or sum(map(len, self.pieces)) > TEXT_LIMIT:
            raise file.refuse(f"{_GGML}tokens", f"at most {PIECE_LENGTH:,} characters each, {TEXT_LIMIT:,} together")
        self.types = self.list_of("token_type") or [NORMAL] * len(self.pieces)

    def list_of(self, name: str) -> list[Any] | None:
        """A list with one number for each piece."""
        values = self.file.numbers(f"{_GGML}{name}")
        if values is not None and len(values) != len(self.pieces):
            raise self.file.refuse(f"{_GGML}{name}", f"{len(self.pieces):,} numbers, one for each piece")
        return values

    def scores(self) -> list[float]:
        """The score of each piece."""
        if (scores := self.list_of("scores")) is None:
            raise self.file.refuse(f"{_GGML}scores", "a number for each piece")
        return scores

    def flag(self, name: str, default: bool) -> bool:
        """A truth value."""
        return bool(self.file.flag(f"{_GGML}{name}", default))

    def token(self, name: str) -> str | None:
        """A special token by its name, such as `bos_token`; `None` where the file has none."""
        for key in _IDS[name]:
            if (index := self.file.whole(f"{_GGML}{key}")) is not None:
                if not 0 <= index < len(self.pieces):
                    raise self.file.refuse(f"{_GGML}{key}", f"the number of one of {len(self.pieces):,} pieces")
                return self.pieces[index]
        return None

    def added(self, kind: int) -> list[AddedToken]:
        """The pieces of a kind, to be found in text before anything else.

        A piece with the sign for a space cannot be found in the text as it is given. It is sought in the text with
        signs, which works where nothing is put in front of that; else it is left to the merges.
        """
        prefix = self.flag("add_space_prefix", True)
        strips = self.kind == "llama" and self.file.text("general.architecture") == "phi3"
        return [
            AddedToken(
                piece,
                normalized=SPACE in piece,
                special=kind == CONTROL,
                rstrip=strips and piece not in _PHI3_KEEPING_SPACES,
            )
            for piece, its_kind in zip(self.pieces, self.types, strict=True)
            if its_kind == kind and not (prefix and SPACE in piece)
        ]

    def options(self) -> dict[str, Any]:
        """What a `tokenizer_config.json` would say."""
        options: dict[str, Any] = {name: token for name in _IDS if (token := self.token(name)) is not None}
        length = self.file.whole(f"{self.file.text('general.architecture')}.context_length")
        if length is not None and length > 0:
            options["model_max_length"] = length
        templates = {"default": self.file.text("tokenizer.chat_template")}
        for name in self.file.texts("tokenizer.chat_templates") or []:
            templates.setdefault(name, self.file.text(f"tokenizer.chat_template.{name}"))
        templates = {name: text for name, text in templates.items() if text is not None}
        if any(len(text or "") > CHAT_TEMPLATE_LIMIT for text in templates.values()):
            raise FileError(f"{self.file.path}: tokenizer.chat_template: more than {CHAT_TEMPLATE_LIMIT:,} characters")
        if templates:
            options["chat_template"] = templates["default"] if [*templates] == ["default"] else templates
        return options

    def around(self, files: TokenizerFiles, begin: bool, end: bool) -> None:
        """Note what stands around each text; `begin` and `end` where the file does not say."""
        config = files.config
        config["add_bos_token"] = self.flag("add_bos_token", begin and "bos_token" in config)
        config["add_eos_token"] = self.flag("add_eos_token", end and "eos_token" in config)
        for name in ("bos_token", "eos_token"):
            if config[f"add_{name}"] and name not in config:
                raise self.file.refuse(f"{_GGML}{name}_id", f"a number, because add_{name} is true")


# ---------------------------------------------------------------------- SentencePiece


def _by_scores(vocabulary: _Vocabulary, files: TokenizerFiles) -> Tokenizer:
    """SentencePiece's BPE: the two neighbours whose joint piece has the best score are put together, and so on."""
    vocabulary.around(files, begin=True, end=False)
    path, numbers = vocabulary.file.path, vocabulary.numbers
    mergeable = {piece: index for piece, index in numbers.items() if vocabulary.types[index] in (NORMAL, USER_DEFINED)}
    merges = sentencepiece.find_merges(mergeable, vocabulary.scores(), source=path)
    fallback = BYTE in vocabulary.types
    unknown = vocabulary.token("unk_token")
    backend = sentencepiece.bpe(numbers, merges, unk_token=unknown, byte_fallback=fallback, source=path)
    prefix = vocabulary.flag("add_space_prefix", True)
    steps: list[Any] = []
    if vocabulary.flag("remove_extra_whitespaces", False):
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    steps += [normalizers.Prepend(SPACE)] if prefix else []
    backend.normalizer = normalizers.Sequence([*steps, normalizers.Replace(" ", SPACE)])
    backend.decoder = sentencepiece.joined_bytes(strip=prefix)
    return backend


def _unigram(vocabulary: _Vocabulary, files: TokenizerFiles) -> Tokenizer:
    """SentencePiece's Unigram: the pieces that are most probable together."""
    vocabulary.around(files, begin=False, end=True)
    path = vocabulary.file.path
    unknown = vocabulary.file.whole(f"{_GGML}unknown_token_id")
    if unknown is None or vocabulary.token("unk_token") is None:
        raise vocabulary.file.refuse(f"{_GGML}unknown_token_id", "the number of the piece for what has none")
    scored = list(zip(vocabulary.pieces, vocabulary.scores(), strict=True))
    backend = sentencepiece.unigram(scored, unknown, byte_fallback=BYTE in vocabulary.types, source=path)
    charsmap = vocabulary.file.numbers(f"{_GGML}precompiled_charsmap") or []
    if not all(type(byte) is int and -128 <= byte < 256 for byte in charsmap):
        raise vocabulary.file.refuse(f"{_GGML}precompiled_charsmap", "bytes")
    model = sentencepiece.SentencePieceModel(path, charsmap=bytes(byte & 255 for byte in charsmap))
    if (normalizer := sentencepiece.model_normalizer(model)) is not None:
        backend.normalizer = normalizer
    prepend: sentencepiece.Prepend = "always" if vocabulary.flag("add_space_prefix", True) else "never"
    clean = vocabulary.flag("remove_extra_whitespaces", True)
    backend.pre_tokenizer = sentencepiece.words(prepend, whitespace=clean)
    backend.decoder = sentencepiece.joined(prepend)
    return backend


# ---------------------------------------------------------------------- word pieces


def _word_pieces(vocabulary: _Vocabulary, files: TokenizerFiles) -> Tokenizer:
    """BERT's word pieces, which a file marks the other way round: `▁` begins a word, nothing goes on with one.

    Whether text is lower-cased is in no file. A vocabulary without capital letters was made for text without them.
    """
    files.class_name = "BertTokenizer"
    stored = vocabulary.pieces
    vocabulary.pieces = [_as_word_piece(piece) for piece in stored]
    numbers = {piece: index for index, piece in enumerate(vocabulary.pieces)}
    if len(numbers) != len(stored):
        raise vocabulary.file.refuse(f"{_GGML}tokens", "pieces that stand there once")
    config = files.config
    for name, key, text in (("cls_token", "bos_token", "[CLS]"), ("sep_token", "eos_token", "[SEP]")):
        config.setdefault(name, config.pop(key, text if text in numbers else None))
    for name, text in (("unk_token", "[UNK]"), ("pad_token", "[PAD]"), ("mask_token", "[MASK]")):
        config.setdefault(name, text if text in numbers else None)
    config |= {name: _as_word_piece(token) for name, token in config.items() if name in _IDS and token is not None}
    pairs = zip(stored, vocabulary.types, strict=True)
    cased = any(piece != piece.lower() for piece, kind in pairs if kind == NORMAL and not _is_marked(piece))
    config |= {"do_lower_case": not cased, "tokenize_chinese_chars": True, "strip_accents": None}
    return word_piece(numbers, config)


def _is_marked(piece: str) -> bool:
    return piece.startswith("[") and piece.endswith("]")


def _as_word_piece(piece: str) -> str:
    if piece.startswith(SPACE):
        return piece.removeprefix(SPACE)
    return piece if _is_marked(piece) else f"##{piece}"


# ---------------------------------------------------------------------- byte-level BPE


class Split(NamedTuple):
    """How text is cut into words before bytes are merged."""

    patterns: Sequence[str]
    """Regular expressions, applied one after another: what one finds is cut out, and the next looks into each part."""
    whole_words: bool = False
    """Whether a word that is a piece is taken as it is, without merging."""
    begin: bool = False
    """Whether `bos_token` stands before each text if the file does not say."""
    composed: bool = False
    """Whether text is brought into Unicode's composed form (NFC) first."""


_ENDINGS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_QWEN2 = rf"{_ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|{_SPACES}"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASES = (rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+", rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*")
_SIGNS = rf" ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_SPACES}"
_TEKKEN = rf"{_CASES[0]}|{_CASES[1]}|\p{{N}}|{_SIGNS}"
_GPT4O = rf"{_CASES[0]}{_ENDINGS}?|{_CASES[1]}{_ENDINGS}?|\p{{N}}{{1,3}}|{_SIGNS}"

SPLITS: dict[str, Split] = {
    "default": Split([r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", "[0-9][0-9][0-9]"]),
    "falcon": Split([r"[\p{P}\$\+<=>\^~\|`]+", _GPT2, "[0-9][0-9][0-9]"]),
    "tekken": Split([_TEKKEN], whole_words=True, begin=True),
    **dict.fromkeys(("gpt-2", "phi-2", "mpt", "olmo", "jais", "trillion", "exaone4", "gigachat"), Split([_GPT2])),
    **dict.fromkeys(("llama3", "llama-v3", "llama-bpe", "falcon3"), Split([_LLAMA3], whole_words=True, begin=True)),
    **dict.fromkeys(("dbrx", "smaug-bpe", "glm4", "chatglm-bpe"), Split([_LLAMA3])),
    **dict.fromkeys(("qwen2", "megrez"), Split([_QWEN2], composed=True)),
    **dict.fromkeys(("stablelm2", "deepseek-r1-qwen", "hunyuan"), Split([_QWEN2])),
    **dict.fromkeys(
        ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"),
        Split([r"\p{N}", _GPT2]),
    ),
    **dict.fromkeys(("gpt-4o", "llama4"), Split([_GPT4O])),
}
"""`tokenizer.ggml.pre` → how it cuts."""


def _by_merges(vocabulary: _Vocabulary, files: TokenizerFiles) -> Tokenizer:
    """Byte-level BPE: the bytes of a word are merged in the order of a list of pairs."""
    key = f"{_GGML}pre"
    name = vocabulary.file.text(key, "default")
    if name not in SPLITS:
        raise vocabulary.file.refuse(key, f"one of {', '.join(SPLITS)}")
    split = SPLITS[name]
    vocabulary.around(files, begin=split.begin, end=False)
    lines = vocabulary.file.texts(f"{_GGML}merges")
    if lines is None:
        raise vocabulary.file.refuse(f"{_GGML}merges", "a list of pairs")
    merges = []
    for line in lines:
        first, _, second = line.partition(" ")
        if not first or not second or " " in second:
            raise FileError(f"{vocabulary.file.path}: {_GGML}merges: got {quoted(line)}, wanted two pieces")
        merges.append((first, second))
    backend = sentencepiece.bpe(vocabulary.numbers, merges, source=vocabulary.file.path)
    model: Any = backend.model
    assert isinstance(model, models.BPE)
    model.fuse_unk, model.ignore_merges = False, split.whole_words
    if split.composed:
        backend.normalizer = normalizers.NFC()
    cuts: list[Any] = [pre_tokenizers.Split(Regex(pattern), behavior="isolated") for pattern in split.patterns]
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [*cuts, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    backend.decoder = decoders.ByteLevel()
    return backend


_MAKERS = {"llama": _by_scores, "gpt2": _by_merges, "bert": _word_pieces, "t5": _unigram}
"""`tokenizer.ggml.model` → what makes the backend."""
