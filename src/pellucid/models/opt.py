"""OPT: a stack of decoder layers in which a token sees those before it, with learned positions that pass padding over.

Zhang et al. 2022, "OPT: Open Pre-trained Transformer Language Models", arXiv:2205.01068.
Checkpoints: facebook/opt-125m, facebook/opt-350m, facebook/opt-1.3b, facebook/galactica-125m.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `E` size of word vectors,
`N` heads, `D` head size, `V` vocabulary, `C` classes.

The way through: word vectors are brought to the hidden size where theirs is another, and position vectors are added;
each `OPTDecoderLayer` lets the tokens look back (`OPTAttention`) and then transforms each token on its own; a last
norm, the way back to the size of word vectors, and the head reads the answer off.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pellucid import heads, ops
from pellucid.cache import Cache, open_cache
from pellucid.config import Positive, PretrainedConfig, Rate, Size, derived
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPast


class OPTConfig(PretrainedConfig):
    """Sizes and rates of an OPT; the defaults are those of OPT-125M."""

    model_type = "opt"
    attribute_map = {"initializer_range": "init_std"}

    vocab_size: Size = 50272
    hidden_size: Size = 768
    num_hidden_layers: Size = 12
    ffn_dim: Size = 3072
    max_position_embeddings: Size = 2048
    do_layer_norm_before: bool = True
    _remove_final_layer_norm: bool = False
    word_embed_proj_dim: Size = derived(lambda config: config.hidden_size)
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    num_attention_heads: Size = 12
    activation_function: str = "relu"
    layerdrop: Rate = 0.0
    init_std: Positive = 0.02
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 2
    eos_token_id: int | list[int] | None = 2
    enable_bias: bool = True
    layer_norm_elementwise_affine: bool = True

    def validate(self) -> None:
        """Heads must share the hidden size evenly."""
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")


class OPTPositions(nn.Embedding):
    """A vector for each position, `[T]` → `[T, H]`; the table begins with two rows that no token has."""

    offset = 2

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config.max_position_embeddings + self.offset, config.hidden_size)

    def forward(self, tokens: PackedTokens) -> Tensor:  # type: ignore[override]  # not of ids
        layout, positions = tokens.layout, tokens.position_ids
        if positions is None:  # padding is not counted, so it need not fit
            ops.check_length(max([0, *layout.totals()]), self.num_embeddings - self.offset)
            positions = layout.ranks(self.weight.device)
        return super().forward(positions + self.offset)


class OPTAttention(nn.Module):
    """Each token gathers from those before it: `[T, H]` → `[T, H]`."""

    joined = ("q_proj", "k_proj", "v_proj")  # a speed form may compute these at once
    read_by = "out_proj"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: OPTConfig, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx, self.dropout = layer_idx, config.attention_dropout
        self.head_size = config.hidden_size // config.num_attention_heads
        size, bias = config.hidden_size, config.enable_bias
        self.k_proj = nn.Linear(size, size, bias=bias)
        self.v_proj = nn.Linear(size, size, bias=bias)
        self.q_proj = nn.Linear(size, size, bias=bias)
        self.out_proj = nn.Linear(size, size, bias=bias)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (x.view(-1, x.shape[-1] // self.head_size, self.head_size) for x in projected)  # [T, N, D]
        mixed, maps = ops.attention(
            query, key, value, layout, causal=True, dropout=self.dropout if self.training else 0.0,
            need_weights=need_weights, memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.out_proj(mixed), maps


class OPTDecoderLayer(nn.Module):
    """Attention to the tokens before, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: OPTConfig, layer_idx: int) -> None:
        super().__init__()
        size, affine = config.hidden_size, config.layer_norm_elementwise_affine
        self.norm_first = config.do_layer_norm_before
        self.self_attn = OPTAttention(config, layer_idx)
        self.dropout = ops.Dropout(config.dropout)
        self.activation = ops.activation(config.activation_function)
        self.self_attn_layer_norm = nn.LayerNorm(size, elementwise_affine=affine)
        self.fc1 = nn.Linear(size, config.ffn_dim, bias=config.enable_bias)
        self.fc2 = nn.Linear(config.ffn_dim, size, bias=config.enable_bias)
        self.final_layer_norm = nn.LayerNorm(size, elementwise_affine=affine)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        read = self.self_attn_layer_norm(hidden) if self.norm_first else hidden
        mixed, maps = self.self_attn(read, layout, need_weights)
        hidden = hidden + self.dropout(mixed)
        hidden = hidden if self.norm_first else self.self_attn_layer_norm(hidden)
        read = self.final_layer_norm(hidden) if self.norm_first else hidden
        hidden = hidden + self.dropout(self.fc2(self.activation(self.fc1(read))))  # [T, H] → [T, ffn_dim] → [T, H]
        return hidden if self.norm_first else self.final_layer_norm(hidden), maps


class OPTDecoder(nn.Module):
    """Everything from ids to states; checkpoints have the name `decoder` between the body and its parts."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__()
        words, size = config.word_embed_proj_dim, config.hidden_size
        self.embed_tokens = nn.Embedding(config.vocab_size, words, padding_idx=config.pad_token_id)
        self.embed_positions = OPTPositions(config)
        self.project_out = nn.Linear(size, words, bias=False) if words != size else None
        self.project_in = nn.Linear(words, size, bias=False) if words != size else None
        ends_with_norm = config.do_layer_norm_before and not config._remove_final_layer_norm
        norm = nn.LayerNorm(size, elementwise_affine=config.layer_norm_elementwise_affine)
        self.final_layer_norm = norm if ends_with_norm else None
        self.layers = nn.ModuleList(OPTDecoderLayer(config, number) for number in range(config.num_hidden_layers))
        self.layerdrop = config.layerdrop
        self.gradient_checkpointing = False

    def forward(
        self, tokens: PackedTokens, maps: Asked, states: bool
    ) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[Tensor, ...] | None]:
        hidden = tokens.inputs_embeds
        if tokens.input_ids is not None:
            hidden = ops.embed(self.embed_tokens, tokens.input_ids)  # [T] → [T, E]
        assert hidden is not None
        hidden = hidden if self.project_in is None else self.project_in(hidden)  # [T, E] → [T, H]
        hidden = hidden + self.embed_positions(tokens)
        layers = [layer for layer in self.layers if not self.training or torch.rand(()) >= self.layerdrop]
        recompute = self.gradient_checkpointing and self.training
        hidden, kept, weights = ops.run_layers(layers, hidden, tokens.layout, maps, states, recompute)
        hidden = hidden if self.final_layer_norm is None else self.final_layer_norm(hidden)
        hidden = hidden if self.project_out is None else self.project_out(hidden)  # [T, H] → [T, E]
        return hidden, None if kept is None else (*kept[:-1], hidden), weights


class OPTPreTrainedModel(PreTrainedModel):
    """What all OPT classes have in common: their configuration and the names of their parts."""

    config_class = OPTConfig
    base_model_prefix = "model"
    input_embeddings = "decoder.embed_tokens"
    config: OPTConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return OPTModel(self.config)


class OPTModel(OPTPreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.decoder = OPTDecoder(config)
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, past_key_values: Cache | None = None,
        inputs_embeds: Ids = None, use_cache: bool | None = None, position_ids: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPast | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, P + S]`, 0 at padding, `P` cached columns first; or `[B, S, S]`. Default: all real.
            past_key_values: cache of earlier tokens, which grows by these.
            inputs_embeds: `[B, S, E]` word vectors instead of ids.
            use_cache: whether to return a cache. Default: as the configuration says, and not in training.
            position_ids: `[B, S]`. Default: how many real tokens stand before, cached ones counted.
            output_attentions: return attention weights `[B, N, S, P + S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, E]` in place of `[B, S, E]`.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, None, position_ids, inputs_embeds, cache, packed)
        layout = tokens.layout
        hidden, kept, weights = self.decoder(tokens, *self.wanted(output_attentions, output_hidden_states))
        if packed is not None:
            return BaseModelOutputWithPast(hidden, layout.close(), kept, weights)
        output = BaseModelOutputWithPast(layout.unpack(hidden), layout.close(), kept, weights)
        return self.finish(output, layout, return_dict)


class OPTForCausalLM(OPTPreTrainedModel, heads.CausalLM):
    """The next word after each token."""

    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "model.decoder.embed_tokens.weight"}

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.word_embed_proj_dim, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)  # [..., E] → [..., V]


class OPTForSequenceClassification(OPTPreTrainedModel, heads.LastTokenClassification):
    """A class, or a number, for the whole text, read off its last token."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.score = nn.Linear(config.word_embed_proj_dim, config.num_labels, bias=False)
        self.post_init()


class OPTForQuestionAnswering(OPTPreTrainedModel, heads.QuestionAnswering):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: OPTConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.word_embed_proj_dim, 2)
        self.post_init()


CONFIG = OPTConfig
HEADS = {
    "Model": OPTModel,
    "ForCausalLM": OPTForCausalLM,
    "ForSequenceClassification": OPTForSequenceClassification,
    "ForQuestionAnswering": OPTForQuestionAnswering,
}
TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 48,
    "max_position_embeddings": 40,
}  # fmt: skip
VARIANTS = [
    {"do_layer_norm_before": False, "word_embed_proj_dim": 16, "num_attention_heads": 1},
    {"enable_bias": False, "layer_norm_elementwise_affine": False, "activation_function": "gelu",
     "num_hidden_layers": 3},
    {"_remove_final_layer_norm": True, "tie_word_embeddings": False, "word_embed_proj_dim": 48},
]  # fmt: skip
