"""Callbacks against the reference's: what is due when, in which order, when to stop; and what is written."""

from __future__ import annotations

import itertools
import json
import logging
import math
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from transformers import trainer_callback as reference

from pellucid.errors import FileError, InputError, MissingDependencyError
from pellucid.training import logs
from pellucid.training.arguments import TrainingArguments
from pellucid.training.callbacks import (
    EVENTS,
    CallbackHandler,
    DefaultFlowCallback,
    EarlyStoppingCallback,
    TrainerCallback,
)
from pellucid.training.logs import (
    JsonlLogCallback,
    PrinterCallback,
    ProgressCallback,
    TensorBoardCallback,
    reporting_callbacks,
)
from pellucid.training.state import ExportableState, TrainerControl, TrainerState


def handler(*callbacks: Any) -> CallbackHandler:
    return CallbackHandler([DefaultFlowCallback, *callbacks], "model", "tokenizer", None, None)


def switches(control: Any) -> dict[str, bool]:
    return {name: value for name, value in vars(control).items() if name.startswith("should")}


# ---------------------------------------------------------------------- flow

STRATEGIES = list(itertools.product(("no", "steps", "epoch"), ("no", "steps", "epoch"), ("no", "steps", "epoch")))


@pytest.mark.parametrize(("log", "evaluate", "save"), STRATEGIES)
@pytest.mark.parametrize("more", [{}, {"logging_first_step": True, "eval_delay": 5, "save_steps": 0.25}], ids=str)
def test_what_is_due_equals_the_reference(log: str, evaluate: str, save: str, more: dict[str, Any]) -> None:
    settings: dict[str, Any] = {
        "logging_strategy": log, "eval_strategy": evaluate, "save_strategy": save,
        "logging_steps": 3, "eval_steps": 4, "save_steps": 6, **more,
    }  # fmt: skip
    ours, theirs = TrainingArguments("out", **settings), transformers.TrainingArguments("out", use_cpu=True, **settings)
    state, their_state = TrainerState(max_steps=13), reference.TrainerState(max_steps=13)
    state.compute_steps(ours, 13)
    their_state.compute_steps(theirs, 13)
    assert (state.logging_steps, state.save_steps) == (their_state.logging_steps, their_state.save_steps)
    run = handler()
    their_run = reference.CallbackHandler([reference.DefaultFlowCallback], None, None, None, None)
    control, wanted = TrainerControl(), reference.TrainerControl()
    for step in range(1, 14):
        for one in (state, their_state):
            one.global_step, one.epoch = step, step / 5
        control, wanted = run.on_step_begin(ours, state, control), their_run.on_step_begin(theirs, their_state, wanted)
        assert switches(control) == switches(wanted)
        control, wanted = run.on_step_end(ours, state, control), their_run.on_step_end(theirs, their_state, wanted)
        assert switches(control) == switches(wanted), step
        if step % 5 == 0:
            control, wanted = (
                run.on_epoch_end(ours, state, control),
                their_run.on_epoch_end(theirs, their_state, wanted),
            )
            assert switches(control) == switches(wanted), step
    assert control.should_training_stop


def test_every_event_of_the_reference_is_there_and_clears_the_same_switches() -> None:
    known = [name for name in vars(reference.TrainerCallback) if name.startswith("on_")]
    assert sorted(EVENTS) == sorted(known)
    run, args = handler(), TrainingArguments("out")
    their_run = reference.CallbackHandler([reference.DefaultFlowCallback], None, None, None, None)
    their_args = transformers.TrainingArguments("out", use_cpu=True)
    for event in EVENTS:
        on = dict.fromkeys(switches(TrainerControl()), True)
        control, wanted = TrainerControl(**on), reference.TrainerControl(**on)
        result = [{}] if event in ("on_log", "on_evaluate", "on_predict") else []
        control = getattr(run, event)(args, TrainerState(max_steps=9), control, *result)
        wanted = getattr(their_run, event)(their_args, reference.TrainerState(max_steps=9), wanted, *result)
        assert switches(control) == switches(wanted), event


class Noting(TrainerCallback):
    heard: list[tuple[str, dict[str, Any]]] = []
    name = "first"

    def on_log(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        self.heard.append((self.name, {**kwargs, "stop": control.should_training_stop}))
        return None


class Stopping(Noting):
    name = "second"

    def on_log(self, args: Any, state: Any, control: TrainerControl, **kwargs: Any) -> TrainerControl | None:
        super().on_log(args, state, control, **kwargs)
        return TrainerControl(should_training_stop=True)


class Third(Noting):
    name = "third"


def test_callbacks_are_told_in_order_and_hand_the_control_on() -> None:
    Noting.heard.clear()
    run = handler(Noting(), Stopping, Third)
    run.train_dataloader = "batches"
    control = run.call_event("on_log", TrainingArguments("out"), TrainerState(), TrainerControl(), logs={"loss": 1.0})
    assert control.should_training_stop
    assert [(name, told["stop"]) for name, told in Noting.heard] == [
        ("first", False), ("second", False), ("third", True)
    ]  # fmt: skip
    told = Noting.heard[0][1]
    assert (told["model"], told["processing_class"], told["train_dataloader"]) == ("model", "tokenizer", "batches")
    assert told["logs"] == {"loss": 1.0}
    assert run.callback_list.split() == ["DefaultFlowCallback", "Noting", "Stopping", "Third"]
    assert isinstance(run.pop_callback(Stopping), Stopping)
    assert run.pop_callback(Stopping) is None
    run.remove_callback(run.callbacks[-1])
    assert run.callback_list.split() == ["DefaultFlowCallback", "Noting"]


def test_wrong_callbacks_are_refused(caplog: pytest.LogCaptureFixture) -> None:
    class Misspelt(TrainerCallback):
        def on_step_ends(self, *args: Any, **kwargs: Any) -> None: ...

    with pytest.raises(InputError, match="did you mean 'on_step_end'"):
        handler(Misspelt)
    with pytest.raises(InputError, match="wanted a subclass of TrainerCallback"):
        handler("tensorboard")
    with pytest.raises(InputError, match="did you mean 'on_step_end'"):
        handler().call_event("on_step_ends", TrainingArguments("out"), TrainerState(), TrainerControl())
    with pytest.raises(AttributeError, match="did you mean 'on_step_end'"):
        _ = handler().on_step_ends
    assert handler(reference.PrinterCallback).callbacks[1].on_log  # one written for the reference
    assert not caplog.records
    CallbackHandler([], None, None, None, None)
    handler(Noting, Noting)
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2


# ---------------------------------------------------------------------- early stopping


@pytest.mark.parametrize("greater", [False, True])
@pytest.mark.parametrize(("patience", "threshold"), [(1, 0.0), (2, 0.05), (3, None)])
def test_training_stops_when_the_reference_stops(patience: int, threshold: float | None, greater: bool) -> None:
    settings: dict[str, Any] = {
        "eval_strategy": "steps", "load_best_model_at_end": True, "metric_for_best_model": "score",
        "greater_is_better": greater,
    }  # fmt: skip
    ours, theirs = TrainingArguments("out", **settings), transformers.TrainingArguments("out", use_cpu=True, **settings)
    callback = EarlyStoppingCallback(patience, threshold)
    wanted = reference.EarlyStoppingCallback(patience, threshold or 0.0)
    better = max if greater else min
    state, stops = TrainerState(), []
    for score in [0.5, 0.52, 0.3, 0.31, 0.33, 0.29, 0.9, 0.4, 0.4, 0.4, 0.4]:
        control, their_control = TrainerControl(), reference.TrainerControl()
        callback.on_evaluate(ours, state, control, metrics={"eval_score": score})
        wanted.on_evaluate(theirs, state, their_control, metrics={"eval_score": score})
        assert control.should_training_stop == their_control.should_training_stop
        stops.append(control.should_training_stop)
        state.best_metric = score if state.best_metric is None else better(state.best_metric, score)
        assert {**callback.state()["args"], "early_stopping_threshold": threshold} == {
            **wanted.state()["args"], "early_stopping_threshold": threshold
        }  # fmt: skip
        assert callback.state()["attributes"] == wanted.state()["attributes"]
    assert any(stops)
    assert not all(stops)


def test_early_stopping_needs_something_to_go_by(caplog: pytest.LogCaptureFixture) -> None:
    callback, state, control = EarlyStoppingCallback(), TrainerState(), TrainerControl()
    with pytest.raises(InputError, match="set metric_for_best_model"):
        callback.on_train_begin(TrainingArguments("out"), state, control)
    with pytest.raises(InputError, match="set eval_strategy"):
        callback.on_train_begin(TrainingArguments("out", metric_for_best_model="loss"), state, control)
    args = TrainingArguments("out", metric_for_best_model="loss", eval_strategy="epoch")
    callback.on_train_begin(args, state, control)
    callback.on_evaluate(args, state, control, metrics={"eval_f1": 1.0})
    assert [record.getMessage().partition(": ")[2] for record in caplog.records] == [
        "load_best_model_at_end is not set, so the last model is kept", "no metric eval_loss among eval_f1"
    ]  # fmt: skip
    for settings in ({"early_stopping_patience": 0}, {"early_stopping_threshold": -1.0}):
        with pytest.raises(InputError, match="early_stopping"):
            EarlyStoppingCallback(**settings)


# ---------------------------------------------------------------------- state


def test_the_state_is_the_reference_s_file(tmp_path: Path) -> None:
    history = [{"loss": 2.5, "step": 3}, {"eval_loss": 1.25, "step": 3}]
    values: dict[str, Any] = {
        "epoch": 0.5, "global_step": 3, "max_steps": 10, "log_history": history, "best_metric": 1.25,
        "best_model_checkpoint": "out/checkpoint-3", "num_input_tokens_seen": 99,
    }  # fmt: skip
    stopping = EarlyStoppingCallback(3)
    stopping.early_stopping_patience_counter = 2
    ours, theirs = TrainerState(**values), reference.TrainerState(**values)
    ours.keep_callbacks([DefaultFlowCallback(), stopping, EarlyStoppingCallback(1), TrainerControl(should_save=True)])
    their_stopping = reference.EarlyStoppingCallback(3)
    their_stopping.early_stopping_patience_counter = 2
    theirs.stateful_callbacks = [
        their_stopping, reference.EarlyStoppingCallback(1), reference.TrainerControl(should_save=True)
    ]  # fmt: skip
    theirs.__post_init__()
    ours.save_to_json(tmp_path / "ours.json")
    theirs.save_to_json(str(tmp_path / "theirs.json"))
    assert json.loads((tmp_path / "ours.json").read_text()) == json.loads((tmp_path / "theirs.json").read_text())
    assert TrainerState.load_from_json(tmp_path / "theirs.json") == ours
    assert reference.TrainerState.load_from_json(str(tmp_path / "ours.json")).log_history == history


def test_numbers_without_a_form_in_json_come_back(tmp_path: Path) -> None:
    entry = {"loss": math.nan, "grad_norm": math.inf, "low": -math.inf, "f1": np.float32(0.5), "n": torch.tensor(3)}
    TrainerState(log_history=[entry], best_metric=math.inf).save_to_json(tmp_path / "state.json")
    again = TrainerState.load_from_json(tmp_path / "state.json")
    (found,) = again.log_history
    assert math.isnan(found.pop("loss"))
    assert found == {"grad_norm": math.inf, "low": -math.inf, "f1": 0.5, "n": 3}
    assert again.best_metric == math.inf


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[]", "wanted a JSON object"),
        ('{"globl_step": 1}', "did you mean 'global_step'"),
        ('{"global_step": "1"}', "global_step: got '1', wanted a whole number"),
    ],
)
def test_a_file_that_is_no_state_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(text)
    with pytest.raises(FileError, match=re.escape(str(tmp_path / "state.json"))) as caught:
        TrainerState.load_from_json(tmp_path / "state.json")
    assert says in str(caught.value)


def test_callbacks_go_on_where_they_were(caplog: pytest.LogCaptureFixture) -> None:
    first, second = EarlyStoppingCallback(5), EarlyStoppingCallback(6)
    first.early_stopping_patience_counter, second.early_stopping_patience_counter = 3, 4
    state = TrainerState()
    state.keep_callbacks([first, second, TrainerControl()])
    run = handler(EarlyStoppingCallback(9), Noting)
    run.add_callback(EarlyStoppingCallback(9))
    order = run.callback_list
    caplog.clear()
    run.restore(state)
    found = [callback.state() for callback in run.callbacks if isinstance(callback, ExportableState)]
    assert [one["attributes"]["early_stopping_patience_counter"] for one in found] == [3, 4]
    assert [one["args"]["early_stopping_patience"] for one in found] == [9, 9]  # as they were handed over
    run.restore(state, with_settings=True)
    found = [callback.state() for callback in run.callbacks if isinstance(callback, ExportableState)]
    assert found == [first.state(), second.state()]
    assert run.callback_list == order
    assert not caplog.records
    handler(EarlyStoppingCallback()).restore(state)
    assert "states of EarlyStoppingCallback" in caplog.records[-1].getMessage()
    state.stateful_callbacks = {"EarlyStoppingCallback": {"args": {"patience": 1}, "attributes": {}}}
    with pytest.raises(InputError, match="is not one of it"):
        handler(EarlyStoppingCallback()).restore(state, with_settings=True)
    with pytest.raises(InputError, match=r"state\(\) is missing"):
        ExportableState().state()


# ---------------------------------------------------------------------- reports


def logged(callback: TrainerCallback, args: TrainingArguments, state: TrainerState, entry: dict[str, Any]) -> None:
    """Make an entry as the trainer does."""
    state.log_history.append({**entry, "step": state.global_step})
    callback.on_log(args, state, TrainerControl(), logs=entry)


def test_the_jsonl_log_follows_the_run_that_is_resumed(tmp_path: Path) -> None:
    args, callback, state = TrainingArguments(tmp_path / "new"), JsonlLogCallback(), TrainerState()
    file = tmp_path / "new" / logs.LOG_FILE
    callback.on_train_begin(args, state, TrainerControl())
    for step in (1, 2, 3):
        state.global_step = step
        logged(callback, args, state, {"loss": 1 / step, "epoch": step / 3, "note": "é", "grad_norm": math.nan})
    whole = file.read_bytes()
    lines = [json.loads(line) for line in whole.decode().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3]
    assert lines[2] == {"loss": 1 / 3, "epoch": 1.0, "note": "é", "grad_norm": "NaN", "step": 3}

    with file.open("ab") as torn:
        torn.write(b'{"loss": 0.')  # what a kill may leave
    saved = TrainerState.from_dict(
        json.loads(json.dumps(TrainerState(global_step=2, log_history=state.log_history[:2]).to_dict()))
    )
    resumed = JsonlLogCallback()
    resumed.on_train_begin(args, saved, TrainerControl())
    assert file.read_bytes() == b"".join(whole.splitlines(keepends=True)[:2])
    saved.global_step = 3
    logged(resumed, args, saved, {"loss": 1 / 3, "epoch": 1.0, "note": "é", "grad_norm": math.nan})
    assert file.read_bytes() == whole

    replica = TrainerState(is_world_process_zero=False)
    resumed.on_train_begin(args, replica, TrainerControl())
    logged(resumed, args, replica, {"loss": 9.0})
    assert file.read_bytes() == whole
    own = JsonlLogCallback(tmp_path)
    with pytest.raises(FileError, match="cannot be written"):
        logged(own, args, TrainerState(), {"loss": 1.0})


def test_entries_are_printed_as_the_reference_prints_them(capsys: pytest.CaptureFixture[str]) -> None:
    args, entry = TrainingArguments("out"), {"loss": 1 / 3, "epoch": 2.0, "total_flos": 9, "note": "text"}
    PrinterCallback().on_log(args, TrainerState(), TrainerControl(), logs=entry)
    ours = capsys.readouterr().out
    reference.PrinterCallback().on_log(None, reference.TrainerState(), None, logs=dict(entry))
    assert ours == capsys.readouterr().out == "{'loss': '0.3333', 'epoch': '2', 'note': 'text'}\n"
    assert "total_flos" in entry
    PrinterCallback().on_log(args, TrainerState(is_local_process_zero=False), TrainerControl(), logs=entry)
    assert not capsys.readouterr().out


def test_the_bar_shows_steps_loss_and_tokens(capsys: pytest.CaptureFixture[str]) -> None:
    args, state, control = TrainingArguments("out"), TrainerState(max_steps=20, global_step=10), TrainerControl()
    run = handler(ProgressCallback(max_str_len=10))
    run.on_train_begin(args, state, control)
    for step in range(11, 21):
        state.global_step, state.num_input_tokens_seen = step, step * 100
        run.on_step_end(args, state, control)
        run.on_log(args, state, control, {"loss": 0.123456, "note": "x" * 20})
    run.eval_dataloader = [1, 2]
    run.on_prediction_step(args, state, control)
    run.on_prediction_step(args, state, control)
    run.on_evaluate(args, state, control, {})
    run.on_prediction_step(args, state, control)
    run.on_predict(args, state, control, {})
    run.on_train_end(args, state, control)
    shown = capsys.readouterr()
    assert "10/20" in shown.err
    assert "20/20" in shown.err
    assert "loss=0.1235" in shown.err
    assert re.search(r"tokens/s=[\d,]+", shown.err)
    assert "evaluation: " in shown.err
    assert "{'loss': '0.1235', 'note': 'xxxxxxxxxx… (20 characters)'}" in shown.out
    bar = run.callbacks[1]
    assert isinstance(bar, ProgressCallback)
    assert bar.training_bar is bar.prediction_bar is None
    replica = TrainerState(is_world_process_zero=False)
    for event in ("on_train_begin", "on_step_end", "on_prediction_step", "on_train_end"):
        getattr(run, event)(args, replica, control)
    assert not capsys.readouterr().err


class Writer:
    """Stands for TensorBoard's writer, and notes what it is told."""

    def __init__(self, **settings: Any) -> None:
        self.told: list[tuple[Any, ...]] = [("open", settings)]

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.told.append((name, *args))


def test_tensorboard_gets_the_entries_under_the_reference_s_names(caplog: pytest.LogCaptureFixture) -> None:
    writer, args = Writer(), TrainingArguments("out")
    callback, state = TensorBoardCallback(writer), TrainerState(global_step=7)
    callback.on_train_begin(args, state, TrainerControl(), model=None)
    entry = {"loss": 1.0, "eval_f1": 0.5, "test_note": "text", "odd": [1]}
    callback.on_log(args, state, TrainerControl(), logs=entry)
    callback.on_train_end(args, state, TrainerControl())
    assert writer.told[1][:2] == ("add_text", "args")
    assert writer.told[2:] == [
        ("add_scalar", "train/loss", 1.0, 7), ("add_scalar", "eval/f1", 0.5, 7), ("add_text", "test/note", "text", 7),
        ("flush",), ("close",),
    ]  # fmt: skip
    assert "left out a list" in caplog.text


def test_tensorboard_goes_on_with_the_curves_of_a_resumed_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    module = type(sys)("torch.utils.tensorboard")
    module.SummaryWriter = Writer  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    monkeypatch.setattr(logs, "require", lambda *_: None)
    monkeypatch.delenv("TENSORBOARD_LOGGING_DIR", raising=False)

    def opened(step: int = 0, **settings: Any) -> dict[str, Any]:
        callback = TensorBoardCallback()
        args = TrainingArguments(tmp_path, report_to="tensorboard", **settings)
        callback.on_train_begin(args, TrainerState(global_step=step), TrainerControl())
        return callback.tb_writer.told[0][1]  # type: ignore[no-any-return]

    assert opened() == {"log_dir": str(tmp_path / "runs"), "purge_step": None}
    assert opened(5, run_name="try") == {"log_dir": str(tmp_path / "runs" / "try"), "purge_step": 6}
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "all"))
    assert opened()["log_dir"] == str(tmp_path / "all")
    assert opened(logging_dir=str(tmp_path / "own"))["log_dir"] == str(tmp_path / "own")


def test_what_to_report_to(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [type(one) for one in reporting_callbacks(TrainingArguments("out"))] == [JsonlLogCallback]
    assert reporting_callbacks(TrainingArguments("out", jsonl_log=False, report_to="none")) == []
    with pytest.raises(InputError, match="others are reached by a callback"):
        reporting_callbacks(TrainingArguments("out", report_to="wandb"))
    with pytest.raises(InputError, match="did you mean 'tensorboard'"):
        reporting_callbacks(TrainingArguments("out", report_to=["tensorbord"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'pellucid\[tensorboard\]'"):
        reporting_callbacks(TrainingArguments("out", report_to="tensorboard"))
    monkeypatch.setattr(logs, "find_spec", lambda name: None)
    assert reporting_callbacks(TrainingArguments("out", jsonl_log=False, report_to="all")) == []
