"""What the tests of `Pipeline.map` need in other processes: a pipeline that waits or dies, and a run to be killed.

    python ray_cases.py CHECKPOINT OUTPUT ENGINE

answers `HELD_TEXTS` block by block into the folder OUTPUT.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from pellucid import pipeline
from pellucid.pipelines.text_classification import TextClassificationPipeline

BLOCK_ROWS = 4
HELD_TEXTS = [f"text number {number}" + " with some more words" * (number % 5) for number in range(40)]
HELD_TEXTS[22], HELD_TEXTS[30] = "stop here", "die here"


class HeldPipeline(TextClassificationPipeline):
    """Classifies texts; the model's first label is a folder, in which a file says how often it has died.

    At the text "stop here" it waits until there is that file; at "die here" it kills its process the first time.
    """

    def read(self, row: Any, number: int, options: Any) -> Any:
        file = Path(self.model.config.id2label[0], "deaths")
        while row == "stop here" and not file.exists():
            time.sleep(0.02)
        if row == "die here" and file.read_text() == "0":
            file.write_text("1")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().read(row, number, options)


def held(checkpoint: Path) -> HeldPipeline:
    """Such a pipeline."""
    plain = pipeline("text-classification", checkpoint)
    return HeldPipeline(plain.model, plain.tokenizer)


def let_go(folder: Path, *, death: bool) -> None:
    """Let pipelines of this folder go on behind "stop here", and one of them die at "die here"."""
    (folder / "deaths").write_text("0" if death else "1")


def run_until(out: Path, blocks: int, checkpoint: Path, engine: str) -> None:
    """Start a run in a process of its own, and kill it once it has finished some blocks."""
    with subprocess.Popen([sys.executable, __file__, str(checkpoint), str(out), engine]) as process:
        try:
            end = time.monotonic() + 300
            while len(list(out.glob("block-*"))) < blocks:
                assert process.poll() is None, "the run ended by itself"
                assert time.monotonic() < end
                time.sleep(0.02)
        finally:
            process.kill()


def answers_close(ours: Any, theirs: Any) -> bool:
    """The same answers up to rounding, as the other texts of a batch may change the last digit."""
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, dict):
        return ours.keys() == theirs.keys() and all(answers_close(ours[key], theirs[key]) for key in theirs)
    if isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(answers_close, ours, theirs))
    if isinstance(theirs, float):
        return bool(ours == pytest.approx(theirs, abs=1e-6))
    return str(ours) == str(theirs)


if __name__ == "__main__":
    import ray_cases  # so that workers find the class of the pipeline by its name

    workers: dict[str, Any] = {"engine": "ray", "workers": 1} if sys.argv[3] == "ray" else {}
    ray_cases.held(Path(sys.argv[1])).map(HELD_TEXTS, output=sys.argv[2], block_rows=BLOCK_ROWS, **workers)
