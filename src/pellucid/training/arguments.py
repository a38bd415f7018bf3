"""How a model is trained: `TrainingArguments`, typed and checked, in the names of the field.

What one setting may be stands beside its name; what settings may be together is in `argument_checks`; what became of
older names, and which settings of others have no meaning here, is in `argument_tables`. Nothing here needs torch until
a device is asked for.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_type_hints

from pellucid.config_values import Count, Positive, Rate, Size, mismatch
from pellucid.errors import FileError, InputError, did_you_mean, reject_unknown, strict
from pellucid.files import StrPath, quoted, read_json, write_json
from pellucid.generation.config import GenerationConfig
from pellucid.training.argument_checks import check, complete
from pellucid.training.argument_tables import (
    FIXED,
    REFUSED_OPTIMIZERS,
    HubStrategy,
    IntervalStrategy,
    OptimizerNames,
    ParallelMode,
    SaveStrategy,
    fixed_problem,
    modern,
)
from pellucid.training.schedules import SchedulerType

if TYPE_CHECKING:
    import torch

FILE_NAME = "training_args.json"
LogLevel = Literal["debug", "info", "warning", "error", "critical", "passive"]
Seed = Count
Options = dict[str, Any] | str | None
"""Named settings; a text that begins with `{` is read as JSON."""


class _Tolerant(type):
    """Translates older names before an instance is built, for every subclass with fields of its own, too."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        defaults = {part.name: _default(part) for part in dataclasses.fields(cls)}  # type: ignore[arg-type]
        return super().__call__(*args, **modern(cls.__name__, kwargs, defaults))


@dataclass(kw_only=True, repr=False)
class TrainingArguments(metaclass=_Tolerant):
    """Settings of a training run. Args are the fields below; all but `output_dir` are keywords.

    Older names are accepted and logged with the present one. A setting of others that means nothing here is accepted
    with the only value that does no harm.

    Raises:
        UnknownArgumentError: for a name that is no field, naming the nearest one.
        InputError: for a value of the wrong type or outside its range, or settings that contradict each other.
    """

    output_dir: str | None = field(default=None, kw_only=False)
    """Folder of checkpoints and of the finished model; `trainer_output` when left out."""

    # How long, and how much at a time
    num_train_epochs: Positive = 3.0
    """Times that all examples are seen; a part of one is possible."""
    max_steps: int = -1
    """Steps in place of epochs; -1 goes by epochs."""
    per_device_train_batch_size: Size = 8
    """Examples of a batch on each device."""
    tokens_per_batch: Size | None = None
    """Tokens of a batch on each device, about: batches of similar work in place of a number of examples."""
    packed: bool = True
    """Join the examples of a batch without padding; the losses are the same, and nothing is computed in vain. A loss
    of the user's own (`compute_loss`, `compute_loss_func`) reads padded batches in any case."""
    gradient_accumulation_steps: Size = 1
    """Batches whose gradients make one step."""
    average_tokens_across_devices: bool = True
    """Divide by the tokens of all devices, so that a token counts the same on each."""

    # Learning rate
    learning_rate: Positive = 5e-5
    """The highest rate."""
    lr_scheduler_type: SchedulerType | str = SchedulerType.LINEAR
    lr_scheduler_kwargs: Options = None
    """What else the schedule takes, see `pellucid.training.schedules`."""
    warmup_steps: Positive = 0
    """Steps in which the rate rises from 0; below 1 a share of all steps."""
    layerwise_lr_decay: Rate | None = None
    """Factor from each layer to the one below it, such as 0.9: lower layers change less (see `layerwise_depths`)."""

    # Optimizer
    optim: OptimizerNames | str = OptimizerNames.ADAMW_TORCH_FUSED
    optim_args: str | None = None
    """`"name=value,name=value"` for `sgd`, `adagrad` and `rmsprop`."""
    weight_decay: Positive = 0.0
    """Pull to zero at each step, of all weights but biases and norms."""
    adam_beta1: Rate = 0.9
    adam_beta2: Rate = 0.999
    adam_epsilon: Positive = 1e-8
    optim_target_modules: Any = None
    max_grad_norm: Positive = 1.0
    """Longer gradients are shortened to this length; 0 leaves them."""
    label_smoothing_factor: Rate = 0.0
    """Share of each target that is spread over all labels."""

    # Numbers and memory
    bf16: bool = False
    """Compute in bfloat16, keep weights in float32."""
    fp16: bool = False
    bf16_full_eval: bool = False
    """Evaluate with weights in bfloat16."""
    fp16_full_eval: bool = False
    """The same in float16."""
    tf32: bool | None = None
    """Matrix products of float32 in TF32, on GPUs that can."""
    activation_checkpointing: bool = False
    """Forget activations and compute them again on the way back: less memory, about a fifth slower."""
    activation_checkpointing_kwargs: Options = None
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    use_liger_kernel: bool = False
    liger_kernel_config: dict[str, Any] | None = None
    use_cache: bool = False
    neftune_noise_alpha: float | None = None
    torch_empty_cache_steps: Size | None = None
    """Steps after which a GPU's unused memory is given back."""
    auto_find_batch_size: bool = False

    # Log
    logging_strategy: IntervalStrategy | str = IntervalStrategy.STEPS
    logging_steps: Positive = 500
    """Steps between entries; below 1 a share of all steps. So are `eval_steps` and `save_steps`."""
    logging_first_step: bool = False
    log_on_each_node: bool = True
    logging_nan_inf_filter: bool = True
    """Leave losses that are no number out of the mean that is logged."""
    include_num_input_tokens_seen: Literal["all", "non_padding", "no"] | bool = "no"
    log_level: LogLevel = "passive"
    log_level_replica: LogLevel = "warning"
    disable_tqdm: bool | None = None
    """Print entries in place of a progress bar; left out, when the log level is above warnings."""
    report_to: str | list[str] | None = "none"
    """`"tensorboard"`, `"all"` that is installed, or `"none"`; others by callback."""
    logging_dir: str | None = None
    """Folder for TensorBoard; `runs` in `output_dir` when left out."""
    jsonl_log: bool = True
    """Write `training_log.jsonl` in `output_dir`: one JSON object for each entry."""
    run_name: str | None = None
    project: str = "huggingface"
    trackio_space_id: str | None = None
    trackio_bucket_id: str | None = None
    trackio_static_space_id: str | Literal[False] | None = None

    # Evaluation
    eval_strategy: IntervalStrategy | str = IntervalStrategy.NO
    eval_steps: Positive | None = None
    """As `logging_steps`, which is used when left out."""
    eval_delay: Positive = 0
    """Steps or epochs, as `eval_strategy` counts, before the first evaluation."""
    per_device_eval_batch_size: Size = 8
    prediction_loss_only: bool = False
    eval_on_start: bool = False
    """Evaluate before the first step, too."""
    eval_do_concat_batches: bool = True
    eval_use_gather_object: bool = False
    eval_accumulation_steps: Size | None = None
    """Batches whose answers stay on the device before they are moved to the CPU."""
    include_for_metrics: list[str] = field(default_factory=list)
    """What `compute_metrics` is given beside answers and labels: `inputs`, `loss`."""
    batch_eval_metrics: bool = False
    """Call `compute_metrics` for each batch, so that not all answers are kept."""

    # Checkpoints
    save_strategy: SaveStrategy | str = SaveStrategy.STEPS
    save_steps: Positive = 500
    save_total_limit: Size | None = None
    """Checkpoints that are kept, the newest and the best."""
    save_only_model: bool = False
    """Leave out what resuming needs."""
    save_on_each_node: bool = False
    save_on_signal: bool = True
    """On SIGTERM or SIGINT finish the step, save, and end."""
    enable_jit_checkpoint: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    """`loss` when left out and needed."""
    greater_is_better: bool | None = None
    """Left out: yes, unless the name of the metric ends with `loss`."""
    resume_from_checkpoint: str | bool | None = None
    """A checkpoint, or `True` for the newest complete one in `output_dir`; for scripts, which hand it to `train`."""
    ignore_data_skip: bool = False
    restore_callback_states_from_checkpoint: bool = False
    """Callbacks go on with the state that they had, not as they were handed over."""

    # Hub
    push_to_hub: bool = False
    hub_token: str | None = field(default=None, repr=False)
    hub_private_repo: bool | None = None
    hub_model_id: str | None = None
    """Repository; left out, the name of `output_dir`."""
    hub_strategy: HubStrategy | str = HubStrategy.EVERY_SAVE
    hub_always_push: bool = False
    hub_revision: str | None = None

    # The same again
    seed: Seed = 42
    data_seed: Seed | None = None
    """For the order of examples; `seed` when left out."""
    full_determinism: bool = False
    """Only algorithms that give the same bits each time; slower on GPUs."""

    # Devices
    use_cpu: bool = False
    accelerator_config: Options = None
    parallelism_config: Any = None
    ddp_find_unused_parameters: bool | None = None
    ddp_bucket_cap_mb: Size | None = None
    ddp_broadcast_buffers: bool | None = None
    ddp_static_graph: bool | None = None
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl"] | None = None
    ddp_timeout: Size = 1800
    """Seconds that processes wait for each other."""
    fsdp: bool | str | list[str] | None = None
    """Share parameters among processes (FSDP2); older words such as `"full_shard offload"` go into `fsdp_config`."""
    fsdp_config: Options = None
    """A dictionary, or the path of a JSON file."""
    deepspeed: Options = None
    local_rank: int = -1

    # Data
    dataloader_drop_last: bool = False
    dataloader_num_workers: Count = 0
    """Processes that read and tokenize beside the step."""
    dataloader_pin_memory: bool = True
    dataloader_persistent_workers: bool = False
    dataloader_prefetch_factor: Size | None = None
    dataloader_multiprocessing_context: Literal["fork", "spawn", "forkserver"] | None = None
    dataloader_in_order: bool = True
    remove_unused_columns: bool = True
    """Leave out columns that the model does not take."""
    label_names: list[str] | None = None
    train_sampling_strategy: Literal["random", "sequential", "group_by_length", "batch_rebalance"] = "random"
    """Which rows make which batch, see `sampling.py`."""
    length_column_name: str = "length"
    """Column of lengths worked out before, for strategies that go by length."""

    # For scripts
    do_train: bool = False
    do_eval: bool = False
    do_predict: bool = False
    debug: str | list[str] = ""
    skip_memory_metrics: bool = True

    def __post_init__(self) -> None:
        complete(self)
        check(self)

    # ------------------------------------------------------------------ fields

    @classmethod
    def fields(cls) -> dict[str, Any]:
        """Every field with its annotation."""
        return dict(_hints(cls))

    def __setattr__(self, name: str, value: Any) -> None:
        owner = type(self).__name__
        hints = _hints(type(self))
        if name not in hints:
            if name.startswith("_") or hasattr(type(self), name):
                object.__setattr__(self, name, value)
                return
            reject_unknown(owner, [name], hints)
        if isinstance(value, os.PathLike) and name in ("output_dir", "logging_dir", "generation_config"):
            value = os.fspath(value)
        default = getattr(type(self), name, None)
        if isinstance(default, StrEnum):
            value = _choice(owner, name, value, type(default))
        if problem := fixed_problem(name, value, FIXED):
            raise InputError(f"{owner}: {problem}")
        if problem := mismatch(value, hints[name]):
            shown = "a value" if name.endswith("_token") else quoted(value)
            raise InputError(f"{owner}: {name}: got {shown}, wanted {problem}")
        object.__setattr__(self, name, value)

    def __repr__(self) -> str:
        """The fields that are not as they are left out; tokens are not shown."""
        shown = []
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if part.repr and value != _default(part):
                shown.append(f"{part.name}={value.value if isinstance(value, StrEnum) else value!r}")
        return f"{type(self).__name__}({', '.join(shown)})"

    # ------------------------------------------------------------------ what follows from them

    @property
    def device(self) -> torch.device:
        """Where this process computes: its GPU, or the CPU."""
        import torch

        if not self.use_cpu and torch.cuda.is_available():
            return torch.device("cuda", self.local_process_index)
        if not self.use_cpu and torch.backends.mps.is_available():
            return torch.device("mps")
        return torch.device("cpu")

    @property
    def n_gpu(self) -> int:
        """GPUs of this process: one, or none."""
        return int(self.device.type != "cpu")

    @property
    def train_batch_size(self) -> int:
        """Examples of a batch in this process."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Examples of a batch of evaluation in this process."""
        return self.per_device_eval_batch_size

    @property
    def gradient_checkpointing(self) -> bool:
        """The older name of `activation_checkpointing`."""
        return self.activation_checkpointing

    @property
    def gradient_checkpointing_kwargs(self) -> Options:
        """The older name of `activation_checkpointing_kwargs`."""
        return self.activation_checkpointing_kwargs

    @property
    def world_size(self) -> int:
        """Processes that train together, as `torchrun` started them."""
        return _of_process("WORLD_SIZE", 1)

    @property
    def parallel_mode(self) -> ParallelMode:
        """Whether several processes train together."""
        return ParallelMode.DISTRIBUTED if self.world_size > 1 else ParallelMode.NOT_PARALLEL

    @contextmanager
    def main_process_first(self, local: bool = True, desc: str = "work") -> Iterator[None]:
        """What is in the block is done by the first process before the others, who find its files.

        Args:
            local: by the first of each machine; else by the first of all, whose files all must see.
            desc: accepted for compatibility.
        """
        from pellucid.training.processes import Processes

        with Processes.of(self).first_before_others(self.local_process_index if local else self.process_index):
            yield

    @property
    def process_index(self) -> int:
        """Number of this process among all."""
        return _of_process("RANK", 0)

    @property
    def local_process_index(self) -> int:
        """Number of this process on its machine."""
        return _of_process("LOCAL_RANK", 0)

    @property
    def should_log(self) -> bool:
        """Whether this process reports."""
        return (self.local_process_index if self.log_on_each_node else self.process_index) == 0

    @property
    def should_save(self) -> bool:
        """Whether this process writes files."""
        return (self.local_process_index if self.save_on_each_node else self.process_index) == 0

    @property
    def ddp_timeout_delta(self) -> timedelta:
        """`ddp_timeout` as torch takes it."""
        return timedelta(seconds=self.ddp_timeout)

    def get_process_log_level(self) -> int:
        """The level of Python's `logging` for this process; `passive` is that which the user set."""
        name = self.log_level if self.should_log else self.log_level_replica
        if name == "passive":
            return logging.getLogger("pellucid").getEffectiveLevel()
        return logging.getLevelNamesMapping()[name.upper()]

    @strict
    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Steps of warm-up when there are so many in all."""
        if self.warmup_steps >= 1:
            return int(self.warmup_steps)
        return math.ceil(num_training_steps * self.warmup_steps)

    # ------------------------------------------------------------------ files

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON holds them; in place of a token stands its name."""
        values: dict[str, Any] = {}
        for part in dataclasses.fields(self):
            value = getattr(self, part.name)
            if part.name.endswith("_token"):
                value = _masked(part.name)
            elif isinstance(value, StrEnum):
                value = value.value
            elif isinstance(value, GenerationConfig):
                value = value.to_dict()
            values[part.name] = value
        return values

    def to_json_string(self) -> str:
        """`to_dict` as JSON."""
        return json.dumps(self.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)

    def to_sanitized_dict(self) -> dict[str, Any]:
        """All fields and the batch sizes as numbers, switches and texts, as trackers take them."""
        values = {
            **self.to_dict(), "train_batch_size": self.train_batch_size, "eval_batch_size": self.eval_batch_size
        }  # fmt: skip
        return {name: value if type(value) in (bool, int, float, str) else str(value) for name, value in values.items()}

    @classmethod
    @strict
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Settings from what `to_dict` gave, here or elsewhere; the place of a token is read as none."""
        given: dict[str, Any] = {name: None if value == _masked(name) else value for name, value in values.items()}
        return cls(**given)

    @strict
    def to_json_file(self, path: StrPath) -> None:
        """Write `training_args.json` in a folder, or the file of this name."""
        write_json(_file(path), self.to_dict())

    @classmethod
    @strict
    def from_json_file(cls, path: StrPath) -> Self:
        """Settings from what `to_json_file` wrote.

        Raises:
            FileError: the file is missing, or holds no settings.
            InputError, UnknownArgumentError: see the class.
        """
        values = read_json(_file(path))
        if not isinstance(values, dict):
            raise FileError(f"{_file(path)}: got {quoted(values)}, wanted a JSON object of settings")
        return cls.from_dict(values)


@dataclass(kw_only=True, repr=False)
class Seq2SeqTrainingArguments(TrainingArguments):
    """`TrainingArguments`, and how texts are written when an encoder-decoder is evaluated."""

    sortish_sampler: bool = False
    predict_with_generate: bool = False
    """Write texts in evaluation, for metrics such as ROUGE and BLEU."""
    generation_max_length: Size | None = None
    """`max_length` of `generate`; left out, that of the model."""
    generation_num_beams: Size | None = None
    generation_config: str | GenerationConfig | None = None
    """Settings of `generate`, or the folder or repository that holds them."""

    @classmethod
    @strict
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """See `TrainingArguments.from_dict`; `generation_config` may be a dictionary."""
        settings = values.get("generation_config")
        if isinstance(settings, dict):
            values = {**values, "generation_config": GenerationConfig.from_dict(settings)}
        return super().from_dict(values)


@functools.cache
def _hints(cls: type[TrainingArguments]) -> dict[str, Any]:
    """Annotation of each field."""
    hints = get_type_hints(cls, include_extras=True)
    return {part.name: hints[part.name] for part in dataclasses.fields(cls)}


def _default(part: dataclasses.Field[Any]) -> Any:
    return part.default if part.default_factory is dataclasses.MISSING else part.default_factory()


def _choice(owner: str, name: str, value: Any, kind: type[StrEnum]) -> StrEnum:
    """The member of an enumeration that a text names."""
    if isinstance(value, str):
        value = str(getattr(value, "value", value))  # enumerations of others are texts, too
    try:
        return kind(value)
    except ValueError:
        known = [member.value for member in kind]
    why = did_you_mean(value, known) if isinstance(value, str) else ""
    if kind is OptimizerNames and value in REFUSED_OPTIMIZERS:
        why = (
            f"; this one is of the package {REFUSED_OPTIMIZERS[value]}: build it, and hand it to Trainer(optimizers=…)"
        )
    raise InputError(f"{owner}: {name}: got {quoted(value)}, wanted one of {', '.join(map(repr, known))}{why}")


def _of_process(variable: str, default: int) -> int:
    """A number that the launcher gave this process."""
    value = os.environ.get(variable, str(default))
    if not value.isdecimal():
        raise InputError(f"environment: {variable}: got {quoted(value)}, wanted a whole number, as torchrun sets it")
    return int(value)


def _masked(name: str) -> str | None:
    """What stands in files in place of a token."""
    return f"<{name.upper()}>" if name.endswith("_token") else None


def _file(path: StrPath) -> Path:
    return Path(path) / FILE_NAME if Path(path).is_dir() else Path(path)
