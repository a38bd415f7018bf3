"""DistilBERT: BERT with half the layers, no token types and no pooler, taught by BERT.

Sanh et al. 2019, "DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter", arXiv:1910.01108.
Checkpoints: distilbert-base-uncased, distilbert-base-uncased-finetuned-sst-2-english.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads,
`D` head size, `V` vocabulary, `C` classes.

The way through: `Embeddings` turns ids into vectors, each `TransformerBlock` lets the tokens look at each other
(`MultiHeadSelfAttention`) and then transforms each token on its own (`FFN`); the heads read the answer off.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutput, ModelOutput


class DistilBertConfig(PretrainedConfig):
    """Sizes and rates of a DistilBERT; the defaults are those of distilbert-base-uncased."""

    model_type = "distilbert"
    attribute_map = {
        "hidden_size": "dim",
        "num_attention_heads": "n_heads",
        "num_hidden_layers": "n_layers",
        "intermediate_size": "hidden_dim",
        "hidden_act": "activation",
    }

    vocab_size: Size = 30522
    max_position_embeddings: Size = 512
    sinusoidal_pos_embds: bool = False
    n_layers: Size = 6
    n_heads: Size = 12
    dim: Size = 768
    hidden_dim: Size = 3072
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.1
    activation: str = "gelu"
    initializer_range: Positive = 0.02
    qa_dropout: Rate = 0.1
    seq_classif_dropout: Rate = 0.2
    pad_token_id: int | None = 0

    def validate(self) -> None:
        """Heads must share the hidden size evenly, and the activation must exist."""
        self.require(self.dim % self.n_heads == 0, "n_heads", f"a divisor of dim {self.dim}")
        self.require(self.activation in ops.ACTIVATIONS, "activation", f"one of {sorted(ops.ACTIVATIONS)}")


class Embeddings(nn.Module):
    """Word and position vectors, added and normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.dim, padding_idx=config.pad_token_id)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.dim)
        self.LayerNorm = nn.LayerNorm(config.dim, eps=1e-12)
        self.dropout = ops.Dropout(config.dropout)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = ops.embed_words(self.word_embeddings, tokens)  # [T] → [T, H]
        vectors = vectors + ops.embed_positions(self.position_embeddings, tokens)
        return self.dropout(self.LayerNorm(vectors))


class MultiHeadSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined = ("q_lin", "k_lin", "v_lin")  # a speed form may compute these at once
    read_by = "out_lin"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.head_size = config.dim // config.n_heads
        self.dropout = ops.Dropout(config.attention_dropout)
        self.q_lin = nn.Linear(config.dim, config.dim)
        self.k_lin = nn.Linear(config.dim, config.dim)
        self.v_lin = nn.Linear(config.dim, config.dim)
        self.out_lin = nn.Linear(config.dim, config.dim)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.q_lin, self.k_lin, self.v_lin)
        query, key, value = (x.view(-1, x.shape[-1] // self.head_size, self.head_size) for x in projected)  # [T, N, D]
        dropout = self.dropout.p if self.training else 0.0
        mixed, maps = ops.attention(query, key, value, layout, dropout=dropout, need_weights=need_weights)
        return self.out_lin(mixed), maps


class FFN(nn.Module):
    """Each token on its own: widen, bend, narrow. `[T, H]` → `[T, H]`."""

    activated = {"lin1": "activation"}  # a speed form may compute these at once

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.dropout = ops.Dropout(config.dropout)
        self.lin1 = nn.Linear(config.dim, config.hidden_dim)
        self.lin2 = nn.Linear(config.hidden_dim, config.dim)
        self.activation = ops.activation(config.activation)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.lin2(self.activation(self.lin1(hidden))))  # H → hidden_dim → H


class TransformerBlock(nn.Module):
    """Attention between tokens, then a feed-forward network on each; after both, add what went in and normalise."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__()
        self.attention = MultiHeadSelfAttention(config)
        self.sa_layer_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.ffn = FFN(config)
        self.output_layer_norm = nn.LayerNorm(config.dim, eps=1e-12)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attention(hidden, layout, need_weights)
        hidden = self.sa_layer_norm(mixed + hidden)
        return self.output_layer_norm(self.ffn(hidden) + hidden), maps


class Transformer(heads.LayerStack):
    """The layers, one after another."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(TransformerBlock(config) for _ in range(config.n_layers))


class DistilBertPreTrainedModel(PreTrainedModel):
    """What all DistilBERT classes have in common: their configuration and the names of their parts."""

    config_class = DistilBertConfig
    base_model_prefix = "distilbert"
    input_embeddings = "embeddings.word_embeddings"
    config: DistilBertConfig

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """As in every model, but for fixed waves as positions when `sinusoidal_pos_embds` says so."""
        super().init_parameter(module, name, parameter)
        if self.config.sinusoidal_pos_embds and module is self.base_model.get_submodule(
            "embeddings.position_embeddings"
        ):
            place = torch.arange(parameter.shape[0], dtype=torch.float64)[:, None]
            rate = 10000.0 ** (-torch.arange(0, parameter.shape[1], 2, dtype=torch.float64) / parameter.shape[1])
            parameter[:, 0::2] = (place * rate).sin().to(parameter.dtype)
            parameter[:, 1::2] = (place * rate[: parameter.shape[1] // 2]).cos().to(parameter.dtype)


class DistilBertModel(DistilBertPreTrainedModel, heads.Encoder):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: DistilBertConfig) -> None:
        super().__init__(config)
        self.embeddings = Embeddings(config)
        self.transformer = Transformer(config)
        self.post_init()

    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> BaseModelOutput:
        hidden = self.embeddings(tokens)  # [T] → [T, H]
        return BaseModelOutput(*self.transformer(hidden, tokens.layout, want_maps, want_states))

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None, position_ids: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run the body; arguments as in `EncoderWithTokenTypes`, but for the token types, in an order of their own."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, packed is not None)


class DistilBertHead(DistilBertPreTrainedModel, heads.EncoderHead):
    """The way through a model with a head, around this body."""

    def make_body(self) -> DistilBertModel:
        return DistilBertModel(self.config)

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None, labels: Ids = None,
        position_ids: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `DistilBertModel`, and the head's `labels`, which add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, labels)


class DistilBertForMaskedLM(DistilBertHead, heads.MaskedLM):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "vocab_projector"
    tied = {"vocab_projector.weight": "distilbert.embeddings.word_embeddings.weight"}
    activated = {"vocab_transform": "activation"}  # a speed form may compute these at once

    def build(self, config: DistilBertConfig) -> None:
        self.vocab_transform = nn.Linear(config.dim, config.dim)
        self.activation = ops.activation(config.activation)
        self.vocab_layer_norm = nn.LayerNorm(config.dim, eps=1e-12)
        self.vocab_projector = nn.Linear(config.dim, config.vocab_size)

    def logits(self, body: Any) -> Tensor:
        hidden = self.vocab_layer_norm(self.activation(self.vocab_transform(body.last_hidden_state)))
        return self.vocab_projector(hidden)  # [T, H] → [T, V]


class DistilBertTextHead(DistilBertHead, heads.TextHead):
    """What the heads that judge a text have in common: a pooler of their own, `pre_classifier`."""

    def build(self, config: DistilBertConfig) -> None:
        self.pre_classifier = nn.Linear(config.dim, config.dim)
        self.classifier = nn.Linear(config.dim, self.classes(config))
        self.dropout = ops.Dropout(config.seq_classif_dropout)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        pooled = self.pre_classifier(layout.first(body.last_hidden_state)).relu()  # [T, H] → [B, H]
        return self.classifier(self.dropout(pooled))  # [B, H] → [B, C]


class DistilBertForSequenceClassification(DistilBertTextHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""


class DistilBertForMultipleChoice(DistilBertTextHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class DistilBertForTokenClassification(DistilBertHead, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def build(self, config: DistilBertConfig) -> None:
        self.dropout = ops.Dropout(config.dropout)
        self.classifier = nn.Linear(config.dim, config.num_labels)


class DistilBertForQuestionAnswering(DistilBertHead, heads.QuestionAnswering):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def build(self, config: DistilBertConfig) -> None:
        self.qa_outputs = nn.Linear(config.dim, 2)
        self.dropout = ops.Dropout(config.qa_dropout)

    def forward(  # type: ignore[override]  # a head with two labels
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None,
        start_positions: Ids = None, end_positions: Ids = None, position_ids: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `DistilBertModel`; positions of the answer's first and last token add a `loss`."""
        tokens = self.pack(input_ids, attention_mask, None, position_ids, inputs_embeds, packed=packed)
        return self.run(tokens, output_attentions, output_hidden_states, return_dict, start_positions, end_positions)

    def logits(self, body: Any) -> Tensor:
        return self.qa_outputs(self.dropout(body.last_hidden_state))  # [T, H] → [T, 2]


CONFIG = DistilBertConfig
HEADS = {
    "Model": DistilBertModel, "ForMaskedLM": DistilBertForMaskedLM,
    "ForSequenceClassification": DistilBertForSequenceClassification,
    "ForMultipleChoice": DistilBertForMultipleChoice, "ForTokenClassification": DistilBertForTokenClassification,
    "ForQuestionAnswering": DistilBertForQuestionAnswering,
}  # fmt: skip
TINY = {"vocab_size": 99, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48, "max_position_embeddings": 40}
VARIANTS = [
    {"activation": "relu", "n_heads": 1, "n_layers": 1},
    {"activation": "gelu_new", "tie_word_embeddings": False, "n_heads": 8},
]
