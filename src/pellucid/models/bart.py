"""BART: an encoder that reads a damaged text and a decoder that writes it anew while looking at what was read.

Lewis et al. 2019, "BART: Denoising Sequence-to-Sequence Pre-training for Natural Language Generation, Translation, and
Comprehension", arXiv:1910.13461.
Checkpoints: facebook/bart-base, facebook/bart-large-cnn, sshleifer/distilbart-cnn-12-6.

Axes: `B` batch, `S` the decoder's sequence, `source` the encoder's, `T` packed tokens, `H` hidden (`d_model`),
`N` heads, `D` head size, `V` vocabulary, `C` classes.

The way through: both stacks add vectors of words and positions. In a `BartEncoderLayer` every token sees every other
one; in a `BartDecoderLayer` a token sees those before it, then the whole source, then is transformed on its own.
mBART, Pegasus, Marian, M2M100 and Blenderbot are this model with other norms and positions: their files say which.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pellucid import ops, seq2seq
from pellucid.cache import Source
from pellucid.config import Positive, PretrainedConfig, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens, pack_tokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutput, BaseModelOutputWithPastAndCrossAttentions


class BartConfig(PretrainedConfig):
    """Sizes and rates of a BART; the defaults are those of bart-large."""

    model_type = "bart"
    attribute_map: ClassVar[dict[str, str]] = {
        "hidden_size": "d_model",
        "num_attention_heads": "encoder_attention_heads",
        "num_hidden_layers": "encoder_layers",
        "initializer_range": "init_std",
    }
    usual_labels = 3
    norm_first: ClassVar[bool] = False
    """Whether each step reads a normalised copy, with a last norm after all layers, or its result is normalised."""
    embedding_norm: ClassVar[bool] = True
    """Whether the sum of words and positions is normalised."""
    share_encoder_decoder_embeddings: ClassVar[bool] = True
    """Whether there is one table of words for both stacks."""

    vocab_size: Size = 50265
    d_model: Size = 1024
    encoder_layers: Size = 12
    encoder_ffn_dim: Size = 4096
    encoder_attention_heads: Size = 16
    decoder_layers: Size = 12
    decoder_ffn_dim: Size = 4096
    decoder_attention_heads: Size = 16
    encoder_layerdrop: Rate = 0.0
    decoder_layerdrop: Rate = 0.0
    activation_function: str = "gelu"
    dropout: Rate = 0.1
    attention_dropout: Rate = 0.0
    activation_dropout: Rate = 0.0
    classifier_dropout: Rate = 0.0
    init_std: Positive = 0.02
    max_position_embeddings: Size = 1024
    scale_embedding: bool = False
    use_cache: bool = True
    pad_token_id: int | None = 1
    bos_token_id: int | None = 0
    eos_token_id: int | list[int] | None = 2
    is_encoder_decoder: bool = True
    is_decoder: bool = False
    decoder_start_token_id: int | None = 2
    forced_eos_token_id: int | list[int] | None = 2

    def validate(self) -> None:
        """Heads of both stacks must share the hidden size evenly."""
        for field in ("encoder_attention_heads", "decoder_attention_heads"):
            self.require(self.d_model % getattr(self, field) == 0, field, f"a divisor of d_model {self.d_model}")

    @property
    def written_words(self) -> int:
        """How many words the decoder knows."""
        return self.vocab_size


class Words(nn.Embedding):
    """Vectors of words, multiplied by a number: ids `[T]` → `[T, H]`."""

    def __init__(self, config: BartConfig, rows: int) -> None:
        super().__init__(rows, config.d_model, padding_idx=config.pad_token_id)
        self.scale = config.d_model**0.5 if config.scale_embedding else 1.0

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input) * self.scale


class LearnedPositions(nn.Module):
    """A learned vector for each position, `[T]` → `[T, H]`; BART's table begins with two rows that are not used."""

    offset = 2

    def __init__(self, config: BartConfig) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(config.max_position_embeddings + self.offset, config.d_model))

    def forward(self, tokens: PackedTokens, words: Tensor) -> Tensor:
        ops.check_length(tokens.layout.offset + tokens.layout.width, len(self.weight) - self.offset)
        return nn.functional.embedding(tokens.positions(words.device) + self.offset, self.weight)


class WavePositions(LearnedPositions):
    """Positions that are computed, not learned; the table is a tensor all the same, as in checkpoints."""

    offset = 0

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.weight.requires_grad_(False)


class BartAttention(nn.Module):
    """Tokens gather from tokens of their own text, or across from another one: `[T, H]` → `[T, H]`."""

    joined: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")  # a speed form may compute these at once

    def __init__(self, config: BartConfig, num_heads: int, layer_idx: int, causal: bool, across: bool = False) -> None:
        super().__init__()
        self.head_dim = config.d_model // num_heads
        self.layer_idx, self.causal, self.rate = layer_idx, causal, config.attention_dropout
        self.joined = () if across else self.joined  # queries and keys are of different texts
        self.k_proj = nn.Linear(config.d_model, config.d_model)
        self.v_proj = nn.Linear(config.d_model, config.d_model)
        self.q_proj = nn.Linear(config.d_model, config.d_model)
        self.out_proj = nn.Linear(config.d_model, config.d_model)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        projected = ops.project(hidden, self.q_proj, self.k_proj, self.v_proj)
        query, key, value = (self.heads(x) for x in projected)  # [T, H] → [T, N, D]
        mixed, maps = ops.attention(
            query, key, value, layout, causal=self.causal, dropout=self.rate if self.training else 0.0,
            need_weights=need_weights, memory=layout.memory(self.layer_idx) if self.causal else None,
        )  # fmt: skip
        return self.out_proj(mixed), maps

    def across(self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source) -> tuple[Tensor, Maps | None]:
        """Queries of the decoder's tokens, keys and values of the encoder's, which are made once."""
        query, memory = self.heads(self.q_proj(hidden)), source.memory(self.layer_idx)
        if memory.keys is None and source.states is not None and source.layout is not None:
            key, value = self.heads(self.k_proj(source.states)), self.heads(self.v_proj(source.states))
            memory.store(key, value, source.layout)  # [T of the source, N, D]
        mixed, maps = ops.attend(
            ops.cross_blocks(query, layout, memory), query, dropout=self.rate if self.training else 0.0,
            need_weights=need_weights,
        )  # fmt: skip
        return self.out_proj(mixed), maps

    def heads(self, x: Tensor) -> Tensor:
        """`[T, H]` → `[T, N, D]`."""
        return x.view(-1, x.shape[-1] // self.head_dim, self.head_dim)


class BartEncoderLayer(nn.Module):
    """Attention between all tokens of the source, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: BartConfig, layer_idx: int) -> None:
        super().__init__()
        self.norm_first = config.norm_first
        self.self_attn = BartAttention(config, config.encoder_attention_heads, layer_idx, causal=False)
        self.self_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.activation = ops.activation(config.activation_function)
        self.dropout = ops.Dropout(config.dropout)
        self.activation_dropout = ops.Dropout(config.activation_dropout)
        self.fc1 = nn.Linear(config.d_model, config.encoder_ffn_dim)
        self.fc2 = nn.Linear(config.encoder_ffn_dim, config.d_model)
        self.final_layer_norm = nn.LayerNorm(config.d_model)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.self_attn(self.before(self.self_attn_layer_norm, hidden), layout, need_weights)
        hidden = self.after(self.self_attn_layer_norm, hidden + self.dropout(mixed))
        return self.transform(hidden), maps

    def transform(self, hidden: Tensor) -> Tensor:
        """The feed-forward network on each token."""
        inner = self.activation_dropout(self.activation(self.fc1(self.before(self.final_layer_norm, hidden))))
        return self.after(self.final_layer_norm, hidden + self.dropout(self.fc2(inner)))

    def before(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        """What a step reads."""
        return norm(hidden) if self.norm_first else hidden

    def after(self, norm: nn.Module, hidden: Tensor) -> Tensor:
        """What a step leaves behind."""
        return hidden if self.norm_first else norm(hidden)


class BartDecoderLayer(BartEncoderLayer):
    """Attention to the tokens before, attention to the source, then a feed-forward network: `[T, H]` → `[T, H]`."""

    def __init__(self, config: BartConfig, layer_idx: int) -> None:
        super().__init__(config, layer_idx)
        self.self_attn = BartAttention(config, config.decoder_attention_heads, layer_idx, causal=True)
        self.encoder_attn = BartAttention(config, config.decoder_attention_heads, layer_idx, causal=False, across=True)
        self.encoder_attn_layer_norm = nn.LayerNorm(config.d_model)
        self.fc1 = nn.Linear(config.d_model, config.decoder_ffn_dim)
        self.fc2 = nn.Linear(config.decoder_ffn_dim, config.d_model)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, source: Source | None = None
    ) -> tuple[Tensor, Any]:
        mixed, maps = self.self_attn(self.before(self.self_attn_layer_norm, hidden), layout, need_weights)
        hidden = self.after(self.self_attn_layer_norm, hidden + self.dropout(mixed))
        cross = None
        if source is not None:
            read = self.before(self.encoder_attn_layer_norm, hidden)
            mixed, cross = self.encoder_attn.across(read, layout, need_weights, source)
            hidden = self.after(self.encoder_attn_layer_norm, hidden + self.dropout(mixed))
        return self.transform(hidden), (maps, cross) if need_weights else None


class BartPreTrainedModel(PreTrainedModel):
    """What all BART classes have in common: their configuration and the names of their parts."""

    config_class = BartConfig
    config: BartConfig
    base_model_prefix = "model"
    input_embeddings = "shared"
    computed: ClassVar[tuple[str, ...]] = ("*encoder.version", "*decoder.version")
    positions_class: type[nn.Module] = LearnedPositions

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        if isinstance(module, WavePositions):
            parameter.copy_(ops.sinusoids(*parameter.shape))
        elif isinstance(module, LearnedPositions):
            parameter.normal_(0.0, self.config.init_std)
        else:
            super().init_parameter(module, name, parameter)


class BartStack(BartPreTrainedModel):
    """What encoder and decoder have in common: words and positions at the start, a norm at the end, layers between."""

    base_model_prefix = ""
    input_embeddings = "embed_tokens"
    layers: nn.ModuleList

    def __init__(self, config: BartConfig, words: nn.Embedding) -> None:
        super().__init__(config)
        self.embed_tokens = words
        self.embed_positions = self.positions_class(config)
        self.dropout = ops.Dropout(config.dropout)
        self.layernorm_embedding = nn.LayerNorm(config.d_model) if config.embedding_norm else None
        self.layer_norm = nn.LayerNorm(config.d_model) if config.norm_first else None
        self.layerdrop = 0.0
        self.gradient_checkpointing = False

    def through(self, tokens: PackedTokens, maps: Asked, states: bool | None, *shared: Source | None) -> Any:
        """Tokens `[T]` → states `[T, H]`, all states and all weights, packed."""
        words = tokens.inputs_embeds
        if tokens.input_ids is not None:
            words = ops.embed(self.embed_tokens, tokens.input_ids)  # [T] → [T, H]
        assert words is not None
        hidden = self.dropout(self.place(words, self.embed_positions(tokens, words)))
        maps, states = self.wanted(maps, states)
        layers = [layer for layer in self.layers if not self.training or torch.rand(()) >= self.layerdrop]
        recompute = self.gradient_checkpointing and self.training
        hidden, kept, weights = ops.run_layers(layers, hidden, tokens.layout, maps, states, recompute, *shared)
        if self.layer_norm is not None:
            hidden = self.layer_norm(hidden)
            kept = None if kept is None else (*kept[:-1], hidden)
        return hidden, kept, weights

    def place(self, words: Tensor, positions: Tensor) -> Tensor:
        """Bring words and positions together: `[T, H]` each → `[T, H]`."""
        hidden = words + positions
        return hidden if self.layernorm_embedding is None else self.layernorm_embedding(hidden)


class BartEncoder(BartStack):
    """The stack that reads: ids `[B, source]` → states `[B, source, H]`."""

    layer_class: type[nn.Module] = BartEncoderLayer

    def __init__(self, config: BartConfig, words: nn.Embedding | None = None) -> None:
        super().__init__(config, Words(config, config.vocab_size) if words is None else words)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.encoder_layers))
        self.layerdrop = config.encoder_layerdrop
        self.post_init()

    def forward(
        self, input_ids: Ids = None, attention_mask: Ids = None, inputs_embeds: Ids = None,
        output_attentions: Asked = None, output_hidden_states: bool | None = None, return_dict: bool | None = None,
        packed: PackedTokens | None = None,
    ) -> BaseModelOutput | tuple[Tensor, ...]:  # fmt: skip
        """Arguments as in `BartModel`, of the source."""
        tokens = pack_tokens(input_ids, attention_mask, None, None, inputs_embeds, None, packed)
        hidden, kept, weights = self.through(tokens, output_attentions, output_hidden_states)
        if packed is not None:
            return BaseModelOutput(hidden, kept, weights)
        return self.finish(BaseModelOutput(tokens.layout.unpack(hidden), kept, weights), tokens.layout, return_dict)


class BartDecoder(BartStack):
    """The stack that writes: packed ids `[T]`, and what the encoder made of the source, → packed states `[T, H]`."""

    layer_class: type[nn.Module] = BartDecoderLayer

    def __init__(self, config: BartConfig, words: nn.Embedding | None = None) -> None:
        super().__init__(config, Words(config, config.written_words) if words is None else words)
        self.layers = nn.ModuleList(self.layer_class(config, number) for number in range(config.decoder_layers))
        self.layerdrop = config.decoder_layerdrop
        self.post_init()

    def forward(
        self, packed: PackedTokens, source: Source | None = None, output_attentions: Asked = None,
        output_hidden_states: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions:  # fmt: skip
        """Run the stack; without a source it looks at its own tokens only."""
        hidden, kept, pairs = self.through(packed, output_attentions, output_hidden_states, source)
        maps = None if pairs is None else tuple(own for own, _ in pairs)
        cross = None if pairs is None or source is None else tuple(across for _, across in pairs)
        return BaseModelOutputWithPastAndCrossAttentions(hidden, packed.layout.close(), kept, maps, cross)


class BartModel(BartPreTrainedModel, seq2seq.EncoderDecoder):
    """The body: ids of the source and of the decoder in, one vector for each of the decoder's tokens out."""

    tied = {"encoder.embed_tokens.weight": "shared.weight", "decoder.embed_tokens.weight": "shared.weight"}
    word_tensors = tuple(tied)
    encoder_class: type[BartEncoder] = BartEncoder
    decoder_class: type[BartDecoder] = BartDecoder

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.shared = Words(config, config.vocab_size) if config.share_encoder_decoder_embeddings else None
        words = self.shared if config.tie_word_embeddings else None
        self.encoder = self.encoder_class(config, words)
        self.decoder = self.decoder_class(config, words)
        self.post_init()


class BartHead(BartPreTrainedModel):
    """A BART with a head."""

    tied = {f"model.{name}": f"model.{first}" for name, first in BartModel.tied.items()}
    word_tensors = tuple(tied)
    body_class: type[seq2seq.EncoderDecoder] = BartModel

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.model = self.body_class(config)


class BartForConditionalGeneration(BartHead, seq2seq.ConditionalGeneration):
    """The decoder writes: scores of the next word after each of its tokens."""

    output_embeddings = "lm_head"
    tied = {**BartHead.tied, "lm_head.weight": "model.shared.weight"}
    may_lack: ClassVar[tuple[str, ...]] = ("final_logits_bias",)

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.lm_head = nn.Linear(config.d_model, config.written_words, bias=False)
        self.final_logits_bias = nn.Parameter(torch.zeros(1, config.written_words), requires_grad=False)
        self.post_init()

    def read_out(self, hidden: Tensor) -> Tensor:
        return self.lm_head(hidden) + self.final_logits_bias[0]  # [..., H] → [..., V]

    def resize_token_embeddings(
        self, new_num_tokens: int | None = None, pad_to_multiple_of: int | None = None, mean_resizing: bool = True
    ) -> nn.Embedding:
        table = super().resize_token_embeddings(new_num_tokens, pad_to_multiple_of, mean_resizing)
        rows, old = table.weight.shape[0], self.final_logits_bias
        bias = nn.functional.pad(old, (0, max(rows - old.shape[1], 0)))[:, :rows]
        self.final_logits_bias = nn.Parameter(bias, requires_grad=False)
        return table


class BartForSequenceClassification(BartHead, seq2seq.TextClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]`."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.classification_head = seq2seq.ClassificationHead(
            config.d_model, config.num_labels, config.classifier_dropout
        )
        self.post_init()


class BartForQuestionAnswering(BartHead, seq2seq.SpanFinding):
    """Where in a text the answer begins and ends."""

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.qa_outputs = nn.Linear(config.d_model, 2)
        self.post_init()


class BartForCausalLM(BartPreTrainedModel, seq2seq.DecoderAlone):
    """The decoder alone, which may look at states of any encoder: the next word after each token."""

    input_embeddings = "decoder.embed_tokens"
    output_embeddings = "lm_head"
    tied = {"lm_head.weight": "model.decoder.embed_tokens.weight"}
    renames = (*PreTrainedModel.renames, ("shared.weight", "decoder.embed_tokens.weight"))
    decoder_class: type[BartDecoder] = BartDecoder

    def __init__(self, config: BartConfig) -> None:
        super().__init__(config)
        self.model = nn.ModuleDict({"decoder": self.decoder_class(config)})
        self.lm_head = nn.Linear(config.d_model, config.written_words, bias=False)
        self.post_init()


CONFIG = BartConfig
HEADS = {
    "Model": BartModel, "ForSeq2SeqLM": BartForConditionalGeneration, "ForCausalLM": BartForCausalLM,
    "ForMaskedLM": BartForConditionalGeneration, "ForSequenceClassification": BartForSequenceClassification,
    "ForQuestionAnswering": BartForQuestionAnswering,
}  # fmt: skip
TINY = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 40, "max_position_embeddings": 40,
}  # fmt: skip
VARIANTS = [
    {"activation_function": "relu", "scale_embedding": True, "encoder_layers": 1, "decoder_attention_heads": 2},
    {"tie_word_embeddings": False, "decoder_layers": 3, "activation_function": "silu", "encoder_attention_heads": 1},
]
