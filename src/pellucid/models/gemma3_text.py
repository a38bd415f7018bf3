"""Gemma 3, its text part: Gemma in which most layers have a window, and those without turn more slowly.

Gemma Team 2025, "Gemma 3 Technical Report", arXiv:2503.19786; Vera et al. 2025, "EmbeddingGemma", arXiv:2509.20354.
Checkpoints: google/gemma-3-270m, google/gemma-3-1b-it, google/embeddinggemma-300m.

Axes and the way through are those of `llama.py`. What differs: words enter multiplied by a number (`ScaledEmbedding`),
norms are learnt as a change from 1 (`Gemma3RMSNorm`) and stand before and after each half of a layer and on the queries
and keys of each head, `layer_types` says which layers have a window of `sliding_window` tokens, and each kind of layer
has rotary positions of its own. With `use_bidirectional_attention` (EmbeddingGemma) a token sees those after it too,
the window reaches half as far to either side, and nothing can be remembered.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import ops
from pellucid.cache import check_layer_types
from pellucid.config import LayeredRotaryConfig, Positive, Size, derived
from pellucid.layout import Layout, Maps
from pellucid.model import PreTrainedModel
from pellucid.models import llama

Angles = Mapping[str, tuple[Tensor, Tensor]]  # kind of layer → cosine and sine, each [T, 1, D / 2]


def _layer_types(layers: int, pattern: int) -> list[str]:
    """One layer in `pattern` sees everything."""
    return ["sliding_attention" if (layer + 1) % pattern else "full_attention" for layer in range(layers)]


class Gemma3TextConfig(LayeredRotaryConfig, llama.LlamaConfig):
    """Sizes and rates of a Gemma 3; `attn_logit_softcapping` is a key that nothing goes by."""

    model_type = "gemma3_text"
    thetas = {"full_attention": ("rope_theta", 1000000.0), "sliding_attention": ("rope_local_base_freq", 10000.0)}
    own_keys = ("rope_theta", "rope_local_base_freq", "rope_scaling")

    vocab_size: Size = 262208
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Size = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 131072
    query_pre_attn_scalar: Size = 256
    sliding_window: Size | None = 4096
    sliding_window_pattern: Size | None = None
    layer_types: list[str] = derived(
        lambda config: _layer_types(config.num_hidden_layers, config.sliding_window_pattern or 6)
    )
    attn_logit_softcapping: Positive | None = None
    final_logit_softcapping: Positive | None = None
    use_bidirectional_attention: bool | None = False
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    # no keys of a Gemma 3; a few files have the first all the same
    hidden_act: ClassVar[Any] = property(lambda config: config.hidden_activation)  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(self, **values: Any) -> None:
        super().__init__(**values)
        if self.sliding_window_pattern is None:  # the only key that old versions go by
            layers = self.num_hidden_layers
            fits = (n for n in (6, *range(1, layers + 2)) if _layer_types(layers, n) == self.layer_types)
            self.sliding_window_pattern = next(fits, None)

    def validate(self) -> None:
        """As in Llama; each layer needs a type, which there must be no two opinions of, and a cap must leave room."""
        super().validate()
        check_layer_types(self)
        pattern, layers = self.sliding_window_pattern, self.num_hidden_layers
        agreed = pattern is None or _layer_types(layers, pattern) == self.layer_types
        self.require(agreed, "sliding_window_pattern", f"what layer_types says, {self.layer_types}; leave one out")
        self.require(self.final_logit_softcapping != 0, "final_logit_softcapping", "a number above 0, or null for none")


class ScaledEmbedding(nn.Embedding):
    """Vectors of words times the root of their size, a factor rounded as the weights are: ids `[T]` → `[T, H]`."""

    @property
    def factor(self) -> Tensor:
        """What vectors are multiplied by; those of an adapter too."""
        return torch.tensor(self.embedding_dim**0.5).to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.factor


class Gemma3RMSNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019) times 1 + weight, all in float32: `[..., size]` → the same."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).type_as(hidden)


class Gemma3Rotary(nn.Module):
    """The angles of each kind of layer."""

    def __init__(self, config: llama.LlamaConfig) -> None:
        super().__init__()
        self.kinds = {
            kind: ops.Rotary(settings, config.head_dim, config.max_position_embeddings)
            for kind, settings in (config.rope_parameters or {}).items()
        }

    def forward(self, positions: Tensor, layout: Layout, dtype: torch.dtype) -> Angles:
        return {kind: rotary(positions, layout, dtype) for kind, rotary in self.kinds.items()}


class Gemma3Attention(llama.LlamaAttention):
    """As in Llama, on normalised queries and keys, and in some layers within a window: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Gemma3TextConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.scale = config.query_pre_attn_scalar**-0.5
        self.causal = not config.use_bidirectional_attention
        if config.layer_types[layer_idx] == "sliding_attention" and config.sliding_window is not None:
            self.window = config.sliding_window if self.causal else config.sliding_window // 2 + 1
        self.q_norm = Gemma3RMSNorm(config.head_dim, config.rms_norm_eps)
        self.k_norm = Gemma3RMSNorm(config.head_dim, config.rms_norm_eps)

    def project(self, hidden: Tensor) -> list[Tensor]:
        """Queries, keys and values, the first two normalised: `[T, H]` → `[T, N, D]` each."""
        query, key, value = super().project(hidden)
        return [self.q_norm(query), self.k_norm(key), value]


class Gemma3DecoderLayer(nn.Module):
    """Attention and a feed-forward network, each with a norm before and one after: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Gemma3TextConfig, layer_idx: int) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.rms_norm_eps
        self.kind = config.layer_types[layer_idx]
        self.self_attn = Gemma3Attention(config, layer_idx)
        self.mlp = llama.LlamaMLP(config)
        self.input_layernorm = Gemma3RMSNorm(size, eps)
        self.post_attention_layernorm = Gemma3RMSNorm(size, eps)
        self.pre_feedforward_layernorm = Gemma3RMSNorm(size, eps)
        self.post_feedforward_layernorm = Gemma3RMSNorm(size, eps)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, angles: Angles) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self_attn(self.input_layernorm(hidden), layout, need_weights, angles[self.kind])
        hidden = hidden + self.post_attention_layernorm(mixed)
        return hidden + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden))), maps


class Gemma3PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Gemma 3 classes have in common."""

    config_class = Gemma3TextConfig
    layer_class: type[nn.Module] = Gemma3DecoderLayer
    config: Gemma3TextConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return Gemma3TextModel(self.config)


class Gemma3TextModel(Gemma3PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""

    def build(self, config: llama.LlamaConfig) -> None:
        """Make the parts."""
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_hidden_layers))
        self.norm = Gemma3RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = Gemma3Rotary(config)  # type: ignore[assignment]  # for each kind of layer its own


class Gemma3ForCausalLM(Gemma3PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""

    def read_out(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)  # [..., H] → [..., V]
        cap = self.config.final_logit_softcapping
        return logits if cap is None else (logits / cap).tanh() * cap


class Gemma3TextForSequenceClassification(Gemma3PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


CONFIG = Gemma3TextConfig
HEADS = {
    "Model": Gemma3TextModel,
    "ForCausalLM": Gemma3ForCausalLM,
    "ForSequenceClassification": Gemma3TextForSequenceClassification,
}
TINY = {
    **llama.TINY, "head_dim": 8, "query_pre_attn_scalar": 10, "sliding_window": 5, "sliding_window_pattern": 2,
}  # fmt: skip
VARIANTS = [
    {"sliding_window": 2, "num_key_value_heads": 1, "final_logit_softcapping": 2.0, "tie_word_embeddings": False},
    {"sliding_window": 3, "num_key_value_heads": 4, "sliding_window_pattern": 6, "hidden_activation": "gelu",
     "rope_theta": 700.0, "rope_local_base_freq": 50.0, "rope_scaling": {"rope_type": "linear", "factor": 8.0}},
    {"sliding_window": 3, "sliding_window_pattern": None, "layer_types": ["full_attention", "sliding_attention"],
     "head_dim": 16, "attention_bias": True, "attn_logit_softcapping": 0.5,
     "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0},
                         "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
    {"sliding_window": 5, "use_bidirectional_attention": True, "num_attention_heads": 1, "num_key_value_heads": 1},
    {"sliding_window": 2, "use_bidirectional_attention": True, "num_hidden_layers": 1, "rms_norm_eps": 1e-5},
]  # fmt: skip
