"""Schedules against the reference's, step by step and to the bit, and their state."""

from __future__ import annotations

import itertools
import json
import random
from typing import Any

import pytest
import torch
from transformers import get_scheduler as reference_scheduler
from transformers.trainer_utils import SchedulerType as ReferenceTypes

from pellucid.errors import InputError, UnknownArgumentError
from pellucid.training import schedules
from pellucid.training.schedules import SchedulerType, get_scheduler, load_schedule_state, schedule_state

PHASES = [(0, 1), (0, 10), (3, 10), (10, 10), (7, 200), (40, 30)]
BY_STEP: list[tuple[str, dict[str, Any]]] = [
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 1.7}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"lr_end": 1e-5, "power": 2.5}),
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 90}),
    ("cosine_with_min_lr", {"min_lr": 1e-5}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.3, "num_cycles": 0.8}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.1}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-6, "warmup_lr_rate": 0.2, "num_cycles": 1.1}),
    *[
        ("warmup_stable_decay", {"num_decay_steps": 4, "warmup_type": up, "decay_type": down, "min_lr_ratio": low})
        for up, down in itertools.product(("linear", "cosine", "1-sqrt"), repeat=2)
        for low in (0.0, 0.15)
    ],
    ("warmup_stable_decay", {"num_decay_steps": 3, "num_stable_steps": 5, "num_cycles": 0.9}),
]


def optimizer(rate: float = 3e-4, groups: int = 2) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.zeros(1)], "lr": rate / (n + 1)} for n in range(groups)], lr=rate)


def rates(of: torch.optim.Optimizer) -> list[float]:
    return [group["lr"] for group in of.param_groups]


def curve(make: Any, name: str, steps: tuple[int, int], settings: dict[str, Any], count: int) -> list[list[float]]:
    """Rates of both groups before each step."""
    stepped = optimizer()
    schedule = make(name, stepped, *steps, scheduler_specific_kwargs=settings)
    found = [rates(stepped)]
    for _ in range(count):
        stepped.step()
        schedule.step()
        found.append(rates(stepped))
    return found


def test_every_schedule_of_the_reference_is_there() -> None:
    assert {kind.name: kind.value for kind in SchedulerType} == {kind.name: kind.value for kind in ReferenceTypes}
    assert {name for name, _ in BY_STEP} | {"greedy", "reduce_lr_on_plateau"} == set(SchedulerType)


@pytest.mark.filterwarnings("ignore:Both num_training_steps and num_stable_steps")
@pytest.mark.parametrize("phases", PHASES, ids=str)
@pytest.mark.parametrize(("name", "settings"), BY_STEP, ids=str)
def test_rates_equal_the_reference_at_every_step(name: str, settings: dict[str, Any], phases: tuple[int, int]) -> None:
    if name == "polynomial" and phases[0] == phases[1]:
        with pytest.raises(ZeroDivisionError):
            curve(reference_scheduler, name, phases, settings, phases[0])
        lowest = curve(get_scheduler, name, phases, settings, phases[0])[-1][0]
        assert lowest == pytest.approx(settings.get("lr_end", 1e-7))
        return
    count = phases[1] + 5
    wanted = curve(reference_scheduler, name, phases, settings, count)
    assert curve(get_scheduler, name, phases, settings, count) == wanted


@pytest.mark.parametrize(("name", "settings"), BY_STEP, ids=str)
def test_the_state_is_the_step(name: str, settings: dict[str, Any]) -> None:
    whole = curve(get_scheduler, name, (3, 20), settings, 20)
    stopped = optimizer()
    schedule = get_scheduler(name, stopped, 3, 20, settings)
    for _ in range(8):
        stopped.step()
        schedule.step()
    state = json.loads(json.dumps(schedule_state(schedule)))
    assert state == {"step": 8}
    resumed = optimizer()
    again = get_scheduler(name, resumed, 3, 20, settings)
    load_schedule_state(again, state)
    found = [rates(resumed)]
    assert again.get_last_lr() == found[0]
    for _ in range(12):
        resumed.step()
        again.step()
        found.append(rates(resumed))
    assert found == whole[8:]


METRICS = random.Random(0)
METRIC_CURVES = [
    [METRICS.random() for _ in range(120)],
    [1 / (n + 1) + METRICS.random() / 50 for n in range(120)],
    [float(n) for n in range(120)],
    [1.0] * 120,
]
BY_METRIC: list[tuple[str, dict[str, Any]]] = [
    ("reduce_lr_on_plateau", {}),
    ("reduce_lr_on_plateau", {"mode": "max", "factor": 0.5, "patience": 1, "cooldown": 2, "min_lr": [1e-6, 1e-5]}),
    ("greedy", {}),
    ("greedy", {"patience": 1, "min_lr": 1e-5, "max_lr": 0.1, "factor": 0.7}),
    ("greedy", {"patience": 0, "min_lr": [1e-4, 2e-5], "cooldown": 2, "warmup": 3, "mode": "max", "reset_start": 3}),
    ("greedy", {"patience": 1, "min_lr": 2e-4, "smooth": True, "window_size": 4, "threshold_mode": "rel"}),
    ("greedy", {"patience": 0, "min_lr": 1e-4, "smooth": True, "reset_start": 2, "threshold": 0.1}),
]


@pytest.mark.parametrize("metrics", METRIC_CURVES, ids=["noise", "better", "more", "same"])
@pytest.mark.parametrize(("name", "settings"), BY_METRIC, ids=str)
def test_schedules_that_go_by_a_metric_equal_the_reference_and_resume(
    name: str, settings: dict[str, Any], metrics: list[float]
) -> None:
    theirs, ours, resumed = optimizer(), optimizer(), optimizer()
    wanted = reference_scheduler(name, theirs, scheduler_specific_kwargs=settings)
    schedule = get_scheduler(name, ours, scheduler_specific_kwargs=settings)
    for number, metric in enumerate(metrics):
        wanted.step(metric)
        schedule.step(metric)
        assert rates(ours) == rates(theirs), number
        assert schedule.get_last_lr() == wanted.get_last_lr()
        if number == 50:
            state = json.loads(json.dumps(schedule_state(schedule), allow_nan=False))
    again = get_scheduler(name, resumed, scheduler_specific_kwargs=settings)
    load_schedule_state(again, state)
    for metric in metrics[51:]:
        again.step(metric)
    assert rates(resumed) == rates(ours)
    assert schedule_state(again) == schedule_state(schedule)


def test_a_fresh_state_of_a_schedule_by_metric_is_json() -> None:
    for name, settings in BY_METRIC:
        schedule = get_scheduler(name, optimizer(), scheduler_specific_kwargs=settings)
        state = json.loads(json.dumps(schedule_state(schedule), allow_nan=False))
        again = get_scheduler(name, optimizer(), scheduler_specific_kwargs=settings)
        load_schedule_state(again, state)
        assert again.best == schedule.best  # infinite, which JSON cannot hold


@pytest.mark.parametrize(
    ("name", "settings", "error", "says"),
    [
        ("linaer", {}, InputError, "did you mean 'linear'?"),
        ("linear", {"num_cycles": 2}, UnknownArgumentError, "wanted no lr_scheduler_kwargs"),
        ("cosine", {"num_cylces": 2}, UnknownArgumentError, "did you mean 'num_cycles'?"),
        ("cosine_with_min_lr", {}, InputError, "min_lr and min_lr_rate"),
        ("cosine_with_min_lr", {"min_lr": 1e-6, "min_lr_rate": 0.1}, InputError, "min_lr and min_lr_rate"),
        ("polynomial", {"lr_end": 1.0}, InputError, "wanted less than the learning rate"),
        ("warmup_stable_decay", {}, InputError, "num_decay_steps is missing"),
        ("warmup_stable_decay", {"num_decay_steps": 2, "decay_type": "sqrt"}, InputError, "'1-sqrt'"),
        ("greedy", {"factor": 1.5}, InputError, "wanted a number below 1"),
        ("greedy", {"mode": "least"}, InputError, "'min' or 'max'"),
        ("greedy", {"threshold_mode": "both"}, InputError, "'rel' or 'abs'"),
        ("greedy", {"min_lr": [0.1]}, InputError, "got 1 numbers, wanted 2"),
        ("greedy", {"patient": 1}, UnknownArgumentError, "did you mean 'patience'?"),
    ],
)
def test_wrong_settings_are_refused(name: str, settings: dict[str, Any], error: type[Exception], says: str) -> None:
    with pytest.raises(error) as caught:
        get_scheduler(name, optimizer(), 2, 10, settings)
    assert says in str(caught.value)


def test_missing_steps_and_other_states_are_refused() -> None:
    with pytest.raises(InputError, match="num_warmup_steps: got None"):
        get_scheduler("constant_with_warmup", optimizer())
    with pytest.raises(InputError, match="num_training_steps: got None"):
        get_scheduler("linear", optimizer(), 2)
    with pytest.raises(InputError, match="neither"):
        schedules.get_wsd_schedule(optimizer(), 1, 2)
    with pytest.raises(InputError, match="another schedule"):
        load_schedule_state(get_scheduler("greedy", optimizer()), {"step": 3})
    torch_own = torch.optim.lr_scheduler.StepLR(optimizer(), 3)
    with pytest.raises(InputError, match="got StepLR"):
        load_schedule_state(torch_own, {"step": 3})


def test_greedy_tells_of_changes(capsys: pytest.CaptureFixture[str]) -> None:
    schedule = get_scheduler("greedy", optimizer(), scheduler_specific_kwargs={"verbose": True, "patience": 0})
    schedule.step(1.0)
    assert "step 1: learning rate of group 0" in capsys.readouterr().out
