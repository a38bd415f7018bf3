"""What words of a command line say under the annotation of a field, and what its source says about the field.

    value_of("1e-4", float | None)        0.0001; where nothing fits, the word, and the class says what is wrong
    read_words(["1", "2"], list[int])     [1, 2]; where nothing fits, InputError
    spelt("learning_rate")                ["--learning-rate", "--learning_rate"]

`value_of` is for classes that check their own values; `read_words` for any dataclass.
"""

from __future__ import annotations

import ast
import inspect
import json
import textwrap
import types
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import is_dataclass
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pellucid.config_values import SWITCH, mismatch
from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.training.argument_tables import GONE, RENAMED, SWITCHES

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

_LETTERS = {"t": "true", "y": "yes", "f": "false", "n": "no"}
"""Short for those where nothing but a switch is meant."""
_NONE = ("none", "null")
_READ_HERE = (bool, int, float, str, list, dict)


# ---------------------------------------------------------------------- one word


def value_of(text: str, hint: Any) -> Any:
    """What a word of the command line says under an annotation; where nothing fits, the class will say what is wrong.

    Args:
        text: the word.
        hint: annotation of the field. Lists are words with commas, or JSON.
    """
    kinds, nearest = options_of(hint), None
    for kind in kinds:
        if is_list(kind) and str in kinds and "," not in text and not text.startswith("["):
            continue  # one word is a text where both can be
        value = _as(text, kind)
        if value is not _NOTHING and mismatch(value, kind) is None:
            return value
        nearest = value if nearest is None and value is not _NOTHING else nearest
    return text if nearest is None else nearest


class _Nothing:
    """Stands for a word that says nothing of the kind that was looked for."""


_NOTHING = _Nothing()


def _as(text: str, kind: Any) -> Any:
    """The word as a value of one kind."""
    base = base_of(kind)
    if base is bool:
        return SWITCH.get(text.lower(), _NOTHING)
    if base is types.NoneType:
        return None if text.lower() in _NONE else _NOTHING
    if base in (int, float):
        with suppress(ValueError):
            return int(text) if base is int or text.lstrip("+-").isdecimal() else float(text)
        return _NOTHING
    if get_origin(base) is Literal:
        choices = [choice for choice in get_args(base) if str(choice).lower() == text.lower()]
        return choices[0] if choices else _NOTHING
    if is_list(base):
        return _listed(text)
    if base is dict or get_origin(base) is dict:
        return _read_json(text, dict)
    return text


def _listed(text: str) -> Any:
    """The members of a list in one word."""
    return _read_json(text, list) if text.startswith("[") else [word for word in text.split(",") if word]


def _read_json(text: str, kind: type) -> Any:
    with suppress(ValueError):
        value = json.loads(text)
        if isinstance(value, kind):
            return value
    return _NOTHING


# ---------------------------------------------------------------------- the words behind an option


def read_words(words: Sequence[str], hint: Any, choices: Sequence[Any] | None = None) -> Any:
    """What the words behind an option say under the annotation of its field.

    Args:
        words: one word, or several where the annotation has a list; for a list, one word is read as `value_of` does.
        hint: the annotation. Of an enumeration the value is taken, and in a list the member.
        choices: what the value, or each member of a list, may be; `None` for anything that fits.

    Raises:
        InputError: a word does not fit; it says what came and what was wanted.
    """
    kinds = without_none(hint)
    lists = [kind for kind in kinds if is_list(kind)]
    if not lists or (len(words) == 1 and len(kinds) > 1):
        return _read_word(words[0], hint, choices)
    item = (*get_args(lists[0]), str)[0]
    parts = _listed(words[0]) if len(words) == 1 else words
    if parts is _NOTHING:
        parts = words  # a text that only begins as a list of JSON does
    read = [_read_word(part if isinstance(part, str) else json.dumps(part), item, choices) for part in parts]
    return [item(value) for value in read] if _is_enumeration(item) else read


def _read_word(text: str, hint: Any, choices: Sequence[Any] | None) -> Any:
    own = choices_of(hint)
    known = choices if own is None else own
    named = {str(choice): choice for choice in known or ()}
    if text in named:
        return named[text]
    if own is None:
        value = _converted(text, hint)
        if known is None or value in known:
            return value
    elif types.NoneType in get_args(hint) and text.lower() in _NONE:
        return None
    wanted = ", ".join(map(repr, named.values()))
    raise InputError(f"got {quoted(text)}, wanted one of {wanted}{did_you_mean(text, named)}")


def _converted(text: str, hint: Any) -> Any:
    """The word as `value_of` reads it, or made by a class of others, such as `Path`."""
    kinds = without_none(hint)
    try:
        value = value_of(_LETTERS.get(text.lower(), text) if kinds == [bool] else text, hint)
        problem = mismatch(value, hint)
    except (TypeError, IndexError) as error:  # a tuple, a protocol: nothing that a value can be held against
        shown = f"{hint}, which words cannot say; set it in a file or in code"
        raise InputError(f"got {quoted(text)}, wanted {shown}") from error
    if problem is None:
        return float(value) if kinds == [float] and value is not None else value
    for kind in kinds:
        if isinstance(kind, type) and kind not in _READ_HERE and not is_dataclass(kind) and get_origin(kind) is None:
            with suppress(ValueError, TypeError, ArithmeticError):
                return kind(text)
    raise InputError(f"got {quoted(text)}, wanted {problem}")


# ---------------------------------------------------------------------- annotations


def options_of(hint: Any) -> list[Any]:
    """The kinds that an annotation allows, in the order in which a word is tried: a text is what nothing else is."""
    options = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    if str not in options:
        return options
    named = any(get_origin(option) is dict for option in options)  # else "none" is a word like others
    others = [option for option in options if option is not str and (named or option is not types.NoneType)]
    return [*others, str]


def without_none(hint: Any) -> list[Any]:
    """The kinds that an annotation allows beside `None`."""
    return [kind for kind in options_of(hint) if kind is not types.NoneType]


def base_of(kind: Any) -> Any:
    """The kind without the range that may be told with it."""
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def is_list(kind: Any) -> bool:
    """Whether a kind is that of lists."""
    return kind is list or get_origin(kind) is list


def _is_enumeration(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, Enum)


def choices_of(hint: Any) -> list[Any] | None:
    """Everything that an annotation allows, when it is an enumeration (its values) or a `Literal`; else `None`."""
    kinds = without_none(hint)
    if len(kinds) == 1 and get_origin(kinds[0]) is Literal:
        return list(get_args(kinds[0]))
    if len(kinds) == 1 and _is_enumeration(kinds[0]):
        return [member.value for member in kinds[0]]
    return None


# ---------------------------------------------------------------------- names


def spelt(name: str) -> list[str]:
    """The option of a name, with dashes and with underscores."""
    return list(dict.fromkeys((f"--{name.replace('_', '-')}", f"--{name}")))


def older_names(kind: type[TrainingArguments]) -> dict[str, Any]:
    """The names of older versions that training settings translate, with the annotation of what they say."""
    hints = kind.fields()
    anything = bool | int | float | str | None
    return {
        **{old: hints[new] for old, new in RENAMED.items()},
        **dict.fromkeys(SWITCHES, bool),
        **dict.fromkeys(GONE, anything),
    }


def meanings(kind: type[Any]) -> dict[str, str]:
    """The text below each field of a class and of those that it is made from; nothing where there is no source."""
    found: dict[str, str] = {}
    for owner in reversed(kind.__mro__[:-1]):
        with suppress(OSError, TypeError, SyntaxError):  # typed by hand, built in, or not to be told from its place
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(owner))).body
            for part, after in pairwise(getattr(body, "body", [])):
                if not isinstance(part, ast.AnnAssign) or not isinstance(after, ast.Expr):
                    continue
                if isinstance(after.value, ast.Constant) and isinstance(after.value.value, str):
                    text = " ".join(after.value.value.split()).replace("`", "")
                    found[ast.unparse(part.target)] = text
    return found
