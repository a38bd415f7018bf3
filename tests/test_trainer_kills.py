"""A run that is killed at random moments ends with the same bits, and every checkpoint that is there is whole."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid.training.checkpoints import checkpoints_in, problem_of
from run_training import STEPS

HERE = Path(__file__).parent
KINDS = {"masked": "model.safetensors", "adapter": "adapter_model.safetensors"}
KILLS = math.ceil(int(os.environ.get("PELLUCID_KILLS", "2")) / len(KINDS))


def start(folder: Path, kind: str, code: str | None = None) -> subprocess.Popen[bytes]:
    # One thread: sums are then added in one order, whatever else the machine does.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(HERE), *sys.path])}
    program = [str(HERE / "run_training.py")] if code is None else ["-c", code]
    return subprocess.Popen(
        [sys.executable, *program, str(folder), kind], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def finish(folder: Path, kind: str, code: str | None = None) -> str:
    process = start(folder, kind, code)
    printed, error = process.communicate(timeout=300)
    assert process.returncode == 0, error.decode()
    return printed.decode()


def names_in(folder: Path) -> set[str]:
    """What lies in a folder; what a kill has left unfinished counts, too."""
    return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


def step_of(folder: Path) -> int:
    """Step of the newest checkpoint, 0 for none."""
    return max((int(path.name.rpartition("-")[2]) for path in checkpoints_in(folder)), default=0)


def result(folder: Path, kind: str) -> tuple[bytes, list[dict[str, float]], Any, int]:
    """Weights, log without what a clock says, the best figure, and how many entries the log's file has."""
    assert not [name for name in names_in(folder) if name.startswith(".")], "what kills have left is removed"
    newest = checkpoints_in(folder)[-1]
    assert newest.name == f"checkpoint-{STEPS}"
    state = json.loads((newest / "trainer_state.json").read_text())
    log = [
        {name: value for name, value in entry.items() if not name.endswith(("runtime", "per_second"))}
        for entry in state["log_history"]
    ]
    best = state["best_metric"], state["best_global_step"]
    lines = (folder / "training_log.jsonl").read_text().splitlines()
    return (folder / "finished" / KINDS[kind]).read_bytes(), log, best, len(lines)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, ...]]:
    """What runs that nobody disturbs end with."""
    found = {}
    for kind in KINDS:
        folder = tmp_path_factory.mktemp("whole")
        finish(folder, kind)
        found[kind] = result(folder, kind)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    kind: str, whole: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    chance, folder, kills = random.Random(1), tmp_path / "killed", 0
    while kills < KILLS:
        process, before, aim = start(folder, kind), names_in(folder), step_of(folder) + chance.randrange(8)
        deadline = time.monotonic() + 300
        while process.poll() is None and (names_in(folder) == before or step_of(folder) < aim):
            assert time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(chance.random() * 0.3)
        process.kill()
        _, error = process.communicate()
        for path in checkpoints_in(folder):
            assert problem_of(path) is None
        if process.returncode == 0:  # it was done before: the next ones begin anew
            assert result(folder, kind) == whole[kind]
            shutil.rmtree(folder)
        else:
            assert process.returncode == -signal.SIGKILL, error.decode()
            kills += 1
    finish(folder, kind)
    assert result(folder, kind) == whole[kind]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_ends(number: signal.Signals, tmp_path: Path) -> None:
    process = start(tmp_path, "masked")
    while process.poll() is None and not checkpoints_in(tmp_path):
        time.sleep(0.01)
    process.send_signal(number)
    _, error = process.communicate(timeout=120)
    assert process.returncode == (128 + number if number == signal.SIGTERM else -number) or b"Interrupt" in error
    assert f"{number.name}: saving after this step" in error.decode()
    newest = checkpoints_in(tmp_path)[-1]
    assert problem_of(newest) is None
    assert newest.name != f"checkpoint-{STEPS}"


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
from pellucid import PellucidError, TrainerCallback
from run_training import trainer_of

class Fill(TrainerCallback):
    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 5:  # from here on, a file that grows beyond this is refused by the system
            resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
        return control

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
trainer = trainer_of(Path(sys.argv[1]), sys.argv[2])
trainer.add_callback(Fill())
try:
    trainer.train()
except PellucidError as error:
    print("refused:", error)
else:
    sys.exit("saved, though there was no space")
"""


def test_a_full_disk_leaves_the_old_checkpoints_and_one_clear_line(
    whole: dict[str, tuple[Any, ...]], tmp_path: Path
) -> None:
    printed = finish(tmp_path, "masked", FULL_DISK)
    line = printed.partition("refused: ")[2].strip()
    assert "model.safetensors: cannot be written" in line
    assert "unchanged" in line
    assert "\n" not in line
    assert checkpoints_in(tmp_path)[-1].name == "checkpoint-4"
    for path in checkpoints_in(tmp_path):
        assert problem_of(path) is None
    assert not [name for name in names_in(tmp_path) if name.startswith(".")], "what is not finished is removed at once"
    finish(tmp_path, "masked")  # there is room again
    assert result(tmp_path, "masked") == whole["masked"]
