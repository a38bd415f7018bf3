"""Losses that a trainer computes from logits, where the model's own is not wanted."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from pellucid.errors import InputError
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


def check_written_inputs(inputs: Mapping[str, Any]) -> None:
    """Refuse a batch that shows a decoder nothing to go on from.

    An encoder-decoder makes its decoder's inputs of the labels. Where a loss is worked out beside the model, it does
    not get these, and would go on from the text that is read.

    Raises:
        InputError: there are no `decoder_input_ids`.
    """
    if not {"decoder_input_ids", "decoder_inputs_embeds"} & inputs.keys():
        raise InputError(
            f"decoder_input_ids: got a batch of {sorted(inputs)}, wanted them too, as the loss is not the model's own "
            "(label_smoothing_factor, compute_loss_func); use DataCollatorForSeq2Seq(tokenizer, model=model)"
        )
