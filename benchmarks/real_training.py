"""What the tasks of `real_tasks.py` share: training by either library from the same weights, and one judge for both."""

from __future__ import annotations

import importlib
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter, process_time
from typing import Any, ClassVar

from common import OWN, PEER, show, temporary_folder

Settings = dict[str, Any]
Scores = dict[str, float]
WAYS = {"peer": (PEER, "fp32"), "fp32": (OWN, "fp32"), "bf16": (OWN, "bf16"), "long": (OWN, "bf16")}
"""Name of a run → the library that trains, and in which number format."""
SEED = 1


@dataclass(frozen=True)
class Run:
    """A model that was trained.

    Attributes:
        task: what for.
        way: one of `WAYS`.
        steps: of the optimizer.
        epochs: how often the data were seen.
        seconds: that training took, evaluation and saving aside.
        processor: seconds of all processors in that time, which count the same on a machine that does other work.
        scores: what the saved model reaches on held-out data.
    """

    task: str
    way: str
    steps: int
    epochs: float
    seconds: float
    processor: float
    scores: Scores

    def cells(self) -> list[str]:
        """The run as texts."""
        scores = ", ".join(f"{name} {value:.{2 if value >= 10 else 3}f}" for name, value in self.scores.items())
        library, form = WAYS[self.way]
        budget = f"{self.steps:,} steps, {self.epochs:.2g} epochs"
        return [self.task, f"{library} {form}", budget, scores, f"{self.seconds:,.0f} s", f"{self.processor:,.0f} s"]


def table(runs: list[Run]) -> str:
    """The runs in Markdown."""
    header = ["task", "trained by", "budget", "held-out", "time", "processor"]
    lines = [header, ["---"] * 4 + ["---:"] * 2, *(run.cells() for run in runs)]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines)


class Task(ABC):
    """Data, an untrained model, and a judge.

    Attributes:
        name: in the table, and for `--only`.
        head: the auto class.
        trainer: the kind of trainer, and of its arguments.
        settings: of every run.
        compared: further ones of the runs that are compared.
        long: in place of those for the long run of pellucid.
        shown: figures of an evaluation that are the scores.
        rows: to train on.
        held_out: to evaluate on.
        tokenizer: pellucid's.
    """

    name: ClassVar[str]
    head: ClassVar[str]
    trainer: ClassVar[str] = "Trainer"
    settings: ClassVar[Settings]
    compared: ClassVar[Settings]
    long: Settings
    shown: ClassVar[tuple[str, ...]] = ()
    rows: list[Any]
    held_out: list[Any]
    tokenizer: Any

    def __init__(self, data: Path, quick: bool) -> None:
        """Read the data; `quick` keeps few of them."""
        self.data, self.quick = data, quick
        self.read()

    @abstractmethod
    def read(self) -> None:
        """Set `rows`, `held_out` and `tokenizer`."""

    @abstractmethod
    def untrained(self) -> Any:
        """The model of pellucid that both libraries begin with."""

    @abstractmethod
    def collator(self, model: Any) -> Any:
        """What makes a batch, for either library."""

    def metrics(self) -> Callable[..., Scores] | None:
        """What a trainer computes in its evaluation; `None` where a trainer cannot say."""
        return None

    def facts(self) -> str:
        """What one has to know to read the scores."""
        return ""

    def samples(self, folder: Path) -> str:
        """What a trained model writes, where that is more telling than a figure."""
        return ""

    def some(self, items: list[Any], quick: int) -> list[Any]:
        """All of them, or with `quick` so many."""
        return items[:quick] if self.quick else items

    def made(self, library: Any, folder: Path, out: Path, settings: Settings) -> Any:
        """A trainer of a library for the model in a folder."""
        model = getattr(library, self.head).from_pretrained(str(folder))
        arguments = getattr(library, self.trainer.replace("Trainer", "TrainingArguments"))(
            output_dir=str(out), save_strategy="no", logging_steps=50, report_to="none", disable_tqdm=True,
            use_cpu=True, seed=SEED, **settings,
        )  # fmt: skip
        return getattr(library, self.trainer)(
            model, arguments, data_collator=self.collator(model), train_dataset=self.rows, eval_dataset=self.held_out,
            compute_metrics=self.metrics(),
        )  # fmt: skip

    def evaluated(self, trainer: Any) -> Scores:
        """The scores that a trainer finds by itself."""
        figures = trainer.evaluate()
        return self.scores({name.removeprefix("eval_"): value for name, value in figures.items()})

    def scores(self, figures: dict[str, float]) -> Scores:
        """Those of the figures that are shown."""
        return {name: figures[name] for name in self.shown}

    def judge(self, folder: Path) -> Scores:
        """What a trained model reaches, whoever trained it: opened and evaluated by pellucid, in fp32."""
        with temporary_folder() as out:
            return self.evaluated(self.made(importlib.import_module(OWN), folder, out, self.settings))


def train(task: Task, way: str, start: Path, folder: Path) -> Run:
    """Train the model in `start`, save it in `folder` and judge it."""
    name, form = WAYS[way]
    settings = {**task.settings, **(task.long if way == "long" else task.compared), "bf16": form == "bf16"}
    if task.quick:
        settings["max_steps"] = 2
    show(f"{task.name}: {name} {form}, {settings}")
    with redirect_stdout(sys.stderr):
        trainer = task.made(importlib.import_module(name), start, folder / "log", settings)
        begun, processor = perf_counter(), process_time()
        trainer.train()
        seconds, processor = perf_counter() - begun, process_time() - processor
        trainer.model.save_pretrained(str(folder))
        task.tokenizer.save_pretrained(str(folder))
        if task.metrics() is not None:
            show(f"{task.name}: {name} {form} says {task.evaluated(trainer)}")
        scores = task.judge(folder)
    show(f"{task.name}: {name} {form}: {scores} after {seconds:.0f} s ({processor:.0f} s of processors)")
    return Run(task.name, way, trainer.state.global_step, trainer.state.epoch, seconds, processor, scores)
