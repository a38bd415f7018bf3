"""Gemma 2: Gemma in which every other layer has a window, and no score grows beyond a cap.

Gemma Team 2024, "Gemma 2: Improving Open Language Models at a Practical Size", arXiv:2408.00118.
Checkpoints: google/gemma-2-2b, google/gemma-2-9b-it, google/gemma-2-27b-it.

Axes and the way through are those of `llama.py`. What differs: words enter multiplied by a number (`ScaledEmbedding`),
norms are learnt as a change from 1 (`Gemma2RMSNorm`) and stand before and after each half of a layer, `layer_types`
says which layers have a window of `sliding_window` tokens, and a hyperbolic tangent keeps the scores of attention and
of words within `attn_logit_softcapping` and `final_logit_softcapping`. With `use_bidirectional_attention` a token sees
those after it too, and nothing can be remembered.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import ops
from pellucid.cache import check_layer_types
from pellucid.config import Positive, Size, derived
from pellucid.layout import Layout, Maps
from pellucid.model import PreTrainedModel
from pellucid.models import llama


class Gemma2Config(llama.LlamaConfig):
    """Sizes and rates of a Gemma 2; a cap that is null is not there."""

    model_type = "gemma2"

    vocab_size: Size = 256000
    hidden_size: Size = 2304
    intermediate_size: Size = 9216
    num_hidden_layers: Size = 26
    num_attention_heads: Size = 8
    num_key_value_heads: Size = 4
    head_dim: Size = 256
    hidden_activation: str = "gelu_pytorch_tanh"
    max_position_embeddings: Size = 8192
    query_pre_attn_scalar: Size = 256
    sliding_window: Size | None = 4096
    layer_types: list[str] = derived(
        lambda config: [
            "full_attention" if layer % 2 else "sliding_attention" for layer in range(config.num_hidden_layers)
        ]
    )
    attn_logit_softcapping: Positive | None = 50.0
    final_logit_softcapping: Positive | None = 30.0
    use_bidirectional_attention: bool | None = None
    tie_word_embeddings: bool = True
    pad_token_id: int | None = 0
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 1

    # no keys of a Gemma 2; a few files have the first all the same
    hidden_act: ClassVar[Any] = property(lambda config: config.hidden_activation)  # type: ignore[misc]
    mlp_bias: ClassVar[bool] = False  # type: ignore[misc]

    def validate(self) -> None:
        """As in Llama; each layer needs a type, and a cap must leave room."""
        super().validate()
        check_layer_types(self)
        for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
            self.require(getattr(self, cap) != 0, cap, "a number above 0, or null for none")


class ScaledEmbedding(nn.Embedding):
    """Vectors of words times the root of their size, a factor rounded as the weights are: ids `[T]` → `[T, H]`."""

    @property
    def factor(self) -> Tensor:
        """What vectors are multiplied by; those of an adapter too."""
        return torch.tensor(self.embedding_dim**0.5).to(self.weight.dtype)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.factor


class Gemma2RMSNorm(nn.Module):
    """Root mean square norm (Zhang & Sennrich 2019) times 1 + weight, all in float32: `[..., size]` → the same."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        return F.rms_norm(hidden.float(), self.weight.shape, 1.0 + self.weight.float(), self.eps).type_as(hidden)


class Gemma2Attention(llama.LlamaAttention):
    """As in Llama, in some layers within a window, and with scores that are capped: `[T, H]` → `[T, H]`."""

    def __init__(self, config: Gemma2Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.scale = config.query_pre_attn_scalar**-0.5
        self.window = config.sliding_window if config.layer_types[layer_idx] == "sliding_attention" else None
        self.causal = not config.use_bidirectional_attention
        self.cap = config.attn_logit_softcapping

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        if self.cap is None:
            return super().forward(hidden, layout, need_weights, rotary)
        query, key, value = self.project(hidden)
        query, key = ops.rotate(query, rotary), ops.rotate(key, rotary)
        mixed, maps = [query.flatten(1)[:0]], []
        for block in ops.blocks(
            query, key, value, layout, causal=self.causal, window=self.window, memory=layout.memory(self.layer_idx)
        ):
            weights, values = self.weigh(block, self.cap)  # [count, N, L, K], [count, N, K, D]
            mixed.append((weights @ values).transpose(1, 2).flatten(2).flatten(0, 1))  # [count * L, N * D]
            if need_weights:
                maps.append(weights)
        return self.o_proj(torch.cat(mixed)), tuple(maps) if need_weights else None  # [T, N * D] → [T, H]

    def weigh(self, block: ops.Block, cap: float) -> tuple[Tensor, Tensor]:
        """What each token gathers of which, and the values for as many heads as there are."""
        query, key, value, mask, causal = block
        shared = query.shape[1] // key.shape[1]  # heads that share keys and values
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
        scores = query @ key.transpose(-2, -1) * self.scale
        scores = (scores / cap).tanh() * cap
        if causal:
            mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if mask is not None:
            scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1, dtype=torch.float32).to(query.dtype)
        return (ops.dropped(weights, self.dropout) if self.training else weights), value


class Gemma2DecoderLayer(llama.LlamaDecoderLayer):
    """Attention and a feed-forward network, each with a norm before and one after: `[T, H]` → `[T, H]`."""

    attention_class = Gemma2Attention

    def __init__(self, config: Gemma2Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        size, eps = config.hidden_size, config.rms_norm_eps
        self.input_layernorm = Gemma2RMSNorm(size, eps)
        self.post_attention_layernorm = Gemma2RMSNorm(size, eps)
        self.pre_feedforward_layernorm = Gemma2RMSNorm(size, eps)
        self.post_feedforward_layernorm = Gemma2RMSNorm(size, eps)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self_attn(self.input_layernorm(hidden), layout, need_weights, rotary)
        hidden = hidden + self.post_attention_layernorm(mixed)
        return hidden + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(hidden))), maps


class Gemma2PreTrainedModel(llama.LlamaPreTrainedModel):
    """What all Gemma 2 classes have in common."""

    config_class = Gemma2Config
    layer_class: type[nn.Module] = Gemma2DecoderLayer
    config: Gemma2Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return Gemma2Model(self.config)


class Gemma2Model(Gemma2PreTrainedModel, llama.LlamaModel):
    """The body: ids in, one vector for each token out."""

    def build(self, config: llama.LlamaConfig) -> None:
        """Make the parts."""
        self.embed_tokens = ScaledEmbedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.num_hidden_layers))
        self.norm = Gemma2RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.rotary_emb = ops.Rotary(config.rope_parameters or {}, config.head_dim, config.max_position_embeddings)


class Gemma2ForCausalLM(Gemma2PreTrainedModel, llama.LlamaForCausalLM):
    """The next word after each token."""

    def read_out(self, hidden: Tensor) -> Tensor:
        logits: Tensor = self.lm_head(hidden)  # [..., H] → [..., V]
        cap = self.config.final_logit_softcapping
        return logits if cap is None else (logits / cap).tanh() * cap


class Gemma2ForSequenceClassification(Gemma2PreTrainedModel, llama.LlamaForSequenceClassification):
    """A class, or a number, for the whole text, read off its last token."""


class Gemma2ForTokenClassification(Gemma2PreTrainedModel, llama.LlamaForTokenClassification):
    """A class for each token."""


CONFIG = Gemma2Config
HEADS = {
    "Model": Gemma2Model,
    "ForCausalLM": Gemma2ForCausalLM,
    "ForSequenceClassification": Gemma2ForSequenceClassification,
    "ForTokenClassification": Gemma2ForTokenClassification,
}
TINY = {**llama.TINY, "head_dim": 8, "query_pre_attn_scalar": 10, "sliding_window": 5, "attn_logit_softcapping": 5.0}
VARIANTS = [
    {"sliding_window": 2, "num_key_value_heads": 1, "attn_logit_softcapping": None, "tie_word_embeddings": False},
    {"sliding_window": 3, "num_key_value_heads": 4, "final_logit_softcapping": None, "hidden_activation": "gelu"},
    {"sliding_window": 3, "layer_types": ["full_attention", "sliding_attention"], "head_dim": 16,
     "attention_bias": True, "attn_logit_softcapping": 0.5, "final_logit_softcapping": 0.5},
    {"layer_types": ["full_attention"], "num_hidden_layers": 1, "num_attention_heads": 1,
     "num_key_value_heads": 1, "rms_norm_eps": 1e-5,
     "rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10}},
]  # fmt: skip
