"""Numbers from the blocks of GGUF's quantized formats, as float32.

A block holds 32 or 256 numbers as small whole numbers, and what they are multiplied by. In a format of 32 this is one
scale `d` (and in `Q4_1`, `Q5_1` a number `m` to add); in one of 256 (`K`) there is also a small whole number for each
group of 16 or 32. Each function below takes blocks `[K, bytes]` and gives numbers `[K, 32]` or `[K, 256]`; the order of
its arithmetic is the format's own, so the results are the same to the last bit everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from pellucid.gguf import NumberFormat

CHUNK = 1 << 22
"""How many numbers are computed at a time: what is needed besides the result stays small."""


@torch.no_grad()
def dequantize(data: Tensor, form: NumberFormat, out: Tensor) -> None:
    """Fill `out` with the numbers that quantized blocks stand for.

    Args:
        data: the blocks, bytes one after another.
        form: their format, one of those in `DECODERS`.
        out: contiguous tensor of a floating-point format; it has as many numbers as the blocks.
    """
    decode = DECODERS[form.name]
    blocks, rows = data.view(-1, form.size), out.view(-1, form.block)
    step = CHUNK // form.block
    for first in range(0, blocks.shape[0], step):
        rows[first : first + step] = decode(blocks[first : first + step])


def _half(blocks: Tensor, start: int) -> Tensor:
    """The float16 number at a byte of each block, `[K, 1]` in float32."""
    return blocks[:, start : start + 2].contiguous().view(torch.float16).float()


def _nibbles(blocks: Tensor) -> Tensor:
    """`[K, n]` bytes as `[K, 2n]` numbers from 0 to 15: first all low halves, then all high halves."""
    return torch.cat([blocks & 15, blocks >> 4], dim=1)


def _bits(blocks: Tensor) -> Tensor:
    """`[K, n]` bytes as `[K, 8n]` bits, the lowest of a byte first."""
    return (blocks[:, :, None] >> torch.arange(8, dtype=torch.uint8)).bitwise_and(1).flatten(1)


def _q8_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * blocks[:, 2:].view(torch.int8).float()


def _q4_0(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]).float() - 8)


def _q4_1(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]).float() + _half(blocks, 2)


def _q5_0(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 6:]) | _bits(blocks[:, 2:6]) << 4
    return _half(blocks, 0) * (numbers.float() - 16)


def _q5_1(blocks: Tensor) -> Tensor:
    numbers = _nibbles(blocks[:, 8:]) | _bits(blocks[:, 4:8]) << 4
    return _half(blocks, 0) * numbers.float() + _half(blocks, 2)


def _shifted(blocks: Tensor, shifts: tuple[int, ...], mask: int, run: int) -> Tensor:
    """Runs of bytes, each taken apart by every shift in turn: `[K, n]` bytes as `[K, n * len(shifts)]` numbers."""
    runs = blocks.view(blocks.shape[0], -1, 1, run)
    return (runs >> torch.tensor(shifts, dtype=torch.uint8)[:, None]).bitwise_and(mask).flatten(1)


def _in_groups(numbers: Tensor, scale: Tensor, least: Tensor | None = None) -> Tensor:
    """`[K, 256]` numbers times the scale of their group `[K, groups]`, less what the group has at least."""
    grouped = numbers.float().view(numbers.shape[0], scale.shape[1], -1) * scale[:, :, None]
    return (grouped if least is None else grouped - least[:, :, None]).flatten(1)


def _scales_of_6_bits(packed: Tensor) -> tuple[Tensor, Tensor]:
    """The eight scales and eight minima in 12 bytes of `Q4_K` and `Q5_K`, `[K, 8]` each."""
    first, second, rest = packed[:, :4], packed[:, 4:8], packed[:, 8:]
    scale = torch.cat([first & 63, rest & 15 | first >> 6 << 4], dim=1)
    least = torch.cat([second & 63, rest >> 4 | second >> 6 << 4], dim=1)
    return scale.float(), least.float()


def _q4_k(blocks: Tensor) -> Tensor:
    scale, least = _scales_of_6_bits(blocks[:, 4:16])
    numbers = _shifted(blocks[:, 16:].contiguous(), (0, 4), 15, 32)
    return _in_groups(numbers, _half(blocks, 0) * scale, _half(blocks, 2) * least)


def _q5_k(blocks: Tensor) -> Tensor:
    scale, least = _scales_of_6_bits(blocks[:, 4:16])
    fifth = _shifted(blocks[:, 16:48].contiguous(), tuple(range(8)), 1, 32)
    numbers = _shifted(blocks[:, 48:].contiguous(), (0, 4), 15, 32) | fifth << 4
    return _in_groups(numbers, _half(blocks, 0) * scale, _half(blocks, 2) * least)


def _q6_k(blocks: Tensor) -> Tensor:
    low = _shifted(blocks[:, :128].contiguous(), (0, 4), 15, 64)
    high = _shifted(blocks[:, 128:192].contiguous(), (0, 2, 4, 6), 3, 32)
    scale = blocks[:, 192:208].view(torch.int8).float()
    return _in_groups((low | high << 4).float() - 32, _half(blocks, 208) * scale)


def _q2_k(blocks: Tensor) -> Tensor:
    numbers = _shifted(blocks[:, 16:80].contiguous(), (0, 2, 4, 6), 3, 32)
    scale, least = (blocks[:, :16] & 15).float(), (blocks[:, :16] >> 4).float()
    return _in_groups(numbers, _half(blocks, 80) * scale, _half(blocks, 82) * least)


def _q3_k(blocks: Tensor) -> Tensor:
    third = _shifted(blocks[:, :32].contiguous(), tuple(range(8)), 1, 32)
    numbers = _shifted(blocks[:, 32:96].contiguous(), (0, 2, 4, 6), 3, 32) | third << 2
    low, high = _nibbles(blocks[:, 96:104]), _shifted(blocks[:, 104:108].contiguous(), (0, 2, 4, 6), 3, 4)
    scale = (low | high << 4).float() - 32
    return _in_groups(numbers.float() - 4, _half(blocks, 108) * scale)


_LEVELS = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
"""What the 16 numbers of the `IQ4` formats stand for: close together near zero, where most weights are."""


def _levels(numbers: Tensor) -> Tensor:
    return torch.tensor(_LEVELS, dtype=torch.float32)[numbers.int()]


def _iq4_nl(blocks: Tensor) -> Tensor:
    return _half(blocks, 0) * _levels(_nibbles(blocks[:, 2:]))


def _iq4_xs(blocks: Tensor) -> Tensor:
    low = _shifted(blocks[:, 4:8].contiguous(), (0, 4), 15, 1)
    high = _shifted(blocks[:, 2:4].contiguous(), (0, 2, 4, 6), 3, 1)
    scale = (low | high << 4).float() - 32
    numbers = _shifted(blocks[:, 8:].contiguous(), (0, 4), 15, 16)
    return _in_groups(_levels(numbers), _half(blocks, 0) * scale)


DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "Q4_0": _q4_0,
    "Q4_1": _q4_1,
    "Q5_0": _q5_0,
    "Q5_1": _q5_1,
    "Q8_0": _q8_0,
    "Q2_K": _q2_k,
    "Q3_K": _q3_k,
    "Q4_K": _q4_k,
    "Q5_K": _q5_k,
    "Q6_K": _q6_k,
    "IQ4_NL": _iq4_nl,
    "IQ4_XS": _iq4_xs,
}
"""Name of a format → what makes numbers of its blocks."""
