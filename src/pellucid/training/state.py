"""Where a training run stands, and what is to happen next: both plain data, kept as JSON."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self, get_type_hints

from pellucid.config_values import mismatch
from pellucid.errors import FileError, InputError, did_you_mean, strict
from pellucid.files import StrPath, quoted, read_json, write_json

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

STATE_FILE = "trainer_state.json"
_NOT_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
"""JSON has no such numbers; in files they are texts."""


class ExportableState:
    """Something whose state a checkpoint keeps: `{"args": what it is built with, "attributes": what changed}`."""

    def state(self) -> dict[str, Any]:
        """The state, as JSON; every class says its own."""
        raise InputError(f"{type(self).__name__}: state() is missing, which returns {{'args': …, 'attributes': …}}")

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """One built from a state."""
        instance = cls(**state["args"])
        for name, value in state["attributes"].items():
            setattr(instance, name, value)
        return instance


@dataclass(kw_only=True)
class TrainerState:
    """Where a run stands. A step is one change of the weights, however many batches its gradients come from.

    Args are the fields; all have defaults.
    """

    epoch: float | None = 0
    """Epochs done, with the part of the present one."""
    global_step: int = 0
    """Steps done."""
    max_steps: int = 0
    """Steps to do in all."""
    logging_steps: int | float = 500
    eval_steps: int | float | None = 500
    save_steps: int | float = 500
    train_batch_size: int | None = None
    num_train_epochs: int | float = 0
    num_input_tokens_seen: int = 0
    total_flos: float = 0
    log_history: list[dict[str, Any]] = field(default_factory=list)
    """Every entry of the log, with its step."""
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    is_local_process_zero: bool = True
    is_world_process_zero: bool = True
    is_hyper_param_search: bool = False
    trial_name: str | None = None
    trial_params: dict[str, Any] | None = None
    stateful_callbacks: dict[str, Any] = field(default_factory=dict)
    """Name of a class → the state of the callback, or a list of those of several."""

    @strict
    def keep_callbacks(self, callbacks: list[Any]) -> None:
        """Take the states of those callbacks (and of the `TrainerControl`) that have one into `stateful_callbacks`."""
        kept: dict[str, Any] = {}
        for callback in callbacks:
            if not isinstance(callback, ExportableState):
                continue
            name = type(callback).__name__
            if name not in kept:
                kept[name] = callback.state()
            else:
                several = kept[name] if isinstance(kept[name], list) else [kept[name]]
                kept[name] = [*several, callback.state()]
        self.stateful_callbacks = kept

    @strict
    def compute_steps(self, args: TrainingArguments, max_steps: int) -> None:
        """Work out steps between entries, evaluations and checkpoints, which may be shares of all steps.

        Args:
            args: with `logging_steps`, `eval_steps` and `save_steps`.
            max_steps: steps to do in all.
        """
        for name in ("logging_steps", "eval_steps", "save_steps"):
            steps = getattr(args, name)
            if steps is not None:
                setattr(self, name, math.ceil(max_steps * steps) if steps < 1 else steps)

    def to_dict(self) -> dict[str, Any]:
        """All fields as `trainer_state.json` holds them, sorted by name."""
        values = dataclasses.asdict(self)
        return {name: as_json(values[name]) for name in sorted(values)}

    @strict
    def save_to_json(self, json_path: StrPath) -> None:
        """Write the state to a file, atomically."""
        write_json(json_path, self.to_dict())

    @classmethod
    @strict
    def from_dict(cls, values: Mapping[str, Any], source: str = "trainer state") -> Self:
        """The state that `to_dict` gave; `source` is the file's name for messages.

        Raises:
            FileError: a name or a value is none of a state.
        """
        hints = get_type_hints(cls)
        found = {name: from_json(value) for name, value in values.items()}
        for name, value in found.items():
            if name not in hints:
                raise FileError(f"{source}: there is no field {quoted(name)}{did_you_mean(name, hints)}")
            if problem := mismatch(value, hints[name]):
                raise FileError(f"{source}: {name}: got {quoted(value)}, wanted {problem}")
        return cls(**found)

    @classmethod
    @strict
    def load_from_json(cls, json_path: StrPath) -> Self:
        """The state in a file.

        Raises:
            FileError: the file is missing, damaged, or holds no state.
        """
        values = read_json(json_path)
        if not isinstance(values, dict):
            raise FileError(f"{json_path}: got {quoted(values)}, wanted a JSON object")
        return cls.from_dict(values, str(json_path))


@dataclass
class TrainerControl(ExportableState):
    """What is to happen next; callbacks change it, the loop obeys it.

    Args:
        should_training_stop: end after this step; stays until training begins anew.
        should_epoch_stop: go on with the next epoch.
        should_save: write a checkpoint after this step.
        should_evaluate: evaluate after this step.
        should_log: make an entry in the log after this step.
    """

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False

    def state(self) -> dict[str, Any]:
        """All switches."""
        return {"args": dataclasses.asdict(self), "attributes": {}}


def as_json(value: Any) -> Any:
    """A value as strict JSON holds it: numbers of NumPy and torch as plain ones, those that are not finite as texts."""
    if isinstance(value, dict):
        return {str(name): as_json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if not isinstance(value, (bool, int, float, str, type(None))) and hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value


def from_json(value: Any) -> Any:
    """The inverse of `as_json`."""
    if isinstance(value, dict):
        return {name: from_json(item) for name, item in value.items()}
    if isinstance(value, list):
        return [from_json(item) for item in value]
    return _NOT_FINITE.get(value, value) if isinstance(value, str) else value
