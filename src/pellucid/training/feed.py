"""What the steps of a run read: rows of a data set, batch by batch, and of these the ones of this process.

    for portions, rows in feed.steps(epoch, seen, step):     one step: `rows` of the data set, in all processes
        for batch, items, tokens in portions:                the batches of this process

The batches of an epoch stand in one order, whoever computes them: a step takes the next `gradient_accumulation_steps`
times as many as there are processes, and process 1 of 2 the second, fourth, … of these. So a step sees the same rows in
one process and in many, and its loss is the mean over all of them. A run that goes on from a checkpoint leaves out the
rows that the epoch has seen.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from itertools import accumulate, islice
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.errors import InputError
from pellucid.training.batches import (
    check_labels,
    collate,
    count_items,
    in_memory,
    is_shifted,
    keep,
    kept_columns,
    tokens_in,
)
from pellucid.training.collators import Collator
from pellucid.training.sampling import BY_LENGTH, Order, length_of, lengths_of
from pellucid.training.streams import RowStream, rows_from

if TYPE_CHECKING:
    from pellucid.training.trainer import Trainer

Step = tuple[list["Portion"], int]
"""What a process computes in a step, and how many rows of the data set the step takes in all processes."""


class Portion(NamedTuple):
    """A batch, what its loss is the mean of (0: it does not count), and its tokens without padding."""

    batch: dict[str, Any]
    items: int
    tokens: int


class Feed(ABC):
    """The steps of a data set.

    Args:
        trainer: with model, collator, settings and processes.
        dataset: the rows.
    """

    reads_ahead = False
    """Whether a step can be made beside the one before: nothing in it draws from the common random numbers."""
    packed = False
    """Whether batches are laid out without padding."""

    def __init__(self, trainer: Trainer, dataset: Any) -> None:
        self.dataset, self.args, self.together = dataset, trainer.args, trainer.processes
        self.collator, self.shifted = trainer.data_collator, is_shifted(trainer.model)
        self.each = self.args.gradient_accumulation_steps * self.together.count

    @abstractmethod
    def batches_in(self, epoch: int) -> int | None:
        """How many batches an epoch has; `None` where that shows only when the rows end."""

    def steps_in(self, epoch: int) -> int | None:
        """How many steps an epoch has; `None` as above."""
        batches = self.batches_in(epoch)
        return None if batches is None else math.ceil(batches / self.each)

    @abstractmethod
    def steps(self, epoch: int, seen: int, step: int) -> Iterator[Step]:
        """The steps of an epoch that are left.

        Args:
            epoch: from 0.
            seen: rows that earlier steps of the epoch have taken, in all processes.
            step: number of the next step of the run, which collators draw by.
        """

    def _mine(self, batches: int, made: Callable[[int], Portion]) -> list[Portion]:
        """The batches of this process out of those of a step.

        All processes have the same number of them: what the last step of an epoch may lack is a batch that does not
        count.

        Args:
            batches: how many the step has.
            made: gives the batch of a number.
        """
        numbers = range(self.together.index, batches, self.together.count)
        found = [made(number) for number in numbers]
        if len(found) < math.ceil(batches / self.together.count):
            found.append(made(0)._replace(items=0, tokens=0))
        return found


class GatheredFeed(Feed):
    """Steps whose batches are put together here, of rows."""

    def __init__(self, trainer: Trainer, dataset: Any) -> None:
        super().__init__(trainer, dataset)
        self.kept = kept_columns(trainer.model, self.args.label_names) if self.args.remove_unused_columns else None
        self.packed = self.args.packed and reads_packed(trainer)
        self.reads_ahead = in_memory(dataset) and isinstance(self.collator, Collator)

    @abstractmethod
    def batches(self, epoch: int, seen: int) -> Iterator[list[Any]]:
        """What stands for the rows of each batch, once `seen` rows of the epoch are left out."""

    @abstractmethod
    def read(self, place: Any) -> Any:
        """The row that something stands for."""

    def steps(self, epoch: int, seen: int, step: int) -> Iterator[Step]:
        """As in `Feed`; the order of rows follows from seed and epoch, and what collators draw from the step."""
        batches = self.batches(epoch, seen)
        while chunk := list(islice(batches, self.each)):
            yield self._portions(chunk, step), sum(map(len, chunk))
            step += 1

    def _portions(self, chunk: list[list[Any]], step: int) -> list[Portion]:
        starts = list(accumulate(map(len, chunk), initial=0))
        return self._mine(len(chunk), lambda number: self._portion(chunk[number], step, starts[number]))

    def _portion(self, places: list[Any], step: int, start: int) -> Portion:
        rows = [keep(self.read(place), self.kept) for place in places]
        order = sorted(range(len(rows)), key=lambda number: _length(rows[number]) if self.packed else 0)
        numbers = [start + number for number in order]  # rows of one length are attended to together
        batch = collate(self.collator, [rows[number] for number in order], step, numbers, self.packed)
        return Portion(batch, count_items(batch, self.shifted), tokens_in(batch))


def reads_packed(trainer: Trainer) -> bool:
    """Whether a step can read packed rows: no code of a user works out its loss, nor a loss that wants padding."""
    own = all(
        getattr(type(trainer), name).__module__.startswith("pellucid.") for name in ("compute_loss", "training_step")
    )
    return own and trainer.compute_loss_func is None and not trainer.args.label_smoothing_factor


def _length(row: Any) -> int:
    return len(row["input_ids"]) if isinstance(row, Mapping) and hasattr(row.get("input_ids"), "__len__") else 0


class RowFeed(GatheredFeed):
    """Of rows that have numbers.

    Raises:
        InputError: there are none, they make no whole batch, or have a label that the model does not know.
    """

    def __init__(self, trainer: Trainer, dataset: Any) -> None:
        super().__init__(trainer, dataset)
        if len(dataset) == 0:
            raise InputError("train_dataset: it is empty")
        check_labels(dataset, trainer.model, self.kept)
        self.order = Order(len(dataset), self.args, lambda: lengths_of(dataset, self.args.length_column_name))
        self._varies, self._counted = self.args.tokens_per_batch is not None, dict[int, int]()
        if self.steps_in(0) == 0:
            raise InputError(f"train_dataset: {len(dataset)} rows make no whole batch, and dataloader_drop_last is set")

    def regroup(self, order: Any) -> None:
        """Take the batches of another order, whose number may differ from epoch to epoch."""
        self.order, self._varies = order, True
        self._counted.clear()

    def batches_in(self, epoch: int) -> int:
        """Token budgets cut each epoch a little differently; batches of a number of rows are always as many."""
        key = epoch if self._varies else 0
        if key not in self._counted:
            self._counted[key] = len(self.order.batches(epoch))
        return self._counted[key]

    def batches(self, epoch: int, seen: int) -> Iterator[list[int]]:
        """Numbers of rows."""
        return iter(self.order.batches(epoch, seen))

    def read(self, place: int) -> Any:
        """The row of that number."""
        return self.dataset[place]


class StreamFeed(GatheredFeed):
    """Of rows that come one after another, no one knows how many; every process reads all and keeps its own."""

    def __init__(self, trainer: Trainer, dataset: Any) -> None:
        super().__init__(trainer, dataset)
        self.reads_ahead = isinstance(dataset, RowStream) and isinstance(self.collator, Collator)
        if self.args.max_steps < 1:
            raise InputError(
                f"train_dataset: got {type(dataset).__name__}, which does not say how many rows it has; set max_steps"
            )
        if self.args.train_sampling_strategy in BY_LENGTH:
            raise InputError(
                f"train_sampling_strategy: got {self.args.train_sampling_strategy!r} and rows that come one after "
                "another; leave it out"
            )

    def batches_in(self, epoch: int) -> None:
        """Nobody knows."""

    def batches(self, epoch: int, seen: int) -> Iterator[list[Any]]:
        """The rows themselves."""
        size, budget = self.args.per_device_train_batch_size, self.args.tokens_per_batch
        rows: list[Any] = []
        room = budget or 0
        for number, row in enumerate(rows_from(self.dataset, epoch=epoch, skipped=seen), seen):
            length = 0 if budget is None else length_of(row, self.args.length_column_name, f"row {number}")
            if rows and (len(rows) == size if budget is None else length > room):
                yield rows
                rows, room = [], budget or 0
            rows.append(row)
            room -= length
        if rows and not (self.args.dataloader_drop_last and budget is None and len(rows) < size):
            yield rows

    def read(self, place: Any) -> Any:
        """It is the row already."""
        return place


def feed_of(trainer: Trainer, dataset: Any) -> Feed:
    """The steps of whatever data set there is.

    Raises:
        InputError: it is none, is empty, or does not fit the model and the settings.
    """
    if type(dataset).__module__.partition(".")[0] in ("pandas", "polars"):
        raise InputError(
            "train_dataset: got a frame, wanted rows; hand over its rows, such as frame.to_dict('records')"
        )
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and not isinstance(dataset, str | bytes | dict):
        return RowFeed(trainer, dataset)
    if hasattr(dataset, "__iter__") and not isinstance(dataset, str | bytes | dict):
        return StreamFeed(trainer, dataset)
    raise InputError(
        f"train_dataset: got {type(dataset).__name__}, wanted rows: a list, or anything else that has numbers or "
        "can be iterated over"
    )


def planned_steps(feed: Feed, epochs: float) -> int:
    """Steps of some epochs, of which the last may be a part; the feed knows how many an epoch has."""
    last = math.ceil(epochs) - 1
    each = [feed.steps_in(epoch) or 0 for epoch in range(last + 1)]
    return sum(each[:-1]) + math.ceil((epochs - last) * each[-1])
