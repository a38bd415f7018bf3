"""Kinds of numbers that configurations hold, and the check of a value against the annotation of its field."""

from __future__ import annotations

import types
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin


class Range(NamedTuple):
    """The smallest and largest value a number in a configuration may have, both included."""

    low: float
    high: float


Size = Annotated[int, Range(1, 2**31 - 1)]
"""A count of things that a model is built of: at least one."""
Count = Annotated[int, Range(0, 2**31 - 1)]
"""A count that may be zero."""
Rate = Annotated[float, Range(0.0, 1.0)]
"""A probability, such as a dropout rate."""
Positive = Annotated[float, Range(0.0, float("inf"))]
"""A number that is not negative."""

SWITCH = {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}
"""Words that stand for yes and no."""


def mismatch(value: Any, hint: Any) -> str | None:
    """`None` when `value` fits the annotation, else what was wanted in words."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        low, high = args[1]
        wanted = mismatch(value, args[0])
        return wanted or (None if low <= value <= high else f"a number from {low:g} to {high:g}")
    if origin in (Union, types.UnionType):
        reasons = [mismatch(value, option) for option in args]
        return None if None in reasons else " or ".join(str(reason) for reason in reasons)
    if origin is Literal:
        return None if value in args else "one of " + ", ".join(repr(option) for option in args)
    if origin is list:
        fits = isinstance(value, list) and all(mismatch(item, args[0]) is None for item in value)
        return None if fits else f"a list of {_name(args[0])}"
    if origin is dict:
        fits = isinstance(value, dict) and all(
            mismatch(key, args[0]) is None and mismatch(item, args[1]) is None for key, item in value.items()
        )
        return None if fits else f"a dictionary from {_name(args[0])} to {_name(args[1])}"
    if hint is Any:
        return None
    if hint is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value
    elif hint is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    elif hint is types.NoneType or hint is None:
        return None if value is None else "null"
    else:
        fits = isinstance(value, hint)
    return None if fits else _name(hint)


def _name(hint: Any) -> str:
    names = {int: "a whole number", float: "a number", str: "a text", bool: "true or false", dict: "a dictionary"}
    return names.get(hint, str(hint))
