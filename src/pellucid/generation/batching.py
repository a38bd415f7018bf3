"""Continuous batching: requests enter and leave while others are being written. Requests in, events out.

    engine = Engine(model, tokenizer)
    engine.submit("Once upon a time", max_new_tokens=50)     # at any time, from any thread
    for event in engine:
        print(event.id, event.text)

A step of the engine calls the model once, on the next token of every text that is being written, and beside those on
as much of new prompts as fits the budget of a step, all packed together. Texts that have ended leave at once, and the
next ones take their places. What is remembered lies in one `PoolCache` of bounded size; when it is full, requests wait,
and the one that came last gives its memory up to be read again later.

A request gives the text that `model.generate` gives for it alone: nothing depends on who else is there.

Axes: `R` texts of a step, `V` vocabulary.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid import ops
from pellucid.cache import DynamicCache
from pellucid.cache_pool import BLOCK, PoolCache
from pellucid.errors import InputError, reject_unknown, strict
from pellucid.generation.config import GenerationConfig
from pellucid.generation.loop import draw
from pellucid.generation.reader import _turning_point as turning_point
from pellucid.generation.requests import Answer, Event, Prompt, Request, Writing, check_ids, given_by, ids_of, settle
from pellucid.generation.structured import Grammar
from pellucid.layout import PackedTokens
from pellucid.tokenizer.rows import IdRows

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel

__all__ = ["Answer", "Engine", "Event", "Request", "generate_many"]

MAX_TOKENS = 16384
"""Tokens that are remembered at most, prompts and answers of all texts together, when nothing else is said."""
STEP_TOKENS = {"cpu": 512, "cuda": 4096}
"""Tokens that a step reads, by kind of device: more fill the processor better, and make those wait who are written."""


@dataclass
class EngineStatistics:
    """What an engine has done so far.

    Attributes:
        steps: how often the model was called.
        read: tokens that it read, those of texts that had to be read again included.
        shared: tokens that it did not read, as another text began alike.
        written: tokens that were written.
        preempted: how often a text gave its memory to others.
        finished: requests that have ended, in whatever way.
    """

    steps: int = 0
    read: int = 0
    shared: int = 0
    written: int = 0
    preempted: int = 0
    finished: int = 0


class Engine:
    """Writes many texts with one model.

    `submit` and `cancel` may be called from any thread, and while a step is under way; `step` by one at a time.

    Args:
        model: a decoder with a head that scores words.
        tokenizer: of the model, for prompts as text, for the text of events, stop strings and structured output.
        max_tokens: how many tokens may be remembered in all, prompts and answers together; default `MAX_TOKENS`.
        max_bytes: the same as memory.
        max_rows: how many texts may be written at once.
        step_tokens: how many tokens a step reads at most; default by the device (`STEP_TOKENS`).
        share_prefixes: let texts that begin alike take what others have, also those that ended while there is room.
        settings: fields of `GenerationConfig` for all requests, which may set others themselves.

    Raises:
        InputError: the model cannot write, or not without an encoder; a number is too small.
    """

    @strict
    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: IdRows | None = None,
        *,
        max_tokens: int | None = None,
        max_bytes: int | None = None,
        max_rows: int = 64,
        step_tokens: int | None = None,
        share_prefixes: bool = True,
        settings: Mapping[str, Any] | GenerationConfig | None = None,
    ) -> None:
        known = type(model).forward.__annotations__
        if not model.can_generate() or "packed_source" in known:
            raise InputError(
                f"{type(model).__name__}: wanted a decoder with a head that writes, as AutoModelForCausalLM loads; "
                "for an encoder-decoder use model.generate"
            )
        for name, number in (("max_rows", max_rows), ("step_tokens", step_tokens), ("max_tokens", max_tokens)):
            if number is not None and number < 1:
                raise InputError(f"{name}: got {number}, wanted at least 1")
        if max_tokens is not None and max_bytes is not None:
            raise InputError("max_bytes: got one beside max_tokens, wanted one of them")
        self.model, self.tokenizer = model, tokenizer
        self.max_rows = max_rows
        self.step_tokens = step_tokens or STEP_TOKENS.get(model.device.type, STEP_TOKENS["cuda"])
        self.statistics = EngineStatistics()
        self._common = given_by(settings or {})
        self._keeps = "logits_to_keep" in known  # whether the model can leave out what nobody reads
        rotary = [module for module in model.modules() if isinstance(module, ops.Rotary)]
        self._whole = any(module.by_length for module in rotary)  # angles follow from the length: no pieces, no sharing
        self._turns_at = turning_point(model)
        self.cache: PoolCache | None = None
        if "past_key_values" in known and not getattr(model.config, "use_bidirectional_attention", False):
            places = self._places(max_bytes) if max_bytes is not None else max_tokens or MAX_TOKENS
            self.cache = PoolCache(-(-places // BLOCK) * BLOCK, share=share_prefixes and not self._whole)
        self._running: list[Writing] = []  # in order of rank: the last is the first to be put back
        self._waiting: list[Writing] = []
        self._crowded = False  # memory was full: nobody enters before somebody has left
        self._grammars: dict[str, Grammar | None] = {}
        self._settled: tuple[GenerationConfig, str] | None = None
        self._count = 0
        self._submitted: deque[Writing] = deque()
        self._cancelled: deque[Hashable] = deque()
        self._ids: set[Hashable] = set()  # of requests that have not ended
        self._books = threading.Condition()  # held for what other threads may touch
        self._turn = threading.Lock()  # held for a step

    # ------------------------------------------------------------------ requests in

    def submit(self, prompt: Prompt | Request, **settings: Any) -> Any:
        """Hand in a request, which is checked now and written by later steps.

        Args:
            prompt: ids, a text, messages, or a whole `Request`.
            settings: fields of `GenerationConfig`, besides those of the request; and `id`, `priority`.

        Returns:
            The id by which its events are known.

        Raises:
            InputError, ConfigError, UnknownArgumentError: it can never be written as asked.
        """
        request = prompt if isinstance(prompt, Request) else Request(prompt)
        if settings:
            request = _with_settings(request, settings)
        config, kind = self._settle(request)
        ids = ids_of(request.prompt, self.tokenizer)
        with self._books:
            self._count += 1
            number = self._count - 1
        writing = Writing(number, request, config, kind, ids)
        check_ids(ids, self.model, writing.limit)
        if self.cache is not None and writing.most > self.cache.places:
            raise InputError(
                f"prompt: {writing.prompt} tokens and {writing.limit} new ones, there is room for {self.cache.places}; "
                "make the engine with a larger max_tokens, or set max_new_tokens lower"
            )
        writing.prepare(self.model, self.tokenizer, self._grammar(config, kind))
        with self._books:
            if writing.id in self._ids:
                raise InputError(f"id: got {writing.id!r}, which another request has; leave it out to get a number")
            self._ids.add(writing.id)
            self._submitted.append(writing)
            self._books.notify_all()
        return writing.id

    def cancel(self, id: Any) -> bool:
        """End a request at the next step; false when there is none of that id."""
        with self._books:
            known = id in self._ids
            if known:
                self._cancelled.append(id)
                self._books.notify_all()
        return known

    @property
    def pending(self) -> int:
        """How many requests have not ended."""
        return len(self._ids)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is something to do; false when there is not after `timeout` seconds."""
        with self._books:
            return self._books.wait_for(lambda: bool(self._ids), timeout)

    def _settle(self, request: Request) -> tuple[GenerationConfig, str]:
        """The settings of a request, and a text that is the same for equal ones."""
        plain = not given_by(request.settings)
        if plain and self._settled is not None:
            return self._settled
        config = settle(self.model, {**self._common, **given_by(request.settings)})
        values = {name: value for name, value in config.to_dict().items() if name != "seed" and value is not None}
        found = config, repr(sorted(values.items(), key=lambda pair: pair[0]))
        if plain:
            self._settled = found
        return found

    def _grammar(self, config: GenerationConfig, kind: str) -> Grammar | None:
        """What the settings allow to be written; made once for equal settings."""
        if config.regex is None and config.json_schema is None and config.choices is None:
            return None
        if self.tokenizer is None:
            raise InputError(
                "regex, json_schema, choices: got one without a tokenizer; pass generate_many(tokenizer=…)"
            )
        if kind not in self._grammars:
            size = getattr(self.model.config, "vocab_size", None)
            self._grammars[kind] = Grammar.from_config(config, self.tokenizer, vocab_size=size)
        return self._grammars[kind]

    @torch.no_grad()
    def _places(self, max_bytes: int) -> int:
        """How many tokens fit into some memory: asked of the model itself, by one token."""
        cache = DynamicCache()
        self.model(packed=PackedTokens.from_lists([[0]], device=self.model.device), past_key_values=cache)
        both = [tensor for layer in cache.layers for tensor in (layer.keys, layer.values) if tensor is not None]
        token = sum(tensor.shape[1] * tensor.shape[3] * tensor.element_size() for tensor in both)
        if max_bytes < token * BLOCK:
            raise InputError(f"max_bytes: got {max_bytes}, wanted at least {token * BLOCK}, {token} for each token")
        return max_bytes // (token * BLOCK) * BLOCK

    # ------------------------------------------------------------------ events out

    def __iter__(self) -> Iterator[Event]:
        """Events until every request has ended; those that are submitted meanwhile are among them."""
        while self.pending:
            yield from self.step()

    @torch.no_grad()
    def step(self) -> list[Event]:
        """Call the model once; what it wrote, and which requests have ended."""
        with self._turn:
            events = self._take_in()
            self._admit()
            batch = self._batch()
            if batch:
                events += self._write(batch)
            return events

    def _take_in(self) -> list[Event]:
        """Queue what was submitted, and end what was cancelled."""
        with self._books:
            self._waiting += self._submitted
            self._submitted.clear()
            self._waiting.sort(key=lambda writing: writing.rank)
            unwanted, self._cancelled = set(self._cancelled), deque()
        if not unwanted:
            return []
        found = [writing for writing in (*self._running, *self._waiting) if writing.id in unwanted]
        return [self._finish(writing, "cancelled") for writing in found]

    def _finish(self, writing: Writing, reason: Any, tokens: Sequence[int] = (), text: str = "", **more: Any) -> Event:
        """End a request: its memory is free for others."""
        if writing in self._running:
            self._running.remove(writing)
        else:
            self._waiting.remove(writing)
        if writing.row is not None and self.cache is not None:
            self.cache.leave(writing.row, spoilt=reason == "error")
        self._crowded = False
        self.statistics.finished += 1
        with self._books:
            self._ids.discard(writing.id)
        return writing.end(reason, list(tokens), text, **more)

    # ------------------------------------------------------------------ who is served

    def _admit(self) -> None:
        """Let those in who waited, as long as there is room and the step has time for them."""
        unread = sum(writing.unread for writing in self._running if self.cache is not None)
        for writing in list(self._waiting):
            if len(self._running) >= self.max_rows or (self._running and (self._crowded or unread >= self.step_tokens)):
                return
            if self.cache is not None:
                if self._running and self.cache.promised(writing.ids) >= BLOCK:
                    continue  # somebody is just reading what it begins with
                row = self.cache.enter(writing.ids, writing.most, reserve=self._whole)
                if row is None:
                    return
                writing.row = row
                self.statistics.shared += row.length
                if not writing.preempted:
                    writing.shared = row.length
                unread += writing.unread
            self._waiting.remove(writing)
            self._running.append(writing)
            self._running.sort(key=lambda one: one.rank)

    def _batch(self) -> list[tuple[Writing, int]]:
        """Texts of this step and how many tokens of each are read: one of those being written, then new prompts."""
        left = self.step_tokens
        steps, chunks = [], []
        for writing in self._running if self.cache is None else list(self._running):
            if self.cache is None:  # every text is read from its start each time
                if left == self.step_tokens or len(writing.ids) <= left:
                    chunks.append((writing, len(writing.ids)))
                    left -= len(writing.ids)
            elif writing.row is not None and self._unread(writing) == 1 and self._has_room(writing):
                steps.append((writing, 1))
                left -= 1
        if self.cache is not None:
            steps.sort(key=lambda pair: pair[0].place)  # so that neighbours in memory are read by one call
            for writing in self._running:
                count = writing.unread if self._whole else min(writing.unread, left)
                if writing.unread > 1 and (0 < count <= left or not (steps or chunks)):
                    chunks.append((writing, count))
                    left -= count
        return steps + chunks

    def _unread(self, writing: Writing) -> int:
        """How many tokens of a text are to be read: all, where it passes the length at which positions change."""
        if self._turns_at is not None and writing.row is not None and writing.read <= self._turns_at < len(writing.ids):
            writing.row.length = 0
        return writing.unread

    def _has_room(self, writing: Writing) -> bool:
        """See that a text has room for one token more; if need be, those that came last give up theirs."""
        assert self.cache is not None
        assert writing.row is not None
        while not self.cache.grow(writing.row, len(writing.ids)):
            last = self._running.pop()
            assert last.row is not None
            self.cache.leave(last.row, keep=False)
            last.row = None
            last.preempted += 1
            self.statistics.preempted += 1
            self._waiting.append(last)
            self._waiting.sort(key=lambda one: one.rank)
            self._crowded = True
            if last is writing:
                return False
        return True

    # ------------------------------------------------------------------ writing

    def _write(self, batch: Sequence[tuple[Writing, int]]) -> list[Event]:
        """Read tokens of each text, and write one for those that have been read to their end."""
        logits = self._read(batch)
        self.statistics.steps += 1
        self.statistics.read += sum(count for _, count in batch)
        ready = [
            (place, writing) for place, (writing, _) in enumerate(batch) if self.cache is None or not writing.unread
        ]
        rows = [place for place, _ in ready]
        if rows != list(range(len(batch))):
            logits = logits[torch.tensor(rows, device=logits.device, dtype=torch.long)]
        events: list[Event] = []
        groups: dict[Any, list[int]] = {}
        damaged = logits.isnan().any(dim=-1).tolist()
        for place, (_, writing) in enumerate(ready):
            if damaged[place]:
                error = InputError(f"{type(self.model).__name__}: its scores are NaN; the checkpoint is damaged")
                events.append(self._finish(writing, "error", error=error))
                continue
            sizes = (writing.prompt, len(writing.ids)) if writing.processors.needs_ids else ()
            groups.setdefault((writing.kind, *sizes), []).append(place)
        for places in groups.values():
            events += self._choose([ready[place][1] for place in places], logits[places])
        return events

    def _read(self, batch: Sequence[tuple[Writing, int]]) -> Tensor:
        """Scores of the next word of each text, `[R, V]`."""
        ids = [writing.ids[writing.read : writing.read + count] for writing, count in batch]
        tokens = PackedTokens.from_lists(ids, device=self.model.device)
        given: dict[str, Any] = {"packed": tokens}
        if self.cache is not None:
            self.cache.choose([writing.row for writing, _ in batch if writing.row is not None])
            given["past_key_values"] = self.cache
        if self._keeps:
            logits: Tensor = self.model(**given, logits_to_keep=1).logits[:, 0]
        else:
            logits = tokens.layout.last(self.model(**given).logits)[:, 0]
        return logits.float()

    def _choose(self, group: Sequence[Writing], logits: Tensor) -> list[Event]:
        """Write a token for each of some texts with the same logits processors; `logits` `[R, V]`."""
        first = group[0]
        try:
            width = len(first.ids) if first.processors.needs_ids else 0
            ids = torch.tensor([writing.ids[:width] for writing in group], dtype=torch.long, device=logits.device)
            scores = first.processors(ids, logits, rows=[0] * len(group))
            if first.config.do_sample:
                chosen = draw(scores, [writing.generator for writing in group])
            else:
                chosen = scores.argmax(dim=-1)
            tokens: list[int] = chosen.tolist()
        except Exception as error:  # what one caller's functions do must not end the texts of others
            return [self._finish(writing, "error", error=error) for writing in group]
        return [
            self._add(writing, token, scores[row : row + 1])
            for row, (writing, token) in enumerate(zip(group, tokens, strict=True))
        ]

    def _add(self, writing: Writing, token: int, scores: Tensor) -> Event:
        """Add a token to a text, and end the text if that was its last."""
        text = writing.push(token)
        self.statistics.written += 1
        try:
            stopped = writing.is_stopped(scores)
        except Exception as error:  # as above
            return self._finish(writing, "error", [token], text, error=error)
        if stopped or len(writing.ids) >= writing.most:
            return self._finish(writing, "stop" if stopped else "length", [token], text)
        return Event(writing.id, [token], text)


def _with_settings(request: Request, settings: dict[str, Any]) -> Request:
    """The request with further settings, and with `id` and `priority` if they are among them."""
    own = {name: settings.pop(name) for name in ("id", "priority") if name in settings}
    return replace(request, settings={**given_by(request.settings), **settings}, **own)


def generate_many(
    model: PreTrainedModel,
    requests: Iterable[Prompt | Request],
    tokenizer: IdRows | None = None,
    *,
    max_tokens: int | None = None,
    max_bytes: int | None = None,
    max_rows: int = 64,
    step_tokens: int | None = None,
    share_prefixes: bool = True,
    generation_config: GenerationConfig | None = None,
    **settings: Any,
) -> Iterator[Event]:
    """Write behind many prompts of mixed length, each step for all of them at once.

    Prompts are taken as they are needed, so that `requests` may be endless. Closing the iterator stops the work. For
    the answers alone: `[event.answer for event in generate_many(…) if event.answer]`, in the order in which they end.

    Args:
        model: a decoder with a head that scores words.
        requests: ids, texts, messages of a chat, or a `Request` with its own settings. Without an id of their own they
            are numbered.
        tokenizer: of the model, where there is text.
        max_tokens: as for `Engine`, like those that follow.
        max_bytes: memory for keys and values.
        max_rows: texts written at once.
        step_tokens: tokens that a step reads.
        share_prefixes: whether texts that begin alike share what was read.
        generation_config: settings for all requests in place of the model's own.
        **settings: fields of `GenerationConfig` for all requests, such as `max_new_tokens=50`.

    Yields:
        What was written, as it is written; the last event of each request has its `answer`.

    Raises:
        InputError, ConfigError, UnknownArgumentError: a request cannot be written as asked, when it is taken.
    """
    if unknown := settings.keys() - GenerationConfig.fields().keys():
        reject_unknown("generate_many", unknown, GenerationConfig.fields())
    engine = Engine(
        model, tokenizer, max_tokens=max_tokens, max_bytes=max_bytes, max_rows=max_rows, step_tokens=step_tokens,
        share_prefixes=share_prefixes, settings={**given_by(generation_config or {}), **settings},
    )  # fmt: skip
    return _events(engine, iter(requests))


def _events(engine: Engine, requests: Iterator[Prompt | Request]) -> Iterator[Event]:
    """Keep as many requests in hand as may be written at once, and as many again to choose from."""
    more = True
    while more or engine.pending:
        while more and engine.pending < 2 * engine.max_rows:
            try:
                engine.submit(next(requests))
            except StopIteration:
                more = False
        yield from engine.step()
