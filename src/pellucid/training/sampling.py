"""Which rows make which batch: an order that follows from seed and epoch alone, so that a run can go on in its middle.

    Order(count, args).batches(epoch)     → [[17, 3, 42, …], [8, …], …]: numbers of rows, batch by batch

A shuffled epoch has the order of the reference: a permutation drawn by a generator that is seeded with seed + epoch.
What `train_sampling_strategy` makes of it:

- `group_by_length` sorts windows of it by length, longest first. Batches of a number of rows come in that order, as the
  reference has them; batches of a number of tokens, which it does not know, come shuffled, so that steps do not go from
  long to short window by window.
- `batch_rebalance` leaves each step its rows, and cuts them into batches of about as many tokens each.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import torch

from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

Each = TypeVar("Each")

BY_LENGTH = ("group_by_length", "batch_rebalance")
"""Strategies that ask for the lengths of rows."""
SORTED_STEPS = 50
"""Steps whose rows are sorted by length among each other, at most; an epoch has at least four such windows."""


class Order:
    """The batches of each epoch.

    Args:
        count: rows of the data set.
        args: batch size or token budget, sampling strategy, seeds.
        lengths: tells how many tokens each row has; asked only where that matters.
    """

    def __init__(self, count: int, args: TrainingArguments, lengths: Callable[[], Sequence[int]]) -> None:
        self.count, self.strategy, self.budget = count, args.train_sampling_strategy, args.tokens_per_batch
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.lengths = lengths() if self.budget is not None or self.strategy in BY_LENGTH else []
        self.each = args.gradient_accumulation_steps * args.world_size  # batches of a step
        self.size, self.drop_last = args.per_device_train_batch_size, args.dataloader_drop_last
        if self.budget is not None:
            self.size = max(1, self.budget * count // max(1, sum(self.lengths)))  # on average

    def batches(self, epoch: int, seen: int = 0) -> list[list[int]]:
        """The rows of each batch of an epoch, counted from 0.

        Args:
            epoch: which one.
            seen: rows in whole steps that are left out at the beginning.
        """
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = self._order(generator)
        if self.budget is not None:
            found = self._within(self.budget, order)
            if self.strategy == "group_by_length":
                found = [found[number] for number in torch.randperm(len(found), generator=generator).tolist()]
            return without_first(found, seen)
        found = in_parts(order[seen:], self.size)
        if self.drop_last and found and len(found[-1]) < self.size:
            found.pop()
        if self.strategy == "batch_rebalance":
            steps = [[row for batch in step for row in batch] for step in in_parts(found, self.each)]
            return [batch for step in steps for batch in self._balanced(step)]
        return found

    def _order(self, generator: torch.Generator) -> list[int]:
        if self.strategy == "sequential":
            return list(range(self.count))
        drawn: list[int] = torch.randperm(self.count, generator=generator).tolist()
        if self.strategy != "group_by_length":
            return drawn
        step = self.size * self.each
        windows = in_parts(drawn, step * max(1, min(SORTED_STEPS, self.count // (4 * step))))
        windows = [sorted(window, key=lambda row: -self.lengths[row]) for window in windows]
        longest = max(windows, key=lambda window: self.lengths[window[0]])
        windows[0][0], longest[0] = longest[0], windows[0][0]  # what has no room in memory shows at once
        return [row for window in windows for row in window]

    def _within(self, budget: int, order: list[int]) -> list[list[int]]:
        """Batches of at most so many tokens; a longer row is alone."""
        found: list[list[int]] = []
        room = 0
        for row in order:
            if not found or self.lengths[row] > room:
                found.append([])
                room = budget
            found[-1].append(row)
            room -= self.lengths[row]
        return found

    def _balanced(self, rows: list[int]) -> list[list[int]]:
        """The rows of a step, longest first, as batches of about as many tokens each, none of them empty."""
        rows = sorted(rows, key=lambda row: -self.lengths[row])
        count = min(self.each, len(rows))
        found: list[list[int]] = []
        start, left = 0, sum(self.lengths[row] for row in rows)
        for batches in range(count, 0, -1):
            share, end, taken = left / batches, start, 0
            while end < len(rows) - (batches - 1) and (end == start or taken + self.lengths[rows[end]] / 2 <= share):
                taken += self.lengths[rows[end]]
                end += 1
            end = end if batches > 1 else len(rows)
            found.append(rows[start:end])
            start, left = end, left - taken
        return found


def in_parts(values: list[Each], size: int) -> list[list[Each]]:
    """Neighbours in parts of a size; the last may be smaller."""
    return [values[start : start + size] for start in range(0, len(values), size)]


def without_first(batches: list[list[int]], seen: int) -> list[list[int]]:
    """What is left of batches once so many rows of them are taken."""
    for number, batch in enumerate(batches):
        if seen < len(batch):
            return [batch[seen:], *batches[number + 1 :]]
        seen -= len(batch)
    return []


def lengths_of(dataset: Sequence[object], column: str) -> list[int]:
    """How many tokens each row has, see `length_of`."""
    return [length_of(dataset[number], column, f"row {number}") for number in range(len(dataset))]


def length_of(row: object, column: str, which: str) -> int:
    """How many tokens a row has: as `column` says, else those of its `input_ids`.

    Raises:
        InputError: it has neither; `which` row it is stands in the message.
    """
    if isinstance(row, Mapping) and isinstance(row.get(column), int):
        return int(row[column])
    if isinstance(row, Mapping) and "input_ids" in row:
        return len(row["input_ids"])
    raise InputError(f"train_dataset: {which}: got no input_ids and no {column!r}, wanted one of them for its length")
