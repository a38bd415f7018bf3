"""What is done to the rows of a stream: mapped, filtered, cut, shared out, shuffled.

Each step is a few settings and a reader, which reads the step before it row by row; `stream_parts.py` says how.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.training.rows import Row
from pellucid.training.stream_parts import END, Marked, Part, Place, Reader, Step, below, key_of

# ---------------------------------------------------------------------- functions of the user


@dataclass(frozen=True)
class Calling(Step):
    """A step that calls a function of the user."""

    function: Callable[..., Any]
    with_indices: bool
    fn_kwargs: Mapping[str, Any]

    @property
    def verb(self) -> str:
        """The method of the stream that made the step."""
        return self.name().partition("(")[0]

    def call(self, given: Any, indices: Any, where: str) -> Any:
        """What the function makes of a row or of columns; errors in it say which row they are about."""
        try:
            return self.function(given, *([indices] if self.with_indices else []), **self.fn_kwargs)
        except StopIteration as error:  # which would end the stream as if there were no more rows
            raise InputError(f"{self.verb}: {where}: the function raised StopIteration; catch it there") from error
        except Exception as error:
            error.add_note(f"{self.verb}: {where} of the epoch, counted from 0")
            raise


@dataclass(frozen=True)
class Mapped(Calling):
    """Rows changed by a function, one by one."""

    remove_columns: tuple[str, ...]

    def name(self) -> str:
        """What is done."""
        return "map"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The changed rows."""
        return _MappingReader(self, epoch, place)

    def kept(self, row: Row, number: int) -> Row:
        """A row without the columns that are to be removed; the first row tells whether they have right names."""
        if number == 0 and (missing := [name for name in self.remove_columns if name not in row]):
            near = did_you_mean(missing[0], row) or f"; it has {', '.join(map(repr, row))}"
            raise InputError(f"remove_columns: row 0 has no column {missing[0]!r}{near}")
        return {name: value for name, value in row.items() if name not in self.remove_columns}

    def applied(self, row: Row, number: int) -> Row:
        """A row as the function changes it."""
        where = f"row {number}"
        made = self.call(dict(row), number, where)
        if not isinstance(made, Mapping):
            raise InputError(f"map: {where}: the function returned {_shown(made)}, wanted a dictionary of columns")
        return {**self.kept(row, number), **made}


def _shown(value: object) -> str:
    return "None (is a return missing?)" if value is None else f"{quoted(value)} ({type(value).__name__})"


class _MappingReader(Reader):
    number: int

    def __init__(self, step: Mapped, epoch: int, place: Place) -> None:
        start, self.number = place or (None, 0)
        self.step, self.rows = step, step.before.read(epoch, start)
        self.place_size = self.rows.place_size

    def __next__(self) -> Any:
        row = next(self.rows)
        self.number += 1
        return self.step.applied(row, self.number - 1)

    def place(self) -> Place:
        return [self.rows.place(), self.number]

    def leave_out(self, count: int) -> int:
        done: int = self.rows.leave_out(count)  # a row makes a row, so the function need not be called
        self.number += done
        return done


@dataclass(frozen=True)
class MappedBatches(Mapped):
    """Rows changed by a function of columns, many at a time; it may return any number of rows."""

    batch_size: int

    def name(self) -> str:
        """What is done."""
        return f"map(batch_size={self.batch_size})"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The changed rows."""
        return _BatchReader(self, epoch, place)

    def made_of(self, rows: list[Row], first: int) -> list[Row]:
        """The rows that the function makes of some rows, of which the first has this number."""
        where = f"rows {first} to {first + len(rows) - 1}"
        names = list(dict.fromkeys(name for row in rows for name in row))
        columns = {name: [row.get(name) for row in rows] for name in names}
        made = self.call(columns, list(range(first, first + len(rows))), where)
        if not isinstance(made, Mapping):
            raise InputError(f"map: {where}: the function returned {_shown(made)}, wanted a dictionary of lists")
        lengths = {}
        for name, values in made.items():
            if (
                isinstance(values, str | Mapping)
                or not hasattr(values, "__len__")
                or not hasattr(values, "__getitem__")
            ):
                raise InputError(f"map: {where}: got {_shown(values)} in {name!r}, wanted a list with a value a row")
            lengths[name] = len(values)
        if len(set(lengths.values())) > 1:
            raise InputError(
                f"map: {where}: got columns of different lengths, {lengths}, wanted as many values in each"
            )
        kept = [self.kept(row, first + number) for number, row in enumerate(rows)]
        count = next(iter(lengths.values()), len(rows))
        if count == len(rows):
            return [
                {**row, **{name: values[number] for name, values in made.items()}} for number, row in enumerate(kept)
            ]
        if left := [name for name in names if name not in made and name not in self.remove_columns]:
            raise InputError(
                f"map: {where}: the function returned {count} rows for {len(rows)}, and the columns {left} have no "
                f"values for them; name them in remove_columns"
            )
        return [{name: values[number] for name, values in made.items()} for number in range(count)]


class _BatchReader(Reader):
    """A place is the one of the batch's first row, how many rows of what was made of it are given, and its number."""

    number: int

    def __init__(self, step: MappedBatches, epoch: int, place: Place) -> None:
        start, given, self.number = place or (None, 0, 0)
        self.step, self.rows = step, Marked(step.before, epoch, start)
        self.place_size = self.rows.rows.place_size
        self.first, self.read = self.rows.number, 0
        self.made: list[Row] = []
        self.given = 0
        if given:
            self._make()
            self.given = given

    def _make(self) -> bool:
        """Make the next batch; false if there are no more rows."""
        self.number += self.read
        self.first = self.rows.number
        self.rows.forget(self.first)
        batch = list(islice(self.rows, self.step.batch_size))
        self.given, self.read = 0, len(batch)
        self.made = self.step.made_of(batch, self.number) if batch else []
        return bool(batch)

    def __next__(self) -> Any:
        while self.given >= len(self.made):
            if not self._make():
                raise StopIteration
        self.given += 1
        return self.made[self.given - 1]

    def place(self) -> Place:
        if self.given >= len(self.made):
            return [self.rows.place_of(self.rows.number), 0, self.number + self.read]
        return [self.rows.place_of(self.first), self.given, self.number]


@dataclass(frozen=True)
class Filtered(Calling):
    """Those rows for which a function says yes."""

    def name(self) -> str:
        """What is done."""
        return "filter"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The rows that are kept."""
        return _FilteringReader(self, epoch, place)


class _FilteringReader(Reader):
    number: int

    def __init__(self, step: Filtered, epoch: int, place: Place) -> None:
        start, self.number = place or (None, 0)
        self.step, self.rows = step, step.before.read(epoch, start)
        self.place_size = self.rows.place_size

    def __next__(self) -> Any:
        while True:
            row = next(self.rows)
            self.number += 1
            where = f"row {self.number - 1}"
            is_kept = self.step.call(row, self.number - 1, where)
            if is_kept is None:
                raise InputError(f"filter: {where}: the function returned None, wanted True or False")
            if is_kept:
                return row

    def place(self) -> Place:
        return [self.rows.place(), self.number]


# ---------------------------------------------------------------------- fewer rows


@dataclass(frozen=True)
class Slice(Step):
    """The rows from one number to another; their files keep their order, so that they stay the same."""

    start: int
    stop: int | None

    def name(self) -> str:
        """What is done."""
        return f"skip({self.start})" if self.stop is None else f"take({self.stop})"

    def shuffled(self, seed: int) -> Part:
        """Itself."""
        return self

    def read(self, epoch: int, place: Place = None) -> Reader:
        """Those rows."""
        return _SlicingReader(self, epoch, place)


class _SlicingReader(Reader):
    given: int

    def __init__(self, step: Slice, epoch: int, place: Place) -> None:
        start, self.given = place or (None, 0)
        self.rows = step.before.read(epoch, start)
        self.place_size = self.rows.place_size
        self.left = None if step.stop is None else step.stop - self.given
        if place is None:
            self.rows.leave_out(step.start)

    def __next__(self) -> Any:
        if self.left == 0:
            raise StopIteration
        row = next(self.rows)
        self._count(1)
        return row

    def _count(self, rows: int) -> None:
        self.given += rows
        if self.left is not None:
            self.left -= rows

    def place(self) -> Place:
        return [self.rows.place(), self.given]

    def leave_out(self, count: int) -> int:
        done: int = self.rows.leave_out(count if self.left is None else min(count, self.left))
        self._count(done)
        return done


@dataclass(frozen=True)
class Share(Step):
    """Every so many-th row, from one of the first on."""

    num_shards: int
    index: int

    def name(self) -> str:
        """What is done."""
        return f"shard(num_shards={self.num_shards}, index={self.index})"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """Those rows."""
        return _SharingReader(self, epoch, place)


class _SharingReader(Reader):
    to_go: int

    def __init__(self, step: Share, epoch: int, place: Place) -> None:
        start, self.to_go = place or (None, step.index)  # rows of others before the next own one
        self.step, self.rows = step, step.before.read(epoch, start)
        self.place_size = self.rows.place_size

    def __next__(self) -> Any:
        self.rows.leave_out(self.to_go)
        row = next(self.rows)
        self.to_go = self.step.num_shards - 1
        return row

    def place(self) -> Place:
        return [self.rows.place(), self.to_go]


# ---------------------------------------------------------------------- another order


@dataclass(frozen=True)
class Shuffled(Step):
    """Rows through a buffer: it is kept full, and the next row is drawn from all that are in it."""

    seed: int
    buffer_size: int

    def name(self) -> str:
        """What is done."""
        return f"shuffle(seed={self.seed}, buffer_size={self.buffer_size})"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The rows in another order."""
        return _ShufflingReader(self, epoch, place)


class _ShufflingReader(Reader):
    """A place is: rows given, the place of the oldest row in the buffer, how many were read since, which are held."""

    given: int

    def __init__(self, step: Shuffled, epoch: int, place: Place) -> None:
        self.given, start, read, held = place or (0, None, 0, [])
        self.size = step.buffer_size
        self.key = key_of(step.seed, epoch, f"rows {len(step.names())}")  # so that two in one stream draw differently
        self.rows = Marked(step.before, epoch, start)
        self.place_size = self.size + self.rows.rows.place_size
        self.held: list[Any] = []
        self.numbers: list[int] = []
        self.is_read = False
        self._take_up(read, held)

    def _take_up(self, read: int, held: list[int]) -> None:
        """Fill the buffer with the rows that it held."""
        first, found = self.rows.number, {}
        for number in sorted(held):
            self.rows.leave_out(first + number - self.rows.number)
            found[number] = next(self.rows, END)
        self.rows.leave_out(first + read - self.rows.number)
        if END in found.values():
            raise InputError("state: the data has fewer rows than when it was taken; give the same files")
        self.held, self.numbers = [found[number] for number in held], [first + number for number in held]

    def __next__(self) -> Any:
        while not self.is_read and len(self.held) < self.size:
            row = next(self.rows, END)
            if row is END:
                self.is_read = True
            else:
                self.held.append(row)
                self.numbers.append(self.rows.number - 1)
        if not self.held:
            raise StopIteration
        at = below(self.key, self.given, len(self.held))
        self.given += 1
        for column in (self.held, self.numbers):
            column[at], column[-1] = column[-1], column[at]
        self.numbers.pop()
        if self.given % self.size == 0:
            self.rows.forget(self._oldest())
        return self.held.pop()

    def _oldest(self) -> int:
        return min(self.numbers, default=self.rows.number)

    def place(self) -> Place:
        oldest = self._oldest()
        held = [number - oldest for number in self.numbers]
        return [self.given, self.rows.place_of(oldest), self.rows.number - oldest, held]
