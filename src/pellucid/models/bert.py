"""BERT: a stack of encoder layers in which every token sees every other token.

Devlin et al. 2018, "BERT: Pre-training of Deep Bidirectional Transformers", arXiv:1810.04805.
Checkpoints: bert-base-uncased, bert-base-cased, sentence-transformers/all-MiniLM-L6-v2, BAAI/bge-small-en.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `BertEmbeddings` turns ids into vectors, each `BertLayer` lets the tokens look at each other
(`BertAttention`) and then transforms each token on its own (`BertIntermediate`, `BertOutput`), `BertPooler` makes one
vector of the first token; the heads at the end of the file read the answer off (see `encoder_heads.py`).
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops, outputs
from pellucid.cache import Source
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPoolingAndCrossAttentions, ModelOutput


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
        """Heads must share the hidden size evenly, the activation must exist, and only a decoder can look across."""
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        self.require(self.hidden_act in ops.ACTIVATIONS, "hidden_act", f"one of {sorted(ops.ACTIVATIONS)}")
        self.require(self.position_embedding_type == "absolute", "position_embedding_type", "'absolute'")
        self.require(self.is_decoder or not self.add_cross_attention, "add_cross_attention", "false without is_decoder")

    @property
    def head_dropout(self) -> float:
        """Rate of dropout before a classifier: its own, or that of the layers."""
        return self.hidden_dropout_prob if self.classifier_dropout is None else self.classifier_dropout


class BertEmbeddings(nn.Module):
    """Word, position and text-of-a-pair vectors, added and normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = ops.embed_words(self.word_embeddings, tokens)  # [T] → [T, H]
        vectors = vectors + ops.embed_types(self.token_type_embeddings, tokens)
        vectors = vectors + ops.embed_positions(self.position_embeddings, tokens)
        return self.dropout(self.LayerNorm(vectors))


class BertSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined: tuple[str, ...] = ("query", "key", "value")  # a speed form may compute these at once
    read_by = "output.dense"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_size = config.hidden_size // config.num_attention_heads
        self.causal = config.is_decoder
        self.query, self.key, self.value = (nn.Linear(config.hidden_size, config.hidden_size) for _ in range(3))
        self.dropout = ops.Dropout(config.attention_probs_dropout_prob)

    def heads(self, x: Tensor) -> Tensor:
        return x.view(-1, x.shape[-1] // self.head_size, self.head_size)  # [T, N * D] → [T, N, D]

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        q, k, v = (self.heads(x) for x in ops.project(hidden, self.query, self.key, self.value))
        return ops.attention(
            q, k, v, layout, causal=self.causal, dropout=self.dropout.p if self.training else 0.0,
            need_weights=need_weights, memory=layout.memory(self.layer_idx),
        )  # fmt: skip  # [T, H]


class BertCrossAttention(BertSelfAttention):
    """Each token of a decoder gathers from all tokens of another text, the source: `[T, H]` → `[T, H]`."""

    joined, read_by = (), ""  # queries and keys are of different texts

    def forward(  # type: ignore[override]  # with a source
        self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source
    ) -> tuple[Tensor, Maps | None]:
        query, memory = self.heads(self.query(hidden)), source.memory(self.layer_idx)
        if memory.keys is None and source.states is not None and source.layout is not None:
            key, value = self.heads(self.key(source.states)), self.heads(self.value(source.states))
            memory.store(key, value, source.layout)  # [T of the source, N, D]
        found, dropout = ops.cross_blocks(query, layout, memory), self.dropout.p if self.training else 0.0
        return ops.attend(found, query, dropout=dropout, need_weights=need_weights)  # [T, H]


class BertOutput(nn.Module):
    """How attention and the feed-forward network end: back to `[T, H]`, add what went in, normalise."""

    def __init__(self, config: BertConfig, input_size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(input_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, changed: Tensor, residual: Tensor) -> Tensor:
        return self.LayerNorm(self.dropout(self.dense(changed)) + residual)


class BertAttention(nn.Module):
    """Attention, and what all parts of a layer end with; `beside` is what the attention looks at beside the tokens."""

    def __init__(self, config: BertConfig, attention: nn.Module) -> None:
        super().__init__()
        self.self = attention
        self.output = BertOutput(config, config.hidden_size)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, *beside: Any) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self(hidden, layout, need_weights, *beside)
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
    """Attention between tokens, to a source if there is one, then a feed-forward network: `[T, H]` → `[T, H]`."""

    def __init__(self, config: BertConfig, layer_idx: int) -> None:
        super().__init__()
        self.attention = BertAttention(config, BertSelfAttention(config, layer_idx))
        if config.add_cross_attention:
            self.crossattention = BertAttention(config, BertCrossAttention(config, layer_idx))
        self.intermediate = BertIntermediate(config)
        self.output = BertOutput(config, config.intermediate_size)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source | None = None
    ) -> tuple[Tensor, Any]:
        attended, maps = self.attention(hidden, layout, need_weights)
        if source is not None:
            attended, cross = self.crossattention(attended, layout, need_weights, source)
            maps = (maps, cross) if need_weights else None
        return self.output(self.intermediate(attended), attended), maps


class BertEncoder(heads.LayerStack):
    """The layers, one after another."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__(BertLayer(config, number) for number in range(config.num_hidden_layers))


class BertPooler(nn.Module):
    """One vector for a text, made of that of its first token: `[B, H]` → `[B, H]`."""

    def __init__(self, config: BertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return self.dense(first).tanh()


class BertPreTrainedModel(PreTrainedModel):
    """What all BERT classes have in common: their configuration and the names of their parts."""

    config_class = BertConfig
    base_model_prefix = "bert"
    input_embeddings = "embeddings.word_embeddings"
    config: BertConfig


class BertModel(BertPreTrainedModel, heads.EncoderOrDecoder):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooler."""

    embeddings_class: ClassVar[type[BertEmbeddings]] = BertEmbeddings

    def __init__(self, config: BertConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = self.embeddings_class(config)
        self.encoder = BertEncoder(config)
        self.pooler = BertPooler(config) if add_pooling_layer else None
        self.post_init()

    def encode(
        self, tokens: PackedTokens, want_maps: Asked, want_states: bool, source: Source | None = None
    ) -> BaseModelOutputWithPoolingAndCrossAttentions:
        layout, hidden = tokens.layout, self.embeddings(tokens)  # [T] → [T, H]
        hidden, states, weights = self.encoder(hidden, layout, want_maps, want_states, source)
        maps, cross = heads.own_and_across(weights, source)
        pooled = None if self.pooler is None else self.pooler(layout.first(hidden))  # [T, H] → [B, H]
        return BaseModelOutputWithPoolingAndCrossAttentions(hidden, pooled, layout.close(), states, maps, cross)


class BertHead(BertPreTrainedModel, heads.HeadWithTokenTypes):
    """The way through a model with a head, around this body."""

    body_class: ClassVar[type[BertModel]] = BertModel

    def make_body(self) -> BertModel:
        return self.body_class(self.config, add_pooling_layer=self.pools)


class BertForSequenceClassification(BertHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""


class BertForMultipleChoice(BertHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class BertForTokenClassification(BertHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class BertForQuestionAnswering(BertHead, heads.QuestionAnsweringWithTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


class BertPredictionHeadTransform(nn.Module):
    """A last dense layer before words are scored, to the size of their vectors: `[T, H]` → `[T, size]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: BertConfig, size: int) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, size)
        self.activation = ops.activation(config.hidden_act)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.LayerNorm(self.activation(self.dense(hidden)))


class BertLMPredictionHead(nn.Module):
    """Each token's vector → a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    def __init__(self, config: BertConfig, size: int) -> None:
        super().__init__()
        self.transform = BertPredictionHeadTransform(config, size)
        self.decoder = nn.Linear(size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.transform(hidden))


class BertPreTrainingHeads(nn.Module):
    """What BERT was trained to tell, as far as a model needs it: words, and whether one text follows another."""

    def __init__(self, config: BertConfig, words: bool = True, pairs: bool = False) -> None:
        super().__init__()
        if words:
            self.predictions = BertLMPredictionHead(config, config.hidden_size)
        if pairs:
            self.seq_relationship = nn.Linear(config.hidden_size, 2)


class BertForMaskedLM(BertHead, heads.MaskedLM):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "cls.predictions.decoder"
    tied = {
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def build(self, config: BertConfig) -> None:
        self.cls = BertPreTrainingHeads(config)

    def logits(self, body: Any) -> Tensor:
        return self.cls.predictions(body.last_hidden_state)  # [T, H] → [T, V]


class BertLMHeadModel(heads.NextWord, BertForMaskedLM):
    """The next word after each token, for a BERT with `is_decoder=True`; `labels` `[B, S]` are the ids themselves."""


class BertForNextSentencePrediction(BertHead, heads.TextHead):
    """Whether the second text follows the first: class 0 if so, class 1 if not; `labels` `[B]`."""

    def build(self, config: BertConfig) -> None:
        self.cls = BertPreTrainingHeads(config, words=False, pairs=True)

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.cls.seq_relationship(body.pooler_output)  # [B, H] → [B, 2]
        return outputs.NextSentencePredictorOutput(ops.label_loss(logits, labels), logits)


class BertForPreTraining(BertForMaskedLM):
    """Both heads of pretraining at once: masked words, and whether the second text follows the first."""

    pools = True

    def build(self, config: BertConfig) -> None:
        self.cls = BertPreTrainingHeads(config, pairs=True)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, next_sentence_label: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BertModel`; `labels` `[B, S]` of the masked words and `next_sentence_label` `[B]`."""
        tokens = self.pack(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels, next_sentence_label)

    def read(self, body: Any, layout: Layout, labels: Ids, follows: Ids = None) -> ModelOutput:
        words, pair = super().read(body, layout, labels), self.cls.seq_relationship(body.pooler_output)  # [B, 2]
        loss = None if labels is None or follows is None else words["loss"] + ops.cross_entropy(pair, follows)
        return outputs.BertForPreTrainingOutput(loss, words["logits"], pair)


CONFIG = BertConfig
HEADS = {
    "Model": BertModel, "ForPreTraining": BertForPreTraining, "ForMaskedLM": BertForMaskedLM,
    "ForCausalLM": BertLMHeadModel, "ForNextSentencePrediction": BertForNextSentencePrediction,
    "ForSequenceClassification": BertForSequenceClassification, "ForMultipleChoice": BertForMultipleChoice,
    "ForTokenClassification": BertForTokenClassification, "ForQuestionAnswering": BertForQuestionAnswering,
}  # fmt: skip
TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 40}  # fmt: skip
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "type_vocab_size": 3, "layer_norm_eps": 1e-5},
    {"is_decoder": True, "hidden_act": "silu", "num_attention_heads": 8},
]
