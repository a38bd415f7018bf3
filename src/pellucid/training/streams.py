"""Rows for training out of files and streams: read as they are needed, in an order that follows from seed and epoch.

    stream = RowStream("data/*.jsonl.gz", shuffle_buffer=10_000, seed=0)
    stream = stream.map(lambda rows: tokenizer(rows["text"]), batched=True, remove_columns="text")
    for row in stream: ...

    rows = rows_from(stream, epoch=2)                 what a training loop reads, of this or any other iterable data set
    rows_from(stream, state=rows.state_dict())        the rows after the last one, in another process, too

`load_rows` reads files into memory. Steps are in `stream_steps.py`, sources in `stream_sources.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

from pellucid.errors import InputError, strict
from pellucid.files import quoted
from pellucid.training.metric_base import whole
from pellucid.training.rows import Row
from pellucid.training.stream_ahead import read_ahead
from pellucid.training.stream_blocks import Remainder, blocks
from pellucid.training.stream_mixing import StoppingStrategy, interleaved
from pellucid.training.stream_parts import Part, Place
from pellucid.training.stream_sources import TEXT_COLUMN, DataFiles, Generated, Iterated, files_of
from pellucid.training.stream_steps import Filtered, Mapped, MappedBatches, Share, Shuffled, Slice

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase

__all__ = ["RowIterator", "RowStream", "blocks_of", "interleave_rows", "load_rows", "read_ahead", "rows_from"]

STATE = {"stream": list, "epoch": int, "rows": int}
"""What a state holds beside the place, and of which type."""


class RowIterator:
    """The rows of one epoch, one after another; made by `iter(stream)` and `rows_from`.

    Attributes:
        epoch: which epoch.
        rows: how many rows were read, by all processes together.
    """

    def __init__(
        self, part: Part, epoch: int, place: Place = None, rows: int = 0, share: tuple[int, int] = (1, 0)
    ) -> None:
        self.epoch, self.rows = epoch, rows
        self._names = part.names()
        self._reader = part.read(epoch, place)
        self._count, self._index = share
        self._refuses_none = False
        self._failure = ""

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Any:
        self._refuse_failed()
        try:
            return self._next()
        except StopIteration:
            if self.rows or not self._refuses_none:
                raise
            kind = " > ".join(self._names)
            shared = f" for each of {self._count} processes" if self._count > 1 else ""
            raise InputError(f"train_dataset: no rows in epoch {self.epoch}{shared}: {kind}; wanted some") from None
        except BaseException as error:
            self._failure = f"{type(error).__name__}: {error}"
            self.close()
            raise

    def close(self) -> None:
        """Close the file that is being read; there is nothing to be read afterwards."""
        self._failure = self._failure or "closed"
        self._reader.close()

    def _refuse_failed(self) -> None:
        if self._failure:
            raise InputError(f"rows: reading has ended, there is nothing to go on with: {self._failure}")

    def _next(self) -> Any:
        """The row of this process in the next round, if the round is whole."""
        after = self._count - 1 - self._index
        self._reader.leave_out(self._index)
        row = next(self._reader)
        if self._reader.leave_out(after) < after:
            raise StopIteration
        self.rows += self._count
        return row

    def state_dict(self) -> dict[str, Any]:
        """Where the iterator stands, behind the row given last; it can be written as JSON.

        It is the same in all processes that share the rows. To be called in the thread that reads.

        Raises:
            InputError: reading ended with an error, and there is no such place.
        """
        self._refuse_failed()
        return {"stream": self._names, "epoch": self.epoch, "rows": self.rows, "place": self._reader.place()}


class RowStream:
    """Rows of files, read as they are needed, in the same order for the same seed and epoch.

    Methods have the names of `datasets.IterableDataset`. Each returns a new stream and reads nothing.

    Shuffled are first the files (Fisher and Yates), then the rows: a buffer is kept full, the next row is drawn from
    all that are in it, and the last one takes its place. Functions are called when a row is asked for, so rows that are
    left out cost no more than reading where `shuffle`, `skip` and `shard` stand before `map`.

    Args:
        data_files: a file, a pattern such as `data/*.jsonl.gz`, or several: JSON lines, CSV, TSV, Parquet or lines of
            text, the last as rows `{"text": …}`; all but Parquet also packed as `.gz`. Cells of CSV and TSV are texts.
        shuffle_buffer: rows of the buffer; 0 keeps the order of the files.
        seed: seed of the order.

    Raises:
        InputError: a file named twice or with an unknown ending.
        FileError: no such file, or an empty one.
    """

    _part: Part
    _epoch = 0
    _start: Mapping[str, Any] | None = None
    _running: RowIterator | None = None

    @strict
    def __init__(self, data_files: DataFiles, *, shuffle_buffer: int = 0, seed: int = 0) -> None:
        whole(seed, "seed", 0)
        self._part = files_of(data_files)
        if whole(shuffle_buffer, "shuffle_buffer", 0):
            self._part = self.shuffle(seed, shuffle_buffer)._part

    @classmethod
    def _of(cls, part: Part, epoch: int = 0) -> RowStream:
        made = cls.__new__(cls)
        made._part, made._epoch = part, epoch
        return made

    def _then(self, part: Part) -> RowStream:
        return self._of(part, self._epoch)

    @classmethod
    @strict
    def from_generator(
        cls, generator: Callable[..., Iterable[Mapping[str, Any]]], gen_kwargs: Mapping[str, Any] | None = None
    ) -> RowStream:
        """The rows that a function yields, which is called anew for each epoch.

        Args:
            generator: the function; it gives the same rows each time.
            gen_kwargs: arguments for it.
        """
        if not callable(generator):
            raise InputError(
                f"generator: got {quoted(generator)}, wanted a function that makes an iterator; what it made can be "
                "read once"
            )
        return cls._of(Generated(generator, dict(gen_kwargs or {})))

    def __repr__(self) -> str:
        return f"RowStream({' > '.join(self._part.names())})"

    # ------------------------------------------------------------------ other rows

    @strict
    def map(
        self,
        function: Callable[..., Mapping[str, Any]],
        with_indices: bool = False,
        batched: bool = False,
        batch_size: int = 1000,
        remove_columns: str | Sequence[str] = (),
        fn_kwargs: Mapping[str, Any] | None = None,
    ) -> RowStream:
        """Rows with the columns that a function returns, beside or in place of those that they have.

        Args:
            function: row → columns; with `batched`, lists of columns' values → such lists, of any length if all old
                columns are removed.
            with_indices: give the function the row's number in the epoch, or a list of such, as second argument.
            batched: call it for many rows at once.
            batch_size: most rows of a call.
            remove_columns: columns to leave out, unless the function returns them.
            fn_kwargs: further arguments of the function.
        """
        removed = (remove_columns,) if isinstance(remove_columns, str) else tuple(remove_columns)
        arguments = (self._part, _checked(function), with_indices, dict(fn_kwargs or {}), removed)
        whole(batch_size, "batch_size", 1)
        return self._then(MappedBatches(*arguments, batch_size) if batched else Mapped(*arguments))

    @strict
    def filter(
        self, function: Callable[..., Any], with_indices: bool = False, fn_kwargs: Mapping[str, Any] | None = None
    ) -> RowStream:
        """Those rows for which a function returns something true; arguments as in `map`."""
        return self._then(Filtered(self._part, _checked(function), with_indices, dict(fn_kwargs or {})))

    @strict
    def take(self, n: int) -> RowStream:
        """The first `n` rows."""
        return self._then(Slice(self._part, 0, whole(n, "n", 0)))

    @strict
    def skip(self, n: int) -> RowStream:
        """All rows but the first `n`."""
        return self._then(Slice(self._part, whole(n, "n", 0), None))

    @strict
    def shard(self, num_shards: int, index: int) -> RowStream:
        """Of `num_shards` rows in turn, the one with this index: the part of one process of several."""
        whole(num_shards, "num_shards", 1)
        return self._then(Share(self._part, num_shards, _index(index, num_shards)))

    @strict
    def shuffle(self, seed: int = 0, buffer_size: int = 1000) -> RowStream:
        """Rows in random order, from files in random order unless `take` or `skip` came before."""
        whole(seed, "seed", 0)
        return self._then(Shuffled(self._part.shuffled(seed), seed, whole(buffer_size, "buffer_size", 1)))

    @strict
    def blocks(
        self,
        length: int,
        tokenizer: PreTrainedTokenizerBase | None = None,
        *,
        eos_token_id: int | None = None,
        remainder: Remainder = "drop",
        pad_token_id: int | None = None,
        text_column: str = TEXT_COLUMN,
    ) -> RowStream:
        """Documents one after another, each ended by EOS, cut in rows of `length` ids: `{"input_ids": […]}`.

        What is left of a document begins the next block. Documents without ids are left out.

        Args:
            length: ids of a block.
            tokenizer: makes the ids, without other special tokens, of the texts in `text_column`; without it, rows
                bring `input_ids`.
            eos_token_id: ends each document. Default: the tokenizer's; without a tokenizer none.
            remainder: what becomes of the ids at the end of the epoch that fill no block: `"drop"`, `"keep"` as a
                shorter row, or `"pad"`, with an `attention_mask` in all rows.
            pad_token_id: to pad with. Default: the tokenizer's.
            text_column: where the texts are.
        """
        part = blocks(self._part, length, tokenizer, eos_token_id, remainder, pad_token_id, text_column)
        return self._then(part)

    # ------------------------------------------------------------------ reading

    @strict
    def set_epoch(self, epoch: int) -> None:
        """Which epoch is read next; another one has another order."""
        self._epoch = whole(epoch, "epoch", 0)

    def __iter__(self) -> RowIterator:
        start, self._start = self._start, None
        if start is not None and start["epoch"] == self._epoch:
            self._running = RowIterator(self._part, self._epoch, start["place"], start["rows"])
        else:
            self._running = RowIterator(self._part, self._epoch)
        return self._running

    def state_dict(self) -> dict[str, Any]:
        """Where the iterator made last stands; see `RowIterator.state_dict`."""
        running = self._running or RowIterator(self._part, self._epoch)
        return running.state_dict()

    @strict
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Let the next iteration, and only that one, begin where `state_dict` was taken, in its epoch.

        Raises:
            InputError: the state is of another stream.
        """
        self._start = _state_of(state_dict, self._part)
        self._epoch = self._start["epoch"]


def _checked(function: Any) -> Callable[..., Any]:
    if not callable(function):
        raise InputError(f"function: got {quoted(function)}, wanted something to call")
    return function  # type: ignore[no-any-return]  # `callable` says no more


def _index(index: int, num_shards: int) -> int:
    if whole(index, "index", 0) >= num_shards:
        raise InputError(f"index: got {index}, wanted 0 to {num_shards - 1}, below num_shards")
    return index


def _state_of(state: Mapping[str, Any], part: Part) -> Mapping[str, Any]:
    """A state, if it is one of this stream."""
    wrong = not isinstance(state, Mapping) or "place" not in state
    if wrong or not all(isinstance(state.get(name), kind) for name, kind in STATE.items()):
        raise InputError(f"state: got {quoted(state)}, wanted what state_dict() returned")
    if state["stream"] != (names := part.names()):
        raise InputError(
            f"state: it is of the stream {' > '.join(map(str, state['stream']))}, this one is {' > '.join(names)}; "
            "make it as before, of the same files"
        )
    return state


# ---------------------------------------------------------------------- functions


@strict
def load_rows(data_files: DataFiles) -> list[Row]:
    """All rows of files, as dictionaries in memory; arguments and errors as of `RowStream`.

    Raises:
        FileError: naming the file and the line that cannot be read.
    """
    return list(RowStream(data_files))


@strict
def interleave_rows(
    datasets: Sequence[Any],
    probabilities: Sequence[float] | None = None,
    seed: int = 0,
    stopping_strategy: StoppingStrategy = "first_exhausted",
) -> RowStream:
    """A stream of the rows of several, in turn or with weights; names as in `datasets.interleave_datasets`.

    Args:
        datasets: streams, or other data sets that can be iterated over more than once.
        probabilities: the chance of each to give the next row, above 0 and 1 together. Default: they take turns.
        seed: seed of the draws, which also depend on the epoch.
        stopping_strategy: `"first_exhausted"`: the end is where the first one has given its last row;
            `"all_exhausted"`: where the last one has, and the others begin anew, in the same order;
            `"all_exhausted_without_replacement"`: likewise, and each row comes once.
    """
    parts = [stream_of(dataset, f"datasets[{number}]")._part for number, dataset in enumerate(datasets)]
    return RowStream._of(interleaved(parts, probabilities, whole(seed, "seed", 0), stopping_strategy))


@strict
def blocks_of(
    rows: Iterable[Mapping[str, Any]],
    length: int,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    eos_token_id: int | None = None,
    remainder: Remainder = "drop",
    pad_token_id: int | None = None,
    text_column: str = TEXT_COLUMN,
) -> list[Row]:
    """`RowStream.blocks` for rows in memory."""
    source = stream_of(rows, "rows")._part
    return list(RowStream._of(blocks(source, length, tokenizer, eos_token_id, remainder, pad_token_id, text_column)))


@strict
def rows_from(
    dataset: Any,
    *,
    epoch: int = 0,
    skipped: int = 0,
    state: Mapping[str, Any] | None = None,
    num_shards: int = 1,
    index: int = 0,
) -> RowIterator:
    """The rows of one epoch of any data set that can be iterated over.

    What has `set_epoch` (a `RowStream`, a `datasets.IterableDataset`, some of torch's) is told the epoch. Places in a
    `RowStream` are found by its files. In anything else they are found by reading the rows before again: a
    `datasets.IterableDataset` would lose those in its shuffle buffer by its own state.

    Several processes read every `num_shards`-th row each, from their `index` on. Rows at the end that are not enough
    for all are left out, so that all processes have the same number.

    Args:
        dataset: the data set.
        epoch: which epoch, from 0.
        skipped: rows, of all processes together, to go past.
        state: in place of both: what `state_dict` of an iterator gave.
        num_shards: how many processes share the rows.
        index: which of them this is, from 0.

    Raises:
        InputError: the data set cannot be read (again), has fewer rows than those skipped, or none in this epoch.
    """
    part = stream_of(dataset, "train_dataset")._part
    whole(num_shards, "num_shards", 1)
    share = num_shards, _index(index, num_shards)
    if state is not None:
        if epoch or skipped:
            raise InputError("rows_from: got a state beside epoch or skipped, which it holds; give one of them")
        state = _state_of(state, part)
        rows = RowIterator(part, state["epoch"], state["place"], state["rows"], share)
    else:
        rows = RowIterator(part, whole(epoch, "epoch", 0), share=share)
        if (found := rows._reader.leave_out(whole(skipped, "skipped", 0))) < skipped:
            raise InputError(f"skipped: got {skipped} rows to go past, epoch {epoch} has {found}; give the same data")
        rows.rows = skipped
    rows._refuses_none = True
    return rows


def stream_of(dataset: Any, name: str) -> RowStream:
    """The data set as a stream; `name` is what messages call it."""
    if isinstance(dataset, RowStream):
        return dataset
    if isinstance(dataset, str | bytes | Mapping) or not isinstance(dataset, Iterable):
        cure = "name one of its splits" if isinstance(dataset, Mapping) else "RowStream(files) reads files"
        raise InputError(f"{name}: got {quoted(dataset)} ({type(dataset).__name__}), wanted rows to go through; {cure}")
    return RowStream._of(Iterated(dataset))
