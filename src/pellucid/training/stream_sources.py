"""Where the rows of a stream come from: files, a function that makes an iterator, or a data set of another library."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from pellucid.errors import FileError, InputError
from pellucid.files import StrPath, open_regular, quoted
from pellucid.pipelines.datafiles import columns_of, count_rows, kind_of, open_rows_file
from pellucid.training.rows import Row
from pellucid.training.stream_parts import END, Part, Place, Reader, below, key_of

DataFiles = StrPath | Sequence[StrPath]
"""A file, a pattern such as `data/*.jsonl.gz`, or several of them."""
TEXT_COLUMN = "text"
"""The column that a line of text is, and a line of JSON lines that holds a text."""


# ---------------------------------------------------------------------- files


@dataclass(frozen=True)
class Files(Part):
    """Rows of files, one file after another.

    Args:
        files: the files.
        size: their bytes in all.
        columns: names of the columns of the first one; none if it has no rows.
        seed: shuffles the files of each epoch; `None` keeps their order.
    """

    files: tuple[Path, ...]
    size: int
    columns: tuple[str, ...]
    seed: int | None = None

    def names(self) -> list[str]:
        """How many files there are, and their size."""
        order = "" if self.seed is None else f", shuffled(seed={self.seed})"
        return [f"files({len(self.files)} of {self.size:,} bytes{order})"]

    def shuffled(self, seed: int) -> Part:
        """The same in random order."""
        return replace(self, seed=seed)

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The rows of the files."""
        order = list(self.files)
        if self.seed is not None:
            key = key_of(self.seed, epoch, "files")
            for last in range(len(order) - 1, 0, -1):  # Fisher and Yates
                other = below(key, last, last + 1)
                order[last], order[other] = order[other], order[last]
        return _FileReader(self, order, place)

    def check(self, path: Path, row: Row) -> None:
        """Refuse a file whose first row has other columns than the first file; JSON lines may leave some out."""
        if not self.columns:
            return
        if row.keys().isdisjoint(self.columns) if kind_of(path) == "jsonl" else row.keys() != set(self.columns):
            raise FileError(
                f"{path}: got the columns {', '.join(map(repr, row))}, wanted {', '.join(map(repr, self.columns))} as "
                f"in {self.files[0]}; make them the same, or read each kind as a stream of its own"
            )


class _FileReader(Reader):
    """A place is the number of a file in this epoch's order, and of the next row in it."""

    file: int
    row: int

    def __init__(self, source: Files, order: list[Path], place: Place) -> None:
        self.source, self.order = source, order
        self.file, self.row = place or (0, 0)
        self.is_empty = place is None

    def __next__(self) -> Any:
        while self.file < len(self.order):
            path = self.order[self.file]
            if self.rows is None:
                self.rows = open_rows_file(path, skip=self.row)
            row = next(self.rows, END)
            if row is END:
                self.file, self.row, self.rows = self.file + 1, 0, None
                continue
            if not isinstance(row, dict):
                row = {TEXT_COLUMN: row}
            if self.row == 0:
                self.source.check(path, row)
            self.row += 1
            self.is_empty = False
            return row
        if self.is_empty:
            raise FileError(f"{self.source.files[0]}: no rows in {_counted(len(self.order))}, wanted at least one")
        raise StopIteration

    def place(self) -> Place:
        return [self.file, self.row]

    def leave_out(self, count: int) -> int:
        done = 0
        while done < count and self.rows is None and self.file < len(self.order):
            path = self.order[self.file]
            if kind_of(path) != "parquet":
                break
            rows = count_rows(path) - self.row  # which such a file says of itself
            if rows > count - done:
                self.row += count - done
                self.is_empty = False
                return count
            done, self.file, self.row = done + rows, self.file + 1, 0
            self.is_empty = self.is_empty and not rows
        return done + super().leave_out(count - done)


def _counted(files: int) -> str:
    return "this file" if files == 1 else f"{files} files"


def files_of(data_files: DataFiles) -> Files:
    """The files that are meant, in the order of the list, those of a pattern by name.

    Raises:
        InputError: something that is no file name, an ending that is not known, or a file named twice.
        FileError: a pattern that matches nothing, a file that cannot be opened, is empty, or has other columns.
    """
    given = [data_files] if isinstance(data_files, str | os.PathLike) else data_files
    if not isinstance(given, Sequence) or not all(isinstance(one, str | os.PathLike) for one in given):
        raise InputError(f"data_files: got {quoted(data_files)}, wanted a file name, a pattern, or a list of such")
    files = [path for one in given for path in _matching(os.fspath(one))]
    if not files:
        raise InputError("data_files: got an empty list, wanted at least one file")
    if twice := next((path for path in files if files.count(path) > 1), None) if len(set(files)) < len(files) else None:
        raise InputError(f"data_files: {twice} is named twice; name it once, or use interleave_rows for more of it")
    size = 0
    for path in files:
        kind_of(path)
        with open_regular(path, follow=True) as file:
            size += (found := os.fstat(file.fileno()).st_size)
        if not found:
            raise FileError(f"{path}: the file is empty, wanted rows; take it out of data_files, or fetch it again")
    return Files(tuple(files), size, _columns(files[0]))


def _matching(name: str) -> list[Path]:
    """The files that a name or a pattern means."""
    path = Path(name)
    if not glob.has_magic(name) or path.exists():
        if path.is_dir():
            raise InputError(f"data_files: {name} is a folder, wanted files; name them, as in {path / '*.jsonl'}")
        return [path]
    found = sorted(Path(match) for match in glob.glob(name, recursive=True))  # noqa: PTH207  # with ** as in a shell
    if files := [path for path in found if path.is_file()]:
        return files
    raise FileError(f"{name}: no file matches this pattern in {Path.cwd()}; look for a misspelt folder or ending")


def _columns(path: Path) -> tuple[str, ...]:
    """The columns of a file as it says them, or those of its first row."""
    found = columns_of(path)
    if found is None:
        row = next(open_rows_file(path), None)
        found = [TEXT_COLUMN] if isinstance(row, str) else list(row or ())
    return tuple(found)


# ---------------------------------------------------------------------- iterators


@dataclass(frozen=True)
class Iterated(Part):
    """Rows of something that can be iterated over: a data set of another library, a list, an iterator."""

    dataset: Iterable[Any]

    def names(self) -> list[str]:
        """Its class."""
        return [type(self.dataset).__name__]

    def read(self, epoch: int, place: Place = None) -> Reader:
        """Its rows; what has epochs is told which one it is.

        Raises:
            InputError: it is an iterator, whose rows are gone after the first epoch.
        """
        if hasattr(self.dataset, "set_epoch"):
            self.dataset.set_epoch(epoch)
        rows = iter(self.dataset)
        if rows is self.dataset and epoch > 0:
            raise InputError(
                f"train_dataset: got a {type(rows).__name__}, which can be read once, for epoch {epoch}; give "
                "RowStream.from_generator(function) with the function that makes it, or fewer steps"
            )
        return _IteratorReader(rows, place)


@dataclass(frozen=True)
class Generated(Part):
    """Rows of an iterator that a function makes for each epoch."""

    function: Callable[..., Iterable[Any]]
    gen_kwargs: Mapping[str, Any]

    def names(self) -> list[str]:
        """That it is one."""
        return ["generator"]

    def read(self, epoch: int, place: Place = None) -> Reader:
        """Its rows."""
        rows = self.function(**self.gen_kwargs)
        if not isinstance(rows, Iterable):
            raise InputError(f"from_generator: the function returned {quoted(rows)}, wanted an iterator of rows")
        return _IteratorReader(_checked(rows), place)


def _checked(rows: Iterable[Any]) -> Iterator[Row]:
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):
            raise InputError(
                f"from_generator: row {number}: got {quoted(row)} ({type(row).__name__}), wanted columns by name"
            )
        yield dict(row)


class _IteratorReader(Reader):
    """A place is how many rows were given: they are read again to go on behind them."""

    def __init__(self, rows: Iterator[Any], place: Place) -> None:
        self.rows, self.number = rows, place or 0
        if sum(1 for _ in islice(rows, self.number)) < self.number:
            raise InputError(
                f"state: the data has fewer than the {self.number} rows that were read; give the same data"
            )

    def __next__(self) -> Any:
        row = next(self.rows)
        self.number += 1
        return row

    def place(self) -> Place:
        return self.number
