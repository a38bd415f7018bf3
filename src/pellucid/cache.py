"""What a decoder remembers, so that it need not compute earlier tokens again: keys and values, layer by layer.

A `Cache` is a list of memories, one a layer, and the number of tokens that each row of the batch has in them. Which
kind of memory a layer has is its own affair: `GrowingMemory` keeps everything, `FixedMemory` everything up to a size
that is set aside at once, `SlidingMemory` a window of the latest tokens, `CrossMemory` the keys and values of a text
that does not change (what an encoder has read). `DynamicCache` and `StaticCache` only choose among them.

In memory every row starts at its first real token: padding is never kept. Rows of different lengths are told apart by
masks, which are worked out once for all layers (`Layout.plans`).

Axes: `B` rows, `N` key/value heads, `D` head size, `T` packed tokens, `K` remembered places.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.layout import Layout, Run

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig


@dataclass(frozen=True, slots=True)
class Span:
    """What the sequences of one run of a layout see in a memory.

    Attributes:
        rows: `[count]` their rows in the memory; `None`: all rows in order.
        keys: how many places from the first on are looked at.
        mask: `[count or 1, 1, length, keys]`, which token sees which place; `None`: all, or if `causal` those up to it.
    """

    rows: Tensor | None
    keys: int
    mask: Tensor | None
    causal: bool = False

    def of(self, memory: Tensor) -> Tensor:
        """Keys or values of a memory → those that are looked at, `[count, N, keys, D]`."""
        return (memory if self.rows is None else memory.index_select(0, self.rows))[:, :, : self.keys]


class Memory(ABC):
    """Keys and values of one layer: `keys` and `values`, each `[B, N, K, D]`, or `None` before the first token."""

    keys: Tensor | None = None
    values: Tensor | None = None

    @abstractmethod
    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Take in the keys and values of new tokens, packed `[T, N, D]` each."""

    @abstractmethod
    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """What each run of the layout sees, its own tokens included; `window`: only places nearer than that."""

    def distances(self, layout: Layout, device: torch.device) -> list[Tensor]:
        """For each run, `[count or 1, L, K]`: place of the token looked at − place of the token that looks."""
        raise InputError(f"{type(self).__name__}: relative positions need a memory that keeps every token")

    def look(self, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """Store new keys and values `[T, N, D]`, and give everything that they may look at, `[B, N, K, D]` each."""
        self.store(key, value, layout)
        assert self.keys is not None
        assert self.values is not None
        return self.keys, self.values

    def select(self, rows: Tensor) -> None:
        """Keep the given rows, in that order; a row may be kept several times."""
        if self.keys is not None and self.values is not None:
            self.keys = self.keys.index_select(0, rows.to(self.keys.device))
            self.values = self.values.index_select(0, rows.to(self.values.device))

    def crop(self, length: int) -> None:
        """Forget what lies at places from `length` on; most kinds do nothing, the next tokens are written over it."""
        return

    @property
    def bytes(self) -> int:
        """Memory that is set aside."""
        return sum(tensor.nbytes for tensor in (self.keys, self.values) if tensor is not None)


class GrowingMemory(Memory):
    """Keeps every token; the space doubles when it is full, so that a token is copied once on average."""

    def capacity(self, needed: int) -> int:
        """Places to set aside when `needed` are needed and there are fewer."""
        held = 0 if self.keys is None else self.keys.shape[2]
        return max(needed, 2 * held, 16)

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """Each token goes to its place in its row."""
        needed = max([0, *layout.totals()])
        if self.keys is None or self.values is None or self.keys.shape[2] < needed:
            places = self.capacity(needed)
            self.keys = _room(self.keys, key, layout.batch, places)
            self.values = _room(self.values, value, layout.batch, places)
        self.keys = _write(self.keys, key, layout)
        self.values = _write(self.values, value, layout)

    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """Everything before a token, by the place where it lies."""
        plan = ("growing", causal, window, device)
        if plan not in layout.plans:
            runs = _rows_of_runs(layout)
            layout.plans[plan] = [_span(layout, rows, run, causal, window, device) for rows, run in runs]
        return layout.plans[plan]  # type: ignore[no-any-return]

    def distances(self, layout: Layout, device: torch.device) -> list[Tensor]:
        """By the places where tokens lie."""
        found = []
        for rows, run in _rows_of_runs(layout):
            past = _pasts(layout, rows)
            place = torch.arange(max(past) + run.length, device=device)
            before = torch.tensor(past[:1] if min(past) == max(past) else past, device=device)
            looks = before[:, None] + torch.arange(run.length, device=device)  # [count or 1, L]
            found.append(place[None, None, :] - looks[:, :, None])
        return found


class FixedMemory(GrowingMemory):
    """Keeps up to `max_length` tokens in space that is set aside once and stays where it is."""

    def __init__(self, max_length: int) -> None:
        self.max_length = max_length

    def capacity(self, needed: int) -> int:
        """All of it, or `InputError` when that is too little."""
        if needed > self.max_length:
            raise InputError(
                f"cache: got {needed} tokens, room for {self.max_length}; make it with a larger max_cache_len"
            )
        return self.max_length


class SlidingMemory(Memory):
    """Keeps the last `window - 1` tokens, all that a new token sees beside itself, in a ring.

    A token at place `p` lies at `p % (window - 1)`. New tokens look at the ring as it was and at each other, and only
    then take their places in it.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.size = max(window - 1, 1)

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """The last tokens of each row go to their slots in the ring."""
        self.keys = _room(self.keys, key, layout.batch, self.size) if self.keys is None else self.keys
        self.values = _room(self.values, value, layout.batch, self.size) if self.values is None else self.values
        kept, row, slot = self._slots(layout, key.device)
        self.keys = _put(self.keys, row, slot, key[kept])
        self.values = _put(self.values, row, slot, value[kept])

    def _slots(self, layout: Layout, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
        """Which tokens `[T]` stay, of a long text only the end, and row and slot of those."""
        plan = ("slots", self.size, device)
        if plan not in layout.plans:
            row, place = layout.places(device)
            kept = place >= torch.tensor(layout.totals(), device=device)[row] - self.size
            layout.plans[plan] = kept, row[kept], place[kept] % self.size
        return layout.plans[plan]  # type: ignore[no-any-return]

    def look(self, key: Tensor, value: Tensor, layout: Layout) -> tuple[Tensor, Tensor]:
        """The ring as it was, and after it the new tokens: `[B, N, size + S, D]` each; then store them."""
        assert self.keys is not None
        assert self.values is not None
        fresh_key = _room(None, key, layout.batch, layout.width)
        fresh_value = _room(None, value, layout.batch, layout.width)
        row, place = layout.places(key.device)
        slot = place - layout.before(key.device)
        keys = torch.cat([self.keys, _put(fresh_key, row, slot, key)], dim=2)
        values = torch.cat([self.values, _put(fresh_value, row, slot, value)], dim=2)
        self.store(key, value, layout)
        return keys, values

    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """What the slots of the ring and the new tokens hold, as far as it is near enough."""
        plan = ("sliding", self.size, window, device)
        if plan not in layout.plans:
            layout.plans[plan] = [self._span(layout, rows, run, window, device) for rows, run in _rows_of_runs(layout)]
        return layout.plans[plan]  # type: ignore[no-any-return]

    def _span(self, layout: Layout, rows: list[int], run: Run, window: int | None, device: torch.device) -> Span:
        past = torch.tensor(_pasts(layout, rows), device=device)[:, None]
        ring = torch.arange(
            self.size, device=device
        )  # slot s holds the latest place before `past` that is s modulo the size
        held = past - 1 - (past - 1 - ring) % self.size  # [count, size]
        fresh = past + torch.arange(layout.width, device=device)  # [count, S]
        places = torch.cat([held, fresh], dim=1)[:, None, None, :]
        query = (past + torch.arange(run.length, device=device))[:, None, :, None]
        mask = (places >= 0) & (places <= query) & (query - places < (window or self.window))
        chosen = _chosen(rows, layout.batch, device)
        return Span(chosen, self.size + layout.width, mask)

    def crop(self, length: int) -> None:
        """Refused: a ring has forgotten what stood before."""
        raise InputError("crop: a sliding-window memory has overwritten its older tokens; use StaticCache or run again")


class CrossMemory(Memory):
    """Keys and values of a text that was read once, `[B, N, K, D]`; rows shorter than `K` are masked.

    Rows that stand side by side and look at the same text share it, as beams do: `sharing` rows to each text.
    """

    def __init__(self) -> None:
        self.mask: Tensor | None = None  # [B, 1, 1, K]
        self.sharing = 1

    def store(self, key: Tensor, value: Tensor, layout: Layout) -> None:
        """`layout` is that of the text that was read."""
        lengths = layout.lengths()
        longest = max(lengths, default=0)
        if min(lengths, default=0) == longest and layout.rows is None:
            self.keys, self.values = (
                new.view(layout.batch, longest, *new.shape[1:]).transpose(1, 2) for new in (key, value)
            )
            self.mask = layout.mask if layout.mask is not None and layout.mask.shape[2] == 1 else None
            return
        row, place = layout.places(key.device)
        self.keys = _put(_room(None, key, layout.batch, longest), row, place, key)
        self.values = _put(_room(None, value, layout.batch, longest), row, place, value)
        ends = torch.tensor(lengths, device=key.device)[:, None, None, None]
        self.mask = torch.arange(longest, device=key.device) < ends

    def spans(self, layout: Layout, causal: bool, window: int | None, device: torch.device) -> list[Span]:
        """Every token sees the whole text of its row; where rows share texts, each span is of texts and not of rows."""
        if self.sharing > 1 and (layout.rows is not None or any(run.count % self.sharing for run in layout.runs)):
            self._share([row // self.sharing for row in range(layout.batch)], 1)
        assert self.keys is not None
        found = []
        for rows, _ in _rows_of_runs(layout):
            texts = [row // self.sharing for row in rows[:: self.sharing]]
            chosen = _chosen(texts, len(self.keys), self.keys.device)
            mask = self.mask if self.mask is None or chosen is None else self.mask[chosen]
            found.append(Span(chosen, self.keys.shape[2], mask))
        return found

    def select(self, rows: Tensor) -> None:
        """Keep the given rows; neighbours with the same text share it if all texts have equally many rows."""
        texts = [row // self.sharing for row in rows.tolist()]
        groups = [(text, len(list(group))) for text, group in groupby(texts)]
        even = len({count for _, count in groups}) == 1
        self._share([text for text, _ in groups] if even else texts, groups[0][1] if even else 1)

    def _share(self, texts: list[int], sharing: int) -> None:
        """Keep the given texts, for that many rows each; nothing is copied when they are those that there are."""
        self.sharing = sharing
        if self.keys is not None and texts != list(range(len(self.keys))):
            chosen = torch.tensor(texts, dtype=torch.long, device=self.keys.device)
            super().select(chosen)
            self.mask = None if self.mask is None else self.mask.index_select(0, chosen)


# ---------------------------------------------------------------------- places


def _is_even(layout: Layout) -> bool:
    """Whether all rows have the same number of old tokens and of new ones, and stand in order."""
    if "even" not in layout.plans:
        past = layout.past
        same = past is None or past.count(past[0]) == len(past)
        layout.plans["even"] = same and len(layout.runs) == 1 and layout.rows is None
    return layout.plans["even"]  # type: ignore[no-any-return]


def _room(old: Tensor | None, like: Tensor, batch: int, places: int) -> Tensor:
    """Space `[B, N, places, D]`, what was remembered copied into it."""
    made = like.new_zeros(batch, like.shape[1], places, like.shape[2])
    if old is not None:
        made[:, :, : old.shape[2]] = old
    return made


def _put(memory: Tensor, row: Tensor, slot: Tensor, new: Tensor) -> Tensor:
    """Write `[T, N, D]` at rows and slots `[T]`; where gradients are wanted, into a copy."""
    if new.requires_grad or memory.requires_grad:
        return memory.transpose(1, 2).index_put((row, slot), new).transpose(1, 2)
    memory.transpose(1, 2).index_put_((row, slot), new)
    return memory


def _write(memory: Tensor, new: Tensor, layout: Layout) -> Tensor:
    """Write new tokens `[T, N, D]` behind those that each row has."""
    if not _is_even(layout):
        return _put(memory, *layout.places(new.device), new)
    past = 0 if layout.past is None else layout.past[0]
    one = layout.width == 1
    block = new[:, :, None] if one else new.view(layout.batch, -1, *new.shape[1:]).transpose(1, 2)  # [B, N, S, D]
    if new.requires_grad or memory.requires_grad:
        return torch.cat([memory[:, :, :past], block, memory[:, :, past + block.shape[2] :]], dim=2)
    memory[:, :, past : past + block.shape[2]] = block
    return memory


def _rows_of_runs(layout: Layout) -> Iterator[tuple[list[int], Run]]:
    """Each run with the rows of the batch that it consists of."""
    rows = list(range(layout.batch)) if layout.rows is None else list(layout.rows)
    start = 0
    for run in layout.runs:
        yield rows[start : start + run.count], run
        start += run.count


def _pasts(layout: Layout, rows: list[int]) -> list[int]:
    """How many tokens of each of these rows are remembered."""
    return [0] * len(rows) if layout.past is None else [layout.past[row] for row in rows]


def _chosen(rows: list[int], count: int, device: torch.device) -> Tensor | None:
    """Rows as a tensor; `None` for all of `count` in their order."""
    return None if rows == list(range(count)) else torch.tensor(rows, device=device)


def _span(layout: Layout, rows: list[int], run: Run, causal: bool, window: int | None, device: torch.device) -> Span:
    """What `rows` see in a memory where the token at place `p` lies at `p`."""
    past = _pasts(layout, rows)
    keys, chosen = max(past) + run.length, _chosen(rows, layout.batch, device)
    if min(past) == max(past) and (run.length == 1 or not causal) and (window is None or window >= keys):
        return Span(chosen, keys, None)
    before = torch.tensor(past[:1] if min(past) == max(past) else past, device=device)[:, None]  # [count or 1, 1]
    query = (before + torch.arange(run.length, device=device))[:, None, :, None]
    place = torch.arange(keys, device=device)
    mask = place <= query if causal else place < (before + run.length)[:, None, :, None]
    return Span(chosen, keys, mask if window is None else mask & (query - place < window))


# ---------------------------------------------------------------------- all layers


class Cache:
    """The memories of all layers, and how many tokens each row has in them.

    Args:
        layers: the memories; a layer without one gets a `GrowingMemory` when it asks.
    """

    optional = False
    """Made because it is usual and not because somebody asked: given up for a batch that cannot be remembered."""

    def __init__(self, layers: Iterable[Memory] = ()) -> None:
        self.layers = list(layers)
        self.lengths: list[int] | None = None  # real tokens of each row, [B]
        self._columns = 0

    def __getitem__(self, number: int) -> Memory:
        """The memory of layer `number`."""
        while len(self.layers) <= number:
            self.layers.append(GrowingMemory())
        return self.layers[number]

    def __len__(self) -> int:
        return len(self.layers)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Columns seen so far, padding counted: where the next column of `input_ids` stands."""
        return self._columns

    def open(self, layout: Layout) -> None:
        """Connect a batch of new tokens with what is remembered of its rows.

        Raises:
            InputError: another number of rows, or a mask that lets each token see a set of its own.
        """
        if layout.mask is not None:
            if self.optional and not self._columns:
                return
            raise InputError(
                "past_key_values: a mask with holes, or with a row for each token, cannot be remembered; "
                "pass use_cache=False"
            )
        if self.lengths is not None and len(self.lengths) != layout.batch:
            raise InputError(
                f"past_key_values: got {len(self.lengths)} rows for a batch of {layout.batch}; "
                "start a new cache, or use batch_select_indices"
            )
        layout.cache = self
        layout.past = self.lengths if self.lengths is not None and any(self.lengths) else None
        layout.offset = self._columns

    def advance(self, layout: Layout) -> None:
        """Count the tokens of a layout as remembered, after all layers have stored them."""
        self.lengths = list(layout.totals())
        self._columns += layout.width

    @strict
    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let row `i` continue what row `beam_idx[i]` has seen: `[B]` row numbers."""
        self.batch_select_indices(beam_idx)

    @strict
    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, in that order."""
        for layer in self.layers:
            layer.select(indices)
        if self.lengths is not None:
            self.lengths = [self.lengths[row] for row in indices.tolist()]

    @strict
    def batch_repeat_interleave(self, repeats: int) -> None:
        """Make of each row `repeats` rows."""
        rows = 0 if self.lengths is None else len(self.lengths)
        self.batch_select_indices(torch.arange(rows).repeat_interleave(repeats))

    @strict
    def crop(self, max_length: int) -> None:
        """Forget all but the first `max_length` tokens of each row; a negative number: the last so many."""
        for layer in self.layers:
            layer.crop(max_length)
        if self.lengths is not None:
            longest = max(self.lengths, default=0)
            kept = max(longest + max_length, 0) if max_length < 0 else max_length
            self._columns -= max(longest - kept, 0)
            self.lengths = [min(length, kept) for length in self.lengths]

    def crop_rows(self, lengths: Sequence[int]) -> None:
        """Forget all but the first `lengths[i]` tokens of row `i`; the next column stands behind the longest row."""
        for layer in self.layers:
            layer.crop(min(lengths, default=0))
        self.lengths = list(lengths)
        self._columns = max(lengths, default=0)

    def reset(self) -> None:
        """Forget all tokens; space that was set aside stays."""
        self.lengths, self._columns = None, 0

    @property
    def bytes(self) -> int:
        """Memory of all layers."""
        return sum(layer.bytes for layer in self.layers)


class DynamicCache(Cache):
    """Room that grows with the text; layers that see a window of it keep that window.

    Args:
        config: of the model; its `layer_types` and `sliding_window` say which layers see a window. Without it all
            layers keep everything.
    """

    @strict
    def __init__(self, config: PretrainedConfig | None = None) -> None:
        windows = windows_of(config)
        super().__init__([GrowingMemory() if window is None else SlidingMemory(window) for window in windows])


class StaticCache(Cache):
    """Room for `max_cache_len` tokens of each row, set aside once: for compiled models, and a known memory use.

    Args:
        config: of the model.
        max_cache_len: tokens that fit.
    """

    @strict
    def __init__(self, config: PretrainedConfig, max_cache_len: int) -> None:
        layers = [
            FixedMemory(max_cache_len) if window is None or window > max_cache_len else SlidingMemory(window)
            for window in windows_of(config) or [None] * _layer_count(config)
        ]
        super().__init__(layers)


class EncoderDecoderCache(Cache):
    """What the decoder of an encoder-decoder remembers: its own tokens, and what it sees of the encoder's.

    Args:
        self_attention_cache: of its own tokens.
        cross_attention_cache: of the encoder's, filled at the first step.
    """

    @strict
    def __init__(
        self,
        self_attention_cache: Cache | None = None,
        cross_attention_cache: Cache | None = None,
    ) -> None:
        super().__init__()
        self.self_attention_cache = DynamicCache() if self_attention_cache is None else self_attention_cache
        self.layers = self.self_attention_cache.layers
        self.cross_attention_cache = Cache() if cross_attention_cache is None else cross_attention_cache
        self.source: Layout | None = None  # of the text that the cross-attention layers have read

    def cross(self, number: int) -> CrossMemory:
        """The memory of layer `number` for the encoder's tokens, empty before the first step."""
        layers = self.cross_attention_cache.layers
        while len(layers) <= number:
            layers.append(CrossMemory())
        found = layers[number]
        assert isinstance(found, CrossMemory)
        return found

    @strict
    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the given rows, in that order, of both."""
        super().batch_select_indices(indices)
        self.cross_attention_cache.batch_select_indices(indices)

    def reset(self) -> None:
        """Forget all tokens of both."""
        super().reset()
        self.cross_attention_cache.layers.clear()
        self.source = None


class Source(NamedTuple):
    """The text that a decoder looks at beside its own: what the encoder made of it.

    Attributes:
        states: `[T, H]`, packed; `None` when all keys and values are in the cache.
        layout: how they are packed.
        cache: where each layer keeps the keys and values that it makes of them; `None`: nowhere.
    """

    states: Tensor | None
    layout: Layout | None
    cache: EncoderDecoderCache | None

    def memory(self, number: int) -> CrossMemory:
        """The memory of layer `number`, empty when the layer has yet to make its keys and values."""
        if self.cache is None:
            return CrossMemory()
        self.cache.source = self.cache.source or self.layout
        return self.cache.cross(number)


def windows_of(config: PretrainedConfig | None) -> Sequence[int | None]:
    """The window of each layer by `layer_types` and `sliding_window`; nothing for a model without windows."""
    types: Any = getattr(config, "layer_types", None)
    window: Any = getattr(config, "sliding_window", None)
    if not types or not window:
        return []
    return [window if kind == "sliding_attention" else None for kind in types]


def check_layer_types(config: Any) -> None:
    """Raise `ConfigError` unless `layer_types` says of each layer whether it has a window, and how wide it is."""
    kinds = {"full_attention"} if config.sliding_window is None else {"full_attention", "sliding_attention"}
    fits = len(config.layer_types) == config.num_hidden_layers and kinds.issuperset(config.layer_types)
    wanted = f"{' or '.join(sorted(kinds))} for each of {config.num_hidden_layers} layers"
    config.require(fits, "layer_types", wanted + (", as sliding_window is null" if len(kinds) == 1 else ""))


def _layer_count(config: PretrainedConfig) -> int:
    return int(config.num_hidden_layers)


def open_cache(
    past_key_values: Cache | None, use_cache: bool | None, config: PretrainedConfig, training: bool = False
) -> Cache | None:
    """The cache that a decoder's call works on.

    Args:
        past_key_values: handed in, or `None`.
        use_cache: whether one is wanted; `None`: as the configuration says, and not in training or a compiled graph.
        config: of the model.
        training: whether the model is being trained.

    Raises:
        InputError: for something that is no cache, or a model that cannot use one.
    """
    if use_cache is None:
        use_cache = None if _says(config, "use_cache") and not training and not torch.compiler.is_compiling() else False
    if past_key_values is None and use_cache is False:
        return None
    if _says(config, "use_bidirectional_attention"):  # tokens that come later change the earlier ones
        if past_key_values is not None or use_cache:
            raise InputError(
                "past_key_values: this model's tokens see those after them, so nothing can be remembered; "
                "pass the whole text, and use_cache=False"
            )
        return None
    if past_key_values is not None:
        if not isinstance(past_key_values, Cache):
            raise InputError(
                f"past_key_values: got a {type(past_key_values).__name__}, wanted a cache such as DynamicCache()"
            )
        return past_key_values
    looks_across = config.is_encoder_decoder or _says(config, "add_cross_attention")
    cache = EncoderDecoderCache() if looks_across else DynamicCache(config)
    cache.optional = use_cache is None
    return cache


def _says(config: PretrainedConfig, field: str) -> bool:
    """Whether a configuration has this field, and it is true."""
    return field in type(config).fields() and bool(getattr(config, field))
