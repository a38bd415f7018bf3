"""Qwen2 and Qwen2.5: Llama with biases on queries, keys and values, and a window in the upper layers if it is wanted.

Yang et al. 2024, "Qwen2 Technical Report", arXiv:2407.10671; "Qwen2.5 Technical Report", arXiv:2412.15115.
Checkpoints: Qwen/Qwen2-0.5B, Qwen/Qwen2.5-7B-Instruct, deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B.

Axes and the way through are those of `llama.py`. What differs: the biases, and `layer_types`, which says of each layer
whether its tokens see all of those before or only a window of `sliding_window`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn

from pellucid.cache import check_layer_types
from pellucid.config import Count, Size, derived
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class Qwen2Config(llama.LlamaConfig):
    """Sizes and rates of a Qwen2; without `use_sliding_window` no layer has a window, and `sliding_window` is null."""

    model_type = "qwen2"

    vocab_size: Size = 151936
    intermediate_size: Size = 22016
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

    # no keys of a Qwen2; a few files have the first all the same
    head_dim: ClassVar[Any] = property(  # type: ignore[misc]
        lambda config: config.extra.get("head_dim") or config.hidden_size // config.num_attention_heads
    )
    attention_bias: ClassVar[bool] = True  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    def __init__(self, **values: Any) -> None:
        values.setdefault("num_key_value_heads", 32)  # null is something else: as many as there are heads
        if not values.get("use_sliding_window"):
            values["sliding_window"] = None
        super().__init__(**values)

    def validate(self) -> None:
        """As in Llama; and each layer needs a type."""
        super().validate()
        self.require(self.head_dim > 0, "num_attention_heads", f"at most hidden_size {self.hidden_size}")
        check_layer_types(self)


class Qwen2Attention(llama.LlamaAttention):
    """As in Llama, with biases but on the way out, and in some layers within a window: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Qwen2Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.o_proj = nn.Linear(self.o_proj.in_features, config.hidden_size, bias=False)
        self.window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None


class Qwen2DecoderLayer(llama.LlamaDecoderLayer):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class = Qwen2Attention


class Qwen2PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Qwen2 classes have in common."""

    config_class = Qwen2Config
    layer_class = Qwen2DecoderLayer
    config: Qwen2Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return Qwen2Model(self.config)


class Qwen2Model(Qwen2PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""


class Qwen2ForCausalLM(Qwen2PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class Qwen2ForSequenceClassification(Qwen2PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class Qwen2ForTokenClassification(Qwen2PreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


class Qwen2ForQuestionAnswering(Qwen2PreTrainedModel, llama.LlamaForQuestionAnswering):
    """Where in a text the answer begins and ends."""


CONFIG = Qwen2Config
HEADS = {
    "Model": Qwen2Model,
    "ForCausalLM": Qwen2ForCausalLM,
    "ForSequenceClassification": Qwen2ForSequenceClassification,
    "ForTokenClassification": Qwen2ForTokenClassification,
    "ForQuestionAnswering": Qwen2ForQuestionAnswering,
}
TINY = llama.TINY
VARIANTS = [
    {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1, "tie_word_embeddings": True},
    {"use_sliding_window": True, "sliding_window": 2, "max_window_layers": 0, "num_key_value_heads": 1},
    {"use_sliding_window": True, "sliding_window": 3, "layer_types": ["sliding_attention", "full_attention"]},
    {"use_sliding_window": True, "sliding_window": None, "num_hidden_layers": 1, "hidden_act": "gelu"},
    {"sliding_window": 3, "max_window_layers": 0, "num_key_value_heads": None, "rms_norm_eps": 1e-5,
     "rope_scaling": {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
    {"num_attention_heads": 1, "num_key_value_heads": 1, "rope_theta": 1e6},
]  # fmt: skip
