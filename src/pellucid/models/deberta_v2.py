"""DeBERTa v2 and v3: an encoder whose attention keeps apart what a token is and where it stands.

He et al. 2020, "DeBERTa: Decoding-enhanced BERT with Disentangled Attention", arXiv:2006.03654; v3 is the same model
trained as ELECTRA is: He et al. 2021, arXiv:2111.09543.
Checkpoints: microsoft/deberta-v3-base, microsoft/deberta-v2-xlarge, microsoft/mdeberta-v3-base.

Axes: `B` batch, `S` sequence, `T` packed tokens (all real tokens of the batch), `E` embedding, `H` hidden, `N` heads,
`D` head size, `L` length of a sequence, `R` different distances, `V` vocabulary, `C` classes.

BERT adds the vector of a position to that of a word, and from then on the two are mixed. Here a token has a vector for
its content only, and each distance between two tokens has one of its own. How much token `i` attends to token `j` is

    content to content    query of i · key of j            as in every transformer
    content to position   query of i · key of i - j        "what I look for stands just before me"
    position to content   key of j   · query of i - j      "I matter to whoever stands just behind me"

added up. `DebertaV2Encoder.distances` works out once which distances there are, `DisentangledSelfAttention` in each
layer adds the three terms. The rest of a layer is BERT's (see `bert.py`), and the heads read the answer off.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import encoder_heads as heads
from pellucid import ops
from pellucid.config import Count, Positive, Range, Rate, Size
from pellucid.layout import Asked, Ids, Layout, Maps, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.models import bert
from pellucid.outputs import BaseModelOutput, ModelOutput

Distances = tuple[Tensor, Tensor]  # a vector for each, `[R, H]`, and which of them it is from j to i, `[L, L]`
Mixed = tuple[Tensor, Maps | None]  # what attention gives: vectors `[T, H]`, and its weights where they are wanted
Switch = Annotated[int, Range(-1, 2**31 - 1)]  # a count that is off unless it is above zero


class DebertaV2Config(bert.BertConfig):
    """Sizes and rates of a DeBERTa; the defaults are those of deberta-v2-xlarge but for `relative_attention`."""

    model_type = "deberta-v2"

    vocab_size: Size = 128100
    embedding_size: Count = 0  # 0: as hidden_size
    hidden_size: Size = 1536
    num_hidden_layers: Size = 24
    num_attention_heads: Size = 24
    intermediate_size: Size = 6144
    type_vocab_size: Count = 0
    layer_norm_eps: Positive = 1e-7
    relative_attention: bool = False
    max_relative_positions: Switch = -1
    position_buckets: Switch = -1
    pos_att_type: str | list[str] | None = None
    share_att_key: bool = False
    norm_rel_ebd: str = "none"
    position_biased_input: bool = True
    conv_kernel_size: Count = 0
    conv_groups: Size = 1
    conv_act: str = "tanh"
    pooler_hidden_size: Count = 0  # 0: as hidden_size
    pooler_dropout: Rate = 0.0
    pooler_hidden_act: str = "gelu"
    cls_dropout: Rate | None = None
    legacy: bool = True  # false for the masked words of v3 checkpoints

    def validate(self) -> None:
        """Fill in what follows from other fields; sizes must fit each other, and names must be known."""
        super().validate()
        self.require(not self.is_decoder, "is_decoder", "false")
        self.embedding_size = self.embedding_size or self.hidden_size
        self.pooler_hidden_size = self.pooler_hidden_size or self.hidden_size
        names = self.pos_att_type.lower().split("|") if isinstance(self.pos_att_type, str) else self.pos_att_type or []
        self.pos_att_type = [name.strip() for name in names if name.strip()]
        self.require({"c2p", "p2c"}.issuperset(self.pos_att_type), "pos_att_type", "a list of 'c2p' and 'p2c', or one")
        for field in ("conv_act", "pooler_hidden_act"):
            self.require(getattr(self, field) in ops.ACTIVATIONS, field, f"one of {sorted(ops.ACTIVATIONS)}")
        self.require(self.norm_rel_ebd in ("none", "layer_norm"), "norm_rel_ebd", "'none' or 'layer_norm'")
        self.require(self.pooler_hidden_size == self.hidden_size, "pooler_hidden_size", f"{self.hidden_size}")
        self.require(self.conv_kernel_size % 2 == 1 or not self.conv_kernel_size, "conv_kernel_size", "0 or odd")
        self.require(self.hidden_size % self.conv_groups == 0, "conv_groups", f"a divisor of {self.hidden_size}")
        fits = self.position_buckets < 1 or 1 <= self.position_buckets // 2 < self.farthest - 1
        self.require(fits, "position_buckets", f"at least 2, and half of it below {self.farthest - 1}")

    @property
    def head_dropout(self) -> float:
        """Rate of dropout before the classifier of a text: its own, or that of the layers."""
        return self.hidden_dropout_prob if self.cls_dropout is None else self.cls_dropout

    @property
    def farthest(self) -> int:
        """The distance from which on all are alike."""
        return self.max_relative_positions if self.max_relative_positions > 0 else self.max_position_embeddings


class DebertaV2Embeddings(nn.Module):
    """Word vectors, with positions and texts of a pair where the checkpoint knows them: ids `[T]` → `[T, H]`."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        size, hidden, types = config.embedding_size, config.hidden_size, config.type_vocab_size
        self.word_embeddings = nn.Embedding(config.vocab_size, size, padding_idx=config.pad_token_id)
        absolute = config.position_biased_input
        self.position_embeddings = nn.Embedding(config.max_position_embeddings, size) if absolute else None
        self.token_type_embeddings = nn.Embedding(types, size) if types > 0 else None
        self.embed_proj = nn.Linear(size, hidden, bias=False) if size != hidden else None
        self.LayerNorm = nn.LayerNorm(hidden, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, tokens: PackedTokens) -> Tensor:
        vectors = ops.embed_words(self.word_embeddings, tokens)  # [T] → [T, E]
        if self.position_embeddings is not None:
            vectors = vectors + ops.embed_positions(self.position_embeddings, tokens)
        if self.token_type_embeddings is not None:
            vectors = vectors + ops.embed_types(self.token_type_embeddings, tokens)
        vectors = vectors if self.embed_proj is None else self.embed_proj(vectors)  # [T, E] → [T, H]
        return self.dropout(self.LayerNorm(vectors))


def bucket_of(distance: Tensor, buckets: int, farthest: int) -> Tensor:
    """Distances of any shape → fewer of them: near ones stay as they are, far ones share a bucket with ever more.

    With 256 buckets to either side, of which 511 is in the last: 128 → 128, 129 → 129, 300 → 207, 302 → 207, 511 → 255.
    """
    near = buckets // 2
    beyond = distance.abs().clamp(min=near) / near  # 1 where sharing begins, `(farthest - 1) / near` where it ends
    part = beyond.log() / torch.tensor((farthest - 1) / near, device=distance.device).log()  # 0 to 1
    shared = near + torch.ceil(part * (near - 1)).long()
    return torch.where(distance.abs() <= near, distance, shared * distance.sign())


class DisentangledSelfAttention(nn.Module):
    """Each token gathers from the tokens of its sequence by what they are and by how far away: `[T, H]` → `[T, H]`."""

    read_by = "output.dense"  # reads what the heads have found, so that heads can be pruned

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        size = config.hidden_size
        self.head_size = size // config.num_attention_heads
        self.query_proj, self.key_proj, self.value_proj = (nn.Linear(size, size) for _ in range(3))
        self.to_position, self.from_position = (name in (config.pos_att_type or ()) for name in ("c2p", "p2c"))
        self.scale = (self.head_size * (1 + self.to_position + self.from_position)) ** -0.5  # of each of the terms
        self.shared = config.share_att_key  # whether distances go through the layers of the tokens, or their own
        for kind, wanted in (("key", self.to_position), ("query", self.from_position)):
            if wanted and config.relative_attention and not self.shared:
                self.add_module(f"pos_{kind}_proj", nn.Linear(size, size))
        self.pos_dropout = ops.Dropout(config.hidden_dropout_prob)
        self.dropout = ops.Dropout(config.attention_probs_dropout_prob)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, distances: Distances | None) -> Mixed:
        projected = self.query_proj(hidden), self.key_proj(hidden), self.value_proj(hidden)
        query, key, value = (x.view(-1, x.shape[-1] // self.head_size, self.head_size) for x in projected)  # [T, N, D]
        runs = list(ops.blocks(query, key, value, layout))
        terms = None if distances is None else self.position_terms(runs, *distances)
        dropout = self.dropout.p if self.training else 0.0
        return ops.attend(runs, value, bias=terms, scale=self.scale, dropout=dropout, need_weights=need_weights)

    def position_terms(self, runs: Iterable[ops.Block], vectors: Tensor, index: Tensor) -> list[Tensor]:
        """Content to position and position to content for each run, `[count, N, L, L]`, to be added to the scores."""
        vectors, terms = self.pos_dropout(vectors), []
        keys = self.through("key", vectors) if self.to_position else None
        queries = self.through("query", vectors) if self.from_position else None
        for query, key, *_ in runs:  # [count, N, L, D]
            count, heads, length, _ = query.shape
            between = index[:length, :length].expand(count, heads, length, length)  # which distance from j to i
            found = []
            if keys is not None:  # what i finds in every distance, [count, N, L, R]; of it, what it finds in that to j
                found.append((query @ keys).gather(-1, between))
            if queries is not None:  # what every distance finds in j; of it, what that to i finds
                found.append((key @ queries).gather(-1, between.transpose(2, 3)).transpose(2, 3))
            terms.append(found[0] + found[1] if len(found) == 2 else found[0])
        return terms

    def through(self, kind: str, vectors: Tensor) -> Tensor:
        """Keys or queries of distances, `[R, H]` → `[N, D, R]`, scaled as the scores will be."""
        layer = self.get_submodule(f"{kind}_proj" if self.shared else f"pos_{kind}_proj")
        made = layer(vectors) * self.scale  # [R, N * D]
        return made.view(-1, made.shape[-1] // self.head_size, self.head_size).permute(1, 2, 0)


class DebertaV2Layer(nn.Module):
    """Attention between tokens, then a feed-forward network on each: `[T, H]` → `[T, H]`."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        self.attention = bert.BertAttention(config, DisentangledSelfAttention(config))
        self.intermediate = bert.BertIntermediate(config)
        self.output = bert.BertOutput(config, config.intermediate_size)

    def forward(self, hidden: Tensor, layout: Layout, need_weights: bool, distances: Distances | None) -> Mixed:
        attended, maps = self.attention(hidden, layout, need_weights, distances)
        return self.output(self.intermediate(attended), attended), maps


class ConvLayer(nn.Module):
    """The first layer, with a convolution over neighbouring tokens beside it: `[T, H]` → `[T, H]`."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        size, width = config.hidden_size, config.conv_kernel_size
        self.conv = nn.Conv1d(size, size, width, padding=width // 2, groups=config.conv_groups)
        self.activation = ops.activation(config.conv_act)
        self.LayerNorm = nn.LayerNorm(size, eps=config.layer_norm_eps)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)

    def forward(self, layer: nn.Module, hidden: Tensor, layout: Layout, *asked: Any) -> Mixed:
        output, maps = layer(hidden, layout, *asked)
        if layout.mask is not None:  # padding that had to be carried along must look like the end of the text
            hidden = hidden * layout.mask.any(dim=2).view(-1, 1)
        runs = [hidden.narrow(0, at, n * length).view(n, length, -1) for at, n, length in layout.runs if n * length]
        near = [self.conv(run.transpose(1, 2)).transpose(1, 2).flatten(0, 1) for run in runs]  # each [n * L, H]
        return self.LayerNorm(output + self.activation(self.dropout(torch.cat(near or [hidden])))), maps


class DebertaV2Encoder(nn.Module):
    """The layers, one after another, and the table of distances that they share."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        size, eps = config.hidden_size, config.layer_norm_eps
        self.buckets, self.farthest = config.position_buckets, config.farthest
        self.span = self.buckets if self.buckets > 0 else self.farthest
        self.reads_distances = config.relative_attention and bool(config.pos_att_type)
        self.layer = nn.ModuleList(DebertaV2Layer(config) for _ in range(config.num_hidden_layers))
        self.rel_embeddings = nn.Embedding(2 * self.span, size) if config.relative_attention else None
        self.LayerNorm = nn.LayerNorm(size, eps=eps) if config.norm_rel_ebd == "layer_norm" else None
        self.conv = ConvLayer(config) if config.conv_kernel_size > 0 else None
        self.gradient_checkpointing = False

    def distances(self, width: int, device: torch.device) -> Distances | None:
        """The distances that tokens of one sequence can have, up to `width` tokens; `None` if they do not matter."""
        if self.rel_embeddings is None or not self.reads_distances:
            return None
        steps = torch.arange(1 - width, width, device="cpu")
        if self.buckets > 0:
            steps = bucket_of(steps, self.buckets, self.farthest)
        rows = steps.clamp(-self.span, self.span - 1) + self.span  # of the table: for i - j from -span to span - 1
        place = torch.arange(width, device="cpu")
        index = rows[place[:, None] - place + width - 1]  # [L, L]
        first, last = 0, 2 * self.span - 1
        if not torch.compiler.is_compiling():  # leave out what is farther away than this batch is wide
            first, last = int(rows[0]), int(rows[-1])
        vectors = self.rel_embeddings(torch.arange(first, last + 1, device=device))  # [R, H]
        vectors = vectors if self.LayerNorm is None else self.LayerNorm(vectors)
        return vectors, (index - first).to(device)

    def forward(self, hidden: Tensor, layout: Layout, want_maps: Asked, want_states: bool) -> tuple[Any, ...]:
        layers: list[Any] = list(self.layer)
        if self.conv is not None:
            layers[0] = partial(self.conv, layers[0])
        recompute = self.gradient_checkpointing and self.training
        distances = self.distances(max(layout.width, 1), hidden.device)
        return ops.run_layers(layers, hidden, layout, want_maps, want_states, recompute, distances)


class DebertaV2PreTrainedModel(PreTrainedModel):
    """What all DeBERTa classes have in common: their configuration and the names of their parts."""

    config_class = DebertaV2Config
    base_model_prefix = "deberta"
    input_embeddings = "embeddings.word_embeddings"
    config: DebertaV2Config


class DebertaV2Model(DebertaV2PreTrainedModel, heads.EncoderWithTokenTypes):
    """The body: ids in, one vector for each token out; types and positions without a table are passed over."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config)
        self.embeddings = DebertaV2Embeddings(config)
        self.encoder = DebertaV2Encoder(config)
        self.post_init()

    def encode(self, tokens: PackedTokens, want_maps: Asked, want_states: bool) -> BaseModelOutput:
        hidden = self.embeddings(tokens)  # [T] → [T, H]
        return BaseModelOutput(*self.encoder(hidden, tokens.layout, want_maps, want_states))


class DebertaV2Head(DebertaV2PreTrainedModel, heads.HeadWithTokenTypes):
    """The way through a model with a head, around this body."""

    def make_body(self) -> DebertaV2Model:
        return DebertaV2Model(self.config)


class ContextPooler(nn.Module):
    """One vector for a text, made of that of its first token: `[B, H]` → `[B, H]`."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__()
        self.dropout = ops.Dropout(config.pooler_dropout)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.activation = ops.activation(config.pooler_hidden_act)

    def forward(self, first: Tensor) -> Tensor:
        return self.activation(self.dense(self.dropout(first)))


class DebertaV2TextHead(DebertaV2Head, heads.TextHead):
    """What the heads that judge a text have in common: the pooler is theirs, not the body's."""

    def build(self, config: DebertaV2Config) -> None:
        self.pooler = ContextPooler(config)
        super().build(config)

    def logits(self, body: Any, layout: Layout) -> Tensor:
        pooled = self.pooler(layout.first(body.last_hidden_state))  # [T, H] → [B, H]
        return self.classifier(self.dropout(pooled))  # [B, H] → [B, C]


class DebertaV2ForSequenceClassification(DebertaV2TextHead, heads.SequenceClassification):
    """A class, or a number, for the whole text; `labels` `[B]`, or `[B, C]` with the share of each class."""

    def read(self, body: Any, layout: Layout, labels: Ids) -> ModelOutput:
        shares = labels is not None and self.config.problem_type is None and labels.dim() == 2 and labels.shape[1] > 1
        output = super().read(body, layout, None if shares else labels)
        if labels is not None and shares:
            output["loss"] = -(output["logits"].log_softmax(-1) * labels).sum(-1).mean()
        return output


class DebertaV2ForMultipleChoice(DebertaV2TextHead, heads.MultipleChoice):
    """Which of `C` continuations fits best: inputs `[B, C, S]`, `labels` `[B]`."""


class DebertaV2ForTokenClassification(DebertaV2Head, heads.TokenClassification):
    """A class for each token, such as the kind of name it is part of; `labels` `[B, S]`, -100 left out."""

    def build(self, config: DebertaV2Config) -> None:
        super().build(config)
        self.dropout = ops.Dropout(config.hidden_dropout_prob)  # cls_dropout is not for this head


class DebertaV2ForQuestionAnswering(DebertaV2Head, heads.QuestionAnsweringWithTokenTypes):
    """Where in a text the answer begins and ends; labels `start_positions` and `end_positions` `[B]`."""


class DebertaV2LMPredictionHead(bert.BertPredictionHeadTransform):
    """BERT's, but that words are scored by the very table that reads them in; only a bias is the head's own."""

    def __init__(self, config: DebertaV2Config) -> None:
        super().__init__(config, config.hidden_size)
        config.require(config.embedding_size == config.hidden_size, "embedding_size", "hidden_size, as legacy is false")
        self.bias = nn.Parameter(torch.zeros(config.vocab_size))


class DebertaV2ForMaskedLM(DebertaV2Head, heads.MaskedLM):
    """The word behind each `[MASK]`; `labels` `[B, S]` hold the words to find and -100 elsewhere."""

    output_embeddings = "cls.predictions.decoder"
    tied = {
        "cls.predictions.decoder.weight": "deberta.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    }

    def build(self, config: DebertaV2Config) -> None:
        if config.legacy:
            self.cls = nn.ModuleDict({"predictions": bert.BertLMPredictionHead(config, config.embedding_size)})
            return
        self.lm_predictions = nn.ModuleDict({"lm_head": DebertaV2LMPredictionHead(config)})
        self.output_embeddings, self.tied = "", {}  # type: ignore[misc]
        self.word_tensors = ("lm_predictions.lm_head.bias",)  # type: ignore[misc]

    def logits(self, body: Any) -> Tensor:
        if self.config.legacy:
            return self.cls["predictions"](body.last_hidden_state)  # [T, H] → [T, V]
        head = self.lm_predictions["lm_head"]
        hidden = head(body.last_hidden_state)  # [T, H]
        return F.linear(hidden, self.get_input_embeddings().weight, head.get_parameter("bias"))  # [T, H] → [T, V]


CONFIG = DebertaV2Config
HEADS = {
    "Model": DebertaV2Model, "ForMaskedLM": DebertaV2ForMaskedLM,
    "ForSequenceClassification": DebertaV2ForSequenceClassification, "ForMultipleChoice": DebertaV2ForMultipleChoice,
    "ForTokenClassification": DebertaV2ForTokenClassification, "ForQuestionAnswering": DebertaV2ForQuestionAnswering,
}  # fmt: skip
TINY = {"vocab_size": 99, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
        "max_position_embeddings": 40, "relative_attention": True, "position_buckets": 4, "share_att_key": True,
        "pos_att_type": ["p2c", "c2p"], "norm_rel_ebd": "layer_norm", "type_vocab_size": 2}  # fmt: skip
VARIANTS = [
    {"position_biased_input": False, "pos_att_type": "P2C | c2p", "type_vocab_size": 0, "position_buckets": 16,
     "legacy": False, "num_attention_heads": 1, "hidden_act": "relu", "pooler_hidden_act": "tanh"},
    {"share_att_key": False, "position_buckets": -1, "norm_rel_ebd": "none", "conv_kernel_size": 3, "conv_act": "gelu",
     "embedding_size": 24, "tie_word_embeddings": False},
    {"share_att_key": False, "pos_att_type": ["c2p"], "max_relative_positions": 5, "position_buckets": -1,
     "num_hidden_layers": 1, "layer_norm_eps": 1e-5},
    {"share_att_key": False, "pos_att_type": "p2c", "max_relative_positions": 9, "position_buckets": 7,
     "conv_kernel_size": 5, "conv_groups": 4, "type_vocab_size": 3},
    {"relative_attention": False, "hidden_act": "silu", "cls_dropout": 0.2},
    {"pos_att_type": None, "embedding_size": 40},
]  # fmt: skip
