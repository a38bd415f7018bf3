"""`EmbeddingModel`: a body and what makes one vector of its tokens' vectors, to be trained and saved as one.

    text → ids (`TextReader`) → body → pooling → layers → vector [D]

It is read from, and written as, the folder of sentence-transformers, which that library and the pipelines for
embeddings open. What the folder's files mean is in `pipelines/sentence_recipe.py`; here the same layers can learn.

Axes: `N` texts, `T` packed tokens, `H` hidden, `D` numbers in a vector.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid import hub
from pellucid.auto import AutoModel
from pellucid.errors import InputError, did_you_mean, strict
from pellucid.files import StrPath, atomic_folder, quoted, write_json
from pellucid.layout import Layout, PackedTokens
from pellucid.model import PreTrainedModel
from pellucid.pipelines import sentence_recipe
from pellucid.pipelines.embedding_forms import check_similarity
from pellucid.pipelines.pooling import POOLINGS, check_modes, pool
from pellucid.pipelines.preprocess import LengthRule, encode, readable_tokens
from pellucid.pipelines.sentence_recipe import ACTIVATIONS, FLAGS, SentenceRecipe, SentenceSettings
from pellucid.tokenizer import AutoTokenizer
from pellucid.training.checkpoints import write_tensors

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase

TOKENS_PER_BATCH = 16384
"""Tokens that `encode` reads together."""


# ---------------------------------------------------------------------- texts → ids


@dataclass(frozen=True)
class TextReader:
    """How texts become ids.

    Attributes:
        tokenizer: the model's.
        limit: tokens that are read of a text.
        lower: whether texts are put into lower case first.
        include_prompt: whether the tokens of a prompt are pooled too.
    """

    tokenizer: PreTrainedTokenizerBase
    limit: int
    lower: bool = False
    include_prompt: bool = True

    def ids(self, texts: Sequence[str], prompt: str = "", truncation: bool = True) -> list[list[int]]:
        """The ids of each text behind a prompt, markers included.

        Raises:
            InputError: a text is longer than `limit` and not to be cut, or has no tokens.
        """
        change = str.lower if self.lower else str
        rule = LengthRule(self.limit, "longest_first" if truncation else None)
        found = []
        for row in encode([change(prompt + text) for text in texts], self.tokenizer, rule):
            if isinstance(row, InputError):
                raise row
            found.append(row[0].ids)
        return found

    def skipped(self, prompt: str) -> int:
        """Tokens at the beginning of a text behind a prompt that are not pooled."""
        if not prompt or self.include_prompt:
            return 0
        ids = self.tokenizer(prompt.lower() if self.lower else prompt, verbose=False)["input_ids"]
        return len(ids) - (ids[-1] in self.tokenizer.all_special_ids)  # a marker at the end comes after the text


# ---------------------------------------------------------------------- layers that learn


class Dense(nn.Module):
    """`activation(W x + b)`, to which `x` may be added, projected where it has another size.

    Args:
        in_features: numbers that come in.
        out_features: numbers that go out.
        bias: whether there is `b`.
        activation: one of `ACTIVATIONS`, a class of `torch.nn`.
        residual: whether `x` is added.
    """

    @strict
    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str = "Tanh", residual: bool = False
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            near = did_you_mean(str(activation), ACTIVATIONS)
            raise InputError(f"activation: got {activation!r}, wanted one of {', '.join(ACTIVATIONS)}{near}")
        self.linear = nn.Linear(in_features, out_features, bias=bias)
        self.added = residual
        if residual and in_features != out_features:
            self.residual = nn.Linear(in_features, out_features, bias=False)
        self.activation = activation

    def forward(self, vectors: Tensor) -> Tensor:
        """`[N, in]` → `[N, out]`."""
        found = ACTIVATIONS[self.activation](self.linear(vectors))
        if not self.added:
            return found
        return found + (self.residual(vectors) if hasattr(self, "residual") else vectors)

    @classmethod
    def of(cls, layer: sentence_recipe.Dense) -> Self:
        """A layer with the weights of a checkpoint's."""
        activation = next(name for name, function in ACTIVATIONS.items() if function is layer.activation)
        out, wide = layer.weight.shape
        made = cls(wide, out, layer.bias is not None, activation, layer.residual)
        tensors = {"linear.weight": layer.weight, "linear.bias": layer.bias, "residual.weight": layer.projection}
        made.load_state_dict({name: tensor for name, tensor in tensors.items() if tensor is not None})
        return made

    def settings(self) -> dict[str, Any]:
        """What `config.json` says about the layer."""
        return {
            "in_features": self.linear.in_features,
            "out_features": self.linear.out_features,
            "bias": self.linear.bias is not None,
            "activation_function": f"torch.nn.{self.activation}",
            **({"use_residual": True} if self.added else {}),
        }


class LayerNorm(nn.Module):
    """Mean 0 and variance 1, then a weight and a bias for each number.

    Args:
        dimension: numbers in a vector.
    """

    @strict
    def __init__(self, dimension: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dimension)

    def forward(self, vectors: Tensor) -> Tensor:
        """`[N, D]` → `[N, D]`."""
        found: Tensor = self.norm(vectors)
        return found

    @classmethod
    def of(cls, layer: sentence_recipe.LayerNorm) -> Self:
        """A layer with the weights of a checkpoint's."""
        made = cls(len(layer.weight))
        made.load_state_dict({"norm.weight": layer.weight, "norm.bias": layer.bias})
        return made

    def settings(self) -> dict[str, Any]:
        """What `config.json` says about the layer."""
        return {"dimension": self.norm.normalized_shape[0]}


class Normalize(nn.Module):
    """Length 1."""

    def forward(self, vectors: Tensor) -> Tensor:
        """`[N, D]` → `[N, D]`."""
        return F.normalize(vectors, dim=-1)

    def settings(self) -> dict[str, Any]:
        """What `config.json` says about the layer."""
        return {}


Layer = Dense | LayerNorm | Normalize


def _learning(layer: sentence_recipe.Layer) -> Layer:
    """A checkpoint's layer as a module."""
    if isinstance(layer, sentence_recipe.Dense):
        return Dense.of(layer)
    return LayerNorm.of(layer) if isinstance(layer, sentence_recipe.LayerNorm) else Normalize()


# ---------------------------------------------------------------------- the model


class EmbeddingModel(nn.Module):
    """A model that gives one vector for each text.

    Args:
        model: the body, or a model with a head, whose body is taken.
        tokenizer: the tokenizer that belongs to it.
        pooling: how tokens' vectors become one: a name of `POOLINGS`, or several to be joined.
        normalize: bring vectors to length 1 at the end.
        layers: `Dense`, `LayerNorm` and `Normalize` layers after pooling.
        max_length: tokens that are read of a text; default: as many as tokenizer and model say.
        lower: put texts into lower case first.
        prompts: name → what may stand before a text, kept in the folder, such as `{"query": "query: "}`.
        default_prompt_name: name of the one that stands before texts of which nothing else is said, once the model is
            used; training puts before a column what its settings say.
        include_prompt: pool the tokens of a prompt too.
        similarity: how vectors are compared, kept in the folder: `"cosine"`, `"dot"`, `"euclidean"`, `"manhattan"`.
        truncate_dim: numbers that are kept of a vector; default: all.

    Raises:
        InputError: a value that does not exist, or sizes that do not fit.
    """

    @strict
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pooling: str | Sequence[str] = "mean",
        normalize: bool = False,
        layers: Sequence[Layer] = (),
        *,
        max_length: int | None = None,
        lower: bool = False,
        prompts: Mapping[str, str] | None = None,
        default_prompt_name: str | None = None,
        include_prompt: bool = True,
        similarity: str = "cosine",
        truncate_dim: int | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(model, PreTrainedModel) or model.config.is_encoder_decoder:
            kind = "an encoder-decoder" if isinstance(model, PreTrainedModel) else quoted(model)
            raise InputError(f"EmbeddingModel: got {kind}, wanted an encoder or a decoder, such as AutoModel loads")
        if default_prompt_name is not None and default_prompt_name not in (prompts or {}):
            raise InputError(f"default_prompt_name: got {quoted(default_prompt_name)}, wanted one of the prompts")
        self.body, self.tokenizer = model.base_model, tokenizer
        self.modes = check_modes(pooling)
        self.layers = nn.ModuleList([*layers, *([Normalize()] if normalize else [])])
        readable = readable_tokens(model)
        if max_length is not None and not 1 <= max_length <= readable:
            raise InputError(f"max_length: got {max_length}, wanted from 1 to {readable}, which the model reads")
        self.max_length = max_length
        limit = min(readable, max_length or tokenizer.model_max_length)
        self.reader = TextReader(tokenizer, limit, lower, include_prompt)
        self.settings = SentenceSettings(
            dict(prompts or {}), default_prompt_name, check_similarity(similarity, "similarity"), truncate_dim
        )
        self.dim = self._size()

    def _size(self) -> int:
        """Numbers in a vector; each layer must take what comes to it."""
        size = int(self.body.config.hidden_size) * len(self.modes)
        for number, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise InputError(f"layers: got {type(layer).__name__}, wanted Dense, LayerNorm or Normalize")
            settings = layer.settings()
            wanted = settings.get("in_features", settings.get("dimension", size))
            if wanted != size:
                raise InputError(f"layers: number {number} takes vectors of {wanted}, and {size} come to it")
            size = settings.get("out_features", size)
        dim = self.settings.truncate_dim
        if dim is not None and not 1 <= dim <= size:
            raise InputError(f"truncate_dim: got {dim}, wanted from 1 to {size}")
        return size if dim is None else dim

    @classmethod
    @strict
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: StrPath,
        *,
        revision: str | None = "main",
        token: str | bool | None = None,
        cache_dir: StrPath | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
    ) -> Self:
        """Load a folder or repository: of sentence-transformers with all that it says, any other with mean pooling.

        Args:
            pretrained_model_name_or_path: a folder, or a name on the Hub.
            revision: branch, tag or commit on the Hub.
            token: access token; `None` uses the one that is logged in.
            cache_dir: where downloads are kept.
            local_files_only: never use the network.
            dtype: number format of the weights; default as in the file.

        Raises:
            FileError, HubError: files cannot be had, or ask for something that is not done here.
        """
        name = pretrained_model_name_or_path
        where: dict[str, Any] = {
            "revision": revision,
            "token": token,
            "cache_dir": cache_dir,
            "local_files_only": local_files_only,
        }
        model = AutoModel.from_pretrained(name, dtype=dtype, **where)
        tokenizer = AutoTokenizer.from_pretrained(name, **where)

        def resolve(file: str) -> Path | None:
            return hub.resolve_file(name, file, required=False, **where)

        if resolve("modules.json") is None:
            return cls(model, tokenizer)
        recipe = SentenceRecipe.read(resolve, str(name), model.config.hidden_size)
        settings = SentenceSettings.read(resolve)
        return cls(
            model,
            tokenizer,
            recipe.modes,
            layers=[_learning(layer) for layer in recipe.layers],
            max_length=None if recipe.max_length is None else min(recipe.max_length, readable_tokens(model)),
            lower=recipe.lower,
            prompts=settings.prompts,
            default_prompt_name=settings.default_prompt,
            include_prompt=recipe.include_prompt,
            similarity=settings.similarity,
            truncate_dim=settings.truncate_dim,
        ).eval()

    # ------------------------------------------------------------------ vectors

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        packed: PackedTokens | None = None,
        skipped: Sequence[int] | None = None,
    ) -> Tensor:
        """The vectors of texts, `[N, D]` in float32.

        Args:
            input_ids: `[N, S]`.
            attention_mask: `[N, S]`, zero at padding; default: all tokens are real.
            token_type_ids: `[N, S]`.
            packed: tokens without padding in place of these.
            skipped: tokens at the beginning of each text that are not pooled.
        """
        if packed is None:
            packed = without_padding(input_ids, attention_mask, token_type_ids)
        hidden = self.body(packed=packed, return_dict=True).last_hidden_state  # [T, H]
        vectors = self._pooled(hidden, packed.layout.lengths(), skipped).flatten(1)  # [N, modes · H]
        for layer in self.layers:
            vectors = layer(vectors)
        return vectors[:, : self.dim].float()

    def _pooled(self, hidden: Tensor, lengths: list[int], skipped: Sequence[int] | None) -> Tensor:
        """`[T, H]` → `[N, modes, H]`, one call for neighbours with as many tokens to be left out."""
        if skipped is None or not any(skipped):
            return pool(hidden, Layout.from_lengths(lengths), self.modes)
        found, text, token = [], 0, 0
        for skip, group in groupby(skipped):
            count = len(list(group))
            sizes = lengths[text : text + count]
            if min(sizes) <= skip:
                raise InputError(
                    f"text: nothing but the prompt is left of it in {min(sizes)} tokens; shorten the prompt"
                )
            found.append(pool(hidden[token : token + sum(sizes)], Layout.from_lengths(sizes), self.modes, skip))
            text, token = text + count, token + sum(sizes)
        return torch.cat(found)

    @strict
    @torch.no_grad()
    def encode(
        self,
        texts: Sequence[str],
        prompt: str | None = None,
        prompt_name: str | None = None,
        truncation: bool = True,
        tokens_per_batch: int = TOKENS_PER_BATCH,
    ) -> Tensor:
        """The vectors of texts, `[N, D]`, without dropout, where the model is.

        Args:
            texts: a list of texts.
            prompt: what is put before each.
            prompt_name: the same by its name; default: the model's default prompt, if it has one.
            truncation: cut texts that are too long; `False` refuses them.
            tokens_per_batch: tokens that are read together.

        Raises:
            InputError: a text cannot be read, or there is no such prompt.
        """
        if isinstance(texts, str) or not isinstance(texts, Sequence):
            raise InputError(f"texts: got {quoted(texts)}, wanted a list of texts")
        prompt = self._prompt(prompt, prompt_name)
        rows, skip = self.reader.ids(texts, prompt, truncation), self.reader.skipped(prompt)
        order = sorted(range(len(rows)), key=lambda row: len(rows[row]))
        found = torch.zeros(len(rows), self.dim, device=self.device)
        training = self.training
        self.eval()
        try:
            for places in _by_budget(order, rows, tokens_per_batch):
                packed = PackedTokens.from_lists([rows[place] for place in places], device=self.device)
                found[places] = self(packed=packed, skipped=[skip] * len(places))
        finally:
            self.train(training)
        return found

    def _prompt(self, prompt: str | None, name: str | None) -> str:
        """What is put before each text."""
        if prompt is not None and name is not None:
            raise InputError("prompt and prompt_name: got both, wanted one")
        prompts = self.settings.prompts
        if prompt is None and name is not None and name not in prompts:
            near = did_you_mean(str(name), prompts)
            raise InputError(f"prompt_name: got {quoted(name)}, wanted one of the model's, {list(prompts)}{near}")
        name = name or self.settings.default_prompt
        return prompt if prompt is not None else prompts[name] if name is not None else ""

    # ------------------------------------------------------------------ what a trainer asks of a model

    @property
    def config(self) -> Any:
        """The body's configuration."""
        return self.body.config

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.body.device

    @property
    def dtype(self) -> torch.dtype:
        """Number format of the body's weights."""
        return self.body.dtype

    @property
    def name_or_path(self) -> str:
        """Where the body was loaded from."""
        return self.body.name_or_path

    @property
    def peft_config(self) -> Any:
        """The body's adapters by name."""
        return self.body.peft_config

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether the body saves memory in training."""
        return self.body.is_gradient_checkpointing

    @staticmethod
    def can_generate() -> bool:
        """Never: it writes no texts."""
        return False

    @strict
    def num_parameters(self, only_trainable: bool = False) -> int:
        """How many numbers the model has learnt, or learns."""
        return sum(one.numel() for one in self.parameters() if one.requires_grad or not only_trainable)

    def gradient_checkpointing_enable(self) -> None:
        """Save memory in training; see `PreTrainedModel`."""
        self.body.gradient_checkpointing_enable()

    def gradient_checkpointing_disable(self) -> None:
        """Keep everything that gradients need; see `PreTrainedModel`."""
        self.body.gradient_checkpointing_disable()

    # ------------------------------------------------------------------ to files

    @strict
    def save_pretrained(self, save_directory: StrPath) -> None:
        """Write a folder that this class, `pipeline("embeddings")` and sentence-transformers open.

        The model's own `config.json` and weights come last, so that a new folder that is not complete opens nowhere.

        Raises:
            FileError: the folder cannot be written, or the disk is full.
        """
        folder = Path(save_directory)
        with atomic_folder(folder) as staged:
            self._write_recipe(staged.path)
        self.tokenizer.save_pretrained(folder)
        self.body.save_pretrained(folder)

    def _write_recipe(self, folder: Path) -> None:
        """Write what `sentence_recipe` reads."""
        kinds = [("", "Transformer"), ("1_Pooling", "Pooling")]
        kinds += [
            (f"{number}_{type(layer).__name__}", type(layer).__name__) for number, layer in enumerate(self.layers, 2)
        ]
        modules = [
            {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
            for number, (path, kind) in enumerate(kinds)
        ]
        write_json(folder / "modules.json", modules)
        reading = {"max_seq_length": self.max_length, "do_lower_case": self.reader.lower}
        write_json(folder / "sentence_bert_config.json", reading)
        said = self.settings
        known: dict[str, Any] = {
            "prompts": dict(said.prompts),
            "default_prompt_name": said.default_prompt,
            "similarity_fn_name": said.similarity,
        }
        if said.truncate_dim is not None:
            known["truncate_dim"] = said.truncate_dim
        write_json(folder / "config_sentence_transformers.json", known)
        for path, _ in kinds[1:]:
            (folder / path).mkdir()
        write_json(folder / "1_Pooling" / "config.json", self._pooling_settings())
        for (path, _), layer in zip(kinds[2:], self.layers, strict=True):
            assert isinstance(layer, Layer)
            write_json(folder / path / "config.json", layer.settings())
            if tensors := layer.state_dict():
                write_tensors(folder / path / "model.safetensors", tensors)

    def _pooling_settings(self) -> dict[str, Any]:
        """The pooling in the older spelling, which all versions read, unless only the newer can say its order."""
        size, shown = self.body.config.hidden_size, {"include_prompt": self.reader.include_prompt}
        if list(self.modes) != [mode for mode in POOLINGS if mode in self.modes]:
            return {"embedding_dimension": size, "pooling_mode": list(self.modes), **shown}
        flags = {f"pooling_mode_{FLAGS.get(mode, mode)}": mode in self.modes for mode in POOLINGS}
        return {"word_embedding_dimension": size, **flags, **shown}


def without_padding(
    input_ids: Tensor | None, attention_mask: Tensor | None, token_type_ids: Tensor | None = None
) -> PackedTokens:
    """A padded batch `[N, S]` as packed tokens, text by text.

    Raises:
        InputError: no ids, or a mask of another shape.
    """
    if input_ids is None:
        raise InputError("input_ids: got none, wanted [N, S], or packed tokens")
    real = torch.ones_like(input_ids, dtype=torch.bool) if attention_mask is None else attention_mask != 0
    if input_ids.dim() != 2 or real.shape != input_ids.shape:
        raise InputError(
            f"input_ids: got {list(input_ids.shape)} with a mask of {list(real.shape)}, wanted [N, S] for both"
        )
    types = None if token_type_ids is None else token_type_ids[real]
    return PackedTokens(Layout.from_lengths(real.sum(dim=1).tolist()), input_ids[real], types)


def _by_budget(order: Sequence[int], rows: Sequence[Sequence[int]], budget: int) -> Iterator[list[int]]:
    """Rows in their order, as many at a time as have about so many tokens."""
    taken: list[int] = []
    room = budget
    for place in order:
        if taken and len(rows[place]) > room:
            yield taken
            taken, room = [], budget
        taken.append(place)
        room -= len(rows[place])
    if taken:
        yield taken
