"""What `Pipeline.map` can be given, as rows; and answers in the form of what was given."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

from pellucid.errors import FileError, InputError
from pellucid.files import quoted
from pellucid.pipelines.datafiles import KINDS, TEXT, count_rows, open_rows_file
from pellucid.pipelines.rows import Columns, open_rows


class Source(NamedTuple):
    """Rows to be answered, and what becomes of their answers.

    Attributes:
        rows: the rows, read as they are needed; a `FileError` stands for one that cannot be read.
        total: number of rows, if known.
        build: answers, and how they become columns → the form of what was given.
    """

    rows: Iterable[Any]
    total: int | None
    build: Callable[[list[Any], Columns], Any]


def is_ray_dataset(dataset: Any) -> bool:
    """Whether this is a Ray Dataset; Ray is not imported for this."""
    return _is(dataset, "ray", "Dataset")


def open_source(dataset: Any, columns: Sequence[str], *, whole: bool, keep_errors: bool) -> Source:
    """See what kind of input this is.

    Args:
        dataset: a list or another iterable of rows; a pandas or polars frame or series; an Arrow table; a
            `datasets.Dataset`; a Ray Dataset; a file or a folder of files.
        columns: the columns to read, the one that is needed first.
        whole: read the other columns of a table too.
        keep_errors: rows of a file that cannot be read are given as errors.

    Raises:
        InputError: for anything else.
        FileError: a file cannot be opened.
    """
    read = list(columns)
    if isinstance(dataset, str | PathLike):
        files = _files(Path(dataset))
        rows = _file_rows(files, keep_errors)
        return Source(rows if whole else _narrowed(rows, read), _total(files), _as_list)
    if is_ray_dataset(dataset):
        return Source(_ray_rows(dataset), None, _as_list)
    if _is(dataset, "pyarrow", "Table"):
        table = dataset if whole else dataset.select(_present(dataset.column_names, read))
        rows = (row for batch in table.to_batches(1024) for row in batch.to_pylist())
        return Source(rows, dataset.num_rows, lambda answers, made: _add_to_arrow(dataset, made(answers)))
    if _is(dataset, "datasets", "Dataset"):
        table = dataset if whole else dataset.select_columns(_present(dataset.column_names, read))
        return Source(table, len(dataset), lambda answers, made: _add_to_data_set(dataset, made(answers)))
    others = [str(name) for name in dataset.columns] if whole and hasattr(dataset, "columns") else []
    found = open_rows(dataset, dict.fromkeys([*columns, *others]))
    if found.single:
        raise InputError(
            f"dataset: got {quoted(dataset)}, wanted a list of rows, a frame, a table, a data set, or the path of a "
            "file or folder"
        )
    return Source(found.rows, found.total, found.build or _as_list)


def _is(dataset: Any, library: str, name: str) -> bool:
    bases = type(dataset).__mro__
    return any(base.__module__.partition(".")[0] == library and base.__name__ == name for base in bases)


def _present(names: Sequence[str], read: Sequence[str]) -> Sequence[str]:
    """The columns to read of those that are there; all of them if the needed one is not, for the error to name."""
    return [name for name in read if name in names] if read[0] in names else names


def _narrowed(rows: Iterable[Any], read: Sequence[str]) -> Iterator[Any]:
    """Rows without the columns that are not read."""
    for row in rows:
        yield {name: row[name] for name in _present(list(row), read)} if isinstance(row, dict) else row


def _as_list(answers: list[Any], columns: Columns) -> list[Any]:
    return answers


# ---------------------------------------------------------------------- files


def _files(path: Path) -> list[Path]:
    """The file itself, or those files of a folder, in the order of their names, that hold rows."""
    if not path.is_dir():
        return [path]
    endings = {*KINDS, *TEXT} - {"", ".md", ".log"}
    found = sorted(file for file in path.iterdir() if file.suffix.lower() in endings and file.name[0] not in "._")
    if not found:
        raise FileError(f"{path}: no files of rows in this folder, wanted some that end with {', '.join(KINDS)}")
    return found


def _file_rows(files: Sequence[Path], keep_errors: bool) -> Iterator[Any]:
    opened = open_rows_file(files[0], keep_errors=keep_errors)  # a wrong name is reported now, not at the first row

    def rows() -> Iterator[Any]:
        yield from opened
        for file in files[1:]:
            yield from open_rows_file(file, keep_errors=keep_errors)

    return rows()


def _total(files: Sequence[Path]) -> int | None:
    """Number of rows, where it can be told without reading them."""
    return count_rows(files[0]) if len(files) == 1 and files[0].suffix.lower() == ".parquet" else None


# ---------------------------------------------------------------------- tables


def _ray_rows(dataset: Any) -> Iterator[Any]:
    """The rows of a Ray Dataset in their order, which Ray keeps when it is asked to."""
    options = dataset.context.execution_options
    before, options.preserve_order = options.preserve_order, True
    try:
        yield from dataset.iter_rows()
    finally:
        options.preserve_order = before


def _add_to_arrow(table: Any, columns: dict[str, list[Any]]) -> Any:
    for name, values in _checked(columns, table.column_names).items():
        table = table.append_column(name, [values])
    return table


def _add_to_data_set(dataset: Any, columns: dict[str, list[Any]]) -> Any:
    for name, values in _checked(columns, dataset.column_names).items():
        dataset = dataset.add_column(name, values)
    return dataset


def _checked(columns: dict[str, list[Any]], present: Sequence[str]) -> dict[str, list[Any]]:
    if taken := columns.keys() & set(present):
        raise InputError(f"{min(taken)}: the table has a column of that name, which is for answers; rename it")
    return columns
