"""What a model answers to the rows of a data set, batch by batch, and the figures of it.

Answers of batches of different width are put together as the reference does: `[rows, widest, …]`, -100 behind shorter
ones. Nothing is computed for padding. Where only the loss is wanted, rows are packed and no logits are padded or kept;
else they are padded, because answers are, and the model packs what it is given by its masks.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.training.argument_tables import IntervalStrategy
from pellucid.training.batches import check_labels, in_memory, kept_columns, on_device
from pellucid.training.collators import Collator
from pellucid.training.loaders import EvalBatches, own_batches
from pellucid.training.metrics import EvalPrediction

if TYPE_CHECKING:
    from pellucid.training.trainer import Trainer

FILL = -100


class PredictionOutput(NamedTuple):
    """What `predict` gives: arrays of answers and of labels `[rows, …]`, and figures."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


class EvalLoopOutput(NamedTuple):
    """What `evaluation_loop` gives: arrays of answers and of labels `[rows, …]`, figures, and how many rows."""

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]
    num_samples: int


@dataclass
class Answers:
    """What came out.

    Attributes:
        rows: that were answered.
        loss: mean over rows, where there are labels.
        predictions: arrays `[rows, …]`, one or several in a tuple.
        labels: the same for what is right.
        figures: of metrics that were fed batch by batch.
        extras: `inputs` and `losses` of each batch, where they were asked for.
    """

    rows: int = 0
    loss: float | None = None
    predictions: Any = None
    labels: Any = None
    figures: dict[str, float] | None = None
    extras: dict[str, Any] = field(default_factory=dict)


@dataclass
class _Kept:
    """Arrays of each batch, until they are put together."""

    predictions: list[Any] = field(default_factory=list)
    labels: list[Any] = field(default_factory=list)
    inputs: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)


def answer_batches(
    trainer: Trainer, loader: Any, ignore_keys: list[str] | None, loss_only: bool, returned: bool = True
) -> Answers:
    """Run a trainer's model over batches, in their order; each process answers every so many.

    Args:
        trainer: says how a batch is answered.
        loader: the batches, `EvalBatches` or a loader of the user's own that says how many they are.
        ignore_keys: parts of the model's answer that are left out.
        loss_only: nothing else is wanted.
        returned: whether answers are kept that metrics, which are fed batch by batch, have seen already.
    """
    args, model, together = trainer.args, trainer.model, trainer.processes
    by_batch = args.batch_eval_metrics and trainer.compute_metrics is not None
    made, found, count = Answers(), _Kept(), len(loader)
    turns = range(0, count, together.count)  # so many batches in this process
    trainer.callback_handler.eval_dataloader = turns
    with _in_sixteen_bits(trainer):
        packed = args.packed and loss_only and _takes_packed(trainer)
        for turn, (given, size) in zip(turns, own_batches(loader, together, packed), strict=True):
            batch = on_device(given, args.device)
            loss, logits, labels = trainer.prediction_step(model, dict(batch), loss_only, ignore_keys)
            if logits is not None and trainer.preprocess_logits_for_metrics is not None:
                logits = trainer.preprocess_logits_for_metrics(logits, labels)
            trainer.control = trainer.callback_handler.on_prediction_step(args, trainer.state, trainer.control)
            read = batch["input_ids"] if "inputs" in args.include_for_metrics and not loss_only else None
            mine = (_arrays(logits), _arrays(labels), _arrays(read), _arrays(loss), np.array([size]))
            for number, one in enumerate(together.gather_all(mine)[: count - turn], turn):
                answers, right, inputs, mean, (rows,) = one
                made.rows += int(rows)
                if mean is not None:
                    found.losses.append(float(mean[0]))
                    found.rows.append(int(rows))
                if by_batch and answers is not None and right is not None:
                    assert trainer.compute_metrics is not None
                    losses = np.array(found.losses[-1:]) if "loss" in args.include_for_metrics else None
                    pair = EvalPrediction(answers, right, inputs, losses)
                    made.figures = trainer.compute_metrics(pair, compute_result=number == count - 1)
                if by_batch and not returned:
                    continue
                for kept_ones, part in zip((found.predictions, found.labels, found.inputs), one[:3], strict=True):
                    if part is not None:
                        kept_ones.append(part)
    _put_together(trainer, made, found)
    return made


def _put_together(trainer: Trainer, made: Answers, found: _Kept) -> None:
    """Fill answers from what was kept of the batches, whose arrays are gone afterwards."""
    if found.losses:
        losses, weights = np.array(found.losses), np.array(found.rows)
        real = np.isfinite(losses)
        if trainer.args.logging_nan_inf_filter and real.any():
            losses, weights = losses[real], weights[real]
        made.loss = float(np.average(losses, weights=weights))
    made.predictions = _joined(found.predictions, getattr(trainer, "fill", FILL))
    made.labels = _joined(found.labels, FILL)
    if "inputs" in trainer.args.include_for_metrics:
        made.extras["inputs"] = _joined(found.inputs, FILL)
    if "loss" in trainer.args.include_for_metrics:
        made.extras["losses"] = np.array(found.losses)


def check_evaluations(trainer: Trainer) -> None:
    """Refuse, before anything is trained, evaluations during the run that could not end.

    Args:
        trainer: one that evaluates in a way of its own is not looked at.

    Raises:
        InputError: there are no rows, a label that the model does not have, rows that make no batch, or settings of
            metrics that cannot be met.
    """
    from pellucid.training.seq2seq_trainer import Seq2SeqTrainer
    from pellucid.training.trainer import Trainer

    args, given, kind = trainer.args, trainer.eval_dataset, type(trainer)
    usual = kind.evaluate in (Trainer.evaluate, Seq2SeqTrainer.evaluate) and all(
        getattr(kind, name) is getattr(Trainer, name) for name in ("_answer", "evaluation_loop", "get_eval_dataloader")
    )
    if args.eval_strategy == IntervalStrategy.NO or not usual:
        return
    kept = kept_columns(trainer.model, args.label_names) if args.remove_unused_columns else None
    for name, rows in (given if isinstance(given, Mapping) else {None: given}).items():
        what = "eval_dataset" if name is None else f"eval_dataset: {name}"
        if isinstance(rows, Iterable) and not hasattr(rows, "__len__"):
            continue  # they are read when they are wanted
        if rows is None or not hasattr(rows, "__len__") or len(rows) == 0:
            came = "none" if rows is None else "no rows"
            raise InputError(
                f"{what}: got {came}, wanted rows, as eval_strategy={str(args.eval_strategy)!r}; give some, or set it "
                "to 'no'"
            )
        check_labels(rows, trainer.model, kept, what)
        if isinstance(trainer.data_collator, Collator) and in_memory(rows):
            EvalBatches(trainer, rows, what).batch(0)
    _check_metrics(trainer)


def _check_metrics(trainer: Trainer) -> None:
    args, metrics, name = trainer.args, trainer.compute_metrics, trainer.args.metric_for_best_model
    if args.batch_eval_metrics:
        if metrics is None:
            raise InputError("batch_eval_metrics: got True and no compute_metrics; pass one, or leave it out")
        taken = inspect.signature(metrics).parameters
        if "compute_result" not in taken and all(one.kind is not one.VAR_KEYWORD for one in taken.values()):
            raise InputError(
                "compute_metrics: takes no compute_result, by which batch_eval_metrics=True says that a batch is the "
                "last; take one, or use as_compute_metrics"
            )
    if name is None or (metrics is not None and not args.prediction_loss_only):
        return
    given = trainer.eval_dataset
    prefixes = [f"eval_{part}" for part in given] if isinstance(given, Mapping) else ["eval"]
    known = [
        f"{prefix}_{figure}"
        for prefix in prefixes
        for figure in ("loss", "runtime", "samples_per_second", "steps_per_second")
    ]
    if f"eval_{name.removeprefix('eval_')}" not in known:
        raise InputError(
            f"metric_for_best_model: got {name!r}, and evaluations without compute_metrics give {', '.join(known)}; "
            "pass compute_metrics, without prediction_loss_only"
        )


def _takes_packed(trainer: Trainer) -> bool:
    """Whether a packed batch can be answered: no code of a user reads it, nor a loss that wants padding."""
    from pellucid.training.seq2seq_trainer import Seq2SeqTrainer
    from pellucid.training.trainer import Trainer

    kind = type(trainer)
    own = kind.compute_loss is Trainer.compute_loss and kind.prediction_step in (
        Trainer.prediction_step,
        Seq2SeqTrainer.prediction_step,
    )
    return own and trainer.compute_loss_func is None and not trainer.args.label_smoothing_factor


class _in_sixteen_bits:  # noqa: N801  (read as a word)
    """The model's weights in 16 bits while an evaluation runs, and what they were after it."""

    def __init__(self, trainer: Trainer) -> None:
        self.model, args = trainer.model, trainer.args
        self.wanted = torch.bfloat16 if args.bf16_full_eval else torch.float16 if args.fp16_full_eval else None
        self.before: dict[str, Tensor] = {}

    def __enter__(self) -> None:
        if self.wanted is not None:
            self.before = {name: one.data for name, one in self.model.named_parameters()}
            for one in self.model.parameters():
                one.data = one.data.to(self.wanted)

    def __exit__(self, *error: object) -> None:
        for name, one in self.model.named_parameters() if self.before else ():
            one.data = self.before[name]


def _arrays(values: Any) -> Any:
    """Tensors as arrays of the CPU."""
    if isinstance(values, tuple | list):
        return tuple(_arrays(value) for value in values)
    if not isinstance(values, Tensor):
        return values
    values = values.detach().cpu()
    return np.atleast_1d((values.float() if values.dtype == torch.bfloat16 else values).numpy())


def _joined(batches: list[Any], fill: int) -> Any:
    """Arrays of batches as one, `fill` behind those that are narrower; the list is emptied, so that nothing is twice.

    Args:
        batches: arrays `[rows, …]` of each batch, or tuples of such.
        fill: stands where a narrower batch has nothing.
    """
    if not batches:
        return None
    if isinstance(batches[0], tuple):
        parts = [list(part) for part in zip(*batches, strict=True)]
        batches.clear()
        return tuple(_joined(part, fill) for part in parts)
    end = sum(len(batch) for batch in batches)
    width = max((batch.shape[1] for batch in batches if batch.ndim > 1), default=0)
    shape = (end, width, *batches[0].shape[2:]) if batches[0].ndim > 1 else (end,)
    made = np.empty(shape, np.result_type(*{batch.dtype for batch in batches}))
    while batches:
        batch = batches.pop()
        place = made[end - len(batch) : end]
        if batch.ndim > 1:
            place[:, batch.shape[1] :] = fill
            place = place[:, : batch.shape[1]]
        place[:] = batch
        end -= len(batch)
    return made


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
