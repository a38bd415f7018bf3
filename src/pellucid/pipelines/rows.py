"""What a pipeline can be given: a text, a list, a generator, a column of a data set, or the path of a file of lines."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pellucid.errors import FileError, InputError
from pellucid.files import open_regular, parse_json, quoted

FIELDS = ("text", "text_pair")


class Rows(NamedTuple):
    """Rows to be answered.

    Attributes:
        rows: the rows; may be endless.
        single: the input was one row, so one answer is wanted and not a list.
        listed: the input was a list, so a list is wanted and not a generator.
        total: number of rows, if known.
    """

    rows: Iterable[Any]
    single: bool
    listed: bool
    total: int | None


def open_rows(inputs: Any, fields: Collection[str] = FIELDS) -> Rows:
    """See what kind of input this is; nothing but a single row is read yet.

    Args:
        inputs: a text, pair or dictionary (one row); a list; a `pathlib.Path` of a text or JSON lines file; or
            anything else that can be iterated or indexed, such as a generator or a data set's column.
        fields: what is kept of the objects in a JSON lines file.

    Raises:
        InputError: for anything else.
        FileError: the file cannot be opened.
    """
    if isinstance(inputs, str | tuple | Mapping):
        return Rows([inputs], single=True, listed=False, total=1)
    if isinstance(inputs, list):
        return Rows(inputs, single=False, listed=True, total=len(inputs))
    if isinstance(inputs, Path):
        open_regular(inputs, follow=True).close()  # a wrong name is reported now, not at the first answer
        return Rows(read_lines(inputs, fields), single=False, listed=False, total=None)
    total = len(inputs) if hasattr(inputs, "__len__") else None
    if total is not None and hasattr(inputs, "__getitem__") and not hasattr(inputs, "__iter__"):
        return Rows((inputs[number] for number in range(total)), single=False, listed=False, total=total)
    if isinstance(inputs, Iterable) and not isinstance(inputs, bytes | bytearray | memoryview):
        return Rows(inputs, single=False, listed=False, total=total)
    raise InputError(
        f"inputs: got {quoted(inputs)}, wanted a text, a list or generator of texts, or a pathlib.Path of a file"
    )


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
