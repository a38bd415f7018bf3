"""Pegasus: BART trained to write the sentences that a text has lost, which makes it a summarizer.

Zhang et al. 2019, "PEGASUS: Pre-training with Extracted Gap-sentences for Abstractive Summarization", arXiv:1912.08777.
Checkpoints: google/pegasus-large, google/pegasus-xsum, google/pegasus-cnn_dailymail.

Axes and the way through are those of `bart.py`. What differs: each step of a layer reads a normalised copy, a last norm
stands after all layers and none before them, and positions are sines and cosines.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.models import bart


class PegasusConfig(bart.BartConfig):
    """Sizes and rates of a Pegasus; published checkpoints have 16 layers, 96103 words and ReLU."""

    model_type = "pegasus"
    usual_labels = 2
    norm_first: ClassVar[bool] = True
    embedding_norm: ClassVar[bool] = False

    pad_token_id: int | None = 0
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0
    forced_eos_token_id: int | list[int] | None = 1

    classifier_dropout: ClassVar[float] = 0.0  # type: ignore[misc]  # no key of a Pegasus


class PegasusPreTrainedModel(bart.BartPreTrainedModel):
    """What all Pegasus classes have in common."""

    config_class = PegasusConfig
    config: PegasusConfig
    positions_class = bart.WavePositions
    may_lack: ClassVar[tuple[str, ...]] = ("*embed_positions.weight",)


class PegasusEncoder(PegasusPreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class PegasusDecoder(PegasusPreTrainedModel, bart.BartDecoder):
    """The stack that writes."""


class PegasusModel(PegasusPreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    rewrites = False
    encoder_class = PegasusEncoder
    decoder_class = PegasusDecoder


class PegasusHead(PegasusPreTrainedModel, bart.BartHead):
    """A Pegasus with a head."""

    body_class = PegasusModel


class PegasusForConditionalGeneration(PegasusHead, bart.BartForConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""

    may_lack = ("final_logits_bias", *PegasusPreTrainedModel.may_lack)


class PegasusForCausalLM(PegasusPreTrainedModel, bart.BartForCausalLM):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    decoder_class = PegasusDecoder


CONFIG = PegasusConfig
HEADS = {
    "Model": PegasusModel,
    "ForSeq2SeqLM": PegasusForConditionalGeneration,
    "ForCausalLM": PegasusForCausalLM,
}
TINY = bart.TINY
VARIANTS = [
    {"activation_function": "relu", "scale_embedding": True, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
]
