"""What beams should find, worked out the long way: no cache, no batch, every text read from its start at every step.

Diverse and constrained beams are no longer in the reference; these follow the rules of its last version that had them,
except that constrained beams do not lose the last text that misses nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor

Scores = Callable[[list[int]], Tensor]
NEVER = -1e9


def scores_of(model: Any, source: list[int] | None = None) -> Scores:
    """Text → log-probabilities of the next token `[V]`; with a source, the text is the decoder's."""
    seen: dict[tuple[int, ...], Tensor] = {}

    def scores(text: list[int]) -> Tensor:
        key = tuple(text)
        if key not in seen:
            ids = torch.tensor([text])
            given = {"input_ids": ids} if source is None else {"decoder_input_ids": ids}
            if source is not None:
                given["input_ids"] = torch.tensor([source])
            with torch.no_grad():
                seen[key] = model(**given, use_cache=False).logits[0, -1].float().log_softmax(-1)
        return seen[key]

    return scores


@dataclass
class Heap:
    """The best finished texts."""

    size: int
    penalty: float
    early: Any
    limit: int
    kept: list[tuple[float, list[int]]] = field(default_factory=list)

    def add(self, total: float, new: list[int]) -> None:
        self.kept = sorted([*self.kept, (total / len(new) ** self.penalty, new)], key=lambda pair: -pair[0])[
            : self.size
        ]

    def settled(self, best: float, length: int) -> bool:
        if len(self.kept) < self.size:
            return False
        if self.early is True:
            return True
        reach = self.limit if self.early == "never" and self.penalty > 0 else length
        return self.kept[-1][0] >= best / reach**self.penalty


def best_ways(
    scores: Scores, prompt: list[int], texts: list[list[int]], sums: list[float], cost: Counter[int], count: int
) -> list[tuple[float, int, int]]:
    """The `count` best of all ways to go on: total, number of the text, token."""
    ways = []
    for number, (text, total) in enumerate(zip(texts, sums, strict=True)):
        values = scores([*prompt, *text])
        for token, value in enumerate((values + total).tolist()):
            ways.append((value - cost[token], number, token))
    return sorted(ways, key=lambda way: -way[0])[:count]


def diverse(
    scores: Scores, prompt: list[int], limit: int, ends: Sequence[int], pad: int, *, beams: int, groups: int,
    diversity: float, penalty: float = 1.0, early: Any = False,
) -> list[tuple[float, list[int]]]:  # fmt: skip
    """Score and tokens of the texts that diverse beams find, the best first."""
    size = beams // groups
    heaps = [Heap(size, penalty, early, limit) for _ in range(groups)]
    texts: list[list[list[int]]] = [[[] for _ in range(size)] for _ in range(groups)]
    sums = [[0.0] + [NEVER] * (size - 1) for _ in range(groups)]
    done = [False] * groups
    for length in range(1, limit + 1):
        said: Counter[int] = Counter()
        for group in range(groups):
            if done[group]:
                said.update({pad: size})
                continue
            cost: Counter[int] = Counter()
            for token, times in said.items():
                cost[token] = times * diversity  # type: ignore[assignment]
            ways = best_ways(scores, prompt, texts[group], sums[group], cost, max(2, 1 + len(ends)) * size)
            going = []
            for rank, (total, number, token) in enumerate(ways):
                new = [*texts[group][number], token]
                if token not in ends:
                    going.append((total, new))
                elif rank < size:
                    heaps[group].add(total, new)
            texts[group], sums[group] = [new for _, new in going[:size]], [total for total, _ in going[:size]]
            said.update(new[-1] for new in texts[group])
            done[group] = heaps[group].settled(ways[0][0], length)
        if all(done):
            break
    for group, heap in enumerate(heaps):
        if not done[group]:
            for new, total in zip(texts[group], sums[group], strict=True):
                heap.add(total, new)
    return sorted((pair for heap in heaps for pair in heap.kept), key=lambda pair: -pair[0])


@dataclass(frozen=True)
class Progress:
    """How far a text has got with words, each a tuple of alternatives: what is pending, and what has been begun."""

    pending: tuple[tuple[tuple[int, ...], ...], ...]
    word: tuple[tuple[int, ...], ...] | None = None
    begun: tuple[int, ...] = ()
    complete: int = 0

    def after(self, token: int) -> Progress:
        if self.word is not None:
            return self._go_on(self.pending, self.word, token)
        for number, word in enumerate(self.pending):
            if any(form[0] == token for form in word):
                return self._go_on(self.pending[:number] + self.pending[number + 1 :], word, token)
        return self

    def _go_on(self, others: Any, word: tuple[tuple[int, ...], ...], token: int) -> Progress:
        text = (*self.begun, token)
        if text in word:
            return Progress(others, None, (), self.complete + 1)
        if any(form[: len(text)] == text for form in word):
            return Progress(others, word, text, self.complete)
        return Progress((*others, word), None, (), self.complete)

    def tokens(self) -> Iterator[int]:
        seen = set()
        for word in self.pending if self.word is None else (self.word,):
            for form in word:
                if form[: len(self.begun)] == self.begun and (id(word), form[len(self.begun)]) not in seen:
                    seen.add((id(word), form[len(self.begun)]))
                    yield form[len(self.begun)]

    def bank(self, longest: int) -> int:
        if self.word is None:
            return self.complete * longest
        missing = max(map(len, self.word)) - len(self.begun)
        return self.complete * longest + longest - missing

    @property
    def fulfilled(self) -> bool:
        return not self.pending and self.word is None


def constrained(
    scores: Scores, prompt: list[int], limit: int, ends: Sequence[int], words: Sequence[Sequence[Sequence[int]]], *,
    beams: int, wanted: int = 1, penalty: float = 1.0, early: Any = False,
) -> list[tuple[float, list[int]]]:  # fmt: skip
    """Score and tokens of the texts that constrained beams find; each word is a list of alternatives."""
    start = Progress(tuple(tuple(map(tuple, word)) for word in words))  # type: ignore[arg-type]
    longest = max(len(form) for word in words for form in word)

    def progress(new: list[int]) -> Progress:
        state = start
        for token in [*prompt, *new]:
            state = state if state.fulfilled else state.after(token)
        return state

    heap = Heap(beams, penalty, early, limit)
    texts, sums = [[] for _ in range(beams)], [0.0] + [NEVER] * (beams - 1)  # type: list[list[int]], list[float]
    for length in range(1, limit + 1):
        ways = best_ways(scores, prompt, texts, sums, Counter(), max(2, 1 + len(ends)) * beams)
        going = []
        for rank, (total, number, token) in enumerate(ways):
            if token not in ends and len(going) < beams:
                going.append((total, [*texts[number], token]))
            elif token in ends and rank < beams and progress(texts[number]).fulfilled and len(going) < beams:
                heap.add(total, [*texts[number], token])
        for text, total in zip(texts, sums, strict=True):
            for token in progress(text).tokens():
                if [*text, token] not in [new for _, new in going]:
                    going.append((total + float(scores([*prompt, *text])[token]), [*text, token]))
        banks: dict[int, list[tuple[float, list[int]]]] = {}
        for total, new in sorted(going, key=lambda pair: -pair[0]):
            banks.setdefault(progress(new).bank(longest), []).append((total, new))
        rounds = [
            banks[bank][place]
            for place in range(len(going))
            for bank in sorted(banks, reverse=True)
            if place < len(banks[bank])
        ][:beams]
        whole = [number for number, text in enumerate(texts) if progress(text).fulfilled]
        if whole and not any(progress(new).fulfilled for _, new in rounds):  # the reference would lose them
            number = max(whole, key=lambda place: sums[place])
            for total, _, token in best_ways(scores, prompt, [texts[number]], [sums[number]], Counter(), 99):
                if token not in ends:
                    rounds[-1] = (total, [*texts[number], token])
                    break
                heap.add(total, [*texts[number], token])
        texts, sums = [new for _, new in rounds], [total for total, _ in rounds]
        if heap.settled(ways[0][0], length):
            return heap.kept
    last = [(total, new) for total, new in zip(sums, texts, strict=True)]
    for total, new in last:
        if progress(new).fulfilled:
            heap.add(total, new)
    missing = sorted((total / len(new) ** penalty, new) for total, new in last if not progress(new).fulfilled)
    return [*heap.kept, *missing[::-1][: max(wanted - len(heap.kept), 0)]]


def every_text(
    scores: Scores, prompt: list[int], limit: int, end: int, vocabulary: int, penalty: float = 1.0
) -> list[tuple[float, list[int]]]:
    """Score and tokens of all texts that there are, the best first: those that end, and those of full length."""
    found = []
    for length in range(1, limit + 1):
        for new in product(range(vocabulary), repeat=length):
            if end in new[:-1] or (new[-1] != end and length < limit):
                continue
            total = sum(float(scores([*prompt, *new[:place]])[token]) for place, token in enumerate(new))
            found.append((total / length**penalty, list(new)))
    return sorted(found, key=lambda pair: -pair[0])
