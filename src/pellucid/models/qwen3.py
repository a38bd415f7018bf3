"""Qwen3: Llama with the queries and keys of each head normalised, and a window in the upper layers if it is wanted.

Yang et al. 2025, "Qwen3 Technical Report", arXiv:2505.09388.
Checkpoints: Qwen/Qwen3-0.6B, Qwen/Qwen3-8B, Qwen/Qwen3-Embedding-0.6B.

Axes and the way through are those of `llama.py`. What differs: `q_norm` and `k_norm`, applied before positions turn
queries and keys, and `layer_types`, which says of each layer whether its tokens see all of those before or only a
window of `sliding_window`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn

from pellucid.cache import check_layer_types
from pellucid.config import Count, Size, derived
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class Qwen3Config(llama.LlamaConfig):
    """Sizes and rates of a Qwen3; without `use_sliding_window` no layer has a window, and `sliding_window` is null."""

    model_type = "qwen3"

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
    head_dim: Size = 128
    max_position_embeddings: Size = 32768
    use_sliding_window: bool = False
    sliding_window: Size | None = 4096
    max_window_layers: Count = 28
    layer_types: list[str] = derived(
        lambda config: [
            "full_attention" if config.sliding_window is None or layer < config.max_window_layers
            else "sliding_attention"
            for layer in range(config.num_hidden_layers)
        ]
    )  # fmt: skip
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None

    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]  # no key of a Qwen3

    def __init__(self, **values: Any) -> None:
        values.setdefault("num_key_value_heads", 32)  # null is something else: as many as there are heads
        if not values.get("use_sliding_window"):
            values["sliding_window"] = None
        super().__init__(**values)

    def validate(self) -> None:
        """As in Llama; and each layer needs a type."""
        super().validate()
        check_layer_types(self)


class Qwen3Attention(llama.LlamaAttention):
    """As in Llama, on normalised queries and keys, and in some layers within a window: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Qwen3Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.q_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.k_norm = nn.RMSNorm(config.head_dim, eps=config.rms_norm_eps)
        self.window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None

    def project(self, hidden: Tensor) -> list[Tensor]:
        """Queries, keys and values, not turned yet: `[T, H]` → `[T, N, D]` each."""
        query, key, value = super().project(hidden)
        return [self.q_norm(query), self.k_norm(key), value]


class Qwen3DecoderLayer(llama.LlamaDecoderLayer):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class = Qwen3Attention


class Qwen3PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Qwen3 classes have in common."""

    config_class = Qwen3Config
    layer_class = Qwen3DecoderLayer
    config: Qwen3Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return Qwen3Model(self.config)


class Qwen3Model(Qwen3PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""


class Qwen3ForCausalLM(Qwen3PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class Qwen3ForSequenceClassification(Qwen3PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class Qwen3ForTokenClassification(Qwen3PreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


class Qwen3ForQuestionAnswering(Qwen3PreTrainedModel, llama.LlamaForQuestionAnswering):
    """Where in a text the answer begins and ends."""


CONFIG = Qwen3Config
HEADS = {
    "Model": Qwen3Model,
    "ForCausalLM": Qwen3ForCausalLM,
    "ForSequenceClassification": Qwen3ForSequenceClassification,
    "ForTokenClassification": Qwen3ForTokenClassification,
    "ForQuestionAnswering": Qwen3ForQuestionAnswering,
}
TINY = {**llama.TINY, "head_dim": 16}
VARIANTS = [
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "tie_word_embeddings": True},
    {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0, "attention_bias": True},
    {"use_sliding_window": True, "sliding_window": 2, "layer_types": ["sliding_attention", "full_attention"],
     "num_key_value_heads": 1, "head_dim": 8},
    {"use_sliding_window": True, "sliding_window": None, "num_hidden_layers": 1, "hidden_act": "gelu"},
    {"sliding_window": 3, "max_window_layers": 0, "num_key_value_heads": None, "rms_norm_eps": 1e-2,
     "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    {"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": 32, "rope_theta": 1e6},
]  # fmt: skip
