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

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.models.bert import BertIntermediate, BertOutput
from pellucid.outputs import BaseModelOutputWithPooling, ModelOutput

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


def count_places(input_ids: Tensor) -> Tensor:
    """Position of each id in `[..., S]`: texts are counted from `PADDING + 1` on, padding is not counted."""
    real = input_ids != PADDING
    return real.cumsum(-1) * real + PADDING


def count_packed(tokens: PackedTokens) -> Tensor:
    """Positions `[T]` of tokens that lie packed already, or came as vectors, which do not tell what is padding."""
    ids = tokens.input_ids
    if ids is None:
        assert tokens.inputs_embeds is not None
        return tokens.layout.positions(tokens.inputs_embeds.device) + PADDING + 1
    rows = [ids.narrow(0, start, count * length).view(count, length) for start, count, length in tokens.layout.runs]
    return torch.cat([ids[:0], *(count_places(row).flatten() for row in rows)])


class MPNetEmbeddings(nn.Module):
    """Word and position vectors, added and normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=PADDING)
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, config.hidden_size, padding_idx=PADDING)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = tokens.inputs_embeds
        if tokens.input_ids is not None:
            vectors = ops.embed(self.word_embeddings, tokens.input_ids)  # [T] → [T, H]
        assert vectors is not None
        assert tokens.position_ids is not None
        vectors = vectors + ops.embed(self.position_embeddings, tokens.position_ids, "position_ids")
        return self.dropout(self.LayerNorm(vectors))


class MPNetSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence what its query finds in their keys: `[T, H]` → `[T, H]`."""

    joined = ("q", "k", "v")  # a speed form may compute these at once

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.num_heads = config.num_attention_heads
        self.head_size = config.hidden_size // config.num_attention_heads
        self.q = nn.Linear(config.hidden_size, config.hidden_size)
        self.k = nn.Linear(config.hidden_size, config.hidden_size)
        self.v = nn.Linear(config.hidden_size, config.hidden_size)
        self.o = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.q, self.k, self.v)
        query, key, value = (x.view(-1, self.num_heads, self.head_size) for x in projected)  # [T, H] → [T, N, D]
        dropout = self.dropout.p if self.training else 0.0
        mixed, maps = ops.attention(query, key, value, layout, bias=bias, dropout=dropout, need_weights=need_weights)
        return self.o(mixed), maps  # [T, H]


class MPNetAttention(nn.Module):
    """Self-attention, then add what went in and normalise: `[T, H]` → `[T, H]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.attn = MPNetSelfAttention(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)

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


class MPNetEncoder(nn.Module):
    """The layers, one after another, and the table of distances that they share."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(MPNetLayer(config) for _ in range(config.num_hidden_layers))
        self.relative_attention_bias = nn.Embedding(config.relative_attention_num_buckets, config.num_attention_heads)
        self.gradient_checkpointing = False

    def distance_bias(self, layout: Layout) -> Bias:
        """Look up what the distance between two tokens adds to their scores in each head; runs share one table."""
        longest = max([0, *(run.length for run in layout.runs)])
        column = torch.arange(longest, device=self.relative_attention_bias.weight.device)
        buckets = ops.relative_buckets(column[None, :] - column[:, None], BUCKETS, FARTHEST, bidirectional=True)
        bias = self.relative_attention_bias(buckets).permute(2, 0, 1)[None].contiguous()  # [L, L] → [1, N, L, L]
        return [bias[:, :, : run.length, : run.length] for run in layout.runs]

    def forward(
        self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Maps, ...] | None]:
        recompute = self.gradient_checkpointing and self.training
        bias = self.distance_bias(layout)
        return ops.run_layers(self.layer, hidden, layout, want_maps, want_states, recompute, bias)


class MPNetPreTrainedModel(PreTrainedModel):
    """What all MPNet classes have in common: their configuration, the names of their parts, and how positions count."""

    config_class = MPNetConfig
    base_model_prefix = "mpnet"
    input_embeddings = "embeddings.word_embeddings"
    config: MPNetConfig

    def enter(
        self, packed: PackedTokens | None, input_ids: Ids, attention_mask: Ids, position_ids: Ids, inputs_embeds: Ids
    ) -> PackedTokens:
        """The entrance: drop the padding, and give each token its position unless the caller has.

        Ids of padding are passed over in counting, masked tokens are not: so a batch is counted before it is packed.
        """
        if packed is None:
            counted = count_places(input_ids) if position_ids is None and input_ids is not None else position_ids
            tokens = pack_tokens(input_ids, attention_mask, None, counted, inputs_embeds)
        else:
            tokens, position_ids = packed, packed.position_ids
        if position_ids is None:
            ops.check_length(tokens.layout.width, self.config.max_position_embeddings - PADDING - 1)
        if tokens.position_ids is None:
            tokens = tokens._replace(position_ids=count_packed(tokens))
        return tokens


class MPNetModel(MPNetPreTrainedModel):
    """The body: ids in, one vector for each token out, and one for the sequence if there is a pooling layer."""

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = True) -> None:
        super().__init__(config)
        self.embeddings = MPNetEmbeddings(config)
        self.encoder = MPNetEncoder(config)
        dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.pooler = nn.ModuleDict({"dense": dense}) if add_pooling_layer else None
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPooling | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, S]`, 0 at padding; or `[B, S, S]`, which tokens each token sees. Default: all real.
            position_ids: `[B, S]`. Default: the tokens that are not padding, counted from 2 on.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
            output_attentions: return attention weights `[B, N, S, S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.

        Raises:
            InputError: for shapes that do not fit, ids outside the vocabulary, or a text longer than the model reads.
        """
        tokens = self.enter(packed, input_ids, attention_mask, position_ids, inputs_embeds)
        want_maps, want_states = self.wanted(output_attentions, output_hidden_states)
        hidden = self.embeddings(tokens)  # [T] → [T, H]
        hidden, states, maps = self.encoder(hidden, tokens.layout, want_maps, want_states)
        pooled = None if self.pooler is None else self.pooler["dense"](tokens.layout.first(hidden)).tanh()  # [B, H]
        if packed is not None:
            return BaseModelOutputWithPooling(hidden, pooled, states, maps)
        output = BaseModelOutputWithPooling(tokens.layout.unpack(hidden), pooled, states, maps)
        return self.finish(output, tokens.layout, return_dict)


class MPNetHead(MPNetPreTrainedModel, ABC):
    """The way through a model with a head: the body, then `read`, which takes the head's answer off it."""

    def __init__(self, config: MPNetConfig, add_pooling_layer: bool = False) -> None:
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer)

    @abstractmethod
    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        """Logits, and the loss when there are labels, from the packed body."""

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        labels: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run body and head: arguments as in `MPNetModel`, and the head's `labels`, which add a `loss`."""
        tokens = self.enter(packed, input_ids, attention_mask, position_ids, inputs_embeds)
        body = self.mpnet(packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        return self.finish(self.read(body, tokens.layout, labels), tokens.layout, return_dict, body)


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


class MPNetForMaskedLM(MPNetHead):
    """The word behind each `<mask>`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "lm_head.decoder"
    tied = {
        "lm_head.decoder.weight": "mpnet.embeddings.word_embeddings.weight",
        "lm_head.decoder.bias": "lm_head.bias",
    }

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config)
        self.lm_head = MPNetLMHead(config)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.lm_head(body.last_hidden_state)  # [T, H] → [T, V]
        return outputs.MaskedLMOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class MPNetClassificationHead(nn.Module):
    """The first token's vector → a score for each class: `[B, H]` → `[B, C]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.out_proj = nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, first: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(first)))))


class MPNetForSequenceClassification(MPNetHead):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config)
        self.classifier = MPNetClassificationHead(config)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        assert body.last_hidden_state is not None
        logits = self.classifier(layout.first(body.last_hidden_state))  # [T, H] → [B, C]
        return outputs.SequenceClassifierOutput(ops.classification_loss(logits, labels, self.config), logits)


class MPNetForMultipleChoice(MPNetHead):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config, add_pooling_layer=True)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, 1)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.pooler_output)).view(-1, layout.choices)  # [B*C, H] → [B, C]
        return outputs.MultipleChoiceModelOutput(ops.label_loss(logits, labels), logits)


class MPNetForTokenClassification(MPNetHead):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, body: BaseModelOutputWithPooling, layout: Layout, labels: Ids) -> ModelOutput:
        logits = self.classifier(self.dropout(body.last_hidden_state))  # [T, H] → [T, C]
        return outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))


class MPNetForQuestionAnswering(MPNetPreTrainedModel):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    def __init__(self, config: MPNetConfig) -> None:
        super().__init__(config)
        self.mpnet = MPNetModel(config, add_pooling_layer=False)
        self.qa_outputs = nn.Linear(config.hidden_size, 2)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> outputs.QuestionAnsweringModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `MPNetModel`; positions of the answer's first and last token add a `loss`."""
        tokens = self.enter(packed, input_ids, attention_mask, position_ids, inputs_embeds)
        body = self.mpnet(packed=tokens, output_attentions=output_attentions, output_hidden_states=output_hidden_states)
        logits = self.qa_outputs(body.last_hidden_state)  # [T, H] → [T, 2]
        start, end = tokens.layout.unpack_spans(logits)  # [B, S] each
        loss = ops.span_loss(start, end, start_positions, end_positions)
        return self.finish(outputs.QuestionAnsweringModelOutput(loss, start, end), tokens.layout, return_dict, body)


CONFIG = MPNetConfig
HEADS = {
    "Model": MPNetModel,
    "ForPreTraining": MPNetForMaskedLM,
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
