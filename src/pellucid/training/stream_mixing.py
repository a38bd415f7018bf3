"""Rows of several streams in turn, or drawn with weights."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, Literal

from pellucid.errors import InputError
from pellucid.training.metric_base import one_of
from pellucid.training.stream_parts import END, Marked, Part, Place, Reader, drawn, key_of

StoppingStrategy = Literal["first_exhausted", "all_exhausted", "all_exhausted_without_replacement"]
STRATEGIES = ("first_exhausted", "all_exhausted", "all_exhausted_without_replacement")


@dataclass(frozen=True)
class Interleaved(Part):
    """Rows of several parts; the arguments are those of `interleave_rows`, checked."""

    parts: tuple[Part, ...]
    probabilities: tuple[float, ...] | None
    seed: int
    stopping_strategy: StoppingStrategy

    def names(self) -> list[str]:
        """Those of all parts, and how they are mixed."""
        how = f"probabilities={list(self.probabilities)}, seed={self.seed}, " if self.probabilities else ""
        mixed = " + ".join(" > ".join(part.names()) for part in self.parts)
        return [f"interleave({mixed}, {how}{self.stopping_strategy})"]

    def shuffled(self, seed: int) -> Part:
        """The same with the files of every part in random order."""
        return replace(self, parts=tuple(part.shuffled(seed) for part in self.parts))

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The mixed rows."""
        return _MixingReader(self, epoch, place)


class _Coming:
    """The rows of one part and, read ahead, the next one: so that its last row is known to be the last."""

    def __init__(self, part: Part, epoch: int, place: Place) -> None:
        self.rows = Marked(part, epoch, place)
        self.number = self.rows.number
        self.next = next(self.rows, END)

    def take(self) -> Any:
        row, self.number = self.next, self.rows.number
        self.rows.forget(self.number)
        self.next = next(self.rows, END)
        return row

    def place(self) -> Place:
        return self.rows.place_of(self.number)


class _MixingReader(Reader):
    """A place is how often a part was drawn, the places of all parts, and whether each was once at its end."""

    count: int

    def __init__(self, part: Interleaved, epoch: int, place: Place) -> None:
        self.part, self.epoch = part, epoch
        self.count, places, ended = place or (0, [None] * len(part.parts), [False] * len(part.parts))
        self.ended = list(ended)
        self.key = key_of(part.seed, epoch, "parts")
        self.limits = list(accumulate(part.probabilities or ()))[:-1]
        self.once = part.stopping_strategy == "all_exhausted_without_replacement"
        self.stops = any if part.stopping_strategy == "first_exhausted" else all
        self.coming = [_Coming(one, epoch, start) for one, start in zip(part.parts, places, strict=True)]
        self.place_size = sum(one.rows.rows.place_size for one in self.coming)
        for number, ended in enumerate(self.ended):
            if not ended:
                self._refuse_empty(number)

    def _refuse_empty(self, number: int) -> None:
        if self.coming[number].next is END:
            again = ", begun again," if self.ended[number] else ""
            raise InputError(f"interleave_rows: stream {number}{again} has no rows, wanted at least one")

    def __next__(self) -> Any:
        if self.stops(self.ended):
            raise StopIteration
        chosen = self._draw()
        while self.once and self.ended[chosen]:
            chosen = self._draw()
        row = self.coming[chosen].take()
        if self.coming[chosen].next is END:
            self.ended[chosen] = True
            if not self.once and not self.stops(self.ended):
                self.coming[chosen] = _Coming(self.part.parts[chosen], self.epoch, None)
                self._refuse_empty(chosen)
        return row

    def _draw(self) -> int:
        """Which part is next."""
        number = self.count
        self.count += 1
        if self.part.probabilities is None:
            return number % len(self.coming)
        return bisect_right(self.limits, drawn(self.key, number) / 2**64)

    def close(self) -> None:
        for one in self.coming:
            one.rows.close()

    def place(self) -> Place:
        return [self.count, [one.place() for one in self.coming], list(self.ended)]


def interleaved(
    parts: Sequence[Part], probabilities: Sequence[float] | None, seed: int, stopping_strategy: str
) -> Interleaved:
    """The parts, mixed; arguments as in `interleave_rows`.

    Raises:
        InputError: arguments that do not fit.
    """
    if not parts:
        raise InputError("datasets: got an empty list, wanted at least one stream")
    one_of(stopping_strategy, STRATEGIES, "stopping_strategy")
    if probabilities is not None:
        if len(probabilities) != len(parts):
            raise InputError(f"probabilities: got {len(probabilities)} for {len(parts)} streams, wanted one each")
        if not all(chance > 0 for chance in probabilities) or abs(sum(probabilities) - 1) > 1e-6:
            raise InputError(f"probabilities: got {list(probabilities)}, wanted numbers above 0 whose sum is 1")
        probabilities = tuple(map(float, probabilities))
    return Interleaved(tuple(parts), probabilities, seed, stopping_strategy)  # type: ignore[arg-type]  # checked above
