"""Kills a save at each of its system calls and looks at what is left; a program of its own, run by test_atomic_save.

    python kill_points.py SCENARIO FOLDER [events]

For k = 1, 2, 3, … a child process saves a new checkpoint over an old one and is killed when it enters its k-th system
call, until a child comes to its end. One line of JSON tells how often the old and the new checkpoint was found and
lists everything else as a failure. With `events`, and where processes may not be traced, the kills come at Python's
audit events (each file operation) instead.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import safetensors.torch  # noqa: F401  (imported here so that no kill is spent on imports)
import torch

from pellucid.checkpoint import Checkpoint, find_weights, save_state
from pellucid.files import atomic_folder, read_json, write_json

TRACE_ME, KILL_WITH_PARENT, SYSCALL_STOPS, NEXT_SYSCALL, SET_OPTIONS = 0, 0x100000, 1, 24, 0x4200

SCENARIOS = {  # what the folder holds before (None: nothing), what is saved; sizes of shards
    "first": (None, "50GB"),
    "single": ("50GB", "50GB"),
    "sharded": ("1KB", "1KB"),
    "shards-to-single": ("1KB", "50GB"),
    "single-to-shards": ("50GB", "1KB"),
}


def save(folder: Path, value: float, shards: str) -> None:
    """Write a small checkpoint whose numbers are all `value`."""
    state = {f"layer.{number}.weight": torch.full((8, 16), value) for number in range(4)}
    with atomic_folder(folder, needed=4096) as staged:
        write_json(staged.path / "config.json", {"value": value})
        save_state(state, staged, max_shard_size=shards)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder with its checksum."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def value_of(folder: Path) -> float:
    """The one number that configuration and all tensors of a checkpoint agree on."""
    checkpoint = Checkpoint.open(find_weights(lambda name: folder / name if (folder / name).exists() else None))
    values = {float(value) for name in checkpoint.shapes for value in checkpoint.tensor(name).unique()}
    assert values == {read_json(folder / "config.json")["value"]}
    assert len(checkpoint) == 4
    return values.pop()


def by_system_call(work: Callable[[], None], stop_at: int) -> bool | None:
    """Run `work` in a child and kill it as it enters system call `stop_at`; whether it came to its end before.

    `None` where processes may not be traced.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    child = os.fork()
    if child == 0:
        if libc.ptrace(TRACE_ME, 0, None, None) != 0:
            os._exit(99)
        os.kill(os.getpid(), signal.SIGSTOP)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status):
        assert os.WEXITSTATUS(status) == 99
        return None
    libc.ptrace(SET_OPTIONS, child, None, ctypes.c_void_p(KILL_WITH_PARENT | SYSCALL_STOPS))
    entered, inside, pending = 0, False, 0
    while True:
        libc.ptrace(NEXT_SYSCALL, child, None, ctypes.c_void_p(pending))
        _, status = os.waitpid(child, 0)
        if os.WIFEXITED(status) or os.WIFSIGNALED(status):
            assert status == 0, f"the save failed by itself: {status}"
            return True
        pending = os.WSTOPSIG(status)
        if pending == signal.SIGTRAP | 0x80:  # entering or leaving a system call
            pending, inside = 0, not inside
            entered += inside
            if entered == stop_at and inside:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
                return False


def by_event(work: Callable[[], None], stop_at: int) -> bool:
    """The same where tracing is not allowed: the child kills itself at its `stop_at`-th file operation."""
    child = os.fork()
    if child == 0:
        seen = 0

        def count(event: str, _: object) -> None:
            nonlocal seen
            if event == "open" or event.startswith(("os.", "ctypes.call", "ctypes.dlsym", "shutil.")):
                seen += 1
                if seen == stop_at:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(count)
        work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert status in (0, signal.SIGKILL)
    return status == 0


def main(scenario: str, root: Path, kill: Callable[[Callable[[], None], int], bool | None]) -> None:
    before, shards = SCENARIOS[scenario]
    old, new, target = root / "old", root / "new", root / "work" / "model"
    others = {"vocab.txt": b"a\nb\n", "1_Pooling/config.json": b"{}"}
    for folder, value, size in ((old, 1.0, before), (new, 2.0, shards)):
        if size is not None:
            save(folder, value, size)
        for name, data in others.items() if before is not None else ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
    states = {"new": contents(new), "old": contents(old) if before is not None else None}
    found = {"old": 0, "new": 0}
    failures, at, ended = [], 0, False
    while not ended:
        at += 1
        shutil.rmtree(target.parent, ignore_errors=True)
        target.parent.mkdir()
        if before is not None:
            shutil.copytree(old, target)
        answer = kill(lambda: save(target, 2.0, shards), at)
        if answer is None:
            kill, at = by_event, 0
            continue
        ended = answer
        left = contents(target) if target.exists() else None
        name = next((name for name, state in states.items() if state == left), None)
        if name is None:
            failures.append([at, sorted(left or ())])
            continue
        found[name] += 1
        if left is not None:
            assert value_of(target) == {"old": 1.0, "new": 2.0}[name]
        if at % 16 == 0:  # the next save works, and tidies up after the killed one
            save(target, 2.0, shards)
            if contents(target) != states["new"] or [path.name for path in target.parent.iterdir()] != ["model"]:
                failures.append([at, [str(path) for path in target.parent.rglob("*")]])
    print(json.dumps({"points": at - 1, **found, "failures": failures}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    traced = sys.platform == "linux" and "events" not in sys.argv
    main(sys.argv[1], Path(sys.argv[2]), by_system_call if traced else by_event)
