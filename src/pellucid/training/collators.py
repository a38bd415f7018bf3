"""From the rows of a data set to the batch of one step: padded, or packed without padding.

    collator = DataCollatorWithPadding(tokenizer)
    model(**collator(rows))         padded: input_ids [B, S], attention_mask [B, S], labels [B]
    model(**collator.pack(rows))    packed: packed=PackedTokens of [T], labels [B]; the same loss, no padding computed

A collator `prepare`s the rows (a task may mask words in them, or cut spans out), and `padded` or `packed` lays them
out. Labels of tokens are `[B, S]` in a padded batch and `[T]` in a packed one. Rows stay in their order; packed rows
run fastest when the caller has sorted them by length. A batch that cannot be made is refused with the row's number.

Axes: `B` batch, `S` width of the padded batch, `T` packed tokens, `C` choices or classes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar, dataclass_transform

import numpy as np
import torch

from pellucid.errors import InputError, strict
from pellucid.layout import PackedTokens
from pellucid.tokenizer.base import PreTrainedTokenizerFast
from pellucid.tokenizer.encoding import BatchEncoding, TensorKind, as_tensor, pad_lists
from pellucid.tokenizer.rows import Padding, round_up
from pellucid.tokenizer.vocabulary import plain
from pellucid.training.rows import (
    IGNORED,
    Row,
    check_kind,
    check_tokens,
    pack_rows,
    pad_rows,
    rows_of,
    stack,
    with_labels,
    without,
)

Batch = BatchEncoding | dict[str, Any]
DataCollator = Callable[[list[Any]], Batch]
"""What a trainer takes: rows → the batch of a step."""
Made = TypeVar("Made")


@dataclass_transform()
def collator(kind: type[Made]) -> type[Made]:
    """Decorate a class as a dataclass whose misspelt arguments are refused with the nearest right one."""
    made = dataclass(kind)
    made.__init__ = strict(made.__init__)  # type: ignore[method-assign]
    return made


class Collator(ABC):
    """What all collators do: rows → prepared rows → a padded or a packed batch."""

    return_tensors: TensorKind

    @strict
    def __call__(self, features: Sequence[Any], return_tensors: TensorKind | None = None) -> Batch:
        """The padded batch of these rows.

        Args:
            features: rows as dictionaries, or lists of ids alone.
            return_tensors: `"pt"` or `"np"`; default as the collator was made.
        """
        kind = check_kind(self.return_tensors if return_tensors is None else return_tensors)
        return self.padded(self.prepare(rows_of(features)), kind)

    @strict
    def pack(self, features: Sequence[Any]) -> dict[str, Any]:
        """The same batch without padding: `packed=PackedTokens`, labels `[T]` or `[B]`, and the rows' other fields."""
        return self.packed(self.prepare(rows_of(features)))

    def prepare(self, rows: list[Row]) -> list[Row]:
        """What the task makes of the rows, before they are laid out."""
        return rows

    @abstractmethod
    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Prepared rows → `[B, S]`."""

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Prepared rows → `[T]`."""
        return pack_rows(rows)


# ---------------------------------------------------------------------- fields as they are


@strict
def default_data_collator(features: Sequence[Any], return_tensors: TensorKind = "pt") -> dict[str, Any]:
    """Stack each field of rows that have one length; `label` and `label_ids` become `labels`.

    Args:
        features: rows as dictionaries, or objects whose attributes are the fields. Texts and `None` are left out.
        return_tensors: `"pt"` or `"np"`.

    Raises:
        InputError: a field with rows of different lengths.
    """
    rows, kind = rows_of(features), check_kind(return_tensors)
    batch = {}
    for name, value in rows[0].items():
        if value is None or isinstance(value, str):
            continue
        values = [row[name] for row in rows]
        if name not in ("label", "label_ids"):
            batch[name] = stack(values, name, kind)
        elif name == "label" or rows[0].get("label") is None:
            batch["labels"] = _stack_labels(values, name, kind)
    return batch


def _stack_labels(values: list[Any], name: str, kind: TensorKind) -> Any:
    """Labels as whole numbers or, if the first is not one, in single precision; tensors of several keep their type."""
    if name == "label_ids" and isinstance(values[0], torch.Tensor if kind == "pt" else np.ndarray):
        return stack(values, name, kind)
    rows = stack([plain(value) for value in values], name, "np")
    return as_tensor(rows.astype(np.int64 if rows.dtype.kind in "iub" else np.float32), kind, name)


@collator
class DefaultDataCollator(Collator):
    """Stack each field as it is, as `default_data_collator` does: for rows that have one length."""

    return_tensors: TensorKind = "pt"

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows of one length → `[B, S]`."""
        return default_data_collator(rows, kind)

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows of any length → `[T]`."""
        left_out = [name for name, value in rows[0].items() if value is None or isinstance(value, str)]
        return pack_rows(without(with_labels(rows), *left_out))


@collator
class DataCollatorWithFlattening(DefaultDataCollator):
    """All rows as one, `[1, T]`, for models that read the borders off `position_ids`.

    The models of this library read them off a layout: give them what `pack` returns. In the one long row of a call
    their texts would see each other.

    Args:
        return_tensors: `"pt"` or `"np"`.
        return_position_ids: whether to return `position_ids`, which start anew with each row.
        separator_id: label of the first token of each row.
        return_flash_attn_kwargs: whether to return `cu_seq_lens_q`, `cu_seq_lens_k`, `max_length_q` and
            `max_length_k`.
        return_seq_idx: whether to return `seq_idx`, the row that each token is from.
        position_ids_start: position of the first token of each row.
    """

    return_position_ids: bool = True
    separator_id: int = IGNORED
    return_flash_attn_kwargs: bool = False
    return_seq_idx: bool = False
    position_ids_start: int = 0

    @strict
    def __call__(
        self, features: Sequence[Any], return_tensors: TensorKind | None = None, separator_id: int | None = None
    ) -> Batch:
        """The rows as one; `labels` are those given, or the ids."""
        kind = check_kind(self.return_tensors if return_tensors is None else return_tensors)
        rows = self._labelled(rows_of(features), self.separator_id if separator_id is None else separator_id)
        lengths = [len(row["input_ids"]) for row in rows]
        joined = {name: [value for row in rows for value in row[name]] for name in ("input_ids", "labels")}
        if self.return_position_ids:
            start = self.position_ids_start
            joined["position_ids"] = [place for length in lengths for place in range(start, start + length)]
        batch: dict[str, Any] = {name: np.array([values], dtype=np.int64) for name, values in joined.items()}
        if self.return_seq_idx:
            batch["seq_idx"] = np.repeat(np.arange(len(rows), dtype=np.int32), lengths)[None]
        if self.return_flash_attn_kwargs:
            batch["cu_seq_lens_q"] = batch["cu_seq_lens_k"] = np.cumsum([0, *lengths], dtype=np.int32)
            batch["max_length_q"] = batch["max_length_k"] = max(lengths)
        return {
            name: value if isinstance(value, int) else as_tensor(value, kind, name) for name, value in batch.items()
        }

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]` with their borders in the layout, which also numbers the positions."""
        return pack_rows(without(self._labelled(rows, self.separator_id), "position_ids"), token_labels=True)

    def _labelled(self, rows: list[Row], separator: int) -> list[Row]:
        rows = check_tokens(rows, type(self).__name__, labels=True)
        labels = "labels" if "labels" in rows[0] else "input_ids"
        return [{**row, "labels": [separator, *row[labels][1:]]} for row in rows]


# ---------------------------------------------------------------------- one answer for a text


@collator
class DataCollatorWithPadding(Collator):
    """Rows of any length → a batch; for heads with one label a text, or the positions of an answer.

    Args:
        tokenizer: says on which side and with what to pad.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for rows that have one length.
        max_length: length for `"max_length"`.
        pad_to_multiple_of: round the width up to a multiple of this.
        return_tensors: `"pt"` or `"np"`.
    """

    tokenizer: PreTrainedTokenizerFast
    padding: Padding = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    return_tensors: TensorKind = "pt"

    def prepare(self, rows: list[Row]) -> list[Row]:
        """`label` and `label_ids` are called `labels`."""
        return check_tokens(with_labels(rows), type(self).__name__)

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, S]`; fields that have no entry for each token are stacked."""
        return pad_rows(self.tokenizer, rows, kind, self.padding, self.max_length, self.pad_to_multiple_of)


@collator
class DataCollatorForMultipleChoice(DataCollatorWithPadding):
    """Rows whose fields hold one list for each choice, `{"input_ids": [[…], […]], "label": 1}` → `[B, C, S]`.

    Arguments as in `DataCollatorWithPadding`.
    """

    def prepare(self, rows: list[Row]) -> list[Row]:
        """`label` is called `labels`; all rows have as many choices."""
        rows = [{name: plain(value) for name, value in row.items()} for row in with_labels(rows)]
        if "input_ids" not in rows[0]:
            raise InputError(f"{type(self).__name__}: rows have {list(rows[0])}, wanted 'input_ids', a list a choice")
        wanted = len(rows[0]["input_ids"])
        for number, row in enumerate(rows):
            for name, value in row.items():
                if name != "labels" and (not isinstance(value, (list, tuple)) or len(value) != wanted):
                    came = len(value) if isinstance(value, (list, tuple)) else repr(value)
                    raise InputError(f"{name}: row {number} has {came}, wanted {wanted} choices as row 0 has")
        return rows

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, C, S]`, `labels` `[B]`."""
        flat, choices = self._flat(rows)
        batch = super().padded(check_tokens(flat, type(self).__name__), kind)
        for name, value in batch.items():
            batch[name] = value.reshape(len(rows), choices, -1)
        return self._labelled(batch, rows, kind)

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]`, choice by choice; `labels` `[B]`."""
        flat, choices = self._flat(rows)
        return dict(self._labelled(pack_rows(flat, choices), rows, "pt"))

    def _flat(self, rows: list[Row]) -> tuple[list[Row], int]:
        """Each choice as a row of its own, and how many a question has."""
        choices = len(rows[0]["input_ids"])
        each = without(rows, "labels")
        return [{name: value[at] for name, value in row.items()} for row in each for at in range(choices)], choices

    def _labelled(self, batch: Batch, rows: list[Row], kind: TensorKind) -> Batch:
        if "labels" in rows[0]:
            batch["labels"] = as_tensor([row["labels"] for row in rows], kind, "labels")
        return batch


# ---------------------------------------------------------------------- an answer for each token


@collator
class DataCollatorForTokenClassification(Collator):
    """Rows with a label for each token, which are padded as the tokens are.

    Args:
        tokenizer: says on which side and with what to pad.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for rows that have one length.
        max_length: length for `"max_length"`.
        pad_to_multiple_of: round the width up to a multiple of this.
        label_pad_token_id: label of padding.
        return_tensors: `"pt"` or `"np"`.
    """

    tokenizer: PreTrainedTokenizerFast
    padding: Padding = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: TensorKind = "pt"

    def prepare(self, rows: list[Row]) -> list[Row]:
        """As many labels as tokens, under the name `labels`."""
        return check_tokens(with_labels(rows), type(self).__name__, labels=True)

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, S]`, `labels` `[B, S]`."""
        unlabelled = without(rows, "labels")
        batch = pad_rows(self.tokenizer, unlabelled, kind, self.padding, self.max_length, self.pad_to_multiple_of)
        if "labels" in rows[0]:
            labels = [list(row["labels"]) for row in rows]
            side = self.tokenizer.padding_side
            padded = pad_lists(labels, batch["input_ids"].shape[1], self.label_pad_token_id, side)
            batch["labels"] = as_tensor(padded, kind, "labels")
        return batch

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]`, `labels` `[T]`."""
        return pack_rows(rows, token_labels=True)


@collator
class DataCollatorForSeq2Seq(Collator):
    """Rows of a text and of what to write, both padded: for encoder-decoders, or decoders with labels of their own.

    `pack` gives an encoder-decoder `packed_source` (the text), `packed` (what the decoder reads) and `labels` `[T]`;
    it needs `model`. Without one, or for a model that is no encoder-decoder, each token has a label, as decoders take
    them.

    Args:
        tokenizer: says on which side and with what to pad.
        model: one with `prepare_decoder_input_ids_from_labels` says what the decoder reads, `decoder_input_ids`.
        padding: `True` or `"longest"`, `"max_length"`, or `False` for rows that have one length.
        max_length: length for `"max_length"`, of labels too.
        pad_to_multiple_of: round both widths up to a multiple of this.
        label_pad_token_id: label of padding.
        return_tensors: `"pt"` or `"np"`.
    """

    tokenizer: PreTrainedTokenizerFast
    model: Any = None
    padding: Padding = True
    max_length: int | None = None
    pad_to_multiple_of: int | None = None
    label_pad_token_id: int = IGNORED
    return_tensors: TensorKind = "pt"

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Labels are lists under the name `labels`; rows whose labels are all `None` have none."""
        rows = check_tokens(with_labels(rows), type(self).__name__)
        if all(row.get("labels") is None for row in rows):
            return without(rows, "labels")
        for number, row in enumerate(rows):
            if not isinstance(row["labels"], (list, tuple)):
                raise InputError(
                    f"labels: row {number} has {row['labels']!r}, wanted a list of ids; call the tokenizer with "
                    "text_target="
                )
        return rows

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Rows → `[B, S]`, `labels` `[B, L]` and what the decoder reads; `labels` is `None` where there are none."""
        padding, limit, multiple = self.padding, self.max_length, self.pad_to_multiple_of
        batch = pad_rows(self.tokenizer, without(rows, "labels"), kind, padding, limit, multiple)
        batch["labels"] = None
        if "labels" not in rows[0]:
            return batch
        labels = [list(row["labels"]) for row in rows]
        if padding is not False and padding != "do_not_pad":
            longest = max(len(row) for row in labels)
            if padding == "max_length" and limit is not None:
                if longest > limit:
                    row = next(number for number, row in enumerate(labels) if len(row) > limit)
                    raise InputError(
                        f"labels: row {row} has {len(labels[row])} tokens, more than max_length={limit}; "
                        "tokenize with truncation=True, or raise max_length"
                    )
                longest = limit
            labels = pad_lists(
                labels, round_up(longest, multiple), self.label_pad_token_id, self.tokenizer.padding_side
            )
        batch["labels"] = as_tensor(labels, kind, "labels")
        if self._writes():
            read = self.model.prepare_decoder_input_ids_from_labels(labels=torch.as_tensor(batch["labels"]))
            batch["decoder_input_ids"] = read if kind == "pt" else read.numpy()
        return batch

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Rows → `[T]` for encoder and decoder; see the class."""
        if not self._writes():
            for number, row in enumerate(rows if "labels" in rows[0] else ()):
                given, tokens = len(row["labels"]), len(row["input_ids"])
                if given != tokens:
                    raise InputError(
                        f"labels: row {number} has {given} for {tokens} tokens; pass model= if they are what an "
                        "encoder-decoder is to write, else give each token a label"
                    )
            return pack_rows(rows, token_labels=True)
        batch = pack_rows(without(rows, "labels"))
        batch["packed_source"] = batch.pop("packed")
        if "labels" not in rows[0]:
            return batch
        labels = [_without_end(row["labels"]) for row in rows]
        width = max(len(row) for row in labels)
        read = self.model.prepare_decoder_input_ids_from_labels(
            labels=torch.tensor(pad_lists(labels, width, IGNORED, "right"), dtype=torch.long)
        )
        written = [ids[: len(row)] for ids, row in zip(read.tolist(), labels, strict=True)]
        return batch | {
            "packed": PackedTokens.from_lists(written),
            "labels": torch.tensor([label for row in labels for label in row], dtype=torch.long),
        }

    def _writes(self) -> bool:
        """Whether there is a decoder that reads something other than the text."""
        return hasattr(self.model, "prepare_decoder_input_ids_from_labels")


def _without_end(labels: Sequence[int]) -> list[int]:
    """Labels up to the last that counts; at least one, so that the decoder reads something."""
    end = max((place for place, label in enumerate(labels) if label != IGNORED), default=0) + 1
    return list(labels[:end])
