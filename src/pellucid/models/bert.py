"""BERT: a stack of encoder layers in which every token sees every other token.

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.
Checkpoints: bert-base-uncased, bert-base-cased, sentence-transformers/all-MiniLM-L6-v2, BAAI/bge-small-en.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `BertEmbeddings` turns ids into vectors, each `BertLayer` lets the tokens look at each other
(`BertSelfAttention`) and then transforms each token on its own (`BertIntermediate`, `BertOutput`), `BertPooler` makes
one vector of the first token; the heads at the end of the file read the answer off.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

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
        self.require(
            self.hidden_size % self.num_attention_heads == 0,
            "num_attention_heads",
            f"a divisor of hidden_size {self.hidden_size}",
        )
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
        layout, input_ids, token_type_ids, position_ids, vectors = tokens
        if input_ids is not None:
            vectors = ops.embed(self.word_embeddings, input_ids)  # [T] → [T, H]
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


class BertSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined = ("query", "key", "value")  # a speed form may compute these at once

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.causal = config.is_decoder
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.query, self.key, self.value)
        query, key, value = (x.view(-1, self.num_heads, self.head_size) for x in projected)  # [T, H] → [T, N, D]
        dropout = self.dropout.p if self.training else 0.0
        return ops.attention(
            query, key, value, layout, causal=self.causal, dropout=dropout, need_weights=need_weights
        )  # [T, H]


class BertOutput(nn.Module):
    """How attention and the feed-forward network end: back to `[T, H]`, add what went in, normalise."""

    def __init__(self, config: BertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, changed: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(changed)) + residual)


class BertAttention(nn.Module):
    """Self-attention and its output, under the names that checkpoints use."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.self = BertSelfAttention(config)
        self.output = BertOutput(config, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self(hidden, layout, need_weights)
        return self.output(mixed, hidden), maps


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
        self.attention = BertAttention(config)
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config, config.intermediate_size)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        attended, maps = self.attention(hidden, layout, need_weights)
        return self.output(self.intermediate(attended), attended), maps


class BertEncoder(nn.Module):
    """The layers, one after another."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(BertLayer(config) for _ in range(config.num_hidden_layers))
        self.gradient_checkpointing = False

    def forward(
        self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Maps, ...] | None]:
        recompute = self.gradient_checkpointing and self.training
        return ops.run_layers(self.layer, hidden, layout, want_maps, want_states, recompute)


class BertPooler(nn.Module):
    """One vector for a sequence, from its first token: `[B, H]` → `[B, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return torch.tanh(self.dense(first))


TIED = {  # the same numbers under two names: the table of words is used to read words in and to read them out
    "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
    "cls.predictions.decoder.bias": "cls.predictions.bias",
}


class BertPreTrainedModel(PreTrainedModel):
    """What all BERT classes have in common: their configuration and the names of their parts."""

    config_class = BertConfig
    base_model_prefix = "bert"
    input_embeddings = "embeddings.word_embeddings"
    config: BertConfig


class BertModel(BertPreTrainedModel):
    """The body: ids in, one vector for each token out, and one for the sequence.

    Args:
        config: sizes.
        add_pooling_layer: whether to build the pooler; heads that read each token do without.
    """

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = BertEmbeddings(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
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
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
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
        hidden = self.embeddings(tokens)  # [T] → [T, H]
        hidden, states, maps = self.encoder(hidden, tokens.layout, want_maps, want_states)
        pooled = None if self.pooler is None else self.pooler(tokens.layout.first(hidden))  # [T, H] → [B, H]
        if packed is not None:
            return BaseModelOutputWithPooling(hidden, pooled, states, maps)
        output = BaseModelOutputWithPooling(tokens.layout.unpack(hidden), pooled, states, maps)
        return self.finish(output, tokens.layout, return_dict)


class BertHead(BertPreTrainedModel, ABC):
    """The way through a model with a head: the body, then `read`, which takes the head's answer off it."""

    def __init__(self, config: BertConfig, add_pooling_layer: bool) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer)
        rate = config.hidden_dropout_prob if config.classifier_dropout is None else config.classifier_dropout
        self.dropout = nn.Dropout(rate)

    @abstractmethod
    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        """Logits, and the loss when there are labels, from the packed body."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `BertModel`, and the head's `labels`, which add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.bert(packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        return self.finish(self.read(body, tokens.layout, labels), tokens.layout, return_dict, body)


class BertForSequenceClassification(BertHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output))  # [B, H] → [B, C]
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class BertForTokenClassification(BertHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(body.last_hidden_state))  # [T, H] → [T, C]
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class BertPredictionHeadTransform(nn.Module):
    """A last dense layer before the vocabulary: `[T, H]` → `[T, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class BertLMPredictionHead(nn.Module):
    """Each token's vector → a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden))


class BertPreTrainingHeads(nn.Module):
    """The two heads of pretraining, `cls` in checkpoints: masked words and whether the second text follows."""

    def __init__(self, config: BertConfig, predictions: bool, relationship: bool) -> None:
        super().__init__()
        if predictions:
            self.predictions = BertLMPredictionHead(config)
        if relationship:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


class BertForMaskedLM(BertHead):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "cls.predictions.decoder"
    tied = TIED

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=False)
        self.cls = BertPreTrainingHeads(config, predictions=True, relationship=False)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.cls.predictions(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class BertLMHeadModel(BertForMaskedLM):
    """The next word after each token, for a BERT with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.cls.predictions(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.CausalLMOutput(ops.next_token_loss(logits, labels, layout), layout.unpack(logits))


class BertForNextSentencePrediction(BertHead):
    """Whether the second text of a pair follows the first; `labels` `[B]`, 0 if it does."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.cls = BertPreTrainingHeads(config, predictions=False, relationship=True)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.cls.seq_relationship(body.pooler_output)  # [B, H] → [B, 2]
        return outputs.NextSentencePredictorOutput(ops.label_loss(logits, labels), logits)


class BertForPreTraining(BertPreTrainedModel):
    """Both pretraining heads at once."""

    output_embeddings = "cls.predictions.decoder"
    tied = TIED

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config)
        self.cls = BertPreTrainingHeads(config, predictions=True, relationship=True)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, next_sentence_label: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> outputs.BertForPreTrainingOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BertModel`; `labels` `[B, S]` of the masked words and `next_sentence_label` `[B]`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.bert(packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        words = self.cls.predictions(body.last_hidden_state)  # [T, H] → [T, V]
        follows = self.cls.seq_relationship(body.pooler_output)  # [B, H] → [B, 2]
        loss = None
        if labels is not None and next_sentence_label is not None:
            word_loss = ops.cross_entropy(words, tokens.layout.pack_labels(labels))
            loss = word_loss + ops.cross_entropy(follows, next_sentence_label)
        output = outputs.BertForPreTrainingOutput(loss, tokens.layout.unpack(words), follows)
        return self.finish(output, tokens.layout, return_dict, body)


class BertForMultipleChoice(BertHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output)).view(-1, layout.choices)  # [B*C, H] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


class BertForQuestionAnswering(BertPreTrainedModel):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(config)
        self.bert = BertModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> outputs.QuestionAnsweringModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BertModel`; positions of the answer's first and last token add a `loss`."""
        tokens = packed or pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        body = self.bert(packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        logits = self.qa_outputs(body.last_hidden_state)  # [T, H] → [T, 2]
        start, end = tokens.layout.unpack_spans(logits)  # [B, S] each
        loss = ops.span_loss(start, end, start_positions, end_positions)
        return self.finish(outputs.QuestionAnsweringModelOutput(loss, start, end), tokens.layout, return_dict, body)


CONFIG = BertConfig
HEADS = {
    "Model": BertModel,
    "ForPreTraining": BertForPreTraining,
    "ForMaskedLM": BertForMaskedLM,
    "ForCausalLM": BertLMHeadModel,
    "ForNextSentencePrediction": BertForNextSentencePrediction,
    "ForSequenceClassification": BertForSequenceClassification,
    "ForMultipleChoice": BertForMultipleChoice,
    "ForTokenClassification": BertForTokenClassification,
    "ForQuestionAnswering": BertForQuestionAnswering,
}
TINY = {
    "vocab_size": 99,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 40,
}
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    {"is_decoder": True, "hidden_act": "silu", "num_attention_heads": 8},
]
