"""Every error that pellucid raises on purpose, and the check that catches misspelt arguments.

A message is one line: what came, what was wanted, what to do. Each class also inherits the built-in
exception that existing code catches (`ValueError`, `TypeError`, `OSError`, `ImportError`).
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import NoReturn, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class PellucidError(Exception):
    """Base of all errors raised on purpose; catch this to catch them all."""


class InputError(PellucidError, ValueError):
    """A value given by the caller cannot be used: a text too long, a label out of range, a wrong shape."""


class UnknownArgumentError(PellucidError, TypeError):
    """A keyword argument that does not exist; the message names the nearest one that does."""


class ConfigError(PellucidError, ValueError):
    """A model configuration holds a value that no model can be built from."""


class FileError(PellucidError, OSError):
    """A file is missing, damaged or not allowed; the message names file, field and reason."""


class HubError(PellucidError, OSError):
    """A repository or file on the Hub could not be reached, read or written."""


class MissingDependencyError(PellucidError, ImportError):
    """An optional package is needed; the message holds the `pip install` line."""


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """`"; did you mean 'x'?"` for the known name nearest to `name`, or `""` when none is near."""
    import difflib  # only needed once something is wrong

    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f"; did you mean {near[0]!r}?" if near else ""


def reject_unknown(function: str, unknown: Iterable[str], known: Iterable[str]) -> NoReturn:
    """Raise `UnknownArgumentError` for the first (alphabetically) of the `unknown` argument names."""
    name = min(unknown)
    raise UnknownArgumentError(f"{function}: unknown argument {name!r}{did_you_mean(name, known)}")


def strict(function: Callable[P, R]) -> Callable[P, R]:
    """Decorate a public callable so that a misspelt keyword is refused with the nearest right one.

    Costs one set difference a call. A function that takes `**kwargs` checks those itself; for it, this catches the
    misspelt name of an argument that must be given.
    """
    parameters = inspect.signature(function).parameters.values()
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]
    names = frozenset(p.name for p in named)
    required = [p.name for p in named if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    takes_more = any(p.kind is p.VAR_KEYWORD for p in parameters)

    @functools.wraps(function)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        if (unknown := kwargs.keys() - names) and (
            not takes_more or any(name not in kwargs for name in required[len(args) :])
        ):
            reject_unknown(function.__qualname__, unknown, names - {"self", "cls"})
        return function(*args, **kwargs)

    return checked


def refuse_remote_code(trust_remote_code: bool) -> None:
    """Raise unless `trust_remote_code` is false: a checkpoint is data here, and nothing in it is ever run."""
    if trust_remote_code:
        raise InputError(
            "trust_remote_code: got True, wanted False; code that comes with a checkpoint is never run, "
            "only what is part of the library can be loaded"
        )


def require(module: str, extra: str) -> None:
    """Raise `MissingDependencyError` unless `module` can be imported; `extra` is the pip extra that brings it."""
    import importlib.util

    if importlib.util.find_spec(module) is None:
        raise MissingDependencyError(f"{module!r} is needed here and not installed: pip install 'pellucid[{extra}]'")
