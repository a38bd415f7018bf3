"""BERT: a stack of encoder layers in which every token sees every other token.

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.
Checkpoints: bert-base-uncased, bert-base-cased, sentence-transformers/all-MiniLM-L6-v2, BAAI/bge-small-en.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `BertEmbeddings` turns ids into vectors, each `BertLayer` lets the tokens look at each other
(`BertSelfAttention`) and then transforms each token on its own (`BertIntermediate`, `BertOutput`), the pooler makes
one vector of the first token; a `BertHead` reads the answer off. Parts without a class of their own, such as the
encoder and the pooler, are an `nn.ModuleDict`, which gives the tensors inside the names that checkpoints use.
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


class BertConfig(PretrainedConfig):
    """Sizes and rates of a BERT; the defaults are those of bert-base-uncased."""

    model_type = "bert"

    vocab_size: Size = 30522
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Size = 512
    type_vocab_size: Size = 2
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-12
    pad_token_id: int | None = 0
    use_cache: bool = True
    classifier_dropout: Rate | None = None
    is_decoder: bool = False
    add_cross_attention: bool = False
    position_embedding_type: str = "absolute"

    def validate(self) -> None:
        """Heads must share the hidden size evenly, and the activation must exist."""
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        self.require(self.hidden_act in ops.ACTIVATIONS, "hidden_act", f"one of {sorted(ops.ACTIVATIONS)}")
        self.require(self.position_embedding_type == "absolute", "position_embedding_type", "'absolute'")
        self.require(not self.add_cross_attention, "add_cross_attention", "false")


class BertEmbeddings(nn.Module):
    """Word, position and text-of-a-pair vectors, added and normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        layout, ids, types, positions, vectors = tokens
        if ids is not None:
            vectors = ops.embed(self.word_embeddings, ids)  # [T] → [T, H]
        assert vectors is not None
        texts = self.token_type_embeddings
        vectors = vectors + (texts.weight[0] if types is None else ops.embed(texts, types, "token_type_ids"))
        positions = self.number(layout, ids) if positions is None else positions
        return self.dropout(self.LayerNorm(vectors + ops.embed(self.position_embeddings, positions, "position_ids")))

    def number(self, layout: Layout, ids: Ids) -> Tensor:
        """Positions `[T]` of tokens that came without: their columns."""
        ops.check_length(layout.width, self.position_embeddings.num_embeddings)
        return layout.positions(self.position_embeddings.weight.device)


class BertSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined = ("query", "key", "value")  # a speed form may compute these at once

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.causal = config.is_decoder
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in self.joined)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.query, self.key, self.value)
        q, k, v = (x.view(-1, self.num_heads, self.head_size) for x in projected)  # [T, H] → [T, N, D]
        dropout = self.dropout.p if self.training else 0.0
        return ops.attention(q, k, v, layout, causal=self.causal, dropout=dropout, need_weights=need_weights)  # [T, H]


class BertOutput(nn.Module):
    """How attention and the feed-forward network end: back to `[T, H]`, add what went in, normalise."""

    def __init__(self, config: BertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, changed: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(changed)) + residual)


class BertIntermediate(nn.Module):
    """The first, widening half of the feed-forward network: `[T, H]` → `[T, intermediate]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.intermediate_size)
        self.activation = ops.activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.activation(self.dense(hidden))


class BertLayer(nn.Module):
    """Attention between tokens, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        mix, end = BertSelfAttention(config), BertOutput(config, config.hidden_size)
        self.attention = nn.ModuleDict({"self": mix, "output": end})
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config, config.intermediate_size)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attention["self"](hidden, layout, need_weights)
        attended = self.attention["output"](mixed, hidden)
        return self.output(self.intermediate(attended), attended), maps


class BertPreTrainedModel(PreTrainedModel):
    """What all BERT classes have in common: their configuration, the names of their parts, and how they pack."""

    config_class = BertConfig
    base_model_prefix = "bert"
    input_embeddings = "embeddings.word_embeddings"
    pack = staticmethod(pack_tokens)
    config: BertConfig


class BertModel(BertPreTrainedModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""

    embeddings_class: ClassVar[type[BertEmbeddings]] = BertEmbeddings

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)
        layers, size = range(config.num_hidden_layers), config.hidden_size
        self.encoder = nn.ModuleDict({"layer": nn.ModuleList(BertLayer(config) for _ in layers)})
        self.pooler = nn.ModuleDict({"dense": nn.Linear(size, size)}) if add_pooling_layer else None
        self.gradient_checkpointing = False
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
            position_ids: `[B, S]`. Default: as `embeddings.number` gives them.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
            output_attentions: return attention weights `[B, N, S, S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.

        Raises:
            InputError: for shapes that do not fit, ids outside the vocabulary, or a text longer than the model reads.
        """
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        want_maps, want_states = self.wanted(output_attentions, output_hidden_states)
        layers, layout = self.encoder["layer"].children(), tokens.layout
        recompute = self.gradient_checkpointing and self.training
        hidden = self.embeddings(tokens)  # [T] → [T, H]
        hidden, states, maps = ops.run_layers(layers, hidden, layout, want_maps, want_states, recompute)
        pooled = None if self.pooler is None else self.pooler["dense"](layout.first(hidden)).tanh()  # [T, H] → [B, H]
        output = BaseModelOutputWithPooling(hidden, pooled, states, maps)
        if packed is not None:
            return output
        output.last_hidden_state = layout.unpack(hidden)
        return self.finish(output, layout, return_dict)


class BertHead(BertPreTrainedModel):
    """The way through a model with a head: the body, then `read`, which takes the head's answer off it."""

    body_class: ClassVar[type[BertModel]] = BertModel
    pools: ClassVar[bool] = True  # whether the head reads the vector of the sequence, and so needs the pooler
    read: Callable[..., ModelOutput]  # (packed body, layout, *labels) → logits, and the loss when there are labels

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.add_module(self.base_model_prefix, self.body_class(config, add_pooling_layer=self.pools))
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)
        self.build(config)
        self.post_init()

    def build(self, config: BertConfig) -> None:
        """Make the head's own layers."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `BertModel`, and the head's `labels`, which add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels)

    def run(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool | None, return_dict: bool | None, *labels: Ids
    ) -> ModelOutput | tuple[Tensor, ...]:
        """`forward` from packed tokens on, with as many labels as `read` takes."""
        body = self.base_model(packed=tokens, output_attentions=want_maps, output_hidden_states=want_states)
        return self.finish(self.read(body, tokens.layout, *labels), tokens.layout, return_dict, body)


class BertForSequenceClassification(BertHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def build(self, config: BertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output))  # [B, H] → [B, C]
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class BertForMultipleChoice(BertHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def build(self, config: BertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, 1)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output)).view(-1, layout.choices)  # [B*C, H] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


class BertForTokenClassification(BertHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    pools = False

    def build(self, config: BertConfig) -> None:
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.last_hidden_state))  # [T, H] → [T, C]
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class BertForQuestionAnswering(BertHead):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    pools = False

    def build(self, config: BertConfig) -> None:
        self.qa_outputs = nn.Linear(config.hidden_size, 2)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BertModel`; positions of the answer's first and last token add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, start_positions, end_positions)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, start_at: Ids, end_at: Ids) -> ModelOutput:
        start, end = layout.unpack_spans(self.qa_outputs(body.last_hidden_state))  # [T, H] → [T, 2] → [B, S] each
        return outputs.QuestionAnsweringModelOutput(ops.span_loss(start, end, start_at, end_at), start, end)


class BertLMPredictionHead(nn.Module):
    """A last dense layer, then a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.transform = nn.ModuleDict({"dense": nn.Linear(config.hidden_size, config.hidden_size), "LayerNorm": norm})
        self.activation = ops.activation(config.hidden_act)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.transform["LayerNorm"](self.activation(self.transform["dense"](hidden))))


class BertForMaskedLM(BertHead):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    pools = False
    word_head: ClassVar[str] = "cls.predictions"
    output_embeddings = "cls.predictions.decoder"
    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def build(self, config: BertConfig) -> None:
        self.cls = nn.ModuleDict({"predictions": BertLMPredictionHead(config)})

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.get_submodule(self.word_head)(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class BertLMHeadModel(BertForMaskedLM):
    """The next word after each token, for a BERT with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.get_submodule(self.word_head)(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.CausalLMOutput(ops.next_token_loss(logits, labels, layout), layout.unpack(logits))


class BertForNextSentencePrediction(BertHead):
    """Whether the second text of a pair follows the first; `labels` `[B]`, 0 if it does."""

    def build(self, config: BertConfig) -> None:
        self.cls = nn.ModuleDict({"seq_relationship": nn.Linear(config.hidden_size, 2)})

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.cls["seq_relationship"](body.pooler_output)  # [B, H] → [B, 2]
        return outputs.NextSentencePredictorOutput(ops.label_loss(logits, labels), logits)


class BertForPreTraining(BertForMaskedLM):
    """Both heads of pretraining at once: masked words, and whether the second text follows the first."""

    pools = True

    def build(self, config: BertConfig) -> None:
        super().build(config)
        self.cls["seq_relationship"] = nn.Linear(config.hidden_size, 2)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, next_sentence_label: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BertModel`; `labels` `[B, S]` of the masked words and `next_sentence_label` `[B]`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels, next_sentence_label)

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids, follows: Ids = None) -> ModelOutput:
        words, pair = super().read(body, layout, labels), self.cls["seq_relationship"](body.pooler_output)  # [B, 2]
        loss = None if labels is None or follows is None else words["loss"] + ops.cross_entropy(pair, follows)
        return outputs.BertForPreTrainingOutput(loss, words["logits"], pair)


CONFIG = BertConfig
HEADS = {
    "Model": BertModel, "ForPreTraining": BertForPreTraining, "ForMaskedLM": BertForMaskedLM,
    "ForCausalLM": BertLMHeadModel, "ForNextSentencePrediction": BertForNextSentencePrediction,
    "ForSequenceClassification": BertForSequenceClassification, "ForMultipleChoice": BertForMultipleChoice,
    "ForTokenClassification": BertForTokenClassification, "ForQuestionAnswering": BertForQuestionAnswering,
}  # fmt: skip
TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40,
}  # fmt: skip
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    {"is_decoder": True, "hidden_act": "silu", "num_attention_heads": 8},
]
