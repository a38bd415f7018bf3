"""Gemma: Llama with large heads, words that enter multiplied by a number, and norms that are learnt as a change from 1.

Gemma Team 2024, "Gemma: Open Models Based on Gemini Research and Technology", arXiv:2403.08295.
Checkpoints: google/gemma-2b, google/gemma-7b-it, google/codegemma-7b.

Axes and the way through are those of `llama.py`. What differs: `ScaledEmbedding`, `GemmaRMSNorm`, a gate that opens
with GELU, and `use_bidirectional_attention`, with which every token sees every other and nothing can be remembered.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import ops
from pellucid.config import Size
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class GemmaConfig(llama.LlamaConfig):
    """Sizes and rates of a Gemma; the defaults are those of Gemma 7B."""

    model_type = "gemma"

    vocab_size: Size = 256000
    hidden_size: Size = 3072
    intermediate_size: Size = 24576
    num_hidden_layers: Size = 28
    num_attention_heads: Size = 16
    num_key_value_heads: Size = 16
    head_dim: Size = 256
    hidden_act: str = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 8192
    use_bidirectional_attention: bool | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]  # no key of a Gemma

    def __init__(self, **values: Any) -> None:
        if values.get("hidden_act") == "gelu":  # so say the first files, which mean the approximation all the same
            values["hidden_act"] = "gelu_pytorch_tanh"
        super().__init__(**values)


class ScaledEmbedding(nn.Embedding):
    """Vectors of words times the root of their size, a factor rounded as the weights are: ids `[T]` → `[T, H]`."""

    @property
    def factor(self) -> Tensor:
        """What vectors are multiplied by; those of an adapter too."""
        return torch.tensor(self.embedding_dim**0.5).to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.factor


class GemmaRMSNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019) times 1 + weight, all in float32: `[..., size]` → the same."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).type_as(hidden)


class GemmaAttention(llama.LlamaAttention):
    """As in Llama; or each token gathers from all: `[T, H]` → `[T, H]`."""

    def __init__(self, config: GemmaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.causal = not config.use_bidirectional_attention


class GemmaDecoderLayer(llama.LlamaDecoderLayer):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    attention_class = GemmaAttention

    def __init__(self, config: GemmaConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.input_layernorm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)


class GemmaPreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Gemma classes have in common."""

    config_class = GemmaConfig
    layer_class: type[nn.Module] = GemmaDecoderLayer
    config: GemmaConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return GemmaModel(self.config)


class GemmaModel(GemmaPreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""

    def build(self, config: llama.LlamaConfig) -> None:
        """Make the parts."""
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_hidden_layers))
        self.norm = GemmaRMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = ops.Rotary(config.rope_parameters or {}, config.head_dim, config.max_position_embeddings)


class GemmaForCausalLM(GemmaPreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""


class GemmaForSequenceClassification(GemmaPreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class GemmaForTokenClassification(GemmaPreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


CONFIG = GemmaConfig
HEADS = {
    "Model": GemmaModel,
    "ForCausalLM": GemmaForCausalLM,
    "ForSequenceClassification": GemmaForSequenceClassification,
    "ForTokenClassification": GemmaForTokenClassification,
}
TINY = {**llama.TINY, "head_dim": 8}
VARIANTS = [
    {"num_key_value_heads": 1, "head_dim": 16, "attention_bias": True, "tie_word_embeddings": False},
    {"num_key_value_heads": 4, "hidden_act": "gelu", "rms_norm_eps": 1e-5, "rope_theta": 500.0},
    {"num_attention_heads": 1, "num_key_value_heads": 1, "num_hidden_layers": 1, "hidden_act": "relu",
     "rope_scaling": {"rope_type": "linear", "factor": 3.0}},
]  # fmt: skip
