"""What scripts override in a trainer, or ask it for, beside the loop itself: loaders, optimizer, schedule.

Each method is called by the trainer wherever the reference calls it, so that a subclass has its way. What a subclass
overrides and nobody would call is refused when the class is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from torch.optim import Optimizer

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.training.batches import on_device
from pellucid.training.feed import feed_of
from pellucid.training.loaders import EvalBatches, TrainBatches
from pellucid.training.optimizers import create_optimizer, decay_parameter_names, optimizer_class
from pellucid.training.schedules import get_scheduler

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.training.arguments import TrainingArguments
    from pellucid.training.callbacks import CallbackHandler, TrainerCallback
    from pellucid.training.processes import Processes

NEVER_CALLED = {
    "_get_train_sampler": "override get_train_dataloader",
    "_get_eval_sampler": "override get_eval_dataloader",
    "get_batch_samples": "override get_train_dataloader",
    "prediction_loop": "override evaluation_loop",
    "_inner_training_loop": "override training_step, or use callbacks",
    "_maybe_log_save_evaluate": "use callbacks",
    "_save_checkpoint": "use the event on_save of a callback, or override save_model",
    "_save": "override save_model",
    "_load_best_model": "use the event on_train_end of a callback",
    "_determine_best_metric": "give compute_metrics, and set metric_for_best_model",
    "_wrap_model": "wrap the model before the trainer gets it",
    "_remove_unused_columns": "set remove_unused_columns=False",
    "_set_signature_columns_if_needed": "set remove_unused_columns=False",
    "autocast_smart_context_manager": "override autocast",
    "create_accelerator_and_postprocess": "there is no accelerator; settings are those of TrainingArguments",
    "floating_point_ops": "operations are not counted",
}
"""Methods of the reference that are not called here, and what to do in their place."""


class HookMixin:
    """Methods of `Trainer` that subclasses override."""

    args: TrainingArguments
    model: PreTrainedModel
    processes: Processes
    model_init: Callable[..., PreTrainedModel] | None
    train_dataset: Any
    eval_dataset: Any
    optimizer: Any
    lr_scheduler: Any
    callback_handler: CallbackHandler
    autocast: Callable[[], AbstractContextManager[Any]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Refuse to override what would have no effect.

        Raises:
            InputError: naming the method, and what to do.
        """
        super().__init_subclass__(**kwargs)
        if not cls.__module__.startswith("pellucid."):
            for name in NEVER_CALLED.keys() & vars(cls).keys():
                raise InputError(f"{cls.__name__}.{name}: nothing calls it here; {NEVER_CALLED[name]}")

    # ------------------------------------------------------------------ batches

    def get_train_dataloader(self) -> Any:
        """The batches to train on: dictionaries, padded, of this process.

        Override it to train on batches of your own, such as those of a `DataLoader` with another sampler; every
        process gets the same ones, and computes its share of them.
        """
        return TrainBatches(feed_of(self, self.train_dataset), self.args.per_device_train_batch_size)  # type: ignore[arg-type]

    def get_eval_dataloader(self, eval_dataset: Any = None) -> Any:
        """The batches of an evaluation: dictionaries, padded, of all processes.

        Args:
            eval_dataset: rows, or the name of one of several data sets; default: the one that the trainer was given.
        """
        if isinstance(eval_dataset, str):
            known = self.eval_dataset if isinstance(self.eval_dataset, Mapping) else {}
            if eval_dataset not in known:
                raise InputError(
                    f"eval_dataset: got {eval_dataset!r}, wanted rows, or one of {sorted(known)}"
                    f"{did_you_mean(eval_dataset, known)}"
                )
            eval_dataset = known[eval_dataset]
        rows = self.eval_dataset if eval_dataset is None else eval_dataset
        return EvalBatches(self, rows, "eval_dataset")  # type: ignore[arg-type]  # a mixin of the trainer

    def get_test_dataloader(self, test_dataset: Any) -> Any:
        """The batches of a prediction: dictionaries, padded, of all processes."""
        return EvalBatches(self, test_dataset, "test_dataset")  # type: ignore[arg-type]

    @staticmethod
    def num_examples(dataloader: Any) -> int:
        """How many rows there are behind batches."""
        return len(dataloader.dataset)

    def get_total_train_batch_size(self, args: TrainingArguments | None = None) -> int:
        """Rows of a step, in all processes."""
        args = args or self.args
        return args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """A batch where the model is."""
        return on_device(inputs, self.args.device)  # type: ignore[no-any-return]

    def compute_loss_context_manager(self) -> AbstractContextManager[Any]:
        """What a loss is computed in: `autocast`."""
        return self.autocast()

    # ------------------------------------------------------------------ optimizer and schedule

    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        """Set `optimizer` and `lr_scheduler` for a run of so many steps."""
        self.create_optimizer()
        self.create_scheduler(num_training_steps)

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Set `optimizer`, unless it is there, to what the settings ask for, and return it.

        Raises:
            InputError: no parameter learns.
        """
        if self.optimizer is None:
            self.optimizer = create_optimizer(self.model if model is None else model, self.args)
        return self.optimizer  # type: ignore[no-any-return]

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        """Set `lr_scheduler`, unless it is there, for a run of so many steps, and return it."""
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                self.optimizer if optimizer is None else optimizer,
                self.args.get_warmup_steps(num_training_steps),
                num_training_steps,
                self.args.lr_scheduler_kwargs,  # type: ignore[arg-type]  # a text was read when it was given
            )
        return self.lr_scheduler

    @staticmethod
    def get_optimizer_cls_and_kwargs(
        args: TrainingArguments, model: nn.Module | None = None
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """The class of the optimizer that settings ask for, and what it is built with beside the parameters."""
        return optimizer_class(args)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Parameters that weight decay is for: all but biases and those of norms."""
        return decay_parameter_names(model)

    def get_learning_rates(self) -> list[float]:
        """The present rate of each group of the optimizer."""
        return [group["lr"] for group in self._groups()]

    def get_optimizer_group(self, param: Tensor | None = None) -> Any:
        """The group of the optimizer that a parameter is in; without one, the parameters of each group."""
        if param is None:
            return [group["params"] for group in self._groups()]
        return next((group for group in self._groups() if any(param is one for one in group["params"])), None)

    def get_num_trainable_parameters(self) -> int:
        """How many numbers of the model learn."""
        return sum(one.numel() for one in self.model.parameters() if one.requires_grad)

    def _groups(self) -> list[dict[str, Any]]:
        if self.optimizer is None:
            raise InputError("optimizer: there is none yet; call create_optimizer() or train()")
        return self.optimizer.param_groups  # type: ignore[no-any-return]

    @strict
    def call_model_init(self) -> PreTrainedModel:
        """The model that `model_init` makes."""
        if self.model_init is None:
            raise InputError("model_init: got none, wanted a function that makes a model")
        return self.model_init()

    # ------------------------------------------------------------------ callbacks

    @strict
    def add_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Add a callback, or one of a class."""
        self.callback_handler.add_callback(callback)

    @strict
    def pop_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> TrainerCallback | None:
        """Take away a callback, or the first of a class, and return it."""
        return self.callback_handler.pop_callback(callback)

    @strict
    def remove_callback(self, callback: TrainerCallback | type[TrainerCallback]) -> None:
        """Take away a callback, or the first of a class."""
        self.callback_handler.remove_callback(callback)
