"""SentencePiece models for tests: small vocabularies trained here, written in the format of `.model` files."""

from __future__ import annotations

import functools
import json
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

CORPUS = [
    "The quick brown fox jumps over the lazy dog, and in 2010, the 3,000 foxes of 1,999, jumped again.",
    "I've been waiting for a course like this my whole life; haven't you? It costs $5.99 (50% off).",
    "Größe, naïve café, Ünïcödé: die Straße führt über den Fluß nach Österreich.",
    "こんにちは世界。私は猫である。名前はまだ無い。どこで生れたか見当がつかぬ。",
    "北京欢迎你,今天天气很好。我们去公园散步吧。",
    "Привет, мир! Это предложение на русском языке, и в нём есть ёлка.",
    "def f(x):\n    return x ** 2  # comment\n\tif x == y: pass",
    "안녕하세요 세계, مرحبا بالعالم, नमस्ते दुनिया, שלום עולם",
]

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
Piece = tuple[str, float, int]

CHARSMAP = {
    "\t": " ",
    "\n": " ",
    "\u3000": " ",
    "\u00a0": " ",
    "\u200b": " ",
    "ﬁ": "fi",
    "Ａ": "A",
    "①": "1",
    "½": "1/2",
}


@functools.cache
def unigram_pieces(size: int = 420) -> list[Piece]:
    """Pieces of a Unigram model, without special ones."""
    backend = Tokenizer(models.Unigram())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    backend.train_from_iterator(CORPUS * 3, trainer)
    vocab = json.loads(backend.to_str())["model"]["vocab"]
    single = lambda number: struct.unpack("<f", struct.pack("<f", number))[0]  # noqa: E731
    found = {piece: (piece, single(score), NORMAL) for piece, score in vocab if piece != "<unk>"}
    found.setdefault("▁", ("▁", -6.0, NORMAL))
    extra = {piece: (piece, -5.0, NORMAL) for piece in ("▁2010,", "9,", "fi")}
    return sorted({**found, **extra}.values(), key=lambda piece: (-piece[1], piece[0]))


@functools.cache
def bpe_pieces(size: int = 500) -> list[Piece]:
    """Pieces of a BPE model in the order of their merges, then single characters."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[], show_progress=False)
    backend.train_from_iterator(CORPUS * 3, trainer)
    vocab = sorted(backend.get_vocab().items(), key=lambda item: (len(item[0]) == 1, item[1]))
    return [(piece, -float(rank), NORMAL) for rank, (piece, _) in enumerate(vocab)]


def byte_pieces() -> list[Piece]:
    """The 256 pieces for single bytes."""
    return [(f"<0x{byte:02X}>", 0.0, BYTE) for byte in range(256)]


# ---------------------------------------------------------------------- the format


def varint(value: int) -> bytes:
    """A whole number, seven bits a byte."""
    value &= (1 << 64) - 1
    found = bytearray()
    while value >= 128:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def field(number: int, value: bool | int | float | str | bytes) -> bytes:
    """One field of a message."""
    if isinstance(value, float):
        return varint(number << 3 | 5) + struct.pack("<f", value)
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    data = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(data)) + data


def model_bytes(
    pieces: Sequence[Piece],
    *,
    model_type: int = 1,
    unk_id: int = 0,
    charsmap: bytes = b"",
    trainer: Mapping[int, Any] | None = None,
    normalizer: Mapping[int, Any] | None = None,
) -> bytes:
    """A `.model` file; `trainer` and `normalizer` are further fields by number."""
    data = b""
    for piece, score, kind in pieces:
        entry = field(1, piece) + field(2, score) + (b"" if kind == NORMAL else field(3, kind))
        data += field(1, entry)
    settings = {3: model_type, 4: len(pieces), 40: unk_id, **(trainer or {})}
    data += field(2, b"".join(field(number, value) for number, value in settings.items()))
    return data + field(
        3, b"".join(field(number, value) for number, value in ({2: charsmap, **(normalizer or {})}).items())
    )


def compiled(mapping: Mapping[str, str]) -> bytes:
    """A table of replacements as files have it: a double array of the characters' bytes, then the replacements.

    Each node gets 256 places of its own, which wastes space and needs no search.
    """
    tree: dict[int, Any] = {}
    texts, starts = b"", {}
    for source, target in mapping.items():
        starts[source] = len(texts)
        texts += target.encode() + b"\0"
        node = tree
        for byte in source.encode():
            node = node.setdefault(byte, {})
        node[0] = starts[source]
    units: dict[int, int] = {}
    base = 0

    def lay_out(node: dict[int, Any], place: int, label: int) -> None:
        nonlocal base
        base += 256
        own = base
        units[place] = label | (0x100 if 0 in node else 0) | (place ^ own) << 10
        for byte, below in node.items():
            if byte == 0:
                units[own] = below | 1 << 31
            else:
                lay_out(below, own ^ byte, byte)

    lay_out(tree, 0, 0)
    size = base + 256
    array = struct.pack(f"<{size}I", *(units.get(place, 0) for place in range(size)))
    return struct.pack("<I", len(array)) + array + texts
