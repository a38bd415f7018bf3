"""Memories that keep keys and values in another way: as 8-bit numbers, or in the memory of the CPU.

Each is put around a memory of any kind, growing, fixed or sliding, which decides what is kept and where; so a model's
layers can be of different kinds, and what is remembered takes as many bytes as a formula says:

    2 · layers · rows · heads · places · bytes of a head,  a head being `D · size of a number`, or in 8 bits `D + 4`

Axes: `B` rows, `N` key/value heads, `D` head size, `T` packed tokens, `K` remembered places.
"""

from __future__ import annotations

import torch
from torch import Tensor

from pellucid.cache import Memory, Span
from pellucid.layout import Layout

SCALE = 4
"""Bytes of a scale, a float32 that is kept behind each head's 8-bit numbers."""


class Wrapped(Memory):
    """A memory around another one.

    Args:
        inner: what keeps the tokens.
    """

    def __init__(self, inner: Memory) -> None:
        self.inner = inner

    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """As inside."""
        return self.inner.spans(layout, causal, window, device)

    def distances(self, layout: Layout, device: torch.device) -> list[Tensor]:
        """As inside."""
        return self.inner.distances(layout, device)

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order."""
        self.inner.select(rows)

    def crop(self, length: int) -> None:
        """Forget what lies at places from `length` on."""
        self.inner.crop(length)

    @property
    def bytes(self) -> int:
        """Memory that is set aside."""
        return self.inner.bytes


class QuantizedMemory(Wrapped):
    """Keeps 8-bit numbers, and for each token and head the scale by which they are multiplied.

    The largest number of a head becomes 127, so each is off by half a 127th of it at most. The numbers and the bytes of
    their scale lie together as one head of size `D + 4`, which any memory can keep.
    """

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Round, and keep."""
        self.inner.store(_rounded(key), _rounded(value), layout)

    def look(self, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Everything that may be looked at, in the number format of what is new."""
        keys, values = self.inner.look(_rounded(key), _rounded(value), layout)
        return _restored(keys, key.dtype), _restored(values, value.dtype)


class OffloadedMemory(Wrapped):
    """Keeps tokens on another device than the model's, and brings them over when they are looked at.

    Args:
        inner: what keeps them.
        device: where.
    """

    def __init__(self, inner: Memory, device: torch.device | str = "cpu") -> None:
        super().__init__(inner)
        self.device = torch.device(device)

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Move, and keep."""
        self.inner.store(key.to(self.device), value.to(self.device), layout)

    def look(self, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Everything that may be looked at, where the model is."""
        keys, values = self.inner.look(key.to(self.device), value.to(self.device), layout)
        return keys.to(key.device, non_blocking=True), values.to(value.device, non_blocking=True)


def _rounded(x: Tensor) -> Tensor:
    """`[T, N, D]` → 8-bit numbers and the bytes of their scale, `[T, N, D + 4]`."""
    scale = x.detach().float().abs().amax(dim=-1, keepdim=True) / 127  # [T, N, 1]
    numbers = (x.detach().float() / scale.clamp(min=torch.finfo(torch.float32).tiny)).round().to(torch.int8)
    return torch.cat([numbers, scale.contiguous().view(torch.int8)], dim=-1)


def _restored(kept: Tensor, dtype: torch.dtype) -> Tensor:
    """`[B, N, K, D + 4]` → `[B, N, K, D]`."""
    numbers, scale = kept[..., :-SCALE], kept[..., -SCALE:].contiguous().view(torch.float32)
    return (numbers * scale).to(dtype)
