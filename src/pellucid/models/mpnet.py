"""MPNet: an encoder whose attention also knows how far apart two tokens are.

Song et al. 2020, "MPNet: Masked and Permuted Pre-training for Language Understanding", arXiv:2004.09297.
Checkpoints: microsoft/mpnet-base, sentence-transformers/all-mpnet-base-v2.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `MPNetEmbeddings` turns ids into vectors; `MPNetEncoder` looks up what each distance between two tokens
adds to their attention scores, once for all layers; each `MPNetLayer` lets the tokens look at each other
(`MPNetAttention`) and then transforms each token on its own, as in BERT (see `bert.py`); the heads read the answer off.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Layout, Maps, PackedTokens
from pellucid.models.bert import BertIntermediate, BertOutput
from pellucid.outputs import BaseModelOutputWithPooling

Bias = Sequence[Tensor]  # what distances add to attention scores, run by run of the layout: [1, N, length, length]
PADDING = 1  # the id of padding and its position, whatever the configuration says; texts begin at the position after it
BUCKETS, FARTHEST = 32, 128  # distances are sorted into this many kinds, all from the farthest on into the last one


class MPNetConfig(PretrainedConfig):
    """Sizes and rates of an MPNet; the defaults are those of microsoft/mpnet-base."""

    model_type = "mpnet"

    vocab_size: Size = 30527
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    num_attention_heads: Size = 12
    intermediate_size: Size = 3072
    hidden_act: str = "gelu"
    hidden_dropout_prob: Rate = 0.1
    attention_probs_dropout_prob: Rate = 0.1
    max_position_embeddings: Size = 512
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-12
    relative_attention_num_buckets: Size = 32
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def validate(self) -> None:
        """Heads must share the hidden size evenly, the activation must exist, tables have the rows that are read."""
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        self.require(self.hidden_act in ops.ACTIVATIONS, "hidden_act", f"one of {sorted(ops.ACTIVATIONS)}")
        tables = ("relative_attention_num_buckets", "vocab_size", "max_position_embeddings")
        for name, least in zip(tables, (BUCKETS, PADDING + 1, PADDING + 2), strict=True):
            self.require(getattr(self, name) >= least, name, f"at least {least}")

    @property
    def head_dropout(self) -> float:
        """Rate of dropout before a classifier."""
        return self.hidden_dropout_prob

    @property
    def padding(self) -> int:
        """The id of padding, and its position."""
        return PADDING

    @property
    def readable_tokens(self) -> int:
        """How many tokens have a place: all positions, but those up to that of padding."""
        return self.max_position_embeddings - PADDING - 1


class MPNetEmbeddings(nn.Module):
    """Word and position vectors, added and normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size, padding_idx=PADDING)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = ops.embed_words(self.word_embeddings, tokens)  # [T] → [T, H]
        vectors = vectors + ops.embed_positions(self.position_embeddings, tokens)
        return self.dropout(self.LayerNorm(vectors))


class MPNetSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined = ("q", "k", "v")  # a speed form may compute these at once
    read_by = "o"  # reads what the heads have found, so that heads can be pruned
    kept: list[int] | None = None  # numbers of the heads that are left when some were pruned

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.q = nn.Linear(config.hidden_size, config.hidden_size)
        self.k = nn.Linear(config.hidden_size, config.hidden_size)
        self.v = nn.Linear(config.hidden_size, config.hidden_size)
        self.o = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = ops.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.q, self.k, self.v)
        query, key, value = (x.view(-1, x.shape[-1] // self.head_size, self.head_size) for x in projected)  # [T, N, D]
        bias = bias if self.kept is None else [one[:, self.kept] for one in bias]  # [1, N, L, L] for each run
        dropout = self.dropout.p if self.training else 0.0
        mixed, maps = ops.attention(query, key, value, layout, bias=bias, dropout=dropout, need_weights=need_weights)
        return self.o(mixed), maps  # [T, H]


class MPNetAttention(nn.Module):
    """Self-attention, then add what went in and normalise: `[T, H]` → `[T, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.attn = MPNetSelfAttention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attn(hidden, layout, need_weights, bias)
        return self.LayerNorm(self.dropout(mixed) + hidden), maps


class MPNetLayer(nn.Module):
    """Attention between tokens, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.attention = MPNetAttention(config)
        self.intermediate = BertIntermediate(config)  # type: ignore[arg-type]  # reads only sizes that both have
        self.output = BertOutput(config, config.intermediate_size)  # type: ignore[arg-type]

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias) -> tuple[Tensor, Maps | None]:
        attended, maps = self.attention(hidden, layout, need_weights, bias)
        return self.output(self.intermediate(attended), attended), maps


class MPNetEncoder(heads.LayerStack):
    """The layers, one after another, and the table of distances that they share."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(MPNetLayer(config) for _ in range(config.num_hidden_layers))
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)

    def distance_bias(self, layout: Layout) -> Bias:
        """Look up what the distance between two tokens adds to their scores in each head; runs share one table."""
        longest = max([0, *(run.length for run in layout.runs)])
        column = torch.arange(longest, device=self.relative_attention_bias.weight.device)
        buckets = ops.relative_buckets(column[None, :] - column[:, None], BUCKETS, FARTHEST, bidirectional=True)
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None].contiguous()  # [L, L] → [1, N, L, L]
        return [bias[:, :, : run.length, : run.length] for run in layout.runs]


class MPNetPooler(nn.Module):
    """One vector for a text, made of that of its first token: `[B, H]` → `[B, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, first: Tensor) -> Tensor:
        return self.dense(first).tanh()


class MPNetPreTrainedModel(heads.CountsFromPadding):
    """What all MPNet classes have in common: their configuration, the names of their parts, and how positions count."""

    config_class = MPNetConfig
    base_model_prefix = "mpnet"
    input_embeddings = "embeddings.word_embeddings"
    config: MPNetConfig


class MPNetModel(MPNetPreTrainedModel, heads.EncoderWithoutTokenTypes):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooling layer."""

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = MPNetEmbeddings(config)
        self.encoder = MPNetEncoder(config)
        self.pooler = MPNetPooler(config) if add_pooling_layer else None
        self.post_init()

    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> BaseModelOutputWithPooling:
        layout, hidden = tokens.layout, self.embeddings(tokens)  # [T] → [T, H]
        bias = self.encoder.distance_bias(layout)
        hidden, states, maps = self.encoder(hidden, layout, want_maps, want_states, bias)
        pooled = None if self.pooler is None else self.pooler(layout.first(hidden))  # [T, H] → [B, H]
        return BaseModelOutputWithPooling(hidden, pooled, states, maps)


class MPNetHead(MPNetPreTrainedModel, heads.HeadWithoutTokenTypes):
    """The way through a model with a head, around this body."""

    def make_body(self) -> MPNetModel:
        return MPNetModel(self.config, add_pooling_layer=self.pools)


class MPNetLMHead(nn.Module):
    """Each token's vector → a score for every word of the vocabulary: `[T, H]` → `[T, V]`."""

    activated = {"dense": "activation"}  # a speed form may compute these at once

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation("gelu")  # whatever the layers use
        self.layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size)  # its weight is the word embeddings' (tied)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))  # checkpoints know the decoder's bias by this name

    def forward(self, hidden: Tensor) -> Tensor:
        return self.decoder(self.layer_norm(self.activation(self.dense(hidden))))


class MPNetForMaskedLM(MPNetHead, heads.MaskedLM):
    """The word behind each `<mask>`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "lm_head.decoder"
    tied = {
        "lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def build(self, config: MPNetConfig) -> None:
        self.lm_head = MPNetLMHead(config)

    def logits(self, body: Any) -> Tensor:
        return self.lm_head(body.last_hidden_state)  # [T, H] → [T, V]


class MPNetClassificationHead(nn.Module):
    """The first token's vector → a score for each class: `[B, H]` → `[B, C]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(first)))))


class MPNetForSequenceClassification(MPNetHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    pools = False

    def build(self, config: MPNetConfig) -> None:
        self.classifier = MPNetClassificationHead(config)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classifier(layout.first(body.last_hidden_state))  # [T, H] → [B, H] → [B, C]


class MPNetForMultipleChoice(MPNetHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class MPNetForTokenClassification(MPNetHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""


class MPNetForQuestionAnswering(MPNetHead, heads.QuestionAnsweringWithoutTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


CONFIG = MPNetConfig
HEADS = {
    "Model": MPNetModel,
    "ForMaskedLM": MPNetForMaskedLM,
    "ForSequenceClassification": MPNetForSequenceClassification,
    "ForMultipleChoice": MPNetForMultipleChoice,
    "ForTokenClassification": MPNetForTokenClassification,
    "ForQuestionAnswering": MPNetForQuestionAnswering,
}
TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 48, "max_position_embeddings": 42}  # fmt: skip
VARIANTS = [
    {"hidden_act": "relu", "num_attention_heads": 1, "num_hidden_layers": 1, "pad_token_id": 0},
    {"hidden_act": "gelu_new", "tie_word_embeddings": False, "relative_attention_num_buckets": 40},
    {"layer_norm_eps": 1e-5, "num_attention_heads": 8, "hidden_act": "silu"},
]
