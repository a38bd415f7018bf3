"""A checkpoint survives its own saving: killed at any system call, or on a disk that is full."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kill_points import SCENARIOS, contents, save, value_of
from pellucid.checkpoint import save_state
from pellucid.errors import FileError
from pellucid.files import atomic_folder

MEMORY_DISK = Path("/dev/shm")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: the many saves then wait for no disk."""
    if os.access(MEMORY_DISK, os.W_OK):
        with tempfile.TemporaryDirectory(dir=MEMORY_DISK) as made:
            yield Path(made)
    else:
        yield tmp_path


@pytest.mark.parametrize("scenario", [*SCENARIOS, "single events"])
def test_a_save_killed_at_any_point_leaves_the_old_or_the_new_checkpoint(folder, scenario):
    scenario, _, how = scenario.partition(" ")
    command = [sys.executable, str(Path(__file__).parent / "kill_points.py"), scenario, str(folder), how]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["failures"] == []
    assert report["points"] >= 15
    assert report["old"] > 0
    assert report["new"] > 0


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
import torch
from pellucid.checkpoint import save_state
from pellucid.errors import FileError
from pellucid.files import atomic_folder, write_json
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))  # a file that grows beyond this is refused by the system
state = {f"w{n}": torch.full((100, 200), 2.0) for n in range(3)}
try:
    with atomic_folder(sys.argv[1]) as staged:
        write_json(staged.path / "config.json", {"value": 2.0})
        save_state(state, staged, max_shard_size=sys.argv[2], safe_serialization=sys.argv[3] == "safetensors")
except FileError as error:
    print(error)
else:
    sys.exit("saved, though there was no space")
"""


@pytest.mark.parametrize("form", ["safetensors", "bin"])
@pytest.mark.parametrize("shards", ["50GB", "170KB"])
def test_a_write_that_fails_leaves_the_old_checkpoint_and_no_rubbish(tmp_path, form, shards):
    target = tmp_path / "model"
    save(target, 1.0, "50GB")
    before = contents(target)
    command = [sys.executable, "-c", FULL_DISK, str(target), shards, form]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip().splitlines()) == 1
    assert "unchanged" in done.stdout
    assert contents(target) == before
    assert value_of(target) == 1.0
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_a_full_disk_is_noticed_before_writing(tmp_path):
    save(tmp_path / "model", 1.0, "50GB")
    with pytest.raises(FileError, match="make room"), atomic_folder(tmp_path / "model", needed=2**60):
        raise AssertionError
    assert value_of(tmp_path / "model") == 1.0


def test_saving_over_the_file_that_the_tensors_are_mapped_from(tmp_path):
    from pellucid.checkpoint import Checkpoint

    state = {"a": torch.arange(5000.0), "b": torch.arange(7)}
    with atomic_folder(tmp_path / "model") as staged:
        save_state(state, staged)
    for _ in range(2):
        opened = Checkpoint.open([tmp_path / "model" / "model.safetensors"])
        mapped = {name: opened.tensor(name) for name in opened.shapes}
        with atomic_folder(tmp_path / "model") as staged:
            save_state(mapped, staged)
    again = Checkpoint.open([tmp_path / "model" / "model.safetensors"])
    for name, tensor in state.items():
        assert torch.equal(again.tensor(name), tensor)
        assert torch.equal(mapped[name], tensor)
