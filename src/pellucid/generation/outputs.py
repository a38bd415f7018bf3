"""What `generate` returns with `return_dict_in_generate=True`: the texts, and how they came about.

Axes: `B` rows of the answer, `S` tokens, `V` vocabulary. Values "a step" are tuples with one entry for each token
written; rows that had ended by then hold zeros there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from pellucid.cache import Cache
from pellucid.outputs import ModelOutput


@dataclass
class GenerateDecoderOnlyOutput(ModelOutput):
    """Answer of a decoder.

    Attributes:
        sequences: `[B, S]` prompts and what was written, padded on the right.
        scores: `[B, V]` a step, after all processors, when `output_scores`.
        logits: `[B, V]` a step, as the model gave them, when `output_logits`.
        attentions: the model's attention weights a step and layer, when `output_attentions`.
        hidden_states: the model's states a step and layer, when `output_hidden_states`.
        past_key_values: what the model remembers, of the rows that were written to the end.
    """

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None


@dataclass
class GenerateEncoderDecoderOutput(ModelOutput):
    """Answer of an encoder-decoder: as of a decoder, `sequences` beginning with the start token."""

    sequences: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    encoder_attentions: tuple[Any, ...] | None = None
    encoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    decoder_hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None


@dataclass
class GenerateBeamDecoderOnlyOutput(ModelOutput):
    """Answer of a decoder by beams.

    Attributes:
        sequences_scores: `[B]` log-probability of each text, divided by its length to the power of `length_penalty`.
        beam_indices: `[B, S]` which beam of the step before each token continues, -1 behind the end.
    """

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    attentions: tuple[Any, ...] | None = None
    hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None


@dataclass
class GenerateBeamEncoderDecoderOutput(ModelOutput):
    """Answer of an encoder-decoder by beams."""

    sequences: Tensor | None = None
    sequences_scores: Tensor | None = None
    scores: tuple[Tensor, ...] | None = None
    logits: tuple[Tensor, ...] | None = None
    beam_indices: Tensor | None = None
    encoder_attentions: tuple[Any, ...] | None = None
    encoder_hidden_states: tuple[Any, ...] | None = None
    decoder_attentions: tuple[Any, ...] | None = None
    cross_attentions: tuple[Any, ...] | None = None
    decoder_hidden_states: tuple[Any, ...] | None = None
    past_key_values: Cache | None = None
