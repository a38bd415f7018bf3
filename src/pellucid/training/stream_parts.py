"""What a stream of rows is made of: parts that read one another, each of which can say where it stands.

    part.read(epoch)          → a reader of the rows of that epoch
    next(reader)              → the next row
    reader.place()            → where it stands, in whole numbers and lists, as JSON has them
    part.read(epoch, place)   → a reader of the rows that come after

Rows are read when they are asked for. Every random number is the hash of a key and of how many were drawn before it, so
that an order follows from seed and epoch alone, and a place need not hold a generator.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from dataclasses import dataclass, replace
from hashlib import sha256
from itertools import islice
from typing import Any, Self

Place = Any
"""Where a reader stands: `None` at the beginning, else lists of whole numbers and places."""
END = object()
"""What stands for the row after the last one."""
MARK_ROWS = 1000
"""After so many rows a place is kept to go back to."""
BITS = 2**64 - 1


# ---------------------------------------------------------------------- random numbers


def key_of(seed: int, epoch: int, use: str) -> int:
    """The key of the random numbers for one use in one epoch, of 64 bits."""
    return int.from_bytes(sha256(f"{seed} {epoch} {use}".encode()).digest()[:8], "big")


def drawn(key: int, number: int) -> int:
    """The random number of 64 bits with that number, from 0: SplitMix64 (Steele, Lea and Flood, 2014)."""
    mixed = (key + (number + 1) * 0x9E3779B97F4A7C15) & BITS
    mixed = ((mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9) & BITS
    mixed = ((mixed ^ (mixed >> 27)) * 0x94D049BB133111EB) & BITS
    return mixed ^ (mixed >> 31)


def below(key: int, number: int, count: int) -> int:
    """The random number with that number, from 0 and below `count`."""
    return (drawn(key, number) * count) >> 64


# ---------------------------------------------------------------------- readers


class Reader(ABC):
    """The rows of one epoch from some place on."""

    place_size = 1
    """About how many numbers `place` gives: asking for large ones is left until it is worth while."""
    rows: Any = None
    """What is read."""

    def __iter__(self) -> Self:
        return self

    @abstractmethod
    def __next__(self) -> Any:
        """The next row."""

    @abstractmethod
    def place(self) -> Place:
        """Where the row after the last one given is read from."""

    def leave_out(self, count: int) -> int:
        """Go past `count` rows; returns how many there were."""
        return sum(1 for _ in islice(self, count))

    def close(self) -> None:
        """Close what is open, which an error would else keep open as long as it is looked at."""
        if hasattr(self.rows, "close"):
            self.rows.close()


class Part(ABC):
    """A source of rows, or what is done to the rows of another part."""

    @abstractmethod
    def read(self, epoch: int, place: Place = None) -> Reader:
        """The rows of an epoch, from its beginning or from a place."""

    @abstractmethod
    def names(self) -> list[str]:
        """What the stream is made of up to here, by which a place of another stream is told."""

    def shuffled(self, seed: int) -> Part:
        """The same with its files in random order, where there are files and their order is free."""
        return self


@dataclass(frozen=True)
class Step(Part):
    """Something done to the rows of the part before it."""

    before: Part

    def names(self) -> list[str]:
        """Those of the part before, and its own."""
        return [*self.before.names(), self.name()]

    @abstractmethod
    def name(self) -> str:
        """What is done."""

    def shuffled(self, seed: int) -> Part:
        """The same on shuffled files."""
        return replace(self, before=self.before.shuffled(seed))


class Marked:
    """Rows of a part, with places to go back to: of every row not yet forgotten, also of those given already.

    Rows are counted from an arbitrary number on.

    Args:
        part: what is read.
        epoch: which epoch.
        place: what `place_of` gave.
    """

    def __init__(self, part: Part, epoch: int, place: Place) -> None:
        start, left_out = place or (None, 0)
        self.rows = part.read(epoch, start)
        self.number = 0
        self.every = max(MARK_ROWS, self.rows.place_size)
        self.marks = deque([(0, start)])
        self.leave_out(left_out)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        if self.number >= self.marks[-1][0] + self.every:
            self.marks.append((self.number, self.rows.place()))
        row = next(self.rows)
        self.number += 1
        return row

    def leave_out(self, count: int) -> None:
        """Go past `count` rows."""
        self.number += self.rows.leave_out(count)

    def close(self) -> None:
        """Close what is open."""
        self.rows.close()

    def forget(self, number: int) -> None:
        """Forget what is only needed to go back to rows before this one."""
        while len(self.marks) > 1 and self.marks[1][0] <= number:
            self.marks.popleft()

    def place_of(self, number: int) -> Place:
        """The place from which the row with this number comes next; rows before it are forgotten."""
        self.forget(number)
        start, place = self.marks[0]
        return [place, number - start]
