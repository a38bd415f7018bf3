"""RoBERTa: BERT trained longer on more text; positions begin after that of padding, and two heads are its own.

Liu et al. 2019, "RoBERTa: A Robustly Optimized BERT Pretraining Approach", arXiv:1907.11692.
Checkpoints: roberta-base, roberta-large, distilroberta-base, cardiffnlp/twitter-roberta-base-sentiment-latest.

Axes and the way through are those of `bert.py`: embeddings, layers, pooler, and the heads that all encoders share.
Here stands what differs: positions begin after that of padding and pass over its ids (`heads.CountsFromPadding`), and
`RobertaLMHead` and `RobertaClassificationHead` stand where BERT has its heads for words and for a class.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops
from pellucid.config import Size
from pellucid.layout import Layout
from pellucid.models import bert


class RobertaConfig(bert.BertConfig):
    """Sizes and rates of a RoBERTa; published checkpoints have 514 positions, and so read 512 tokens."""

    model_type = "roberta"

    vocab_size: Size = 50265
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    @property
    def padding(self) -> int:
        """The id of padding, and its position."""
        return self.pad_token_id or 0

    @property
    def readable_tokens(self) -> int:
        """How many tokens have a place: all positions, but those up to that of padding."""
        return self.max_position_embeddings - self.padding - 1

    def validate(self) -> None:
        """As in BERT; and padding must have an id, with positions after it."""
        super().validate()
        self.require(self.pad_token_id is not None and self.padding >= 0, "pad_token_id", "a number from 0 on")
        least = self.padding + 2
        self.require(self.readable_tokens > 0, "max_position_embeddings", f"at least {least}, pad_token_id + 2")


class RobertaEmbeddings(bert.BertEmbeddings):
    """As in BERT, but for the position of padding, which has a vector that is never learnt: ids `[T]` → `[T, H]`."""

    def __init__(self, config: RobertaConfig) -> None:
        super().__init__(config)
        size = config.hidden_size
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size, padding_idx=config.padding)


class RobertaPreTrainedModel(heads.CountsFromPadding, bert.BertPreTrainedModel):
    """What all RoBERTa classes have in common: their configuration, the name of the body, and how positions count."""

    config_class = RobertaConfig
    base_model_prefix = "roberta"
    config: RobertaConfig


class RobertaModel(RobertaPreTrainedModel, bert.BertModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""

    embeddings_class = RobertaEmbeddings


class RobertaHead(RobertaPreTrainedModel, bert.BertHead):
    """The way through a model with a head, around this body."""

    body_class = RobertaModel


class RobertaLMHead(nn.Module):
    """Each token's vector → a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: bert.BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation("gelu")  # whatever the layers use
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(self.activation(self.dense(hidden))))


class RobertaForMaskedLM(RobertaHead, heads.MaskedLM):
    """The word behind each `<mask>`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "lm_head.decoder"
    tied = {
        "lm_head.decoder.weight": "roberta.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def build(self, config: bert.BertConfig) -> None:
        self.lm_head = RobertaLMHead(config)

    def logits(self, body: Any) -> Tensor:
        return self.lm_head(body.last_hidden_state)  # [T, H] → [T, V]


class RobertaForCausalLM(RobertaForMaskedLM, bert.BertLMHeadModel):
    """The next word after each token, with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""


class RobertaClassificationHead(nn.Module):
    """A dense layer and the classes, on the vector of the first token: `[B, H]` → `[B, C]`."""

    def __init__(self, config: bert.BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = ops.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.dense(self.dropout(first)).tanh()))


class RobertaForSequenceClassification(RobertaHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    pools = False

    def build(self, config: bert.BertConfig) -> None:
        self.classifier = RobertaClassificationHead(config)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classifier(layout.first(body.last_hidden_state))  # [T, H] → [B, H] → [B, C]


class RobertaForMultipleChoice(RobertaHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def build(self, config: bert.BertConfig) -> None:
        super().build(config)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)  # classifier_dropout is not for this head


class RobertaForTokenClassification(RobertaHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class RobertaForQuestionAnswering(RobertaHead, heads.QuestionAnsweringWithTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


CONFIG = RobertaConfig
HEADS = {
    "Model": RobertaModel, "ForMaskedLM": RobertaForMaskedLM,
    "ForCausalLM": RobertaForCausalLM, "ForSequenceClassification": RobertaForSequenceClassification,
    "ForMultipleChoice": RobertaForMultipleChoice, "ForTokenClassification": RobertaForTokenClassification,
    "ForQuestionAnswering": RobertaForQuestionAnswering,
}  # fmt: skip
TINY = bert.TINY
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1, "pad_token_id": 0},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "layer_norm_eps": 1e-5, "pad_token_id": 7},
    {"is_decoder": True, "hidden_act": "silu", "num_attention_heads": 8, "classifier_dropout": 0.3},
]
