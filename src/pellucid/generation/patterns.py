"""Regular expressions of Python, rewritten for an automaton that allows exactly what `re.fullmatch` accepts.

Python's own parser reads the pattern, and each of its nodes is written out again without anything that the two dialects
understand differently: the class of word characters becomes the ranges that Python counts, a literal its number. What
no automaton can follow (look-around, references back to a group, word boundaries) is refused by name.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable, Iterable
from functools import cache
from itertools import groupby
from typing import Any

from pellucid.errors import InputError
from pellucid.files import quoted

CATEGORIES: dict[str, Callable[[str], bool]] = {
    "DIGIT": str.isdecimal,
    "SPACE": str.isspace,
    "WORD": lambda character: character.isalnum() or character == "_",
}
REFUSED = {
    "ASSERT": "a look-ahead or look-behind",
    "ASSERT_NOT": "a look-ahead or look-behind",
    "GROUPREF": "a reference to a group",
    "GROUPREF_EXISTS": "a condition on a group",
    "ATOMIC_GROUP": "an atomic group",
    "POSSESSIVE_REPEAT": "a possessive repetition",
}
"""Nodes that no automaton can follow."""
STARTS = ("AT_BEGINNING", "AT_BEGINNING_STRING")
ENDS = ("AT_END", "AT_END_STRING")


def portable(pattern: str) -> str:
    """The same language in the dialect of Rust's `regex`, as far as both agree on; `InputError` for what has none."""
    if not isinstance(pattern, str):
        raise InputError(f"regex: got {quoted(pattern)}, wanted text")
    try:
        parsed = importlib.import_module("re._parser").parse(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise InputError(f"regex: got {quoted(pattern)}, wanted a regular expression of Python: {error}") from error
    return _Writer(pattern).sequence(parsed, parsed.state.flags, first=True, last=True)


def literal(text: str) -> str:
    """An expression for a text as it stands."""
    return "".join(_character(ord(character)) for character in text)


def _character(number: int) -> str:
    if 0xD800 <= number < 0xE000:
        raise InputError(f"regex: got half a character, \\u{number:04x}, wanted whole ones")
    return chr(number) if chr(number).isascii() and chr(number).isalnum() else f"\\x{{{number:X}}}"


class _Writer:
    """Writes the nodes of one pattern."""

    def __init__(self, pattern: str) -> None:
        self.pattern = pattern

    def refuse(self, what: str) -> InputError:
        return InputError(f"regex: got {quoted(self.pattern)}, wanted one without {what}")

    def sequence(self, nodes: Iterable[Any], flags: int, *, first: bool, last: bool) -> str:
        """Nodes one after the other; `first` and `last`: nothing stands before them, or behind."""
        listed = [(str(kind), value) for kind, value in nodes]
        while listed and listed[0][0] == "AT" and first and str(listed[0][1]) in STARTS:
            listed.pop(0)
        while listed and listed[-1][0] == "AT" and last and str(listed[-1][1]) in ENDS:
            listed.pop()
        end = len(listed) - 1
        return "".join(
            self.node(kind, value, flags, first=first and place == 0, last=last and place == end)
            for place, (kind, value) in enumerate(listed)
        )

    def node(self, kind: str, value: Any, flags: int, *, first: bool, last: bool) -> str:
        """One node."""
        match kind:
            case "LITERAL":
                return self.folded(_character(value), flags)
            case "NOT_LITERAL":
                return self.folded(f"[^{_character(value)}]", flags)
            case "ANY":
                return "(?s:.)" if flags & re.DOTALL else "[^\\x{A}]"
            case "IN":
                return self.folded(self.characters(value, flags), flags)
            case "BRANCH":
                branches = [self.sequence(branch, flags, first=first, last=last) for branch in value[1]]
                return f"(?:{'|'.join(branches)})"
            case "SUBPATTERN":
                _, added, removed, nodes = value
                return f"(?:{self.sequence(nodes, (flags | added) & ~removed, first=first, last=last)})"
            case "MAX_REPEAT" | "MIN_REPEAT":
                least, most, nodes = value
                once = (least, most) == (1, 1)
                inner = self.sequence(nodes, flags, first=first and once, last=last and once)
                most = "" if str(most) == "MAXREPEAT" else int(most)
                return f"(?:{inner}){{{least},{most}}}"
            case "AT" if str(value) in (*STARTS, *ENDS):
                raise self.refuse("^ and $ but in front and at the end; the whole text has to match anyway")
            case "AT":
                raise self.refuse("a word boundary")
        raise self.refuse(REFUSED.get(kind, f"a node {kind}"))

    def characters(self, items: Iterable[Any], flags: int) -> str:
        """A set of characters."""
        negated, written = "", ""
        for kind, value in items:
            match str(kind):
                case "NEGATE":
                    negated = "^"
                case "LITERAL":
                    written += _character(value)
                case "RANGE":
                    written += f"{_character(value[0])}-{_character(value[1])}"
                case "CATEGORY":
                    name = str(value).removeprefix("CATEGORY_")
                    inverted = "^" if name.startswith("NOT_") else ""
                    ranges = _category(name.removeprefix("NOT_"), bool(flags & re.ASCII))
                    written += f"[{inverted}{ranges}]"
        return f"[{negated}{written}]"

    def folded(self, written: str, flags: int) -> str:
        """Letters of both cases where the pattern says so."""
        return f"(?i:{written})" if flags & re.IGNORECASE else written


@cache
def _category(name: str, ascii_only: bool) -> str:
    """The characters that Python counts to a category, as ranges."""
    belongs = CATEGORIES[name]
    space_only = "\t\n\v\f\r "  # in ASCII, the separators 0x1c to 0x1f are no white space
    ranges = []
    for inside, run in groupby(range(0x80 if ascii_only else 0x110000), key=lambda number: belongs(chr(number))):
        numbers = list(run)
        if inside:
            ranges.append(f"{_character(numbers[0])}-{_character(numbers[-1])}")
    return literal(space_only) if ascii_only and name == "SPACE" else "".join(ranges)
