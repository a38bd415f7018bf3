"""What happens during training beside training: callbacks, the order in which they are asked, and the default flow.

A callback is told of events and may answer with the `TrainerControl` that it changed. Those that report what happens
are in `logs`.
"""

from __future__ import annotations

import functools
import logging
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.training.argument_tables import IntervalStrategy, SaveStrategy
from pellucid.training.state import ExportableState, TrainerControl, TrainerState

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

logger = logging.getLogger("pellucid")

Answer = TrainerControl | None
"""What a callback returns: the control that it changed, or nothing."""


class TrainerCallback:
    """Base of callbacks: every event as a method that does nothing.

    All are called with the arguments, the state and the control of the run, and with keywords: `model`,
    `processing_class`, `optimizer`, `lr_scheduler`, `train_dataloader`, `eval_dataloader`, and where they exist `logs`
    (`on_log`) and `metrics` (`on_evaluate`, `on_predict`). Take those that are needed and `**kwargs`. Only the control
    may be changed.
    """

    def on_init_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """The trainer is built."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Training begins, or goes on from a checkpoint."""

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Training is over."""

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """An epoch begins."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """An epoch is over."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """A step begins; it may take several batches."""

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """A batch is done, and the step takes more."""

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Gradients are there and clipped, weights are not changed yet."""

    def on_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Weights are changed, gradients are still there."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """A step is done."""

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """An evaluation is done; `metrics` holds what came out."""

    def on_predict(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """A prediction is done; `metrics` holds what came out."""

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """A checkpoint is written."""

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> Answer:
        """An entry of the log is made; `logs` holds it."""

    def on_prediction_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """A batch of an evaluation or prediction is done."""

    def on_push_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """The model is about to be uploaded."""


EVENTS = tuple(name for name in vars(TrainerCallback) if name.startswith("on_"))
_CLEARED = {
    "on_train_begin": ("should_training_stop",),
    "on_epoch_begin": ("should_epoch_stop",),
    "on_step_begin": ("should_log", "should_evaluate", "should_save"),
    "on_evaluate": ("should_evaluate",),
    "on_save": ("should_save",),
    "on_log": ("should_log",),
}
"""Switches of the control that an event turns off before callbacks are told of it."""
_RESULTS = {"on_log": "logs", "on_evaluate": "metrics", "on_predict": "metrics"}
"""Keyword under which callbacks get what an event is about."""


class CallbackHandler:
    """The callbacks of a run, told of each event in the order in which they were added.

    Args:
        callbacks: instances, or classes that are built without arguments.
        model: handed to callbacks, as are the next three.
        processing_class: the tokenizer.
        optimizer: may be set later.
        lr_scheduler: may be set later.

    Raises:
        InputError: something is no callback, or has an event that does not exist.
    """

    @strict
    def __init__(
        self,
        callbacks: Sequence[Any],
        model: Any,
        processing_class: Any,
        optimizer: Any,
        lr_scheduler: Any,
    ) -> None:
        self.callbacks: list[TrainerCallback] = []
        self.model, self.processing_class = model, processing_class
        self.optimizer, self.lr_scheduler = optimizer, lr_scheduler
        self.train_dataloader: Any = None
        self.eval_dataloader: Any = None
        for callback in callbacks:
            self.add_callback(callback)
        if not any(isinstance(callback, DefaultFlowCallback) for callback in self.callbacks):
            logger.warning(
                "callbacks: none is a DefaultFlowCallback, so that nothing says when to log, evaluate, save and stop"
            )

    @property
    def callback_list(self) -> str:
        """Names of the callbacks, one a line."""
        return "\n".join(type(callback).__name__ for callback in self.callbacks)

    @strict
    def add_callback(self, callback: Any) -> None:
        """Add a callback, or one of a class, after the others.

        Raises:
            InputError: it is no callback, or has an event that does not exist.
        """
        made = callback() if isinstance(callback, type) else callback
        name = type(made).__name__
        if missing := [event for event in EVENTS if not callable(getattr(made, event, None))]:
            raise InputError(f"callback: got {name} without {missing[0]}, wanted a subclass of TrainerCallback")
        for event in dir(type(made)):
            if event.startswith("on_") and event not in EVENTS:
                raise InputError(f"callback: {name}.{event}: there is no such event{did_you_mean(event, EVENTS)}")
        if any(type(other) is type(made) for other in self.callbacks):
            logger.warning("callbacks: there is a %s already, and both will be called", name)
        self.callbacks.append(cast(TrainerCallback, made))

    @strict
    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        """Take away a callback, or the first of a class, and return it; `None` when there is none."""
        for other in self.callbacks:
            if isinstance(other, callback) if isinstance(callback, type) else other == callback:
                self.callbacks.remove(other)
                return other
        return None

    @strict
    def remove_callback(self, callback: Any) -> None:
        """Take away a callback, or the first of a class."""
        self.pop_callback(callback)

    def __getattr__(self, name: str) -> Any:  # only called when normal look-up fails
        """Each event is a method, too: `handler.on_log(args, state, control, logs)`."""
        if name in EVENTS:
            return functools.partial(self.call_event, name)
        raise AttributeError(f"{type(self).__name__}: there is no {name!r}{did_you_mean(name, EVENTS)}")

    def call_event(
        self,
        event: str,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        result: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> TrainerControl:
        """Tell all callbacks of an event, each with the control that the one before it returned.

        Args:
            event: one of `EVENTS`.
            args: settings of the run.
            state: where it stands.
            control: what is to happen next; switches that the event settles are turned off first.
            result: `logs` of `on_log`, `metrics` of `on_evaluate` and `on_predict`; may be given under these names.
            kwargs: what else callbacks are told.

        Returns:
            The control as the last callback left it.

        Raises:
            InputError: there is no such event.
        """
        if event not in EVENTS:
            raise InputError(f"callback: there is no event {event!r}{did_you_mean(event, EVENTS)}")
        for switch in _CLEARED.get(event, ()):
            setattr(control, switch, False)
        if result is not None and event in _RESULTS:
            kwargs[_RESULTS[event]] = result
        for callback in self.callbacks:
            answer = getattr(callback, event)(
                args,
                state,
                control,
                model=self.model,
                processing_class=self.processing_class,
                optimizer=self.optimizer,
                lr_scheduler=self.lr_scheduler,
                train_dataloader=self.train_dataloader,
                eval_dataloader=self.eval_dataloader,
                **kwargs,
            )
            if answer is not None:
                control = answer
        return control

    @strict
    def restore(self, state: TrainerState, with_settings: bool = False) -> None:
        """Let callbacks go on where a checkpoint left them; of several of a class the first gets the first state.

        Args:
            state: of the checkpoint.
            with_settings: build them anew with the settings that they had, too, not those that were handed over.

        Raises:
            InputError: a state is not one of the callback.
        """
        kept = state.stateful_callbacks
        left = {name: list(states) if isinstance(states, list) else [states] for name, states in kept.items()}
        for number, callback in enumerate(self.callbacks):
            name = type(callback).__name__
            if not left.get(name) or not isinstance(callback, ExportableState):
                continue
            own = left[name].pop(0)
            try:
                if with_settings:
                    self.callbacks[number] = cast(TrainerCallback, type(callback).from_state(own))
                else:
                    for attribute, value in own["attributes"].items():
                        setattr(callback, attribute, value)
            except (KeyError, TypeError, AttributeError) as error:
                raise InputError(f"callback: {name}: the state in the checkpoint is not one of it: {error}") from error
        if lost := [name for name, states in left.items() if states and name != "TrainerControl"]:
            logger.warning(
                "callbacks: the checkpoint holds states of %s, which this run does not have", ", ".join(lost)
            )


class DefaultFlowCallback(TrainerCallback):
    """When to log, evaluate, save and stop, as the arguments say."""

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Turn on what is due after a step; after the last one everything that goes by steps."""
        step, is_last = state.global_step, state.global_step >= state.max_steps
        if step == 1 and args.logging_first_step:
            control.should_log = True
        if args.logging_strategy == IntervalStrategy.STEPS and step % state.logging_steps == 0:
            control.should_log = True
        if args.eval_strategy == IntervalStrategy.STEPS and args.eval_delay <= step:
            due = state.eval_steps is not None and step % state.eval_steps == 0
            control.should_evaluate = control.should_evaluate or due or is_last
        if args.save_strategy == SaveStrategy.STEPS:
            due = state.save_steps > 0 and step % state.save_steps == 0
            control.should_save = control.should_save or due or is_last
        if is_last:
            control.should_training_stop = True
        return control

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Turn on what is due after an epoch."""
        if args.logging_strategy == IntervalStrategy.EPOCH:
            control.should_log = True
        if args.eval_strategy == IntervalStrategy.EPOCH and args.eval_delay <= (state.epoch or 0):
            control.should_evaluate = True
        if args.save_strategy == SaveStrategy.EPOCH:
            control.should_save = True
        return control


class EarlyStoppingCallback(TrainerCallback, ExportableState):
    """Ends training when the metric of the best model has not got better for some evaluations.

    Args:
        early_stopping_patience: evaluations in a row without a better metric after which training ends.
        early_stopping_threshold: how much better a metric must be to count.

    Raises:
        InputError: the patience is less than one, or the threshold negative.
    """

    @strict
    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float | None = 0.0) -> None:
        if early_stopping_patience < 1:
            raise InputError(f"early_stopping_patience: got {early_stopping_patience}, wanted a whole number from 1")
        if early_stopping_threshold is not None and not early_stopping_threshold >= 0:
            raise InputError(f"early_stopping_threshold: got {early_stopping_threshold}, wanted 0 or more")
        self.early_stopping_patience = early_stopping_patience
        self.early_stopping_threshold = early_stopping_threshold or 0.0
        self.early_stopping_patience_counter = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Refuse settings under which there is nothing to go by."""
        if args.metric_for_best_model is None:
            raise InputError(
                "EarlyStoppingCallback: wanted a metric to go by; set metric_for_best_model, such as 'loss'"
            )
        if args.eval_strategy == IntervalStrategy.NO:
            raise InputError("EarlyStoppingCallback: got eval_strategy='no'; set eval_strategy='epoch' or 'steps'")
        if not args.load_best_model_at_end:
            logger.warning("EarlyStoppingCallback: load_best_model_at_end is not set, so the last model is kept")
        return None

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> Answer:
        """Count evaluations that were no better."""
        metrics, name = kwargs["metrics"], args.metric_for_best_model or "loss"
        name = name if name.startswith("eval_") else f"eval_{name}"
        if name not in metrics:
            logger.warning("EarlyStoppingCallback: no metric %s among %s", name, ", ".join(sorted(metrics)))
            return None
        value, best = metrics[name], state.best_metric
        is_better = operator.gt if args.greater_is_better else operator.lt
        if best is None or (is_better(value, best) and abs(value - best) > self.early_stopping_threshold):
            self.early_stopping_patience_counter = 0
        else:
            self.early_stopping_patience_counter += 1
        if self.early_stopping_patience_counter >= self.early_stopping_patience:
            control.should_training_stop = True
        return control

    def state(self) -> dict[str, Any]:
        """Its settings, and evaluations without a better metric so far."""
        return {
            "args": {
                "early_stopping_patience": self.early_stopping_patience,
                "early_stopping_threshold": self.early_stopping_threshold,
            },
            "attributes": {"early_stopping_patience_counter": self.early_stopping_patience_counter},
        }
