"""Files of rows: JSON lines, CSV, TSV, Parquet and lines of text, read as they are needed and written in one step.

    for row in open_rows_file("reviews.csv"):  # {"review": "What a day!", "stars": "5"}
        ...
    write_rows("answers.parquet", rows)

The ending of a file's name says what it is; `.jsonl.gz` and the like are read without unpacking them first. Parquet
needs the extra `pellucid[files]`.
"""

from __future__ import annotations

import csv
import gzip
import json
import os
import sys
import zlib
from base64 import b64encode
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO

from pellucid.errors import FileError, InputError, did_you_mean, require, strict
from pellucid.files import StrPath, open_regular, parse_json

if TYPE_CHECKING:
    import pyarrow  # type: ignore[import-untyped]
    from pyarrow.parquet import ParquetFile  # type: ignore[import-untyped]

KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet"}
"""Ending of a name → what is in the file."""
TEXT = ("", ".txt", ".text", ".log", ".md")
"""Endings of files whose lines are texts; such files are only read."""
GZIPPED = {
    f"{ending}.gz": kind
    for ending, kind in {**KINDS, **dict.fromkeys(TEXT[1:], "text")}.items()
    if kind != "parquet"  # which is compressed inside
}
"""Endings of archives of one file, which are only read."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
GROUP_ROWS, GROUP_CHARACTERS = 8192, 2**24
"""Most rows of a Parquet file, and most characters of their texts, that are written together."""
BATCH_ROWS = 1024
"""Rows of a Parquet file that are read together."""
LINE_LIMIT = 2**30
"""Longest line of an archive, in bytes: a small archive can unpack to a line that no memory holds."""


# ---------------------------------------------------------------------- kinds of files


@strict
def kind_of(path: StrPath, *, written: bool = False) -> str:
    """What a file holds by the ending of its name: `"jsonl"`, `"csv"`, `"tsv"`, `"parquet"` or `"text"`.

    Args:
        path: the file, which need not exist.
        written: whether it is to be written; texts alone and archives (`.gz`) are only read.

    Raises:
        InputError: an ending that is not known.
    """
    ending = Path(path).suffix.lower()
    if ending in KINDS:
        return KINDS[ending]
    if ending in TEXT and not written:
        return "text"
    if ending == ".gz" and not written:
        ending = Path(path).with_suffix("").suffix.lower() + ending
        if ending in GZIPPED:
            return GZIPPED[ending]
    known = [*KINDS] if written else [*KINDS, ".txt", ".jsonl.gz"]
    raise InputError(
        f"{path}: got a name that ends with {ending!r}, wanted one of {', '.join(known)}{did_you_mean(ending, known)}"
    )


def _arrow() -> Any:
    """The module `pyarrow`, with its part for Parquet loaded.

    Raises:
        MissingDependencyError: it is not installed.
    """
    require("pyarrow", "files")
    import pyarrow
    import pyarrow.parquet

    return pyarrow


# ---------------------------------------------------------------------- reading


@strict
def open_rows_file(path: StrPath, *, skip: int = 0, keep_errors: bool = False) -> Iterator[Any]:
    """The rows of a file, read as they are needed.

    Args:
        path: a file of a kind that `kind_of` knows. A row is a dictionary of what stands in its columns (texts in CSV
            and TSV, whose first line names the columns) or, in a file of lines and on a line of JSON lines that is a
            text, that text. Empty lines are texts in a file of lines, and nothing in the other kinds.
        skip: so many rows are left out at the beginning.
        keep_errors: give a row that cannot be read as the `FileError` that says why, instead of raising it.

    Returns:
        An iterator; that the file is there and can be read has been seen to.

    Raises:
        InputError: the name's ending is not known.
        FileError: the file cannot be opened or has no columns or, later, a row cannot be read; it names the line.
        MissingDependencyError: for a Parquet file without `pyarrow`.
    """
    path, kind = Path(path), kind_of(path)
    if kind == "parquet":
        return _parquet_rows(path, skip)
    file = _opened(path)
    if kind in DELIMITERS:
        rows = _separated_rows(path, file, DELIMITERS[kind])
        _ = next(rows)  # the columns
    else:
        rows = _json_rows(path, _lines(path, file), skip) if kind == "jsonl" else _lines(path, file)
    return _from(rows, skip, keep_errors)


def _from(rows: Generator[Any, None, None], skip: int, keep_errors: bool) -> Iterator[Any]:
    with closing(rows):
        for number, row in enumerate(rows):
            if number >= skip:
                if isinstance(row, FileError) and not keep_errors:
                    raise row
                yield row


@strict
def columns_of(path: StrPath) -> list[str] | None:
    """The names of a file's columns, where it has a place that says them; `None` for lines of text or of JSON.

    Raises:
        FileError: the file cannot be read.
    """
    path, kind = Path(path), kind_of(path)
    if kind == "parquet":
        with open_regular(path, follow=True) as file:
            return list(_parquet(path, file).schema_arrow.names)
    if kind in DELIMITERS:
        with _opened(path) as file:
            found: list[str] = next(_separated_rows(path, file, DELIMITERS[kind]))
            return found
    return None


@strict
def count_rows(path: StrPath) -> int:
    """How many rows a file has, those that cannot be read included; of JSON lines, empty lines are counted as well."""
    path, kind = Path(path), kind_of(path)
    if kind == "parquet":
        with open_regular(path, follow=True) as table:
            return int(_parquet(path, table).metadata.num_rows)
    with _opened(path) as file:
        if kind in DELIMITERS:
            return sum(1 for _ in _separated_rows(path, file, DELIMITERS[kind])) - 1
        if isinstance(file, _Unpacked):
            return sum(1 for _ in _lines(path, file))
        lines, last = 0, b"\n"
        while block := file.read(1 << 20):
            lines, last = lines + block.count(b"\n"), block[-1:]
        return lines + (last != b"\n")


DAMAGE = (EOFError, zlib.error, gzip.BadGzipFile)
"""What reading an archive raises that is cut off or holds other bytes than were packed."""


def _damaged(error: BaseException) -> str:
    reason = "it is cut off" if isinstance(error, EOFError) else str(error)
    return f"the archive cannot be unpacked beyond here: {reason}; copy or download it again"


class _Unpacked(gzip.GzipFile):
    """What is in an archive; closing it closes the archive.

    Args:
        archive: the open file.
    """

    def __init__(self, archive: BinaryIO) -> None:
        self.archive = archive
        super().__init__(fileobj=archive, mode="rb")

    def close(self) -> None:
        """Close both."""
        super().close()
        self.archive.close()


def _opened(path: Path) -> BinaryIO | _Unpacked:
    """A file as it is read: one that ends with `.gz`, unpacked."""
    file = open_regular(path, follow=True)
    return _Unpacked(file) if path.suffix.lower() == ".gz" else file


class _Text:
    """The lines of a file as text. What is not UTF-8 is kept in an escaped form, and `bad` says where it was.

    The lines end where an archive cannot be unpacked any further, which `bad` then says.

    Args:
        file: the open file.
    """

    def __init__(self, file: BinaryIO | _Unpacked) -> None:
        self.file, self.number, self.bad = file, 0, ""

    def _bytes(self) -> Iterator[bytes]:
        if not isinstance(self.file, _Unpacked):
            yield from self.file
            return
        try:
            while line := self.file.readline(LINE_LIMIT + 1):
                if len(line) > LINE_LIMIT:
                    self.bad = f"line {self.number + 1}: it is longer than {LINE_LIMIT:,} bytes, wanted shorter ones"
                    return
                yield line
        except DAMAGE as error:
            self.bad = f"line {self.number + 1}: {_damaged(error)}"

    def __iter__(self) -> Iterator[str]:
        for number, line in enumerate(self._bytes(), 1):
            self.number = number
            if number == 1:
                line = line.removeprefix(b"\xef\xbb\xbf")
            try:
                yield line.decode("utf-8")
            except UnicodeDecodeError as error:
                self.bad = f"line {number}: byte {error.start} is not UTF-8; save the file as UTF-8"
                yield line.decode("utf-8", "surrogateescape")

    def problem(self) -> str:
        """What was wrong with the lines since the last call."""
        found, self.bad = self.bad, ""
        return found


def _lines(path: Path, file: BinaryIO | _Unpacked) -> Generator[str | FileError, None, None]:
    with file:
        lines = _Text(file)
        for line in lines:
            problem = lines.problem()
            yield FileError(f"{path}: {problem}") if problem else line.removesuffix("\n").removesuffix("\r")
        if problem := lines.problem():
            yield FileError(f"{path}: {problem}")


def _json_rows(path: Path, lines: Generator[str | FileError, None, None], skip: int) -> Generator[Any, None, None]:
    """The rows; the first `skip` are left as texts, because nobody will look at them."""
    with closing(lines):
        rows = 0
        for number, line in enumerate(lines, 1):
            if isinstance(line, str) and not line.strip():
                continue
            rows += 1
            unread = isinstance(line, FileError) or rows <= skip
            yield line if unread else _json_row(str(line), f"{path}: line {number}")


def _json_row(line: str, where: str) -> Any:
    try:
        row = parse_json(line, where)
    except FileError as error:
        return FileError(str(error).replace("at line 1, column", "at column"))
    kind = type(row).__name__
    return row if kind in ("str", "dict") else FileError(f"{where}: got a {kind}, wanted a text or an object")


def _separated_rows(path: Path, file: BinaryIO | _Unpacked, delimiter: str) -> Generator[Any, None, None]:
    """The names of the columns, then the rows."""
    csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))  # by default 131,072 characters
    with file:
        lines = _Text(file)
        reader = csv.reader(lines, delimiter=delimiter, strict=True)
        names: list[str] | None = None
        while True:
            line = lines.number + 1
            cells, problem = _next_cells(reader)
            problem = lines.problem() or (f"line {line}: {problem}" if problem else "")
            if cells is None and not problem:
                break
            if not cells and not problem:  # an empty line
                continue
            if names is not None and not problem and len(cells or ()) != len(names):
                problem = (
                    f"line {line}: got {len(cells or ())} cells, wanted {len(names)} as in the first line; "
                    "a cell that holds a separator, a quote or a line break stands in quotes"
                )
            if problem and names is None:
                raise FileError(f"{path}: {problem}")
            if problem:
                yield FileError(f"{path}: {problem}")
            elif names is None:
                names = _checked_names(path, cells or [])
                yield names
            else:
                yield dict(zip(names, cells or (), strict=True))
        if names is None:
            raise FileError(f"{path}: the file is empty, wanted a first line with the names of its columns")


def _next_cells(reader: Iterator[list[str]]) -> tuple[list[str] | None, str]:
    """The cells of the next row (`None`: there is none), or what is wrong with it."""
    try:
        return next(reader), ""
    except StopIteration:
        return None, ""
    except csv.Error as error:
        end = "unexpected end" in str(error)
        return None, "a quote that opens here is never closed" if end else f"the quotes cannot be read: {error}"


def _checked_names(path: Path, names: Sequence[str]) -> list[str]:
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FileError(f"{path}: the column {twice!r} stands there twice, and only one can be meant; rename one")
    return list(names)


def _parquet(path: Path, file: BinaryIO) -> ParquetFile:
    arrow = _arrow()
    try:
        found = arrow.parquet.ParquetFile(file)
    except (arrow.ArrowException, OSError) as error:
        raise FileError(f"{path}: not a Parquet file that can be read: {error}") from error
    _checked_names(path, found.schema_arrow.names)
    return found


def _parquet_rows(path: Path, skip: int) -> Iterator[dict[str, Any]]:
    file = open_regular(path, follow=True)
    try:
        found = _parquet(path, file)
    except BaseException:
        file.close()
        raise

    def rows(skip: int) -> Iterator[dict[str, Any]]:
        with file:
            for group in range(found.metadata.num_row_groups):
                count = found.metadata.row_group(group).num_rows
                if skip >= count:
                    skip -= count
                    continue
                try:
                    for batch in found.iter_batches(BATCH_ROWS, row_groups=[group]):
                        left = batch.slice(skip)
                        skip = max(skip - batch.num_rows, 0)
                        yield from left.to_pylist()
                except (_arrow().ArrowException, OSError, ValueError) as error:
                    raise FileError(f"{path}: row group {group + 1} cannot be read: {error}") from error

    return rows(skip)


# ---------------------------------------------------------------------- writing


@strict
def write_rows(
    path: StrPath, rows: Iterable[Mapping[str, Any]], *, columns: Sequence[str] = (), like: StrPath | None = None
) -> None:
    """Write a file of rows so that at every moment, also after a kill, it is the old file or the whole new one.

    Columns are those of all rows, in the order in which they first appear; a row that lacks one has nothing there. In
    CSV and TSV lists, dictionaries and truth values are written as JSON. In Parquet they are real lists and structures,
    and a column whose values are of several kinds is written as in CSV. In JSON lines a row has just its own fields.
    What JSON has no form for becomes text (dates as ISO 8601, bytes as base64), and a number that is not finite null.

    Args:
        path: the file; its ending says which kind it is.
        rows: the rows; read twice for kinds with columns, so an iterator is then kept in memory whole.
        columns: columns to begin with.
        like: a Parquet file whose columns' types are taken over for columns of the same name.

    Raises:
        InputError: the name's ending is not known.
        FileError: the file cannot be written; an old one is unchanged.
        MissingDependencyError: for a Parquet file without `pyarrow`.
    """
    path, kind = Path(path), kind_of(path, written=True)
    if kind != "jsonl" and isinstance(rows, Iterator):
        rows = list(rows)
    types = {}
    if kind == "parquet" and like is not None:
        with open_regular(like, follow=True) as file:
            types = {field.name: field.type for field in _parquet(Path(like), file).schema_arrow}
    with _replacing(path) as stream:
        if kind == "jsonl":
            for row in rows:
                stream.write(json_line(row))
        elif kind == "parquet":
            _write_parquet(stream, rows, columns, types)
        else:
            _write_separated(stream, rows, columns, DELIMITERS[kind])


@contextmanager
def _replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which takes the place of `path` at the end."""
    if path.is_symlink():
        path = path.resolve()  # the file behind a link is replaced, the link stays
    temporary = path.with_name(f".{path.name}.writing")
    try:
        with temporary.open("wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def json_line(value: Any) -> bytes:
    """A value as one line of JSON, whatever it holds; `write_rows` says what becomes of the rest."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        return text.encode("utf-8") + b"\n"
    except (TypeError, ValueError):
        return json.dumps(_plain(value), ensure_ascii=False).encode("utf-8", "replace") + b"\n"


def _plain(value: Any) -> Any:
    """A value in the forms that JSON has."""
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, bytes):
        return b64encode(value).decode("ascii")
    return value.isoformat() if hasattr(value, "isoformat") else str(value)


def _names(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> list[str]:
    """Every column once, in the order of appearance."""
    found = dict.fromkeys(columns)
    for row in rows:
        if not row.keys() <= found.keys():
            found |= dict.fromkeys(row)
    return list(found)


def _write_separated(
    stream: BinaryIO, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], delimiter: str
) -> None:
    names = _names(rows, columns)

    def write(line: str) -> None:
        stream.write(line.removesuffix("\r\n").encode("utf-8", "replace") + b"\n")

    writer = csv.writer(SimpleNamespace(write=write), delimiter=delimiter)  # whose line ends make it quote \r and \n
    if names:
        writer.writerow(names)
    for row in rows:
        writer.writerow([_cell(row.get(name)) for name in names])


def _cell(value: Any) -> Any:
    """A value as it stands in a cell of a CSV file."""
    if isinstance(value, str) or value is None:
        return value
    plain = _plain(value)
    is_plain = plain is None or isinstance(plain, str)
    return plain if is_plain else json.dumps(plain, ensure_ascii=False)


# ---------------------------------------------------------------------- Parquet


def in_blocks(rows: Iterable[Any], most_rows: int, most_characters: int) -> Iterator[list[Any]]:
    """Rows in lists of at most `most_rows`; a list ends early once its texts reach `most_characters`."""
    block: list[Any] = []
    characters = 0
    for row in rows:
        block.append(row)
        values = row.values() if isinstance(row, Mapping) else row if isinstance(row, list | tuple) else [row]
        characters += sum(len(value) for value in values if isinstance(value, str | list))
        if len(block) >= most_rows or characters >= most_characters:
            yield block
            block, characters = [], 0
    if block:
        yield block


def _write_parquet(
    stream: BinaryIO, rows: Iterable[Mapping[str, Any]], columns: Sequence[str], known: Mapping[str, pyarrow.DataType]
) -> None:
    arrow = _arrow()
    types: dict[str, Any] = {name: known.get(name, arrow.null()) for name in columns}
    for block in in_blocks(rows, GROUP_ROWS, GROUP_CHARACTERS):
        for name in _names(block, ()):
            if name not in known:
                types[name] = _wider(types.get(name, arrow.null()), _type_of([row.get(name) for row in block]))
            else:
                types[name] = known[name]
    # `None` stands for values of several kinds, which are written as texts
    schema = arrow.schema([(name, arrow.string() if kind is None else kind) for name, kind in types.items()])
    with arrow.parquet.ParquetWriter(stream, schema, compression="zstd") as writer:
        for block in in_blocks(rows, GROUP_ROWS, GROUP_CHARACTERS):
            arrays = []
            for name, kind in types.items():
                values = [row.get(name) for row in block]
                if kind is None:
                    values = [_cell(value) for value in values]
                arrays.append(arrow.array(values, schema.field(name).type))
            writer.write_table(arrow.Table.from_arrays(arrays, schema=schema))


def _type_of(values: Sequence[Any]) -> pyarrow.DataType | None:
    """The type of a column with these values; `None` when they are of several kinds."""
    arrow = _arrow()
    try:
        found = arrow.array(values).type
    except (arrow.ArrowException, OverflowError):
        return None
    return None if _has_empty_struct(found) else found


def _has_empty_struct(kind: pyarrow.DataType) -> bool:
    """Whether a type has a structure without fields in it, which Parquet has no form for."""
    children = [kind.field(number) for number in range(kind.num_fields)]
    types = _arrow().types
    return (types.is_struct(kind) and not children) or any(_has_empty_struct(child.type) for child in children)


def _wider(one: pyarrow.DataType | None, other: pyarrow.DataType | None) -> pyarrow.DataType | None:
    """The type that holds the values of both, or `None`."""
    arrow = _arrow()
    if one is None or other is None or one == other:
        return one if one == other else None
    schemas = [arrow.schema([("column", kind)]) for kind in (one, other)]
    try:
        return arrow.unify_schemas(schemas, promote_options="permissive").field(0).type
    except arrow.ArrowException:
        return None
