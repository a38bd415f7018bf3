"""mT5: T5 version 1.1 that has read a hundred languages; its vocabulary is eight times as large.

Xue et al. 2020, "mT5: A Massively Multilingual Pre-trained Text-to-Text Transformer", arXiv:2010.11934.
Checkpoints: google/mt5-small, google/mt5-base, csebuetnlp/mT5_multilingual_XLSum.

Axes and the way through are those of `t5.py`; here stand other sizes and the names of the classes.
"""

from __future__ import annotations

from pellucid.config import Size
from pellucid.models import t5


class MT5Config(t5.T5Config):
    """Sizes and rates of an mT5; the defaults are those of mt5-small. The decoder's states are never made smaller."""

    model_type = "mt5"

    vocab_size: Size = 250112
    d_ff: Size = 1024
    num_layers: Size = 8
    num_heads: Size = 6
    feed_forward_proj: str = "gated-gelu"
    scale_decoder_outputs: bool = False


class MT5PreTrainedModel(t5.T5PreTrainedModel):
    """What all mT5 classes have in common: their configuration."""

    config_class = MT5Config
    config: MT5Config


class MT5Stack(MT5PreTrainedModel, t5.T5Stack):
    """An encoder, or a decoder."""


class MT5Model(MT5PreTrainedModel, t5.T5Model):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    stack_class = MT5Stack


class MT5EncoderModel(MT5PreTrainedModel, t5.T5EncoderModel):
    """The encoder alone: ids in, one vector for each token out."""

    stack_class = MT5Stack


class MT5ForConditionalGeneration(MT5PreTrainedModel, t5.T5ForConditionalGeneration):  # type: ignore[misc]
    """The decoder writes: scores of the next word after each of its tokens."""

    stack_class = MT5Stack


class MT5ForQuestionAnswering(MT5PreTrainedModel, t5.T5ForQuestionAnswering):  # type: ignore[misc]
    """Where in a text the answer begins and ends."""

    stack_class = MT5Stack


class MT5ForSequenceClassification(MT5PreTrainedModel, t5.T5ForSequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]`."""

    body_class = MT5Model


class MT5ForTokenClassification(MT5PreTrainedModel, t5.T5ForTokenClassification):
    """A class for each token, read off the encoder alone; `labels` `[B, S]`, -100 left out."""

    body_class = MT5EncoderModel


CONFIG = MT5Config
HEADS = {
    "Model": MT5Model, "ForSeq2SeqLM": MT5ForConditionalGeneration, "ForTextEncoding": MT5EncoderModel,
    "ForSequenceClassification": MT5ForSequenceClassification, "ForTokenClassification": MT5ForTokenClassification,
    "ForQuestionAnswering": MT5ForQuestionAnswering,
}  # fmt: skip
TINY = t5.TINY
VARIANTS = [
    {"feed_forward_proj": "relu", "num_decoder_layers": 1, "d_kv": 8},
    {"feed_forward_proj": "gated-silu", "num_layers": 1, "num_decoder_layers": 3, "num_heads": 1},
]
