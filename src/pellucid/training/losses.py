"""Losses that a trainer computes from logits, where the model's own is not wanted."""

from __future__ import annotations

from torch import Tensor

from pellucid.training.rows import IGNORED


def smoothed_loss(logits: Tensor, labels: Tensor, share: float, shifted: bool) -> Tensor:
    """Cross entropy against targets of which a share is spread over all classes (Szegedy et al. 2015).

    Args:
        logits: `[B, S, V]`, or `[B, C]`.
        labels: `[B, S]`, or `[B]`; -100 does not count.
        share: that is spread.
        shifted: a token's label is the token after it.

    Returns:
        The mean over the labels that count.
    """
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    real = labels != IGNORED
    chances = logits[real].float().log_softmax(dim=-1)  # [real, V]
    right = -chances.gather(1, labels[real][:, None])[:, 0]
    return ((1 - share) * right - share * chances.mean(dim=-1)).mean()
