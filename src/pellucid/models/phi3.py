"""Phi-3 and Phi-4-mini: Llama with queries, keys and values from one joint layer, and two sets of rotary positions.

Abdin et al. 2024, "Phi-3 Technical Report", arXiv:2404.14219; Microsoft 2025, "Phi-4-Mini Technical Report",
arXiv:2503.01743.
Checkpoints: microsoft/Phi-3-mini-4k-instruct, microsoft/Phi-3-mini-128k-instruct, microsoft/Phi-4-mini-instruct.

Axes and the way through are those of `llama.py`; body and heads are its own. What differs stands here: `Phi3Attention`
and `Phi3MLP` with their joint layers, dropout on what they add, and the rotary settings: a share of each head may stay
unturned (`partial_rotary_factor`), and texts longer than `original_max_position_embeddings` have slower turns.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pellucid import ops
from pellucid.config import Positive, Rate, Size
from pellucid.layout import Layout, Maps
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class Phi3Config(llama.LlamaConfig):
    """Sizes and rates of a Phi-3; the defaults are those of Phi-3-mini. `embd_pdrop` is a key that nothing goes by."""

    model_type = "phi3"

    vocab_size: Size = 32064
    hidden_size: Size = 3072
    intermediate_size: Size = 8192
    resid_pdrop: Rate = 0.0
    embd_pdrop: Rate = 0.0
    max_position_embeddings: Size = 4096
    original_max_position_embeddings: Size = 4096
    rms_norm_eps: Positive = 1e-5
    sliding_window: Size | None = None
    pad_token_id: int | None = 32000
    eos_token_id: int | list[int] | None = 32000

    # no keys of a Phi-3; a few files have the first all the same
    head_dim: ClassVar[Any] = property(  # type: ignore[misc]
        lambda config: config.extra.get("head_dim") or config.hidden_size // config.num_attention_heads
    )
    attention_bias: ClassVar[bool] = False  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(self, **values: Any) -> None:
        trained = values.get("original_max_position_embeddings", self.original_max_position_embeddings)
        object.__setattr__(self, "original_max_position_embeddings", trained)  # which rotary settings go by
        super().__init__(**values)

    def _rotary(self, given: dict[str, Any] | None, older: dict[str, Any]) -> dict[str, Any]:
        """As everywhere; what older files call `su` or `yarn` is longrope, and the length trained on stands outside."""
        found = super()._rotary(given, older)
        found.setdefault("partial_rotary_factor", 1.0)
        if found["rope_type"] in ("yarn", "longrope"):
            found["rope_type"] = "longrope"
            found["original_max_position_embeddings"] = self.original_max_position_embeddings
        return found

    @property
    def layer_types(self) -> list[str]:
        """What a cache goes by: the same for all layers."""
        return ["full_attention" if self.sliding_window is None else "sliding_attention"] * self.num_hidden_layers

    def validate(self) -> None:
        """As in Llama; and longrope needs a number for each pair of numbers that is turned."""
        super().validate()
        rotary = self.rope_parameters or {}
        self.require(rotary["rope_type"] in ("default", "longrope"), "rope_parameters", "rope_type default or longrope")
        share = rotary.get("partial_rotary_factor", 1.0)
        fits = isinstance(share, int | float) and 0 < share <= 1
        self.require(fits, "partial_rotary_factor", "a number above 0 and up to 1")
        if rotary["rope_type"] == "longrope":
            pairs, trained = int(self.head_dim * share) // 2, self.original_max_position_embeddings
            fits = all(len(rotary[name]) == pairs for name in ("short_factor", "long_factor"))
            self.require(fits, "rope_parameters", f"{pairs} numbers each in short_factor and long_factor")
            same = rotary.get("original_max_position_embeddings") == trained
            self.require(same, "rope_parameters", f"original_max_position_embeddings {trained} as outside of them")


class Phi3Attention(nn.Module):
    """Each token gathers from those before it; several heads may share keys and values: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Phi3Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_dim = config.head_dim
        self.window = config.sliding_window
        self.dropout = config.attention_dropout
        self.heads = [config.num_attention_heads, config.num_key_value_heads, config.num_key_value_heads]
        self.qkv_proj = nn.Linear(config.hidden_size, sum(self.heads) * config.head_dim, bias=False)
        self.o_proj = nn.Linear(config.num_attention_heads * config.head_dim, config.hidden_size, bias=False)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        joined = self.qkv_proj(hidden).view(-1, sum(self.heads), self.head_dim)  # [T, H] → [T, N + 2 * fewer, D]
        query, key, value = joined.split(self.heads, dim=1)  # [T, N or fewer, D] each
        query, key = ops.rotate(query, rotary), ops.rotate(key, rotary)
        mixed, maps = ops.attention(
            query, key, value, layout, causal=True, window=self.window, need_weights=need_weights,
            dropout=self.dropout if self.training else 0.0, memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.o_proj(mixed), maps  # [T, N * D] → [T, H]


class Phi3MLP(nn.Module):
    """A gated feed-forward network, gate and values from one layer: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Phi3Config) -> None:
        super().__init__()
        self.gate_up_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)
        self.activation = ops.activation(config.hidden_act)

    def forward(self, hidden: Tensor) -> Tensor:
        gate, up = self.gate_up_proj(hidden).chunk(2, dim=-1)
        return self.down_proj(self.activation(gate) * up)


class Phi3DecoderLayer(nn.Module):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Phi3Config, layer_idx: int) -> None:
        super().__init__()
        self.self_attn = Phi3Attention(config, layer_idx)
        self.mlp = Phi3MLP(config)
        self.input_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.post_attention_layernorm = nn.RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.dropout = ops.Dropout(config.resid_pdrop)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self_attn(self.input_layernorm(hidden), layout, need_weights, rotary)
        hidden = hidden + self.dropout(mixed)
        return hidden + self.dropout(self.mlp(self.post_attention_layernorm(hidden))), maps


class Phi3PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Phi-3 classes have in common."""

    config_class = Phi3Config
    layer_class = Phi3DecoderLayer
    config: Phi3Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return Phi3Model(self.config)


class Phi3Model(Phi3PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""


class Phi3ForCausalLM(Phi3PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class Phi3ForSequenceClassification(Phi3PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class Phi3ForTokenClassification(Phi3PreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


CONFIG = Phi3Config
HEADS = {
    "Model": Phi3Model,
    "ForCausalLM": Phi3ForCausalLM,
    "ForSequenceClassification": Phi3ForSequenceClassification,
    "ForTokenClassification": Phi3ForTokenClassification,
}
TINY = {**llama.TINY, "original_max_position_embeddings": 40, "pad_token_id": 0}
VARIANTS = [
    {"sliding_window": 2, "num_key_value_heads": 1, "tie_word_embeddings": True, "partial_rotary_factor": 0.75},
    {"sliding_window": 3, "num_key_value_heads": 4, "hidden_act": "gelu", "rms_norm_eps": 1e-6, "rope_theta": 500.0},
    {"rope_scaling": {"type": "longrope", "short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [1.0, 2.0, 3.0, 4.0]},
     "original_max_position_embeddings": 10},
    {"rope_scaling": {"type": "yarn", "short_factor": [1.5, 2.0], "long_factor": [3.0, 4.0]}, "sliding_window": 3,
     "original_max_position_embeddings": 20, "partial_rotary_factor": 0.5, "num_key_value_heads": None},
    {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 3, "resid_pdrop": 0.3,
     "embd_pdrop": 0.2, "attention_dropout": 0.1, "partial_rotary_factor": 0.5},
]  # fmt: skip
