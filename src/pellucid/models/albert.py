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

from typing import Any

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops, outputs
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens
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

    @property
    def head_dropout(self) -> float:
        """Rate of dropout before a classifier."""
        return self.classifier_dropout_prob


class AlbertEmbeddings(nn.Module):
    """Word, position and text-of-a-pair vectors, added and normalised: ids `[T]` → `[T, E]`."""

    def __init__(self, config: AlbertConfig) -> None:
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


class AlbertAttention(nn.Module):
    """Each token gathers from its sequence what its query finds in the keys, and adds it: `[T, H]` → `[T, H]`."""

    joined = ("query", "key", "value")  # a speed form may compute these at once
    read_by = "dense"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.attention_dropout = ops.Dropout(config.attention_probs_dropout_prob)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.output_dropout = ops.Dropout(config.hidden_dropout_prob)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.query, self.key, self.value)
        query, key, value = (x.view(-1, x.shape[-1] // self.head_size, self.head_size) for x in projected)  # [T, N, D]
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


class AlbertModel(AlbertPreTrainedModel, heads.EncoderWithTokenTypes):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""

    def __init__(self, config: AlbertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = AlbertEmbeddings(config)
        self.encoder = AlbertTransformer(config)
        self.pooler = nn.Linear(config.hidden_size, config.hidden_size) if add_pooling_layer else None
        self.post_init()

    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> BaseModelOutputWithPooling:
        hidden = self.embeddings(tokens)  # [T] → [T, E]
        hidden, states, maps = self.encoder(hidden, tokens.layout, want_maps, want_states)  # [T, E] → [T, H]
        pooled = None if self.pooler is None else self.pooler(tokens.layout.first(hidden)).tanh()  # [T, H] → [B, H]
        return BaseModelOutputWithPooling(hidden, pooled, states, maps)


class AlbertHead(AlbertPreTrainedModel, heads.HeadWithTokenTypes):
    """The way through a model with a head, around this body."""

    def make_body(self) -> AlbertModel:
        return AlbertModel(self.config, add_pooling_layer=self.pools)


class AlbertForSequenceClassification(AlbertHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""


class AlbertForMultipleChoice(AlbertHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class AlbertForTokenClassification(AlbertHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class AlbertForQuestionAnswering(AlbertHead, heads.QuestionAnsweringWithTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


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


class AlbertForMaskedLM(AlbertHead, heads.MaskedLM):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "predictions.decoder"
    tied = {
        "predictions.decoder.weight": "albert.embeddings.word_embeddings.weight",
        "predictions.decoder.bias": "predictions.bias",
    }

    def build(self, config: AlbertConfig) -> None:
        self.predictions = AlbertMLMHead(config)

    def logits(self, body: Any) -> Tensor:
        return self.predictions(body.last_hidden_state)  # [T, H] → [T, V]


class AlbertSOPHead(nn.Module):
    """Whether the two texts of a pair stand in their order (0) or are swapped (1): `[B, H]` → `[B, 2]`."""

    def __init__(self, config: AlbertConfig) -> None:
        super().__init__()
        self.dropout = ops.Dropout(config.classifier_dropout_prob)
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
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels, sentence_order_label)

    def read(self, body: Any, layout: Layout, labels: Ids, order: Ids = None) -> ModelOutput:
        words, pair = super().read(body, layout, labels), self.sop_classifier(body.pooler_output)  # [B, 2]
        loss = None if labels is None or order is None else words["loss"] + ops.cross_entropy(pair, order)
        return outputs.AlbertForPreTrainingOutput(loss, words["logits"], pair)


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
