"""What training settings mean together: what follows from others, and what cannot be meant."""

from __future__ import annotations

import logging
import platform
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.config_values import SWITCH
from pellucid.errors import InputError, PellucidError, did_you_mean
from pellucid.files import parse_json, quoted, read_json
from pellucid.training.argument_tables import (
    FSDP_NOTHING,
    FSDP_OPTIONS,
    OPTIMIZER_OPTIONS,
    IntervalStrategy,
    SaveStrategy,
)
from pellucid.training.schedules import SchedulerType, check_scheduler_kwargs

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

logger = logging.getLogger("pellucid")

BY_METRIC = (SchedulerType.REDUCE_ON_PLATEAU, SchedulerType.GREEDY)
"""Schedules that go by the metric of each evaluation."""


# ---------------------------------------------------------------------- what follows


def complete(args: TrainingArguments) -> None:
    """Fill what was left open and follows from other settings.

    Raises:
        InputError: a text that stands for settings cannot be read.
    """
    args.output_dir = str(Path(args.output_dir or "trainer_output").expanduser())
    if args.logging_dir is not None:
        args.logging_dir = str(Path(args.logging_dir).expanduser())
    for name in ("lr_scheduler_kwargs", "activation_checkpointing_kwargs", "fsdp_config"):
        setattr(args, name, _options(name, getattr(args, name)))
    if args.disable_tqdm is None:
        args.disable_tqdm = logging.getLogger("pellucid").getEffectiveLevel() > logging.WARNING
    if isinstance(args.include_num_input_tokens_seen, bool):
        args.include_num_input_tokens_seen = "all" if args.include_num_input_tokens_seen else "no"
    if args.eval_strategy != IntervalStrategy.NO:
        args.do_eval = True
    if args.eval_strategy == IntervalStrategy.STEPS and not args.eval_steps:
        args.eval_steps = args.logging_steps
    for name in ("logging_steps", "eval_steps", "save_steps"):
        steps = getattr(args, name)
        if steps is not None and steps >= 1 and steps == int(steps):
            setattr(args, name, int(steps))
    if (args.load_best_model_at_end or args.lr_scheduler_type in BY_METRIC) and args.metric_for_best_model is None:
        args.metric_for_best_model = "loss"
    if args.greater_is_better is None and args.metric_for_best_model is not None:
        args.greater_is_better = not args.metric_for_best_model.endswith("loss")
    args.debug = args.debug or []
    if args.use_cpu:
        args.dataloader_pin_memory = False
    if args.report_to is None or isinstance(args.report_to, str):
        args.report_to = [args.report_to or "none"]
    if args.report_to == ["none"]:
        args.report_to = []
    _complete_fsdp(args)


def _options(name: str, value: dict[str, Any] | str | None) -> dict[str, Any] | None:
    """Settings given as a dictionary, as JSON text or as the path of a file."""
    if isinstance(value, str):
        value = parse_json(value, name) if value.startswith("{") else read_json(value)
        if not isinstance(value, dict):
            raise InputError(f"TrainingArguments: {name}: got {quoted(value)}, wanted named settings")
    return value


def _complete_fsdp(args: TrainingArguments) -> None:
    """Put older words for sharing parameters into `fsdp_config`."""
    words = args.fsdp.split() if isinstance(args.fsdp, str) else args.fsdp
    if isinstance(args.fsdp_config, dict):
        named = {name.removeprefix("fsdp_"): value for name, value in args.fsdp_config.items()}
        args.fsdp_config = {name: value for name, value in named.items() if (name, value) not in FSDP_NOTHING} or None
    if not isinstance(words, list):
        return
    config = dict(args.fsdp_config) if isinstance(args.fsdp_config, dict) else {}
    meanings = {
        "full_shard": {"reshard_after_forward": True},
        "shard_grad_op": {"reshard_after_forward": False},
        "offload": {"cpu_offload": True},
        "auto_wrap": {},
    }
    for word in words:
        if word not in meanings:
            known = ", ".join(map(repr, meanings))
            raise InputError(
                f"TrainingArguments: fsdp: got {quoted(word)}, wanted True or words out of {known}"
                f"{did_you_mean(word, meanings)}"
            )
        config = {**meanings[word], **config}
    args.fsdp, args.fsdp_config = bool(words) or None, config or args.fsdp_config


# ---------------------------------------------------------------------- what cannot be meant


def check(args: TrainingArguments) -> None:
    """Raise for settings that contradict each other or cannot be kept on this machine.

    Raises:
        InputError: names the settings, what was wanted, and what to do.
    """
    owner = type(args).__name__
    for problems in (_amounts, _intervals, _best_model, _optimizer, _devices, _data):
        for problem in problems(args):
            raise InputError(f"{owner}: {problem}")
    if args.bf16 or args.bf16_full_eval or args.tf32:
        for problem in _number_formats(args):
            raise InputError(f"{owner}: {problem}")


def _amounts(args: TrainingArguments) -> Iterator[str]:
    if args.max_steps != -1 and args.max_steps < 1:
        yield f"max_steps: got {args.max_steps}, wanted a whole number from 1, or -1 to go by num_train_epochs"
    if args.max_steps == -1 and not 0 < args.num_train_epochs < float("inf"):
        yield f"num_train_epochs: got {args.num_train_epochs}, wanted more than 0, or max_steps"
    if args.tokens_per_batch is not None and args.train_sampling_strategy == "batch_rebalance":
        raise InputError(
            f"tokens_per_batch: got {args.tokens_per_batch} and train_sampling_strategy='batch_rebalance': the first "
            "makes batches of as many tokens already; leave one of them out"
        )
    if args.tokens_per_batch is not None and args.per_device_train_batch_size != type(args).per_device_train_batch_size:
        yield (
            f"tokens_per_batch: got {args.tokens_per_batch} and "
            f"per_device_train_batch_size={args.per_device_train_batch_size}, wanted one of them; "
            "leave out the one that is not meant"
        )
    if args.label_smoothing_factor == 1:
        yield "label_smoothing_factor: got 1, wanted less: nothing would be left of the targets"
    for name in ("learning_rate", "max_grad_norm", "weight_decay", "adam_epsilon"):
        if getattr(args, name) == float("inf"):
            yield f"{name}: got inf, wanted a finite number"
    for name in ("adam_beta1", "adam_beta2"):
        if getattr(args, name) == 1:
            yield f"{name}: got 1, wanted less: no gradient would ever count"
    if args.warmup_steps != int(args.warmup_steps) and args.warmup_steps > 1:
        yield f"warmup_steps: got {args.warmup_steps}, wanted a whole number, or a share of all steps below 1"
    if args.layerwise_lr_decay == 0:
        yield "layerwise_lr_decay: got 0, wanted more: only the head would learn; freeze the other layers for that"


def _intervals(args: TrainingArguments) -> Iterator[str]:
    for name, strategy in (("logging", "logging_strategy"), ("eval", "eval_strategy"), ("save", "save_strategy")):
        if getattr(args, strategy) != IntervalStrategy.STEPS:
            continue
        steps = getattr(args, f"{name}_steps")
        if not steps:
            yield f"{name}_steps: got {steps}, wanted more than 0; or set {strategy}='no'"
        elif steps > 1 and steps != int(steps):
            yield f"{name}_steps: got {steps}, wanted a whole number, or a share of all steps below 1"
    if args.lr_scheduler_type in BY_METRIC and args.eval_strategy == IntervalStrategy.NO:
        yield (
            f"lr_scheduler_type: got {args.lr_scheduler_type!s}, which goes by evaluations, and eval_strategy='no'; "
            "set eval_strategy='epoch' or 'steps'"
        )
    if args.eval_on_start and args.eval_strategy == IntervalStrategy.NO:
        yield "eval_on_start: got True and eval_strategy='no'; set eval_strategy='epoch' or 'steps'"


def _best_model(args: TrainingArguments) -> Iterator[str]:
    best = args.save_strategy == SaveStrategy.BEST
    if best and args.eval_strategy == IntervalStrategy.NO:
        yield "save_strategy: got 'best' and eval_strategy='no'; set eval_strategy='epoch' or 'steps'"
    if best and args.metric_for_best_model is None:
        yield "save_strategy: got 'best' and no metric; set metric_for_best_model, such as 'loss' or 'accuracy'"
    if not args.load_best_model_at_end or best:
        return
    if args.eval_strategy != args.save_strategy:
        yield (
            f"load_best_model_at_end: got True with eval_strategy={str(args.eval_strategy)!r} and "
            f"save_strategy={str(args.save_strategy)!r}, wanted the same for both, or save_strategy='best'"
        )
    if args.save_strategy == SaveStrategy.NO:
        yield "load_best_model_at_end: got True and save_strategy='no', which saves none; set save_strategy='best'"
    if args.eval_strategy != IntervalStrategy.STEPS or not args.eval_steps:
        return
    if (args.eval_steps < 1) != (args.save_steps < 1):
        yield (
            f"load_best_model_at_end: got save_steps={args.save_steps} and eval_steps={args.eval_steps}, of which one "
            "is a share; give both as numbers of steps or both as shares"
        )
    elif Fraction(str(args.save_steps)) % Fraction(str(args.eval_steps)):
        yield (
            f"load_best_model_at_end: got save_steps={args.save_steps}, wanted a multiple of "
            f"eval_steps={args.eval_steps}, so that every saved model has been evaluated"
        )


def _optimizer(args: TrainingArguments) -> Iterator[str]:
    try:
        check_scheduler_kwargs(str(args.lr_scheduler_type), _dictionary(args.lr_scheduler_kwargs))
    except PellucidError as error:
        yield str(error)
    try:
        optimizer_options(args)
    except InputError as error:
        yield str(error)


def optimizer_options(args: TrainingArguments) -> dict[str, Any]:
    """What `optim_args` says, as values.

    Raises:
        InputError: it cannot be read, or says what the optimizer does not take.
    """
    known, found = OPTIMIZER_OPTIONS.get(str(args.optim), {}), {}
    for part in filter(None, (args.optim_args or "").replace(" ", "").split(",")):
        name, equals, text = part.partition("=")
        if name not in known or not equals:
            wanted = "name=value with a name out of " + ", ".join(known) if known else "nothing for this optimizer"
            raise InputError(
                f"optim_args: got {quoted(part)} for optim={str(args.optim)!r}, wanted {wanted}"
                f"{did_you_mean(name, known)}"
            )
        if name in found:
            raise InputError(f"optim_args: got {name} twice, wanted it once")
        switch = SWITCH.get(text.lower())
        try:
            found[name] = float(text) if known[name] is float else {True: True, False: False}[switch]  # type: ignore[index]
        except (ValueError, KeyError):
            kind = "a number" if known[name] is float else "true or false"
            raise InputError(f"optim_args: {name}: got {quoted(text)}, wanted {kind}") from None
    return found


def _dictionary(value: dict[str, Any] | str | None) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _devices(args: TrainingArguments) -> Iterator[str]:
    if args.local_rank != -1 and args.local_rank != args.local_process_index:
        yield (
            f"local_rank: got {args.local_rank}, wanted {args.local_process_index} as the environment says; "
            "start processes with torchrun"
        )
    if args.fp16_full_eval and args.bf16_full_eval:
        yield "fp16_full_eval: got True and bf16_full_eval=True, wanted one of them"
    config = _dictionary(args.fsdp_config)
    if unknown := config.keys() - FSDP_OPTIONS:
        yield f"fsdp_config: unknown key {min(unknown)!r}{did_you_mean(min(unknown), FSDP_OPTIONS)}"
    if str(config.get("version", 2)) != "2":
        yield f"fsdp_config: version: got {quoted(config['version'])}, wanted 2; the first form is not offered"
    if config and not args.fsdp:
        yield "fsdp_config: got settings, and fsdp is not set; set fsdp=True"


def _data(args: TrainingArguments) -> Iterator[str]:
    if args.dataloader_num_workers == 0:
        for name, value in (
            ("dataloader_prefetch_factor", args.dataloader_prefetch_factor),
            ("dataloader_multiprocessing_context", args.dataloader_multiprocessing_context),
            ("dataloader_persistent_workers", args.dataloader_persistent_workers),
        ):
            if value:
                yield f"{name}: got {value!r} and dataloader_num_workers=0, wanted workers; set dataloader_num_workers"
    for name in args.include_for_metrics:
        if name not in ("inputs", "loss"):
            known = ("inputs", "loss")
            yield f"include_for_metrics: got {quoted(name)}, wanted 'inputs' or 'loss'{did_you_mean(name, known)}"
    if not Path(args.output_dir or "").name and args.push_to_hub and args.hub_model_id is None:
        yield "push_to_hub: got True and an output_dir without a name; set hub_model_id"


def _number_formats(args: TrainingArguments) -> Iterator[str]:
    import torch

    kind = args.device.type
    if args.tf32 and (kind != "cuda" or torch.cuda.get_device_capability()[0] < 8):
        yield f"tf32: got True on a {kind} device without it, wanted a GPU of NVIDIA's Ampere or later; leave it out"
    if not (args.bf16 or args.bf16_full_eval):
        return
    name = "bf16" if args.bf16 else "bf16_full_eval"
    if kind == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        yield f"{name}: got True on a GPU without bfloat16, wanted NVIDIA's Ampere or later; leave it out"
    if kind == "cpu" and not cpu_computes_bfloat16():
        yield f"{name}: got True on a CPU without bfloat16, where it is slower than float32; leave it out"


def cpu_computes_bfloat16() -> bool:
    """Whether this machine's CPU multiplies in bfloat16 rather than imitating it."""
    import torch

    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True  # nothing tells; torch computes it in either way
    return bool(torch._C._has_mkldnn and torch.ops.mkldnn._is_mkldnn_bf16_supported())


# ---------------------------------------------------------------------- what is set once


def apply_to_torch(args: TrainingArguments) -> None:
    """Set what holds for all of torch, and say which settings are taken care of in another way."""
    if args.tf32 is not None:
        import torch

        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    if args.dataloader_num_workers:
        logger.info("dataloader_num_workers: batches are made beside the step by a thread, which needs no processes")
    if args.save_on_each_node:
        logger.warning("save_on_each_node: the first process writes for all; checkpoints go to a folder that all see")
