"""What a pipeline can be given, and in which shape its answers are given back.

| given | answers |
|---|---|
| a text, a pair, a dictionary | one |
| a list, a numpy array of texts | a list |
| a pandas or polars series | a series of the same kind, with the same name and index |
| a pandas or polars frame | the frame, with the answers in further columns |
| a generator, a data set or a column of one, a `pathlib.Path` of lines, anything else with many rows | a generator |

A generator gives its answers while the rows are read; everything else that has many rows is read window by window.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pellucid.errors import FileError, InputError
from pellucid.files import open_regular, parse_json, quoted

FIELDS = ("text", "text_pair")
KINDS = frozenset(
    {
        *("pandas.Series", "pandas.DataFrame", "polars.Series", "polars.DataFrame", "polars.LazyFrame"),
        *("numpy.ndarray", "datasets.Dataset", "datasets.IterableDataset"),
    }
)
"""Library and class of the tables that are known."""

Columns = Callable[[list[Any]], dict[str, list[Any]]]
"""Answers → columns of a table, by their names."""


class Rows(NamedTuple):
    """Rows to be answered.

    Attributes:
        rows: the rows; may be endless.
        total: number of rows, if known.
        single: the input was one row, so one answer is wanted and not a list.
        listed: the input was a list, so a list is wanted and not a generator.
        ready: all rows are there already, so that reading some of them early keeps no answer waiting.
        build: answers → what is given back for a series or a frame.
    """

    rows: Iterable[Any]
    total: int | None = None
    single: bool = False
    listed: bool = False
    ready: bool = False
    build: Callable[[list[Any], Columns], Any] | None = None

    @property
    def streamed(self) -> bool:
        """Whether answers are given one by one, as they are asked for."""
        return not (self.single or self.listed or self.build)

    def give(self, answers: Iterator[Any], columns: Columns) -> Any:
        """The answers in the shape that belongs to the input.

        Args:
            answers: one for each row.
            columns: how they become columns of a frame.
        """
        if self.streamed:
            return answers
        found = list(answers)
        if self.build is not None:
            return self.build(found, columns)
        return found[0] if self.single else found


def open_rows(inputs: Any, fields: Collection[str] = FIELDS) -> Rows:
    """See what kind of input this is; of a file or a stream, nothing is read yet.

    Args:
        inputs: a text, pair or dictionary (one row); a list; a `pathlib.Path` of a text or JSON lines file; a series,
            frame or array of pandas, polars or numpy; a data set; or anything else that can be iterated or indexed,
            such as a generator or a data set's column.
        fields: what is read of the objects in a JSON lines file, and of the columns of frames and data sets.

    Raises:
        InputError: for anything else.
        FileError: the file cannot be opened.
    """
    if isinstance(inputs, str | tuple | Mapping):
        return Rows([inputs], 1, single=True, ready=True)
    if isinstance(inputs, list):
        return Rows(inputs, len(inputs), listed=True, ready=True)
    if isinstance(inputs, Path):
        open_regular(inputs, follow=True).close()  # a wrong name is reported now, not at the first answer
        return Rows(read_lines(inputs, fields), ready=True)
    if (kind := kind_of(inputs)) is not None:
        from pellucid.pipelines.frames import open_table  # which builds on this file

        return open_table(inputs, kind, fields)
    total = len(inputs) if hasattr(inputs, "__len__") else None
    if total is not None and hasattr(inputs, "__getitem__") and not hasattr(inputs, "__iter__"):
        return Rows((inputs[number] for number in range(total)), total, ready=True)
    if isinstance(inputs, Iterable) and not isinstance(inputs, bytes | bytearray | memoryview):
        return Rows(inputs, total, ready=total is not None)
    raise InputError(
        f"inputs: got {quoted(inputs)}, wanted a text, a list or generator of texts, or a pathlib.Path of a file"
    )


def kind_of(inputs: Any) -> str | None:
    """Which of `KINDS` an object is, or is derived from; `None` for anything else. Nothing is imported for this."""
    names = (f"{base.__module__.partition('.')[0]}.{base.__name__}" for base in type(inputs).__mro__)
    return next((name for name in names if name in KINDS), None)


def read_lines(path: Path, fields: Collection[str] = FIELDS) -> Iterator[Any]:
    """The rows of a UTF-8 file, one a line, read as they are needed.

    Lines of a `.jsonl` or `.ndjson` file are texts or objects, usually with `text` and perhaps `text_pair`; other
    fields of an object are left aside. In every other file a line is a text, and an empty line an empty text.

    Raises:
        FileError: the file cannot be read, or a line is not UTF-8 or not JSON; the message names the line.
    """
    as_json = path.suffix.lower() in (".jsonl", ".ndjson")
    with open_regular(path, follow=True) as file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
                if not as_json:
                    yield text
                elif text.strip():
                    value = parse_json(text, f"{path}: line {number}")
                    if isinstance(value, dict):
                        value = {key: value[key] for key in fields if key in value}
                    yield value
            except UnicodeDecodeError as error:
                raise FileError(f"{path}: line {number}: byte {error.start} is not UTF-8; save it as UTF-8") from error
