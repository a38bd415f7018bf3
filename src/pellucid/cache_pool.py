"""One memory for many texts that come and go: what continuous batching remembers (`generation/batching.py`).

The memory of a layer is a tensor of places `[N, places, D]`, set aside once. Each text has a stretch of neighbouring
places in it, of a power of two; one that outgrows its stretch goes on into free places behind it, or moves to a
stretch of twice the size, so that each token is copied once on average. Texts come and go without touching others.
Attention reads stretches where they lie. Those of equal distance are read by one call, as a batch, also without a copy.

Pages, the usual way to divide such a memory, would have to be gathered for every token that is written: on a CPU,
where attention is bound by how fast memory is read, that takes 1.4 to 1.6 times as long text by text, and 3 to 16 times
for all texts at once (64 texts of 20 to 2000 tokens, 12 or 32 heads of 64 numbers). What pages are for is had without
them: a text that begins as another one copies those keys and values, which is as fast as memory, and texts that have
ended stay until their places are needed.

Axes: `N` key/value heads, `D` head size, `T` packed tokens, `K` places that are looked at.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from pellucid.cache import Cache, Memory, Span
from pellucid.errors import InputError
from pellucid.layout import Layout, Run

BLOCK = 16
"""Stretches are whole numbers of so many places, and beginnings of texts are found by so many tokens at a time."""
WASTE = 64
"""Places that a text may be read too far for the sake of fewer calls; a call costs as much as reading some hundred."""


class Room:
    """Which places are free.

    Args:
        places: how many there are.
    """

    def __init__(self, places: int) -> None:
        self.holes: list[tuple[int, int]] = [(0, places)] if places else []  # (start, size), in order, never touching

    @property
    def free(self) -> int:
        """How many places are free, in all holes together."""
        return sum(size for _, size in self.holes)

    def take(self, size: int) -> int | None:
        """The start of a free stretch, which is not free any more; `None`: no hole is that large."""
        for number, (start, room) in enumerate(self.holes):
            if room >= size:
                self.holes[number : number + 1] = [(start + size, room - size)] if room > size else []
                return start
        return None

    def take_at(self, start: int, size: int) -> bool:
        """Take a stretch that begins at a certain place, if it is free and begins a hole."""
        for number, (hole, room) in enumerate(self.holes):
            if hole == start and room >= size:
                self.holes[number : number + 1] = [(start + size, room - size)] if room > size else []
                return True
        return False

    def give(self, start: int, size: int) -> None:
        """Free a stretch; it becomes one with holes beside it."""
        insort(self.holes, (start, size))
        merged: list[tuple[int, int]] = []
        for hole, room in self.holes:
            if merged and sum(merged[-1]) == hole:
                merged[-1] = (merged[-1][0], merged[-1][1] + room)
            elif room:
                merged.append((hole, room))
        self.holes = merged


class PoolRow:
    """One text in a pool.

    Args:
        ids: the whole text, which may grow; it is looked at when others begin alike.
        most: how many tokens it can have in the end.
        start: first of its places.
        size: how many places it has.

    Attributes:
        length: tokens that are remembered.
    """

    def __init__(self, ids: list[int], most: int, start: int, size: int) -> None:
        self.ids, self.most = ids, most
        self.start, self.size = start, size
        self.length = 0
        self.keys: list[int] = []  # under which its beginnings are found


@dataclass(frozen=True, slots=True)
class View(Span):
    """What one run of a layout sees in a pool; its rows lie at equal distances.

    Attributes:
        count: how many rows it has.
        start: first place of its first row.
        stride: places from one row to the next.
        first: how many places of each row are passed over, as they are too far away for all of the run.
    """

    count: int = 1
    start: int = 0
    stride: int = 0
    first: int = 0

    def of(self, memory: Tensor) -> Tensor:
        """`[N, places, D]` → `[count, N, keys, D]`, without a copy."""
        heads, places, size = memory.shape
        strides = (self.stride * size, places * size, size, 1)
        return memory.as_strided((self.count, heads, self.keys, size), strides, (self.start + self.first) * size)


class PoolMemory(Memory):
    """Keys and values of one layer, `[N, places, D]` each.

    Args:
        pool: whose layer it is.
    """

    def __init__(self, pool: PoolCache) -> None:
        self.pool = pool

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Each token goes to its place in the stretch of its row."""
        if self.keys is None or self.values is None:
            self.keys = key.new_zeros(key.shape[1], self.pool.places, key.shape[2])
            self.values = value.new_zeros(value.shape[1], self.pool.places, value.shape[2])
        if "pool" not in layout.plans:
            row, place = layout.places(key.device)
            starts = torch.tensor([one.start for one in self.pool.rows], device=key.device)
            layout.plans["pool"] = starts[row] + place
        self.keys.index_copy_(1, layout.plans["pool"], key.transpose(0, 1))
        self.values.index_copy_(1, layout.plans["pool"], value.transpose(0, 1))

    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """Stretches as they lie in memory, each from the first place on that a token of the run sees."""
        plan = ("views", causal, window, device)
        if plan not in layout.plans:
            runs = self.pool.rows_of_runs(layout)
            layout.plans[plan] = [_view(rows, run, causal, window, device) for run, rows in runs]
        return layout.plans[plan]  # type: ignore[no-any-return]

    def distances(self, layout: Layout, device: torch.device) -> list[Tensor]:
        """By the places of tokens in their texts."""
        found = []
        for run, rows in self.pool.rows_of_runs(layout):
            past = torch.tensor([row.length for row in rows], device=device)
            looks = past[:, None] + torch.arange(run.length, device=device)  # [count, L]
            place = torch.arange(int(past.max()) + run.length, device=device)
            found.append(place[None, None, :] - looks[:, :, None])
        return found

    def move(self, old: int, new: int, length: int) -> None:
        """Copy what stands at some places to others."""
        for tensor in (self.keys, self.values):
            if tensor is not None:
                tensor[:, new : new + length] = tensor[:, old : old + length]

    def wipe(self, start: int, size: int) -> None:
        """Put zeros in some places, where numbers stood that are none."""
        for tensor in (self.keys, self.values):
            if tensor is not None:
                tensor[:, start : start + size] = 0

    def select(self, rows: Tensor) -> None:
        """Refused: a pool's texts are no rows of one tensor."""
        raise InputError("batch_select_indices: the rows of a pool are chosen by PoolCache.choose")


def _view(rows: Sequence[PoolRow], run: Run, causal: bool, window: int | None, device: torch.device) -> View:
    """What some rows see, whose stretches lie at equal distances."""
    past = [row.length for row in rows]
    stride = rows[1].start - rows[0].start if len(rows) > 1 else 0
    longest = max(past) + run.length
    first = 0 if window is None else max(min(past) + 1 - window, 0)
    even, keys = min(past) == max(past), longest - first
    whole = causal and longest == run.length and (window is None or window >= longest)
    mask = None
    if not whole and not (run.length == 1 and even):  # a single new token sees all that is left
        before = torch.tensor(past[:1] if even else past, device=device)[:, None]  # [count or 1, 1]
        query = (before + torch.arange(run.length, device=device))[:, None, :, None]
        place = torch.arange(first, longest, device=device)
        mask = place <= query if causal else place < (before + run.length)[:, None, :, None]
        if window is not None:
            mask = mask & (query - place < window)
    return View(None, keys, mask, whole and run.length > 1, run.count, rows[0].start, stride, first)


class PoolCache(Cache):
    """The memories of all layers for texts that come and go, in as many places as the caller allows.

    `enter` brings a text in, `choose` says which texts the next call of the model is about, `grow` makes room for more
    of a text, `leave` lets it go. All layers have the same places, so that the books are kept once.

    Args:
        places: how many tokens can be remembered in all.
        share: whether texts that begin alike take what others have, and texts that ended are kept as long as there is
            room.

    Attributes:
        rows: the texts of the call at hand, in the order of its batch.
        shared: tokens that did not have to be read, as another text had them.
    """

    def __init__(self, places: int, share: bool = True) -> None:
        super().__init__()
        self.places, self.share = places, share
        self.room = Room(places)
        self.rows: list[PoolRow] = []
        self.shared = 0
        self._kept: dict[PoolRow, None] = {}  # texts that ended, the one that was last needed at the end
        self._found: dict[int, dict[PoolRow, None]] = {}  # beginnings → texts that have them

    def __getitem__(self, number: int) -> PoolMemory:
        """The memory of layer `number`."""
        while len(self.layers) <= number:
            self.layers.append(PoolMemory(self))
        found = self.layers[number]
        assert isinstance(found, PoolMemory)
        return found

    # ------------------------------------------------------------------ texts come and go

    def enter(self, ids: list[int], most: int, reserve: bool = False) -> PoolRow | None:
        """Bring a text in: room for it, and its beginning as far as another text has it.

        Args:
            ids: the text so far.
            most: how many tokens it can have in the end.
            reserve: set room for all of them aside now, so that it never has to make room for others.

        Returns:
            The text, of which the first `length` tokens are remembered; `None`: there is no room.
        """
        giver, _ = self._alike(ids)
        if giver in self._kept:  # not to be given up for its own heir
            self._kept[giver] = self._kept.pop(giver)
        place = self._take(most if reserve else len(ids), most)
        if place is None:
            return None
        row = PoolRow(ids, most, *place)
        if giver is not None and giver.size:
            row.length = min(common_length(giver.ids, ids), giver.length, len(ids) - 1)
            for layer in self.layers:
                self._pooled(layer).move(giver.start, row.start, row.length)
            self.shared += row.length
        self._register(row)
        return row

    def promised(self, ids: list[int]) -> int:
        """How many tokens more could be shared, were all that is being read at the moment remembered already."""
        giver, soon = self._alike(ids)
        return soon - (0 if giver is None else min(common_length(giver.ids, ids), giver.length))

    def grow(self, row: PoolRow, length: int) -> bool:
        """See that a text has room for `length` tokens; false: there is none."""
        if length <= row.size:
            return True
        exact = _blocks(length)
        for size in (_class(length, row.most), exact):
            if self.room.take_at(row.start + row.size, size - row.size):
                row.size = size
                return True
        place = self._take(length, row.most)
        if place is None:
            return False
        old, size = row.start, row.size
        row.start, row.size = place
        for layer in self.layers:
            self._pooled(layer).move(old, row.start, row.length)
        self.room.give(old, size)
        return True

    def leave(self, row: PoolRow, keep: bool = True, spoilt: bool = False) -> None:
        """Let a text go.

        Args:
            row: the text.
            keep: leave it where it is, for others that begin alike, until its places are needed.
            spoilt: its numbers are none, and must not be met by anyone who reads too far.
        """
        if spoilt:
            for layer in self.layers:
                self._pooled(layer).wipe(row.start, row.size)
        if keep and self.share and row.length >= BLOCK and not spoilt:
            row.ids = row.ids[: row.length]
            self._register(row)
            size = _blocks(row.length)
            self.room.give(row.start + size, row.size - size)
            row.size = size
            self._kept[row] = None
            return
        for key in row.keys:
            self._found[key].pop(row)
            if not self._found[key]:
                del self._found[key]
        self._kept.pop(row, None)
        self.room.give(row.start, row.size)
        row.keys, row.size, row.length = [], 0, 0

    def _take(self, length: int, most: int) -> tuple[int, int] | None:
        """A free stretch for `length` tokens, larger when there is room; texts that ended are given up for it."""
        for size in (_class(length, most), _blocks(length)):
            if (start := self.room.take(size)) is not None:
                return start, size
        while self._kept:
            self.leave(next(iter(self._kept)), keep=False)
            if (start := self.room.take(size)) is not None:
                return start, size
        return None

    @staticmethod
    def _pooled(layer: Memory) -> PoolMemory:
        assert isinstance(layer, PoolMemory)
        return layer

    # ------------------------------------------------------------------ texts that begin alike

    def _register(self, row: PoolRow) -> None:
        """Let others find the beginnings of a text."""
        if self.share:
            for key in _chain(row.ids)[len(row.keys) :]:
                self._found.setdefault(key, {})[row] = None
                row.keys.append(key)

    def _alike(self, ids: list[int]) -> tuple[PoolRow | None, int]:
        """The text that has most of the beginning of another, and how much some text will have when it is read."""
        best, most, soon = None, 0, 0
        seen: set[PoolRow] = set()
        chain = _chain(ids) if self.share else []
        for number in range(len(chain), 0, -1):
            for row in self._found.get(chain[number - 1], {}).keys() - seen:
                common = min(common_length(row.ids, ids), len(ids) - 1)
                soon = max(soon, common)
                if min(common, row.length) > most:
                    best, most = row, min(common, row.length)
                seen.add(row)
            if most >= number * BLOCK - 1:  # others have less in common
                break
        return best, soon

    # ------------------------------------------------------------------ calls of the model

    def choose(self, rows: Sequence[PoolRow]) -> None:
        """The texts of the next call, in the order of its batch; by their places in memory it is fastest."""
        self.rows = list(rows)

    def open(self, layout: Layout) -> None:
        """Connect a batch with its texts, and divide it into runs whose stretches one call can read."""
        if layout.mask is not None or len(self.rows) != layout.batch:
            raise InputError(
                f"past_key_values: got a batch of {layout.batch}, wanted the {len(self.rows)} texts chosen"
            )
        self.lengths = [row.length for row in self.rows]
        layout.cache = self
        layout.past = self.lengths if any(self.lengths) else None
        layout.runs = tuple(self._runs(layout.lengths()))

    def advance(self, layout: Layout) -> None:
        """Count the tokens of a layout as remembered."""
        for row, more in zip(self.rows, layout.lengths(), strict=True):
            row.length += more

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest text of the call at hand."""
        return max((row.length for row in self.rows), default=0)

    def _runs(self, lengths: Sequence[int]) -> Iterator[Run]:
        """Runs of one new token for texts at equal distances and of like length; every other text is a run alone."""
        starts = list(accumulate(lengths, initial=0))
        first, stride = 0, 0
        least = most = 0  # shortest and longest of the run so far
        for number, row in enumerate(self.rows):
            if number and lengths[number] == lengths[first] == 1:
                distance = row.start - self.rows[number - 1].start
                low, high = min(least, row.length), max(most, row.length)
                fits = distance > high and row.start + high < self.places
                if fits and high - low <= WASTE and (number - first == 1 or distance == stride):
                    stride, least, most = distance, low, high
                    continue
            if number:
                yield Run(starts[first], number - first, lengths[first])
            first, least, most = number, row.length, row.length
        if self.rows:
            yield Run(starts[first], len(self.rows) - first, lengths[first])

    def rows_of_runs(self, layout: Layout) -> Iterator[tuple[Run, list[PoolRow]]]:
        """Each run with its texts."""
        first = 0
        for run in layout.runs:
            yield run, self.rows[first : first + run.count]
            first += run.count


def _blocks(length: int) -> int:
    """The least whole number of blocks that holds so many tokens."""
    return -(-max(length, 1) // BLOCK) * BLOCK


def _class(length: int, most: int) -> int:
    """The size of a stretch for a text of that length: a power of two, but no more than it can ever need."""
    return max(min(1 << (_blocks(length) - 1).bit_length(), _blocks(most)), _blocks(length))


def _chain(ids: Sequence[int]) -> list[int]:
    """A number for each beginning of a text, by whole blocks."""
    found, last = [], 0
    for end in range(BLOCK, len(ids) + 1, BLOCK):
        last = hash((last, *ids[end - BLOCK : end]))
        found.append(last)
    return found


def common_length(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common from their beginning."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))
