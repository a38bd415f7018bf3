"""Data files for training, read whole and checked: tables, lines, CoNLL, SQuAD, each also gzipped.

    table = read_table("train.tsv.gz")
    table.records[0], table.where(0)   # {"sentence": "so good", "label": "1"}, "train.tsv.gz: line 2"

The ending of a name says what a file holds, unless `format` does. Every record knows its place, so that whatever is
wrong with it is reported as file and line, before any training.
"""

from __future__ import annotations

import csv
import gzip
import io
import sys
import zlib
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import StrPath, open_regular, parse_json, quoted

FORMATS = {
    ".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".parquet": "parquet",
    ".conll": "conll", ".iob": "conll", ".bio": "conll", ".txt": "text", ".text": "text",
}  # fmt: skip
"""Ending of a name → what is in the file."""
DELIMITERS = {"csv": ",", "tsv": "\t"}


@dataclass
class Table:
    """What a file holds.

    Attributes:
        path: the file.
        format: one of `FORMATS`.
        records: what stands in its lines: dictionaries by column, texts, or lists of lists of cells (CoNLL).
        numbers: the place of each record.
        noun: what the places count.
    """

    path: Path
    format: str
    records: list[Any]
    numbers: Sequence[int]
    noun: str = "line"

    def where(self, number: int) -> str:
        """File and place of a record, for messages."""
        return f"{self.path}: {self.noun} {self.numbers[number]}"


class Rows(list[dict[str, Any]]):
    """Rows that a recipe has read from files, which know their places.

    Attributes:
        tables: the files, with the number of the first row of each.
    """

    def __init__(self) -> None:
        super().__init__()
        self.tables: list[tuple[int, Table]] = []

    def take(self, table: Table, rows: Iterable[dict[str, Any]]) -> None:
        """Add the rows of a file, one for each of its records."""
        self.tables.append((len(self), table))
        self.extend(rows)


def where(rows: Sequence[Any], number: int) -> str:
    """File and line of a row, or its number where it comes from no file."""
    if not isinstance(rows, Rows):
        return f"row {number}"
    first, table = rows.tables[bisect_right([first for first, _ in rows.tables], number) - 1]
    return table.where(number - first)


def format_of(path: StrPath, chosen: str | None = None) -> str:
    """What a file holds, by `chosen` or the ending of its name.

    Raises:
        InputError: neither is known.
    """
    known = sorted(set(FORMATS.values()))
    if chosen is not None:
        if chosen not in known:
            raise InputError(
                f"format: got {quoted(chosen)}, wanted one of {', '.join(known)}{did_you_mean(chosen, known)}"
            )
        return chosen
    ending = Path(str(path).removesuffix(".gz")).suffix.lower()
    if ending not in FORMATS:
        wanted = f"{', '.join(FORMATS)}, each perhaps with .gz behind it"
        raise InputError(f"{path}: got a name that ends with {ending!r}, wanted {wanted}; or say format=")
    return FORMATS[ending]


def read_table(path: StrPath, format: str | None = None, columns: Sequence[str] | None = None) -> Table:
    """Read a file.

    Args:
        path: the file; a name that ends with `.gz` is unpacked.
        format: what it holds; default by its name.
        columns: names of the columns of a CSV or TSV file whose first line is data already.

    Raises:
        FileError: the file or a line of it cannot be read, or nothing is in it.
        InputError: the kind of file is not known, or has no place for `columns`.
    """
    path, kind = Path(path), format_of(path, format)
    if columns is not None and kind not in DELIMITERS:
        raise InputError(f"columns: got names for {path}, wanted them for CSV and TSV alone, whose cells have no names")
    if kind == "parquet":
        table = _parquet_table(path)
    else:
        text = _read_text(path)
        if kind in DELIMITERS:
            table = _separated(path, text, kind, columns)
        elif kind == "json":
            table = _json_table(path, text)
        elif kind == "conll":
            table = _sentences(path, text)
        else:
            table = _line_table(path, text, kind)
    if not table.records:
        raise FileError(f"{path}: nothing is in it, wanted rows to learn from")
    return table


# ---------------------------------------------------------------------- bytes → text


def _read_text(path: Path) -> str:
    with open_regular(path, follow=True) as file:
        data = file.read()
    if path.suffix.lower() == ".gz":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise FileError(f"{path}: not a whole gzip file: {error}") from error
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise FileError(f"{path}: line {line}: byte {error.start:,} is not UTF-8; save the file as UTF-8") from error


def _lines(text: str) -> list[str]:
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


# ---------------------------------------------------------------------- lines and JSON


def _line_table(path: Path, text: str, kind: str) -> Table:
    """One record a line: texts, or with `jsonl` what the line says; there, empty lines are nothing."""
    records, numbers = [], []
    for number, line in enumerate(_lines(text), 1):
        if kind == "jsonl":
            if not line.strip():
                continue
            records.append(_json_record(line, f"{path}: line {number}"))
        else:
            records.append(line)
        numbers.append(number)
    return Table(path, kind, records, numbers)


def _json_record(line: str, place: str) -> Any:
    try:
        found = parse_json(line, place)
    except FileError as error:
        raise FileError(str(error).replace("at line 1, column", "at column")) from error
    if not isinstance(found, dict | str):
        raise FileError(f"{place}: got {quoted(found)}, wanted an object or a text")
    return found


def _json_table(path: Path, text: str) -> Table:
    """A list of objects, alone or as `data`; the nested form of SQuAD becomes an object for each question."""
    value = parse_json(text, str(path))
    rows = value.get("data") if isinstance(value, dict) else value
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileError(f'{path}: got {quoted(value)}, wanted a list of objects, or {{"data": […]}} as SQuAD has it')
    if rows and "paragraphs" in rows[0]:
        questions = [question for number, article in enumerate(rows) for question in _squad(path, number, article)]
        return Table(path, "json", questions, range(1, len(questions) + 1), "question")
    return Table(path, "json", rows, range(1, len(rows) + 1), "row")


def _squad(path: Path, number: int, article: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of an article of SQuAD, 1.1 or 2.0, each with its text."""
    place = f"{path}: data[{number}]"
    for at, paragraph in enumerate(_list_in(article, "paragraphs", place)):
        inside = f"{place}: paragraphs[{at}]"
        for question in _list_in(paragraph, "qas", inside):
            if not isinstance(question, dict) or not isinstance(paragraph.get("context"), str):
                raise FileError(f"{inside}: got {quoted(paragraph)}, wanted a 'context' and questions in 'qas'")
            known = {name: question[name] for name in ("id", "question", "answers") if name in question}
            if question.get("is_impossible"):
                known["answers"] = []
            yield {**known, "context": paragraph["context"]}


def _list_in(value: Any, name: str, place: str) -> list[Any]:
    found = value.get(name) if isinstance(value, dict) else None
    if not isinstance(found, list):
        raise FileError(f"{place}: {name}: got {quoted(found)}, wanted a list")
    return found


# ---------------------------------------------------------------------- cells


def _separated(path: Path, text: str, kind: str, columns: Sequence[str] | None) -> Table:
    """Rows by the names of their columns.

    In TSV files quotes are often characters like any other. They are taken so where each line has the right number of
    cells as it stands, and reading its quotes would join lines or fail.
    """
    delimiter = DELIMITERS[kind]
    plain = None
    if kind == "tsv" and '"' in text:
        cells = [(number, line.split(delimiter)) for number, line in enumerate(_lines(text), 1) if line]
        plain = cells if len({len(row) for _, row in cells}) == 1 else None
    try:
        rows = _quoted_cells(path, text, delimiter)
        if plain is not None and len(rows) != len(plain):
            rows = plain
    except FileError:
        if plain is None:
            raise
        rows = plain
    if columns is None:
        if not rows:
            raise FileError(f"{path}: the file is empty, wanted a first line with the names of its columns")
        (_, names), *rows = rows
    else:
        names = list(columns)
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise FileError(f"{path}: the column {twice!r} stands there twice, and only one can be meant; rename one")
    for number, row in rows:
        if len(row) != len(names):
            wanted = f"{len(names)} as there are names of columns"
            cure = "; a cell that holds a separator, a quote or a line break stands in quotes"
            raise FileError(f"{path}: line {number}: got {len(row)} cells, wanted {wanted}{cure}")
    return Table(path, kind, [dict(zip(names, row, strict=True)) for _, row in rows], [number for number, _ in rows])


def _quoted_cells(path: Path, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    """The line on which each row begins, and its cells; empty lines are no rows."""
    csv.field_size_limit(max(csv.field_size_limit(), min(sys.maxsize, 2**31 - 1)))  # by default 131,072 characters
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows, line = [], 1
    try:
        for row in reader:
            if row:
                rows.append((line, row))
            line = reader.line_num + 1
    except csv.Error as error:
        open_end = "unexpected end" in str(error)
        why = "a quote that opens here is never closed" if open_end else f"the quotes cannot be read: {error}"
        raise FileError(f"{path}: line {line}: {why}") from error
    return rows


def _parquet_table(path: Path) -> Table:
    from pellucid.pipelines.datafiles import open_rows_file

    if path.suffix.lower() == ".gz":
        raise FileError(f"{path}: Parquet files are compressed inside; unpack it with gunzip")
    records = list(open_rows_file(path))
    return Table(path, "parquet", records, range(1, len(records) + 1), "row")


# ---------------------------------------------------------------------- CoNLL


def _sentences(path: Path, text: str) -> Table:
    """Sentences as lists of the cells of each word; blank lines stand between them, columns between tabs or blanks."""
    records: list[list[list[str]]] = []
    numbers: list[int] = []
    goes_on, width = False, 0
    for number, line in enumerate(_lines(text), 1):
        if not line.strip() or line.startswith("-DOCSTART-"):
            goes_on = False
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        width = width or len(cells)
        if len(cells) != width or width < 2:
            wanted = f"{width} as in the lines before" if width > 1 else "at least two: a word and its tag"
            raise FileError(f"{path}: line {number}: got {len(cells)} columns, wanted {wanted}")
        if not goes_on:
            records.append([])
            numbers.append(number)
        records[-1].append(cells)
        goes_on = True
    return Table(path, "conll", records, numbers)
