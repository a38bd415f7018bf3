"""`Trainer`: a model, a data set, and the loop that brings them together.

    rows of a step → batches → loss of each, weighted by what it counts → gradients → clip → optimizer → schedule
    → callbacks say whether to log, evaluate, save, stop

`_step` is that line. Everything that a run depends on (weights, optimizer, schedule, order of rows, random numbers,
log) is in a checkpoint, so a run that goes on from one ends as if it had never stopped, to the bit.
"""

from __future__ import annotations

import inspect
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cached_property, partial
from itertools import count, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.errors import FileError, InputError, strict
from pellucid.model import PreTrainedModel
from pellucid.seed import set_seed
from pellucid.training import checkpoints
from pellucid.training.argument_checks import BY_METRIC, apply_to_torch
from pellucid.training.argument_tables import SaveStrategy
from pellucid.training.arguments import TrainingArguments
from pellucid.training.batches import is_shifted
from pellucid.training.callbacks import CallbackHandler, DefaultFlowCallback
from pellucid.training.collators import DataCollatorForSeq2Seq, DataCollatorWithPadding, DefaultDataCollator
from pellucid.training.draws import Drawing
from pellucid.training.evaluation import (
    EvalLoopOutput,
    PredictionOutput,
    answer_batches,
    check_evaluations,
    named_metrics,
    speed,
)
from pellucid.training.feed import Feed, Portion, planned_steps
from pellucid.training.hooks import HookMixin
from pellucid.training.interrupts import Interrupts
from pellucid.training.loaders import LoaderFeed, TrainBatches, with_length
from pellucid.training.logs import PrinterCallback, ProgressCallback, reporting_callbacks
from pellucid.training.losses import check_written_inputs, smoothed_loss
from pellucid.training.metrics import EvalPrediction
from pellucid.training.processes import Processes
from pellucid.training.reports import ReportMixin
from pellucid.training.resuming import Progress, fill, load_weights, resume
from pellucid.training.sharing import check_optimizer, share, syncing, whole, whole_number
from pellucid.training.state import STATE_FILE, TrainerControl, TrainerState
from pellucid.training.stream_ahead import read_ahead

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase

logger = logging.getLogger("pellucid")

Metrics = dict[str, float]
PREDICTION = "Prediction"
"""What `evaluation_loop` is told by `predict`."""


class TrainOutput(NamedTuple):
    """What `train` gives: steps done, mean loss over them, and figures of the run."""

    global_step: int
    training_loss: float
    metrics: Metrics


class Trainer(HookMixin, ReportMixin):
    """Trains, evaluates and saves a model.

    Args:
        model: a model with a head whose loss follows from its inputs; `model_init` makes one in its place.
        args: settings; default: `TrainingArguments("tmp_trainer")`.
        data_collator: rows → batch. Default: padding by the tokenizer, or stacking where there is none.
        train_dataset: rows as dictionaries: a list, a `datasets.Dataset`, or anything with a length and numbers; or
            what gives them one after another, such as `RowStream` (then `max_steps` says how long).
        eval_dataset: the same, or several by name.
        processing_class: the tokenizer, saved beside the model.
        model_init: makes the model anew at each `train`.
        compute_loss_func: `(outputs, labels, num_items_in_batch)` → loss, in place of the model's own.
        compute_metrics: `EvalPrediction` → figures by name.
        callbacks: further ones, or classes of such.
        optimizers: an optimizer and a schedule of one's own.
        preprocess_logits_for_metrics: `(logits, labels)` → what is kept of a batch's answers.
        tokenizer: older name of `processing_class`.

    Raises:
        InputError: arguments that contradict each other, or settings that need what is not there.
    """

    @strict
    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: PreTrainedTokenizerBase | None = None,
        model_init: Callable[[], PreTrainedModel] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Callable[..., Metrics] | None = None,
        callbacks: Sequence[Any] | None = None,
        optimizers: tuple[Any, Any] = (None, None),
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        *,
        tokenizer: PreTrainedTokenizerBase | None = None,
    ) -> None:
        self.args = args or TrainingArguments("tmp_trainer")
        apply_to_torch(self.args)
        self.processes = Processes.of(self.args)
        if (model is None) == (model_init is None):
            raise InputError("Trainer: wants a model, or model_init that makes one, and not both")
        if tokenizer is not None:
            logger.warning("Trainer: tokenizer is the older name of processing_class")
        set_seed(self.args.seed, deterministic=self.args.full_determinism)
        self.model_init = model_init
        self.model: PreTrainedModel = model if model_init is None else model_init()  # type: ignore[assignment]
        self.model_wrapped: nn.Module = self.model
        self.processing_class = processing_class or tokenizer
        self.data_collator = self._collator(data_collator)
        self.train_dataset, self.eval_dataset = train_dataset, eval_dataset
        self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.optimizer, self.lr_scheduler = optimizers
        self._makes_schedule = self.lr_scheduler is None
        self.state, self.control = self._fresh_state(), TrainerControl()
        usual: list[Any] = [DefaultFlowCallback, *reporting_callbacks(self.args)]
        shown = PrinterCallback if self.args.disable_tqdm else ProgressCallback
        self.callback_handler = CallbackHandler(
            [*usual, *(callbacks or ()), shown], self.model, self.processing_class, self.optimizer, self.lr_scheduler
        )
        self._interrupts, self._is_ending = Interrupts(False), False
        self._share = 1.0  # of the labels of a step that its present batch has
        self._event("on_init_end")

    def _collator(self, given: Any) -> Any:
        """The collator that was given, with what it may miss of a seed and a model; else the usual one."""
        if given is None:
            tokenizer = self.processing_class
            return DefaultDataCollator() if tokenizer is None else DataCollatorWithPadding(tokenizer)
        if isinstance(given, Drawing) and given.seed is None:
            given = replace(given, seed=self.args.seed)  # type: ignore[type-var]  # every collator is a dataclass
        if isinstance(given, DataCollatorForSeq2Seq) and given.model is None and self.model.config.is_encoder_decoder:
            given = replace(given, model=self.model)
        return given

    # ------------------------------------------------------------------ training

    @strict
    def train(
        self, resume_from_checkpoint: str | bool | None = None, ignore_keys_for_eval: list[str] | None = None
    ) -> TrainOutput:
        """Train until the steps or epochs of the settings are done.

        Args:
            resume_from_checkpoint: a checkpoint to go on from; `True`: the newest whole one in `output_dir`.
            ignore_keys_for_eval: parts of the model's answer that evaluations leave out.

        Raises:
            InputError: no data, a label that the model does not have, a loss that is no number, or a checkpoint of
                another run.
            FileError: a checkpoint cannot be read or written; earlier ones are unchanged.
        """
        if self.model_init is not None:
            set_seed(self.args.seed, deterministic=self.args.full_determinism)
            self.model = self.callback_handler.model = self.call_model_init()
            self.optimizer = None
        loader = self.callback_handler.train_dataloader = self.get_train_dataloader()
        feed = loader.feed if isinstance(loader, TrainBatches) else LoaderFeed(self, loader)
        check_evaluations(self)
        max_steps, epochs = self._length(feed)
        folder = Path(str(self.args.output_dir))
        if self.processes.is_first:
            checkpoints.remove_leftovers(folder)
        source = self._checkpoint_of(resume_from_checkpoint)
        self.model.to(self.args.device)
        if self.args.activation_checkpointing:
            self.model.gradient_checkpointing_enable()
        self.model_wrapped = share(self.model, self.args, self.processes)
        self._make_optimizer(max_steps)
        self.state = self._fresh_state(max_steps, epochs)
        self.progress = Progress()
        if source is not None:
            resume(self, source, max_steps, epochs)
        elif not self.processes.is_first:  # what is dropped differs among processes
            torch.manual_seed(self.args.seed + self.processes.index)
        self.state.compute_steps(self.args, max_steps)
        first_step, begun, self._rows_seen = self.state.global_step, perf_counter(), 0
        self.model.train()
        self._event("on_train_begin")
        if self.args.eval_on_start and source is None:
            self._evaluate(ignore_keys_for_eval)
        with Interrupts(self.args.save_on_signal) as self._interrupts:
            self._epochs(feed, ignore_keys_for_eval, source)
        if self._is_ending:
            self._event("on_train_end")
            self._interrupts.leave()
        return self._finish(begun, first_step)

    def _fresh_state(self, max_steps: int = 0, epochs: int = 0) -> TrainerState:
        return TrainerState(
            max_steps=max_steps, num_train_epochs=epochs, train_batch_size=self.args.train_batch_size,
            is_world_process_zero=self.is_world_process_zero(), is_local_process_zero=self.is_local_process_zero(),
        )  # fmt: skip

    def _length(self, feed: Feed) -> tuple[int, int]:
        """How many steps a run has, and how many epochs these are begun in."""
        steps = feed.steps_in(0)
        if steps is None:
            return self.args.max_steps, 1
        if self.args.max_steps > 0:
            return self.args.max_steps, math.ceil(self.args.max_steps / steps)
        return planned_steps(feed, self.args.num_train_epochs), math.ceil(self.args.num_train_epochs)

    def _make_optimizer(self, max_steps: int) -> None:
        if self._makes_schedule:
            self.lr_scheduler = None
        self.create_optimizer_and_scheduler(max_steps)
        check_optimizer(self.optimizer, self.args, self.processes)
        self.callback_handler.optimizer, self.callback_handler.lr_scheduler = self.optimizer, self.lr_scheduler

    def _epochs(self, feed: Feed, ignore: list[str] | None, source: Path | None) -> None:
        """All epochs that are left, from where the run stands."""
        done, left = self.progress, self.state.max_steps - self.state.global_step
        for epoch in count(done.epoch):
            if left == 0 and not done.epoch_is_open:
                return
            self._event("on_epoch_begin")
            done.epoch, done.epoch_is_open = epoch, True
            batches = feed.batches_in(epoch) or self.state.max_steps * feed.each
            if source is not None:
                checkpoints.read_random_state(source, self.processes.index)
                source = None
            steps = islice(feed.steps(epoch, done.epoch_rows, self.state.global_step), left)
            for portions, rows in read_ahead(steps, rows=1) if feed.reads_ahead else steps:
                done.epoch_rows, done.epoch_steps, left = done.epoch_rows + rows, done.epoch_steps + 1, left - 1
                self._rows_seen += rows
                self._step(portions, epoch + min(1, done.epoch_steps * feed.each / batches))
                self._log_evaluate_save(ignore)
                if self.control.should_epoch_stop or self.control.should_training_stop:
                    break
            if self._is_ending:  # all is saved, and what is due at the end of the epoch waits for it
                return
            done.epoch_is_open = False
            if not self.control.should_training_stop or done.epoch_steps == feed.steps_in(epoch):
                done.epoch, done.epoch_rows, done.epoch_steps = epoch + 1, 0, 0
            self._event("on_epoch_end")
            self._log_evaluate_save(ignore)
            if self.control.should_training_stop:
                return

    def _step(self, portions: list[Portion], epoch: float) -> None:
        """One step: the gradients of its batches, and what the optimizer makes of them."""
        self._event("on_step_begin")
        (total,) = self.processes.sum(sum(portion.items for portion in portions))
        if not total and not isinstance(self.data_collator, Drawing):
            step = self.state.global_step + 1
            raise InputError(f"loss: no label counts in step {step}; look for rows without labels")
        loss_sum = torch.zeros((), device=self.args.device)
        for number, (batch, items, _) in enumerate(portions, 1):
            self._share = items / max(total, 1)
            with syncing(self.model_wrapped, number == len(portions)):
                loss_sum += self.training_step(self.model_wrapped, batch, max(items, 1))
            if number < len(portions):
                self._event("on_substep_end")
        loss_number, tokens, ending = self.processes.sum(
            loss_sum, sum(portion.tokens for portion in portions), self._interrupts.noted is not None
        )
        if not math.isfinite(loss_number):
            self.model.zero_grad()
            raise InputError(
                f"loss: got {loss_number} at step {self.state.global_step + 1}; lower learning_rate, raise "
                "warmup_steps, or look for rows without labels; checkpoints before this step are kept"
            )
        self._is_ending = bool(ending)
        self.state.num_input_tokens_seen += int(tokens)
        self.progress.loss_sum += loss_number
        parameters = [one for one in self.model.parameters() if one.grad is not None]
        limit = self.args.max_grad_norm if self.args.max_grad_norm > 0 else math.inf
        self.progress.grad_norm = whole_number(torch.nn.utils.clip_grad_norm_(parameters, limit))
        self._event("on_pre_optimizer_step")
        self.optimizer.step()
        self._event("on_optimizer_step")
        if self.args.torch_empty_cache_steps and (self.state.global_step + 1) % self.args.torch_empty_cache_steps == 0:
            torch.accelerator.empty_cache()
        self.progress.learning_rate = self.optimizer.param_groups[0]["lr"]
        if self.args.lr_scheduler_type not in BY_METRIC:
            self.lr_scheduler.step()
        self.model.zero_grad()
        self.state.global_step += 1
        self.state.epoch = epoch
        self._event("on_step_end")

    def training_step(self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: int | None = None) -> Tensor:
        """Add the gradients of a batch to those that are there. To be overridden, for example to change the inputs.

        Args:
            model: that learns.
            inputs: the batch; packed, unless a subclass overrides this or `compute_loss`.
            num_items_in_batch: labels that count in it.

        Returns:
            What the batch adds to the loss of the step, `[]`.
        """
        inputs = self._prepare_inputs(inputs)
        with self.compute_loss_context_manager():
            told: dict[str, Any] = {"num_items_in_batch": num_items_in_batch} if self._takes_items else {}
            mean: Tensor = self.compute_loss(model, inputs, **told)
        loss = mean * self._share
        torch.autograd.backward(loss * self.processes.count)  # processes take the mean of their gradients
        return loss.detach()

    @cached_property
    def _takes_items(self) -> bool:
        """Whether `compute_loss` is told how many labels count; older scripts have one that does not take it."""
        taken = inspect.signature(self.compute_loss).parameters
        return "num_items_in_batch" in taken or any(one.kind is one.VAR_KEYWORD for one in taken.values())

    def autocast(self) -> AbstractContextManager[Any]:
        """Computing in bfloat16, where the settings say so."""
        if not self.args.bf16:
            return nullcontext()
        return torch.autocast(self.args.device.type, torch.bfloat16)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: int | None = None,
    ) -> Any:
        """The loss of a batch, the mean over its labels that count; with `return_outputs` the model's answer too.

        To be overridden by trainers with a loss of their own, which is to be the mean over the batch; a step weights
        its batches by what counts in them.

        Args:
            model: that answers.
            inputs: the batch.
            return_outputs: whether the answer is wanted too.
            num_items_in_batch: labels that count in it.

        Raises:
            InputError: the model gives no loss, because the batch holds no labels; or its decoder, which does not see
                labels whose loss is not the model's, has nothing to read.
        """
        labels = inputs.get("labels")
        outside = self.compute_loss_func is not None or self.args.label_smoothing_factor
        given = {name: value for name, value in inputs.items() if not (outside and name == "labels")}
        if outside and self.model.config.is_encoder_decoder and self.model.can_generate():
            check_written_inputs(given)
        outputs = model(**given, return_dict=True)
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, labels, num_items_in_batch=num_items_in_batch)
        elif self.args.label_smoothing_factor and labels is not None:
            loss = smoothed_loss(outputs.logits, labels, self.args.label_smoothing_factor, is_shifted(self.model))
        else:
            loss = outputs.get("loss")
        if loss is None:
            raise InputError(
                f"loss: {type(self.model).__name__} gave none for a batch of {sorted(inputs)}; give rows a column "
                "'label' or 'labels', or use a collator that makes labels"
            )
        return (loss, outputs) if return_outputs else loss

    # ------------------------------------------------------------------ what happens between steps

    def _log_evaluate_save(self, ignore: list[str] | None) -> None:
        """What callbacks have turned on."""
        if self.processes.count == 1:  # several have agreed on it in the step
            self._is_ending = self._interrupts.noted is not None
        if self._is_ending:
            self.control.should_save = self.control.should_training_stop = True
        if self.control.should_log and self.state.global_step > self.progress.logged_step:
            done = self.progress
            steps = self.state.global_step - done.logged_step
            logs = {"loss": done.loss_sum / steps, "grad_norm": done.grad_norm, "learning_rate": done.learning_rate}
            done.loss_total, done.loss_sum = done.loss_total + done.loss_sum, 0.0
            done.logged_step = self.state.global_step
            self.log(logs)
        if self.control.should_evaluate:
            metrics = self._evaluate(ignore)
            better = self._note_best(metrics)
            if self.args.save_strategy == SaveStrategy.BEST:
                self.control.should_save = better
        if self.control.should_save:
            self._save_checkpoint()
            self._event("on_save")

    @strict
    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Make an entry in the log: `logs`, the epoch and the step. `start_time` is accepted for compatibility."""
        entry = {**logs, "epoch": self.state.epoch, "step": self.state.global_step}
        self.state.log_history.append(entry)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, dict(entry))

    def _evaluate(self, ignore: list[str] | None) -> Metrics:
        metrics = self.evaluate(ignore_keys=ignore)
        if self.args.lr_scheduler_type in BY_METRIC:
            self.lr_scheduler.step(metrics[self._metric_name()])
        return metrics

    def _metric_name(self) -> str:
        name = str(self.args.metric_for_best_model)
        return name if name.startswith("eval_") else f"eval_{name}"

    def _note_best(self, metrics: Metrics) -> bool:
        """Whether these are the best figures so far, by the metric of the settings."""
        if self.args.metric_for_best_model is None:
            return False
        name = self._metric_name()
        if name not in metrics:
            raise InputError(f"metric_for_best_model: got {name!r}, evaluations give {', '.join(sorted(metrics))}")
        best, value = self.state.best_metric, metrics[name]
        if best is not None and not (value > best if self.args.greater_is_better else value < best):
            return False
        self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        return True

    # ------------------------------------------------------------------ checkpoints

    def _save_checkpoint(self) -> None:
        folder = Path(str(self.args.output_dir))
        target = folder / f"{checkpoints.PREFIX}-{self.state.global_step}"
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = str(target)
        self.state.keep_callbacks([*self.callback_handler.callbacks, self.control])
        checkpoints.write_checkpoint(target, partial(fill, self), self.processes)
        if self.processes.is_first:
            self._push_checkpoint(target)
            checkpoints.remove_old(folder, self.args.save_total_limit, self.state.best_model_checkpoint)

    @strict
    def save_model(self, output_dir: str | Path | None = None, _internal_call: bool = False) -> None:
        """Write the model, its tokenizer and the settings into a folder that `from_pretrained` and `pipeline` load.

        Args:
            output_dir: the folder; default: that of the settings.
            _internal_call: accepted for compatibility, since subclasses hand it on.
        """
        folder = Path(str(self.args.output_dir)) if output_dir is None else Path(output_dir)
        with self.processes.in_agreement(), whole(self.model, self.processes) as plain:
            if plain is not None:
                plain.save_pretrained(folder)
                if self.processing_class is not None:
                    self.processing_class.save_pretrained(folder)
                self.args.to_json_file(folder)

    @strict
    def save_state(self) -> None:
        """Write where the run stands into `output_dir`."""
        if self.processes.is_first:
            self.state.save_to_json(Path(str(self.args.output_dir)) / STATE_FILE)

    def _checkpoint_of(self, asked: str | bool | None) -> Path | None:
        """The checkpoint that a run goes on from."""
        if asked is None or asked is False:
            return None
        if asked is True:
            return checkpoints.newest_checkpoint(Path(str(self.args.output_dir)))
        folder = Path(asked)
        if problem := checkpoints.problem_of(folder):
            raise FileError(f"{folder}: it is no whole checkpoint: {problem}")
        return folder

    def _finish(self, begun: float, first_step: int) -> TrainOutput:
        """Figures of the run, and the best model if that is wanted."""
        steps = self.state.global_step
        loss = (self.progress.loss_total + self.progress.loss_sum) / max(steps, 1)
        figures = speed("train", perf_counter() - begun, self._rows_seen, steps - first_step)
        metrics = {**figures, "train_loss": loss}
        self.log(metrics)
        if self.args.load_best_model_at_end and self.state.best_model_checkpoint is not None:
            load_weights(self.model, Path(self.state.best_model_checkpoint))
        self._event("on_train_end")
        if self.args.push_to_hub:
            self.push_to_hub()
        return TrainOutput(steps, loss, metrics)

    # ------------------------------------------------------------------ evaluation

    @strict
    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> Metrics:
        """Loss and figures on a data set.

        Args:
            eval_dataset: rows, or several data sets by name; default: the one that the trainer was given.
            ignore_keys: parts of the model's answer that are left out.
            metric_key_prefix: what names of figures begin with.

        Returns:
            Figures by name, such as `eval_loss`; those of several data sets behind `eval_` and their names.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if isinstance(dataset, Mapping):
            found: Metrics = {}
            for name, rows in dataset.items():
                found |= self.evaluate(rows, ignore_keys, f"{metric_key_prefix}_{name}")
            return found
        _, metrics = self._answer(dataset, ignore_keys, metric_key_prefix, "eval_dataset")
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    @strict
    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Answers, labels and figures for a data set; arguments as in `evaluate`."""
        answers, metrics = self._answer(test_dataset, ignore_keys, metric_key_prefix, "test_dataset")
        self.control = self.callback_handler.on_predict(self.args, self.state, self.control, metrics)
        return PredictionOutput(answers.predictions, answers.label_ids, metrics)

    def _answer(self, dataset: Any, ignore: list[str] | None, prefix: str, name: str) -> tuple[EvalLoopOutput, Metrics]:
        begun, tested = perf_counter(), name == "test_dataset"
        loader = with_length(self.get_test_dataloader(dataset) if tested else self.get_eval_dataloader(dataset))
        loss_only = True if self.compute_metrics is None and not tested else None
        done = self.evaluation_loop(loader, PREDICTION if tested else "Evaluation", loss_only, ignore, prefix)
        return done, done.metrics | speed(prefix, perf_counter() - begun, done.num_samples, len(loader))

    def evaluation_loop(
        self,
        dataloader: Any,
        description: str,
        prediction_loss_only: bool | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> EvalLoopOutput:
        """Answers to batches, and figures of them; `evaluate` and `predict` are this with what is around.

        Args:
            dataloader: batches, as from `get_eval_dataloader`.
            description: what for; answers that metrics were fed with batch by batch are kept for `"Prediction"` alone.
            prediction_loss_only: whether nothing but the loss is wanted; default as in the settings.
            ignore_keys: parts of the model's answer that are left out.
            metric_key_prefix: what names of figures begin with.
        """
        loss_only = self.args.prediction_loss_only if prediction_loss_only is None else prediction_loss_only
        loader, training = with_length(dataloader), self.model.training
        self.model.to(self.args.device).eval()
        try:
            answers = answer_batches(self, loader, ignore_keys, loss_only, returned=description == PREDICTION)
        finally:
            self.model.train(training)
        figures: Metrics = {} if answers.loss is None else {"loss": answers.loss}
        if answers.figures is not None:
            figures |= answers.figures
        elif self.compute_metrics is not None and answers.labels is not None and answers.predictions is not None:
            figures |= self.compute_metrics(EvalPrediction(answers.predictions, answers.labels, **answers.extras))
        metrics = named_metrics(figures, metric_key_prefix)
        return EvalLoopOutput(answers.predictions, answers.labels, metrics, answers.rows)

    def prediction_step(
        self,
        model: PreTrainedModel,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Tensor | None, Any, Any]:
        """Loss, logits and labels of a batch, without gradients; to be overridden by trainers of other kinds."""
        has_labels = any(name in inputs for name in ("labels", "start_positions", "next_sentence_label"))
        # A loss of a user's own may take the labels out of the batch.
        labels = tuple(inputs[name] for name in ("labels", "start_positions", "end_positions") if name in inputs)
        with torch.no_grad(), self.autocast():
            if has_labels:
                loss, outputs = self.compute_loss(model, inputs, return_outputs=True)
            else:
                loss, outputs = None, model(**inputs, return_dict=True)
        left_out = {"loss", "hidden_states", "attentions", "past_key_values", *(ignore_keys or ())}
        logits = tuple(value for name, value in outputs.items() if name not in left_out and isinstance(value, Tensor))
        if prediction_loss_only:
            return loss, None, None
        return loss, _alone(logits), _alone(labels)

    # ------------------------------------------------------------------ callbacks

    def _event(self, name: str) -> None:
        self.control = self.callback_handler.call_event(name, self.args, self.state, self.control)


def _alone(values: tuple[Any, ...]) -> Any:
    """The only one of some values, all of several, `None` for none."""
    return values[0] if len(values) == 1 else values or None
