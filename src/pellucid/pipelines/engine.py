"""The engine under every pipeline: rows in, answers out in the same order, and no padding computed in between.

    rows → windows of rows → parts (what the model reads at once) → batches of parts of like length → answers

A window is tokenized in one call and sorted by length. Its parts are cut into batches by a *token budget*: a batch
holds as many parts as fit, however many that is, packed one after another. Parts of equal length lie side by side and
are attended to as one dense block.

Rows are read in the caller's thread, as they are needed. Where all of them are there already (a list, a file, a data
set), the next window is read early and tokenized in a thread of its own while the model computes the present one. A
generator may be slow, or wait for the answer to what it gave: nothing is read from it before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from itertools import repeat
from time import perf_counter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from pellucid.errors import InputError
from pellucid.layout import PackedTokens
from pellucid.pipelines.budget import TOKENS_PER_BATCH, TokenBudget

if TYPE_CHECKING:
    import torch

WINDOW_ROWS = 2048
"""Rows that are read and sorted together."""
WINDOW_CHARACTERS = 2**19
"""Characters after which a window is closed early, so that the memory for its results stays bounded."""
FIRST_WINDOW_ROWS = 64
"""Rows of a stream's first window, so that its first answers come early; each next one is four times as long."""

OnError = Literal["raise", "keep", "collect"]
"""What becomes of the error of a row: it is raised, stands as the row's answer, or is collected beside the answers."""


class Part(NamedTuple):
    """What the model reads at once: a whole text, or one window of a long one.

    Attributes:
        ids: vocabulary indices.
        type_ids: first (0) or second (1) text of a pair; `None` means all first.
        own: range of tokens that this part answers for; neighbouring windows answer for the others.
        cut: whether something of the text is not read, as the caller asked; one part of a row says so for all.
    """

    ids: list[int]
    type_ids: list[int] | None
    own: tuple[int, int]
    cut: bool = False


Row = list[Part] | InputError
"""A row as the model reads it, in one part or several, or why it cannot be read."""


@dataclass
class RunStatistics:
    """What a run has done so far; `print` it to read it.

    Attributes:
        rows: rows answered, those with errors included.
        tokens: tokens of the texts as the model reads them, markers such as `[CLS]` included.
        computed: tokens computed; more than `tokens` where windows overlap, and never any padding.
        written: tokens that the model wrote, where the task is to write.
        batches: how often the model was called.
        budget: tokens that a batch could hold at last; `None` where texts were counted (`batch_size`).
        truncated: rows of which something was cut, as the options say.
        errors: number and error of each row that could not be read, unless it was raised.
        seconds: time spent, without the time between answers that the caller took.
        tokenizer_seconds: time spent on turning text into ids; beside the model where that is possible, so that both
            together may be more than `seconds`.
        model_seconds: time spent in the model.
    """

    rows: int = 0
    tokens: int = 0
    computed: int = 0
    written: int = 0
    batches: int = 0
    budget: int | None = None
    truncated: int = 0
    errors: list[tuple[int, InputError]] = field(default_factory=list)
    seconds: float = 0.0
    tokenizer_seconds: float = 0.0
    model_seconds: float = 0.0

    @property
    def tokens_per_second(self) -> float:
        """Tokens of the texts answered in a second."""
        return self.tokens / self.seconds if self.seconds else 0.0

    @property
    def waste(self) -> float:
        """Share of the computed tokens that no answer needed."""
        return 1 - self.tokens / self.computed if self.computed else 0.0

    def __str__(self) -> str:
        share = 100 / self.seconds if self.seconds else 0.0
        written = f" and {self.written:,} written" if self.written else ""
        budget = f" of up to {self.budget:,} tokens" if self.budget else ""
        cut = f"; {self.truncated:,} rows cut" if self.truncated else ""
        errors = f"; {len(self.errors):,} rows with errors" if self.errors else ""
        return (
            f"{self.rows:,} rows, {self.tokens:,} tokens{written} in {self.batches:,} batches{budget}; "
            f"{self.seconds:.2f} s, {self.tokens_per_second:,.0f} tokens/s, waste {self.waste:.1%}; "
            f"tokenizer {self.tokenizer_seconds * share:.1f} %, model {self.model_seconds * share:.1f} %{cut}{errors}"
        )


def run(
    rows: Iterable[Any],
    preprocess: Callable[[list[Any], int], list[Row]],
    forward: Callable[[PackedTokens], Sequence[Any]],
    postprocess: Callable[[list[Any], list[Part]], Any],
    statistics: RunStatistics,
    *,
    device: torch.device,
    budget: TokenBudget,
    batch_size: int | None = None,
    first_window: int = FIRST_WINDOW_ROWS,
    ahead: bool = False,
    on_error: OnError = "raise",
    progress: Callable[[int, int], object] | None = None,
) -> Iterator[Any]:
    """Answer rows one by one, in their order.

    Args:
        rows: anything that can be iterated, however long; read lazily, and closed in the end if it is a generator.
        preprocess: a window of rows and the number of its first row → the parts of each row, or its error.
        forward: packed parts → one value for each part, in their order.
        postprocess: the values and parts of one row → its answer.
        statistics: filled while the run goes on.
        device: where the model is.
        budget: tokens in a batch.
        batch_size: parts in a batch, in place of the token budget.
        first_window: rows of the first window.
        ahead: read and tokenize the next window while the model computes the present one.
        on_error: what becomes of a row that cannot be read: raise its error, keep it as the answer, or answer `None`
            and collect it in `statistics.errors`.
        progress: called with the numbers of rows and of tokens just finished by the model.

    Yields:
        One answer for each row.

    Raises:
        InputError: of the first bad row of a window, before any row of this window is computed.
    """
    start = perf_counter()
    with closing(_encoded(rows, preprocess, statistics, first_window, ahead)) as windows:
        for encoded in windows:
            if on_error == "raise":
                for row in encoded:
                    if isinstance(row, InputError):
                        raise row
            parts = [part for row in encoded if isinstance(row, list) for part in row]
            values: list[Any] = [None] * len(parts)
            left = _Unfinished(encoded)
            lengths, timings = [len(part.ids) for part in parts], list[tuple[int, float]]()
            sizes = None if batch_size else budget.sizes(lengths, timings)
            for batch in cut_batches(lengths, batch_size, sizes):
                before = perf_counter()
                answers = forward(pack([parts[number] for number in batch], device))
                for number, answer in zip(batch, answers, strict=True):
                    values[number] = answer
                timings.append((sum(lengths[number] for number in batch), perf_counter() - before))
                if progress is not None:
                    progress(left.count_finished(batch), timings[-1][0])
            if progress is not None and left.bad:  # no row of the window could be read
                progress(left.bad, 0)
            statistics.model_seconds += sum(seconds for _, seconds in timings)
            statistics.batches += len(timings)
            statistics.budget = None if batch_size else budget.tokens
            place = 0
            for row in encoded:
                if isinstance(row, list):
                    answer = postprocess(values[place : place + len(row)], row)
                    place += len(row)
                    _count(row, statistics)
                else:
                    statistics.errors.append((statistics.rows, row))
                    answer = row if on_error == "keep" else None
                statistics.rows += 1
                statistics.seconds += perf_counter() - start
                yield answer
                start = perf_counter()


def _count(row: list[Part], statistics: RunStatistics) -> None:
    """Add what a row had for the model to read."""
    statistics.computed += sum(len(part.ids) for part in row)
    statistics.tokens += sum(part.own[1] - part.own[0] for part in row)
    statistics.truncated += any(part.cut for part in row)


def _encoded(
    rows: Iterable[Any],
    preprocess: Callable[[list[Any], int], list[Row]],
    statistics: RunStatistics,
    size: int,
    ahead: bool,
) -> Generator[list[Row], None, None]:
    """Windows of rows as the model reads them; with `ahead`, each but the first is made while the one before is used.

    What goes wrong with a window is raised behind the windows before it: those are answered first.
    """

    def work(window: list[Any], first: int) -> list[Row]:
        begun = perf_counter()
        try:
            return preprocess(window, first)
        finally:
            statistics.tokenizer_seconds += perf_counter() - begun

    first = 0
    encoded: list[Row] | None = None  # of the window before
    with closing(_windows(rows, size)) as windows, ThreadPoolExecutor(1, "pellucid-tokenizer") as worker:
        for window in windows:
            later = None
            if encoded is not None:
                if isinstance(window, list):  # the first window is made here: one text waits for no thread
                    later = worker.submit(work, window, first)
                yield encoded
            if isinstance(window, Exception):
                raise window
            encoded = work(window, first) if later is None else later.result()
            first += len(window)
            if not ahead:
                yield encoded
                encoded = None
        if encoded is not None:
            yield encoded


def pack(parts: Sequence[Part], device: torch.device | str) -> PackedTokens:
    """Parts one after another, in the given order, as a model takes them."""
    ids = [part.ids for part in parts]
    types = None
    if any(part.type_ids for part in parts):
        types = [part.type_ids or [0] * len(part.ids) for part in parts]
    return PackedTokens.from_lists(ids, types, device=device)


def cut_batches(
    lengths: Sequence[int],
    batch_size: int | None = None,
    budget: int | Iterator[int] | None = None,
) -> Iterator[list[int]]:
    """Cut parts into batches of like length, shortest first.

    Args:
        lengths: tokens of each part.
        batch_size: parts in a batch; `None` fills batches up to the budget instead.
        budget: tokens in a batch, or in each of the batches, asked for when the one before has been used; a longer
            part is a batch of its own. Default: as for a CPU.

    Yields:
        The numbers of the parts of a batch.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if batch_size is not None:
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
        return
    sizes = budget if isinstance(budget, Iterator) else repeat(budget or TOKENS_PER_BATCH["cpu"])
    batch: list[int] = []
    tokens, limit = 0, 0
    for number in order:
        if batch and tokens + lengths[number] > limit:
            yield batch
            batch, tokens = [], 0
        if not batch:
            limit = next(sizes)
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch


def _windows(rows: Iterable[Any], size: int) -> Generator[list[Any] | Exception, None, None]:
    """Rows in lists of `size`, then of four times as many up to `WINDOW_ROWS`; long rows close a list early.

    An error that `rows` raises comes last, behind the rows before it.
    """
    window: list[Any] = []
    characters = 0
    failure: Exception | None = None
    source = iter(rows)
    try:
        while True:
            try:
                row = next(source)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            window.append(row)
            characters += _characters(row)
            if len(window) >= size or characters >= WINDOW_CHARACTERS:
                yield window
                window, characters = [], 0
                size = min(4 * size, WINDOW_ROWS)
        if window:
            yield window
        if failure is not None:
            yield failure
    finally:
        if isinstance(source, Generator):
            source.close()


def _characters(row: Any) -> int:
    """Length of the text in a row, which may be a text, a pair, or a dictionary of texts."""
    if isinstance(row, str):
        return len(row)
    values = row.values() if isinstance(row, Mapping) else row if isinstance(row, list | tuple) else ()
    return sum(len(value) for value in values if isinstance(value, str))


class _Unfinished:
    """Which rows of a window wait for parts that are not computed yet."""

    def __init__(self, encoded: Sequence[Row]) -> None:
        self.row_of = [number for number, row in enumerate(encoded) if isinstance(row, list) for _ in row]
        self.missing = [len(row) if isinstance(row, list) else 0 for row in encoded]
        self.bad = self.missing.count(0)  # counted as finished with the first batch

    def count_finished(self, batch: Sequence[int]) -> int:
        """How many rows the parts of `batch` have completed."""
        finished, self.bad = self.bad, 0
        for part in batch:
            self.missing[self.row_of[part]] -= 1
            finished += self.missing[self.row_of[part]] == 0
        return finished
