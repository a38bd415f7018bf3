"""Random draws of collators, of which a run that is taken up again makes the same.

    collator(rows)                       draws go on from call to call, as the reference's do
    collator.at_step(step)(rows)         draws depend on seed, step and the row's number alone
    collator.at_step(step).pack(rows)    the same draws, without padding

Draws that go on are lost when a run stops. With `at_step` a run that is taken up again, a run on more processes, and a
batch that is laid out otherwise all draw the same: nothing but the three numbers matters.

Axes: `B` batch, `S` width of the padded batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import torch

from pellucid.errors import InputError, strict
from pellucid.tokenizer.encoding import TensorKind
from pellucid.training.collators import Collator

Array = np.ndarray[Any, Any]


class Draws(Protocol):
    """Random numbers for the tokens of a batch."""

    def coins(self, chances: Array) -> Array:
        """True with the given chance at each place of `[B, S]`."""

    def words(self, count: int, where: Array) -> Array:
        """A number below `count` for each place of `[B, S]` that is true in `where`, in their order."""


class _TorchDraws:
    """Draws for the whole grid, padding too, one after another from one generator: as the reference draws them."""

    def __init__(self, generator: torch.Generator | None) -> None:
        self.generator = generator

    def coins(self, chances: Array) -> Array:
        drawn: Array = torch.bernoulli(torch.from_numpy(chances.astype(np.float32)), generator=self.generator).numpy()
        return drawn.astype(bool)

    def words(self, count: int, where: Array) -> Array:
        drawn: Array = torch.randint(count, where.shape, generator=self.generator).numpy()
        return drawn[where]


class _NumpyDraws:
    """The same from NumPy's generator, or from its global one."""

    def __init__(self, generator: np.random.Generator | None) -> None:
        self.generator = generator

    def coins(self, chances: Array) -> Array:
        source: Any = np.random if self.generator is None else self.generator
        drawn: Array = source.binomial(1, chances, size=chances.shape)
        return drawn.astype(bool)

    def words(self, count: int, where: Array) -> Array:
        if self.generator is None:
            return np.random.randint(0, count, size=int(where.sum()), dtype=np.int64)
        return self.generator.integers(0, count, size=int(where.sum()), dtype=np.int64)


class _RowDraws:
    """Draws for the real tokens alone, each row's from a generator of its own."""

    def __init__(self, generators: Sequence[torch.Generator | None], real: Array) -> None:
        self.rows = [_TorchDraws(generator) for generator in generators]
        self.real = real

    def coins(self, chances: Array) -> Array:
        drawn = np.zeros(chances.shape, dtype=bool)
        for at, (row, real) in enumerate(zip(self.rows, self.real, strict=True)):
            drawn[at, real] = row.coins(chances[at, real])
        return drawn

    def words(self, count: int, where: Array) -> Array:
        drawn = [row.words(count, chosen[real]) for row, chosen, real in zip(self.rows, where, self.real, strict=True)]
        return np.concatenate(drawn)


class Drawing(Collator):
    """A collator that draws random numbers.

    Without a seed they come from torch's global generator (NumPy's, for `return_tensors="np"`).
    """

    seed: int | None
    _step: tuple[int, Sequence[int] | None] | None = None
    _torch: torch.Generator | None = None
    _numpy: np.random.Generator | None = None

    @strict
    def set_seed(self, seed: int | None) -> None:
        """Start the draws anew; `None` takes them from the global generator."""
        self.seed = check_number("seed", seed) if seed is not None else None
        self._torch = self._numpy = None

    @strict
    def at_step(self, step: int, rows: Sequence[int] | None = None) -> Self:
        """This collator for one batch, whose draws depend only on the seed, `step` and each row's number.

        It shares nothing that changes, so that several batches can be made at once.

        Args:
            step: number of the step, from 0; or of the epoch, when `rows` are numbers in the data set.
            rows: a number for each row of the batch. Default: 0, 1, …; a process that holds a part of the step's
                batch counts on from the parts before.

        Raises:
            InputError: the collator has no seed.
        """
        if self.seed is None:
            raise InputError("at_step: this collator has no seed; make it with seed=, or call set_seed first")
        made = copy.copy(self)
        made._step = check_number("step", step), None if rows is None else list(rows)
        return made

    def generators(self, count: int, use: int = 0) -> Sequence[torch.Generator | None]:
        """The generator of each of `count` rows; `None` is torch's global one.

        Args:
            count: how many rows.
            use: a number for what is drawn, where a collator draws for several things.
        """
        if self._step is None:
            return [self._own_torch()] * count
        step, rows = self._step
        if rows is not None and len(rows) != count:
            raise InputError(f"at_step: got {len(rows)} numbers of rows for {count} rows, wanted one each")
        numbers = range(count) if rows is None else rows
        return [torch.Generator().manual_seed(_mixed(self.seed or 0, step, number, use)) for number in numbers]

    def draws(self, kind: TensorKind, real: Array) -> Draws:
        """Where draws for a grid come from, whose real tokens are true in `real` `[B, S]`."""
        if self._step is not None:
            return _RowDraws(self.generators(len(real)), real)
        if kind == "pt":
            return _TorchDraws(self._own_torch())
        if self.seed is not None and self._numpy is None:
            self._numpy = np.random.default_rng(self.seed + _worker())
        return _NumpyDraws(self._numpy)

    def _own_torch(self) -> torch.Generator | None:
        if self.seed is not None and self._torch is None:
            self._torch = torch.Generator().manual_seed(self.seed + _worker())
        return self._torch


def check_number(name: str, value: Any) -> int:
    """`value` as a whole number from 0, or `InputError`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise InputError(f"{name}: got {value!r}, wanted a whole number from 0")
    return value


def _worker() -> int:
    """Number of the process that reads beside the training, each of which draws for itself; 0 for the only one."""
    worker = torch.utils.data.get_worker_info()
    return 0 if worker is None else worker.id


def _mixed(*numbers: int) -> int:
    """One seed of several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


def check_share(name: str, value: Any) -> float:
    """`value` as a number from 0 to 1, or `InputError`."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= 1:
        raise InputError(f"{name}: got {value!r}, wanted a number from 0 to 1")
    return float(value)


def below(count: int, generator: torch.Generator | None) -> int:
    """A number from 0 and below `count`."""
    return int(torch.randint(count, (1,), generator=generator))
