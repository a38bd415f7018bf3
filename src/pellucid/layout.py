"""How a batch lies in memory: the real tokens of all sequences one after another, and no padding.

A padded batch `[B, S]` is packed to `[T]` where a model is entered, and its results are unpacked where it is left.
In between, embeddings, linears and norms see `[T, H]` and need to know nothing; attention asks the layout which
tokens belong together. Sequences are packed in order of length, so that those of equal length lie side by side and
are attended to as one dense block. Tokens that are neighbours in a packed sequence are so in the padded one, and the
distances between tokens are the same in both; a mask with holes in the middle of a row is carried along as a mask.

Axes: `B` batch, `S` width of the padded batch, `T` packed tokens, `N` heads.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import accumulate, groupby
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.errors import InputError
from pellucid.ops import check_length

if TYPE_CHECKING:
    from pellucid.cache import Cache, Memory

Ids = Tensor | None  # an argument of a model that may be left out
Asked = bool | Collection[int] | None  # attention weights: of no layer, of all, or of the layers listed
Maps = tuple[Tensor, ...]  # attention weights of one layer, run by run: [count, N, length, length]
OptionalTensor = TypeVar("OptionalTensor", Tensor, None, Tensor | None)


class Run(NamedTuple):
    """`count` sequences of `length` tokens each, from packed token `start` on."""

    start: int
    count: int  # type: ignore[assignment]  # stands before the method of tuples on purpose
    length: int


class Layout:
    """Which packed token belongs to which sequence and position, and the way back to the padded form.

    Attributes:
        batch: number of sequences, `B`.
        width: length of the longest sequence, or the width `S` of the padded batch.
        runs: blocks of equally long sequences, in packed order; empty sequences have none.
        index: `[T]`, place of each packed token in the flattened padded batch; `None` when it is its own place
            (nothing is padded) or when there is no padded form.
        padded: whether results go back to `[B, S, ...]`; otherwise they stay `[T, ...]`.
        choices: how many of the sequences are choices of one question (their inputs came as `[B, C, S]`).
        mask: `[B, 1, S or 1, S]` of booleans, for a batch whose attention pattern cannot be packed.
        rows: row of the batch of each packed sequence, empty ones left out; `None`: all rows in their order.
        cache: keys and values of earlier tokens, to which those of these tokens are added; `None`: not wanted.
        past: how many tokens of each row the cache held before these, `[B]`; `None`: none.
        offset: how many columns were seen before these, the number of the first column.
        plans: what attention worked out about this batch once for all layers (see `cache.py`).
    """

    def __init__(
        self,
        batch: int,
        width: int,
        runs: tuple[Run, ...],
        *,
        index: Tensor | None = None,
        starts: Tensor | None = None,
        padded: bool = True,
        mask: Tensor | None = None,
        real: Tensor | None = None,
        rows: tuple[int, ...] | None = None,
    ) -> None:
        self.batch, self.width, self.runs = batch, width, runs
        self.index, self.padded, self.mask, self.rows = index, padded, mask, rows
        self.choices = 1
        self.cache: Cache | None = None
        self.past: list[int] | None = None
        self.offset = 0
        self.plans: dict[Any, Any] = {}
        self._starts = starts  # [B] packed place of each sequence's first token, -1 for an empty one; None: multiples
        self._real = real  # [B, S] booleans of the real tokens, when padding is carried along under a mask

    # ------------------------------------------------------------------ ways to make one

    @classmethod
    def full(cls, batch: int, width: int) -> Layout:
        """`batch` sequences of `width` tokens each: nothing to pack."""
        return cls(batch, width, (Run(0, batch, width),))

    @classmethod
    def from_lengths(cls, lengths: Sequence[int]) -> Layout:
        """Sequences that the caller has packed already, in the caller's order; results stay packed."""
        starts = list(accumulate(lengths, initial=0))[:-1]
        runs = _runs(lengths)
        where = None if len(runs) <= 1 and 0 not in lengths else _starts(starts, lengths)
        rows = tuple(row for row, length in enumerate(lengths) if length) if 0 in lengths else None
        return cls(len(lengths), max(lengths, default=0), runs, starts=where, padded=False, rows=rows)

    @classmethod
    def from_mask(cls, mask: Tensor) -> Layout:
        """Pack the tokens where a padding mask `[B, S]` is not zero, the shortest sequences first."""
        batch, width = mask.shape
        real = mask != 0
        if torch.compiler.is_compiling():  # packed shapes depend on the values, which a compiled graph cannot
            return cls._dense(real)
        lengths = real.sum(dim=1)
        order = torch.argsort(lengths, stable=True)
        sizes: list[int] = lengths[order].tolist()
        if not sizes or sizes[0] == width:
            return cls.full(batch, width)
        row, column = real[order].nonzero(as_tuple=True)
        if ((column.diff() != 1) & (row.diff() == 0)).any():
            return cls._dense(real)
        places: list[int] = order.tolist()
        first = torch.empty(batch, dtype=torch.long)
        first[places] = _starts(list(accumulate(sizes, initial=0))[:-1], sizes)
        index = order[row] * width + column
        rows = tuple(place for place, size in zip(places, sizes, strict=True) if size)
        return cls(batch, width, _runs(sizes), index=index, starts=first.to(mask.device), rows=rows)

    @classmethod
    def _dense(cls, real: Tensor) -> Layout:
        """Carry padding along, hidden from attention: `real` `[B, S]`, true at real tokens."""
        batch, width = real.shape
        return cls(batch, width, (Run(0, batch, width),), mask=real[:, None, None, :], real=real)

    @classmethod
    def from_pattern(cls, mask: Tensor) -> Layout:
        """A batch in which each token has its own set of visible tokens: `mask` `[B, S, S]` or `[B, 1, S, S]`."""
        pattern = (mask if mask.dim() == 4 else mask[:, None]) != 0
        batch, width = pattern.shape[0], pattern.shape[-1]
        return cls(batch, width, (Run(0, batch, width),), mask=pattern)

    @property
    def knows_padding(self) -> bool:
        """Whether the batch came with a mask that says which tokens are real, or packed."""
        return self.index is not None or self._real is not None or not self.padded

    # ------------------------------------------------------------------ what is remembered

    def memory(self, number: int) -> Memory | None:
        """What layer `number` remembers of earlier tokens, or `None` when nothing is to be remembered."""
        return None if self.cache is None else self.cache[number]

    def close(self) -> Cache | None:
        """Count these tokens as remembered, once all layers have seen them; the cache, if there is one."""
        if self.cache is not None:
            self.cache.advance(self)
        return self.cache

    # ------------------------------------------------------------------ padded → packed → padded

    def pack(self, values: OptionalTensor) -> OptionalTensor:
        """`[B, S, ...]` → `[T, ...]`; values that are packed already, and `None`, pass through."""
        if values is None or not self.padded:
            return values
        flat = values.reshape(self.batch * self.width, *values.shape[2:])
        return flat if self.index is None else flat.index_select(0, self.index)

    def pack_labels(self, labels: Tensor) -> Tensor:
        """`pack` for labels of tokens; padding that had to be carried along gets -100, which no loss counts."""
        if self._real is not None:
            labels = labels.masked_fill(~self._real, -100)
        return self.pack(labels)

    def unpack(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """`[T, ...]` → `[B, S, ...]` with `fill` at padding; when the caller handed in packed tokens, unchanged."""
        if not self.padded:
            return values
        shape = (self.batch, self.width, *values.shape[1:])
        if self.index is not None:
            empty = values.new_full((self.batch * self.width, *values.shape[1:]), fill)
            values = empty.index_copy(0, self.index, values)
        values = values.view(shape)
        if self._real is not None:
            real = self._real.view(*self._real.shape, *(1,) * (values.dim() - 2))
            values = values.masked_fill(~real, fill)
        return values

    def unpack_spans(self, logits: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of an answer's first and last token, `[T, 2]` → `[B, S]` each; padding gets the lowest number."""
        lowest = torch.finfo(logits.dtype).min
        start, end = logits.unbind(-1)
        return self.unpack(start, lowest), self.unpack(end, lowest)

    def as_rows(self, scores: Tensor) -> Tensor:
        """Scores of tokens as `unpack` gave them, `[B, S]` or `[T]` → `[B, S]`; past a row's end the lowest number."""
        if self.padded:
            return scores
        row, place = self.places(scores.device)
        made = scores.new_full((self.batch, self.width), torch.finfo(scores.dtype).min)
        return made.index_put((row, place - self.before(place.device)), scores)

    def unpack_all(self, states: tuple[Tensor, ...] | None) -> tuple[Tensor, ...] | None:
        """`unpack` for each of a tuple of hidden states."""
        return None if states is None else tuple(self.unpack(state) for state in states)

    def first(self, hidden: Tensor) -> Tensor:
        """`[T, H]` → `[B, H]`: each sequence's first real token, in the order of the batch."""
        if self._real is not None:
            place = self._real.int().argmax(dim=1)
            return self.unpack(hidden)[torch.arange(self.batch, device=hidden.device), place]
        if not hidden.numel():  # not one real token in the batch
            return hidden.new_zeros(self.batch, hidden.shape[-1])
        if self._starts is None:
            return hidden.view(self.batch, self.width, -1)[:, 0]
        starts = self._starts.to(hidden.device)
        chosen = hidden.index_select(0, starts.clamp(min=0))
        return torch.where((starts >= 0)[:, None], chosen, torch.zeros_like(chosen))

    def mean(self, hidden: Tensor) -> Tensor:
        """`[T, H]` → `[B, H]`: the average of each sequence's real tokens; zeros for an empty one."""
        row = self.places(hidden.device)[0]
        real = self.pack(self.unpack(hidden.new_ones(len(hidden), 1, dtype=torch.float32)))  # 0 at carried padding
        counts = real.new_zeros(self.batch, 1).index_add(0, row, real).clamp(min=1)
        sums = real.new_zeros(self.batch, hidden.shape[-1]).index_add(0, row, hidden.float() * real)
        return (sums / counts).to(hidden.dtype)

    def last(self, hidden: Tensor, count: int = 1) -> Tensor:
        """`[T, H]` → `[B, count, H]`: each sequence's last real tokens; zeros before the first of a shorter one."""
        if self._real is not None:
            real = self._real
            columns = torch.where(real, torch.arange(self.width, device=real.device), -1).sort(dim=1).values
            chosen = columns[:, -count:]  # [B, count]
            found = self.unpack(hidden)[torch.arange(self.batch, device=real.device)[:, None], chosen.clamp(min=0)]
            return torch.where((chosen >= 0)[..., None], found, torch.zeros_like(found))
        if len(self.runs) == 1 and self.rows is None and hidden.numel():
            run = self.runs[0]
            chosen = hidden.view(run.count, run.length, -1)[:, -count:]
            if chosen.shape[1] == count:
                return chosen
            return F.pad(chosen, (0, 0, count - chosen.shape[1], 0))
        made = hidden.new_zeros(self.batch, count, hidden.shape[-1])
        row, place = self.places(hidden.device)
        ends = torch.tensor(self.lengths(), device=hidden.device)  # [B]
        back = ends[row] - 1 - (place - self.before(row.device))
        kept = back < count  # tokens that are among the last `count` of their sequence
        return made.index_put((row[kept], count - 1 - back[kept]), hidden[kept])

    def at(self, hidden: Tensor, columns: Tensor, what: str) -> Tensor:
        """`[T, H]` → `[B, H]`: the token at one column `[B]` of each row; `what` names the columns in the error."""
        row = self.places(hidden.device)[0]
        here = self.positions(hidden.device) - self.offset == columns.to(row.device)[row]  # [T]
        if int(here.sum()) != self.batch:
            raise InputError(f"{what}: got {columns.tolist()}, wanted the column of a real token in each row")
        return hidden.new_zeros(self.batch, hidden.shape[-1]).index_put((row[here],), hidden[here])

    def lengths(self) -> list[int]:
        """How many of these tokens each row of the batch has, `[B]`."""
        found = [0] * self.batch
        sizes = [run.length for run in self.runs for _ in range(run.count)]
        for row, size in zip(range(self.batch) if self.rows is None else self.rows, sizes, strict=False):
            found[row] = size
        return found

    def totals(self) -> list[int]:
        """How many tokens each row has, cached ones counted, `[B]`."""
        if "totals" not in self.plans:
            past = [0] * self.batch if self.past is None else self.past
            self.plans["totals"] = [before + new for before, new in zip(past, self.lengths(), strict=True)]
        return self.plans["totals"]  # type: ignore[no-any-return]

    def before(self, device: torch.device) -> Tensor:
        """`[T]`: how many cached tokens of its row stand before each token's text."""
        plan = ("before", device)
        if plan not in self.plans:
            past = torch.tensor([0] * self.batch if self.past is None else self.past, device=device)
            self.plans[plan] = past[self.places(device)[0]]
        return self.plans[plan]  # type: ignore[no-any-return]

    def places(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row `[T]` of the batch that each packed token is in, and place `[T]` in that row, cached tokens counted."""
        plan = ("places", device)  # a memory may be on another device than the model
        if plan not in self.plans:
            sizes = [run.length for run in self.runs for _ in range(run.count)]
            rows = range(self.batch) if self.rows is None else self.rows
            before = [0] * self.batch if self.past is None else self.past
            row = [row for row, size in zip(rows, sizes, strict=False) for _ in range(size)]
            place = [before[row] + at for row, size in zip(rows, sizes, strict=False) for at in range(size)]
            both = torch.tensor([row, place], dtype=torch.long, device=device)
            self.plans[plan] = both[0], both[1]
        return self.plans[plan]  # type: ignore[no-any-return]

    def ranks(self, device: torch.device) -> Tensor:
        """`[T]`: how many real tokens of its row stand before each token, cached ones counted."""
        if self._real is None:
            return self.places(device)[1]
        return (self._real.long().cumsum(dim=1) - 1).clamp(min=0).flatten().to(device)

    def split(self, values: Tensor) -> list[Tensor]:
        """`[T, ...]` → one `[length, ...]` for each sequence; for tokens that the caller packed."""
        sizes = [run.length for run in self.runs for _ in range(run.count)]
        return [values.narrow(0, start, size) for start, size in zip(accumulate(sizes, initial=0), sizes, strict=False)]

    def positions(self, device: torch.device) -> Tensor:
        """`[T]`: each token's place in its sequence, cached tokens counted; in a padded batch, its column."""
        if not self.padded:
            if self.past is not None:
                return self.places(device)[1]
            columns = [torch.arange(run.length, device=device).repeat(run.count) for run in self.runs]
            return torch.cat(columns) if columns else torch.zeros(0, dtype=torch.long, device=device)
        if self.index is not None:
            return self.index % self.width + self.offset
        return torch.arange(self.offset, self.offset + self.width, device=device).repeat(self.batch)

    @property
    def reach(self) -> int:
        """How many positions a model needs: one more than the highest of `positions`."""
        if self.padded or self.past is None:
            return self.offset + self.width
        return max(self.totals(), default=0)

    def unpack_maps(self, layers: tuple[tuple[Tensor, ...], ...] | None) -> tuple[Tensor, ...] | None:
        """Attention weights of each layer, run by run `[count, N, length, length]`, → `[B, N, S, S]` a layer."""
        return None if layers is None else tuple(self._unpack_map(blocks) for blocks in layers)

    def _unpack_map(self, blocks: tuple[Tensor, ...]) -> Tensor:
        if self.padded and self.index is None:
            return blocks[0] if self._real is None else blocks[0].masked_fill(~self._real[:, None, :, None], 0.0)
        if self.past is not None:
            return self._unpack_cached_map(blocks)
        heads = blocks[0].shape[1] if blocks else 0
        device = blocks[0].device if blocks else None
        places = self.index
        if places is None:  # packed by the caller: as if padded on the right
            sizes = torch.tensor(self.lengths(), device=device)
            row = torch.arange(self.batch, device=device).repeat_interleave(sizes)
            places = row * self.width + self.places(row.device)[1]
        full = blocks[0].new_zeros(self.batch, self.width, self.width, heads)
        for run, block in zip(self.runs, blocks, strict=True):
            place = places[run.start : run.start + run.count * run.length].view(run.count, run.length)
            row, column = place // self.width, place % self.width
            full = full.index_put((row[:, :, None], column[:, :, None], column[:, None, :]), block.permute(0, 2, 3, 1))
        return full.permute(0, 3, 1, 2)

    def unpack_cross_maps(self, layers: tuple[Maps, ...] | None, source: Layout | None) -> tuple[Tensor, ...] | None:
        """Weights on another text, run by run `[count, N, L, K]`, → `[B, N, S, source]` a layer.

        Without the source's layout the last axis stays as it is remembered, each row's tokens from the first place on.
        """
        if layers is None:
            return None
        found = []
        for blocks in layers:
            flat = [block.transpose(1, 2).flatten(0, 1) for block in blocks]  # [count * L, N, K] each
            maps = self._side_by_side(torch.cat(flat))  # [B, S, N, K]
            if source is not None and source.index is not None:
                row, place = source.places(maps.device)
                full = maps.new_zeros(*maps.shape[:3], source.width).permute(0, 3, 1, 2)
                column = source.index % source.width
                maps = full.index_put((row, column), maps.permute(0, 3, 1, 2)[row, place]).permute(0, 2, 3, 1)
            found.append(maps.transpose(1, 2))
        return tuple(found)

    def _unpack_cached_map(self, blocks: tuple[Tensor, ...]) -> Tensor:
        """`[B, N, S, keys]`; on the last axis stand each row's own tokens from its first on, and then zeros."""
        longest = max(self.totals())
        heads = blocks[0].shape[1] if blocks else 0
        packed = []
        for block in blocks:
            flat = block.transpose(1, 2).flatten(0, 1)  # [count * length, N, keys]
            packed.append(F.pad(flat, (0, longest - flat.shape[-1])))
        if not packed:
            return torch.zeros(self.batch, heads, self.width, longest)
        return self._side_by_side(torch.cat(packed)).transpose(1, 2)

    def _side_by_side(self, values: Tensor) -> Tensor:
        """`[T, ...]` → `[B, S, ...]`, also for tokens that the caller packed: as if padded on the right."""
        if self.padded:
            return self.unpack(values)
        row, place = self.places(values.device)
        place = place - self.before(place.device)
        return values.new_zeros(self.batch, self.width, *values.shape[1:]).index_put((row, place), values)


def _runs(lengths: Sequence[int]) -> tuple[Run, ...]:
    """Blocks of neighbouring sequences of equal length; empty ones are passed over."""
    runs, start = [], 0
    for length, group in groupby(lengths):
        count = sum(1 for _ in group)
        if length:
            runs.append(Run(start, count, length))
        start += count * length
    return tuple(runs)


def _starts(starts: Sequence[int], lengths: Sequence[int]) -> Tensor:
    """`[B]`: where each sequence begins, `-1` for an empty one."""
    return torch.tensor([start if length else -1 for start, length in zip(starts, lengths, strict=True)])


def count_real(ids: Tensor, padding: int, limit: int, seen: Sequence[int] = (0,)) -> Tensor:
    """Positions of ids, `[..., S]` both: real ones are counted from `padding + 1` on, padding itself is at `padding`.

    Args:
        ids: `[..., S]` vocabulary indices, padding included.
        padding: id of padding, and its position.
        limit: how many real tokens there are positions for.
        seen: how many tokens of each row are remembered already, or one number for all rows.

    Raises:
        InputError: for more real tokens than there are positions.
    """
    real = ids != padding
    places = real.cumsum(-1)
    if any(seen):
        places = places + torch.tensor(seen, device=ids.device)[:, None]
    if ids.shape[-1] + max(seen, default=0) > limit:  # padding does not count, so that a wide row may have room
        check_length(int(places.max()), limit)
    return places * real + padding


def count_packed(tokens: PackedTokens, padding: int, limit: int, device: torch.device) -> Tensor:
    """`count_real` for tokens that are packed, `[T]`; vectors do not tell which are padding, so all of them count."""
    layout, ids = tokens.layout, tokens.input_ids
    if ids is None:
        check_length(layout.reach, limit)
        return layout.positions(device) + padding + 1
    rows = [ids.narrow(0, start, count * length).view(count, length) for start, count, length in layout.runs]
    places = torch.cat([ids[:0], *(count_real(row, padding, limit).flatten() for row in rows)])
    return places if layout.past is None else places + layout.before(device) * (ids != padding)


class PackedTokens(NamedTuple):
    """The inputs of a body in packed form: what `pack_tokens` makes, and pipelines hand over directly.

    Attributes:
        layout: which token belongs to which sequence.
        input_ids: `[T]` vocabulary indices, or `None` when `inputs_embeds` is given.
        token_type_ids: `[T]` first or second text of a pair; `None` means all first.
        position_ids: `[T]` places; `None` means counted from the start of each sequence.
        inputs_embeds: `[T, H]` word vectors in place of `input_ids`.
    """

    layout: Layout
    input_ids: Tensor | None = None
    token_type_ids: Tensor | None = None
    position_ids: Tensor | None = None
    inputs_embeds: Tensor | None = None

    def positions(self, device: torch.device) -> Tensor:
        """`[T]`: the positions that were given, else those of the layout."""
        return self.layout.positions(device) if self.position_ids is None else self.position_ids

    @classmethod
    def from_lists(
        cls,
        input_ids: Sequence[Sequence[int]],
        token_type_ids: Sequence[Sequence[int]] | None = None,
        device: torch.device | str | None = None,
    ) -> PackedTokens:
        """Pack lists of ids, one a sequence, in the given order; sorted by length they run fastest."""
        layout = Layout.from_lengths([len(ids) for ids in input_ids])
        types = None if token_type_ids is None else _join(token_type_ids, device)
        return cls(layout, _join(input_ids, device), types)


def _join(rows: Sequence[Sequence[int]], device: torch.device | str | None) -> Tensor:
    return torch.tensor([number for row in rows for number in row], dtype=torch.long, device=device)


def pack_tokens(
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    token_type_ids: Tensor | None = None,
    position_ids: Tensor | None = None,
    inputs_embeds: Tensor | None = None,
    cache: Cache | None = None,
    packed: PackedTokens | None = None,
) -> PackedTokens:
    """The entrance of a model: drop the padding of a batch.

    Args:
        input_ids: `[B, S]`, or `[B, C, S]` for multiple choice; exactly one of this and `inputs_embeds`.
        attention_mask: `[B, S]`, zero at padding (anywhere); or `[B, S, S]` / `[B, 1, S, S]`, which tokens each token
            may see; `None` means that every token is real. After `P` cached columns it is `[B, P + S]`.
        token_type_ids: `[B, S]` or `None`.
        position_ids: `[B, S]`, `[1, S]` or `None` for the columns' numbers.
        inputs_embeds: `[B, S, H]` or `None`.
        cache: what is remembered of earlier tokens of these rows, or `None`.
        packed: tokens that are packed already, in place of all the others; a cache that was asked for is connected.

    Raises:
        InputError: when shapes do not fit each other, or both or neither of ids and vectors are given.
    """
    if packed is not None:
        if cache is not None and packed.layout.cache is None and not cache.optional:
            cache.open(packed.layout)
        return packed
    if (input_ids is None) == (inputs_embeds is None):
        which = "neither" if input_ids is None else "both"
        raise InputError(f"input_ids and inputs_embeds: got {which}, wanted exactly one of them")
    source, axes = (input_ids, 2) if input_ids is not None else (inputs_embeds, 3)
    assert source is not None
    if source.dim() == axes + 1:  # choices: each is a sequence of its own, all of the same question in a row
        choices = source.shape[1]
        inputs = (input_ids, attention_mask, token_type_ids, position_ids, inputs_embeds)
        ids, mask, types, positions, vectors = (None if each is None else each.flatten(0, 1) for each in inputs)
        packed = pack_tokens(ids, mask, types, positions, vectors, cache)
        packed.layout.choices = choices
        return packed
    if source.dim() != axes:
        name, wanted = (
            ("input_ids", "[batch, sequence]") if axes == 2 else ("inputs_embeds", "[batch, sequence, hidden]")
        )
        raise InputError(
            f"{name}: got shape {list(source.shape)}, wanted {wanted}; for one text add a first axis: x[None]"
        )
    batch, width = source.shape[:2]
    seen = 0 if cache is None else cache.get_seq_length()
    if attention_mask is None:
        layout = Layout.full(batch, width)
    elif attention_mask.shape == (batch, seen + width):
        layout = Layout.from_mask(attention_mask[:, seen:])
    elif attention_mask.shape in ((batch, width, width), (batch, 1, width, width)):
        layout = Layout.from_pattern(attention_mask)
    else:
        what = "the tokens" if seen == 0 else f"{seen} cached columns and the tokens"
        raise InputError(
            f"attention_mask: got shape {list(attention_mask.shape)}, wanted {[batch, seen + width]} like {what}"
        )
    if cache is not None:
        cache.open(layout)
    if token_type_ids is not None and token_type_ids.shape != (batch, width):
        raise InputError(
            f"token_type_ids: got shape {list(token_type_ids.shape)}, wanted {[batch, width]} like the tokens"
        )
    if position_ids is not None:
        if position_ids.shape not in ((batch, width), (1, width)):
            raise InputError(
                f"position_ids: got shape {list(position_ids.shape)}, wanted {[batch, width]} like the tokens"
            )
        position_ids = position_ids.expand(batch, width)
    return PackedTokens(
        layout,
        layout.pack(input_ids),
        layout.pack(token_type_ids),
        layout.pack(position_ids),
        layout.pack(inputs_embeds),
    )
