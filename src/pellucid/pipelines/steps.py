"""The three steps of a pipeline for one text, as an object and as text for a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict
from unicodedata import combining, east_asian_width

if TYPE_CHECKING:
    from torch import Tensor

WIDTH = 80
SHOWN_LINES = 4  # of tokens
SHOWN_NUMBERS = 10


class Described(TypedDict):
    """What a task says about its second and third step; fields as in `Steps`."""

    shapes: str
    outputs: list[tuple[str, list[float]]]
    function: str
    scores: list[tuple[str, list[float]]]


class Explained(NamedTuple):
    """Which number of a task `explain` takes apart, and what it is made of.

    Attributes:
        name: what the number is called, such as `"logit of POSITIVE"`.
        number: what the pipeline's `differentiable` gives for those parts, one after another → the number `[]`.
        parts: places of the parts, such as windows of a long text, that it is made of.
        texts: what the tokenizer was given for each of those parts, a text or a pair; `None`: the row itself.
        spans: for each token of those parts the text it is from (0, 1, …), the first of its characters and the one
            behind its last, or `None` for markers; where it is not given, it is found by reading the texts again.
        options: the call's options, changed for this number.
    """

    name: str
    number: Callable[[Sequence[Any]], Tensor]
    parts: Sequence[int] = (0,)
    texts: Sequence[str | tuple[str, ...]] | None = None
    spans: Sequence[tuple[int, int, int] | None] | None = None
    options: Mapping[str, Any] = {}


@dataclass(frozen=True)
class Steps:
    """What happened between a text and its answer; `print` it to read it.

    Attributes:
        text: the text, or the pair.
        tokens: step one: the pieces that the tokenizer made of it.
        input_ids: their numbers in the vocabulary.
        model: step two: name of the model's class.
        shapes: what went through it, such as `"12 tokens × 384 numbers → 2 logits"`.
        outputs: names and numbers that came out: a logit for each label, or the beginning of each token's vector.
        function: step three: what was made of them, such as `"softmax"`.
        scores: names and numbers after that.
        answer: the pipeline's answer.
    """

    text: str | tuple[str, ...]
    tokens: list[str]
    input_ids: list[int]
    model: str
    shapes: str
    outputs: list[tuple[str, list[float]]]
    function: str
    scores: list[tuple[str, list[float]]]
    answer: Any

    def __str__(self) -> str:
        return "\n".join([*self.step_one(), *self.step_two(), *self.step_three()])

    def step_one(self) -> Iterator[str]:
        """Lines about the tokenizer."""
        yield from map(shorten, [self.text] if isinstance(self.text, str) else self.text)
        yield from ("", f"1  Tokenizer: text → {len(self.tokens)} tokens and their ids", "")
        yield from _token_lines(self.tokens, self.input_ids)

    def step_two(self) -> Iterator[str]:
        """Lines about the model."""
        yield from (*_wrapped(f"2  {self.model}: {self.shapes}"), "", *number_lines(self.outputs, bars=False), "")

    def step_three(self) -> Iterator[str]:
        """Lines about the postprocessing."""
        yield from (*_wrapped(f"3  {self.function}"), "")
        yield from number_lines(self.scores, bars=all(0 <= n <= 1 for _, row in self.scores for n in row))


def _wrapped(line: str) -> list[str]:
    return wrap(line, WIDTH, subsequent_indent="   ")


def _token_lines(tokens: Sequence[str], ids: Sequence[int]) -> Iterator[str]:
    """Pieces with their ids below, as many a line as fit."""
    upper, lower, used, shown = "  ", "  ", 2, 0
    for number, (token, token_id) in enumerate(zip(tokens, ids, strict=True)):
        token = token.replace("\n", "↵")
        token = token if columns(token) <= WIDTH - 4 else shorten(token, WIDTH - 4)
        width = max(columns(token), len(str(token_id)))
        if used + 1 + width > WIDTH:
            yield from (upper, lower, "")
            upper, lower, used, shown = "  ", "  ", 2, shown + 1
            if shown == SHOWN_LINES:
                yield from (f"   … and {len(tokens) - number} more", "")
                return
        upper += f" {token}{' ' * (width - columns(token))}"
        lower += f" {token_id:<{width}}"
        used += 1 + width
    yield from (upper, lower, "")


def number_lines(rows: Sequence[tuple[str, Sequence[float]]], bars: bool) -> Iterator[str]:
    """A name and its numbers on each line; numbers from 0 to 1 may have a bar."""
    names = [shorten(name, 30) for name, _ in rows[:SHOWN_NUMBERS]]
    width = max(map(columns, names), default=0)
    for name, (_, numbers) in zip(names, rows, strict=False):
        line = f"   {name}{' ' * (width - columns(name))}" + "".join(f" {number:9.4f}" for number in numbers)
        yield f"{line}  {'█' * round(30 * numbers[0])}".rstrip() if bars else line
    if len(rows) > SHOWN_NUMBERS:
        yield f"   … and {len(rows) - SHOWN_NUMBERS} more"


def shorten(text: str, width: int = WIDTH) -> str:
    """The text on one line of at most `width` columns."""
    text = " ".join(text.split())
    if columns(text) <= width:
        return text
    while columns(text) > width - 1:
        text = text[: max(width - 1, 1) if len(text) >= width else -1]
    return f"{text}…"


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)
