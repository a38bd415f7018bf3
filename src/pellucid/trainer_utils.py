"""What scripts import from `transformers.trainer_utils`, under the same names."""

from __future__ import annotations

from pathlib import Path

from pellucid.errors import strict
from pellucid.files import StrPath
from pellucid.seed import enable_full_determinism, set_seed
from pellucid.training.argument_tables import HubStrategy, IntervalStrategy, SaveStrategy
from pellucid.training.checkpoints import checkpoints_in
from pellucid.training.evaluation import EvalLoopOutput, PredictionOutput
from pellucid.training.metrics import EvalPrediction
from pellucid.training.schedules import SchedulerType
from pellucid.training.trainer import TrainOutput

__all__ = [
    "PREFIX_CHECKPOINT_DIR", "EvalLoopOutput", "EvalPrediction", "HubStrategy", "IntervalStrategy", "PredictionOutput",
    "SaveStrategy", "SchedulerType", "TrainOutput", "enable_full_determinism", "get_last_checkpoint", "set_seed",
]  # fmt: skip

PREFIX_CHECKPOINT_DIR = "checkpoint"


@strict
def get_last_checkpoint(folder: StrPath) -> str | None:
    """The checkpoint of the highest step in a folder, whole or not; `None` if there is none.

    `Trainer.train(resume_from_checkpoint=True)` passes over those that are not whole, and is the better choice.
    """
    found = checkpoints_in(Path(folder))
    return str(found[-1]) if found else None
