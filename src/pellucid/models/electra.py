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

from abc import ABC, abstractmethod

import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.config import Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.models.bert import BertConfig, BertLayer
from pellucid.outputs import BaseModelOutput, ModelOutput


class ElectraConfig(BertConfig):
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
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = tokens.inputs_embeds
        if tokens.input_ids is not None:
            vectors = ops.embed(self.word_embeddings, tokens.input_ids)  # [T] → [T, E]
        assert vectors is not None
        position_ids = tokens.position_ids
        if position_ids is None:
            ops.check_length(tokens.layout.width, self.position_embeddings.num_embeddings)
            position_ids = tokens.layout.positions(vectors.device)
        if tokens.token_type_ids is None:
            vectors = vectors + self.token_type_embeddings.weight[0]
        else:
            vectors = vectors + ops.embed(self.token_type_embeddings, tokens.token_type_ids, "token_type_ids")
        vectors = vectors + ops.embed(self.position_embeddings, position_ids, "position_ids")
        return self.dropout(self.LayerNorm(vectors))


class ElectraEncoder(nn.Module):
    """BERT's layers, one after another."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Maps, ...] | None]:
        recompute = self.gradient_checkpointing and self.training
        return ops.run_layers(self.layer, hidden, layout, want_maps, want_states, recompute)


class ElectraPreTrainedModel(PreTrainedModel):
    """What all ELECTRA classes have in common: their configuration and the names of their parts."""

    config_class = ElectraConfig
    base_model_prefix = "electra"
    input_embeddings = "embeddings.word_embeddings"
    config: ElectraConfig


class ElectraModel(ElectraPreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.embeddings = ElectraEmbeddings(config)
        self.embeddings_project = (
            nn.Linear(config.embedding_size, config.hidden_size)
            if config.embedding_size != config.hidden_size
            else None
        )
        self.encoder = ElectraEncoder(config)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, S]`, 0 at padding; or `[B, S, S]`, which tokens each token sees. Default: all real.
            token_type_ids: `[B, S]`, 0 for the first text of a pair, 1 for the second. Default: all 0.
            position_ids: `[B, S]`. Default: the column number.
            inputs_embeds: `[B, S, E]` word vectors instead of ids.
            output_attentions: return attention weights `[B, N, S, S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.

        Raises:
            InputError: for shapes that do not fit, ids outside the vocabulary, or a text longer than the model reads.
        """
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        want_maps, want_states = self.wanted(output_attentions, output_hidden_states)
        hidden = self.embeddings(tokens)  # [T] → [T, E]
        if self.embeddings_project is not None:
            hidden = self.embeddings_project(hidden)  # [T, E] → [T, H]
        hidden, states, maps = self.encoder(hidden, tokens.layout, want_maps, want_states)
        if packed is not None:
            return BaseModelOutput(hidden, states, maps)
        output = BaseModelOutput(tokens.layout.unpack(hidden), states, maps)
        return self.finish(output, tokens.layout, return_dict)


class ElectraHead(ElectraPreTrainedModel, ABC):
    """The way through a model with a head: the body, then `read`, which takes the head's answer off it."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.electra = ElectraModel(config)

    @abstractmethod
    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        """Logits, and the loss when there are labels, from the packed states `[T, H]`."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `ElectraModel`, and the head's `labels`, which add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.electra(
            packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        output = self.read(body.last_hidden_state, tokens.layout, labels)
        return self.finish(output, tokens.layout, return_dict, body)


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

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.discriminator_predictions = ElectraDiscriminatorPredictions(config)
        self.post_init()

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.discriminator_predictions(hidden)  # [T, H] → [T]
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


class ElectraForMaskedLM(ElectraHead):
    """The generator: the word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "generator_lm_head"
    tied = {"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"}

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.generator_predictions = ElectraGeneratorPredictions(config)
        self.generator_lm_head = nn.Linear(config.embedding_size, config.vocab_size)
        self.post_init()

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.generator_lm_head(self.generator_predictions(hidden))  # [T, H] → [T, E] → [T, V]
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class ElectraForCausalLM(ElectraForMaskedLM):
    """The next word after each token, with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.generator_lm_head(self.generator_predictions(hidden))  # [T, H] → [T, E] → [T, V]
        return outputs.CausalLMOutput(ops.next_token_loss(logits, labels, layout), layout.unpack(logits))


def classifier_dropout(config: ElectraConfig) -> nn.Dropout:
    """Dropout of the classifiers: a rate of their own, or that of the layers."""
    return nn.Dropout(config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout)


class ElectraClassificationHead(nn.Module):
    """The first token's vector → a score for each class: `[B, H]` → `[B, C]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation("gelu")  # whatever the layers use
        self.dropout = classifier_dropout(config)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(self.dropout(self.activation(self.dense(self.dropout(first)))))


class ElectraForSequenceClassification(ElectraHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.classifier = ElectraClassificationHead(config)
        self.post_init()

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(layout.first(hidden))  # [T, H] → [B, C]
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class ElectraForTokenClassification(ElectraHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.dropout = classifier_dropout(config)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(hidden))  # [T, H] → [T, C]
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class ElectraSequenceSummary(nn.Module):
    """One vector for a sequence, from its first token, as the `summary_...` settings say: `[B, H]` → `[B, H]`."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__()
        config.require(config.summary_type == "first", "summary_type", "'first', the token that a summary is made of")
        self.summary = nn.Linear(config.hidden_size, config.hidden_size) if config.summary_use_proj else nn.Identity()
        self.activation = ops.activation(config.summary_activation or "linear")
        self.last_dropout = nn.Dropout(config.summary_last_dropout)

    def forward(self, first: Tensor) -> Tensor:
        return self.last_dropout(self.activation(self.summary(first)))


class ElectraForMultipleChoice(ElectraHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.sequence_summary = ElectraSequenceSummary(config)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def read(self, hidden: Tensor, layout: Layout, labels: Tensor | None) -> ModelOutput:
        summary = self.sequence_summary(layout.first(hidden))  # [T, H] → [B*C, H]
        logits = self.classifier(summary).view(-1, layout.choices)  # [B*C, H] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


class ElectraForQuestionAnswering(ElectraPreTrainedModel):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def __init__(self, config: ElectraConfig) -> None:
        super().__init__(config)
        self.electra = ElectraModel(config)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> outputs.QuestionAnsweringModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `ElectraModel`; positions of the answer's first and last token add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.electra(
            packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states
        )
        logits = self.qa_outputs(body.last_hidden_state)  # [T, H] → [T, 2]
        start, end = tokens.layout.unpack_spans(logits)  # [B, S] each
        loss = ops.span_loss(start, end, start_positions, end_positions)
        return self.finish(outputs.QuestionAnsweringModelOutput(loss, start, end), tokens.layout, return_dict, body)


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
