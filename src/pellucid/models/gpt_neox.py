"""GPT-NeoX: a stack of decoder layers that let tokens look back and transform them at once, with rotary positions.

Black et al. 2022, "GPT-NeoX-20B: An Open-Source Autoregressive Language Model", arXiv:2204.06745; Biderman et al. 2023,
"Pythia: A Suite for Analyzing Large Language Models", arXiv:2304.01373.
Checkpoints: EleutherAI/gpt-neox-20b, EleutherAI/pythia-160m, databricks/dolly-v2-3b.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads, `D` head size,
`V` vocabulary, `C` classes.

The way through: ids become vectors; in each `GPTNeoXLayer` attention (`GPTNeoXAttention`) and the feed-forward network
(`GPTNeoXMLP`) read normalised copies of the same states, and both results are added to them (or one after the other,
without `use_parallel_residual`); a last norm, and the head reads the answer off. Only a part of each head is turned by
its position.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from pellucid import heads, ops, outputs
from pellucid.cache import Cache, open_cache
from pellucid.config import Positive, Rate, RotaryConfig, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPast, ModelOutput


class GPTNeoXConfig(RotaryConfig):
    """Sizes and rates of a GPT-NeoX; the defaults are those of GPT-NeoX-20B.

    Older files call `rope_theta` `rotary_emb_base`, and `partial_rotary_factor`, the part of a head that is turned,
    `rotary_pct`.
    """

    model_type = "gpt_neox"
    attribute_map = {"rotary_emb_base": "rope_theta", "rotary_pct": "partial_rotary_factor"}

    vocab_size: Size = 50432
    hidden_size: Size = 6144
    num_hidden_layers: Size = 44
    num_attention_heads: Size = 64
    intermediate_size: Size = 24576
    hidden_act: str = "gelu"
    attention_dropout: Rate = 0.0
    hidden_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.1
    initializer_range: Positive = 0.02
    layer_norm_eps: Positive = 1e-5
    use_parallel_residual: bool = True
    attention_bias: bool = True
    use_cache: bool = True
    is_decoder: bool = False
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2

    def __init__(self, **values: Any) -> None:
        super().__init__(**{self.attribute_map.get(name, name): value for name, value in values.items()})

    def _rotary(self, given: dict[str, Any] | None, older: dict[str, Any]) -> dict[str, Any]:
        found = super()._rotary(given, older)
        found.setdefault("partial_rotary_factor", 0.25)
        return found

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(self.attribute_map.get(name, name), value)

    def to_dict(self) -> dict[str, Any]:
        """All fields and extra keys, ready for JSON, the older names of rotary settings among them."""
        return {**super().to_dict(), **{name: getattr(self, name) for name in ("rotary_emb_base", "rotary_pct")}}

    def validate(self) -> None:
        """Heads must share the hidden size evenly."""
        super().validate()
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")


class GPTNeoXAttention(nn.Module):
    """Each token gathers from those before it: `[T, H]` → `[T, H]`."""

    def __init__(self, config: GPTNeoXConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.num_heads, self.head_size = config.num_attention_heads, config.hidden_size // config.num_attention_heads
        self.dropout = config.attention_dropout
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        joint = self.query_key_value(hidden)  # [T, H] → [T, 3 * H], query, key and value of each head side by side
        query, key, value = joint.view(-1, self.num_heads, 3, self.head_size).unbind(2)  # [T, N, D] each
        query, key = ops.rotate(query, rotary), ops.rotate(key, rotary)
        mixed, maps = ops.attention(
            query, key, value, layout, causal=True, dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights, memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.dense(mixed), maps  # [T, N * D] → [T, H]


class GPTNeoXMLP(nn.Module):
    """A feed-forward network on each token: `[T, H]` → `[T, H]`."""

    activated = {"dense_h_to_4h": "act"}  # a speed form may compute these at once

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__()
        self.dense_h_to_4h = nn.Linear(config.hidden_size, config.intermediate_size)
        self.dense_4h_to_h = nn.Linear(config.intermediate_size, config.hidden_size)
        self.act = ops.activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dense_4h_to_h(self.act(self.dense_h_to_4h(hidden)))


class GPTNeoXLayer(nn.Module):
    """Attention to the tokens before and a feed-forward network, side by side or in turn: `[T, H]` → `[T, H]`."""

    def __init__(self, config: GPTNeoXConfig, layer_idx: int) -> None:
        super().__init__()
        self.use_parallel_residual = config.use_parallel_residual
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.post_attention_dropout = ops.Dropout(config.hidden_dropout)
        self.post_mlp_dropout = ops.Dropout(config.hidden_dropout)
        self.attention = GPTNeoXAttention(config, layer_idx)
        self.mlp = GPTNeoXMLP(config)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attention(self.input_layernorm(hidden), layout, need_weights, rotary)
        attended = hidden + self.post_attention_dropout(mixed)
        read = hidden if self.use_parallel_residual else attended
        return attended + self.post_mlp_dropout(self.mlp(self.post_attention_layernorm(read))), maps


class GPTNeoXPreTrainedModel(PreTrainedModel):
    """What all GPT-NeoX classes have in common: their configuration and the names of their parts."""

    config_class = GPTNeoXConfig
    base_model_prefix = "gpt_neox"
    input_embeddings = "embed_in"
    computed = ("*.attention.bias", "*.attention.masked_bias")
    config: GPTNeoXConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return GPTNeoXModel(self.config)


class GPTNeoXModel(GPTNeoXPreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__(config)
        self.embed_in = nn.Embedding(config.vocab_size, config.hidden_size)
        self.emb_dropout = ops.Dropout(config.hidden_dropout)
        self.layers = nn.ModuleList(GPTNeoXLayer(config, number) for number in range(config.num_hidden_layers))
        self.final_layer_norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        head_size = config.hidden_size // config.num_attention_heads
        self.rotary_emb = ops.Rotary(config.rope_parameters or {}, head_size, config.max_position_embeddings)
        self.gradient_checkpointing = False
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        past_key_values: Cache | None = None, use_cache: bool | None = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPast | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, P + S]`, 0 at padding, `P` cached columns first; or `[B, S, S]`. Default: all real.
            position_ids: `[B, S]`. Default: the column number, cached columns counted.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
            past_key_values: cache of earlier tokens, which grows by these.
            use_cache: whether to return a cache. Default: as the configuration says, and not in training.
            output_attentions: return attention weights `[B, N, S, P + S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, None, position_ids, inputs_embeds, cache, packed)
        layout, hidden = tokens.layout, tokens.inputs_embeds
        if tokens.input_ids is not None:
            hidden = ops.embed(self.embed_in, tokens.input_ids)  # [T] → [T, H]
        assert hidden is not None
        rotary = self.rotary_emb(tokens.positions(hidden.device), layout, hidden.dtype)
        maps, states = self.wanted(output_attentions, output_hidden_states)
        hidden, recompute = self.emb_dropout(hidden), self.gradient_checkpointing and self.training
        hidden, kept, weights = ops.run_layers(self.layers, hidden, layout, maps, states, recompute, rotary)
        hidden = self.final_layer_norm(hidden)
        kept = None if kept is None else (*kept[:-1], hidden)
        if packed is not None:
            return BaseModelOutputWithPast(hidden, layout.close(), kept, weights)
        output = BaseModelOutputWithPast(layout.unpack(hidden), layout.close(), kept, weights)
        return self.finish(output, layout, return_dict)


class GPTNeoXForCausalLM(GPTNeoXPreTrainedModel, heads.CausalLM):
    """The next word after each token."""

    output_embeddings = "embed_out"
    tied = {"embed_out.weight": "gpt_neox.embed_in.weight"}
    renames = (*PreTrainedModel.renames, ("lm_head.weight", "embed_out.weight"))

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__(config)
        self.embed_out = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.embed_out(hidden)  # [..., H] → [..., V]


class GPTNeoXForSequenceClassification(GPTNeoXPreTrainedModel, heads.LastTokenClassification):
    """A class, or a number, for the whole text, read off its last token."""


class GPTNeoXForTokenClassification(GPTNeoXPreTrainedModel, heads.ClassHead):
    """A class for each token; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: GPTNeoXConfig) -> None:
        super().__init__(config)
        self.dropout = ops.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def read(self, hidden: Tensor, tokens: PackedTokens, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(hidden))  # [T, H] → [T, C]
        loss = ops.token_loss(logits, labels, tokens.layout)
        return outputs.TokenClassifierOutput(loss, tokens.layout.unpack(logits))


class GPTNeoXForQuestionAnswering(GPTNeoXPreTrainedModel, heads.QuestionAnswering):
    """Where in a text the answer begins and ends."""


CONFIG = GPTNeoXConfig
HEADS = {
    "Model": GPTNeoXModel,
    "ForCausalLM": GPTNeoXForCausalLM,
    "ForSequenceClassification": GPTNeoXForSequenceClassification,
    "ForTokenClassification": GPTNeoXForTokenClassification,
    "ForQuestionAnswering": GPTNeoXForQuestionAnswering,
}
TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "hidden_dropout": 0.1,
}  # fmt: skip
VARIANTS = [
    {"use_parallel_residual": False, "rotary_pct": 1.0, "rotary_emb_base": 500, "num_attention_heads": 1},
    {"attention_bias": False, "hidden_act": "gelu_new", "layer_norm_eps": 1e-3, "rotary_pct": 0.5,
     "tie_word_embeddings": True, "num_hidden_layers": 1},
    {"rope_scaling": {"type": "linear", "factor": 2.0}, "rotary_pct": 0.5, "num_attention_heads": 2},
    {"rope_parameters": {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.75}},
]  # fmt: skip
