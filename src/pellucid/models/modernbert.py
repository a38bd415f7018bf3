"""ModernBERT: an encoder with rotary positions and gated layers, most of which see only a window around each token.

Warner et al. 2024, "Smarter, Better, Faster, Longer: A Modern Bidirectional Encoder for Fast, Memory Efficient, and
Long Context Finetuning and Inference", arXiv:2412.13663.
Checkpoints: answerdotai/ModernBERT-base, answerdotai/ModernBERT-large, nomic-ai/modernbert-embed-base.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `H` hidden, `I` intermediate,
`N` heads, `D` head size, `V` vocabulary, `C` classes, `M` words to find.

The way through: `ModernBertEmbeddings` turns ids into vectors, each `ModernBertEncoderLayer` lets the tokens look at
each other (`ModernBertAttention`) and then transforms each token on its own (`ModernBertMLP`), always on normalised
copies that are added to what went in, then a last norm. `layer_types` says which layers see everything and which only
tokens up to `local_attention // 2` places away; each kind has rotary positions of its own. The heads at the end of the
file read the answer off (see `encoder_heads.py`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops, outputs
from pellucid.config import Count, LayeredRotaryConfig, Positive, Rate, Size, derived
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.outputs import BaseModelOutput, ModelOutput

Angles = Mapping[str, tuple[Tensor, Tensor]]  # kind of layer → cosine and sine, each [T, 1, D / 2]


def _layer_types(layers: int, every: int) -> list[str]:
    """One layer in `every`, from the first on, sees everything."""
    return ["sliding_attention" if layer % every else "full_attention" for layer in range(layers)]


class ModernBertConfig(LayeredRotaryConfig):
    """Sizes and rates of a ModernBERT; the defaults are those of ModernBERT-base."""

    model_type = "modernbert"
    thetas = {"full_attention": ("global_rope_theta", 160000.0), "sliding_attention": ("local_rope_theta", 10000.0)}
    own_keys = ("global_rope_theta", "local_rope_theta", "rope_scaling")
    scaled = ("full_attention", "sliding_attention")

    vocab_size: Size = 50368
    hidden_size: Size = 768
    intermediate_size: Size = 1152
    num_hidden_layers: Size = 22
    num_attention_heads: Size = 12
    hidden_activation: str = "gelu"
    max_position_embeddings: Size = 8192
    initializer_range: Positive = 0.02
    initializer_cutoff_factor: Positive | None = 2.0
    norm_eps: Positive = 1e-5
    norm_bias: bool = False
    attention_bias: bool = False
    attention_dropout: Rate = 0.0
    global_attn_every_n_layers: Size | None = None
    layer_types: list[str] = derived(
        lambda config: _layer_types(config.num_hidden_layers, config.global_attn_every_n_layers or 3)
    )
    local_attention: Count = 128
    embedding_dropout: Rate = 0.0
    mlp_bias: bool = False
    mlp_dropout: Rate = 0.0
    decoder_bias: bool = True
    classifier_pooling: Literal["cls", "mean"] = "cls"
    classifier_dropout: Rate = 0.0
    classifier_bias: bool = False
    classifier_activation: str = "gelu"
    deterministic_flash_attn: bool = False
    sparse_prediction: bool = False
    sparse_pred_ignore_index: int = -100
    pad_token_id: int | None = 50283
    bos_token_id: int | None = 50281
    eos_token_id: int | list[int] | None = 50282
    cls_token_id: int | None = 50281
    sep_token_id: int | None = 50282

    def __init__(self, **values: Any) -> None:
        if "local_rope_theta" in values and values["local_rope_theta"] is None:  # in old files: the same as global
            values["local_rope_theta"] = values.get("global_rope_theta", self.thetas["full_attention"][1])
        super().__init__(**values)
        if self.global_attn_every_n_layers is None:  # the only key that old versions go by
            layers = self.num_hidden_layers
            fits = (n for n in (3, *range(1, layers + 1)) if _layer_types(layers, n) == self.layer_types)
            self.global_attn_every_n_layers = next(fits, None)

    @property
    def sliding_window(self) -> int:
        """How far a token sees to either side in layers with a window."""
        return self.local_attention // 2

    def validate(self) -> None:
        """Heads share the hidden size evenly, and each layer has a type, which there are no two opinions of."""
        super().validate()
        even = self.hidden_size % self.num_attention_heads == 0
        self.require(even, "num_attention_heads", f"a divisor of hidden_size {self.hidden_size}")
        for name in ("hidden_activation", "classifier_activation"):
            self.require(getattr(self, name) in ops.ACTIVATIONS, name, f"one of {sorted(ops.ACTIVATIONS)}")
        every, layers = self.global_attn_every_n_layers, self.num_hidden_layers
        known = len(self.layer_types) == layers and self.thetas.keys() >= {*self.layer_types}
        self.require(known, "layer_types", f"{' or '.join(self.thetas)} for each of {layers} layers")
        agreed = every is None or _layer_types(layers, every) == self.layer_types
        self.require(agreed, "global_attn_every_n_layers", f"what layer_types says, {self.layer_types}; leave one out")


class ModernBertEmbeddings(nn.Module):
    """Vectors of words, normalised: ids `[T]` → `[T, H]`."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.tok_embeddings = nn.Embedding(config.vocab_size, config.hidden_size, padding_idx=config.pad_token_id)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.drop = ops.Dropout(config.embedding_dropout)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = tokens.inputs_embeds
        if tokens.input_ids is not None:
            vectors = ops.embed(self.tok_embeddings, tokens.input_ids)  # [T] → [T, H]
        return self.drop(self.norm(vectors))


class ModernBertRotary(nn.Module):
    """The angles of each kind of layer."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        size = config.hidden_size // config.num_attention_heads
        self.kinds = {
            kind: ops.Rotary(settings, size, config.max_position_embeddings)
            for kind, settings in (config.rope_parameters or {}).items()
        }

    def forward(self, positions: Tensor, layout: Layout, dtype: torch.dtype) -> Angles:
        return {kind: rotary(positions, layout, dtype) for kind, rotary in self.kinds.items()}


class ModernBertAttention(nn.Module):
    """Each token gathers from those of its sequence, or of a window around it: `[T, H]` → `[T, H]`."""

    read_by = "Wo"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: ModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.head_size = config.hidden_size // config.num_attention_heads
        self.window = config.sliding_window + 1 if config.layer_types[layer_idx] == "sliding_attention" else None
        self.dropout = config.attention_dropout
        self.Wqkv = nn.Linear(config.hidden_size, 3 * config.hidden_size, bias=config.attention_bias)
        self.Wo = nn.Linear(config.hidden_size, config.hidden_size, bias=config.attention_bias)
        self.out_drop = ops.Dropout(config.attention_dropout)

    def forward(
        self, hidden: Tensor, layout: Layout, need_weights: bool, rotary: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Maps | None]:
        joined = self.Wqkv(hidden)  # [T, H] → [T, 3 * N * D]
        joined = joined.view(-1, 3, joined.shape[-1] // (3 * self.head_size), self.head_size)
        query, key, value = joined.unbind(1)
        query, key = (ops.rotate(x.float(), rotary).to(x.dtype) for x in (query, key))  # [T, N, D], as is the value
        dropout = self.dropout if self.training else 0.0
        mixed, maps = ops.attention(
            query, key, value, layout, window=self.window, dropout=dropout, need_weights=need_weights
        )
        return self.out_drop(self.Wo(mixed)), maps


class ModernBertMLP(nn.Module):
    """A gated feed-forward network, both halves from one layer: `[T, H]` → `[T, H]`."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.Wi = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=config.mlp_bias)
        self.activation = ops.activation(config.hidden_activation)
        self.drop = ops.Dropout(config.mlp_dropout)
        self.Wo = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        opened, values = self.Wi(hidden).chunk(2, dim=-1)  # [T, 2 * I] → [T, I] each
        return self.Wo(self.drop(self.activation(opened) * values))


class ModernBertEncoderLayer(nn.Module):
    """Attention between tokens, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: ModernBertConfig, layer_idx: int) -> None:
        super().__init__()
        self.kind = config.layer_types[layer_idx]
        self.attn_norm, self.mlp_norm = (
            nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias) if wanted else nn.Identity()
            for wanted in (layer_idx > 0, True)  # what enters the first layer is normalised already
        )
        self.attn = ModernBertAttention(config, layer_idx)
        self.mlp = ModernBertMLP(config)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, angles: Angles) -> tuple[Tensor, Maps | None]:
        mixed, maps = self.attn(self.attn_norm(hidden), layout, need_weights, angles[self.kind])
        hidden = hidden + mixed
        return hidden + self.mlp(self.mlp_norm(hidden)), maps


class ModernBertPreTrainedModel(PreTrainedModel):
    """What all ModernBERT classes have in common: configuration, names of parts, and how random weights start."""

    config_class = ModernBertConfig
    base_model_prefix = "model"
    input_embeddings = "embeddings.tok_embeddings"
    config: ModernBertConfig

    def init_parameter(self, module: nn.Module, name: str, parameter: Tensor) -> None:
        """Normal numbers that are cut off; smaller ones where a branch ends, which is added to the stream."""
        if name != "weight" or not isinstance(module, nn.Linear | nn.Embedding):
            super().init_parameter(module, name, parameter)
            return
        std = self.config.initializer_range
        called = next(path.rpartition(".")[2] for path, part in self.named_modules() if part is module)
        if called in ("Wo", "dense", "decoder"):
            std /= (2 * self.config.num_hidden_layers) ** 0.5
        elif called == "classifier":
            std = self.config.hidden_size**-0.5
        cut = (3.0 if self.config.initializer_cutoff_factor is None else self.config.initializer_cutoff_factor) * std
        nn.init.trunc_normal_(parameter, 0.0, std, -cut, cut)


class ModernBertModel(ModernBertPreTrainedModel, heads.EncoderWithoutTokenTypes):
    """The body: ids in, one vector for each token out."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__(config)
        self.embeddings = ModernBertEmbeddings(config)
        self.layers = nn.ModuleList(ModernBertEncoderLayer(config, layer) for layer in range(config.num_hidden_layers))
        self.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
        self.rotary_emb = ModernBertRotary(config)
        self.gradient_checkpointing = False
        self.post_init()

    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> BaseModelOutput:
        layout, hidden = tokens.layout, self.embeddings(tokens)  # [T] → [T, H]
        angles = self.rotary_emb(tokens.positions(hidden.device), layout, hidden.dtype)
        recompute = self.gradient_checkpointing and self.training
        hidden, states, maps = ops.run_layers(self.layers, hidden, layout, want_maps, want_states, recompute, angles)
        hidden = self.final_norm(hidden)
        return BaseModelOutput(hidden, None if states is None else (*states[:-1], hidden), maps)


class ModernBertPredictionHead(nn.Module):
    """A last layer before the answer is read off: `[..., H]` → `[..., H]`."""

    def __init__(self, config: ModernBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size, bias=config.classifier_bias)
        self.activation = ops.activation(config.classifier_activation)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)

    def forward(self, hidden: Tensor) -> Tensor:
        return self.norm(self.activation(self.dense(hidden)))


class ModernBertHead(ModernBertPreTrainedModel, heads.HeadWithoutTokenTypes):
    """The way through a model with a head, around this body."""

    def make_body(self) -> ModernBertModel:
        return ModernBertModel(self.config)


class ModernBertForMaskedLM(ModernBertHead, heads.MaskedLM):
    """The word behind each mask; `labels` `[B, S]` hold the words to find and -100 elsewhere.

    With `sparse_prediction` and labels there are logits of the words to find only, `[M, V]` in the order of the batch.
    """

    output_embeddings = "decoder"
    tied = {"decoder.weight": "model.embeddings.tok_embeddings.weight"}

    def build(self, config: ModernBertConfig) -> None:
        self.head = ModernBertPredictionHead(config)
        self.decoder = nn.Linear(config.hidden_size, config.vocab_size, bias=config.decoder_bias)

    def logits(self, body: Any) -> Tensor:
        return self.decoder(self.head(body.last_hidden_state))  # [T, H] → [T, V]

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        if labels is None or not self.config.sparse_prediction:
            return super().read(body, layout, labels)
        words = layout.pack_labels(labels.masked_fill(labels == self.config.sparse_pred_ignore_index, -100))  # [T]
        asked = (words != -100).nonzero().squeeze(1)  # [M]
        if layout.index is not None:
            asked = asked[layout.index[asked].argsort()]
        logits = self.decoder(self.head(body.last_hidden_state[asked]))  # [M, H] → [M, V]
        return outputs.MaskedLMOutput(ops.cross_entropy(logits, words[asked]), logits)


class ModernBertClassifier(ModernBertHead):
    """What the heads with classes have in common."""

    own_classes: ClassVar[int | None] = None  # as many as the configuration has labels
    classifier: Any

    def build(self, config: ModernBertConfig) -> None:
        self.head = ModernBertPredictionHead(config)
        self.drop = ops.Dropout(config.classifier_dropout)
        self.classifier = nn.Linear(config.hidden_size, self.own_classes or config.num_labels)

    def classify(self, states: Tensor) -> Tensor:
        """`[..., H]` → `[..., C]`."""
        scores: Tensor = self.classifier(self.drop(self.head(states)))
        return scores

    def classify_text(self, body: Any, layout: Layout) -> Tensor:
        """`[T, H]` → `[B, C]`, by the first token or by the mean of all."""
        pool = layout.mean if self.config.classifier_pooling == "mean" else layout.first
        return self.classify(pool(body.last_hidden_state))


class ModernBertForSequenceClassification(ModernBertClassifier, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]` or `[B, C]` as `ops.classification_loss` reads them."""

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classify_text(body, layout)


class ModernBertForMultipleChoice(ModernBertClassifier, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""

    own_classes = 1

    def logits(self, body: Any, layout: Layout) -> Tensor:
        return self.classify_text(body, layout)


class ModernBertForTokenClassification(ModernBertClassifier, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def logits(self, body: Any) -> Tensor:
        return self.classify(body.last_hidden_state)


class ModernBertForQuestionAnswering(ModernBertClassifier, heads.QuestionAnsweringWithoutTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""

    classes = 2

    def logits(self, body: Any) -> Tensor:
        return self.classify(body.last_hidden_state)


CONFIG = ModernBertConfig
HEADS = {
    "Model": ModernBertModel, "ForMaskedLM": ModernBertForMaskedLM,
    "ForSequenceClassification": ModernBertForSequenceClassification,
    "ForMultipleChoice": ModernBertForMultipleChoice,
    "ForTokenClassification": ModernBertForTokenClassification,
    "ForQuestionAnswering": ModernBertForQuestionAnswering,
}  # fmt: skip
TINY = {
    "vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 40, "local_attention": 4, "pad_token_id": 0,
}  # fmt: skip
VARIANTS = [
    {"local_attention": 3, "global_attn_every_n_layers": 2, "norm_bias": True, "attention_bias": True, "mlp_bias": True,
     "classifier_bias": True, "decoder_bias": False, "num_hidden_layers": 3},
    {"local_attention": 1, "hidden_activation": "gelu_new", "classifier_activation": "silu", "norm_eps": 1e-3,
     "classifier_pooling": "mean", "sparse_prediction": True, "global_rope_theta": 500.0, "local_rope_theta": 50.0},
    {"num_hidden_layers": 1, "num_attention_heads": 1, "tie_word_embeddings": False},
    {"local_attention": 6, "layer_types": ["sliding_attention", "sliding_attention", "full_attention"],
     "num_hidden_layers": 3, "hidden_activation": "relu",
     "rope_parameters": {"full_attention": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 500.0},
                         "sliding_attention": {"rope_type": "linear", "factor": 2.0}}},
    {"rope_scaling": {"rope_type": "linear", "factor": 3.0}, "global_attn_every_n_layers": 1},
]  # fmt: skip
