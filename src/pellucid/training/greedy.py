"""GreedyLR: a learning rate that grows while a metric gets better and shrinks when it stops (arXiv:2512.14527)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pellucid.errors import InputError, strict

if TYPE_CHECKING:
    from torch.optim import Optimizer


class GreedyLR:
    """Divides the learning rate by `factor` after enough better metrics in a row, multiplies by it after worse ones.

    Args:
        optimizer: whose groups' rates are set.
        mode: whether a smaller or a larger metric is better.
        factor: what rates are multiplied or divided by, below 1.
        patience: metrics in a row, better or not, that are let pass before the rate changes.
        threshold: how much better a metric must be to count.
        threshold_mode: whether `threshold` is a share of the best or an amount.
        cooldown: metrics that do not count after the rate shrank.
        warmup: metrics that do not count after it grew.
        min_lr: lowest rate, one for all groups or one each.
        max_lr: highest rate.
        eps: smallest change that is made.
        verbose: print changes.
        smooth: go by the mean of the last `window_size` metrics.
        window_size: see `smooth`.
        reset_start: times that a rate already at `min_lr` is to shrink before everything begins anew.
    """

    @strict
    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: float | Sequence[float] = 1e-3,
        max_lr: float | Sequence[float] = 1.0,
        eps: float = 1e-8,
        verbose: bool = False,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ) -> None:
        if not factor < 1.0:
            raise InputError(f"GreedyLR: factor: got {factor!r}, wanted a number below 1")
        if mode not in ("min", "max"):
            raise InputError(f"GreedyLR: mode: got {mode!r}, wanted 'min' or 'max'")
        if threshold_mode not in ("rel", "abs"):
            raise InputError(f"GreedyLR: threshold_mode: got {threshold_mode!r}, wanted 'rel' or 'abs'")
        self.optimizer = optimizer
        self.mode, self.factor, self.patience = mode, factor, patience
        self.threshold, self.threshold_mode = threshold, threshold_mode
        self.cooldown, self.warmup, self.eps, self.verbose = cooldown, warmup, eps, verbose
        self.window_size = window_size if smooth else 1
        self.reset_start = reset_start
        self.min_lrs, self.max_lrs = self._each("min_lr", min_lr), self._each("max_lr", max_lr)
        self.first_lrs = [float(group["lr"]) for group in optimizer.param_groups]
        self.last_epoch = 0
        self._begin()

    def _each(self, name: str, value: float | Sequence[float]) -> list[float]:
        """One number for each group."""
        groups = len(self.optimizer.param_groups)
        if not isinstance(value, Sequence):
            return [value] * groups
        if len(value) != groups:
            raise InputError(f"GreedyLR: {name}: got {len(value)} numbers, wanted {groups}, one for each group")
        return list(value)

    def _begin(self) -> None:
        """Forget all metrics."""
        self.best = math.inf if self.mode == "min" else -math.inf
        self.num_bad_epochs = self.num_good_epochs = 0
        self.cooldown_counter = self.warmup_counter = 0
        self.until_reset = self.reset_start
        self.window: list[float] = []
        self.window_sum = 0.0

    def _smoothed(self, metric: float) -> float:
        """The mean of the last metrics; the sum runs on, so that it costs the same for any window."""
        if self.window_size == 1:
            return metric
        self.window.append(metric)
        self.window_sum += metric
        if len(self.window) > self.window_size:
            self.window_sum -= self.window.pop(0)
        return self.window_sum / len(self.window)

    def is_better(self, metric: float, best: float) -> bool:
        """Whether a metric is better than the best so far by more than the threshold."""
        sign = -1.0 if self.mode == "min" else 1.0
        margin = sign * self.threshold
        mark = best * (1.0 + margin) if self.threshold_mode == "rel" else best + margin
        return metric < mark if self.mode == "min" else metric > mark

    @strict
    def step(self, metrics: float) -> None:
        """Take account of one more metric, and change the rates when it is time."""
        metric = self._smoothed(float(metrics))
        self.last_epoch += 1
        if self.cooldown_counter > 0 or self.warmup_counter > 0:
            if self.cooldown_counter > 0:
                self.cooldown_counter -= 1
            else:
                self.warmup_counter -= 1
            self.num_bad_epochs = self.num_good_epochs = 0
            return
        if self.is_better(metric, self.best):
            self.best = metric
            self.num_good_epochs, self.num_bad_epochs = self.num_good_epochs + 1, 0
        else:
            self.num_good_epochs, self.num_bad_epochs = 0, self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self._grow()
            self.warmup_counter = self.warmup
            self.num_good_epochs = 0
        elif self.num_bad_epochs > self.patience:
            self._shrink()
            self.cooldown_counter = self.cooldown
            self.num_bad_epochs = 0

    def _set(self, number: int, rate: float) -> None:
        """Set the rate of one group, unless the change is too small to matter."""
        group = self.optimizer.param_groups[number]
        if abs(rate - group["lr"]) > self.eps:
            group["lr"] = rate
            if self.verbose:
                print(f"step {self.last_epoch}: learning rate of group {number} is now {rate:.4e}")

    def _grow(self) -> None:
        for number, group in enumerate(self.optimizer.param_groups):
            rate = min(float(group["lr"]) / self.factor, self.max_lrs[number])
            if rate > group["lr"]:
                self._set(number, rate)
        self.until_reset = self.reset_start

    def _shrink(self) -> None:
        for number, group in enumerate(self.optimizer.param_groups):
            rate = max(float(group["lr"]) * self.factor, self.min_lrs[number])
            if rate < group["lr"]:
                self._set(number, rate)
        groups = self.optimizer.param_groups
        if any(group["lr"] > lowest for group, lowest in zip(groups, self.min_lrs, strict=True)):
            return
        self.until_reset -= 1
        if self.until_reset <= 0:
            for number, rate in enumerate(self.first_lrs):
                self.optimizer.param_groups[number]["lr"] = rate
            self._begin()

    def get_last_lr(self) -> list[float]:
        """The rate of each group."""
        return [group["lr"] for group in self.optimizer.param_groups]

    _KEPT = (
        "last_epoch", "num_bad_epochs", "num_good_epochs", "cooldown_counter", "warmup_counter", "until_reset",
        "window", "window_sum", "first_lrs",
    )  # fmt: skip

    def state_dict(self) -> dict[str, Any]:
        """What it remembers, as JSON; what it was built with is not repeated."""
        kept = {name: getattr(self, name) for name in self._KEPT}
        kept.update(window=list(self.window), first_lrs=list(self.first_lrs))
        return kept | {"best": self.best if math.isfinite(self.best) else None, "lrs": self.get_last_lr()}

    @strict
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Remember what another remembered, and set the rates that it had set."""
        self._begin()
        for name in self._KEPT:
            value = state_dict[name]
            setattr(self, name, list(value) if isinstance(value, list) else value)
        if state_dict["best"] is not None:
            self.best = state_dict["best"]
        for group, rate in zip(self.optimizer.param_groups, state_dict["lrs"], strict=True):
            group["lr"] = rate
