"""Rows of texts → the batch of an embedding model: all texts of all columns as one packed batch.

    {"anchor": "a question", "positive": "its answer", "negative": "another text"}
    {"sentence1": "a text", "sentence2": "another one", "score": 0.8}

The columns stay in their order: column 0 of all rows, then column 1, and so on. A text may also be a list of ids.

Axes: `B` rows, `C` columns of texts, `N = C · B` texts, `S` width of the padded batch, `T` packed tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any

import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.layout import Layout, PackedTokens
from pellucid.tokenizer.encoding import TensorKind, as_tensor
from pellucid.tokenizer.vocabulary import plain
from pellucid.training.collators import Batch, Collator, collator
from pellucid.training.embedding_model import TextReader
from pellucid.training.rows import Row, pad_rows

LABELS = ("label", "labels", "score", "scores")
"""Names of the column that is no text; the first one that is there holds."""
NO_TEXTS = (*LABELS, "length")
"""Columns that no model reads."""
USUAL_PLACES = {"anchor": 0, "positive": 1}
"""Columns whose names say where they belong."""


def text_columns(row: Mapping[str, Any]) -> list[str]:
    """The columns of a row that are texts, in their order.

    Raises:
        InputError: there are none, or `anchor` and `positive` are not the first two.
    """
    names = [name for name in row if name not in NO_TEXTS]
    if not names:
        raise InputError(f"rows have {list(row)}, wanted columns of texts, such as 'anchor' and 'positive'")
    for name, place in USUAL_PLACES.items():
        if name in names and names.index(name) != place:
            raise InputError(
                f"rows have the columns {names}, wanted {name!r} as number {place}: columns count by their order; "
                "put them in order, or call them by other names"
            )
    return names


@collator
class DataCollatorForEmbeddings(Collator):
    """Rows of texts → vectors' input: `input_ids` `[N, S]`, or `packed` with `places` `[N]`, and `labels`.

    Args:
        reader: how texts become ids, `model.reader`.
        prompts: what is put before each text, or column → what is put before its texts.
        truncation: cut texts that are too long; `False` refuses them.
        return_tensors: `"pt"` or `"np"`.
    """

    reader: TextReader
    prompts: str | dict[str, str] | None = None
    truncation: bool = True
    return_tensors: TensorKind = "pt"

    def prepare(self, rows: list[Row]) -> list[Row]:
        """Each text as a row of its own, `input_ids` and `skipped`; the first one holds `columns` and `labels`."""
        names = text_columns(rows[0])
        prompts = self._prompts(names)
        texts: list[Row] = []
        for name in names:
            ids = self._ids(name, [row[name] for row in rows], prompts[name])
            skipped = self.reader.skipped(prompts[name])
            short = next((place for place, each in enumerate(ids) if len(each) <= skipped), None)
            if short is not None:
                raise InputError(f"{name}: row {short}: nothing but the prompt is left of it; use a shorter prompt")
            texts += [{"input_ids": each, "skipped": skipped} for each in ids]
        texts[0]["columns"] = len(names)
        if (label := next((name for name in LABELS if name in rows[0]), None)) is not None:
            texts[0]["labels"] = [plain(row[label]) for row in rows]
        return texts

    def _prompts(self, names: Sequence[str]) -> dict[str, str]:
        """Column → what is put before its texts."""
        if self.prompts is None or isinstance(self.prompts, str):
            return dict.fromkeys(names, self.prompts or "")
        if unknown := [name for name in self.prompts if name not in names]:
            near = did_you_mean(unknown[0], names)
            raise InputError(f"prompts: got one for {quoted(unknown[0])}, rows have the columns {list(names)}{near}")
        return {name: self.prompts.get(name, "") for name in names}

    def _ids(self, name: str, values: list[Any], prompt: str) -> list[list[int]]:
        """The ids of a column's texts."""
        if all(isinstance(value, str) for value in values):
            try:
                return self.reader.ids(values, prompt, self.truncation)
            except InputError as error:
                raise InputError(f"{name}: {error}") from None
        found = [plain(value) for value in values]
        for number, ids in enumerate(found):
            if not isinstance(ids, list | tuple) or not ids or not all(isinstance(each, int) for each in ids):
                raise InputError(
                    f"{name}: row {number}: got {quoted(ids)}, wanted a text or a list of ids, as in the other rows; "
                    "leave columns out that are no texts"
                )
            if len(ids) > self.reader.limit:
                raise InputError(
                    f"{name}: row {number}: got {len(ids):,} ids, the limit is {self.reader.limit:,}; cut them, or "
                    "give texts"
                )
        if prompt:
            raise InputError(f"prompts: got one for {name!r}, whose texts are ids already; give texts, or no prompt")
        return found

    def padded(self, rows: list[Row], kind: TensorKind) -> Batch:
        """Texts → `[N, S]`, column by column."""
        ids = [{"input_ids": row["input_ids"], "attention_mask": [1] * len(row["input_ids"])} for row in rows]
        batch = dict(pad_rows(self.reader.tokenizer, ids, kind))
        return batch | self._beside(rows, [row["skipped"] for row in rows], kind)

    def packed(self, rows: list[Row]) -> dict[str, Any]:
        """Texts → `[T]`, those of equal length side by side; text `i` is number `places[i]` in the batch."""
        order = sorted(range(len(rows)), key=lambda text: (rows[text]["skipped"], len(rows[text]["input_ids"])))
        texts = [rows[text]["input_ids"] for text in order]
        layout = Layout.from_lengths([len(ids) for ids in texts])
        layout.choices = rows[0]["columns"]  # a row counts once, however many texts it has
        places = torch.empty(len(order), dtype=torch.long)
        places[order] = torch.arange(len(order))
        ids = torch.tensor([number for text in texts for number in text], dtype=torch.long)
        skipped = [rows[text]["skipped"] for text in order]
        return {"packed": PackedTokens(layout, ids), "places": places, **self._beside(rows, skipped, "pt")}

    def _beside(self, rows: list[Row], skipped: list[int], kind: TensorKind) -> dict[str, Any]:
        """What a batch holds beside the tokens."""
        batch: dict[str, Any] = {"columns": rows[0]["columns"]}
        if any(skipped):
            batch["skipped"] = skipped
        if "labels" in rows[0]:
            labels = as_tensor(rows[0]["labels"], kind, "labels")
            batch["labels"] = labels.float() if kind == "pt" else labels.astype("float32")
        return batch


# ---------------------------------------------------------------------- batches without duplicates


class DistinctOrder:
    """The batches of each epoch, in none of which a text stands twice, in whatever column.

    A row that shares a text with its batch waits for the next one. Everything follows from the order that is given,
    so that a run can go on in its middle.

    Args:
        order: has the batches of each epoch, whose rows are taken in their order.
        dataset: the rows.
        size: rows of a batch.
        drop_last: leave batches out that have fewer.
    """

    def __init__(self, order: Any, dataset: Any, size: int, drop_last: bool) -> None:
        self.order, self.size, self.drop_last = order, size, drop_last
        self.texts = [_marks(dataset[number]) for number in range(len(dataset))]

    def batches(self, epoch: int, seen: int = 0) -> list[list[int]]:
        """The rows of each batch of an epoch, counted from 0, but for the first batches that have `seen` rows."""
        found = self._all(epoch)
        while seen > 0:
            seen -= len(found.pop(0))
        return found

    def _all(self, epoch: int) -> list[list[int]]:
        rows = iter([row for batch in self.order.batches(epoch) for row in batch])
        waiting: list[int] = []
        found: list[list[int]] = []
        while True:
            batch: list[int] = []
            taken: set[int] = set()
            again: list[int] = []
            held = iter(waiting)
            for source in (held, rows):
                while len(batch) < self.size and (row := next(source, None)) is not None:
                    if taken.isdisjoint(self.texts[row]):
                        batch.append(row)
                        taken.update(self.texts[row])
                    else:
                        again.append(row)
            waiting = [*again, *held]
            if not batch:
                return found
            if len(batch) == self.size or not self.drop_last:
                found.append(batch)


def _marks(row: Mapping[str, Any]) -> tuple[int, ...]:
    """A number for each text of a row, the same for the same text."""
    values = [row[name] if isinstance(row[name], str) else str(plain(row[name])) for name in text_columns(row)]
    return tuple({int.from_bytes(blake2b(value.encode(), digest_size=8).digest(), "big") for value in values})
