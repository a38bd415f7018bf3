"""What a trainer keeps in a checkpoint, and how it goes on from one."""

from __future__ import annotations

import logging
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from pellucid.errors import FileError, InputError
from pellucid.files import quoted, write_json
from pellucid.model import PreTrainedModel
from pellucid.training import checkpoints
from pellucid.training.optimizers import load_optimizer_tensors, optimizer_tensors
from pellucid.training.schedules import load_schedule_state, schedule_state
from pellucid.training.sharing import divided, is_divided, load_whole, plain_class, read_shards, write_shards
from pellucid.training.state import STATE_FILE, TrainerState

if TYPE_CHECKING:
    from pellucid.training.trainer import Trainer

logger = logging.getLogger("pellucid")

OPTIMIZER, SHARES, SCHEDULE = "optimizer.safetensors", "optimizer", "scheduler.json"
ADAPTED = "learning.safetensors"
"""What learns in a model with adapters, by its names there; the adapters' own files stand beside."""


@dataclass
class Progress:
    """What a run remembers between steps beside its `TrainerState`.

    Attributes:
        loss_sum: of the steps since the last entry of the log.
        loss_total: of the steps before.
        logged_step: of that entry.
        epoch: number of the epoch that the run is in.
        epoch_rows: rows that this epoch has taken, in all processes.
        epoch_steps: steps that it has made.
        epoch_is_open: it has begun, and what is due at its end is not done.
        grad_norm: length of the last gradient, before it was clipped.
        learning_rate: of the last step.
    """

    loss_sum: float = 0.0
    loss_total: float = 0.0
    logged_step: int = 0
    epoch: int = 0
    epoch_rows: int = 0
    epoch_steps: int = 0
    epoch_is_open: bool = False
    grad_norm: float = 0.0
    learning_rate: float = 0.0


def fill(trainer: Trainer, folder: Path) -> None:
    """Write the files of a checkpoint; all processes do it at once, into one folder."""
    trainer.save_model(folder)
    is_first = trainer.processes.is_first
    if trainer.model.peft_config and is_first:
        learning = {name: one for name, one in trainer.model.named_parameters() if one.requires_grad}
        checkpoints.write_tensors(folder / ADAPTED, learning)
    if trainer.args.save_only_model:
        return
    checkpoints.write_random_state(folder, trainer.processes.index)
    if is_divided(trainer.model):
        write_shards(folder / SHARES, optimizer_tensors(trainer.optimizer, trainer.model))
    if not is_first:
        return
    if not is_divided(trainer.model):
        checkpoints.write_tensors(folder / OPTIMIZER, optimizer_tensors(trainer.optimizer, trainer.model))
    write_json(folder / SCHEDULE, {"schedule": schedule_state(trainer.lr_scheduler), **asdict(trainer.progress)})
    trainer.state.save_to_json(folder / STATE_FILE)


def load_weights(model: PreTrainedModel, folder: Path) -> None:
    """Give a model the weights of a checkpoint; one with adapters, those that learn."""
    if not (folder / ADAPTED).is_file():
        load_whole(model, plain_class(model).from_pretrained(folder).state_dict())
        return
    parameters = dict(model.named_parameters())
    with torch.no_grad():
        for name, tensor in checkpoints.read_tensors(folder / ADAPTED).items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise FileError(f"{folder / ADAPTED}: {name}: the model has no such parameter; add the same adapters")
            parameters[name].copy_(tensor)


def _remembered(model: PreTrainedModel, folder: Path) -> dict[str, Tensor]:
    """What an optimizer had in mind, as this model's parameters are divided; by whatever processes it was written."""
    if (folder / OPTIMIZER).is_file():
        tensors = checkpoints.read_tensors(folder / OPTIMIZER)
        return divided(tensors, dict(model.named_parameters())) if is_divided(model) else tensors
    return read_shards(folder / SHARES, dict(model.named_parameters()))


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
    state.is_world_process_zero = trainer.state.is_world_process_zero
    state.is_local_process_zero = trainer.state.is_local_process_zero
    load_weights(trainer.model, folder)
    load_optimizer_tensors(trainer.optimizer, trainer.model, _remembered(trainer.model, folder))
    kept = checkpoints.read_object(folder / SCHEDULE)
    try:
        load_schedule_state(trainer.lr_scheduler, kept.pop("schedule"))
        trainer.progress = Progress(**kept)
    except (KeyError, TypeError) as error:
        raise FileError(f"{folder / SCHEDULE}: got {quoted(kept)}, wanted the state of a schedule") from error
    trainer.state = state
    again = trainer.args.restore_callback_states_from_checkpoint
    trainer.callback_handler.restore(state, with_settings=again)
