"""How many tokens a batch may hold: a number that was given, or the best of several, found on real batches."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOKENS_PER_BATCH = {"cpu": 2048, "cuda": 32768}
"""Tokens that one batch may hold unless another number proves better, by kind of device.

A CPU is fastest while a layer's activations stay in its cache: MiniLM in fp32 takes as long with 512 to 4096 tokens
and 15 % longer with 8192; in bf16 there is no difference above 512. A GPU wants enough work for all of its cores."""
TRIED = {"cpu": (512, 1024, 2048, 4096, 8192), "cuda": (8192, 16384, 32768)}
"""What is tried, the usual number among it."""
GAIN = 0.05
"""Share of the time that another number must save to take the place of the usual one."""


class TokenBudget:
    """How many tokens a batch may hold.

    The first window with enough tokens is cut to each candidate in turn, up and then down again (`A B C C B A`): parts
    are sorted by length, and in this order each candidate has short and long ones alike. These are batches that are
    computed anyway, so the trial costs what the slower candidates take longer. Answers do not depend on the choice,
    but for rounding, as sums are made in another order (less than 1e-6 in fp32).

    Args:
        usual: tokens to begin with.
        candidates: what to try, the usual number among it; nothing keeps the usual one.

    Attributes:
        tokens: the number that is used at present.
        seconds: what was measured: candidate → seconds for a token; empty until the trial.
    """

    def __init__(self, usual: int, candidates: Sequence[int] = ()) -> None:
        self.tokens, self.candidates = usual, tuple(candidates)
        self.seconds: dict[int, float] = {}

    @classmethod
    def of_device(cls, kind: str) -> TokenBudget:
        """The budget for a kind of device, such as `"cpu"`; others than CPUs are taken for GPUs."""
        known = kind if kind in TRIED else "cuda"
        return cls(TOKENS_PER_BATCH[known], TRIED[known])

    def sizes(self, lengths: Sequence[int], timings: Sequence[tuple[int, float]]) -> Iterator[int]:
        """How many tokens each batch of a window may hold, one batch after another, without an end.

        Args:
            lengths: tokens of the window's parts.
            timings: tokens and seconds of the batches computed so far, which grows in the meantime.
        """
        if tried := self._to_try(lengths):
            yield self.tokens  # not measured: the first batch makes the model's speed form and warms caches
            order = [*tried, *reversed(tried)]
            yield from order
            self._choose(order, timings[1:])
        while True:
            yield self.tokens

    def _to_try(self, lengths: Sequence[int]) -> list[int]:
        """The candidates, if there has been no trial and the window has enough tokens for one."""
        longest = max(lengths, default=0)
        able = [size for size in self.candidates if size >= longest]  # others would hold single parts
        enough = self.tokens + 2 * sum(able) <= sum(lengths)
        return able if enough and not self.seconds and len(able) > 1 and self.tokens in able else []

    def _choose(self, order: Sequence[int], timings: Sequence[tuple[int, float]]) -> None:
        """Keep the fastest, or the usual number where that is nearly as fast."""
        spent = dict.fromkeys(order, (0, 0.0))
        for size, (tokens, seconds) in zip(order, timings, strict=True):
            spent[size] = spent[size][0] + tokens, spent[size][1] + seconds
        self.seconds = {size: seconds / tokens for size, (tokens, seconds) in spent.items()}
        best = min(self.seconds, key=self.seconds.__getitem__)
        if self.seconds[best] < (1 - GAIN) * self.seconds[self.tokens]:
            self.tokens = best
