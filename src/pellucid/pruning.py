"""Heads of attention that are taken away: what the layers of a model keep of them.

Attention needs no word of how many heads there are: it is the width of what its layers make, by the size of a head.
So a head is pruned by taking its rows out of the layers that make queries, keys and values, and its columns out of the
layer that reads what the heads have found. An attention says by `read_by` which layer that is, in it or beside it;
those that do not say so (heads that share keys, two stacks of layers) keep their heads.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pellucid.errors import InputError
from pellucid.ops import Conv1D


class Heads(NamedTuple):
    """The heads of one attention.

    Attributes:
        attention: makes them: what comes out of its linear layers are heads, one after another.
        reader: the linear layer that reads what all of them have found.
        kept: numbers of those that are there, as the model was made.
    """

    attention: nn.Module
    reader: nn.Module
    kept: list[int]


def heads_of(body: nn.Module, count: int) -> list[Heads]:
    """The heads of each attention among a text's own tokens, layer by layer; empty where none can be pruned.

    Args:
        body: of a model.
        count: heads that each attention was made with.
    """
    found = []
    for path, module in body.named_modules():
        if name := getattr(module, "read_by", ""):
            inside = name.partition(".")[0] in module._modules
            around = module if inside else body.get_submodule(path.rpartition(".")[0])
            kept = getattr(module, "kept", None) or list(range(count))
            found.append(Heads(module, around.get_submodule(name), kept))
    return found


def prune(body: nn.Module, count: int, unwanted: Mapping[int, Collection[int]], what: str) -> dict[int, list[int]]:
    """Take heads out of some layers; when one of them cannot be taken, nothing is changed.

    Args:
        body: of a model.
        count: heads that each attention was made with.
        unwanted: layer → heads, by their numbers as the model was made; some may be gone already.
        what: the model's class, for messages.

    Returns:
        Layer → heads that are gone, earlier ones counted.

    Raises:
        InputError: there is no such layer or head, none of a layer would be left, or the model has none to prune.
    """
    if not isinstance(unwanted, Mapping) or not all(isinstance(heads, Collection) for heads in unwanted.values()):
        raise InputError(f"prune_heads: got {unwanted!r}, wanted layers and their heads, such as {{0: [1, 3]}}")
    layers = heads_of(body, count)
    if not layers:
        raise InputError(f"prune_heads: {what} has no heads that can be pruned; those of {_prunable()} can")
    left = {number: found.kept for number, found in enumerate(layers)}
    for layer, heads in unwanted.items():
        if layer not in range(len(layers)):
            raise InputError(f"prune_heads: got layer {layer!r}, wanted 0 to {len(layers) - 1}")
        for head in heads:
            if head not in range(count):
                raise InputError(f"prune_heads: layer {layer}: got head {head!r}, wanted 0 to {count - 1}")
        left[layer] = [head for head in left[layer] if head not in heads]
        if not left[layer]:
            raise InputError(f"prune_heads: layer {layer}: none of its {count} heads would be left; keep at least one")
    for found, kept in zip(layers, left.values(), strict=True):
        if kept != found.kept:
            _keep(found, kept)
    gone = {layer: [head for head in range(count) if head not in kept] for layer, kept in left.items()}
    return {layer: heads for layer, heads in gone.items() if heads}


def _prunable() -> str:
    """The architectures whose attention says by which layer it is read, and on which others are built."""
    files = sorted((Path(__file__).parent / "models").glob("*.py"))
    return ", ".join(file.stem for file in files if '    read_by = "' in file.read_text(encoding="utf-8"))


@torch.no_grad()
def _keep(heads: Heads, wanted: list[int]) -> None:
    """Leave only some of its heads to an attention."""
    places = [heads.kept.index(head) for head in wanted]
    count, reader = len(heads.kept), heads.reader
    size = reader.get_parameter("weight").shape[_axis(reader, of_inputs=True)] // count
    for layer in heads.attention.children():
        if isinstance(layer, nn.Linear | Conv1D) and layer is not reader:
            _replace(layer, "weight", _axis(layer, of_inputs=False), count, size, places)
            if layer.bias is not None:
                _replace(layer, "bias", 0, count, size, places)
            if isinstance(layer, nn.Linear):
                layer.out_features = len(layer.weight)
    _replace(reader, "weight", _axis(reader, of_inputs=True), count, size, places)
    if isinstance(reader, nn.Linear):
        reader.in_features = reader.weight.shape[1]
    heads.attention.kept = wanted  # type: ignore[assignment]  # numbers, and not a module


def _axis(layer: nn.Module, of_inputs: bool) -> int:
    """Which axis of a layer's weight is that of its inputs, or of its outputs."""
    return int(of_inputs != isinstance(layer, Conv1D))


def _replace(layer: nn.Module, name: str, axis: int, count: int, size: int, places: list[int]) -> None:
    """Leave the heads at some places to one axis of a parameter, which has `count` of a size, once or several times.

    Several times: a layer that makes queries, keys and values at once has all heads of one before those of the next.
    """
    old: Tensor = layer.get_parameter(name)
    blocks = old.reshape(*old.shape[:axis], -1, count, size, *old.shape[axis + 1 :])
    left = blocks.index_select(axis + 1, torch.tensor(places, device=old.device)).flatten(axis, axis + 2)
    setattr(layer, name, nn.Parameter(left, requires_grad=old.requires_grad))
