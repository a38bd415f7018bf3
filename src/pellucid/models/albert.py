"""ALBERT: BERT made small, by using the same layer again and again and by keeping the table of words narrow.

Lan et al. 2019, "ALBERT: A Lite BERT for Self-supervised Learning of Language Representations", arXiv:1909.11942.
Checkpoints: albert/albert-base-v2, albert/albert-xxlarge-v2, sentence-transformers/paraphrase-albert-small-v2.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `E` embedding, `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `AlbertEmbeddings` turns ids into narrow vectors, which `AlbertTransformer` widens once. Then come
`num_hidden_layers` steps, each a pass through an `AlbertLayerGroup`; several steps in a row use the same group, so
that depth costs time but no weights. An `AlbertLayer` lets the tokens look at each other (`AlbertAttention`) and then
transforms each token on its own; the heads at the end of the file read the answer off.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPooling, ModelOutput


class AlbertConfig(PretrainedConfig):
    """Sizes and rates of an ALBERT; the defaults are those of albert-xxlarge-v2."""

    model_type = "albert"

    vocab_size: Size = 30000
    embedding_size: Size = 128
    hidden_size: Size = 4096
    num_hidden_layers: Size = 12
    num_hidden_groups: Size = 1
    num_attention_heads: Size = 64
    intermediate_size: Size = 16384
    inner_group_num: Size = 1
    hidden_act: str = "gelu_new"
    hidden_dropout_prob: Rate = 0.0
    attention_probs_dropout_prob: Rate = 0.0
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-12
    classifier_dropout_prob: Rate = 0.1
    position_embedding_type: str = "absolute"
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 3

    def validate(self) -> None:
        """Heads must share the hidden size evenly, and the activation must exist."""
        shared = self.hidden_size % self.num_attention_heads == 0
        self.require(shared, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        self.require(self.hidden_act in ops.ACTIVATIONS, "hidden_act", f"one of {sorted(ops.ACTIVATIONS)}")
        self.require(self.position_embedding_type == "absolute", "position_embedding_type", "'absolute'")


class AlbertEmbeddings(nn.Module):
    """Word, position and text-of-a-pair vectors, added and normalised: ids `[T]` → `[T, E]`."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.embedding_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.embedding_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.embedding_size)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        layout, input_ids, token_type_ids, position_ids, vectors = tokens
        if input_ids is not None:
            vectors = ops.embed(self.word_embeddings, input_ids)  # [T] → [T, E]
        assert vectors is not None
        if position_ids is None:
            ops.check_length(layout.width, self.position_embeddings.num_embeddings)
            position_ids = layout.positions(vectors.device)
        if token_type_ids is None:
            vectors = vectors + self.token_type_embeddings.weight[0]
        else:
            vectors = vectors + ops.embed(self.token_type_embeddings, token_type_ids, "token_type_ids")
        vectors = vectors + ops.embed(self.position_embeddings, position_ids, "position_ids")
        return self.dropout(self.LayerNorm(vectors))


class AlbertAttention(nn.Module):
    """Each token gathers from its sequence what its query finds in the keys, and adds it: `[T, H]` → `[T, H]`."""

    joined = ("query", "key", "value")  # a speed form may compute these at once

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_dropout = nn.Dropout(config.attention_probs_dropout_prob)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output_dropout = nn.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.query, self.key, self.value)
        query, key, value = (x.view(-1, self.num_heads, self.head_size) for x in projected)  # [T, H] → [T, N, D]
        dropout = self.attention_dropout.p if self.training else 0.0
        mixed, maps = ops.attention(query, key, value, layout, dropout=dropout, need_weights=need_weights)  # [T, H]
        return self.LayerNorm(hidden + self.output_dropout(self.dense(mixed))), maps


class AlbertLayer(nn.Module):
    """Attention between tokens, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    activated = {"ffn": "activation"}  # a speed form may compute these at once

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.attention = AlbertAttention(config)
        self.ffn = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ops.activation(config.hidden_act)
        self.ffn_output = nn.Linear(config.intermediate_size, config.hidden_size)
        self.full_layer_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        attended, maps = self.attention(hidden, layout, need_weights)
        changed = self.ffn_output(self.activation(self.ffn(attended)))  # H → intermediate → H
        return self.full_layer_layer_norm(changed + attended), maps


class AlbertLayerGroup(nn.Module):
    """The layers of one step (one in all published checkpoints), under the name that checkpoints use."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.albert_layers = nn.ModuleList(AlbertLayer(config) for _ in range(config.inner_group_num))


class AlbertTransformer(nn.Module):
    """Narrow vectors are widened, `[T, E]` → `[T, H]`, and pass through the groups, each of them several times."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.embedding_hidden_mapping_in = nn.Linear(config.embedding_size, config.hidden_size)
        self.albert_layer_groups = nn.ModuleList(AlbertLayerGroup(config) for _ in range(config.num_hidden_groups))
        steps_per_group = config.num_hidden_layers / config.num_hidden_groups  # a fraction when it does not come out
        self.group_of_step = [int(step / steps_per_group) for step in range(config.num_hidden_layers)]
        self.gradient_checkpointing = False

    def forward(
        self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Maps, ...] | None]:
        hidden = self.embedding_hidden_mapping_in(hidden)  # [T, E] → [T, H]
        groups = [self.albert_layer_groups[number] for number in self.group_of_step]
        layers = [layer for group in groups for layer in group.get_submodule("albert_layers").children()]
        recompute = self.gradient_checkpointing and self.training
        return ops.run_layers(layers, hidden, layout, want_maps, want_states, recompute)


class AlbertPreTrainedModel(PreTrainedModel):
    """What all ALBERT classes have in common: their configuration and the names of their parts."""

    config_class = AlbertConfig
    base_model_prefix = "albert"
    input_embeddings = "embeddings.word_embeddings"
    config: AlbertConfig


class AlbertModel(AlbertPreTrainedModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = AlbertEmbeddings(config)
        self.encoder = AlbertTransformer(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:  # fmt: skip
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
        want_states = self.config.output_hidden_states if output_hidden_states is None else output_hidden_states
        want_maps = self.config.output_attentions if output_attentions is None else output_attentions
        hidden = self.embeddings(tokens)  # [T] → [T, E]
        hidden, states, maps = self.encoder(hidden, tokens.layout, want_maps, want_states)  # [T, E] → [T, H]
        pooled = None if self.pooler is None else self.pooler(tokens.layout.first(hidden)).tanh()  # [T, H] → [B, H]
        if packed is not None:
            return BaseModelOutputWithPooling(hidden, pooled, states, maps)
        output = BaseModelOutputWithPooling(tokens.layout.unpack(hidden), pooled, states, maps)
        return self.finish(output, tokens.layout, return_dict)


class AlbertHead(AlbertPreTrainedModel):
    """The way through a model with a head: the body, then `read`, which takes the head's answer off it."""

    pools: ClassVar[bool] = False
    """Whether the head reads the vector of the sequence, and so needs the pooler."""
    read: Callable[..., ModelOutput]
    """`(body, layout, *labels)`: logits from the packed body, and the loss when there are labels."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__(config)
        self.albert = AlbertModel(config, add_pooling_layer=self.pools)
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.build(config)
        self.post_init()

    def build(self, config: AlbertConfig) -> None:
        """Make the head's own layers."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `AlbertModel`, and the head's `labels`, which add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels)

    def run(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool | None, return_dict: bool | None, *labels: Ids
    ) -> ModelOutput | tuple[Tensor, ...]:
        """`forward` from packed tokens on, with as many `labels` as `read` takes."""
        body = self.albert(packed=tokens, output_attentions=want_maps, output_hidden_states=want_states)
        return self.finish(self.read(body, tokens.layout, *labels), tokens.layout, return_dict, body)


class AlbertForSequenceClassification(AlbertHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    pools = True

    def build(self, config: AlbertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output))  # [B, H] → [B, C]
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class AlbertForMultipleChoice(AlbertHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    pools = True

    def build(self, config: AlbertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, 1)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output)).view(-1, layout.choices)  # [B*C, H] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


class AlbertForTokenClassification(AlbertHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def build(self, config: AlbertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.last_hidden_state))  # [T, H] → [T, C]
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class AlbertForQuestionAnswering(AlbertHead):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def build(self, config: AlbertConfig) -> None:
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `AlbertModel`; positions of the answer's first and last token add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, start_positions, end_positions)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, start_at: Ids, end_at: Ids) -> ModelOutput:
        start, end = layout.unpack_spans(self.qa_outputs(body.last_hidden_state))  # [T, H] → [T, 2] → [B, S] each
        return outputs.QuestionAnsweringModelOutput(ops.span_loss(start, end, start_at, end_at), start, end)


class AlbertMLMHead(nn.Module):
    """Each token's vector, made narrow again, → a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.embedding_size)
        self.activation = ops.activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.embedding_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.embedding_size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.LayerNorm(self.activation(self.dense(hidden))))  # [T, H] → [T, E] → [T, V]


class AlbertForMaskedLM(AlbertHead):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "predictions.decoder"
    tied = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }

    def build(self, config: AlbertConfig) -> None:
        self.predictions = AlbertMLMHead(config)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.predictions(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class AlbertSOPHead(nn.Module):
    """Whether the two texts of a pair stand in their order (0) or are swapped (1): `[B, H]` → `[B, 2]`."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dropout = nn.Dropout(config.classifier_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, pooled: Tensor) -> Tensor:
        return self.classifier(self.dropout(pooled))


class AlbertForPreTraining(AlbertForMaskedLM):
    """Both heads of pretraining at once: masked words, and the order of two texts."""

    pools = True

    def build(self, config: AlbertConfig) -> None:
        super().build(config)
        self.sop_classifier = AlbertSOPHead(config)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, sentence_order_label: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `AlbertModel`; `labels` `[B, S]` of the masked words and `sentence_order_label` `[B]`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels, sentence_order_label)

    def read(  # type: ignore[override]  # a head with two labels
        self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids, order: Ids
    ) -> ModelOutput:
        words, sop = self.predictions(body.last_hidden_state), self.sop_classifier(body.pooler_output)  # [T, V], [B, 2]
        parts = ops.token_loss(words, labels, layout), ops.label_loss(sop, order)
        loss = None if parts[0] is None or parts[1] is None else parts[0] + parts[1]
        return outputs.AlbertForPreTrainingOutput(loss, layout.unpack(words), sop)


CONFIG = AlbertConfig
HEADS = {
    "Model": AlbertModel,
    "ForPreTraining": AlbertForPreTraining,
    "ForMaskedLM": AlbertForMaskedLM,
    "ForSequenceClassification": AlbertForSequenceClassification,
    "ForMultipleChoice": AlbertForMultipleChoice,
    "ForTokenClassification": AlbertForTokenClassification,
    "ForQuestionAnswering": AlbertForQuestionAnswering,
}
TINY = {"vocab_size": 99, "embedding_size": 16, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 40, "hidden_dropout_prob": 0.1,
        "attention_probs_dropout_prob": 0.1}  # fmt: skip
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1, "embedding_size": 32},
    {"num_hidden_layers": 5, "num_hidden_groups": 2, "inner_group_num": 2, "hidden_act": "gelu"},
    {"tie_word_embeddings": False, "type_vocab_size": 3, "layer_norm_eps": 1e-5, "num_hidden_groups": 2},
]
