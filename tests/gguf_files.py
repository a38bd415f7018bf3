"""GGUF files for tests: a small writer, and decoders that follow each block format number by number."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

KINDS = {"F32": 0, "F16": 1, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11}
KINDS |= {"Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "IQ2_XXS": 16, "IQ4_NL": 20, "IQ4_XS": 23, "I32": 26, "BF16": 30}
CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}


class Typed(NamedTuple):
    """A metadata value of an explicit kind."""

    kind: int
    value: Any


class Entry(NamedTuple):
    """A tensor to write; `offset` in place of the right one."""

    kind: str | int
    shape: Sequence[int]
    data: bytes
    offset: int | None = None


def text(value: str | bytes) -> bytes:
    data = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(data)) + data


def typed(value: Any) -> Typed:
    if isinstance(value, Typed):
        return value
    if isinstance(value, (str, bytes)):
        return Typed(8, value)
    if isinstance(value, list):
        return Typed(9, value)
    return Typed(7 if isinstance(value, bool) else 4 if isinstance(value, int) else 6, value)


def payload(value: Typed) -> bytes:
    if value.kind == 8:
        return text(value.value)
    if value.kind == 9:
        items = [typed(item) for item in value.value]
        kind = items[0].kind if items else 4
        return struct.pack("<IQ", kind, len(items)) + b"".join(map(payload, items))
    return struct.pack(f"<{CODES[value.kind]}", value.value)


def gguf_bytes(
    metadata: dict[str, Any], tensors: dict[str, Entry] | None = None, version: int = 3, alignment: int = 32
) -> bytes:
    tensors = tensors or {}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(metadata))
    for key, value in metadata.items():
        value = typed(value)
        head += text(key) + struct.pack("<I", value.kind) + payload(value)
    body = b""
    for name, entry in tensors.items():
        body += b"\0" * (-len(body) % alignment)
        offset = len(body) if entry.offset is None else entry.offset
        kind = KINDS[entry.kind] if isinstance(entry.kind, str) else entry.kind
        dims = struct.pack(f"<{len(entry.shape)}Q", *reversed(entry.shape))
        head += text(name) + struct.pack("<I", len(entry.shape)) + dims + struct.pack("<IQ", kind, offset)
        body += entry.data
    return head + b"\0" * (-len(head) % alignment) + body


def write_gguf(path: Path, metadata: dict[str, Any], tensors: dict[str, Entry] | None = None, **options: Any) -> Path:
    path.write_bytes(gguf_bytes(metadata, tensors, **options))
    return path


def plain(array: Any, kind: str = "F32") -> Entry:
    """A tensor of an unquantized format from an array or a torch tensor."""
    array = np.asarray(array)
    if kind == "BF16":
        bits = np.ascontiguousarray(array, dtype=np.float32).view(np.uint32)
        data = ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16).tobytes()
    else:
        data = np.ascontiguousarray(array, dtype={"F32": "<f4", "F16": "<f2", "I32": "<i4"}[kind]).tobytes()
    return Entry(kind, array.shape, data)


# ---------------------------------------------------------------------- one block, number by number


def half(block: bytes, at: int) -> float:
    return float(struct.unpack_from("<e", block, at)[0])


def signed(byte: int) -> int:
    return byte - 256 if byte > 127 else byte


def small_scale_and_least(packed: bytes, group: int) -> tuple[int, int]:
    if group < 4:
        return packed[group] & 63, packed[group + 4] & 63
    low, scale_top, least_top = packed[group + 4], packed[group - 4] >> 6, packed[group] >> 6
    return low % 16 + 16 * scale_top, low // 16 + 16 * least_top


LEVELS = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]


def number_32(kind: str, block: bytes, i: int) -> tuple[float, ...]:
    """Factors and summand of number `i` in a block of 32."""
    start = {"Q4_0": 2, "Q4_1": 4, "Q5_0": 6, "Q5_1": 8, "IQ4_NL": 2}.get(kind, 0)
    nibble = block[start + i % 16] >> (4 if i >= 16 else 0) & 15
    bits_at = {"Q5_0": 2, "Q5_1": 4}.get(kind)
    if bits_at is not None:
        nibble += 16 * (int.from_bytes(block[bits_at : bits_at + 4], "little") >> i & 1)
    d = half(block, 0)
    if kind == "Q8_0":
        return d, signed(block[2 + i]), 0.0
    if kind == "IQ4_NL":
        return d, LEVELS[nibble], 0.0
    if kind in ("Q4_1", "Q5_1"):
        return d, nibble, half(block, 2)
    return d, nibble - (8 if kind == "Q4_0" else 16), 0.0


def number_256(kind: str, block: bytes, i: int) -> tuple[np.float32, int, np.float32]:
    """Scale, small number and summand of number `i` in a block of 256."""
    f = np.float32
    if kind in ("Q4_K", "Q5_K"):
        d, low = f(half(block, 0)), f(half(block, 2))
        scale, least = small_scale_and_least(block[4:16], i // 32)
        at = (16 if kind == "Q4_K" else 48) + i // 64 * 32 + i % 32
        number = block[at] >> (4 if i % 64 >= 32 else 0) & 15
        if kind == "Q5_K":
            number += 16 * (block[16 + i % 32] >> (i // 32) & 1)
        return d * f(scale), number, -(low * f(least))
    if kind == "Q6_K":
        part, rest = divmod(i, 128)
        nibble = block[part * 64 + rest % 64] >> (4 if rest >= 64 else 0) & 15
        top = block[128 + part * 32 + rest % 32] >> 2 * (rest // 32) & 3
        return f(half(block, 208)) * f(signed(block[192 + i // 16])), nibble + 16 * top - 32, f(0)
    if kind == "Q2_K":
        part, rest = divmod(i, 128)
        number = block[16 + part * 32 + rest % 32] >> 2 * (rest // 32) & 3
        packed = block[i // 16]
        return f(half(block, 80)) * f(packed & 15), number, -(f(half(block, 82)) * f(packed >> 4))
    if kind == "Q3_K":
        part, rest = divmod(i, 128)
        number = block[32 + part * 32 + rest % 32] >> 2 * (rest // 32) & 3
        number -= 0 if block[rest % 32] >> (part * 4 + rest // 32) & 1 else 4
        group = i // 16
        low = block[96 + group % 8] >> (4 if group >= 8 else 0) & 15
        top = block[104 + group % 4] >> 2 * (group // 4) & 3
        return f(half(block, 108)) * f(low + 16 * top - 32), number, f(0)
    group = i // 32
    low = block[4 + group // 2] >> 4 * (group % 2) & 15
    top = int.from_bytes(block[2:4], "little") >> 2 * group & 3
    nibble = block[8 + group * 16 + i % 16] >> (4 if i % 32 >= 16 else 0) & 15
    return f(half(block, 0)) * f(low + 16 * top - 32), LEVELS[nibble], f(0)


SIZES = {"Q4_0": 18, "Q4_1": 20, "Q5_0": 22, "Q5_1": 24, "Q8_0": 34, "IQ4_NL": 18}
BIG_SIZES = {"Q2_K": 84, "Q3_K": 110, "Q4_K": 144, "Q5_K": 176, "Q6_K": 210, "IQ4_XS": 136}
HALVES = {
    "Q4_1": (0, 2),
    "Q5_1": (0, 2),
    "Q4_K": (0, 2),
    "Q5_K": (0, 2),
    "Q2_K": (80, 82),
    "Q3_K": (108,),
    "Q6_K": (208,),
}


def random_blocks(kind: str, count: int, seed: int = 0) -> bytes:
    """Blocks of random bytes, with scales that are numbers of a usual size."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, (SIZES | BIG_SIZES)[kind]), dtype=np.uint8)
    for at in HALVES.get(kind, (0,)):
        blocks[:, at : at + 2] = rng.normal(0, 0.1, (count, 1)).astype("<f2").view(np.uint8)
    return blocks.tobytes()


def decode(kind: str, data: bytes) -> np.ndarray:
    """All numbers of the blocks in float32, computed one at a time."""
    size, block = (SIZES[kind], 32) if kind in SIZES else (BIG_SIZES[kind], 256)
    read = number_32 if kind in SIZES else number_256
    numbers = []
    for start in range(0, len(data), size):
        for i in range(block):
            scale, number, summand = read(kind, data[start : start + size], i)
            numbers.append(np.float32(np.float32(scale) * np.float32(number)) + np.float32(summand))
    return np.array(numbers, dtype=np.float32)


def quantize_q8_0(array: Any) -> Entry:
    """A matrix in Q8_0: of 32 numbers each the largest becomes 127."""
    array = np.asarray(array, dtype=np.float32)
    rows = array.reshape(-1, 32)
    scale = (np.abs(rows).max(axis=1, keepdims=True) / 127).astype(np.float16)
    inverse = np.where(scale > 0, 1 / np.where(scale > 0, scale, 1).astype(np.float32), 0)
    numbers = np.rint(rows * inverse).clip(-127, 127).astype(np.int8)
    data = np.concatenate([scale.view(np.uint8), numbers.view(np.uint8)], axis=1).tobytes()
    return Entry("Q8_0", array.shape, data)


def empty(shape: Sequence[int]) -> Entry:
    return Entry("F32", shape, b"\0" * (4 * math.prod(shape)))
