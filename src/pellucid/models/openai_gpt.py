"""GPT: a stack of decoder layers in which a token sees those before it; each layer normalises what it leaves behind.

Radford et al. 2018, "Improving Language Understanding by Generative Pre-Training",
cdn.openai.com/research-covers/language-unsupervised/language_understanding_paper.pdf.
Checkpoints: openai-community/openai-gpt.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads, `D` head size,
`V` vocabulary, `C` classes or choices.

The way through: word and position vectors are added, each `Block` lets the tokens look back (`Attention`), normalises
the sum, transforms each token on its own (`MLP`), and normalises again; the head reads the answer off. Linear layers
are `ops.Conv1D`, whose weights lie the other way round. Nothing is remembered from call to call.
"""

from __future__ import annotations

from typing import Any, Literal

from torch import Tensor, nn

from pellucid import heads, ops
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutput, ModelOutput


class OpenAIGPTConfig(PretrainedConfig):
    """Sizes and rates of a GPT; the defaults are those of the one that was published."""

    model_type = "openai-gpt"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: Size = 40478
    n_positions: Size = 512
    n_embd: Size = 768
    n_layer: Size = 12
    n_head: Size = 12
    afn: Literal["gelu", "relu", "silu", "swish"] = "gelu"
    resid_pdrop: Rate = 0.1
    embd_pdrop: Rate = 0.1
    attn_pdrop: Rate = 0.1
    layer_norm_epsilon: Positive = 1e-5
    initializer_range: Positive = 0.02
    summary_type: Literal["cls_index", "last", "first", "mean"] = "cls_index"
    summary_use_proj: bool = True
    summary_activation: str | None = None
    summary_proj_to_labels: bool = True
    summary_first_dropout: Rate = 0.1

    def validate(self) -> None:
        """Heads must share the hidden size evenly."""
        even = self.n_embd % self.n_head == 0
        self.require(even, "n_head", f"a divisor of n_embd {self.n_embd}")


class Attention(nn.Module):
    """Each token gathers from those before it: `[T, H]` → `[T, H]`."""

    read_by = "c_proj"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__()
        self.head_size = config.n_embd // config.n_head
        self.c_attn = ops.Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = ops.Conv1D(config.n_embd, config.n_embd)
        self.attn_dropout = ops.Dropout(config.attn_pdrop)
        self.resid_dropout = ops.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        joint = self.c_attn(hidden)  # [T, H] → [T, 3 * N * D]
        joint = joint.view(-1, 3, joint.shape[-1] // (3 * self.head_size), self.head_size)
        query, key, value = joint.unbind(1)  # [T, N, D] each
        dropout = self.attn_dropout.p if self.training else 0.0
        mixed, maps = ops.attention(query, key, value, layout, causal=True, dropout=dropout, need_weights=need_weights)
        return self.resid_dropout(self.c_proj(mixed)), maps


class MLP(nn.Module):
    """A feed-forward network on each token: `[T, H]` → `[T, H]`."""

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__()
        self.c_fc = ops.Conv1D(config.n_embd, 4 * config.n_embd)
        self.c_proj = ops.Conv1D(4 * config.n_embd, config.n_embd)
        self.act = ops.activation("gelu_new" if config.afn == "gelu" else config.afn)  # GPT knew no other GELU
        self.dropout = ops.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden))))  # [T, H] → [T, 4 * H] → [T, H]


class Block(nn.Module):
    """Attention to the tokens before, then a feed-forward network, a norm after each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__()
        self.attn = Attention(config)
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = MLP(config)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attn(hidden, layout, need_weights)
        hidden = self.ln_1(hidden + mixed)
        return self.ln_2(hidden + self.mlp(hidden)), maps


class OpenAIGPTPreTrainedModel(PreTrainedModel):
    """What all GPT classes have in common: their configuration and the names of their parts."""

    config_class = OpenAIGPTConfig
    base_model_prefix = "transformer"
    input_embeddings = "tokens_embed"
    computed = ("*.attn.bias",)
    config: OpenAIGPTConfig

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return OpenAIGPTModel(self.config)

    def run(self, tokens: PackedTokens, maps: Asked, states: bool | None) -> Any:
        """The body's answer on packed tokens."""
        return self.base_model(packed=tokens, output_attentions=maps, output_hidden_states=states)


class OpenAIGPTModel(OpenAIGPTPreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__(config)
        self.tokens_embed = nn.Embedding(config.vocab_size, config.n_embd)
        self.positions_embed = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = ops.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config) for _ in range(config.n_layer))
        self.gradient_checkpointing = False
        self.post_init()

    def embed(self, tokens: PackedTokens) -> Tensor:
        """Word and position vectors added, and those of token types, which are words too: `[T]` → `[T, H]`."""
        layout, ids, types, positions, hidden = tokens
        if ids is not None:
            hidden = ops.embed(self.tokens_embed, ids)
        assert hidden is not None
        if positions is None:
            ops.check_length(layout.width, self.config.n_positions)
            positions = layout.positions(hidden.device)
        hidden = hidden + ops.embed(self.positions_embed, positions, "position_ids")
        return self.drop(hidden if types is None else hidden + ops.embed(self.tokens_embed, types, "token_type_ids"))

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            attention_mask: `[B, S]`, 0 at padding; or `[B, S, S]`, which tokens each token sees. Default: all real.
            token_type_ids: `[B, S]` vocabulary indices whose vectors are added to the words'. Default: none are.
            position_ids: `[B, S]`. Default: the column number.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
            output_attentions: return attention weights `[B, N, S, S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.
        """
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        maps, states = self.wanted(output_attentions, output_hidden_states)
        recompute = self.gradient_checkpointing and self.training
        found = ops.run_layers(self.h, self.embed(tokens), tokens.layout, maps, states, recompute)
        output = BaseModelOutput(*found)
        if packed is not None:
            return output
        output.last_hidden_state = tokens.layout.unpack(found[0])
        return self.finish(output, tokens.layout, return_dict)


class OpenAIGPTLMHeadModel(OpenAIGPTPreTrainedModel, heads.CausalLM):
    """The next word after each token."""

    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "transformer.tokens_embed.weight"}

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)  # [..., H] → [..., V]

    def forward(  # type: ignore[override]  # with token types, without a cache
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, logits_to_keep: int = 0, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `OpenAIGPTModel`; `labels` and `logits_to_keep` as in `heads.CausalLM`."""
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return super().forward(
            packed=tokens, labels=labels, use_cache=False, logits_to_keep=logits_to_keep, return_dict=return_dict,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip


class OpenAIGPTDoubleHeadsModel(OpenAIGPTLMHeadModel, heads.DoubleHeads):
    """The next word after each token, and which of `C` continuations fits best: inputs `[B, C, S]`."""

    def __init__(self, config: OpenAIGPTConfig) -> None:
        super().__init__(config)
        self.multiple_choice_head = heads.SequenceSummary(config, 1)
        self.post_init()

    def forward(  # type: ignore[override]  # two answers
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, mc_token_ids: Ids = None, labels: Ids = None, mc_labels: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `OpenAIGPTModel`, with an axis of choices after the first, and as in `DoubleHeads.judge`."""
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        body = self.run(tokens, output_attentions, output_hidden_states)
        axes = heads.axes_of(input_ids, inputs_embeds, tokens.layout)
        return self.judge(body, tokens.layout, axes, mc_token_ids, labels, mc_labels, return_dict)


class OpenAIGPTForSequenceClassification(OpenAIGPTPreTrainedModel, heads.LastTokenClassification):
    """A class, or a number, for the whole text, read off its last token; `labels` `[B]` or `[B, C]`."""

    def forward(  # type: ignore[override]  # with token types, without a cache
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, labels: Ids = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `OpenAIGPTModel`, and the head's `labels`, which add a `loss`."""
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return super().forward(
            packed=tokens, labels=labels, use_cache=False, return_dict=return_dict,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip


CONFIG = OpenAIGPTConfig
HEADS = {
    "Model": OpenAIGPTModel,
    "ForCausalLM": OpenAIGPTLMHeadModel,
    "DoubleHeads": OpenAIGPTDoubleHeadsModel,
    "ForSequenceClassification": OpenAIGPTForSequenceClassification,
}
TINY = {"vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "pad_token_id": 1}
VARIANTS = [
    {"n_head": 1, "n_layer": 1, "afn": "relu", "tie_word_embeddings": False},
    {"afn": "silu", "layer_norm_epsilon": 1e-3, "n_head": 8, "summary_activation": "tanh"},
]
