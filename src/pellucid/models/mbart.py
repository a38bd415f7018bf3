"""mBART: BART for many languages, with a norm before each step, and a language's token at the start of what it writes.

Liu et al. 2020, "Multilingual Denoising Pre-training for Neural Machine Translation", arXiv:2001.08210.
Checkpoints: facebook/mbart-large-cc25, facebook/mbart-large-50-many-to-many-mmt.

Axes and the way through are those of `bart.py`. What differs: each step of a layer reads a normalised copy, a last norm
stands after all layers, and the decoder starts with the last token of what it is to write, which names the language.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from pellucid.models import bart


class MBartConfig(bart.BartConfig):
    """Sizes and rates of an mBART; the defaults are those of mbart-large-cc25, but for its vocabulary."""

    model_type = "mbart"
    usual_labels = 2
    norm_first: ClassVar[bool] = True

    decoder_start_token_id: int | None = None


class MBartPreTrainedModel(bart.BartPreTrainedModel):
    """What all mBART classes have in common."""

    config_class = MBartConfig
    config: MBartConfig


class MBartEncoder(MBartPreTrainedModel, bart.BartEncoder):
    """The stack that reads."""


class MBartDecoder(MBartPreTrainedModel, bart.BartDecoder):
    """The stack that writes."""


class MBartModel(MBartPreTrainedModel, bart.BartModel):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    encoder_class = MBartEncoder
    decoder_class = MBartDecoder

    def start_of(self, ids: Tensor) -> Tensor:
        """`[B, S]` one place later; the last token that is no padding comes first, padding being on the right."""
        padding = self.config.pad_token_id
        self.config.require(padding is not None, "pad_token_id", "a number, to find the end of what is to be written")
        assert padding is not None
        ids = ids.masked_fill(ids == -100, padding)
        last = (ids != padding).sum(dim=1, keepdim=True) - 1  # [B, 1]
        return torch.cat([ids.gather(1, last.clamp(min=0)), ids[:, :-1]], dim=1)


class MBartHead(MBartPreTrainedModel, bart.BartHead):
    """An mBART with a head."""

    body_class = MBartModel


class MBartForConditionalGeneration(MBartHead, bart.BartForConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""


class MBartForSequenceClassification(MBartHead, bart.BartForSequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]`."""


class MBartForQuestionAnswering(MBartHead, bart.BartForQuestionAnswering):
    """Where in a text the answer begins and ends."""


class MBartForCausalLM(MBartPreTrainedModel, bart.BartForCausalLM):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    decoder_class = MBartDecoder


CONFIG = MBartConfig
HEADS = {
    "Model": MBartModel, "ForSeq2SeqLM": MBartForConditionalGeneration, "ForCausalLM": MBartForCausalLM,
    "ForMaskedLM": MBartForConditionalGeneration, "ForSequenceClassification": MBartForSequenceClassification,
    "ForQuestionAnswering": MBartForQuestionAnswering,
}  # fmt: skip
TINY = bart.TINY
VARIANTS = [
    {"activation_function": "relu", "scale_embedding": True, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
]
