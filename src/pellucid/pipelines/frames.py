"""Tables: rows out of pandas, polars, numpy and data sets, and answers as columns beside them.

None of these libraries is imported here: an object that is given tells by its class which library it is from, and that
one is imported already.
"""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.rows import Rows

CLASH = "_answer"
"""What the name of an answer's column ends with where a column of the input has that name already."""


def open_table(inputs: Any, kind: str, fields: Collection[str]) -> Rows:
    """The rows of a table.

    A series has one row in each place, and its answers are a series with the same name (and index). Of a frame, the
    columns are read that are fields of the pipeline. Its answers are the frame with further columns. Missing values are
    `None`, which is an error of the row, or no `text_pair`.

    Args:
        inputs: a series, a frame, an array of texts, or a data set.
        kind: which of `rows.KINDS` it is.
        fields: names of the columns to read, the most important one first.

    Raises:
        InputError: none of the columns is there, or the object cannot be read row by row.
    """
    if kind == "numpy.ndarray":
        if inputs.ndim != 1:
            raise InputError(f"inputs: got an array of shape {inputs.shape}, wanted texts in one dimension")
        return Rows(inputs.tolist(), len(inputs), listed=True, ready=True)
    if kind == "polars.LazyFrame":
        raise InputError("inputs: got a LazyFrame, whose rows are not there yet; give frame.collect()")
    if kind.startswith("datasets."):
        return _open_data_set(inputs, fields)
    library = sys.modules[kind.partition(".")[0]]
    of_pandas = library.__name__ == "pandas"
    if kind.endswith(".Series"):
        make = _pandas_series if of_pandas else _polars_series
        rows = _values(inputs) if of_pandas else inputs.to_list()
        return Rows(rows, len(inputs), ready=True, build=lambda answers, _: make(library, inputs, answers))
    names = wanted(inputs.columns, fields)
    add = _add_to_pandas if of_pandas else _add_to_polars
    columns = [_values(inputs[name]) if of_pandas else inputs[name].to_list() for name in names]
    rows = [dict(zip(names, values, strict=True)) for values in zip(*columns, strict=True)]
    return Rows(rows, len(inputs), ready=True, build=lambda answers, columns: add(library, inputs, columns(answers)))


def wanted(columns: Iterable[Any], fields: Collection[str]) -> list[str]:
    """Those of the fields that are among the columns; `InputError` if there are none."""
    present = list(columns)
    found = [name for name in fields if name in present]
    if not found:
        needed = next(iter(fields))
        near = did_you_mean(needed, [name for name in present if isinstance(name, str)])
        raise InputError(
            f"inputs: got the columns {quoted(present)}, wanted {needed!r}{near or '; rename one, or give it alone'}"
        )
    return found


def in_columns(answers: Sequence[Any], name: str, errors: bool) -> dict[str, list[Any]]:
    """Answers as columns: one for each field where all answers are objects, else a single one.

    Args:
        answers: one for each row; `None` or an error where there is none.
        name: name of the single column.
        errors: whether there is a column `error`, with the message or `None`.
    """
    found = [None if isinstance(answer, InputError) else answer for answer in answers]
    there = [answer for answer in found if answer is not None]
    if there and all(isinstance(answer, Mapping) for answer in there):
        names = dict.fromkeys(name for answer in there for name in answer)
        columns = {name: [None if answer is None else answer.get(name) for answer in found] for name in names}
    else:  # several answers of one row are a list, and then so is the only answer of another row
        columns = {name: [[answer] if isinstance(answer, Mapping) else answer for answer in found]}
    if errors:
        columns["error"] = [str(answer) if isinstance(answer, InputError) else None for answer in answers]
    return columns


# ---------------------------------------------------------------------- from tables


def _open_data_set(inputs: Any, fields: Collection[str]) -> Rows:
    """Rows of a Hugging Face data set, without the columns that the pipeline does not read."""
    total = len(inputs) if hasattr(inputs, "__len__") else None
    if inputs.column_names is None:  # of a stream, they are only known from its rows
        return Rows(_picked(inputs, fields), total)
    names = wanted(inputs.column_names, fields)
    return Rows(iter(inputs.select_columns(names)), total, ready=total is not None)


def _picked(rows: Iterable[Any], fields: Collection[str]) -> Iterator[Any]:
    for row in rows:
        names = wanted(row, fields)
        yield {name: row[name] for name in names}


def _values(column: Any) -> list[Any]:
    """The values of a column of pandas as Python has them: `None` for missing ones, lists for arrays."""
    return [
        (value.tolist() if hasattr(value, "tolist") else value) if there else None
        for value, there in zip(column.tolist(), column.notna().tolist(), strict=True)
    ]


# ---------------------------------------------------------------------- to tables


def _pandas_series(pandas: Any, inputs: Any, answers: list[Any]) -> Any:
    return pandas.Series(answers, index=inputs.index, name=inputs.name, dtype=object)


def _polars_series(polars: Any, inputs: Any, answers: list[Any]) -> Any:
    return _polars_column(polars, inputs.name, answers)


def _polars_column(polars: Any, name: str, values: list[Any]) -> Any:
    """A polars series; of Python objects where polars has no one type for them all, such as errors among answers."""
    try:
        return polars.Series(name, values)
    except (TypeError, polars.exceptions.PolarsError):
        return polars.Series(name, values, dtype=polars.Object)


def _add_to_pandas(pandas: Any, frame: Any, columns: Mapping[str, list[Any]]) -> Any:
    named = {free_name(name, frame.columns): values for name, values in columns.items()}
    return frame.assign(**{name: pandas.Series(values, index=frame.index) for name, values in named.items()})


def _add_to_polars(polars: Any, frame: Any, columns: Mapping[str, list[Any]]) -> Any:
    return frame.with_columns(
        [_polars_column(polars, free_name(name, frame.columns), values) for name, values in columns.items()]
    )


def free_name(name: str, taken: Iterable[Any]) -> str:
    """The name of an answer's column, made longer until no column of the input has it."""
    present = set(taken)
    while name in present:
        name += CLASH
    return name
