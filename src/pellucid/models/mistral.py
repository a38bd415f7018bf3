"""Mistral: Llama in which a token sees only those nearest before it, and several heads share keys and values.

Jiang et al. 2023, "Mistral 7B", arXiv:2310.06825.
Checkpoints: mistralai/Mistral-7B-v0.1, mistralai/Mistral-7B-Instruct-v0.3, mistralai/Mistral-Nemo-Base-2407.

Axes and the way through are those of `llama.py`. What differs: every layer has a window of `sliding_window` tokens
(`null`: none), and no linear layer has a bias.
"""

from __future__ import annotations

from typing import ClassVar

from pellucid.config import Size
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class MistralConfig(llama.LlamaConfig):
    """Sizes and rates of a Mistral; the defaults are those of Mistral 7B v0.1, but for the length that it reads."""

    model_type = "mistral"

    intermediate_size: Size = 14336
    num_key_value_heads: Size = 8
    max_position_embeddings: Size = 4096 * 32
    sliding_window: Size | None = 4096

    # no keys of a Mistral
    attention_bias: ClassVar[bool] = False  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    @property
    def layer_types(self) -> list[str]:
        """What a cache goes by: the same for all layers."""
        return ["full_attention" if self.sliding_window is None else "sliding_attention"] * self.num_hidden_layers


class MistralAttention(llama.LlamaAttention):
    """As in Llama, within a window: `[T, H]` → `[T, H]`."""

    def __init__(self, config: MistralConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.window = config.sliding_window


class MistralDecoderLayer(llama.LlamaDecoderLayer):
    """Attention to the tokens in the window, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class = MistralAttention


class MistralPreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Mistral classes have in common."""

    config_class = MistralConfig
    layer_class = MistralDecoderLayer
    config: MistralConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return MistralModel(self.config)


class MistralModel(MistralPreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""


class MistralForCausalLM(MistralPreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class MistralForSequenceClassification(MistralPreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class MistralForTokenClassification(MistralPreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


class MistralForQuestionAnswering(MistralPreTrainedModel, llama.LlamaForQuestionAnswering):
    """Where in a text the answer begins and ends."""

    base_model_prefix = "model"


CONFIG = MistralConfig
HEADS = {
    "Model": MistralModel,
    "ForCausalLM": MistralForCausalLM,
    "ForSequenceClassification": MistralForSequenceClassification,
    "ForTokenClassification": MistralForTokenClassification,
    "ForQuestionAnswering": MistralForQuestionAnswering,
}
TINY = {**llama.TINY, "sliding_window": 5}
VARIANTS = [
    {"sliding_window": None, "num_key_value_heads": 1, "tie_word_embeddings": True, "rms_norm_eps": 1e-5},
    {"sliding_window": 2, "head_dim": 16, "hidden_act": "gelu", "rope_theta": 1000.0},
    {"sliding_window": 3, "num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1},
    {"sliding_window": 3, "num_key_value_heads": 4, "tie_word_embeddings": True,
     "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
]  # fmt: skip
