"""From one vector for each token to one for the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.layout import Layout


def _mean(block: Tensor, first: int = 0) -> Tensor:
    return block.mean(dim=1, dtype=torch.float32)


def _weighted_mean(block: Tensor, first: int) -> Tensor:
    weights = torch.arange(first + 1, first + 1 + block.shape[1], device=block.device, dtype=torch.float32)
    return torch.einsum("bsh,s->bh", block.float(), weights / weights.sum())


POOLINGS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "cls": lambda block, first: block[:, 0].float(),
    "max": lambda block, first: block.amax(dim=1).float(),
    "mean": _mean,
    "mean_sqrt_len_tokens": lambda block, first: _mean(block) * math.sqrt(block.shape[1]),
    "weightedmean": _weighted_mean,
    "lasttoken": lambda block, first: block[:, -1].float(),
}
"""Ways to make one vector of equally long texts' tokens, `[count, length, H]` → `[count, H]`, given the place of the
first of these tokens in its text.

`cls` takes the first token's, `lasttoken` the last one's, `max` each component's largest, `mean` the average, which
`mean_sqrt_len_tokens` scales by the root of the length and `weightedmean` weights by the place. The order of the
entries is that in which several are joined."""


def pool(hidden: Tensor, layout: Layout, modes: Sequence[str], skip: int = 0) -> Tensor:
    """Packed token vectors `[T, H]` → `[B, modes, H]` in float32, one reduction for each run of equally long texts.

    The first `skip` tokens of each text are left out; all texts have more.
    """
    runs = ((start, start + count * length, count, length) for start, count, length in layout.runs)
    blocks = [hidden[start:stop].view(count, length, -1)[:, skip:] for start, stop, count, length in runs]
    return torch.stack([torch.cat([POOLINGS[mode](block, skip) for block in blocks]) for mode in modes], dim=1)


def merge(vectors: Sequence[Tensor], tokens: Sequence[int], modes: Sequence[str]) -> Tensor:
    """The vectors `[modes, H]` of a long text's windows → `[modes, H]` for the text.

    `max` takes the largest and `lasttoken` the last window's; the others average, each window counting as often as it
    has tokens.
    """
    if len(vectors) == 1:
        return vectors[0]
    stacked = torch.stack(list(vectors))  # [windows, modes, H]
    weights = torch.tensor(tokens, dtype=torch.float32)
    means = torch.einsum("wmh,w->mh", stacked, weights / weights.sum())
    merged = {"max": stacked.amax(dim=0), "lasttoken": stacked[-1]}
    return torch.stack([merged.get(mode, means)[number] for number, mode in enumerate(modes)])


def check_modes(pooling: Any, source: str = "pooling") -> tuple[str, ...]:
    """The pooling modes named by a string or a list of strings; `InputError` naming `source` for anything else."""
    modes = (pooling,) if isinstance(pooling, str) else tuple(pooling) if isinstance(pooling, list | tuple) else ()
    for mode in modes or (pooling,):
        if not isinstance(mode, str) or mode not in POOLINGS:
            near = did_you_mean(str(mode), POOLINGS)
            raise InputError(f"{source}: got {quoted(mode)}, wanted 'auto' or some of {list(POOLINGS)}{near}")
    return modes
