"""Batches as scripts ask a trainer for them: its `get_train_dataloader`, `get_eval_dataloader`, `get_test_dataloader`.

From outside they are like torch's loaders: `len(loader)`, `loader.dataset`, `for batch in loader`. What they show is
padded; a trainer goes round them to the rows behind, which it packs. What a subclass gives in their place, such as a
`DataLoader` with a sampler of its own, is read as it is: `LoaderFeed` trains on it, `own_batches` answers it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import torch

from pellucid.errors import InputError
from pellucid.training.batches import collate, count_items, kept_columns, read_row, rows_in, tokens_in
from pellucid.training.collators import DataCollatorForSeq2Seq
from pellucid.training.feed import Feed, GatheredFeed, Portion, Step
from pellucid.training.rows import IGNORED
from pellucid.training.streams import rows_from

if TYPE_CHECKING:
    from pellucid.training.processes import Processes
    from pellucid.training.trainer import Trainer

# ---------------------------------------------------------------------- to train on


class TrainBatches:
    """The batches that this process trains on, padded; each time they are gone through, those of the next epoch.

    Args:
        feed: what the trainer reads.
        batch_size: rows of a batch, where these are counted.
    """

    def __init__(self, feed: GatheredFeed, batch_size: int) -> None:
        self.feed, self.batch_size = feed, batch_size
        self.dataset, self.collate_fn = feed.dataset, feed.collator
        self.epoch = 0

    def __len__(self) -> int:
        batches = self.feed.batches_in(self.epoch)
        if batches is None:
            raise TypeError(f"{type(self.dataset).__name__} does not say how many rows it has")
        return math.ceil(batches / self.feed.together.count)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        padded = copy.copy(self.feed)
        padded.packed = False
        epoch, self.epoch = self.epoch, self.epoch + 1
        for portions, _ in padded.steps(epoch, 0, 0):
            for portion in portions:
                yield portion.batch

    def set_epoch(self, epoch: int) -> None:
        """Give the batches of another epoch, counted from 0."""
        self.epoch = epoch


class LoaderFeed(Feed):
    """The steps of batches that a loader of the user's own gives; each process computes every so many of them.

    An epoch begins with torch's random numbers as seed and epoch say, so that samplers that draw by these give the same
    order when a run goes on.

    Args:
        trainer: with settings and processes.
        loader: gives dictionaries, the same for every process.

    Raises:
        InputError: nobody knows how long an epoch is, and `max_steps` is not set.
    """

    def __init__(self, trainer: Trainer, loader: Any) -> None:
        super().__init__(trainer, getattr(loader, "dataset", None))
        self.loader = loader
        if not isinstance(loader, Iterable):
            kind = type(loader).__name__
            raise InputError(f"get_train_dataloader: got {kind}, wanted batches that can be iterated over")
        if self.args.max_steps < 1 and length_of(loader) is None:
            raise InputError("get_train_dataloader: its loader does not say how many batches it has; set max_steps")
        if length_of(loader) == 0:
            raise InputError("get_train_dataloader: its loader has no batches")

    def batches_in(self, epoch: int) -> int | None:
        """As the loader says."""
        return length_of(self.loader)

    def steps(self, epoch: int, seen: int, step: int) -> Iterator[Step]:
        """As in `Feed`; what was seen is read once more, and left out."""
        batches = as_dictionaries(self._epoch(epoch), "get_train_dataloader")
        while seen > 0 and (batch := next(batches, None)) is not None:
            seen -= rows_in(batch)
        while chunk := list(islice(batches, self.each)):
            made = [Portion(batch, count_items(batch, self.shifted), tokens_in(batch)) for batch in chunk]
            yield self._mine(len(made), made.__getitem__), sum(map(rows_in, chunk))

    def _epoch(self, epoch: int) -> Iterator[Any]:
        for part in (self.loader, getattr(self.loader, "sampler", None), getattr(self.loader, "batch_sampler", None)):
            getattr(part, "set_epoch", lambda epoch: None)(epoch)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed((self.args.seed if self.args.data_seed is None else self.args.data_seed) + epoch)
            batches = iter(self.loader)
            first = list(islice(batches, 1))  # samplers draw when the first batch is asked for
        return chain(first, batches)


# ---------------------------------------------------------------------- to answer


class EvalBatches:
    """The batches of a data set in the order of its rows, padded; of all processes.

    Args:
        trainer: with collator and settings.
        dataset: its rows; those that come one after another are kept.
        name: what it is called in messages.

    Raises:
        InputError: there are none.
    """

    def __init__(self, trainer: Trainer, dataset: Any, name: str) -> None:
        if dataset is not None and not hasattr(dataset, "__len__") and isinstance(dataset, Iterable):
            dataset = list(rows_from(dataset, epoch=0, skipped=0))
        if dataset is None or not hasattr(dataset, "__len__") or len(dataset) == 0:
            raise InputError(f"{name}: got {'none' if dataset is None else 'no rows'}, wanted rows to answer")
        args = trainer.args
        self.dataset, self.batch_size, self.collate_fn = dataset, args.eval_batch_size, trainer.data_collator
        self.kept = kept_columns(trainer.model, args.label_names) if args.remove_unused_columns else None

    def __len__(self) -> int:
        return math.ceil(len(self.dataset) / self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self.batch(number) for number in range(len(self)))

    def batch(self, number: int, packed: bool = False) -> dict[str, Any]:
        """One of the batches.

        Args:
            number: which.
            packed: laid out without padding, where only its loss is wanted.
        """
        start = number * self.batch_size
        numbers = range(start, min(start + self.batch_size, len(self.dataset)))
        rows = [read_row(self.dataset, row, self.kept) for row in numbers]
        made = collate(self.collate_fn, rows, 0, numbers, packed)
        if packed:
            return made
        batch = {name: value for name, value in made.items() if value is not None}  # rows may have no labels
        if isinstance(self.collate_fn, DataCollatorForSeq2Seq):
            _hide_padding(batch)
        return batch


def own_batches(loader: Any, processes: Processes, packed: bool) -> Iterator[tuple[dict[str, Any], int]]:
    """The batches that this process answers: every so many; those that have none left get the last one again.

    Each comes with how many rows it has.

    Args:
        loader: `EvalBatches`, or a loader of the user's own.
        processes: that share the batches.
        packed: laid out without padding, where that can be.
    """
    last = len(loader) - 1
    wanted = [min(turn + processes.index, last) for turn in range(0, len(loader), processes.count)]
    if isinstance(loader, EvalBatches):
        size, count = loader.batch_size, len(loader.dataset)
        yield from ((loader.batch(number, packed), min(size, count - number * size)) for number in wanted)
        return
    batches = enumerate(as_dictionaries(loader, "get_eval_dataloader"))
    number, batch = -1, dict[str, Any]()
    for want in wanted:
        while number < want:
            number, batch = next(batches)
        yield batch, rows_in(batch)


def _hide_padding(batch: dict[str, Any]) -> None:
    """Tell an encoder-decoder's decoder which of its tokens stand behind the last label, so that it skips them."""
    if not {"labels", "decoder_input_ids"} <= batch.keys() or "decoder_attention_mask" in batch:
        return
    counted = (batch["labels"] != IGNORED).flip(1).cumsum(1).flip(1) > 0  # [B, L]: there is a label here or behind
    counted[:, 0] = True  # a decoder reads something
    batch["decoder_attention_mask"] = counted.long()


# ---------------------------------------------------------------------- loaders of users


def length_of(loader: Any) -> int | None:
    """How many batches a loader has; `None` if it does not say."""
    try:
        return len(loader)
    except TypeError:  # as torch's loaders of streams
        return None


def with_length(loader: Any) -> Any:
    """A loader that says how many batches it has; one that does not is read whole."""
    return list(loader) if length_of(loader) is None else loader


def as_dictionaries(batches: Iterable[Any], source: str) -> Iterator[dict[str, Any]]:
    """Batches as dictionaries.

    Raises:
        InputError: one is something else.
    """
    for batch in batches:
        if not isinstance(batch, Mapping):
            kind = "a list of tensors" if isinstance(batch, Sequence) else f"a {type(batch).__name__}"
            raise InputError(f"{source}: got {kind} as a batch, wanted a dictionary with names of the model's inputs")
        yield dict(batch)
