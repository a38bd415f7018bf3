"""Settings of training: the reference's names, defaults and refusals; older names; files."""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import transformers
from transformers.training_args import OptimizerNames as ReferenceOptimizers

from pellucid import GenerationConfig
from pellucid.errors import FileError, InputError, UnknownArgumentError
from pellucid.training import argument_checks
from pellucid.training.argument_tables import FIXED, GONE, RENAMED, SWITCHES
from pellucid.training.arguments import Seq2SeqTrainingArguments, TrainingArguments

OWN = {"jsonl_log", "layerwise_lr_decay", "logging_dir", "packed", "save_on_signal", "tokens_per_batch"}
PAIRS = [
    (TrainingArguments, transformers.TrainingArguments),
    (Seq2SeqTrainingArguments, transformers.Seq2SeqTrainingArguments),
]
# Names of 4.57 that the reference has given up, with the value that stands in files of that version.
OLD_DEFAULTS: dict[str, Any] = {
    "overwrite_output_dir": False, "per_gpu_train_batch_size": None, "per_gpu_eval_batch_size": None,
    "warmup_ratio": 0.0, "logging_dir": "out/runs/here", "save_safetensors": True, "no_cuda": False,
    "use_mps_device": False, "jit_mode_eval": False, "fp16_opt_level": "O1", "half_precision_backend": "auto",
    "tpu_num_cores": None, "tpu_metrics_debug": False, "past_index": -1, "fsdp": [], "fsdp_min_num_params": 0,
    "fsdp_config": {"min_num_params": 0, "xla": False, "xla_fsdp_v2": False, "xla_fsdp_grad_ckpt": False},
    "fsdp_transformer_layer_cls_to_wrap": None, "adafactor": False, "group_by_length": False,
    "trackio_space_id": "trackio", "use_legacy_prediction_loop": False, "gradient_checkpointing": False,
    "gradient_checkpointing_kwargs": None, "include_inputs_for_metrics": False, "fp16_backend": "auto",
    "push_to_hub_model_id": None, "push_to_hub_organization": None, "push_to_hub_token": "<PUSH_TO_HUB_TOKEN>",
    "mp_parameters": "", "torchdynamo": None, "ray_scope": "last", "include_tokens_per_second": False,
}  # fmt: skip


def refusal(settings: dict[str, Any], cls: Any = TrainingArguments) -> str:
    with pytest.raises((InputError, UnknownArgumentError)) as caught:
        cls("out", **settings)
    return str(caught.value)


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["plain", "seq2seq"])
def test_every_field_of_the_reference_is_there_with_its_default(ours: Any, theirs: Any) -> None:
    settings = {"use_cpu": True, "disable_tqdm": False}  # which follows from the level of each one's log
    made, wanted = ours(**settings), theirs(**settings)
    values, expected = made.to_dict(), wanted.to_dict()
    assert expected.pop("accelerator_config") == FIXED["accelerator_config"].values[1]
    assert values.pop("accelerator_config") is None
    assert {name: values[name] for name in expected if name in values} == {
        name: value for name, value in expected.items() if name in values
    }
    assert expected.keys() - values.keys() == {"gradient_checkpointing", "gradient_checkpointing_kwargs"}
    assert values.keys() - expected.keys() == OWN
    plain, sanitized = wanted.to_sanitized_dict(), made.to_sanitized_dict()
    same = plain.keys() & sanitized.keys() - {"accelerator_config"}
    assert {name: sanitized[name] for name in same} == {name: plain[name] for name in same}
    assert made.gradient_checkpointing is wanted.gradient_checkpointing


@pytest.mark.parametrize(("ours", "theirs"), PAIRS, ids=["plain", "seq2seq"])
def test_settings_that_others_wrote_are_read(ours: Any, theirs: Any, caplog: pytest.LogCaptureFixture) -> None:
    written = theirs("out", use_cpu=True, learning_rate=1e-4, eval_strategy="epoch", hub_token="secret").to_dict()
    made = ours.from_dict(written)
    assert (made.learning_rate, made.eval_strategy, made.hub_token) == (1e-4, "epoch", None)
    old = ours.from_dict({**written, **OLD_DEFAULTS})
    assert old.to_dict() == {**made.to_dict(), "trackio_space_id": "trackio", "logging_dir": "out/runs/here"}
    assert not caplog.records  # what says nothing is not worth a line


@pytest.mark.parametrize(
    ("old", "value", "new", "meaning"),
    [
        ("evaluation_strategy", "epoch", "eval_strategy", "epoch"),
        ("per_gpu_train_batch_size", 4, "per_device_train_batch_size", 4),
        ("per_gpu_eval_batch_size", 4, "per_device_eval_batch_size", 4),
        ("no_cuda", True, "use_cpu", True),
        ("warmup_ratio", 0.1, "warmup_steps", 0.1),
        ("push_to_hub_token", "secret", "hub_token", "secret"),
        ("push_to_hub_model_id", "me/it", "hub_model_id", "me/it"),
        ("gradient_checkpointing", True, "activation_checkpointing", True),
        ("gradient_checkpointing_kwargs", {"use_reentrant": False}, "activation_checkpointing_kwargs", None),
        ("adafactor", True, "optim", "adafactor"),
        ("group_by_length", True, "train_sampling_strategy", "group_by_length"),
        ("include_inputs_for_metrics", True, "include_for_metrics", ["inputs"]),
    ],
)
def test_an_older_name_is_taken_and_its_present_one_logged(
    old: str, value: Any, new: str, meaning: Any, caplog: pytest.LogCaptureFixture
) -> None:
    assert old in RENAMED or old in SWITCHES
    made = TrainingArguments("out", **{old: value})
    assert getattr(made, new) == (value if meaning is None else meaning)
    (line,) = [record.getMessage() for record in caplog.records]
    assert old in line
    assert f"write {new}=" in line
    assert "secret" not in line


def test_every_older_name_is_tested_above() -> None:
    assert {*RENAMED, *SWITCHES, *GONE} - {"evaluation_strategy"} <= OLD_DEFAULTS.keys()


def test_an_older_and_its_present_name_must_agree() -> None:
    assert TrainingArguments("out", warmup_ratio=0.1, warmup_steps=0.1).warmup_steps == 0.1
    assert "keep warmup_steps" in refusal({"warmup_ratio": 0.1, "warmup_steps": 50})
    assert "below 1" in refusal({"warmup_ratio": 1.0})
    assert "true or false" in refusal({"adafactor": "yes"})
    message = refusal({"hub_token": "secret", "push_to_hub_token": "hidden"})
    assert "secret" not in message
    assert "hidden" not in message


@pytest.mark.parametrize("name", sorted(GONE))
def test_what_means_nothing_any_more_is_told(name: str, caplog: pytest.LogCaptureFixture) -> None:
    harmless, reason = GONE[name]
    for value in harmless:
        TrainingArguments("out", **{name: value})
    assert len(caplog.records) == len(harmless) - 1  # the value that files hold says nothing
    caplog.clear()
    if set(map(str, harmless)) != {"False", "True"}:
        assert reason in refusal({name: "something"})


@pytest.mark.parametrize("name", sorted(set(FIXED) - {"enable_jit_checkpoint"}))
def test_what_is_not_offered_is_refused_with_the_reason(name: str) -> None:
    other: Any = True if FIXED[name].values == (False,) else "something"
    message = refusal({name: other}, Seq2SeqTrainingArguments)
    assert message.startswith(f"Seq2SeqTrainingArguments: {name}: got {other!r}, wanted {FIXED[name].values[0]!r}")
    assert FIXED[name].reason in message


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"learning_rat": 1e-4}, "did you mean 'learning_rate'?"),
        ({"evaluation_stategy": "epoch"}, "did you mean 'evaluation_strategy'?"),
        ({"tokenizer": None}, "Trainer(processing_class=…)"),
        ({"compute_metrics": len}, "Trainer(compute_metrics=…)"),
        ({"learning_rate": "5e-5"}, "learning_rate: got '5e-5', wanted a number"),
        ({"learning_rate": -1.0}, "learning_rate: got -1.0"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size: got 0"),
        ({"per_device_train_batch_size": 8.0}, "wanted a whole number"),
        ({"seed": True}, "seed: got True"),
        ({"eval_strategy": "epochs"}, "did you mean 'epoch'?"),
        ({"lr_scheduler_type": "cosin"}, "did you mean 'cosine'?"),
        ({"optim": "adamw"}, "did you mean 'adamw_torch'?"),
        ({"num_train_epochs": 0}, "num_train_epochs"),
        ({"max_steps": 0}, "max_steps: got 0"),
        ({"tokens_per_batch": 4096, "per_device_train_batch_size": 16}, "wanted one of them"),
        ({"lr_scheduler_kwargs": {"num_cycle": 2}, "lr_scheduler_type": "cosine"}, "did you mean 'num_cycles'?"),
        ({"lr_scheduler_kwargs": {"num_cycles": 2}}, "wanted no lr_scheduler_kwargs"),
        ({"lr_scheduler_type": "cosine_with_min_lr"}, "min_lr"),
        ({"lr_scheduler_type": "warmup_stable_decay"}, "num_decay_steps is missing"),
        ({"optim": "sgd", "optim_args": "momentun=0.9"}, "did you mean 'momentum'?"),
        ({"optim": "sgd", "optim_args": "momentum=much"}, "wanted a number"),
        ({"optim": "sgd", "optim_args": "nesterov=2"}, "wanted true or false"),
        ({"optim_args": "eps=1e-6"}, "wanted nothing for this optimizer"),
        ({"include_for_metrics": ["input"]}, "did you mean 'inputs'?"),
        ({"fsdp_config": {"cpu_ofload": True}, "fsdp": True}, "did you mean 'cpu_offload'?"),
        ({"fsdp_config": {"cpu_offload": True}}, "set fsdp=True"),
        ({"fsdp_config": {"version": 1}, "fsdp": True}, "wanted 2"),
        ({"fsdp": "full_shards"}, "did you mean 'full_shard'?"),
        ({"dataloader_persistent_workers": True}, "set dataloader_num_workers"),
        ({"save_strategy": "best", "metric_for_best_model": "loss"}, "eval_strategy='no'"),
        ({"save_strategy": "best", "eval_strategy": "epoch"}, "set metric_for_best_model"),
        ({"load_best_model_at_end": True, "save_strategy": "no"}, "which saves none"),
        ({"eval_on_start": True}, "set eval_strategy"),
        ({"warmup_steps": 10.5}, "wanted a whole number"),
        ({"layerwise_lr_decay": 0.0}, "layerwise_lr_decay: got 0"),
        ({"tf32": True, "use_cpu": True}, "tf32: got True on a cpu device"),
        ({"local_rank": 3}, "torchrun"),
    ],
    ids=str,
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(settings: dict[str, Any], says: str) -> None:
    message = refusal(settings)
    assert says in message
    assert "\n" not in message


@pytest.mark.parametrize("name", [str(kind.value) for kind in ReferenceOptimizers])
def test_optimizers_of_the_reference_are_known_or_refused_by_their_package(name: str) -> None:
    if name in ("adamw_torch", "adamw_torch_fused", "adafactor", "sgd", "adagrad", "rmsprop"):
        assert TrainingArguments("out", optim=name).optim == name
    else:
        assert "this one is of the package" in refusal({"optim": name})


def accepted(cls: Any, settings: dict[str, Any]) -> dict[str, Any] | None:
    """What follows from settings, or `None` when they are refused."""
    try:
        made = cls("out", use_cpu=True, **settings)
    except ValueError:
        return None
    shown = ("eval_steps", "save_steps", "logging_steps", "do_eval", "metric_for_best_model", "greater_is_better")
    return {name: getattr(made, name) for name in shown}


def test_strategies_and_steps_agree_with_the_reference() -> None:
    ours_only = seen = 0
    choices = itertools.product(
        ("no", "steps", "epoch"), ("no", "steps", "epoch", "best"), (None, 50, 0.1, 1.5), (100, 0.2, 0.05, 75),
        (False, True), (None, "accuracy", "eval_loss"), ("linear", "greedy"),
    )  # fmt: skip
    for evaluate, save, eval_steps, save_steps, best, metric, schedule in choices:
        settings: dict[str, Any] = {
            "eval_strategy": evaluate, "save_strategy": save, "eval_steps": eval_steps, "save_steps": save_steps,
            "load_best_model_at_end": best, "metric_for_best_model": metric, "lr_scheduler_type": schedule,
        }  # fmt: skip
        theirs, ours = accepted(transformers.TrainingArguments, settings), accepted(TrainingArguments, settings)
        seen += 1
        if ours is None and theirs is not None:  # refused before time is spent; the reference finds it out later
            nothing_saved = best and save == "no"
            no_metric = save == "best" and (evaluate == "no" or (metric is None and not best and schedule == "linear"))
            assert nothing_saved or no_metric, settings
            ours_only += 1
        else:
            assert ours == theirs, settings
    assert 0 < ours_only < seen / 3


def test_warmup_is_steps_or_a_share() -> None:
    for warmup in (0, 0.1, 0.33, 1, 7, 100.0):
        theirs = transformers.TrainingArguments("out", use_cpu=True, warmup_steps=warmup)
        ours = TrainingArguments("out", warmup_steps=warmup)
        assert [ours.get_warmup_steps(n) for n in range(1, 200, 7)] == [
            theirs.get_warmup_steps(n) for n in range(1, 200, 7)
        ]


def test_bfloat16_needs_a_device_that_has_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(argument_checks, "cpu_computes_bfloat16", lambda: True)
    assert TrainingArguments("out", bf16=True, use_cpu=True).bf16
    monkeypatch.setattr(argument_checks, "cpu_computes_bfloat16", lambda: False)
    assert "leave it out" in refusal({"bf16": True, "use_cpu": True})
    assert "leave it out" in refusal({"bf16_full_eval": True, "use_cpu": True})
    assert TrainingArguments("out", use_cpu=True).device.type == "cpu"


def test_settings_are_checked_when_changed_later_too() -> None:
    args = TrainingArguments("out")
    args.learning_rate = 1e-3
    args.eval_strategy = "epoch"
    assert args.eval_strategy is type(args.eval_strategy)("epoch")
    with pytest.raises(UnknownArgumentError, match="did you mean 'learning_rate'"):
        args.learning_rte = 1e-3  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="learning_rate"):
        args.learning_rate = "high"  # type: ignore[assignment]
    assert dataclasses.replace(args, seed=7).learning_rate == 1e-3


def test_a_subclass_with_fields_of_its_own_takes_older_names_too(caplog: pytest.LogCaptureFixture) -> None:
    @dataclass
    class Mine(TrainingArguments):
        temperature: float = 2.0

    made = Mine("out", temperature=1.5, evaluation_strategy="epoch")  # type: ignore[call-arg]
    assert (made.temperature, made.eval_strategy, made.to_dict()["temperature"]) == (1.5, "epoch", 1.5)
    assert "Mine: unknown argument 'temperatur'" in refusal({"temperatur": 1.0}, Mine)


def test_files_hold_all_but_tokens(tmp_path: Path) -> None:
    args = TrainingArguments(
        tmp_path, learning_rate=3e-4, lr_scheduler_type="cosine", lr_scheduler_kwargs='{"num_cycles": 2}',
        warmup_steps=0.06, hub_token="secret", report_to="tensorboard", fsdp="shard_grad_op offload",
        include_for_metrics=["loss"], tokens_per_batch=4096, layerwise_lr_decay=0.9,
    )  # fmt: skip
    assert args.fsdp_config == {"reshard_after_forward": False, "cpu_offload": True}
    args.to_json_file(tmp_path)
    text = (tmp_path / "training_args.json").read_text(encoding="utf-8")
    assert "secret" not in text + repr(args) + args.to_json_string()
    assert json.loads(text) == json.loads(args.to_json_string()) == args.to_dict()
    again = TrainingArguments.from_json_file(tmp_path)
    assert again.hub_token is None
    assert dataclasses.replace(again, hub_token="secret") == args
    (tmp_path / "list.json").write_text("[]")
    with pytest.raises(FileError, match="wanted a JSON object"):
        TrainingArguments.from_json_file(tmp_path / "list.json")
    assert "learning_rate=0.0003" in repr(args)
    assert "weight_decay" not in repr(args)  # as it is left out


def test_settings_of_generation_come_back_from_a_file(tmp_path: Path) -> None:
    args = Seq2SeqTrainingArguments(
        tmp_path, predict_with_generate=True, generation_config=GenerationConfig(num_beams=3)
    )
    args.to_json_file(tmp_path)
    again = Seq2SeqTrainingArguments.from_json_file(tmp_path)
    assert isinstance(again.generation_config, GenerationConfig)
    assert again.to_dict() == args.to_dict()
    assert again.generation_config.num_beams == 3


def test_which_process_logs_and_saves(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORLD_SIZE", "4"), ("RANK", "2"), ("LOCAL_RANK", "0")):
        monkeypatch.setenv(name, value)
    args = TrainingArguments("out", use_cpu=True)
    assert (args.world_size, args.process_index, args.local_process_index) == (4, 2, 0)
    assert (args.should_log, args.should_save) == (True, False)
    assert TrainingArguments("out", save_on_each_node=True).should_save
    assert TrainingArguments("out", log_level="error").get_process_log_level() == logging.ERROR
    monkeypatch.setenv("RANK", "two")
    with pytest.raises(InputError, match="RANK: got 'two'"):
        _ = args.process_index


def test_settings_need_no_torch() -> None:
    code = (
        "import sys; from pellucid.training.arguments import TrainingArguments as T; "
        "T('out', lr_scheduler_type='cosine', lr_scheduler_kwargs={'num_cycles': 2}); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_mode_of_a_process_alone() -> None:
    args = TrainingArguments("x", use_cpu=True)
    assert args.parallel_mode.value != "distributed"
    with args.main_process_first(local=False, desc="map"):
        pass
