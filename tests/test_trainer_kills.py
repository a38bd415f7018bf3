"""A run that is killed at random moments ends with the same bits, and every checkpoint that is there is whole."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pellucid.training.checkpoints import checkpoints_in, problem_of

HERE = Path(__file__).parent
KILLS = int(os.environ.get("PELLUCID_KILLS", "4"))


def start(folder: Path) -> subprocess.Popen[bytes]:
    # One thread: sums are then added in one order, whatever else the machine does.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, str(HERE / "run_training.py"), str(folder)], env=environment, stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )  # fmt: skip


def finish(folder: Path) -> None:
    process = start(folder)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()


def result(folder: Path) -> tuple[bytes, list[dict[str, float]]]:
    state = json.loads((folder / "checkpoint-30" / "trainer_state.json").read_text())
    return (folder / "finished" / "model.safetensors").read_bytes(), state["log_history"]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(tmp_path: Path) -> None:
    finish(tmp_path / "whole")
    chance, folder = random.Random(1), tmp_path / "killed"
    for _ in range(KILLS):
        process, before = start(folder), len(checkpoints_in(folder))
        deadline = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < deadline:  # it has begun when something changes
            if len(checkpoints_in(folder)) != before or list(folder.glob(".checkpoint*")):
                break
            time.sleep(0.005)
        time.sleep(chance.random() * 0.5)
        process.kill()
        process.communicate()
        for path in checkpoints_in(folder):
            assert problem_of(path) is None
    finish(folder)
    assert result(folder) == result(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path)
    while process.poll() is None and not checkpoints_in(tmp_path):
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number) or b"Interrupt" in error
    assert f"{number.name}: saving after this step" in error.decode()
    newest = checkpoints_in(tmp_path)[-1]
    assert problem_of(newest) is None
    assert newest.name != "checkpoint-30"
    finish(tmp_path)
