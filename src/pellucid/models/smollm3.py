"""SmolLM3: Llama in which every fourth layer knows nothing of positions.

Bakouch et al. 2025, "SmolLM3: smol, multilingual, long-context reasoner", huggingface.co/blog/smollm3; layers without
positions after Yang et al. 2025, "Rope to Nope and Back Again", arXiv:2501.18795.
Checkpoints: HuggingFaceTB/SmolLM3-3B, HuggingFaceTB/SmolLM3-3B-Base.

Axes and the way through are those of `llama.py`. What differs: `no_rope_layers` says of each layer whether positions
turn its queries and keys (1) or not (0), and `layer_types` whether its tokens see all of those before or only a window
of `sliding_window`.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from pellucid.cache import check_layer_types
from pellucid.config import Size, derived
from pellucid.layout import Layout, Maps
from pellucid.model import PreTrainedModel
from pellucid.models import llama


def _layer_types(config: SmolLM3Config) -> list[str]:
    """With `use_sliding_window`, layers without positions have the window."""
    windows = config.use_sliding_window and config.sliding_window is not None
    turned = config.no_rope_layers[: config.num_hidden_layers]
    return ["sliding_attention" if windows and not turns else "full_attention" for turns in turned]


class SmolLM3Config(llama.LlamaConfig):
    """Sizes and rates of a SmolLM3; the defaults are those of SmolLM3 3B."""

    model_type = "smollm3"
    default_theta = 2000000.0

    vocab_size: Size = 128256
    hidden_size: Size = 2048
    num_hidden_layers: Size = 36
    num_attention_heads: Size = 16
    max_position_embeddings: Size = 32768
    use_sliding_window: bool = False
    sliding_window: Size | None = None
    no_rope_layers: list[int] = derived(
        lambda config: [
            int((layer + 1) % config.no_rope_layer_interval != 0) for layer in range(config.num_hidden_layers)
        ]
    )
    no_rope_layer_interval: Size = 4
    layer_types: list[str] = derived(_layer_types)
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 128004
    bos_token_id: int | None = 128000
    eos_token_id: int | list[int] | None = 128001

    # no key of a SmolLM3; a few files have it all the same
    head_dim: ClassVar[Any] = property(  # type: ignore[misc]
        lambda config: config.extra.get("head_dim") or config.hidden_size // config.num_attention_heads
    )

    def __init__(self, **values: Any) -> None:
        values.setdefault("num_key_value_heads", 4)  # null is something else: as many as there are heads
        super().__init__(**values)

    def validate(self) -> None:
        """As in Llama; and each layer needs a type and must know whether it has positions."""
        super().validate()
        self.require(self.head_dim > 0, "num_attention_heads", f"at most hidden_size {self.hidden_size}")
        enough = len(self.no_rope_layers) >= self.num_hidden_layers
        self.require(enough, "no_rope_layers", f"1 or 0 for each of {self.num_hidden_layers} layers")
        check_layer_types(self)


class SmolLM3Attention(llama.LlamaAttention):
    """As in Llama, in some layers without positions or within a window: `[T, H]` → `[T, H]`."""

    def __init__(self, config: SmolLM3Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.turns = bool(config.no_rope_layers[layer_idx])
        self.window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        if not self.turns:
            rotary = rotary[0][..., :0], rotary[1][..., :0]  # angles for none of the numbers
        return super().forward(hidden, layout, need_weights, rotary)


class SmolLM3DecoderLayer(llama.LlamaDecoderLayer):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class = SmolLM3Attention


class SmolLM3PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all SmolLM3 classes have in common."""

    config_class = SmolLM3Config
    layer_class = SmolLM3DecoderLayer
    config: SmolLM3Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return SmolLM3Model(self.config)


class SmolLM3Model(SmolLM3PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""


class SmolLM3ForCausalLM(SmolLM3PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class SmolLM3ForSequenceClassification(SmolLM3PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class SmolLM3ForTokenClassification(SmolLM3PreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


class SmolLM3ForQuestionAnswering(SmolLM3PreTrainedModel, llama.LlamaForQuestionAnswering):
    """Where in a text the answer begins and ends."""


CONFIG = SmolLM3Config
HEADS = {
    "Model": SmolLM3Model,
    "ForCausalLM": SmolLM3ForCausalLM,
    "ForSequenceClassification": SmolLM3ForSequenceClassification,
    "ForTokenClassification": SmolLM3ForTokenClassification,
    "ForQuestionAnswering": SmolLM3ForQuestionAnswering,
}
TINY = {**llama.TINY, "no_rope_layer_interval": 2, "pad_token_id": 0}
VARIANTS = [
    {"use_sliding_window": True, "sliding_window": 3, "tie_word_embeddings": False, "attention_bias": True},
    {"use_sliding_window": True, "sliding_window": 2, "no_rope_layers": [0, 1, 1], "num_key_value_heads": 1},
    {"sliding_window": 2, "layer_types": ["sliding_attention", "full_attention"], "mlp_bias": True},
    {"sliding_window": 3, "no_rope_layer_interval": 1, "num_key_value_heads": None, "hidden_act": "gelu"},
    {"no_rope_layer_interval": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1,
     "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
]  # fmt: skip
