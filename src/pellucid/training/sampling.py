"""Which rows make which batch: an order that follows from seed and epoch alone, so that a run can go on in its middle.

    Order(count, args).batches(epoch)     → [[17, 3, 42, …], [8, …], …]: numbers of rows, batch by batch

A shuffled epoch has the order of the reference: a permutation drawn by a generator that is seeded with seed + epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch

from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

SORTED_BATCHES = 50
"""Batches whose rows are sorted by length among each other, when rows are grouped by length."""


class Order:
    """The batches of each epoch.

    Args:
        count: rows of the data set.
        args: batch size or token budget, sampling strategy, seeds.
        lengths: tells how many tokens each row has; asked only where that matters.
    """

    def __init__(self, count: int, args: TrainingArguments, lengths: Callable[[], Sequence[int]]) -> None:
        self.count, self.args = count, args
        self.seed = args.seed if args.data_seed is None else args.data_seed
        self.by_length = args.train_sampling_strategy == "group_by_length"
        self.lengths = lengths() if self.by_length or args.tokens_per_batch is not None else []

    def batches(self, epoch: int, seen: int = 0) -> list[list[int]]:
        """The rows of each batch of an epoch, counted from 0.

        Args:
            epoch: which one.
            seen: rows in whole batches that are left out at the beginning.
        """
        order = self._order(epoch)[seen:]
        size, budget = self.args.per_device_train_batch_size, self.args.tokens_per_batch
        if budget is None:
            found = [order[start : start + size] for start in range(0, len(order), size)]
            if self.args.dataloader_drop_last and found and len(found[-1]) < size:
                found.pop()
            return found
        found, room = [], 0
        for row in order:
            if not found or self.lengths[row] > room:
                found.append([])
                room = budget
            found[-1].append(row)
            room -= self.lengths[row]
        return found

    def _order(self, epoch: int) -> list[int]:
        if self.args.train_sampling_strategy == "sequential":
            return list(range(self.count))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        drawn: list[int] = torch.randperm(self.count, generator=generator).tolist()
        if not self.by_length:
            return drawn
        each = self.args.gradient_accumulation_steps * self.args.world_size
        size = SORTED_BATCHES * self.args.per_device_train_batch_size * each
        groups = [drawn[start : start + size] for start in range(0, len(drawn), size)]
        return [row for group in groups for row in sorted(group, key=lambda row: -self.lengths[row])]


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
