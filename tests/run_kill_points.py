"""Kills runs over files and lets them go on; a program of its own, run by test_datafiles and test_cli_run_files.

    python run_kill_points.py journal FOLDER ENDING STEP       a kill at each STEP-th system call, without a model
    python run_kill_points.py command FOLDER ENDING COUNT      kills at COUNT random moments of the command

After each kill the same run is begun again (with `command`, it is killed time and again until one comes to its end),
and what it makes is compared with what a run makes that nobody kills. One line of JSON tells how many kills there were
and lists what went wrong.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pyarrow.parquet  # noqa: F401  (imported here so that no kill is spent on imports)

from kill_points import by_event, by_system_call
from pellucid.errors import InputError
from pellucid.pipelines import datafiles, journal

ROWS = 11


class Answered:
    """The rows of a file with the answers of a journal."""

    def __init__(self, source: Path, answers: journal.Journal) -> None:
        self.source, self.answers = source, answers

    def __iter__(self) -> Any:
        return (row | answer for row, answer in zip(datafiles.open_rows_file(self.source), self.answers, strict=True))


def answer_all(source: Path, out: Path) -> None:
    """A run over a file: the length of each text, four rows at a time."""
    with journal.Journal(out, {"input": str(source)}) as answers:
        rows = datafiles.open_rows_file(source, skip=answers.rows)
        for block in datafiles.in_blocks(rows, 4, 10**6) if not answers.complete else ():
            answers.add([{"length": len(row["text"])} for row in block])
            answers.sync()
        answers.sync(complete=True)
        datafiles.write_rows(out, Answered(source, answers))
        answers.remove()


def finish(source: Path, out: Path) -> None:
    """Begin the run again after a kill; if only the tidying was left, that it is done is an error."""
    with suppress(InputError):
        answer_all(source, out)


def at_system_calls(folder: Path, ending: str, step: int) -> dict[str, Any]:
    """Kill `answer_all` at its system calls, one kill a run, and finish it each time."""
    source, whole, out = folder / "in.jsonl", folder / f"whole{ending}", folder / "work" / f"out{ending}"
    source.write_text("".join(json.dumps({"id": n, "text": "so " * n}) + "\n" for n in range(ROWS)))
    in_child(lambda: answer_all(source, whole))
    kill: Callable[[Callable[[], None], int], bool | None] = by_system_call if sys.platform == "linux" else by_event
    failures, at, kills, ended = [], 1 - step, 0, False
    while not ended:
        at += step
        shutil.rmtree(out.parent, ignore_errors=True)
        out.parent.mkdir()
        answer = kill(lambda: answer_all(source, out), at)
        if answer is None:
            kill, at = by_event, 1 - step
            continue
        ended = answer
        kills += not ended
        if out.exists() and out.read_bytes() != whole.read_bytes():
            failures.append([at, "a file that is not whole"])
        if not out.exists() or out.with_name(f"{out.name}.partial").exists():
            in_child(lambda: finish(source, out))
        if out.read_bytes() != whole.read_bytes() or [path.name for path in out.parent.iterdir()] != [out.name]:
            failures.append([at, sorted(str(path) for path in out.parent.rglob("*"))])
    return {"kills": kills, "failures": failures}


def in_child(work: Callable[[], None], after: float | None = None) -> int:
    """Do `work` in a child, which is killed `after` so many seconds; the exit code, or -9."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def at_random_moments(folder: Path, ending: str, count: int) -> dict[str, Any]:
    """Kill the command `count` times, at moments that are spread over the time that a whole run takes."""
    import torch

    from pellucid import pipeline, pipelines
    from pellucid.cli import main, run_file

    torch.set_num_threads(1)
    run_file.BLOCK_ROWS, run_file.SYNC_SECONDS = 32, 0.0
    judge = pipeline("text-classification", folder / "model", top_k=None)
    pipelines.pipeline = lambda *args, **options: judge  # type: ignore[assignment]

    def run(out: Path) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        words = ["run", "text-classification", "--model", str(folder / "model"), "--in", str(folder / "in.jsonl")]
        os._exit(main([*words, "--out", str(out)]))

    whole, out = folder / f"whole{ending}", folder / f"out{ending}"
    begun = time.monotonic()
    failures = [["whole run", code]] if (code := in_child(lambda: run(whole))) != 1 else []  # 1: a row has an error
    seconds, kills, finished, went_on = time.monotonic() - begun, 0, 0, 0
    while kills < count or not finished:
        code = in_child(lambda: run(out), random.uniform(0, seconds) if kills < count else None)
        if code == -signal.SIGKILL:
            kills += 1
            record = out.with_name(f"{out.name}.partial") / journal.PROGRESS
            went_on += record.exists() and json.loads(record.read_text())["rows"] > 0
            if not out.exists():
                continue
        elif code != 1:
            failures.append(["exit code", code])
        finished += 1
        left = out.with_name(f"{out.name}.partial").exists()
        if left and (in_child(lambda: run(out)) != 1 or out.with_name(f"{out.name}.partial").exists()):
            failures.append(["the file was made, and its run cannot end", kills])
        if out.read_bytes() != whole.read_bytes():
            failures.append(["other bytes", kills])
        out.unlink()
    return {"kills": kills, "went on": went_on, "finished": finished, "failures": failures}


if __name__ == "__main__":
    kind = at_system_calls if sys.argv[1] == "journal" else at_random_moments
    print(json.dumps(kind(Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]))))
