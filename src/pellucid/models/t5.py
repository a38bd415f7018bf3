"""T5: an encoder that reads and a decoder that writes, in which distances between tokens take the place of positions.

Raffel et al. 2019, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text Transformer",
arXiv:1910.10683. Version 1.1, and with it FLAN-T5 and ByT5, has gates (Shazeer 2020, arXiv:2002.05202).
Checkpoints: google-t5/t5-small, google/t5-v1_1-base, google/flan-t5-base, google/byt5-small.

Axes: `B` batch, `S` the decoder's sequence, `source` the encoder's, `T` packed tokens, `H` hidden (`d_model`),
`N` heads, `D` head size (`d_kv`; `N * D` need not be `H`), `K` tokens looked at, `V` vocabulary, `C` classes.

The way through: words become vectors, and nothing else is added. In each `T5Block` the tokens look at those of their
own text (`T5Attention`), in the decoder then at the source (`across`), and are transformed on their own
(`T5FeedForward`), always on normalised copies, and what comes out is added to what went in. How far apart two tokens
are adds to their scores what `T5RelativeBias` has learned; the first layer of a stack holds it, and all use it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid import ops, outputs
from pellucid.cache import Memory, Source
from pellucid.config import Positive, PretrainedConfig, Rate, Size, derived
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import ModelOutput
from pellucid.seq2seq import ConditionalGeneration, EncoderDecoder, SpanFinding, TextClassification

Bias = Sequence[Tensor]  # what distances add to attention scores, run by run of the layout: [count or 1, N, L, K]


class T5Config(PretrainedConfig):
    """Sizes and rates of a T5; the defaults are those of t5-small.

    `feed_forward_proj` is an activation, for gates with `gated-` before it. `tie_word_embeddings=False` is version 1.1:
    words are read out by a layer of their own, and the states not made smaller before (`scale_decoder_outputs`).
    """

    model_type = "t5"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model", "num_attention_heads": "num_heads", "num_hidden_layers": "num_layers",
        "head_dim": "d_kv",
    }  # fmt: skip

    vocab_size: Size = 32128
    d_model: Size = 512
    d_kv: Size = 64
    d_ff: Size = 2048
    num_layers: Size = 6
    num_decoder_layers: Size = derived(lambda config: config.num_layers)
    num_heads: Size = 8
    relative_attention_num_buckets: Size = 32
    relative_attention_max_distance: Size = 128
    dropout_rate: Rate = 0.1
    layer_norm_epsilon: Positive = 1e-6
    initializer_factor: Positive = 1.0
    feed_forward_proj: str = "relu"
    dense_act_fn: str = derived(lambda config: _activation_of(config.feed_forward_proj))
    is_gated_act: bool = derived(lambda config: config.feed_forward_proj.startswith("gated-"))
    scale_decoder_outputs: bool = derived(lambda config: config.tie_word_embeddings)
    is_encoder_decoder: bool = True
    use_cache: bool = True
    pad_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 1
    decoder_start_token_id: int | None = 0
    classifier_dropout: Rate = 0.0
    is_decoder: bool = False

    def validate(self) -> None:
        """The feed-forward network must be known, and distances need at least two kinds for each direction."""
        wanted = f"one of {sorted(ops.ACTIVATIONS)}, or 'gated-' and one of them"
        self.require(self.dense_act_fn in ops.ACTIVATIONS, "feed_forward_proj", wanted)
        buckets, farthest = self.relative_attention_num_buckets, self.relative_attention_max_distance
        self.require(buckets >= 4, "relative_attention_num_buckets", "at least 4")
        self.require(farthest > buckets // 2, "relative_attention_max_distance", f"more than half of {buckets} buckets")


def _activation_of(feed_forward_proj: str) -> str:
    return "gelu_new" if feed_forward_proj == "gated-gelu" else feed_forward_proj.removeprefix("gated-")


class T5FeedForward(nn.Module):
    """Widen, activate, with a gate multiply by a second widening, and back: `[T, H]` → `[T, H]`."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.joined = ("wi_0", "wi_1") if config.is_gated_act else ("wi",)  # a speed form may compute these at once
        for name in self.joined:
            self.add_module(name, nn.Linear(config.d_model, config.d_ff, bias=False))
        self.wo = nn.Linear(config.d_ff, config.d_model, bias=False)
        self.dropout = ops.Dropout(config.dropout_rate)
        self.activation = ops.activation(config.dense_act_fn)

    def forward(self, hidden: Tensor) -> Tensor:
        wide, *second = ops.project(hidden, *(self.get_submodule(name) for name in self.joined))  # [T, H] → [T, d_ff]
        wide = self.activation(wide) * second[0] if second else self.activation(wide)
        return self.wo(self.dropout(wide))


class T5RelativeBias(nn.Module):
    """What the distance between two tokens adds to their score, learned for each head and kind of distance."""

    def __init__(self, config: T5Config, bidirectional: bool) -> None:
        super().__init__()
        self.buckets, self.max_distance = config.relative_attention_num_buckets, config.relative_attention_max_distance
        self.bidirectional = bidirectional
        self.weight = nn.Parameter(torch.zeros(self.buckets, config.num_heads))

    def forward(self, layout: Layout, memory: Memory | None) -> Bias:
        """For each run of the layout `[count or 1, N, L, K]`; `memory` is that of any of the layers."""
        if layout.past is not None:
            return [self.look_up(apart) for apart in ops.distances(layout, self.weight.device, memory)]
        longest = max([0, *(run.length for run in layout.runs)])
        place = torch.arange(longest, device=self.weight.device)
        bias = self.look_up((place[None, :] - place[:, None])[None])
        return [bias[:, :, : run.length, : run.length] for run in layout.runs]  # runs share one table

    def look_up(self, apart: Tensor) -> Tensor:
        """`[count, L, K]` distances → `[count, N, L, K]`."""
        kinds = ops.relative_buckets(apart, self.buckets, self.max_distance, self.bidirectional)
        return nn.functional.embedding(kinds, self.weight).permute(0, 3, 1, 2).contiguous()


class T5Attention(nn.Module):
    """Tokens gather from tokens of their own text, or across from another one: `[T, H]` → `[T, H]`."""

    joined: tuple[str, ...] = ("q", "k", "v")  # a speed form may compute these at once

    def __init__(self, config: T5Config, layer_idx: int, causal: bool, across: bool = False) -> None:
        super().__init__()
        self.head_size, size = config.d_kv, config.num_heads * config.d_kv
        self.layer_idx, self.causal, self.dropout = layer_idx, causal, ops.Dropout(config.dropout_rate)
        self.joined = () if across else self.joined  # queries and keys are of different texts
        self.q, self.k, self.v = (nn.Linear(config.d_model, size, bias=False) for _ in range(3))
        self.o = nn.Linear(size, config.d_model, bias=False)
        self.relative_attention_bias = None if layer_idx or across else T5RelativeBias(config, not causal)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias) -> tuple[Tensor, Maps | None]:
        query, key, value = (self.heads(x) for x in ops.project(hidden, self.q, self.k, self.v))  # [T, H] → [T, N, D]
        mixed, maps = ops.attention(
            query, key, value, layout, causal=self.causal, bias=bias, scale=1.0, need_weights=need_weights,
            dropout=self.dropout.p if self.training else 0.0, memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.o(mixed), maps  # [T, N * D] → [T, H]

    def across(self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source) -> tuple[Tensor, Maps | None]:
        """Queries of the decoder's tokens, keys and values of the encoder's, which are made once; no distances."""
        query, memory = self.heads(self.q(hidden)), source.memory(self.layer_idx)
        if memory.keys is None and source.states is not None and source.layout is not None:
            key, value = self.heads(self.k(source.states)), self.heads(self.v(source.states))
            memory.store(key, value, source.layout)  # [T of the source, N, D]
        mixed, maps = ops.attend(
            ops.cross_blocks(query, layout, memory), query, scale=1.0, need_weights=need_weights,
            dropout=self.dropout.p if self.training else 0.0,
        )  # fmt: skip
        return self.o(mixed), maps

    def heads(self, x: Tensor) -> Tensor:
        return x.view(-1, x.shape[-1] // self.head_size, self.head_size)  # [T, N * D] → [T, N, D]


class T5Block(nn.Module):
    """Attention within the text, in a decoder also to the source, then a feed-forward network: `[T, H]` → `[T, H]`."""

    layer: Any  # steps, each an `nn.ModuleDict` of its norm and what it does

    def __init__(self, config: T5Config, layer_idx: int, writes: bool) -> None:
        super().__init__()
        steps: dict[str, nn.Module] = {"SelfAttention": T5Attention(config, layer_idx, causal=writes)}
        if writes:
            steps["EncDecAttention"] = T5Attention(config, layer_idx, causal=False, across=True)
        steps["DenseReluDense"] = T5FeedForward(config)  # the name in checkpoints, whatever the activation
        size, eps = config.d_model, config.layer_norm_epsilon
        made = (nn.ModuleDict({name: step, "layer_norm": nn.RMSNorm(size, eps)}) for name, step in steps.items())
        self.layer = nn.ModuleList(made)
        self.dropout = ops.Dropout(config.dropout_rate)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, bias: Bias, source: Source | None
    ) -> tuple[Tensor, Any]:
        own, *across, last = self.layer
        mixed, maps = own["SelfAttention"](own["layer_norm"](hidden), layout, need_weights, bias)
        hidden, cross = hidden + self.dropout(mixed), None
        if source is not None:
            look = across[0]
            mixed, cross = look["EncDecAttention"].across(look["layer_norm"](hidden), layout, need_weights, source)
            hidden = hidden + self.dropout(mixed)
        changed = last["DenseReluDense"](last["layer_norm"](hidden))
        return hidden + self.dropout(changed), (maps, cross) if need_weights else None


class T5PreTrainedModel(PreTrainedModel):
    """What all T5 classes have in common: their configuration, the names of their parts, and first numbers."""

    config_class = T5Config
    base_model_prefix = "transformer"
    input_embeddings = "shared"
    # of an old form: across two texts, distances mean nothing
    computed: ClassVar[tuple[str, ...]] = ("*EncDecAttention.relative_attention_bias.weight",)
    file_decides_ties = True  # configurations of version 1.1 may call tensors tied that are not
    config: T5Config

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """Words start large, norms at one, and a layer so that what comes out is as large as what goes in."""
        factor = self.config.initializer_factor
        if isinstance(module, nn.RMSNorm):
            parameter.fill_(factor)
        elif name == "bias":
            parameter.zero_()
        elif isinstance(module, nn.Embedding) or (self.output_embeddings and module is self.get_output_embeddings()):
            parameter.normal_(0.0, factor)
        else:
            inputs = self.config.d_model if isinstance(module, T5RelativeBias) else parameter.shape[-1]
            parameter.normal_(0.0, factor * inputs**-0.5)

    @torch.no_grad()
    def _initialize(self, names: list[str], dtype: torch.dtype | None = None) -> None:
        super()._initialize(names, dtype)
        for name in names:
            if name.endswith(".q.weight"):  # because scores are not divided by sqrt(D)
                self.get_parameter(name).mul_(self.config.d_kv**-0.5)

    def set_input_embeddings(self, value: nn.Embedding) -> None:
        super().set_input_embeddings(value)
        for part in self.modules():
            if isinstance(part, T5Stack):
                part.embed_tokens = value


class T5Stack(T5PreTrainedModel):
    """Blocks, one table of distances for all of them, a norm at the end: an encoder, or a decoder, which `writes`."""

    base_model_prefix = ""
    input_embeddings = "embed_tokens"

    def __init__(self, config: T5Config, words: nn.Embedding, depth: int, writes: bool) -> None:
        super().__init__(config)
        self.writes, self.embed_tokens = writes, words
        self.block = nn.ModuleList(T5Block(config, number, writes) for number in range(depth))
        self.final_layer_norm = nn.RMSNorm(config.d_model, eps=config.layer_norm_epsilon)
        self.dropout = ops.Dropout(config.dropout_rate)
        self.gradient_checkpointing = False

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None, source: Source | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `T5Model`; a decoder is given packed tokens, and the `source` that it looks at."""
        tokens = pack_tokens(input_ids, attention_mask, None, None, inputs_embeds, None, packed)
        hidden, layout = tokens.inputs_embeds, tokens.layout
        if tokens.input_ids is not None:
            hidden = ops.embed(self.embed_tokens, tokens.input_ids)  # [T] → [T, H]
        bias = self.get_submodule("block.0.layer.0.SelfAttention.relative_attention_bias")(layout, layout.memory(0))
        asked = self.wanted(output_attentions, output_hidden_states)
        again, hidden = self.gradient_checkpointing and self.training, self.dropout(hidden)
        hidden, states, pairs = ops.run_layers(self.block, hidden, layout, *asked, again, bias, source)
        hidden = self.dropout(self.final_layer_norm(hidden))
        states = None if states is None else (*states[:-1], hidden)
        maps, cross = (None if pairs is None else tuple(pair[which] for pair in pairs) for which in (0, 1))
        if self.writes:
            return outputs.BaseModelOutputWithPastAndCrossAttentions(hidden, layout.close(), states, maps, cross)
        if packed is not None:
            return outputs.BaseModelOutput(hidden, states, maps)
        return self.finish(outputs.BaseModelOutput(layout.unpack(hidden), states, maps), layout, return_dict)


class T5Model(T5PreTrainedModel, EncoderDecoder):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    stack_class: ClassVar[type[T5Stack]] = T5Stack

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = self.stack_class(config, self.shared, config.num_layers, writes=False)
        self.decoder = self.stack_class(config, self.shared, config.num_decoder_layers, writes=True)
        self.build(config)
        self.post_init()

    def build(self, config: T5Config) -> None:
        """Make the layers of a head: some heads of T5 lie beside encoder and decoder, not around them."""


class T5ForConditionalGeneration(ConditionalGeneration, T5Model):  # type: ignore[misc]  # whose head lies beside it
    """The decoder writes: scores of the next word after each of its tokens."""

    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "shared.weight"}

    def build(self, config: T5Config) -> None:
        self.lm_head = nn.Linear(config.d_model, config.vocab_size, bias=False)
        self.scale = config.d_model**-0.5 if config.scale_decoder_outputs else 1.0

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden * self.scale)  # [..., H] → [..., V]


class T5ForQuestionAnswering(SpanFinding, T5Model):  # type: ignore[misc]  # likewise
    """Where in a text the answer begins and ends."""

    def build(self, config: T5Config) -> None:
        self.qa_outputs = nn.Linear(config.d_model, 2)


class T5ClassificationHead(nn.Module):
    """One more layer, and a score for each class: `[B, H]` → `[B, C]`."""

    def __init__(self, config: T5Config) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model)
        self.dropout = ops.Dropout(config.classifier_dropout)
        self.out_proj = nn.Linear(config.d_model, config.num_labels)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.out_proj(self.dropout(torch.tanh(self.dense(self.dropout(hidden)))))


class T5ForSequenceClassification(T5PreTrainedModel, TextClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]`."""

    body_class: ClassVar[type[T5Model]] = T5Model

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.transformer = self.body_class(config)
        self.classification_head = T5ClassificationHead(config)
        self.post_init()


class T5EncoderModel(T5PreTrainedModel):
    """The encoder alone: ids in, one vector for each token out."""

    computed = ("*decoder.*", "*lm_head.*")  # what a checkpoint of the whole holds beside
    stack_class: ClassVar[type[T5Stack]] = T5Stack

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.shared = nn.Embedding(config.vocab_size, config.d_model)
        self.encoder = self.stack_class(config, self.shared, config.num_layers, writes=False)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `T5Model`, of the one text that there is; results stay packed when `packed` is given."""
        asked = (output_attentions, output_hidden_states, return_dict)
        return self.encoder(input_ids, attention_mask, inputs_embeds, *asked, packed)


class T5ForTokenClassification(T5PreTrainedModel):
    """A class for each token, read off the encoder alone; `labels` `[B, S]`, -100 left out."""

    computed = T5EncoderModel.computed
    body_class: ClassVar[type[T5EncoderModel]] = T5EncoderModel

    def __init__(self, config: T5Config) -> None:
        super().__init__(config)
        self.transformer = self.body_class(config)
        self.dropout = ops.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.d_model, config.num_labels)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None, labels: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `T5EncoderModel`; `labels` add a `loss`."""
        tokens = pack_tokens(input_ids, attention_mask, None, None, inputs_embeds, None, packed)
        asked = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
        body, layout = self.transformer(packed=tokens, **asked), tokens.layout
        logits = self.classifier(self.dropout(body.last_hidden_state))  # [T, H] → [T, C]
        output = outputs.TokenClassifierOutput(ops.token_loss(logits, labels, layout), layout.unpack(logits))
        return self.finish(output, layout, return_dict, body)


CONFIG = T5Config
HEADS = {
    "Model": T5Model, "ForSeq2SeqLM": T5ForConditionalGeneration, "ForTextEncoding": T5EncoderModel,
    "ForSequenceClassification": T5ForSequenceClassification, "ForTokenClassification": T5ForTokenClassification,
    "ForQuestionAnswering": T5ForQuestionAnswering,
}  # fmt: skip
TINY = {
    "vocab_size": 99, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 7, "eos_token_id": 0, "pad_token_id": 1,
    "decoder_start_token_id": 1,
}  # fmt: skip
VARIANTS = [
    {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False, "num_decoder_layers": 1, "d_kv": 8},
    {"feed_forward_proj": "gated-silu", "num_layers": 1, "num_decoder_layers": 3, "num_heads": 1, "d_kv": 40},
    {"feed_forward_proj": "gelu", "relative_attention_num_buckets": 32, "relative_attention_max_distance": 128,
     "layer_norm_epsilon": 1e-3, "initializer_factor": 0.5},
]  # fmt: skip
