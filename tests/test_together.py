"""Several processes train as one: the same curve, checkpoints for any number of them, errors that end all."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pellucid.training.checkpoints import checkpoints_in, problem_of

SCRIPT = Path(__file__).parent / "run_together.py"


Runs = list[tuple[Path, dict[str, Any]]]


def train(processes: int, runs: Runs, code: int = 0) -> str:
    """Make some runs one after another in some processes, each with one thread, and return what they said."""
    start = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    usual = {"save_strategy": "no", "max_steps": 9, "per_device_train_batch_size": 4 // processes}
    words = [word for folder, given in runs for word in (str(folder), json.dumps({**usual, **given}))]
    done = subprocess.run(
        [sys.executable, *(start if processes > 1 else []), str(SCRIPT), *words], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300, check=False,
    )  # fmt: skip
    assert bool(done.returncode) == bool(code), done.stderr[-3000:]
    return done.stdout + done.stderr


def found(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "found.json").read_text())
    return read


def curve(folder: Path) -> list[float]:
    return [value for entry in found(folder)["log"] if "loss" in entry for value in (entry["loss"], entry["grad_norm"])]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "finished" / "model.safetensors")


DIVIDED: list[dict[str, Any]] = [
    {},
    {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2},
    {"fsdp": True},
    {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 2, "fsdp": "shard_grad_op"},
    {"stream": True, "train_sampling_strategy": "sequential"},
]


def test_two_processes_have_the_curve_of_one(tmp_path: Path) -> None:
    in_order = {"train_sampling_strategy": "sequential"}
    train(1, [(tmp_path / "one", {}), (tmp_path / "in order", in_order), (tmp_path / "stream", DIVIDED[4])])
    train(2, [(tmp_path / str(number), given) for number, given in enumerate(DIVIDED)])
    assert curve(tmp_path / "stream") == curve(tmp_path / "in order")
    for number, given in enumerate(DIVIDED):
        ours, theirs = tmp_path / str(number), tmp_path / ("stream" if "stream" in given else "one")
        assert len(curve(ours)) == 18  # six steps an epoch, the last of them with two rows in place of four
        assert curve(ours) == pytest.approx(curve(theirs), rel=1e-4)
        for name in ("loss", "sum", "tokens"):
            assert found(ours)[name] == pytest.approx(found(theirs)[name], rel=1e-4)
        wanted = weights(theirs)
        for name, tensor in weights(ours).items():
            torch.testing.assert_close(tensor, wanted[name], rtol=1e-3, atol=1e-5)


def test_two_processes_share_the_batches_of_a_loader(tmp_path: Path) -> None:
    gathered = {"loader": True, "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2}
    train(1, [(tmp_path / "one", gathered)])
    train(2, [(tmp_path / "two", {"loader": True, "per_device_train_batch_size": 2})])
    assert len(curve(tmp_path / "one")) == 18
    assert curve(tmp_path / "two") == pytest.approx(curve(tmp_path / "one"), rel=1e-4)


@pytest.mark.parametrize("divided", [{}, {"fsdp": True}, {"stream": True}], ids=["same", "divided", "stream"])
def test_a_run_goes_on_to_the_bit_and_with_another_number_of_processes(divided: dict[str, Any], tmp_path: Path) -> None:
    given = {"save_strategy": "steps", "save_steps": 2, **divided}
    lively, whole, stopped = given | {"dropout": 0.1}, tmp_path / "whole", tmp_path / "stopped"
    two, one = tmp_path / "two", tmp_path / "one"
    train(2, [(whole, lively), (stopped, lively | {"stop": 7}), (two, given | {"stop": 7})])
    assert [path.name for path in checkpoints_in(stopped)] == [f"checkpoint-{number}" for number in (2, 4, 6)]
    for path in checkpoints_in(stopped):
        assert problem_of(path) is None
        assert len(list(path.glob("rng_state*.json"))) == 2
        assert not [file for file in path.rglob("*") if file.suffix not in (".json", ".safetensors", ".txt", "")]
    alone = {**given, "fsdp": None}
    train(1, [(one, alone | {"stop": 7}), (two, alone | {"resume": True})])
    train(2, [(stopped, lively | {"resume": True}), (one, given | {"resume": True})])
    ours, theirs = weights(stopped), weights(whole)
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    assert curve(stopped) == curve(whole)
    assert curve(one) == pytest.approx(curve(two), rel=1e-4)


def test_what_fails_in_one_process_ends_all(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-2").write_text("in the way")
    said = train(2, [(tmp_path, {"save_strategy": "steps", "save_steps": 2})], code=1)
    assert "checkpoint-2: got a file, wanted a folder" in said
