"""Documents one after another, cut in blocks of one length: rows for the pretraining of models that write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.tokenizer.vocabulary import plain
from pellucid.training.metric_base import one_of, whole
from pellucid.training.rows import Row
from pellucid.training.stream_parts import END, Marked, Part, Place, Reader, Step
from pellucid.training.stream_steps import MappedBatches

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase

Remainder = Literal["drop", "keep", "pad"]
REMAINDERS = ("drop", "keep", "pad")
DOCUMENTS = 64
"""Documents that are tokenized together."""


@dataclass(frozen=True)
class Blocks(Step):
    """Rows of `length` ids out of rows of any number of ids; the settings are those of `RowStream.blocks`, checked."""

    length: int
    eos_token_id: int | None
    remainder: Remainder
    pad_token_id: int | None

    def name(self) -> str:
        """What is done."""
        return f"blocks(length={self.length})"

    def read(self, epoch: int, place: Place = None) -> Reader:
        """The blocks."""
        return _CuttingReader(self, epoch, place)

    def ids_of(self, row: Any) -> list[int]:
        """A document's ids and the end of it; none of a document without ids."""
        ids = row.get("input_ids") if isinstance(row, Mapping) else None
        if ids is None:
            columns = f"the columns {', '.join(map(repr, row))}" if isinstance(row, Mapping) else quoted(row)
            raise InputError(f"blocks: got a row with {columns}, wanted 'input_ids'; give a tokenizer for texts")
        found = list(plain(ids))
        if found and self.eos_token_id is not None:
            found.append(self.eos_token_id)
        return found

    def block(self, ids: list[int]) -> Row:
        """A row of these ids, filled up if that is wanted."""
        if self.remainder != "pad" or self.pad_token_id is None:
            return {"input_ids": ids}
        missing = self.length - len(ids)
        mask = [1] * len(ids) + [0] * missing
        return {"input_ids": ids + [self.pad_token_id] * missing, "attention_mask": mask}


class _CuttingReader(Reader):
    """A place is the one of the document that the next block begins in, and how many of its ids are left."""

    def __init__(self, step: Blocks, epoch: int, place: Place) -> None:
        start, left = place or (None, 0)
        self.step, self.rows = step, Marked(step.before, epoch, start)
        self.place_size = self.rows.rows.place_size
        self.ids: list[int] = []
        self.used = 0
        if left:
            row = next(self.rows, END)
            self.ids = [] if row is END else step.ids_of(row)
            self.used = len(self.ids) - left
            if self.used < 0:
                raise InputError("state: a document has fewer ids than when it was taken; give the same files")

    def __next__(self) -> Any:
        length = self.step.length
        while len(self.ids) - self.used < length:
            self.rows.forget(self.rows.number)
            row = next(self.rows, END)
            if row is END:
                rest, self.ids, self.used = self.ids[self.used :], [], 0
                if rest and self.step.remainder != "drop":
                    return self.step.block(rest)
                raise StopIteration
            self.ids, self.used = self.ids[self.used :] + self.step.ids_of(row), 0
        self.used += length
        return self.step.block(self.ids[self.used - length : self.used])

    def place(self) -> Place:
        left = len(self.ids) - self.used  # all of them from the row that was read last
        return [self.rows.place_of(self.rows.number - (left > 0)), left]


def blocks(
    rows: Part,
    length: int,
    tokenizer: PreTrainedTokenizerBase | None,
    eos_token_id: int | None,
    remainder: str,
    pad_token_id: int | None,
    text_column: str,
) -> Blocks:
    """Blocks of the ids in rows, or of the ids of their texts; arguments as in `RowStream.blocks`.

    Raises:
        InputError: arguments that do not fit.
    """
    whole(length, "length", 1)
    one_of(remainder, REMAINDERS, "remainder")
    if tokenizer is not None:
        rows = MappedBatches(rows, _ids_of_texts(tokenizer, text_column), False, {}, (text_column,), DOCUMENTS)
        eos_token_id = tokenizer.eos_token_id if eos_token_id is None else eos_token_id
        pad_token_id = tokenizer.pad_token_id if pad_token_id is None else pad_token_id
        if eos_token_id is None:
            raise InputError(
                "blocks: the tokenizer has no eos_token, wanted one to end each document; give eos_token_id, "
                "such as tokenizer.sep_token_id"
            )
    if remainder == "pad" and pad_token_id is None:
        raise InputError("blocks: remainder='pad' wants pad_token_id, or a tokenizer that has one")
    return Blocks(rows, length, eos_token_id, remainder, pad_token_id)  # type: ignore[arg-type]  # checked above


def _ids_of_texts(tokenizer: PreTrainedTokenizerBase, column: str) -> Any:
    """A function from columns to the ids of the texts in one of them."""

    def ids_of(columns: Mapping[str, list[Any]]) -> dict[str, Any]:
        if column not in columns:
            near = did_you_mean(column, columns) or f"; they have {', '.join(map(repr, columns))}"
            raise InputError(f"text_column: the rows have no column {column!r}{near}")
        return {"input_ids": tokenizer(columns[column], add_special_tokens=False, verbose=False)["input_ids"]}

    return ids_of
