"""ELECTRA: BERT's layers, taught to tell which words of a text a small generator has replaced.

Clark et al. 2020, "ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators", arXiv:2003.10555.
Checkpoints: google/electra-small-discriminator, google/electra-base-discriminator, google/electra-small-generator.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `E` embedding, `H` hidden,
`N` heads, `V` vocabulary, `C` classes.

The way through: `ElectraEmbeddings` turns ids into vectors, which may be narrower than the layers and are then widened
by `embeddings_project`; the layers are BERT's (see `bert.py`); the heads read the answer off. Generator and
discriminator are the same body with different heads: `ElectraForMaskedLM` and `ElectraForPreTraining`.
"""

from __future__ import annotations

from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops, outputs
from pellucid.cache import Source
from pellucid.config import Rate, Size
from pellucid.layout import Asked, Ids, Layout, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.models import bert
from pellucid.outputs import BaseModelOutputWithPastAndCrossAttentions, ModelOutput


class ElectraConfig(bert.BertConfig):
    """Sizes and rates of an ELECTRA; the defaults are those of google/electra-small-discriminator."""

    model_type = "electra"

    embedding_size: Size = 128
    hidden_size: Size = 256
    num_attention_heads: Size = 4
    intermediate_size: Size = 1024
    summary_type: str = "first"
    summary_use_proj: bool = True
    summary_activation: str | None = "gelu"
    summary_last_dropout: Rate = 0.1

    def validate(self) -> None:
        """As in BERT; and the activation of a summary must exist, if there is one."""
        super().validate()
        known = not self.summary_activation or self.summary_activation in ops.ACTIVATIONS
        self.require(known, "summary_activation", f"null or one of {sorted(ops.ACTIVATIONS)}")


class ElectraEmbeddings(nn.Module):
    """Word, position and text-of-a-pair vectors, added and normalised: ids `[T]` → `[T, E]`."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.embedding_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = ops.embed_words(self.word_embeddings, tokens)  # [T] → [T, E]
        vectors = vectors + ops.embed_types(self.token_type_embeddings, tokens)
        vectors = vectors + ops.embed_positions(self.position_embeddings, tokens)
        return self.dropout(self.LayerNorm(vectors))


class ElectraPreTrainedModel(PreTrainedModel):
    """What all ELECTRA classes have in common: their configuration and the names of their parts."""

    config_class = ElectraConfig
    base_model_prefix = "electra"
    input_embeddings = "embeddings.word_embeddings"
    config: ElectraConfig


class ElectraModel(ElectraPreTrainedModel, heads.EncoderOrDecoder):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.embeddings = ElectraEmbeddings(config)
        widens = config.embedding_size != config.hidden_size
        self.embeddings_project = nn.Linear(config.embedding_size, config.hidden_size) if widens else None
        self.encoder = bert.BertEncoder(config)
        self.post_init()

    def encode(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool, source: Source | None = None
    ) -> BaseModelOutputWithPastAndCrossAttentions:
        layout, hidden = tokens.layout, self.embeddings(tokens)  # [T] → [T, E]
        if self.embeddings_project is not None:
            hidden = self.embeddings_project(hidden)  # [T, E] → [T, H]
        hidden, states, weights = self.encoder(hidden, layout, want_maps, want_states, source)
        maps, cross = heads.own_and_across(weights, source)
        return BaseModelOutputWithPastAndCrossAttentions(hidden, layout.close(), states, maps, cross)


class ElectraHead(ElectraPreTrainedModel, heads.HeadWithTokenTypes):
    """The way through a model with a head, around this body."""

    def make_body(self) -> ElectraModel:
        return ElectraModel(self.config)


class ElectraDiscriminatorPredictions(nn.Module):
    """Each token's vector → how much it looks like a replaced word: `[T, H]` → `[T]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation(config.hidden_act)
        self.dense_prediction = nn.Linear(config.hidden_size, 1)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_prediction(self.activation(self.dense(hidden))).squeeze(-1)


class ElectraForPreTrainingOutput(outputs.LossAndLogits):
    """`logits` `[B, S]`: above zero where a token looks replaced; zero at padding."""


class ElectraForPreTraining(ElectraHead):
    """The discriminator: which tokens were replaced; `labels` `[B, S]` are 1 at those, 0 elsewhere, -100 left out."""

    def build(self, config: ElectraConfig) -> None:
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.discriminator_predictions(body.last_hidden_state)  # [T, H] → [T]
        loss = None
        if labels is not None:
            targets = layout.pack_labels(labels)  # [B, S] → [T]
            counted = targets != -100
            loss = F.binary_cross_entropy_with_logits(logits[counted].float(), targets[counted].float())
        return ElectraForPreTrainingOutput(loss, layout.unpack(logits))


class ElectraGeneratorPredictions(nn.Module):
    """Each token's vector back to the size of the embeddings, to be compared with every word: `[T, H]` → `[T, E]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ops.activation("gelu")  # whatever the layers use

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class ElectraForMaskedLM(ElectraHead, heads.MaskedLM):
    """The generator: the word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "generator_lm_head"
    tied = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}

    def build(self, config: ElectraConfig) -> None:
        self.generator_predictions = ElectraGeneratorPredictions(config)
        self.generator_lm_head = nn.Linear(config.embedding_size, config.vocab_size)

    def logits(self, body: Any) -> Tensor:
        return self.generator_lm_head(self.generator_predictions(body.last_hidden_state))  # [T, H] → [T, E] → [T, V]


class ElectraForCausalLM(heads.NextWord, ElectraForMaskedLM):
    """The next word after each token, with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""


class ElectraClassificationHead(nn.Module):
    """The first token's vector → a score for each class: `[B, H]` → `[B, C]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation("gelu")  # whatever the layers use
        self.dropout = ops.Dropout(config.head_dropout)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.activation(self.dense(self.dropout(first)))))


class ElectraForSequenceClassification(ElectraHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def build(self, config: ElectraConfig) -> None:
        self.classifier = ElectraClassificationHead(config)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classifier(layout.first(body.last_hidden_state))  # [T, H] → [B, H] → [B, C]


class ElectraForTokenClassification(ElectraHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class ElectraSequenceSummary(nn.Module):
    """One vector for a sequence, from its first token, as the `summary_...` settings say: `[B, H]` → `[B, H]`."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        config.require(config.summary_type == "first", "summary_type", "'first', the token that a summary is made of")
        self.summary = nn.Linear(config.hidden_size, config.hidden_size) if config.summary_use_proj else nn.Identity()
        self.activation = ops.activation(config.summary_activation or "linear")
        self.last_dropout = ops.Dropout(config.summary_last_dropout)

    def forward(self, first: Tensor) -> Tensor:
        return self.last_dropout(self.activation(self.summary(first)))


class ElectraForMultipleChoice(ElectraHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def build(self, config: ElectraConfig) -> None:
        self.sequence_summary = ElectraSequenceSummary(config)
        self.classifier = nn.Linear(config.hidden_size, 1)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classifier(self.sequence_summary(layout.first(body.last_hidden_state)))  # [T, H] → [B * C, 1]


class ElectraForQuestionAnswering(ElectraHead, heads.QuestionAnsweringWithTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


CONFIG = ElectraConfig
HEADS = {
    "Model": ElectraModel,
    "ForPreTraining": ElectraForPreTraining,
    "ForMaskedLM": ElectraForMaskedLM,
    "ForCausalLM": ElectraForCausalLM,
    "ForSequenceClassification": ElectraForSequenceClassification,
    "ForMultipleChoice": ElectraForMultipleChoice,
    "ForTokenClassification": ElectraForTokenClassification,
    "ForQuestionAnswering": ElectraForQuestionAnswering,
}
TINY = {
    "vocab_size": 99,
    "embedding_size": 24,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1, "embedding_size": 32},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "type_vocab_size": 3, "summary_use_proj": False},
    {"is_decoder": True, "embedding_size": 40, "summary_activation": "tanh", "layer_norm_eps": 1e-5},
]
