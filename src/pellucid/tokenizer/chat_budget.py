"""What rendering a chat template may cost: steps, time, and the size of what it makes."""

from __future__ import annotations

import sys
import time
from collections.abc import ItemsView, KeysView, Mapping, ValuesView
from typing import Any, Never, cast

from pellucid.errors import InputError

STEPS = 1_000_000
"""How many iterations, calls, operations and outputs a rendering may take."""
SECONDS = 1.0
"""How long it may take."""
MEMORY = 256 << 20
"""How many bytes all its larger values together may take."""
TEXT_LIMIT = 16 << 20
"""Longest text that it may make, in characters; also of the result."""
PARTS = 200_000
"""How many entries a value may have, those of nested ones counted in."""
DEPTH = 100
"""How deep a value may nest."""
NUMBER_BITS = 4096
"""Largest whole number."""
WIDTH = 10_000
"""Largest width, count or precision that a filter, method or format may be given."""


class TemplateError(InputError):
    """A chat template that is refused, fails, or costs too much."""


class Budget:
    """What one rendering has used so far."""

    def __init__(self) -> None:
        self.steps = 0
        self.memory = 0
        self.written = 0
        self.deadline = time.monotonic() + SECONDS
        self.position = 0  # characters of the result that are finished
        self.spans: list[tuple[int, int]] = []  # what `{% generation %}` marked
        self.known: dict[int, tuple[Any, int, int]] = {}  # containers already measured; held, so that ids stay theirs

    def step(self) -> None:
        """Count one step of the template."""
        self.steps += 1
        if self.steps > STEPS:
            raise TemplateError(f"chat_template: stopped after {STEPS:,} steps")
        if time.monotonic() > self.deadline:
            raise TemplateError(f"chat_template: stopped after {SECONDS:g} seconds")

    def keep(self, value: Any) -> Any:
        """`value`, a result, if it is within the limits."""
        if isinstance(value, str):
            if len(value) > TEXT_LIMIT:
                too_large(f"a text of {len(value):,} characters")
        elif isinstance(value, int):
            if value.bit_length() > NUMBER_BITS:
                too_large("a number")
        elif _is_container(value):
            self.measure(value)
        size = sys.getsizeof(value)
        if size > 1024:
            self.memory += size
            if self.memory > MEMORY:
                too_large("the sum of all values")
        return value

    def measure(self, value: Any) -> tuple[int, int]:
        """Parts and depth of a value: one for each entry, nested ones too, and one for 64 characters of text."""
        if isinstance(value, str):
            return 1 + len(value) // 64, 0
        if not _is_container(value):
            return 1, 0
        if (found := self.known.get(id(value))) is not None:
            return found[1], found[2]
        parts, depth = 1, 0
        for entry in value.items() if isinstance(value, Mapping) else value:
            more, below = self.measure(entry)
            parts, depth = parts + more, max(depth, below)
            if parts > PARTS or depth >= DEPTH:
                too_large("a list or dictionary")
        self.known[id(value)] = (value, parts, depth + 1)
        return parts, depth + 1

    def text(self, value: Any) -> str:
        """`value` as it is written out."""
        if isinstance(value, str):
            return value
        if self.measure(value)[0] > PARTS // 2:
            too_large("a list or dictionary to write out")
        return cast(str, self.keep(str(value)))


def _is_container(value: Any) -> bool:
    return isinstance(value, (list, tuple, dict, KeysView, ValuesView, ItemsView))


def too_large(what: str) -> Never:
    """Raise `TemplateError` for something that would exceed a limit."""
    raise TemplateError(f"chat_template: {what} became too large")
