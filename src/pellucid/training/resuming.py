"""What a trainer keeps in a checkpoint, and how it goes on from one."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from pellucid.errors import FileError, InputError
from pellucid.files import quoted, write_json
from pellucid.model import PreTrainedModel
from pellucid.training import checkpoints
from pellucid.training.optimizers import load_optimizer_tensors, optimizer_tensors
from pellucid.training.schedules import load_schedule_state, schedule_state
from pellucid.training.state import STATE_FILE, TrainerState

if TYPE_CHECKING:
    from pellucid.training.trainer import Trainer

logger = logging.getLogger("pellucid")

OPTIMIZER, SCHEDULE = "optimizer.safetensors", "scheduler.json"
ADAPTED = "learning.safetensors"
"""What learns in a model with adapters, by its names there; the adapters' own files stand beside."""


@dataclass
class Progress:
    """What a run remembers between steps beside its `TrainerState`.

    Attributes:
        loss_sum: of the steps since the last entry of the log.
        loss_total: of the steps before.
        logged_step: of that entry.
        epoch_is_open: an epoch has begun, and what is due at its end is not done.
        grad_norm: length of the last gradient, before it was clipped.
        learning_rate: of the last step.
    """

    loss_sum: float = 0.0
    loss_total: float = 0.0
    logged_step: int = 0
    epoch_is_open: bool = False
    grad_norm: float = 0.0
    learning_rate: float = 0.0


def fill(trainer: Trainer, folder: Path) -> None:
    """Write the files of a checkpoint."""
    trainer.save_model(folder)
    if trainer.model.peft_config:
        learning = {name: one for name, one in trainer.model.named_parameters() if one.requires_grad}
        checkpoints.write_tensors(folder / ADAPTED, learning)
    if trainer.args.save_only_model:
        return
    checkpoints.write_tensors(folder / OPTIMIZER, optimizer_tensors(trainer.optimizer, trainer.model))
    write_json(folder / SCHEDULE, {"schedule": schedule_state(trainer.lr_scheduler), **asdict(trainer.progress)})
    checkpoints.write_random_state(folder)
    trainer.state.save_to_json(folder / STATE_FILE)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Give a model the weights of a checkpoint; one with adapters, those that learn."""
    if not (folder / ADAPTED).is_file():
        model.load_state_dict(type(model).from_pretrained(folder).state_dict())
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in checkpoints.read_tensors(folder / ADAPTED).items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise FileError(f"{folder / ADAPTED}: {name}: the model has no such parameter; add the same adapters")
            parameters[name].copy_(tensor)


def resume(trainer: Trainer, folder: Path, max_steps: int, epochs: int) -> None:
    """Bring a trainer to where a checkpoint was written, but for random numbers.

    Args:
        trainer: with its optimizer and schedule.
        folder: a whole checkpoint.
        max_steps: that the run is to have.
        epochs: that it is to have.

    Raises:
        InputError, FileError: the checkpoint is of another run, or holds weights alone.
    """
    if not (folder / STATE_FILE).is_file():
        raise InputError(f"{folder}: it was written with save_only_model, so that nothing can go on from it")
    state = TrainerState.load_from_json(folder / STATE_FILE)
    if state.max_steps != max_steps:
        logger.warning("%s: the run was to have %d steps, now %d", folder, state.max_steps, max_steps)
    state.max_steps, state.num_train_epochs = max_steps, epochs
    load_weights(trainer.model, folder)
    load_optimizer_tensors(trainer.optimizer, trainer.model, checkpoints.read_tensors(folder / OPTIMIZER))
    kept = checkpoints.read_object(folder / SCHEDULE)
    try:
        load_schedule_state(trainer.lr_scheduler, kept.pop("schedule"))
        trainer.progress = Progress(**kept)
    except (KeyError, TypeError) as error:
        raise FileError(f"{folder / SCHEDULE}: got {quoted(kept)}, wanted the state of a schedule") from error
    trainer.state = state
    again = trainer.args.restore_callback_states_from_checkpoint
    trainer.callback_handler.restore(state, with_settings=again)
