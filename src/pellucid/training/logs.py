"""Callbacks that report on a run: a progress bar, printed entries, a JSONL file, TensorBoard."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.errors import FileError, InputError, did_you_mean, require, strict
from pellucid.files import atomic_write
from pellucid.training.callbacks import Answer, TrainerCallback
from pellucid.training.state import TrainerControl, TrainerState, as_json
from pellucid.utils.logging import is_progress_bar_enabled

if TYPE_CHECKING:
    from tqdm import tqdm

    from pellucid.training.arguments import TrainingArguments

logger = logging.getLogger("pellucid")

LOG_FILE = "training_log.jsonl"


def _readable(logs: dict[str, Any], longest: int | None = None) -> dict[str, Any]:
    """An entry of the log for reading: numbers with four digits, no count of operations, no endless texts."""
    shown: dict[str, Any] = {}
    for name, value in logs.items():
        if isinstance(value, float):
            shown[name] = f"{value:.4g}"
        elif isinstance(value, str) and longest is not None and len(value) > longest:
            shown[name] = f"{value[:longest]}… ({len(value)} characters)"
        elif name != "total_flos":
            shown[name] = value
    shown.pop("total_flos", None)
    return shown


class PrinterCallback(TrainerCallback):
    """Prints each entry of the log."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """Print the entry."""
        if state.is_local_process_zero:
            print(_readable(kwargs["logs"]))
        return None


class ProgressCallback(TrainerCallback):
    """A bar with steps, remaining time, tokens a second and the last loss; entries of the log are written above it.

    Args:
        max_str_len: characters of a text in an entry that are shown.
    """

    @strict
    def __init__(self, max_str_len: int = 100) -> None:
        self.max_str_len = max_str_len
        self.training_bar: tqdm[Any] | None = None
        self.prediction_bar: tqdm[Any] | None = None
        self._shown: dict[str, str] = {}
        self._begun = (0.0, 0)  # time and tokens

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Open the bar, at the step that a resumed run goes on from."""
        if state.is_world_process_zero:
            from tqdm.auto import tqdm

            self.training_bar = tqdm(
                total=state.max_steps, initial=state.global_step, dynamic_ncols=True,
                disable=not is_progress_bar_enabled(),
            )  # fmt: skip
            self._shown, self._begun = {}, (time.monotonic(), state.num_input_tokens_seen)
        return None

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Move the bar."""
        if self.training_bar is not None:
            begun, tokens = self._begun
            tokens = state.num_input_tokens_seen - tokens
            if tokens:
                self._shown["tokens/s"] = f"{tokens / max(time.monotonic() - begun, 1e-6):,.0f}"
                self.training_bar.set_postfix(self._shown, refresh=False)
            self.training_bar.update(state.global_step - self.training_bar.n)
        return None

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Move the bar of an evaluation whose length is known."""
        batches: Any = kwargs.get("eval_dataloader")
        if state.is_world_process_zero and hasattr(batches, "__len__"):
            if self.prediction_bar is None:
                from tqdm.auto import tqdm

                self.prediction_bar = tqdm(
                    total=len(batches), leave=self.training_bar is None, dynamic_ncols=True, desc="evaluation",
                    disable=not is_progress_bar_enabled(),
                )  # fmt: skip
            self.prediction_bar.update(1)
        return None

    def _close_prediction(self) -> None:
        if self.prediction_bar is not None:
            self.prediction_bar.close()
            self.prediction_bar = None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Close the bar of the evaluation."""
        self._close_prediction()
        return None

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Close the bar of the prediction."""
        self._close_prediction()
        return None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """Write the entry above the bar, and its loss into it."""
        if self.training_bar is not None:
            shown = _readable(kwargs["logs"], self.max_str_len)
            if "loss" in shown:
                self._shown["loss"] = str(shown["loss"])
                self.training_bar.set_postfix(self._shown, refresh=False)
            self.training_bar.write(str(shown))
        return None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Close the bar."""
        if self.training_bar is not None:
            self.training_bar.close()
            self.training_bar = None
        return None


class JsonlLogCallback(TrainerCallback):
    """Writes `training_log.jsonl` in `output_dir`: each entry of the log as one JSON object a line.

    When a run begins or goes on, the file is brought to what the state holds: entries after the step that is resumed
    from are cut, and so is a line that a kill left half written. After that lines are only appended.

    Args:
        path: another file.
    """

    @strict
    def __init__(self, path: str | os.PathLike[str] | None = None) -> None:
        self.path = None if path is None else Path(path)

    def _file(self, args: TrainingArguments) -> Path:
        return self.path or Path(args.output_dir or ".") / LOG_FILE

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Bring the file to where the run stands."""
        if state.is_world_process_zero:
            file = self._file(args)
            file.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(file, "".join(map(_line, state.log_history)).encode("utf-8"))
        return None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """Append the entry, with its step.

        Raises:
            FileError: the line cannot be written.
        """
        if state.is_world_process_zero:
            file = self._file(args)
            try:
                file.parent.mkdir(parents=True, exist_ok=True)
                with file.open("a", encoding="utf-8") as lines:
                    lines.write(_line({**kwargs["logs"], "step": state.global_step}))
            except OSError as error:
                raise FileError(f"{file}: the log cannot be written: {error.strerror or error}") from error
        return None


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(as_json(entry), ensure_ascii=False, allow_nan=False) + "\n"


class TensorBoardCallback(TrainerCallback):
    """Sends entries of the log to TensorBoard: `python -m tensorboard.main --logdir output_dir/runs`.

    The folder is `logging_dir`, the environment's `TENSORBOARD_LOGGING_DIR`, or `runs` in `output_dir`, and in it
    `run_name` when there is one. A resumed run goes on with the curves from its step.

    Args:
        tb_writer: a `torch.utils.tensorboard.SummaryWriter` of one's own.

    Raises:
        MissingDependencyError: the package `tensorboard` is not installed.
    """

    @strict
    def __init__(self, tb_writer: Any = None) -> None:
        if tb_writer is None:
            require("tensorboard", "tensorboard")
        self.tb_writer = tb_writer

    def _open(self, args: TrainingArguments, state: TrainerState) -> Any:
        if self.tb_writer is None:
            from torch.utils.tensorboard import SummaryWriter

            chosen = args.logging_dir or os.environ.get("TENSORBOARD_LOGGING_DIR")
            folder = Path(chosen).expanduser() if chosen else Path(args.output_dir or ".") / "runs"
            name = args.run_name if args.run_name != args.output_dir else None
            make: Callable[..., Any] = SummaryWriter
            later = state.global_step + 1 if state.global_step else None
            self.tb_writer = make(log_dir=str(folder / name if name else folder), purge_step=later)
        return self.tb_writer

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Write the settings and the model's configuration."""
        if state.is_world_process_zero:
            writer = self._open(args, state)
            writer.add_text("args", args.to_json_string())
            config = getattr(kwargs.get("model"), "config", None)
            if config is not None:
                writer.add_text("model_config", config.to_json_string())
        return None

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """Write the entry: `eval_loss` as `eval/loss`, `loss` as `train/loss`."""
        if state.is_world_process_zero:
            writer = self._open(args, state)
            for name, value in kwargs["logs"].items():
                split = next((split for split in ("eval", "test") if name.startswith(f"{split}_")), None)
                tag = f"{split}/{name.removeprefix(f'{split}_')}" if split else f"train/{name}"
                if isinstance(value, (int, float)):
                    writer.add_scalar(tag, value, state.global_step)
                elif isinstance(value, str):
                    writer.add_text(tag, value, state.global_step)
                else:
                    logger.warning("TensorBoard: %s: left out a %s, which is no number", name, type(value).__name__)
            writer.flush()
        return None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Close the files."""
        if self.tb_writer is not None:
            self.tb_writer.close()
            self.tb_writer = None
        return None


REPORTERS: dict[str, type[TrainerCallback]] = {"tensorboard": TensorBoardCallback}
"""What `report_to` names."""


@strict
def reporting_callbacks(args: TrainingArguments) -> list[TrainerCallback]:
    """The callbacks that the settings ask for: the JSONL file, and what `report_to` names.

    Raises:
        InputError: `report_to` names what is not offered.
        MissingDependencyError: it names what is not installed.
    """
    made: list[TrainerCallback] = [JsonlLogCallback()] if args.jsonl_log else []
    names = args.report_to if isinstance(args.report_to, list) else [args.report_to or "none"]
    if names == ["all"]:
        names = [name for name in REPORTERS if find_spec(name) is not None]
    for name in names:
        if name not in REPORTERS:
            known = [*REPORTERS, "all", "none"]
            raise InputError(
                f"report_to: got {name!r}, wanted one of {', '.join(map(repr, known))}{did_you_mean(name, known)}; "
                "others are reached by a callback in Trainer(callbacks=[…])"
            )
        made.append(REPORTERS[name]())
    return made
