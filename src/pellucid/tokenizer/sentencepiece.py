"""SentencePiece `.model` files, read without the `sentencepiece` package, and backends made from pieces and scores.

A `.model` file is one protobuf message: fields, each a number and a value, of which some are messages themselves. The
part that matters here is small, so it is read by the few functions below; nothing is believed that the file does not
hold whole.

    model = read_model("spiece.model")
    backend = unigram(list(zip(model.pieces, model.scores)), model.unk_id)
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from os import PathLike
from typing import Any, Literal

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from pellucid.errors import FileError, strict
from pellucid.files import MB, open_regular, quoted

MODEL_LIMIT = 32 * MB
"""Largest `.model` file read; the largest published one has 18 MB, for 900,000 pieces."""
PIECE_LIMIT = 2_000_000
"""How many pieces a file may hold."""
PIECE_LENGTH = 1024
"""How many bytes a piece may have."""
MERGE_LIMIT = 4_000_000
"""How many merges a vocabulary may stand for; the largest published ones have half a million."""

UNIGRAM, BPE = 1, 2
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
SPACE = "▁"
"""The character that stands for a space in pieces."""

Piece = tuple[str, float]
Prepend = Literal["always", "first", "never"]


@dataclass(slots=True)
class SentencePieceModel:
    """What a `.model` file says. The three lists have one entry for each piece, in the order of the numbers."""

    source: str
    """The file's name, for messages."""
    pieces: list[str] = field(default_factory=list)
    """Texts, with `▁` for a space."""
    scores: list[float] = field(default_factory=list)
    """Logarithms of probabilities (Unigram), or minus the rank of the merge (BPE)."""
    types: list[int] = field(default_factory=list)
    """`NORMAL`, `UNKNOWN`, `CONTROL`, `USER_DEFINED`, `UNUSED` or `BYTE`."""
    model_type: int = UNIGRAM
    """`UNIGRAM` or `BPE`."""
    unk_id: int = 0
    bos_id: int = 1
    eos_id: int = 2
    pad_id: int = -1
    """Numbers of the special pieces; -1 for one that there is not."""
    unk_piece: str = "<unk>"
    bos_piece: str = "<s>"
    eos_piece: str = "</s>"
    pad_piece: str = "<pad>"
    byte_fallback: bool = False
    """Whether characters without a piece become one piece for each of their bytes."""
    treat_whitespace_as_suffix: bool = False
    """Whether `▁` stands at the end of words."""
    charsmap: bytes = b""
    """The compiled table of replacements of characters; empty for none."""
    add_dummy_prefix: bool = True
    """Whether a space is put before each text."""
    remove_extra_whitespaces: bool = True
    """Whether runs of spaces become one, and spaces at both ends are removed."""
    escape_whitespaces: bool = True
    """Whether spaces become `▁`."""

    @property
    def scored(self) -> list[Piece]:
        """Pieces with their scores, as `unigram` takes them."""
        return list(zip(self.pieces, self.scores, strict=True))

    @property
    def added_tokens(self) -> list[AddedToken]:
        """The pieces that are found in text before anything else: control symbols (special), the user's own (not)."""
        return [
            AddedToken(piece, normalized=False, special=kind == CONTROL)
            for piece, kind in zip(self.pieces, self.types, strict=True)
            if kind in (CONTROL, USER_DEFINED)
        ]


# ---------------------------------------------------------------------- reading


@strict
def read_model(path: str | PathLike[str], *, follow: bool = False) -> SentencePieceModel:
    """Read a SentencePiece model (`spiece.model`, `tokenizer.model`, `sentencepiece.bpe.model`, `vocab.spm`).

    Args:
        path: the file.
        follow: follow links to anywhere; for a path that the user, not a checkpoint, has chosen.

    Raises:
        FileError: not such a file, damaged, or larger than anything published.
    """
    with open_regular(path, MODEL_LIMIT, follow=follow) as file:
        data = file.read(MODEL_LIMIT + 1)
    if len(data) > MODEL_LIMIT:
        raise FileError(f"{path}: the file grew beyond {MODEL_LIMIT:,} bytes while it was read")
    return parse_model(data, str(path))


def parse_model(data: bytes, source: str) -> SentencePieceModel:
    """The model that the bytes of a `.model` file hold; `source` is the file's name for messages."""
    model = SentencePieceModel(source)
    try:
        for number, value in _fields(data, "file"):
            if number == 1:
                _read_piece(model, _bytes(value, "piece"))
            elif number == 2:
                _read_settings(model, _bytes(value, "trainer_spec"), _TRAINER, "trainer_spec")
            elif number == 3:
                _read_settings(model, _bytes(value, "normalizer_spec"), _NORMALIZER, "normalizer_spec")
    except _DamageError as error:
        raise FileError(f"{source}: not a SentencePiece model: {error}; download the file again") from None
    _check(model)
    return model


class _DamageError(Exception):
    """Why bytes are no such message; becomes a `FileError` that names the file."""


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """The whole number at `position` and where it ends: seven bits a byte, lowest first, the last below 128."""
    value = shift = 0
    while True:
        if position >= end:
            raise _DamageError("it ends within a number")
        byte = data[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            if value >= 1 << 64:
                raise _DamageError("a number has more than 64 bits")
            return value, position
        shift += 7
        if shift > 63:
            raise _DamageError("a number has more than 64 bits")


def _fields(data: bytes, where: str) -> Iterator[tuple[int, int | float | bytes]]:
    """Number and value of each field of a message: a whole number, a 32-bit float, or bytes."""
    position, end = 0, len(data)
    while position < end:
        key, position = _varint(data, position, end)
        kind = key & 7
        value: int | float | bytes
        if kind == 0:
            value, position = _varint(data, position, end)
        else:
            if kind == 2:
                size, position = _varint(data, position, end)
            elif kind in (1, 5):
                size = 8 if kind == 1 else 4
            else:
                raise _DamageError(f"{where}: a field of the unknown kind {kind}")
            if size > end - position:
                raise _DamageError(f"{where}: a field of {size:,} bytes where {end - position:,} are left")
            value = data[position : position + size]
            position += size
            if kind == 5:
                value = struct.unpack("<f", value)[0]
        if not 0 < key >> 3 < 1 << 29:
            raise _DamageError(f"{where}: a field with the number {key >> 3}")
        yield key >> 3, value


def _bytes(value: int | float | bytes, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise _DamageError(f"{where}: got a number, wanted bytes")
    return value


def _text(value: int | float | bytes, where: str) -> str:
    try:
        return _bytes(value, where).decode("utf-8")
    except UnicodeDecodeError:
        raise _DamageError(f"{where}: {quoted(value)} is not UTF-8 text") from None


def _whole(value: int | float | bytes, where: str) -> int:
    """A signed 32-bit number, which files hold in 64 bits."""
    if not isinstance(value, int):
        raise _DamageError(f"{where}: got {quoted(value)}, wanted a whole number")
    value -= (value >> 63) << 64
    if not -(1 << 31) <= value < 1 << 31:
        raise _DamageError(f"{where}: got {value}, wanted a 32-bit number")
    return value


def _read_piece(model: SentencePieceModel, data: bytes) -> None:
    where = f"piece {len(model.pieces):,}"
    piece, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data, where):
        if number == 1:
            piece = _text(value, where)
        elif number == 2:
            if not isinstance(value, float) or not math.isfinite(value):
                raise _DamageError(f"{where}: score: got {quoted(value)}, wanted a finite 32-bit float")
            score = value
        elif number == 3:
            kind = _whole(value, where)
            if not NORMAL <= kind <= BYTE:
                raise _DamageError(f"{where}: type: got {kind}, wanted {NORMAL} to {BYTE}")
    if not piece or len(data) > PIECE_LENGTH:
        raise _DamageError(f"{where}: got {len(piece):,} characters, wanted 1 to {PIECE_LENGTH:,} bytes")
    if len(model.pieces) >= PIECE_LIMIT:
        raise _DamageError(f"it has more than {PIECE_LIMIT:,} pieces")
    model.pieces.append(piece)
    model.scores.append(score)
    model.types.append(kind)


_TRAINER: dict[int, tuple[str, Any]] = {
    3: ("model_type", _whole),
    24: ("treat_whitespace_as_suffix", bool),
    35: ("byte_fallback", bool),
    40: ("unk_id", _whole),
    41: ("bos_id", _whole),
    42: ("eos_id", _whole),
    43: ("pad_id", _whole),
    45: ("unk_piece", _text),
    46: ("bos_piece", _text),
    47: ("eos_piece", _text),
    48: ("pad_piece", _text),
}
_NORMALIZER: dict[int, tuple[str, Any]] = {
    2: ("charsmap", _bytes),
    3: ("add_dummy_prefix", bool),
    4: ("remove_extra_whitespaces", bool),
    5: ("escape_whitespaces", bool),
}
"""Number of a field → attribute of `SentencePieceModel` and how its value is read."""


def _read_settings(model: SentencePieceModel, data: bytes, known: Mapping[int, tuple[str, Any]], where: str) -> None:
    for number, value in _fields(data, where):
        if number in known:
            name, read = known[number]
            place = f"{where}: {name}"
            setattr(model, name, _whole(value, place) != 0 if read is bool else read(value, place))


def _check(model: SentencePieceModel) -> None:
    """What must be true of a model as a whole."""
    source, count = model.source, len(model.pieces)
    if not count:
        raise FileError(f"{source}: not a SentencePiece model: it holds no pieces; download the file again")
    if model.model_type not in (UNIGRAM, BPE):
        raise FileError(f"{source}: model_type: got {model.model_type}, wanted 1 (Unigram) or 2 (BPE); train anew")
    if not 0 <= model.unk_id < count:
        raise FileError(f"{source}: unk_id: got {model.unk_id}, wanted the number of one of {count:,} pieces")
    texts = {piece for piece, kind in zip(model.pieces, model.types, strict=True) if kind in _IN_TEXT}
    if len(texts) < sum(kind in _IN_TEXT for kind in model.types):
        raise FileError(f"{source}: a piece stands twice in it, and only one can be meant")
    if model.charsmap and not _is_sound(model.charsmap):
        raise FileError(f"{source}: precompiled_charsmap: it points outside of itself; download the file again")


_IN_TEXT = (NORMAL, USER_DEFINED, UNUSED)
"""Types of the pieces that are found in text by their own text."""


def _is_sound(charsmap: bytes) -> bool:
    """Whether a table of replacements only points into itself; the backend would stumble over it at some later text.

    It begins with the size of a double array, in which each entry leads to a block of 256 others or, with the highest
    bit, to a place in the replacements, which follow it and end with a zero each.
    """
    size = int.from_bytes(charsmap[:4], "little")
    array, texts = charsmap[4 : 4 + size], charsmap[4 + size :]
    if len(charsmap) < 4 or size % 4 or len(array) < size or not size or not texts.endswith(b"\0"):
        return False
    try:
        texts.decode("utf-8")
    except UnicodeDecodeError:
        return False
    units = struct.unpack(f"<{size // 4}I", array)
    places = {unit & 0x7FFFFFFF for unit in units if unit >> 31}
    if any(place >= len(texts) or texts[place] & 0xC0 == 0x80 for place in places):
        return False
    steps = (place ^ (unit >> 10 << ((unit & 512) >> 6)) for place, unit in enumerate(units) if not unit >> 31)
    return all(step | 255 < len(units) for step in steps)


# ---------------------------------------------------------------------- backends


def unigram(pieces: Sequence[Piece], unk_id: int, *, byte_fallback: bool = False, source: str = "vocab") -> Tokenizer:
    """A bare backend that splits text into the most probable pieces.

    Args:
        pieces: texts with their scores, in the order of their numbers.
        unk_id: number of the piece for what has none.
        byte_fallback: whether characters without a piece become bytes (`<0x0A>`).
        source: where the pieces come from, for messages.
    """
    return Tokenizer(_guarded(source, models.Unigram, list(pieces), unk_id, byte_fallback))


def bpe(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unk_token: str | None = None,
    byte_fallback: bool = False,
    source: str = "vocab",
) -> Tokenizer:
    """A bare backend that merges characters to pieces.

    Args:
        vocab: number of each piece.
        merges: pairs of pieces, the one to merge first in front; see `find_merges`.
        unk_token: the piece for what has none; a run of such becomes one token.
        byte_fallback: whether characters without a piece become bytes (`<0x0A>`).
        source: where the pieces come from, for messages.
    """
    options = {"unk_token": unk_token, "fuse_unk": True, "byte_fallback": byte_fallback}
    given = {name: value for name, value in options.items() if value is not None}
    return Tokenizer(_guarded(source, models.BPE, dict(vocab), list(merges), **given))


def find_merges(
    vocab: Mapping[str, int], scores: Sequence[float] | None = None, *, source: str = "vocab"
) -> list[tuple[str, str]]:
    """The merges that a vocabulary stands for: every way to cut a piece into two other pieces.

    Args:
        vocab: number of each piece.
        scores: score of each piece by its number; merges to a piece of a higher score come first. By default those to
            a piece of a lower number come first.
        source: where the pieces come from, for messages.
    """
    found: list[tuple[str, str]] = []
    ranks: list[tuple[float, int, int]] = []
    for piece, index in sorted(vocab.items(), key=lambda item: item[1]) if scores is None else vocab.items():
        for cut in range(1, len(piece)):
            if (left := piece[:cut]) in vocab and (right := piece[cut:]) in vocab:
                found.append((left, right))
                if scores is not None:
                    ranks.append((scores[index], cut, len(right)))
        if len(found) > MERGE_LIMIT:
            raise FileError(f"{source}: the pieces stand for more than {MERGE_LIMIT:,} merges")
    if scores is None:
        return found
    order = sorted(range(len(found)), key=ranks.__getitem__, reverse=True)
    return [found[index] for index in order]


def model_normalizer(model: SentencePieceModel) -> normalizers.Precompiled | None:
    """The model's table of replacements as a normalizer; `None` when it has none."""
    if not model.charsmap:
        return None
    made: normalizers.Precompiled = _guarded(
        f"{model.source}: precompiled_charsmap", normalizers.Precompiled, model.charsmap
    )
    return made


def exact_normalizer(model: SentencePieceModel) -> normalizers.Sequence:
    """All that SentencePiece does with a text before it looks for pieces, by what the file says.

    A backend with this and without a pre-tokenizer gives the pieces that SentencePiece gives. The architectures'
    tokenizers are made in other ways, which differ where spaces repeat.
    """
    charsmap = model_normalizer(model)
    steps: list[Any] = [] if charsmap is None else [charsmap]
    if model.remove_extra_whitespaces:
        steps += [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]
    space = SPACE if model.escape_whitespaces else " "
    steps.append(normalizers.Replace(" ", space))
    if model.add_dummy_prefix:
        suffix = model.treat_whitespace_as_suffix
        steps.append(normalizers.Replace(Regex(r"\z"), space) if suffix else normalizers.Prepend(space))
    return normalizers.Sequence(steps)


def words(prepend: Prepend = "always", *, split: bool = True, whitespace: bool = True) -> Any:
    """How text is cut into words, each with `▁` in front.

    Args:
        prepend: whether every run of text between added tokens gets a `▁` in front, only the first one, or none.
        split: whether text is cut at spaces at all.
        whitespace: whether white space of all kinds is dropped first, so that only single spaces count.
    """
    step = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme=prepend, split=split)
    return pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), step]) if whitespace else step


def joined(prepend: Prepend = "always") -> decoders.Metaspace:
    """How pieces become text again: put together, with a space for each `▁` but the one in front."""
    return decoders.Metaspace(replacement=SPACE, prepend_scheme=prepend)


def joined_bytes(*, strip: bool) -> decoders.Sequence:
    """The same for pieces that can be bytes; `strip` removes the space in front."""
    steps: list[Any] = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(content=" ", left=1)] if strip else steps)


def _guarded(source: str, make: Any, *args: Any, **options: Any) -> Any:
    """What `make` returns; its refusals become a `FileError` that names the source."""
    try:
        return make(*args, **options)
    except BaseException as error:
        # A panic of the backend does not derive from Exception; an interrupt must pass.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        reason = (str(error).splitlines() or ["no reason given"])[0]
        raise FileError(f"{source}: refused by the `tokenizers` library: {reason}") from error
