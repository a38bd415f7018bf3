"""Which words mattered: integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365) of one number.

The text is led in a straight line from a *baseline*, a text of the same length that says nothing, to itself, word
vector by word vector. On the way the number changes, and each token's share in every change is its gradient times its
step. The shares of the whole way are the attributions, and they add up to the difference between the number at the
end and at the beginning. How closely they do is measured here, and the way is cut finer where it is steep until they
do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.errors import InputError
from pellucid.model import PreTrainedModel
from pellucid.pipelines.engine import Part, pack

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

NODES = (0.046910077030668, 0.230765344947158, 0.5, 0.769234655052841, 0.953089922969332)
WEIGHTS = (0.118463442528095, 0.239314335249683, 0.284444444444444, 0.239314335249683, 0.118463442528095)
"""Where a stretch of the way from 0 to 1 is looked at, and how much each place counts (Gauss-Legendre, 5 points)."""
MIDDLE = 2
"""Which of the places is the middle, where a stretch is cut in two."""
FIRST_STRETCHES = 4
TOLERANCE = 0.005
"""Errors of all stretches together, as a share of the whole difference, at which the work is done."""
NOISE = 1e-6
"""The same as a share of the number itself, below which rounding in float32 hides every difference."""
MOST_PLACES = 10_000
"""Places looked at before the work ends with the error that is left."""
TOKENS = 1024
"""Tokens that are computed at once, as many copies of the text as fit."""


class Attributions(NamedTuple):
    """What each token gave to a number.

    Attributes:
        shares: one number for each token; together `end - start`, but for the error.
        start: the number for the baseline.
        end: the number for the text.
        places: how many texts on the way from one to the other were computed.
    """

    shares: list[float]
    start: float
    end: float
    places: int

    @property
    def error(self) -> float:
        """How far the sum of the shares is from `end - start`, as a share of it."""
        difference = self.end - self.start
        missed = abs(sum(self.shares) - difference)
        return missed / abs(difference) if difference else missed


def integrate(look: Callable[[list[float]], tuple[Tensor, Tensor]], most: int = MOST_PLACES) -> Attributions:
    """Follow the way from 0 to 1, finer where a stretch's shares do not add up to the change over it.

    Args:
        look: places on the way → the number `[P]` at each of them, and the rate at which each token changes it,
            `[P, T]`; both float64.
        most: places at which to stop anyway.
    """
    cuts = [number / FIRST_STRETCHES for number in range(FIRST_STRETCHES + 1)]
    numbers, _ = look(cuts)
    at = dict(zip(cuts, numbers.tolist(), strict=True))
    done: dict[tuple[float, float], tuple[Tensor, float]] = {}
    ahead, places = list(pairwise(cuts)), len(cuts)
    weights = torch.tensor(WEIGHTS, dtype=torch.float64)
    while True:
        inside = [a + (b - a) * node for a, b in ahead for node in NODES]
        numbers, rates = look(inside)
        places += len(inside)
        for number, (a, b) in enumerate(ahead):
            shares = (b - a) * (weights @ rates[number * len(NODES) : (number + 1) * len(NODES)])  # [T]
            at[(a + b) / 2] = float(numbers[number * len(NODES) + MIDDLE])
            done[a, b] = shares, abs(float(shares.sum()) - (at[b] - at[a]))
        allowed = max(TOLERANCE * abs(at[1.0] - at[0.0]), NOISE * max(map(abs, at.values())))
        errors = sorted(((error, stretch) for stretch, (_, error) in done.items()), reverse=True)
        left, ahead = sum(error for error, _ in errors), []
        for error, (a, b) in errors:  # the worst are cut until what remains would be small enough
            if left <= allowed / 2 or b - a < 1e-7:
                break
            ahead += [(a, (a + b) / 2), ((a + b) / 2, b)]
            left -= error
        if sum(error for error, _ in errors) <= allowed or not ahead or places >= most:
            break
        for left_half, right_half in zip(ahead[::2], ahead[1::2], strict=True):
            del done[left_half[0], right_half[1]]
    total = torch.stack([shares for shares, _ in done.values()]).sum(dim=0)
    start = at[0.0] if total.any() else at[1.0]  # where nothing moves, the two differ by rounding alone
    return Attributions(total.tolist(), start, at[1.0], places)


# ---------------------------------------------------------------------- the way in word vectors


class Lookup(NamedTuple):
    """One time that a model looked up word vectors.

    Attributes:
        text: `[L, E]`, the vectors of the text.
        step: `[L, E]`, how they differ from those of the baseline.
        owner: `[L]`, which token of the text each of them is of.
    """

    text: Tensor
    step: Tensor
    owner: Tensor


class WordWay:
    """The way of a text's word vectors from a baseline, and the number that changes on it.

    Args:
        probe: a pipeline on a model that may be listened to (see `tracing.probe_of`).
        parts: what the model reads.
        fixed: for each token of the parts, whether it is the same in the baseline, as markers are.
        number: what `probe.differentiable` gives for the parts → the number.
        options: the call's options.
    """

    def __init__(
        self,
        probe: Pipeline,
        parts: Sequence[Part],
        fixed: Sequence[bool],
        number: Callable[[Sequence[Any]], Tensor],
        options: dict[str, Any],
    ) -> None:
        self.probe, self.parts, self.number, self.options = probe, list(parts), number, options
        self.baseline, self.size = "", len(fixed)
        self.lookups: list[Lookup | None] = []
        self.written: list[int] = []  # what a decoder reads
        moved = ~torch.tensor(fixed, device=probe.device)
        heard: list[tuple[nn.Embedding, Tensor, Tensor]] = []
        with _listening(probe.model, lambda table, ids, vectors: heard.append((table, ids, vectors))):
            self._numbers(1)
        for table, ids, vectors in heard:
            owner = self._owner(ids)
            self.written = ids.tolist() if self.lookups else []
            if owner is None:  # a decoder that begins to write
                self.lookups.append(None)
                continue
            moves = moved[owner.clamp(min=0)] & (owner >= 0)
            step = torch.where(moves[:, None], vectors.detach() - self._blank(table), 0.0)
            self.lookups.append(Lookup(vectors.detach(), step, owner.clamp(min=0)))
        if not any(self.lookups):
            raise InputError(f"explain: {type(probe.model).__name__} does not look up the vectors of these words")

    def _owner(self, ids: Tensor) -> Tensor | None:
        """Which token of the parts each looked-up word is, `[L]`; -1: none; `None`: it is another text.

        A decoder that judges a text reads it too, one place later.
        """
        sizes = [len(part.ids) for part in self.parts]
        here = torch.arange(self.size, device=ids.device)
        source = torch.tensor([token for part in self.parts for token in part.ids], device=ids.device)
        if ids.shape != source.shape:
            return None
        if torch.equal(ids, source):
            return here
        later = torch.cat([own - 1 for own in torch.split(here, sizes)])
        later[torch.tensor([0, *sizes[:-1]], device=ids.device).cumsum(0)] = -1
        return later if torch.equal(source[later.clamp(min=0)][later >= 0], ids[later >= 0]) else None

    def _blank(self, table: nn.Embedding) -> Tensor:
        """The vector of a word that says nothing: the mask's, or where there is none the average of all words."""
        mask = self.probe.tokenizer.mask_token_id
        if mask is not None and mask < table.num_embeddings:
            self.baseline = f"every word is {self.probe.tokenizer.mask_token}"
            rows = torch.tensor([mask], device=self.probe.device)
        else:
            self.baseline = "every word is the average of all words"
            rows = torch.arange(table.num_embeddings, device=self.probe.device)
        with torch.no_grad():
            sums = [table(some).double().sum(dim=0) for some in torch.split(rows, 4096)]
        return (torch.stack(sums).sum(dim=0) / len(rows)).to(table.weight.dtype)

    def _numbers(self, copies: int) -> Tensor:
        """The number of each copy of the parts, `[copies]`."""
        values = self.probe.differentiable(pack(self.parts * copies, self.probe.device), **self.options)
        count = len(self.parts)
        return torch.stack([self.number(values[start : start + count]) for start in range(0, len(values), count)])

    def look(self, places: list[float]) -> tuple[Tensor, Tensor]:
        """The number at places of the way, 0 the baseline and 1 the text, and how fast each token changes it there."""
        at_once = max(TOKENS // max(self.size, 1), 1)
        found = [self._look(places[start : start + at_once]) for start in range(0, len(places), at_once)]
        return torch.cat([numbers for numbers, _ in found]), torch.cat([rates for _, rates in found])

    def _look(self, places: list[float]) -> tuple[Tensor, Tensor]:
        given: list[Tensor | None] = []
        for lookup in self.lookups:
            if lookup is None:
                given.append(None)
                continue
            back = 1 - torch.tensor(places, device=lookup.text.device, dtype=lookup.text.dtype)  # [P]
            vectors = lookup.text - back[:, None, None] * lookup.step  # [P, L, E]
            given.append(vectors.requires_grad_())
        order = iter(given)

        def replace(table: nn.Embedding, ids: Tensor, vectors: Tensor) -> Tensor | None:
            put = next(order)
            return None if put is None else put.flatten(0, 1)

        with _listening(self.probe.model, replace):
            numbers = self._numbers(len(places))
        varied = [vectors for vectors in given if vectors is not None]
        if not numbers.requires_grad:
            raise InputError("explain: the task's number does not follow from the words by differentiable steps")
        slopes = torch.autograd.grad(numbers.sum(), varied, allow_unused=True)
        rates = torch.zeros(len(places), self.size, dtype=torch.float64)
        for lookup, slope in zip([each for each in self.lookups if each is not None], slopes, strict=True):
            if slope is not None:
                rates.index_add_(1, lookup.owner.cpu(), (slope * lookup.step).double().sum(dim=-1).cpu())
        return numbers.detach().double().cpu(), rates

    def attributions(self) -> Attributions:
        """What each token gave to the number."""
        return integrate(self.look)


@contextmanager
def _listening(model: PreTrainedModel, heard: Callable[[nn.Embedding, Tensor, Tensor], Any]) -> Iterator[None]:
    """Within this, `(table, ids, vectors)` of each look-up of words is heard, and what is returned taken instead."""
    parts = [part for part in model.modules() if isinstance(part, PreTrainedModel)]
    tables = {id(table): table for table in (part.get_input_embeddings() for part in parts)}
    handles = [
        table.register_forward_hook(lambda table, given, vectors: heard(table, given[0], vectors))
        for table in tables.values()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
