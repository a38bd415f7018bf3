"""The texts a command is given: as arguments, one a line on standard input, or in a file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from pellucid.cli.arguments import UsageError
from pellucid.cli.terminal import is_terminal
from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import parse_json

LISTS = ("documents", "sentences", "choices")
"""Fields that hold several texts; a cell of a CSV file holds them as a JSON list."""


class Columns:
    """Which columns of a file hold what a task reads.

    Args:
        fields: names of what the task reads.
        chosen: words of the command line: the column of the text, or `FIELD=COLUMN`.
        fixed: what every row is given beside its own.

    Raises:
        UsageError: a field that the task does not read.
    """

    def __init__(
        self, fields: Sequence[str], chosen: Sequence[str] = (), fixed: Mapping[str, Any] | None = None
    ) -> None:
        self.fields, self.fixed = tuple(fields), dict(fixed or {})
        self.main = next((name for name in ("text", "context") if name in fields), fields[0])
        self.names = {field: field for field in fields}
        for words in chosen:
            field, equals, column = words.partition("=")
            if not equals:
                field, column = self.main, words
            if field not in fields:
                near = did_you_mean(field, fields) or f"; it reads {', '.join(fields)}"
                raise UsageError(f"--column: the task reads no {field!r}{near}")
            self.names[field] = column

    def check(self, file: Path) -> None:
        """Raise `UsageError` when the columns that were chosen, or any that the task reads, are not in a file."""
        from pellucid.pipelines.datafiles import columns_of, open_rows_file

        found: Collection[str] | None = columns_of(file)
        if found is None:
            row = next(open_rows_file(file, keep_errors=True), None)
            found = row.keys() if isinstance(row, Mapping) else None
        chosen = [column for field, column in self.names.items() if column != field]
        missing = [column for column in chosen if found is not None and column not in found]
        if found is None and chosen:
            raise UsageError(f"--column: {file} has texts and no columns")
        if missing or (found is not None and not set(self.names.values()) & set(found)):
            wanted = missing[0] if missing else self.names[self.main]
            near = did_you_mean(wanted, found or ()) or f"; its columns are {', '.join(map(repr, found or ()))}"
            cure = "" if missing else f" (say which column holds the {self.main}: --column NAME)"
            raise UsageError(f"--column: {file} has no column {wanted!r}{near}{cure}")

    def of(self, row: Any) -> Any:
        """A row of a file as a row of the task: a text, a pair, or a dictionary; an error stays as it is."""
        if isinstance(row, Mapping):
            found = {field: row[name] for field, name in self.names.items() if row.get(name) is not None}
            for field in LISTS:
                if isinstance(found.get(field), str) and found[field].lstrip().startswith("["):
                    with suppress(FileError):
                        found[field] = parse_json(found[field], field)
            if not found:
                wanted = " or ".join(map(repr, dict.fromkeys(self.names.values())))
                return InputError(f"got nothing in {wanted}, wanted a text there")
        elif isinstance(row, str):
            found = {self.main: row}
        else:
            return row
        found = {**self.fixed, **found}
        if found.keys() == {"text"}:
            return found["text"]
        return (found["text"], found["text_pair"]) if found.keys() == {"text", "text_pair"} else found


def given(texts: Sequence[str], file: str | None, example: str, columns: Columns | None = None) -> Iterator[Any]:
    """Every text, read as it is needed: those of the line, then the file's; without either, standard input's.

    Args:
        texts: words of the command line; `-` stands for the lines of standard input.
        file: a file of rows, as `open_rows_file` reads them; `-` as above.
        example: a right call, for the message.
        columns: how a row is made of a text and of a row of the file.

    Yields:
        What the task reads, or the error of a row of the file that cannot be read.

    Raises:
        UsageError: there is no text, and nobody pipes one in; or the file has no column with texts.
        FileError: the file cannot be opened, or (later) a line of standard input cannot be read.
    """
    if not texts and file is None:
        if sys.stdin is None or is_terminal(sys.stdin):
            raise UsageError(f"no text was given; for example: {example}")
        texts = ["-"]
    columns = columns or Columns(("text",))
    if file is not None and file != "-":
        columns.check(Path(file))  # what is wrong with it is reported now, not after a model was loaded
    return map(columns.of, _read(texts, file))


def _read(texts: Iterable[str], file: str | None) -> Iterator[Any]:
    for text in texts:
        if text == "-":
            yield from standard_input()
        else:
            yield text
    if file == "-":
        yield from standard_input()
    elif file is not None:
        from pellucid.pipelines.datafiles import open_rows_file

        yield from open_rows_file(file, keep_errors=True)


def standard_input() -> Iterator[str]:
    """The lines of standard input, which is UTF-8 whatever the terminal's encoding is."""
    if sys.stdin is None:
        return
    for number, line in enumerate(sys.stdin.buffer, 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8").removesuffix("\n").removesuffix("\r")
        except UnicodeDecodeError as error:
            raise FileError(
                f"standard input: line {number}: byte {error.start} is not UTF-8; convert it, for example with iconv"
            ) from error


class Counted:
    """Rows whose number is known before they are read.

    Args:
        rows: the rows, read once.
        total: how many there are.
    """

    def __init__(self, rows: Iterable[Any], total: int) -> None:
        self.rows, self.total = rows, total

    def __iter__(self) -> Iterator[Any]:
        return iter(self.rows)

    def __len__(self) -> int:
        return self.total
