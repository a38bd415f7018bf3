"""How the learning rate changes from step to step.

Each schedule is a pure function: `step → factor` that the optimizer's learning rate is multiplied by. The functions
named `get_…` bind it to an optimizer. Two schedules go by what evaluations say and not by the step: torch's
`ReduceLROnPlateau` and `GreedyLR`.

`schedule_state` is what a checkpoint keeps: the number of the step, or for those two a few numbers, as JSON.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from enum import StrEnum
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pellucid.errors import InputError, UnknownArgumentError, did_you_mean, reject_unknown, strict
from pellucid.training.greedy import GreedyLR

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

    Schedule = LRScheduler | GreedyLR

Shape = Literal["linear", "cosine", "1-sqrt"]


class SchedulerType(StrEnum):
    """The schedules that `lr_scheduler_type` names."""

    LINEAR = "linear"
    COSINE = "cosine"
    COSINE_WITH_RESTARTS = "cosine_with_restarts"
    POLYNOMIAL = "polynomial"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"
    INVERSE_SQRT = "inverse_sqrt"
    REDUCE_ON_PLATEAU = "reduce_lr_on_plateau"
    COSINE_WITH_MIN_LR = "cosine_with_min_lr"
    COSINE_WARMUP_WITH_MIN_LR = "cosine_warmup_with_min_lr"
    WARMUP_STABLE_DECAY = "warmup_stable_decay"
    GREEDY = "greedy"


# ---------------------------------------------------------------------- step → factor


def _share(part: float, whole: float) -> float:
    """`part / whole`, where a whole of nothing counts as one step."""
    return part / max(1, whole)


def _wave(progress: float, num_cycles: float) -> float:
    """From 1 down to 0 and up again, once for each cycle; half a cycle ends at 0."""
    return 0.5 * (1.0 + math.cos(math.pi * num_cycles * 2.0 * progress))


def _lifted(factor: float, lowest: float) -> float:
    """A factor between 0 and 1 moved to lie between `lowest` and 1."""
    return max(0.0, factor * (1.0 - lowest) + lowest)


@strict
def constant_factor(step: int) -> float:
    """1 at every step."""
    return 1.0


@strict
def constant_with_warmup_factor(step: int, num_warmup_steps: int) -> float:
    """From 0 up to 1, then 1."""
    return _share(step, num_warmup_steps) if step < num_warmup_steps else 1.0


@strict
def linear_factor(step: int, num_warmup_steps: int, num_training_steps: int) -> float:
    """From 0 up to 1, then straight down to 0 at the last step."""
    if step < num_warmup_steps:
        return _share(step, num_warmup_steps)
    return max(0.0, _share(num_training_steps - step, num_training_steps - num_warmup_steps))


@strict
def cosine_factor(
    step: int, num_warmup_steps: int, num_training_steps: int, num_cycles: float = 0.5, min_lr_rate: float = 0.0
) -> float:
    """From 0 up to 1, then down along a cosine to `min_lr_rate` (Loshchilov & Hutter 2016)."""
    if step < num_warmup_steps:
        return _share(step, num_warmup_steps)
    progress = _share(step - num_warmup_steps, num_training_steps - num_warmup_steps)
    return _lifted(_wave(progress, num_cycles), min_lr_rate)


@strict
def cosine_with_restarts_factor(
    step: int, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1
) -> float:
    """From 0 up to 1, then `num_cycles` times down along a cosine to 0, each time from 1 again."""
    if step < num_warmup_steps:
        return _share(step, num_warmup_steps)
    progress = _share(step - num_warmup_steps, num_training_steps - num_warmup_steps)
    return 0.0 if progress >= 1.0 else max(0.0, _wave((num_cycles * progress) % 1.0, 0.5))


@strict
def cosine_warmup_with_min_lr_factor(
    step: int,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    min_lr_rate: float = 0.0,
    warmup_lr_rate: float | None = None,
) -> float:
    """As `cosine_factor`, one step ahead: the first step already learns.

    Warm-up begins at `warmup_lr_rate`, or at the first of as many equal parts as it has steps.
    """
    if step < num_warmup_steps:
        if warmup_lr_rate is None:
            return _share(step + 1.0, num_warmup_steps)
        return warmup_lr_rate + _share((1.0 - warmup_lr_rate) * step, num_warmup_steps - 1)
    progress = _share(step - num_warmup_steps + 1.0, num_training_steps - num_warmup_steps)
    return _lifted(_wave(progress, num_cycles), min_lr_rate)


@strict
def polynomial_factor(
    step: int,
    num_warmup_steps: int,
    num_training_steps: int,
    learning_rate: float,
    lr_end: float = 1e-7,
    power: float = 1.0,
) -> float:
    """From 0 up to 1, then down to the rate `lr_end`: the share of steps that are left, to the given power."""
    if step < num_warmup_steps:
        return _share(step, num_warmup_steps)
    if step > num_training_steps or num_training_steps <= num_warmup_steps:
        return lr_end / learning_rate
    left = 1 - (step - num_warmup_steps) / (num_training_steps - num_warmup_steps)
    return float((learning_rate - lr_end) * left**power + lr_end) / learning_rate


@strict
def inverse_sqrt_factor(step: int, num_warmup_steps: int, timescale: int | None = None) -> float:
    """From 0 up to 1, then down as 1 / √step; `timescale` (the steps of warm-up, or 10,000) says how fast."""
    if step < num_warmup_steps:
        return _share(step, num_warmup_steps)
    scale = timescale or num_warmup_steps or 10_000
    return 1.0 / math.sqrt((step + (scale - num_warmup_steps)) / scale)


_RISES: dict[str, Callable[[float], float]] = {
    "linear": lambda progress: progress,
    "cosine": lambda progress: 0.5 * (1.0 - math.cos(math.pi * progress)),
    "1-sqrt": lambda progress: 1.0 - math.sqrt(1.0 - progress),
}
_FALLS: dict[str, Callable[[float, float], float]] = {
    "linear": lambda progress, _: 1.0 - progress,
    "cosine": _wave,
    "1-sqrt": lambda progress, _: 1.0 - math.sqrt(progress),
}


@strict
def warmup_stable_decay_factor(
    step: int,
    num_warmup_steps: int,
    num_stable_steps: int,
    num_decay_steps: int,
    warmup_type: Shape = "linear",
    decay_type: Shape = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
) -> float:
    """From `min_lr_ratio` up to 1, a while at 1, then down to `min_lr_ratio`, where it stays."""
    decay_from = num_warmup_steps + num_stable_steps
    if step < num_warmup_steps:
        return _lifted(_RISES[warmup_type](_share(step, num_warmup_steps)), min_lr_ratio)
    if step < decay_from:
        return 1.0
    if step < decay_from + num_decay_steps:
        progress = _share(step - num_warmup_steps - num_stable_steps, num_decay_steps)
        return _lifted(_FALLS[decay_type](progress, num_cycles), min_lr_ratio)
    return min_lr_ratio


# ---------------------------------------------------------------------- bound to an optimizer


def _bound(optimizer: Optimizer, last_epoch: int, factor: Callable[..., float], **settings: Any) -> LambdaLR:
    from torch.optim.lr_scheduler import LambdaLR  # here, so that names and settings are checked without torch

    return LambdaLR(optimizer, partial(factor, **settings), last_epoch)


def _lowest_rate(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    """The lowest learning rate as a share of the highest."""
    if (min_lr is None) == (min_lr_rate is None):
        raise InputError(
            f"schedule: got min_lr={min_lr!r} and min_lr_rate={min_lr_rate!r}, wanted one of them; "
            "set it in lr_scheduler_kwargs"
        )
    if min_lr_rate is not None:
        return min_lr_rate
    assert min_lr is not None
    return min_lr / float(optimizer.defaults["lr"])


@strict
def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """The optimizer's learning rate at every step.

    Args:
        optimizer: whose groups' rates are set.
        last_epoch: step that was made last, to go on from; -1 begins. The same in all functions here.
    """
    return _bound(optimizer, last_epoch, constant_factor)


@strict
def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """See `constant_with_warmup_factor`."""
    return _bound(optimizer, last_epoch, constant_with_warmup_factor, num_warmup_steps=num_warmup_steps)


@strict
def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """See `linear_factor`."""
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    return _bound(optimizer, last_epoch, linear_factor, **steps)


@strict
def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """See `cosine_factor`."""
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    return _bound(optimizer, last_epoch, cosine_factor, num_cycles=num_cycles, **steps)


@strict
def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """See `cosine_with_restarts_factor`."""
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    return _bound(optimizer, last_epoch, cosine_with_restarts_factor, num_cycles=num_cycles, **steps)


@strict
def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """See `polynomial_factor`.

    Raises:
        InputError: `lr_end` is not below the optimizer's learning rate.
    """
    learning_rate = float(optimizer.defaults["lr"])
    if not learning_rate > lr_end:
        raise InputError(f"schedule: lr_end: got {lr_end!r}, wanted less than the learning rate {learning_rate!r}")
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    rates = {"learning_rate": learning_rate, "lr_end": lr_end, "power": power}
    return _bound(optimizer, last_epoch, polynomial_factor, **steps, **rates)


@strict
def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """See `inverse_sqrt_factor`."""
    settings = {"num_warmup_steps": num_warmup_steps, "timescale": timescale}
    return _bound(optimizer, last_epoch, inverse_sqrt_factor, **settings)


@strict
def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """See `cosine_factor`; the lowest rate is given as `min_lr`, or as a share of the highest as `min_lr_rate`."""
    lowest = _lowest_rate(optimizer, min_lr, min_lr_rate)
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    return _bound(optimizer, last_epoch, cosine_factor, num_cycles=num_cycles, min_lr_rate=lowest, **steps)


@strict
def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """See `cosine_warmup_with_min_lr_factor`; `min_lr`, `min_lr_rate`: the lowest rate, or its share of the highest."""
    lowest = _lowest_rate(optimizer, min_lr, min_lr_rate)
    steps = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    shape = {"num_cycles": num_cycles, "min_lr_rate": lowest, "warmup_lr_rate": warmup_lr_rate}
    return _bound(optimizer, last_epoch, cosine_warmup_with_min_lr_factor, **steps, **shape)


@strict
def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: Shape = "linear",
    decay_type: Shape = "cosine",
    min_lr_ratio: float = 0.0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """See `warmup_stable_decay_factor`; `num_stable_steps` left out is what the other phases leave of all steps."""
    for name, shape in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if shape not in _RISES:
            raise InputError(f"schedule: {name}: got {shape!r}, wanted one of {', '.join(map(repr, _RISES))}")
    if num_stable_steps is None:
        if num_training_steps is None:
            raise InputError("schedule: got neither num_training_steps nor num_stable_steps, wanted one of them")
        num_stable_steps = num_training_steps - num_warmup_steps - num_decay_steps
    steps = {
        "num_warmup_steps": num_warmup_steps,
        "num_stable_steps": num_stable_steps,
        "num_decay_steps": num_decay_steps,
    }
    shapes: dict[str, Any] = {"warmup_type": warmup_type, "decay_type": decay_type}
    heights = {"min_lr_ratio": min_lr_ratio, "num_cycles": num_cycles}
    return _bound(optimizer, last_epoch, warmup_stable_decay_factor, **steps, **shapes, **heights)


@strict
def get_reduce_on_plateau_schedule(
    optimizer: Optimizer,
    mode: Literal["min", "max"] = "min",
    factor: float = 0.1,
    patience: int = 10,
    threshold: float = 1e-4,
    threshold_mode: Literal["rel", "abs"] = "rel",
    cooldown: int = 0,
    min_lr: float | list[float] = 0.0,
    eps: float = 1e-8,
) -> ReduceLROnPlateau:
    """`ReduceLROnPlateau` of torch: less when the metric handed to `step` does not get better; `step(metric)`."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    return ReduceLROnPlateau(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)


@strict
def get_greedy_schedule(optimizer: Optimizer, **settings: Any) -> GreedyLR:
    """`GreedyLR` with these settings; `step(metric)`."""
    return GreedyLR(optimizer, **settings)


_SCHEDULES: dict[SchedulerType, Callable[..., Schedule]] = {
    SchedulerType.LINEAR: get_linear_schedule_with_warmup,
    SchedulerType.COSINE: get_cosine_schedule_with_warmup,
    SchedulerType.COSINE_WITH_RESTARTS: get_cosine_with_hard_restarts_schedule_with_warmup,
    SchedulerType.POLYNOMIAL: get_polynomial_decay_schedule_with_warmup,
    SchedulerType.CONSTANT: get_constant_schedule,
    SchedulerType.CONSTANT_WITH_WARMUP: get_constant_schedule_with_warmup,
    SchedulerType.INVERSE_SQRT: get_inverse_sqrt_schedule,
    SchedulerType.REDUCE_ON_PLATEAU: get_reduce_on_plateau_schedule,
    SchedulerType.COSINE_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup,
    SchedulerType.COSINE_WARMUP_WITH_MIN_LR: get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    SchedulerType.WARMUP_STABLE_DECAY: get_wsd_schedule,
    SchedulerType.GREEDY: get_greedy_schedule,
}
_STEPS = ("num_warmup_steps", "num_training_steps")


@strict
def scheduler_type(name: str) -> SchedulerType:
    """The schedule of this name.

    Raises:
        InputError: there is none; the message names the nearest.
    """
    try:
        return SchedulerType(name)
    except ValueError:
        known = [str(kind) for kind in SchedulerType]
        near = did_you_mean(str(name), known)
        wanted = ", ".join(map(repr, known))
        raise InputError(f"lr_scheduler_type: got {name!r}, wanted one of {wanted}{near}") from None


@strict
def check_scheduler_kwargs(name: str, settings: Mapping[str, Any]) -> None:
    """Raise unless a schedule takes all of these settings.

    Raises:
        UnknownArgumentError: one that the schedule does not have.
        InputError: one that it needs is missing, or no schedule has the name.
    """
    kind = scheduler_type(name)
    made = GreedyLR if kind is SchedulerType.GREEDY else _SCHEDULES[kind]
    taken = {key: value for key, value in inspect.signature(made).parameters.items() if key not in (*_STEPS, "self")}
    own = [key for key in taken if key not in ("optimizer", "last_epoch")]
    if unknown := settings.keys() - own:
        if not own:
            raise UnknownArgumentError(f"schedule {str(kind)!r}: got {min(unknown)!r}, wanted no lr_scheduler_kwargs")
        reject_unknown(f"schedule {str(kind)!r}", unknown, own)
    missing = [key for key in own if taken[key].default is inspect.Parameter.empty and key not in settings]
    if missing:
        raise InputError(
            f"schedule {str(kind)!r}: {missing[0]} is missing; set lr_scheduler_kwargs={{{missing[0]!r}: …}}"
        )
    if {"min_lr", "min_lr_rate"} <= set(own) and ("min_lr" in settings) == ("min_lr_rate" in settings):
        raise InputError(f"schedule {str(kind)!r}: wanted one of min_lr and min_lr_rate; set it in lr_scheduler_kwargs")


@strict
def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: Mapping[str, Any] | None = None,
) -> Schedule:
    """The schedule of a name, bound to an optimizer.

    Args:
        name: one of `SchedulerType`.
        optimizer: whose groups' rates are set.
        num_warmup_steps: steps in which the rate rises; needed by all but `constant` and those that go by a metric.
        num_training_steps: steps in all; needed by those that end at the last step.
        scheduler_specific_kwargs: what else the schedule takes.

    Raises:
        UnknownArgumentError: a setting that the schedule does not have.
        InputError: an unknown name, or a setting that is missing or wrong.
    """
    kind, settings = scheduler_type(name), dict(scheduler_specific_kwargs or {})
    check_scheduler_kwargs(kind, settings)
    parameters = inspect.signature(_SCHEDULES[kind]).parameters
    for key, value in zip(_STEPS, (num_warmup_steps, num_training_steps), strict=True):
        if key not in parameters:
            continue
        if value is None and parameters[key].default is inspect.Parameter.empty:
            raise InputError(f"schedule {str(kind)!r}: {key}: got None, wanted a whole number of steps")
        settings[key] = value
    return _SCHEDULES[kind](optimizer, **settings)


# ---------------------------------------------------------------------- state

_PLATEAU_STATE = ("best", "num_bad_epochs", "cooldown_counter", "last_epoch")


@strict
def schedule_state(schedule: Schedule) -> dict[str, Any]:
    """What a checkpoint keeps of a schedule, as JSON: the step alone, or what one that goes by a metric remembers."""
    from torch.optim.lr_scheduler import ReduceLROnPlateau

    if isinstance(schedule, GreedyLR):
        return schedule.state_dict()
    if isinstance(schedule, ReduceLROnPlateau):
        state = {name: getattr(schedule, name) for name in _PLATEAU_STATE}
        state["best"] = state["best"] if math.isfinite(state["best"]) else None
        return state | {"lrs": [group["lr"] for group in schedule.optimizer.param_groups]}
    return {"step": schedule.last_epoch}


@strict
def load_schedule_state(schedule: Schedule, state: Mapping[str, Any]) -> None:
    """Bring a schedule, and the rates of its optimizer, to where `schedule_state` was taken.

    Raises:
        InputError: the state is that of another kind of schedule.
    """
    from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

    wanted = schedule_state(schedule).keys()
    if state.keys() != wanted:
        raise InputError(f"schedule state: got {sorted(state)}, wanted {sorted(wanted)}; the run had another schedule")
    if isinstance(schedule, GreedyLR):
        return schedule.load_state_dict(state)
    if isinstance(schedule, ReduceLROnPlateau):
        for name in _PLATEAU_STATE:
            setattr(schedule, name, state[name])
        if state["best"] is None:
            schedule.best = math.inf if schedule.mode == "min" else -math.inf
        rates = list(state["lrs"])
    elif isinstance(schedule, LambdaLR):
        step = int(state["step"])
        schedule.last_epoch = step
        schedule._step_count = step + 1
        rates = [base * factor(step) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    else:
        raise InputError(f"schedule: got {type(schedule).__name__}, wanted a LambdaLR, ReduceLROnPlateau or GreedyLR")
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    schedule._last_lr = rates
    return None
