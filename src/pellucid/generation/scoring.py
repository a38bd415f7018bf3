"""What texts scored: the log-probabilities of tokens that were written, from the scores of each step."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def transition_scores(
    sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """The score of each written token at the step that wrote it.

    Args:
        sequences: `[B, S]` prompts and what was written, as `generate` returns them.
        scores: `[R, V]` a step, what `output_scores=True` adds; `R` rows of the answer, or beams.
        beam_indices: `[B, steps]`, the row of `scores` that each token was chosen from, -1 behind the end; needed with
            beams, `None` without.
        normalize: take the log-softmax of the scores first; those of beams are log-probabilities already.

    Returns:
        `[B, steps]`, 0 behind the end of a text written by beams. Their sum, divided by the length to the power of
        `length_penalty`, is what `sequences_scores` holds.
    """
    stacked = torch.stack(list(scores))  # [steps, R, V]
    if normalize:
        stacked = stacked.log_softmax(dim=-1)
    if beam_indices is None:
        beam_indices = torch.arange(stacked.shape[1], device=sequences.device)[:, None].expand(-1, len(stacked))
    ended = beam_indices < 0
    longest = int((~ended).sum(dim=1).max()) if len(ended) else 0
    ended, rows = ended[:, :longest], beam_indices[:, :longest].clamp(min=0)
    tokens = sequences[:, sequences.shape[1] - longest :]  # [B, steps]
    steps = torch.arange(longest, device=stacked.device)
    return stacked[steps, rows.to(stacked.device), tokens.to(stacked.device)].masked_fill(ended.to(stacked.device), 0.0)
