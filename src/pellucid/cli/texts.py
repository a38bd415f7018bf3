"""The texts a command is given: as arguments, one a line on standard input, or in a file."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pellucid.cli.arguments import UsageError
from pellucid.cli.terminal import is_terminal
from pellucid.errors import FileError
from pellucid.files import open_regular


def given(
    texts: Sequence[str], file: str | None, example: str, fields: Collection[str] = ("text", "text_pair")
) -> Iterator[Any]:
    """Every text, read as it is needed: those of the line, then the file's; without either, standard input's.

    Args:
        texts: words of the command line; `-` stands for the lines of standard input.
        file: a text file of lines or a JSON lines file, whose rows may be pairs `(text, text_pair)`; `-` as above.
        example: a right call, for the message.
        fields: what is read of the objects in a JSON lines file.

    Raises:
        UsageError: there is no text, and nobody pipes one in.
        FileError: the file cannot be opened, or (later) a line of it cannot be read.
    """
    if not texts and file is None:
        if sys.stdin is None or is_terminal(sys.stdin):
            raise UsageError(f"no text was given; for example: {example}")
        texts = ["-"]
    if file is not None and file != "-":
        open_regular(file, follow=True).close()  # a wrong name is reported now, not after a model was loaded
    return _read(texts, file, fields)


def _read(texts: Iterable[str], file: str | None, fields: Collection[str]) -> Iterator[Any]:
    for text in texts:
        if text == "-":
            yield from standard_input()
        else:
            yield text
    if file == "-":
        yield from standard_input()
    elif file is not None:
        from pellucid.pipelines.rows import read_lines

        for row in read_lines(Path(file), fields):
            yield as_text(row)


def as_text(row: Any) -> Any:
    """A row of a JSON lines file as a text or a pair; what is neither stays, for the pipeline to refuse."""
    if isinstance(row, Mapping) and isinstance(row.get("text"), str):
        if row.get("text_pair") is None:
            return row["text"]
        if isinstance(row["text_pair"], str):
            return row["text"], row["text_pair"]
    return row


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


def count_lines(file: str) -> int:
    """How many lines a file has, for a progress bar."""
    lines, last = 0, b"\n"
    with open_regular(file, follow=True) as stream:
        while block := stream.read(1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
    return lines + (last != b"\n")


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
