"""Rows of a data set: what must be true of them, and how they become the tensors of a batch, padded or packed.

Axes: `B` batch, `S` width of the padded batch, `T` packed tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.layout import Layout, PackedTokens
from pellucid.tokenizer.base import PreTrainedTokenizerFast
from pellucid.tokenizer.encoding import BatchEncoding, TensorKind, as_tensor
from pellucid.tokenizer.rows import Padding, round_up
from pellucid.tokenizer.vocabulary import plain

Row = dict[str, Any]
TOKEN_FIELDS = ("token_type_ids", "attention_mask", "special_tokens_mask", "position_ids", "offset_mapping")
"""Fields of a row that have one entry for each of its `input_ids`."""
IGNORED = -100
"""The label that no loss counts."""


def check_kind(kind: Any) -> TensorKind:
    """`kind`, or `InputError` unless it is `"pt"` or `"np"`."""
    if kind not in ("pt", "np"):
        raise InputError(f"return_tensors: got {kind!r}, wanted 'pt' (PyTorch) or 'np' (NumPy)")
    return kind  # type: ignore[no-any-return]


def rows_of(features: Any) -> list[Row]:
    """Features as dictionaries with the same fields; a list of ids becomes `input_ids`.

    Raises:
        InputError: no rows, or a row with other fields than the first.
    """
    if isinstance(features, Mapping) or not isinstance(features, Iterable):
        raise InputError(f"features: got a {type(features).__name__}, wanted a list of rows")
    rows = [_row_of(feature, number) for number, feature in enumerate(features)]
    if not rows:
        raise InputError("features: got no rows, wanted at least one; leave empty batches out")
    for number, row in enumerate(rows):
        if other := row.keys() ^ rows[0].keys():
            name = min(other)
            has, lacks = (number, 0) if name in row else (0, number)
            raise InputError(
                f"features: row {has} has {name!r} and row {lacks} has not; give all rows of a batch the same fields"
            )
    return rows


def _row_of(feature: Any, number: int) -> Row:
    if isinstance(feature, Mapping):
        return dict(feature)
    if isinstance(feature, (list, tuple, np.ndarray, torch.Tensor)):
        return {"input_ids": feature}
    if hasattr(feature, "__dict__"):
        return dict(vars(feature))
    raise InputError(f"features: row {number} is a {type(feature).__name__}, wanted a dictionary or a list of ids")


def check_tokens(rows: list[Row], what: str, labels: bool = False) -> list[Row]:
    """Rows with plain lists of tokens, whose fields have one entry for each token.

    Args:
        rows: as `rows_of` gives them.
        what: the collator, for messages.
        labels: whether `labels` have one entry for each token too.

    Raises:
        InputError: no `input_ids`, or a field of another length.
    """
    if "input_ids" not in rows[0]:
        known = list(rows[0])
        near = did_you_mean("input_ids", known)
        raise InputError(f"{what}: rows have {known}, wanted 'input_ids'{near}; tokenize the texts first")
    checked = []
    for number, row in enumerate(rows):
        row = {name: plain(value) for name, value in row.items()}
        ids = row["input_ids"]
        if not isinstance(ids, (list, tuple)) or (ids and not isinstance(plain(ids[0]), int)):
            raise InputError(f"input_ids: row {number} is not a list of whole numbers; tokenize one text for each row")
        for name in (*TOKEN_FIELDS, "labels") if labels else TOKEN_FIELDS:
            if name in row:
                _check_length(name, row[name], len(ids), number)
        checked.append(row)
    return checked


def _check_length(name: str, values: Any, wanted: int, number: int) -> None:
    if not isinstance(values, (list, tuple)):
        raise InputError(f"{name}: row {number} has {values!r}, wanted a list with one entry for each token")
    if len(values) != wanted:
        cure = f"give each token a label, {IGNORED} where none counts" if name == "labels" else "tokenize the row again"
        raise InputError(f"{name}: row {number} has {len(values)} for {wanted} tokens, wanted one each; {cure}")


def with_labels(rows: list[Row]) -> list[Row]:
    """Rows whose `label` or `label_ids` is called `labels`; of two classes, `False` is 0 and `True` is 1."""
    old = next((name for name in ("label", "label_ids") if rows[0].get(name) is not None), "labels")
    renamed = [{"labels" if name == old else name: value for name, value in row.items()} for row in rows]
    for row in renamed:
        if isinstance(row.get("labels"), bool):
            row["labels"] = int(row["labels"])
    return renamed


def without(rows: list[Row], *names: str) -> list[Row]:
    """Rows without some fields."""
    return [{name: value for name, value in row.items() if name not in names} for row in rows]


# ---------------------------------------------------------------------- laying out


def pad_rows(
    tokenizer: PreTrainedTokenizerFast,
    rows: list[Row],
    kind: TensorKind,
    padding: Padding = True,
    max_length: int | None = None,
    multiple: int | None = None,
) -> BatchEncoding:
    """`tokenizer.pad`, which is spared a padding token where all rows have the same length."""
    lengths = {len(row["input_ids"]) for row in rows}
    if padding in (True, "longest") and len(lengths) == 1 and round_up(min(lengths), multiple) in lengths:
        padding = False
    return tokenizer.pad(
        rows, padding=padding, max_length=max_length, pad_to_multiple_of=multiple, return_tensors=kind, verbose=False
    )


def pack_rows(rows: list[Row], choices: int = 1, token_labels: bool | None = None) -> dict[str, Any]:
    """Rows one after another, without the tokens that their `attention_mask` says are padding.

    Args:
        rows: prepared rows.
        choices: how many rows in turn are choices of one question.
        token_labels: whether `labels` belong to tokens, and become `[T]`. Default: when each row's are whole numbers,
            as many as its tokens.

    Raises:
        InputError: a mask with a hole in it, or a field that makes no tensor.
    """
    rows = check_tokens(rows, "pack", bool(token_labels))
    per_token = ["input_ids", "token_type_ids", "position_ids"]
    if _label_tokens(rows) if token_labels is None else token_labels:
        per_token.append("labels")
    rows = [_without_padding(row, number, per_token) for number, row in enumerate(rows)]
    layout = Layout.from_lengths([len(row["input_ids"]) for row in rows])
    layout.choices = choices
    flat = {
        name: torch.tensor([value for row in rows for value in row[name]], dtype=torch.long)
        for name in per_token
        if name in rows[0]
    }
    labels = flat.pop("labels", None)
    batch: dict[str, Any] = {"packed": PackedTokens(layout, **flat)}
    if labels is not None:
        batch["labels"] = labels
    for name in rows[0].keys() - {*TOKEN_FIELDS, *per_token}:
        batch[name] = as_tensor([row[name] for row in rows], "pt", name)
    return batch


def _label_tokens(rows: list[Row]) -> bool:
    """Whether each row has as many labels as tokens, all of them whole numbers."""
    return "labels" in rows[0] and all(
        isinstance(labels := row["labels"], (list, tuple))
        and len(labels) == len(row["input_ids"])
        and all(isinstance(label, int) for label in labels)
        for row in rows
    )


def _without_padding(row: Row, number: int, per_token: Iterable[str]) -> Row:
    """A row's real tokens; the positions of an answer are counted from the first of them."""
    mask = row.get("attention_mask")
    if mask is None or all(mask):
        return row
    real = [place for place, seen in enumerate(mask) if seen]
    first, end = (real[0], real[-1] + 1) if real else (0, 0)
    if end - first != len(real):
        raise InputError(
            f"attention_mask: row {number} hides tokens in the middle, which a packed batch cannot; "
            "leave them out, or call the collator for a padded batch"
        )
    row = {**row, **{name: row[name][first:end] for name in per_token if name in row}}
    for name in ("start_positions", "end_positions"):
        if first and name in row:
            row[name] = _moved(row[name], first, name, number)
    return row


def _moved(position: int, back: int, name: str, number: int) -> int:
    if position < back:
        raise InputError(f"{name}: row {number} has {position}, which is padding; wanted the place of a real token")
    return position - back


def stack(values: list[Any], name: str, kind: TensorKind) -> Any:
    """`[B, …]` of one field.

    Raises:
        InputError: rows of different shapes.
    """
    shapes = [_shape(value) for value in values]
    other = next((number for number, shape in enumerate(shapes) if shape != shapes[0]), None)
    if other is not None:
        raise InputError(
            f"{name}: row {other} has shape {shapes[other]} and row 0 has {shapes[0]}; pad them with "
            "DataCollatorWithPadding, or pack them: collator.pack(rows)"
        )
    if not isinstance(values[0], torch.Tensor):
        return as_tensor(values, kind, name)
    stacked = torch.stack(values)
    return stacked if kind == "pt" else stacked.numpy()


def _shape(value: Any) -> list[int]:
    if hasattr(value, "shape"):
        return list(value.shape)
    return [len(value), *(_shape(value[0]) if value else [])] if isinstance(value, (list, tuple)) else []
