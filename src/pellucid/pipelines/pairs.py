"""A row that is several pairs, such as a query beside each of its documents: what tasks of this kind share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.pipelines.engine import Part


class Pairs(list[Part]):
    """The parts of several pairs that are answered together, one pair after another.

    Args:
        each: the parts of each pair: one, or several where it is long.

    Attributes:
        counts: how many parts each pair has.
    """

    def __init__(self, each: Sequence[list[Part]]) -> None:
        super().__init__(part for parts in each for part in parts)
        self.counts = [len(parts) for parts in each]


def best_windows(logits: Sequence[Tensor], pairs: Pairs) -> Tensor:
    """Logits `[1]` of all parts → `[pairs]`: of each pair's best window."""
    return torch.stack([windows.amax() for windows in torch.split(torch.cat(list(logits)), pairs.counts)])


def are_texts(value: Any) -> bool:
    """Whether this is a list of texts, at least one."""
    return isinstance(value, list | tuple) and len(value) > 0 and all(isinstance(text, str) for text in value)
