"""What a model answers to the rows of a data set, batch by batch, and the figures of it.

Answers of batches of different width are put together as the reference does: `[rows, widest, …]`, -100 behind shorter
ones.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from pellucid.training.batches import collate, kept_columns, on_device, read_row, rows_in
from pellucid.training.metrics import EvalPrediction

if TYPE_CHECKING:
    from pellucid.training.trainer import Trainer

FILL = -100


@dataclass
class Answers:
    """What came out.

    Attributes:
        loss: mean over rows, where there are labels.
        predictions: arrays `[rows, …]`, one or several in a tuple.
        labels: the same for what is right.
        figures: of metrics that were fed batch by batch.
        extras: `inputs` and `losses` of each batch, where they were asked for.
    """

    loss: float | None = None
    predictions: Any = None
    labels: Any = None
    figures: dict[str, float] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


def answer_rows(trainer: Trainer, dataset: Any, ignore_keys: list[str] | None) -> Answers:
    """Run a trainer's model over a data set, in the order of its rows.

    Args:
        trainer: says how a batch is made and answered.
        dataset: the rows.
        ignore_keys: parts of the model's answer that are left out.
    """
    args, model = trainer.args, trainer.model
    kept = kept_columns(model, args.label_names) if args.remove_unused_columns else None
    losses, weights, found, right, inputs = [], [], [], [], []
    made, size, count = Answers(), args.eval_batch_size, len(dataset)
    trainer.callback_handler.eval_dataloader = range(0, count, size)  # how many batches there are
    with _in_sixteen_bits(trainer):
        for start in range(0, count, size):
            numbers = range(start, min(start + size, count))
            rows = [read_row(dataset, number, kept) for number in numbers]
            batch = on_device(collate(trainer.data_collator, rows, 0, numbers, packed=False), args.device)
            loss, logits, labels = trainer.prediction_step(model, batch, args.prediction_loss_only, ignore_keys)
            if loss is not None:
                losses.append(float(loss))
                weights.append(rows_in(batch))
            if logits is not None and trainer.preprocess_logits_for_metrics is not None:
                logits = trainer.preprocess_logits_for_metrics(logits, labels)
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
            if args.batch_eval_metrics and trainer.compute_metrics is not None:
                if logits is not None and labels is not None:
                    pair = EvalPrediction(_arrays(logits), _arrays(labels))
                    made.figures = trainer.compute_metrics(pair, compute_result=numbers[-1] == count - 1)
                continue
            if logits is not None:
                found.append(_arrays(logits))
            if labels is not None:
                right.append(_arrays(labels))
            if "inputs" in args.include_for_metrics:
                inputs.append(_arrays(batch["input_ids"]))
    if losses:
        made.loss = float(np.average(losses, weights=weights))
    made.predictions, made.labels = _joined(found), _joined(right)
    if "inputs" in args.include_for_metrics:
        made.extras["inputs"] = _joined(inputs)
    if "loss" in args.include_for_metrics:
        made.extras["losses"] = np.array(losses)
    return made


class _in_sixteen_bits:  # noqa: N801  (read as a word)
    """The model's weights in bfloat16 while an evaluation runs, and what they were after it."""

    def __init__(self, trainer: Trainer) -> None:
        self.model, self.wanted = trainer.model, trainer.args.bf16_full_eval
        self.before: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.wanted:
            self.before = {name: one.data for name, one in self.model.named_parameters()}
            for one in self.model.parameters():
                one.data = one.data.to(torch.bfloat16)

    def __exit__(self, *error: object) -> None:
        for name, one in self.model.named_parameters() if self.before else ():
            one.data = self.before[name]


def _arrays(values: Any) -> Any:
    """Tensors as arrays of the CPU."""
    if isinstance(values, tuple):
        return tuple(_arrays(value) for value in values)
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return (values.float() if values.dtype == torch.bfloat16 else values).numpy()


def _joined(batches: list[Any]) -> Any:
    """Arrays of batches as one, those that are narrower filled up with -100."""
    if not batches:
        return None
    if isinstance(batches[0], tuple):
        return tuple(_joined([batch[place] for batch in batches]) for place in range(len(batches[0])))
    if batches[0].ndim < 2:
        return np.concatenate(batches)
    width = max(batch.shape[1] for batch in batches)
    wide = [((0, 0), (0, width - batch.shape[1]), *((0, 0) for _ in batch.shape[2:])) for batch in batches]
    return np.concatenate(
        [np.pad(batch, pads, constant_values=FILL) for batch, pads in zip(batches, wide, strict=True)]
    )


def named_metrics(figures: dict[str, Any], prefix: str) -> dict[str, float]:
    """Figures whose names begin with a prefix, as plain numbers."""
    return {
        name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": value.item() if hasattr(value, "item") else value
        for name, value in figures.items()
    }


def speed(prefix: str, seconds: float, rows: int, steps: int) -> dict[str, float]:
    """How fast a run was."""
    return {
        f"{prefix}_runtime": seconds,
        f"{prefix}_samples_per_second": rows / seconds,
        f"{prefix}_steps_per_second": steps / seconds,
    }
