"""Llama: a stack of decoder layers in which a token sees those before it, with rotary positions and gated layers.

Touvron et al. 2023, "LLaMA: Open and Efficient Foundation Language Models", arXiv:2302.13971; Grattafiori et al. 2024,
"The Llama 3 Herd of Models", arXiv:2407.21783.
Checkpoints: meta-llama/Llama-2-7b-hf, meta-llama/Llama-3.2-1B, TinyLlama/TinyLlama-1.1B-Chat-v1.0.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads, `D` head size,
`V` vocabulary, `C` classes.

The way through: ids become vectors, each `LlamaDecoderLayer` lets the tokens look back (`LlamaAttention`) and then
transforms each token on its own (`LlamaMLP`), always on normalised copies that are added to what went in; a last norm,
and the head reads the answer off. Keys and values go into a cache, so that the next call need not compute them again.
"""

from __future__ import annotations

from torch import Tensor, nn

from pellucid import heads, ops
from pellucid.cache import Cache, open_cache
from pellucid.config import Positive, Rate, RotaryConfig, Size, derived
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPast


class LlamaConfig(RotaryConfig):
    """Sizes and rates of a Llama; the defaults are those of Llama 7B."""

    model_type = "llama"

    vocab_size: Size = 32000
    hidden_size: Size = 4096
    intermediate_size: Size = 11008
    num_hidden_layers: Size = 32
    num_attention_heads: Size = 32
    num_key_value_heads: Size = derived(lambda config: config.num_attention_heads)
    head_dim: Size = derived(lambda config: config.hidden_size // config.num_attention_heads)
    hidden_act: str = "silu"
    initializer_range: Positive = 0.02
    rms_norm_eps: Positive = 1e-6
    attention_bias: bool = False
    attention_dropout: Rate = 0.0
    mlp_bias: bool = False
    classifier_dropout: Rate | None = None
    use_cache: bool = True
    tie_word_embeddings: bool = False
    bos_token_id: int | None = 1
    eos_token_id: int | list[int] | None = 2

    def validate(self) -> None:
        """Each key/value head serves the same number of heads."""
        super().validate()
        even = self.num_attention_heads % self.num_key_value_heads == 0
        self.require(even, "num_key_value_heads", f"a divisor of num_attention_heads {self.num_attention_heads}")


class LlamaAttention(nn.Module):
    """Each token gathers from those before it; several heads may share keys and values: `[T, H]` → `[T, H]`."""

    joined = ("q_proj", "k_proj", "v_proj")  # a speed form may compute these at once
    window: int | None = None  # Llama sees all tokens before,
    causal = True  # and none after

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.scale = config.head_dim**-0.5
        self.dropout = config.attention_dropout
        inside, shared = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, inside, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=config.attention_bias)
        self.o_proj = nn.Linear(inside, config.hidden_size, bias=config.attention_bias)

    def project(self, hidden: Tensor) -> list[Tensor]:
        """Queries, keys and values, not turned yet: `[T, H]` → `[T, N, D]` each."""
        projected = ops.project(hidden, self.q_proj, self.k_proj, self.v_proj)
        return [x.view(-1, x.shape[-1] // self.head_dim, self.head_dim) for x in projected]

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        query, key, value = self.project(hidden)
        query, key = ops.rotate(query, rotary), ops.rotate(key, rotary)
        mixed, maps = ops.attention(
            query, key, value, layout, causal=self.causal, window=self.window, scale=self.scale,
            need_weights=need_weights, dropout=self.dropout if self.training else 0.0,
            memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.o_proj(mixed), maps  # [T, N * D] → [T, H]


class LlamaMLP(nn.Module):
    """A gated feed-forward network (Shazeer 2020): one half opens or closes the other; `[T, H]` → `[T, H]`."""

    joined = ("gate_proj", "up_proj")

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)
        self.activation = ops.activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = ops.project(hidden, self.gate_proj, self.up_proj)
        return self.down_proj(self.activation(gate) * up)


class LlamaDecoderLayer(nn.Module):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class: type[LlamaAttention] = LlamaAttention

    def __init__(self, config: LlamaConfig, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = self.attention_class(config, layer_idx)
        self.mlp = LlamaMLP(config)
        self.input_layernorm: nn.Module = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm: nn.Module = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self_attn(self.input_layernorm(hidden), layout, need_weights, rotary)
        hidden = hidden + mixed
        return hidden + self.mlp(self.post_attention_layernorm(hidden)), maps


class LlamaPreTrainedModel(PreTrainedModel):
    """What all Llama classes have in common: their configuration and the names of their parts."""

    config_class = LlamaConfig
    base_model_prefix = "model"
    other_prefixes = ("transformer", "model")
    input_embeddings = "embed_tokens"
    layer_class: type[nn.Module] = LlamaDecoderLayer
    config: LlamaConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return LlamaModel(self.config)


class LlamaModel(LlamaPreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.build(config)
        self.gradient_checkpointing = False
        self.post_init()

    def build(self, config: LlamaConfig) -> None:
        """Make the parts."""
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_hidden_layers))
        self.norm: nn.Module = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.rotary_emb = ops.Rotary(config.rope_parameters or {}, config.head_dim, config.max_position_embeddings)

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, position_ids: Ids = None,
        past_key_values: Cache | None = None, inputs_embeds: Ids = None, use_cache: bool | None = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPast | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, P + S]`, 0 at padding, `P` cached columns first; or `[B, S, S]`. Default: all real.
            position_ids: `[B, S]`. Default: the column number, cached columns counted.
            past_key_values: cache of earlier tokens, which grows by these.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
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
            hidden = ops.embed(self.embed_tokens, tokens.input_ids)  # [T] → [T, H]
        assert hidden is not None
        rotary = self.rotary_emb(tokens.positions(hidden.device), layout, hidden.dtype)
        maps, states = self.wanted(output_attentions, output_hidden_states)
        recompute = self.gradient_checkpointing and self.training
        hidden, kept, weights = ops.run_layers(self.layers, hidden, layout, maps, states, recompute, rotary)
        hidden = self.norm(hidden)
        kept = None if kept is None else (*kept[:-1], hidden)
        if packed is not None:
            return BaseModelOutputWithPast(hidden, layout.close(), kept, weights)
        output = BaseModelOutputWithPast(layout.unpack(hidden), layout.close(), kept, weights)
        return self.finish(output, layout, return_dict)


class LlamaForCausalLM(LlamaPreTrainedModel, heads.CausalLM):
    """The next word after each token."""

    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "model.embed_tokens.weight"}

    def __init__(self, config: LlamaConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)  # [..., H] → [..., V]


class LlamaForSequenceClassification(LlamaPreTrainedModel, heads.LastTokenClassification):
    """A class, or a number, for the whole text, read off its last token."""


class LlamaForTokenClassification(LlamaPreTrainedModel, heads.TokenClassification):
    """A class for each token."""


class LlamaForQuestionAnswering(LlamaPreTrainedModel, heads.QuestionAnswering):
    """Where in a text the answer begins and ends."""

    base_model_prefix = "transformer"


CONFIG = LlamaConfig
HEADS = {
    "Model": LlamaModel, "ForCausalLM": LlamaForCausalLM, "ForSequenceClassification": LlamaForSequenceClassification,
    "ForTokenClassification": LlamaForTokenClassification, "ForQuestionAnswering": LlamaForQuestionAnswering,
}  # fmt: skip
TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 40,
}  # fmt: skip
VARIANTS = [
    {"num_key_value_heads": 1, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True},
    {"num_key_value_heads": 4, "head_dim": 16, "hidden_act": "gelu", "rms_norm_eps": 1e-5, "rope_theta": 500.0},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "num_attention_heads": 1, "num_key_value_heads": 1},
    {"rope_scaling": {"type": "dynamic", "factor": 2.0}, "max_position_embeddings": 8},
    {"rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    {"rope_scaling": {"rope_type": "yarn", "factor": 2.0, "mscale": 0.7, "mscale_all_dim": 0.9, "truncate": False}},
    {"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                      "original_max_position_embeddings": 16}},
    {"rope_scaling": {"rope_type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "factor": 4.0,
                      "long_factor": [1.0, 2.0, 3.0, 4.0], "original_max_position_embeddings": 10}},
]  # fmt: skip
