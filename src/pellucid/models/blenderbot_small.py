"""Blenderbot Small: BART that answers in a conversation; its decoder's words are normalised before positions come in.

Roller et al. 2020, "Recipes for building an open-domain chatbot", arXiv:2004.13637.
Checkpoints: facebook/blenderbot_small-90M.

Axes and the way through are those of `bart.py`. What differs: the table of positions begins with the first one, and the
decoder normalises vectors of words alone, not their sum with positions.
"""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from pellucid.config import Size
from pellucid.models import bart


class BlenderbotSmallConfig(bart.BartConfig):
    """Sizes and rates of a Blenderbot Small; the defaults are those of blenderbot_small-90M."""

    model_type = "blenderbot-small"
    usual_labels = 2

    d_model: Size = 512
    encoder_layers: Size = 8
    encoder_ffn_dim: Size = 2048
    decoder_layers: Size = 8
    decoder_ffn_dim: Size = 2048
    max_position_embeddings: Size = 512
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    decoder_start_token_id: int | None = 1

    classifier_dropout: ClassVar[float] = 0.0  # type: ignore[misc]  # no key of a Blenderbot Small


class BlenderbotSmallPositions(bart.LearnedPositions):
    """A learned vector for each position: `[T]` → `[T, H]`."""

    offset = 0


class BlenderbotSmallPreTrainedModel(bart.BartPreTrainedModel):
    """What all Blenderbot Small classes have in common."""

    config_class = BlenderbotSmallConfig
    config: BlenderbotSmallConfig
    positions_class = BlenderbotSmallPositions


class BlenderbotSmallEncoder(BlenderbotSmallPreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class BlenderbotSmallDecoder(BlenderbotSmallPreTrainedModel, bart.BartDecoder):
    """The stack that writes."""

    def place(self, words: Tensor, positions: Tensor) -> Tensor:
        """Normalised words, and positions as they are: `[T, H]` each → `[T, H]`."""
        assert self.layernorm_embedding is not None
        return self.layernorm_embedding(words) + positions


class BlenderbotSmallModel(BlenderbotSmallPreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    rewrites = False
    encoder_class = BlenderbotSmallEncoder
    decoder_class = BlenderbotSmallDecoder


class BlenderbotSmallHead(BlenderbotSmallPreTrainedModel, bart.BartHead):
    """A Blenderbot Small with a head."""

    body_class = BlenderbotSmallModel


class BlenderbotSmallForConditionalGeneration(BlenderbotSmallHead, bart.BartForConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""


class BlenderbotSmallForCausalLM(BlenderbotSmallPreTrainedModel, bart.BartForCausalLM):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    decoder_class = BlenderbotSmallDecoder


CONFIG = BlenderbotSmallConfig
HEADS = {
    "Model": BlenderbotSmallModel,
    "ForSeq2SeqLM": BlenderbotSmallForConditionalGeneration,
    "ForCausalLM": BlenderbotSmallForCausalLM,
}
TINY = bart.TINY
VARIANTS = [
    {"activation_function": "relu", "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
]
