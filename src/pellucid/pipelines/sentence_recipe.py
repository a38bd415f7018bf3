"""What a sentence-transformers folder says about its vectors, read from its own files.

    modules.json                        which modules there are, in their order, each with a folder of its own
    sentence_bert_config.json           how long texts are read, and whether in lower case
    1_Pooling/config.json               how token vectors become one
    2_Dense/config.json, *.safetensors  a layer after pooling
    config_sentence_transformers.json   prompts, the usual similarity, the usual number of components

A module is known by the last part of its `type`, which is spelt `sentence_transformers.models.Dense` in older files
and `sentence_transformers.base.modules.dense.Dense` in newer ones. What is not computed here is refused by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from pellucid.checkpoint import Checkpoint
from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import quoted, read_json, safe_name
from pellucid.pipelines.embedding_forms import check_similarity
from pellucid.pipelines.pooling import POOLINGS, check_modes

Resolve = Callable[[str], Path | None]
"""Name of a file in a folder or repository → its path, or `None` if there is none."""

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "Identity": lambda vector: vector,
    "ELU": F.elu,
    "GELU": F.gelu,
    "LeakyReLU": F.leaky_relu,
    "Mish": F.mish,
    "ReLU": F.relu,
    "SiLU": F.silu,
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
}
"""Class of `torch.nn` that a `Dense` module names → what it computes."""

FLAGS = {"cls": "cls_token", "max": "max_tokens", "mean": "mean_tokens", "weightedmean": "weightedmean_tokens"}
"""Pooling → what the older files call it behind `pooling_mode_`, where that is another word."""


# ---------------------------------------------------------------------- layers after pooling


@dataclass(frozen=True, eq=False)
class Dense:
    """`activation(W x + b)`, to which `x` may be added, projected by `R` where it has another size.

    Attributes:
        weight: `W`, `[out, in]`.
        bias: `b`, `[out]`, or none.
        activation: one of `ACTIVATIONS`.
        residual: whether `x` is added.
        projection: `R`, `[out, in]`, or none.
    """

    weight: Tensor
    bias: Tensor | None
    activation: Callable[[Tensor], Tensor]
    residual: bool = False
    projection: Tensor | None = None

    def __call__(self, vector: Tensor) -> Tensor:
        """`[..., in]` → `[..., out]`."""
        found = self.activation(F.linear(vector, self.weight, self.bias))
        if not self.residual:
            return found
        return found + (vector if self.projection is None else F.linear(vector, self.projection))


@dataclass(frozen=True, eq=False)
class LayerNorm:
    """Mean 0 and variance 1, then `weight` and `bias`, both `[H]`."""

    weight: Tensor
    bias: Tensor

    def __call__(self, vector: Tensor) -> Tensor:
        """`[..., H]` → `[..., H]`."""
        return F.layer_norm(vector, self.weight.shape, self.weight, self.bias)


class Normalize:
    """Length 1."""

    def __call__(self, vector: Tensor) -> Tensor:
        """`[..., H]` → `[..., H]`."""
        return F.normalize(vector, dim=-1)


Layer = Dense | LayerNorm | Normalize


# ---------------------------------------------------------------------- modules.json


class SentenceRecipe(NamedTuple):
    """How texts are to be read, pooled and projected.

    Attributes:
        modes: names of `POOLINGS`.
        layers: what comes after pooling, in its order.
        dim: numbers in a vector at the end.
        include_prompt: whether the tokens of a prompt are pooled too.
        max_length: tokens that are read of a text, if it says so.
        lower: whether texts are put into lower case first.
    """

    modes: tuple[str, ...]
    layers: tuple[Layer, ...]
    dim: int
    include_prompt: bool = True
    max_length: int | None = None
    lower: bool = False

    @classmethod
    def read(cls, resolve: Resolve, source: str, hidden_size: int) -> SentenceRecipe:
        """Read `modules.json` and the files that it names.

        Args:
            resolve: where files are.
            source: name of the folder or repository, for messages.
            hidden_size: numbers in a token's vector.

        Raises:
            InputError: there is no recipe.
            FileError: it asks for something that is not done here, or its files contradict each other.
        """
        path = resolve("modules.json")
        if path is None:
            raise InputError(
                f'pooling="auto": {source} has no modules.json that says how its vectors are pooled; '
                'say pooling="mean" or "cls", as its authors do'
            )
        (_, first), (_, second), *others = _modules(path)
        sizes = _Fields.read(resolve, first, "sentence_bert_config.json")
        pooling = _Fields.read(resolve, second, "config.json")
        modes = _pooling_modes(pooling)
        dim, layers = hidden_size * len(modes), []
        for kind, folder in others:
            layer = LAYERS[kind](resolve, folder, dim)
            if layer is not None:
                layers.append(layer)
            if isinstance(layer, Dense):
                dim = layer.weight.shape[0]
        return cls(
            modes,
            tuple(layers),
            dim,
            pooling.flag("include_prompt", True),
            sizes.size("max_seq_length"),
            sizes.flag("do_lower_case", False),
        )


def _modules(path: Path) -> list[tuple[str, str]]:
    """Kind and folder of each module, in the order of the file: a transformer, a pooling, and any layers."""
    entries = read_json(path)
    if not isinstance(entries, list) or len(entries) < 2:
        raise FileError(f"{path}: got {quoted(entries)}, wanted a list of modules: a Transformer, a Pooling, …")
    found = []
    for number, entry in enumerate(entries):
        fields = entry if isinstance(entry, dict) else {}
        name, folder = fields.get("type"), fields.get("path", "")
        library, _, kind = str(name).rpartition(".")
        wanted = (("Transformer",), ("Pooling",))[number] if number < 2 else tuple(LAYERS)
        if kind not in wanted or library.partition(".")[0] != "sentence_transformers":
            raise FileError(
                f"{path}: module {number}: type: got {quoted(name)}, wanted {' or '.join(wanted)} of "
                'sentence_transformers; others are not computed here: choose pooling="mean" or "cls" to do without'
            )
        if not isinstance(folder, str):
            raise FileError(f"{path}: module {number}: path: got {quoted(folder)}, wanted the name of a folder")
        for part in folder.split("/") if folder else ():
            safe_name(part, f"{path}: module {number}: path")
        found.append((kind, folder))
    return found


class _Fields:
    """The fields of a configuration file, which may be missing, read one by one with a check of their kind."""

    def __init__(self, path: Path | None, name: str) -> None:
        self.name = name if path is None else str(path)
        self.fields = {} if path is None else read_json(path)
        if not isinstance(self.fields, dict):
            raise FileError(f"{self.name}: got {quoted(self.fields)}, wanted an object with names and values")

    @classmethod
    def read(cls, resolve: Resolve, folder: str, name: str) -> _Fields:
        return cls(resolve(_inside(folder, name)), _inside(folder, name))

    def wrong(self, field: str, wanted: str) -> FileError:
        return FileError(f"{self.name}: {field}: got {quoted(self.fields.get(field))}, wanted {wanted}")

    def flag(self, field: str, usual: bool) -> bool:
        value = self.fields.get(field)
        if value is None:
            return usual
        if not isinstance(value, bool):
            raise self.wrong(field, "true or false")
        return value

    def size(self, field: str) -> int | None:
        value = self.fields.get(field)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise self.wrong(field, "a whole number from 1")
        return value

    def text(self, field: str, usual: str) -> str:
        value = self.fields.get(field)
        if value is not None and not isinstance(value, str):
            raise self.wrong(field, "a text")
        return usual if value is None else value

    def check_place(self) -> None:
        """Refuse a layer that reads or writes something else than the text's vector."""
        for field in ("module_input_name", "module_output_name"):
            if self.text(field, "sentence_embedding") != "sentence_embedding":
                raise self.wrong(field, "'sentence_embedding'; layers on token vectors are not computed here")


def _inside(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _pooling_modes(file: _Fields) -> tuple[str, ...]:
    """Pooling modes in the newer spelling, `pooling_mode`, or the older one, a flag for each."""
    if "pooling_mode" in file.fields:
        try:
            return check_modes(file.fields["pooling_mode"], f"{file.name}: pooling_mode")
        except InputError as error:
            raise FileError(str(error)) from None
    flagged = [mode for mode in POOLINGS if file.flag(f"pooling_mode_{FLAGS.get(mode, mode)}", False)]
    return tuple(flagged) or ("mean",)


# ---------------------------------------------------------------------- the files of layers


def _read_dense(resolve: Resolve, folder: str, dim: int) -> Dense:
    file = _Fields.read(resolve, folder, "config.json")
    file.check_place()
    wide, out = file.size("in_features"), file.size("out_features")
    if wide != dim:
        raise file.wrong("in_features", f"{dim}, the size of the vectors that come to it")
    if out is None:
        raise file.wrong("out_features", "a whole number from 1")
    name = file.text("activation_function", "torch.nn.modules.activation.Tanh")
    kind = name.rpartition(".")[2]
    if kind not in ACTIVATIONS or not name.startswith("torch.nn."):
        near = did_you_mean(kind, ACTIVATIONS)
        raise file.wrong("activation_function", f"a class of torch.nn, one of {', '.join(ACTIVATIONS)}{near}")
    weights = _weights(resolve, folder)
    residual = file.flag("use_residual", False)
    return Dense(
        _tensor(weights, "linear.weight", (out, dim)),
        _tensor(weights, "linear.bias", (out,)) if file.flag("bias", True) else None,
        ACTIVATIONS[kind],
        residual,
        _tensor(weights, "residual.weight", (out, dim)) if residual and out != dim else None,
    )


def _read_layer_norm(resolve: Resolve, folder: str, dim: int) -> LayerNorm:
    file = _Fields.read(resolve, folder, "config.json")
    if file.size("dimension") != dim:
        raise file.wrong("dimension", f"{dim}, the size of the vectors that come to it")
    weights = _weights(resolve, folder)
    return LayerNorm(_tensor(weights, "norm.weight", (dim,)), _tensor(weights, "norm.bias", (dim,)))


def _read_normalize(resolve: Resolve, folder: str, dim: int) -> Normalize:
    _Fields.read(resolve, folder, "config.json").check_place()
    return Normalize()


def _read_dropout(resolve: Resolve, folder: str, dim: int) -> None:
    """Nothing: it only acts in training."""


LAYERS: dict[str, Callable[[Resolve, str, int], Layer | None]] = {
    "Dense": _read_dense,
    "LayerNorm": _read_layer_norm,
    "Normalize": _read_normalize,
    "Dropout": _read_dropout,
}
"""Kind of a module after pooling → what reads it, given where files are, its folder and the size of vectors."""


def _weights(resolve: Resolve, folder: str) -> Checkpoint:
    names = [_inside(folder, name) for name in ("model.safetensors", "pytorch_model.bin")]
    for name in names:
        if (path := resolve(name)) is not None:
            return Checkpoint.open([path])
    raise FileError(f"{names[0]}: there is no such file, nor {names[1]}; the checkpoint is incomplete")


def _tensor(weights: Checkpoint, name: str, shape: tuple[int, ...]) -> Tensor:
    """A layer's tensor in float32, of the shape that its configuration says."""
    if weights.shapes.get(name, shape) != shape:
        raise FileError(f"{weights.source}: {name}: got shape {list(weights.shapes[name])}, wanted {list(shape)}")
    if name in weights and not weights.dtypes[name].is_floating_point:
        raise FileError(f"{weights.source}: {name}: got {weights.dtypes[name]}, wanted floating-point numbers")
    return weights.tensor(name, torch.float32)


# ---------------------------------------------------------------------- config_sentence_transformers.json


class SentenceSettings(NamedTuple):
    """What the vectors of a checkpoint are made for; all of it may be missing.

    Attributes:
        prompts: name → what is put before a text, such as `{"query": "query: "}`.
        default_prompt: name of the prompt for texts of which nothing else is known.
        similarity: name of the function that compares two vectors.
        truncate_dim: components that are kept of a vector.
    """

    prompts: Mapping[str, str]
    default_prompt: str | None
    similarity: str
    truncate_dim: int | None

    @classmethod
    def read(cls, resolve: Resolve) -> SentenceSettings:
        """Read `config_sentence_transformers.json`, if there is one.

        Raises:
            FileError: a field holds something else than it should.
        """
        file = _Fields.read(resolve, "", "config_sentence_transformers.json")
        prompts = file.fields.get("prompts")
        if prompts is not None and not (
            isinstance(prompts, dict) and all(isinstance(prompt, str | None) for prompt in prompts.values())
        ):
            raise file.wrong("prompts", "an object from names to texts")
        prompts = {name: prompt or "" for name, prompt in (prompts or {}).items()}
        default = file.text("default_prompt_name", "") or None
        if default is not None and default not in prompts:
            raise file.wrong("default_prompt_name", f"one of the prompts, {list(prompts)}")
        try:
            similarity = check_similarity(file.fields.get("similarity_fn_name") or "cosine", "similarity_fn_name")
        except InputError as error:
            raise FileError(f"{file.name}: {error}") from None
        return cls(prompts, default, similarity, file.size("truncate_dim"))
