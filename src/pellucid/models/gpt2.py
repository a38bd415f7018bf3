"""GPT-2: a stack of decoder layers in which a token sees those before it, with learned positions.

Radford et al. 2019, "Language Models are Unsupervised Multitask Learners",
cdn.openai.com/better-language-models/language_models_are_unsupervised_multitask_learners.pdf.
Checkpoints: openai-community/gpt2, openai-community/gpt2-xl, distilbert/distilgpt2.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `N` heads, `D` head size,
`V` vocabulary, `C` classes or choices.

The way through: word and position vectors are added, each `GPT2Block` lets the tokens look back (`GPT2Attention`) and
then transforms each token on its own (`GPT2MLP`), always on normalised copies that are added to what went in; a last
norm, and the head reads the answer off. Linear layers are `ops.Conv1D`, whose weights lie the other way round. With
`add_cross_attention` the blocks also look at a source, which an encoder has read (`GPT2CrossAttention`).
"""

from __future__ import annotations

import math
from typing import Any, Literal

from torch import Tensor, nn

from pellucid import heads, ops, outputs
from pellucid.cache import Cache, Source, open_cache
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutputWithPastAndCrossAttentions, ModelOutput
from pellucid.seq2seq import Seen, look_at


class GPT2Config(PretrainedConfig):
    """Sizes and rates of a GPT-2; the defaults are those of its smallest form."""

    model_type = "gpt2"
    attribute_map = {
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    vocab_size: Size = 50257
    n_positions: Size = 1024
    n_embd: Size = 768
    n_layer: Size = 12
    n_head: Size = 12
    n_inner: Size | None = None
    activation_function: str = "gelu_new"
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
    scale_attn_weights: bool = True
    scale_attn_by_inverse_layer_idx: bool = False
    reorder_and_upcast_attn: bool = False
    add_cross_attention: bool = False
    use_cache: bool = True
    bos_token_id: int | None = 50256
    eos_token_id: int | list[int] | None = 50256

    def validate(self) -> None:
        """Heads must share the hidden size evenly."""
        even = self.n_embd % self.n_head == 0
        self.require(even, "n_head", f"a divisor of n_embd {self.n_embd}")


class GPT2Projection(ops.Conv1D):
    """The end of a branch, whose result is added to the stream; `init_parameter` starts it with smaller numbers."""


class GPT2Attention(nn.Module):
    """Each token gathers from those before it: `[T, H]` → `[T, H]`."""

    read_by = "c_proj"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx
        self.head_size = config.n_embd // config.n_head
        self.scale = self.head_size**-0.5 if config.scale_attn_weights else 1.0
        if config.scale_attn_by_inverse_layer_idx:
            self.scale /= layer_idx + 1
        self.c_attn = ops.Conv1D(config.n_embd, 3 * config.n_embd)
        self.c_proj = GPT2Projection(config.n_embd, config.n_embd)
        self.attn_dropout = ops.Dropout(config.attn_pdrop)
        self.resid_dropout = ops.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        joint = self.c_attn(hidden)  # [T, H] → [T, 3 * N * D]
        joint = joint.view(-1, 3, joint.shape[-1] // (3 * self.head_size), self.head_size)
        query, key, value = joint.unbind(1)  # [T, N, D] each
        mixed, maps = ops.attention(
            query, key, value, layout, causal=True, scale=self.scale, need_weights=need_weights,
            dropout=self.attn_dropout.p if self.training else 0.0, memory=layout.memory(self.layer_idx),
        )  # fmt: skip
        return self.resid_dropout(self.c_proj(mixed)), maps


class GPT2CrossAttention(GPT2Attention):
    """Each token gathers from all tokens of another text, the source: `[T, H]` → `[T, H]`."""

    read_by = ""  # what is numbered are the heads among a text's own tokens

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.c_attn = ops.Conv1D(config.n_embd, 2 * config.n_embd)
        self.q_attn = ops.Conv1D(config.n_embd, config.n_embd)

    def forward(  # type: ignore[override]  # queries and keys are of different texts
        self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source
    ) -> tuple[Tensor, Maps | None]:
        memory, query = source.memory(self.layer_idx), self.q_attn(hidden)
        query = query.view(-1, query.shape[-1] // self.head_size, self.head_size)  # [T, H] → [T, N, D]
        if memory.keys is None and source.states is not None and source.layout is not None:
            joint = self.c_attn(source.states).view(-1, 2, query.shape[1], self.head_size)  # [T of the source, 2, N, D]
            memory.store(joint[:, 0], joint[:, 1], source.layout)
        mixed, maps = ops.attend(
            ops.cross_blocks(query, layout, memory), query, scale=self.scale, need_weights=need_weights,
            dropout=self.attn_dropout.p if self.training else 0.0,
        )  # fmt: skip
        return self.resid_dropout(self.c_proj(mixed)), maps


class GPT2MLP(nn.Module):
    """A feed-forward network on each token: `[T, H]` → `[T, H]`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__()
        inner = 4 * config.n_embd if config.n_inner is None else config.n_inner
        self.c_fc = ops.Conv1D(config.n_embd, inner)
        self.c_proj = GPT2Projection(inner, config.n_embd)
        self.act = ops.activation(config.activation_function)
        self.dropout = ops.Dropout(config.resid_pdrop)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.dropout(self.c_proj(self.act(self.c_fc(hidden))))  # [T, H] → [T, inner] → [T, H]


class GPT2Block(nn.Module):
    """Attention to the tokens before, to another text if there is one, then a feed-forward network: `[T, H]`."""

    def __init__(self, config: GPT2Config, layer_idx: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn = GPT2Attention(config, layer_idx)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.mlp = GPT2MLP(config)
        if config.add_cross_attention:
            self.crossattention = GPT2CrossAttention(config, layer_idx)
            self.ln_cross_attn = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source | None) -> tuple[Tensor, Any]:
        mixed, maps = self.attn(self.ln_1(hidden), layout, need_weights)
        hidden, cross = hidden + mixed, None
        if source is not None:
            mixed, cross = self.crossattention(self.ln_cross_attn(hidden), layout, need_weights, source)
            hidden = hidden + mixed
        return hidden + self.mlp(self.ln_2(hidden)), (maps, cross) if need_weights else None


class GPT2PreTrainedModel(PreTrainedModel):
    """What all GPT-2 classes have in common: their configuration and the names of their parts."""

    config_class = GPT2Config
    base_model_prefix = "transformer"
    input_embeddings = "wte"
    computed = ("*.attn.bias", "*.attn.masked_bias", "*.crossattention.bias", "*.crossattention.masked_bias")
    config: GPT2Config

    def make_body(self) -> PreTrainedModel:
        """The body that the heads read."""
        return GPT2Model(self.config)

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """Two branches a layer add up: the more there are, the smaller each starts, so that the sum stays the same."""
        super().init_parameter(module, name, parameter)
        if isinstance(module, GPT2Projection):
            parameter.div_(math.sqrt(2 * self.config.n_layer))


class GPT2Model(GPT2PreTrainedModel):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = ops.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(GPT2Block(config, number) for number in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.gradient_checkpointing = False
        self.post_init()

    def embed(self, tokens: PackedTokens) -> Tensor:
        """Word and position vectors added, and those of token types, which are words too: `[T]` → `[T, H]`."""
        layout, ids, types, positions, hidden = tokens
        if ids is not None:
            hidden = ops.embed(self.wte, ids)
        assert hidden is not None
        if positions is None:
            ops.check_length(layout.reach, self.config.n_positions)
            positions = layout.positions(hidden.device)
        hidden = hidden + ops.embed(self.wpe, positions, "position_ids")
        return self.drop(hidden if types is None else hidden + ops.embed(self.wte, types, "token_type_ids"))

    def forward(
        self, input_ids: Ids = None, past_key_values: Cache | None = None, attention_mask: Ids = None,
        token_type_ids: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        encoder_hidden_states: Seen = None, encoder_attention_mask: Ids = None, use_cache: bool | None = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[Tensor, ...]:  # fmt: skip
        """Run the body.

        Args:
            input_ids: `[B, S]` vocabulary indices; exactly one of this, `inputs_embeds` and `packed`.
            past_key_values: cache of earlier tokens, which grows by these.
            attention_mask: `[B, P + S]`, 0 at padding, `P` cached columns first; or `[B, S, S]`. Default: all real.
            token_type_ids: `[B, S]` vocabulary indices whose vectors are added to the words'. Default: none are.
            position_ids: `[B, S]`. Default: the column number, cached columns counted.
            inputs_embeds: `[B, S, H]` word vectors instead of ids.
            encoder_hidden_states: `[B, source, H]` of a text to look at, with `add_cross_attention`. A cache keeps what
                the layers make of them, and they are not read again.
            encoder_attention_mask: `[B, source]`, 0 at padding. Default: all real.
            use_cache: whether to return a cache. Default: as the configuration says, and not in training.
            output_attentions: return attention weights `[B, N, S, P + S]`: of all layers (`True`) or those listed.
            output_hidden_states: return the states `[B, S, H]` before the first and after each layer.
            return_dict: `False` gives a plain tuple.
            packed: tokens that are packed already; results then stay packed, `[T, H]` in place of `[B, S, H]`.
        """
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        layout = tokens.layout
        maps, states = self.wanted(output_attentions, output_hidden_states)
        recompute = self.gradient_checkpointing and self.training
        source = look_at(encoder_hidden_states, encoder_attention_mask, layout.cache)
        if source is not None:
            self.config.require(self.config.add_cross_attention, "add_cross_attention", "true to look at another text")
        hidden, kept, pairs = ops.run_layers(self.h, self.embed(tokens), layout, maps, states, recompute, source)
        hidden = self.ln_f(hidden)
        kept = None if kept is None else (*kept[:-1], hidden)
        own, across = (None if pairs is None else tuple(pair[which] for pair in pairs) for which in (0, 1))
        across = None if source is None else across
        output = BaseModelOutputWithPastAndCrossAttentions(hidden, layout.close(), kept, own, across)
        if packed is not None:
            return output
        if source is not None:
            output.cross_attentions = layout.unpack_cross_maps(across, source.layout)
        output.last_hidden_state = layout.unpack(hidden)
        return self.finish(output, layout, return_dict)


class GPT2LMHeadModel(GPT2PreTrainedModel, heads.CausalLM):
    """The next word after each token."""

    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "transformer.wte.weight"}

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.n_embd, config.vocab_size, bias=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden)  # [..., H] → [..., V]

    def forward(  # type: ignore[override]  # with token types and a source
        self, input_ids: Ids = None, past_key_values: Cache | None = None, attention_mask: Ids = None,
        token_type_ids: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None,
        encoder_hidden_states: Seen = None, encoder_attention_mask: Ids = None, labels: Ids = None,
        use_cache: bool | None = None, logits_to_keep: int = 0, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `GPT2Model`; `labels` and `logits_to_keep` as in `heads.CausalLM`."""
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        layout, source = tokens.layout, look_at(encoder_hidden_states, encoder_attention_mask, tokens.layout.cache)
        body = self.decode(tokens, source, output_attentions, output_hidden_states)
        answer = self.answer(body.last_hidden_state, layout, labels, logits_to_keep)
        output = outputs.CausalLMOutputWithCrossAttentions(answer.loss, answer.logits, answer.past_key_values)
        if source is not None:
            output.cross_attentions = layout.unpack_cross_maps(body.cross_attentions, source.layout)
        return self.finish(output, layout, return_dict, body)

    def decode(self, tokens: PackedTokens, source: Source | None, maps: Asked, states: bool | None) -> Any:
        """The body's packed answer on packed tokens, whose cache is open already."""
        return self.base_model(
            packed=tokens, encoder_hidden_states=source, use_cache=False, output_attentions=maps,
            output_hidden_states=states,
        )  # fmt: skip


class GPT2DoubleHeadsModel(GPT2LMHeadModel, heads.DoubleHeads):
    """The next word after each token, and which of `C` continuations fits best: inputs `[B, C, S]`."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.multiple_choice_head = heads.SequenceSummary(config, 1)
        self.post_init()

    def forward(  # type: ignore[override]  # two answers
        self, input_ids: Ids = None, past_key_values: Cache | None = None, attention_mask: Ids = None,
        token_type_ids: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None, mc_token_ids: Ids = None,
        labels: Ids = None, mc_labels: Ids = None, use_cache: bool | None = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None, return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `GPT2Model`, with an axis of choices after the first, and as in `heads.DoubleHeads.judge`."""
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        body = self.run(tokens, output_attentions, output_hidden_states)
        axes = heads.axes_of(input_ids, inputs_embeds, tokens.layout)
        return self.judge(body, tokens.layout, axes, mc_token_ids, labels, mc_labels, return_dict)


class GPT2ClassHead(GPT2PreTrainedModel, heads.ClassHead):
    """A head with classes, on a body that knows token types."""

    def forward(  # type: ignore[override]  # with token types
        self, input_ids: Ids = None, past_key_values: Cache | None = None, attention_mask: Ids = None,
        token_type_ids: Ids = None, position_ids: Ids = None, inputs_embeds: Ids = None, labels: Ids = None,
        use_cache: bool | None = None, output_attentions: Asked = None, output_hidden_states: bool | None = None,
        return_dict: bool | None = None, packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `GPT2Model`, and the head's `labels`, which add a `loss`."""
        cache = open_cache(past_key_values, use_cache, self.config, self.training)
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, cache, packed)
        return super().forward(
            packed=tokens, labels=labels, use_cache=False, return_dict=return_dict,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip


class GPT2ForSequenceClassification(GPT2ClassHead, heads.LastTokenClassification):
    """A class, or a number, for the whole text, read off its last token."""


class GPT2ForTokenClassification(GPT2ClassHead):
    """A class for each token; `labels` `[B, S]`, -100 left out."""

    def __init__(self, config: GPT2Config) -> None:
        super().__init__(config)
        self.dropout = ops.Dropout(0.1)
        self.classifier = nn.Linear(config.n_embd, config.num_labels)
        self.post_init()

    def read(self, hidden: Tensor, tokens: PackedTokens, labels: Tensor | None) -> ModelOutput:
        logits = self.classifier(self.dropout(hidden))  # [T, H] → [T, C]
        loss = ops.token_loss(logits, labels, tokens.layout)
        return outputs.TokenClassifierOutput(loss, tokens.layout.unpack(logits))


class GPT2ForQuestionAnswering(GPT2PreTrainedModel, heads.QuestionAnswering):
    """Where in a text the answer begins and ends."""

    def forward(  # type: ignore[override]  # with token types
        self, input_ids: Ids = None, attention_mask: Ids = None, token_type_ids: Ids = None, position_ids: Ids = None,
        inputs_embeds: Ids = None, start_positions: Ids = None, end_positions: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> ModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `GPT2Model`; `start_positions` and `end_positions` `[B]` of the answer add a `loss`."""
        tokens = pack_tokens(input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds, packed=packed)
        return super().forward(
            packed=tokens, start_positions=start_positions, end_positions=end_positions, return_dict=return_dict,
            output_attentions=output_attentions, output_hidden_states=output_hidden_states,
        )  # fmt: skip


CONFIG = GPT2Config
HEADS = {
    "Model": GPT2Model,
    "ForCausalLM": GPT2LMHeadModel,
    "DoubleHeads": GPT2DoubleHeadsModel,
    "ForSequenceClassification": GPT2ForSequenceClassification,
    "ForTokenClassification": GPT2ForTokenClassification,
    "ForQuestionAnswering": GPT2ForQuestionAnswering,
}
TINY = {
    "vocab_size": 99, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 40, "eos_token_id": 98,
}  # fmt: skip
VARIANTS = [
    {"n_head": 1, "n_layer": 1, "n_inner": 48, "activation_function": "relu", "tie_word_embeddings": False},
    {"scale_attn_weights": False, "scale_attn_by_inverse_layer_idx": True, "layer_norm_epsilon": 1e-3,
     "summary_activation": "tanh"},
    {"reorder_and_upcast_attn": True, "n_head": 8, "activation_function": "gelu", "add_cross_attention": True},
]  # fmt: skip
