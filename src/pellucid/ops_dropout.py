"""Dropout (Srivastava et al. 2014), several times as fast on a CPU as torch's own.

torch draws a double for each number that may be dropped. Sixteen bits are enough to say whether it is, and a draw of
64 bits serves four numbers. The share is then a multiple of 1/65536, and what stays is scaled by that share.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_LEVELS = 2**16


def dropped(x: Tensor, rate: float) -> Tensor:
    """`x` of any shape with a share of its numbers set to zero, at random, and the others scaled up.

    Args:
        x: floating point.
        rate: the share, from 0 to 1; on a CPU to the nearest 1/65536.
    """
    zeros = round(rate * _LEVELS)  # of all levels that a draw may have
    if x.device.type != "cpu" or zeros in (0, _LEVELS):
        return F.dropout(x, rate)
    draws = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None)
    levels = draws.view(torch.int16)[: x.numel()].view(x.shape)  # each of -32768 … 32767 with the same chance
    kept = (levels >= zeros - _LEVELS // 2).to(x.dtype)
    return x * kept.mul_(_LEVELS / (_LEVELS - zeros))


class Dropout(nn.Dropout):
    """`dropped` as a module: it does nothing outside of training."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape → the same."""
        return dropped(x, self.p) if self.training else x
