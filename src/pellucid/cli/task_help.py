"""`pellucid run TASK --help`: what a task reads and what can be said to it, out of the documentation of its options."""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any, is_typeddict

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

WIDTH, INDENT = 100, 24
JSON_WORDS = {"None": "null", "True": "true", "False": "false"}
_IN_JSON = re.compile("`(None|True|False)`")
OWN_WORDS = ("on_error", "progress", "padding", "num_workers")
"""Options that the command has other words for, or no use."""


def task_page(task: str, example: str, kind: type[Pipeline]) -> str:
    """The help page of a task.

    Args:
        task: its name.
        example: a call.
        kind: its class.
    """
    about = (inspect.getdoc(inspect.getmodule(kind)) or "").split("\n\n")[0]
    described = described_options(kind)
    others = sorted(kind.known_options() - described.keys() - set(OWN_WORDS))
    lines = [
        f"usage: pellucid run {task} [TEXT ...] [options]",
        "",
        *textwrap.wrap(about, WIDTH),
        "",
        f"  {example}",
        "",
        f"Model    {_model_of(kind)}, unless --model names one",
        f"Columns  {', '.join(kind.fields)}; --column says it where a file calls them otherwise",
        "",
        "Options, each as --option NAME=VALUE, where the value is JSON or a word; for some of them there is",
        "an option of the command as well, see 'pellucid run --help'",
    ]
    for name, text in described.items():
        first, *rest = textwrap.wrap(text, WIDTH - INDENT) or [""]
        lines += [f"  {name:<{INDENT - 2}}{first}" if len(name) < INDENT - 3 else f"  {name}\n{' ' * INDENT}{first}"]
        lines += [f"{' ' * INDENT}{line}" for line in rest]
    if others:
        lines += ["", *textwrap.wrap(f"More, as in `generate`: {', '.join(others)}", WIDTH)]
    return "\n".join(lines)


def _model_of(kind: type[Pipeline]) -> str:
    return "the one inside the package" if Path(kind.default_model).is_absolute() else kind.default_model


def described_options(kind: type[Pipeline]) -> dict[str, str]:
    """Every option that a task's documentation explains, the task's own first."""
    known = kind.known_options()
    named = [value for base in kind.__mro__ for value in vars(sys.modules[base.__module__]).values()]
    documented = [
        kind.options,
        *(value for value in named if is_typeddict(value) and value.__annotations__.keys() <= known),
    ]
    found: dict[str, str] = {}
    for options in documented:
        found |= {name: text for name, text in _attributes(options).items() if name not in found}
    return {name: text for name, text in found.items() if name not in OWN_WORDS}


def _attributes(documented: Any) -> dict[str, str]:
    """The part `Attributes` of a class's documentation: name → text."""
    text = (inspect.getdoc(documented) or "").partition("Attributes:\n")[2]
    entries = re.split(r"(?m)^ {4}(?=\w+: )", text)[1:]
    pairs = (entry.split(":", 1) for entry in entries)
    return {
        name: _IN_JSON.sub(lambda match: JSON_WORDS[match[1]], " ".join(about.split())).replace("`", "")
        for name, about in pairs
    }
