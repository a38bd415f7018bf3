"""The engine under every pipeline: rows in, answers out in the same order, and no padding computed in between.

    rows → windows of rows → parts (what the model reads at once) → batches of parts of like length → answers

A window is tokenized in one call and sorted by length. Its parts are cut into batches by a *token budget*: a batch
holds as many parts as fit, however many that is, packed one after another. Parts of equal length lie side by side and
are attended to as one dense block. Rows are read as they are needed, one window ahead of the answers at most.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.errors import InputError
from pellucid.layout import PackedTokens

if TYPE_CHECKING:
    import torch

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}
"""Tokens that one batch may hold, by kind of device.

A CPU is fastest while a layer's activations stay in its cache: MiniLM in fp32 takes as long with 512 to 4096 tokens
and 15 % longer with 8192; in bf16 there is no difference above 512. A GPU wants enough work for all of its cores."""
WINDOW_ROWS = 2048
"""Rows that are read and sorted together."""
WINDOW_CHARACTERS = 2**19
"""Characters after which a window is closed early, so that the memory for its results stays bounded."""
FIRST_WINDOW_ROWS = 64
"""Rows of a stream's first window, so that its first answers come early; each next one is four times as long."""


class Part(NamedTuple):
    """What the model reads at once: a whole text, or one window of a long one.

    Attributes:
        ids: vocabulary indices.
        type_ids: first (0) or second (1) text of a pair; `None` means all first.
        own: range of tokens that this part answers for; neighbouring windows answer for the others.
    """

    ids: list[int]
    type_ids: list[int] | None
    own: tuple[int, int]


Row = list[Part] | InputError
"""A row as the model reads it, in one part or several, or why it cannot be read."""


@dataclass
class RunStatistics:
    """What a run has done so far.

    Attributes:
        rows: rows answered.
        tokens: tokens of the texts as the model reads them, markers such as `[CLS]` included.
        computed: tokens computed; more than `tokens` where windows overlap, and never any padding.
        written: tokens that the model wrote, where the task is to write.
        batches: how often the model was called.
        seconds: time spent, without the time between answers that the caller took.
        tokenizer_seconds: part of it spent on turning text into ids.
        model_seconds: part of it spent in the model.
    """

    rows: int = 0
    tokens: int = 0
    computed: int = 0
    written: int = 0
    batches: int = 0
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
        return (
            f"{self.rows:,} rows, {self.tokens:,} tokens{written} in {self.batches:,} batches; {self.seconds:.2f} s, "
            f"{self.tokens_per_second:,.0f} tokens/s, waste {self.waste:.1%}; "
            f"tokenizer {self.tokenizer_seconds * share:.1f} %, model {self.model_seconds * share:.1f} %"
        )


def run(
    rows: Iterable[Any],
    preprocess: Callable[[list[Any], int], list[Row]],
    forward: Callable[[PackedTokens], Sequence[Any]],
    postprocess: Callable[[list[Any], list[Part]], Any],
    statistics: RunStatistics,
    *,
    device: torch.device,
    batch_size: int | None = None,
    budget: int | None = None,
    first_window: int = FIRST_WINDOW_ROWS,
    collect_errors: bool = False,
    progress: Callable[[int], object] | None = None,
) -> Iterator[Any]:
    """Answer rows one by one, in their order.

    Args:
        rows: anything that can be iterated, however long; read lazily.
        preprocess: a window of rows and the number of its first row → the parts of each row, or its error.
        forward: packed parts → one value for each part, in their order.
        postprocess: the values and parts of one row → its answer.
        statistics: filled while the run goes on.
        device: where the model is.
        batch_size: parts in a batch, in place of the token budget.
        budget: tokens in a batch; `None`: as is best for the device.
        first_window: rows of the first window.
        collect_errors: give the error of a bad row as its answer instead of raising it.
        progress: called with the number of rows just finished by the model.

    Yields:
        One answer for each row.

    Raises:
        InputError: of the first bad row of a window, before any row of this window is computed.
    """
    first = 0
    budget = budget or TOKENS_PER_BATCH.get(device.type, TOKENS_PER_BATCH["cuda"])
    for window in _windows(rows, first_window):
        start = perf_counter()
        encoded = preprocess(window, first)
        parts = [part for row in encoded if isinstance(row, list) for part in row]
        if not collect_errors:
            for row in encoded:
                if isinstance(row, InputError):
                    raise row
        statistics.tokenizer_seconds += perf_counter() - start
        values: list[Any] = [None] * len(parts)
        left = _Unfinished(encoded)
        for batch in cut_batches([len(part.ids) for part in parts], batch_size, budget):
            before = perf_counter()
            answers = forward(pack([parts[number] for number in batch], device))
            for number, answer in zip(batch, answers, strict=True):
                values[number] = answer
            statistics.model_seconds += perf_counter() - before
            statistics.batches += 1
            if progress is not None:
                progress(left.count_finished(batch))
        place = 0
        for row in encoded:
            answer = row if isinstance(row, InputError) else postprocess(values[place : place + len(row)], row)
            if isinstance(row, list):
                place += len(row)
                statistics.computed += sum(len(part.ids) for part in row)
                statistics.tokens += sum(part.own[1] - part.own[0] for part in row)
            statistics.rows += 1
            statistics.seconds += perf_counter() - start
            yield answer
            start = perf_counter()
        first += len(window)


def pack(parts: Sequence[Part], device: torch.device | str) -> PackedTokens:
    """Parts one after another, in the given order, as a model takes them."""
    ids = [part.ids for part in parts]
    types = None
    if any(part.type_ids for part in parts):
        types = [part.type_ids or [0] * len(part.ids) for part in parts]
    return PackedTokens.from_lists(ids, types, device=device)


def cut_batches(
    lengths: Sequence[int], batch_size: int | None = None, budget: int = TOKENS_PER_BATCH["cpu"]
) -> Iterator[list[int]]:
    """Cut parts into batches of like length, shortest first.

    Args:
        lengths: tokens of each part.
        batch_size: parts in a batch; `None` fills batches up to the budget instead.
        budget: tokens in a batch; a longer part is a batch of its own.

    Yields:
        The numbers of the parts of a batch.
    """
    order = sorted(range(len(lengths)), key=lengths.__getitem__)
    if batch_size is not None:
        for start in range(0, len(order), batch_size):
            yield order[start : start + batch_size]
        return
    batch: list[int] = []
    tokens = 0
    for number in order:
        if batch and tokens + lengths[number] > budget:
            yield batch
            batch, tokens = [], 0
        batch.append(number)
        tokens += lengths[number]
    if batch:
        yield batch


def _windows(rows: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """Rows in lists of `size`, then of four times as many up to `WINDOW_ROWS`; long rows close a list early."""
    window: list[Any] = []
    characters = 0
    for row in rows:
        window.append(row)
        characters += _characters(row)
        if len(window) >= size or characters >= WINDOW_CHARACTERS:
            yield window
            window, characters = [], 0
            size = min(4 * size, WINDOW_ROWS)
    if window:
        yield window


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
