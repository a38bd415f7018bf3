"""The tensors of a checkpoint as a tree of layers, with parameters and bytes; layers that are alike stand once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import groupby
from typing import NamedTuple

MAX_LEVELS = 24
"""Levels of the tree; no architecture has more than ten, but a file may hold any name."""


@dataclass
class Layer:
    """A tensor, or a module with tensors and modules in it.

    Attributes:
        parameters: numbers in it that are learnt.
        nbytes: bytes in the file.
        shape: of a tensor.
        children: what is in a module, by name.
    """

    parameters: int = 0
    nbytes: int = 0
    shape: tuple[int, ...] | None = None
    children: dict[str, Layer] = field(default_factory=dict)

    def add(self, path: list[str], parameters: int, nbytes: int, shape: tuple[int, ...]) -> None:
        """Put a tensor where its name says."""
        self.parameters += parameters
        self.nbytes += nbytes
        if path:
            self.children.setdefault(path[0], Layer()).add(path[1:], parameters, nbytes, shape)
        else:
            self.shape = shape

    def is_like(self, other: Layer) -> bool:
        """Whether both hold the same tensors under the same names."""
        return (
            self.shape == other.shape
            and self.nbytes == other.nbytes
            and self.children.keys() == other.children.keys()
            and all(child.is_like(other.children[name]) for name, child in self.children.items())
        )


class Line(NamedTuple):
    """A line of the printed tree; the numbers are those of one layer where several alike are meant."""

    name: str
    shape: str
    parameters: int
    nbytes: int
    alike: int = 1


def read_tree(tensors: Mapping[str, tuple[tuple[int, ...], int, bool]]) -> Layer:
    """The tree of all tensors.

    Args:
        tensors: name → shape, bytes, and whether its numbers are learnt.
    """
    root = Layer()
    for name, (shape, nbytes, learnt) in tensors.items():
        root.add(name.split(".", MAX_LEVELS), math.prod(shape) if learnt else 0, nbytes, shape)
    return root


def lines(layer: Layer, indent: str = "") -> Iterator[Line]:
    """The layers in a module, one below the other, with `├` and `└` in front below the first level."""
    found = list(_grouped(layer))
    for place, (name, child, count) in enumerate(found):
        last = place == len(found) - 1
        while len(child.children) == 1 and child.shape is None and not _is_plain(child):
            ((inner, child),) = child.children.items()  # nothing to choose from: one line for both
            name = f"{name}.{inner}"
        yield Line(f"{indent}{'└ ' if last else '├ '}{name}", _shape(child), child.parameters, child.nbytes, count)
        if not _is_plain(child):
            yield from lines(child, indent + ("  " if last else "│ "))


def _is_plain(layer: Layer) -> bool:
    """Whether a module holds tensors only, few enough to be understood from the first one's shape."""
    return not any(child.children for child in layer.children.values()) and len(layer.children) <= 3


def _shape(layer: Layer) -> str:
    """Shape of a tensor, or of a plain module's largest one."""
    shapes = [layer.shape] if layer.shape is not None else [child.shape for child in layer.children.values()]
    known = [shape for shape in shapes if shape is not None]
    if not known or not _is_plain(layer):
        return ""
    return " × ".join(map(str, max(known, key=math.prod))) or "1"


def _grouped(layer: Layer) -> Iterator[tuple[str, Layer, int]]:
    """The children with their names; numbered ones that are alike in one, with how many they are."""
    ordered = sorted(
        layer.children.items(), key=lambda item: (len(item[0]), item[0]) if item[0].isdecimal() else (0, "")
    )
    groups: list[list[tuple[str, Layer]]] = []
    for numbered, run in groupby(ordered, key=lambda item: item[0].isdecimal()):
        for name, child in run:
            if numbered and groups and groups[-1][0][0].isdecimal() and groups[-1][0][1].is_like(child):
                groups[-1].append((name, child))
            else:
                groups.append([(name, child)])
    for group in groups:
        (first, child), last = group[0], group[-1][0]
        yield first if len(group) == 1 else f"{first} … {last}", child, len(group)
