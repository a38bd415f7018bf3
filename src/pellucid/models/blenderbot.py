"""Blenderbot: BART that answers in a conversation, with a short encoder and a long decoder.

Roller et al. 2020, "Recipes for building an open-domain chatbot", arXiv:2004.13637.
Checkpoints: facebook/blenderbot-400M-distill, facebook/blenderbot-3B.

Axes and the way through are those of `bart.py`. What differs: each step of a layer reads a normalised copy, a last norm
stands after all layers and none before them, and the table of positions begins with the first one.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.config import Count, Size
from pellucid.models import bart


class BlenderbotConfig(bart.BartConfig):
    """Sizes and rates of a Blenderbot; the defaults are those of blenderbot-3B."""

    model_type = "blenderbot"
    usual_labels = 2
    norm_first: ClassVar[bool] = True
    embedding_norm: ClassVar[bool] = False

    vocab_size: Size = 8008
    d_model: Size = 2560
    encoder_layers: Size = 2
    encoder_ffn_dim: Size = 10240
    encoder_attention_heads: Size = 32
    decoder_layers: Size = 24
    decoder_ffn_dim: Size = 10240
    decoder_attention_heads: Size = 32
    max_position_embeddings: Size = 128
    pad_token_id: int | None = 0
    bos_token_id: int | None = 1
    decoder_start_token_id: int | None = 1
    encoder_no_repeat_ngram_size: Count = 3

    classifier_dropout: ClassVar[float] = 0.0  # type: ignore[misc]  # no key of a Blenderbot


class BlenderbotPositions(bart.LearnedPositions):
    """A learned vector for each position: `[T]` → `[T, H]`."""

    offset = 0


class BlenderbotPreTrainedModel(bart.BartPreTrainedModel):
    """What all Blenderbot classes have in common."""

    config_class = BlenderbotConfig
    config: BlenderbotConfig
    positions_class = BlenderbotPositions


class BlenderbotEncoder(BlenderbotPreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class BlenderbotDecoder(BlenderbotPreTrainedModel, bart.BartDecoder):
    """The stack that writes."""


class BlenderbotModel(BlenderbotPreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    rewrites = False
    encoder_class = BlenderbotEncoder
    decoder_class = BlenderbotDecoder


class BlenderbotHead(BlenderbotPreTrainedModel, bart.BartHead):
    """A Blenderbot with a head."""

    body_class = BlenderbotModel


class BlenderbotForConditionalGeneration(BlenderbotHead, bart.BartForConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""


class BlenderbotForCausalLM(BlenderbotPreTrainedModel, bart.BartForCausalLM):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    decoder_class = BlenderbotDecoder


CONFIG = BlenderbotConfig
HEADS = {
    "Model": BlenderbotModel,
    "ForSeq2SeqLM": BlenderbotForConditionalGeneration,
    "ForCausalLM": BlenderbotForCausalLM,
}
TINY = bart.TINY
VARIANTS = [
    {"activation_function": "relu", "scale_embedding": True, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
]
