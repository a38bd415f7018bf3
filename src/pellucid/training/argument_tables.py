"""Names and values of training settings: what each choice may be, what older names became, what is refused and why."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from enum import StrEnum
from typing import Any, NamedTuple

from pellucid.errors import InputError, reject_unknown
from pellucid.files import quoted

logger = logging.getLogger("pellucid")


class IntervalStrategy(StrEnum):
    """When something is done again during training."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"


class SaveStrategy(StrEnum):
    """When a checkpoint is written; `best`: whenever an evaluation was the best so far."""

    NO = "no"
    STEPS = "steps"
    EPOCH = "epoch"
    BEST = "best"


class ParallelMode(StrEnum):
    """How a model is trained by several devices."""

    NOT_PARALLEL = "not_parallel"
    NOT_DISTRIBUTED = "not_distributed"
    DISTRIBUTED = "distributed"


class HubStrategy(StrEnum):
    """What is uploaded with `push_to_hub`, and when."""

    END = "end"
    EVERY_SAVE = "every_save"
    CHECKPOINT = "checkpoint"
    ALL_CHECKPOINTS = "all_checkpoints"


class OptimizerNames(StrEnum):
    """The optimizers that `optim` names."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAFACTOR = "adafactor"
    SGD = "sgd"
    ADAGRAD = "adagrad"
    RMSPROP = "rmsprop"


OPTIMIZER_OPTIONS: dict[str, dict[str, type]] = {
    "sgd": {"momentum": float, "dampening": float, "nesterov": bool},
    "adagrad": {"lr_decay": float, "eps": float},
    "rmsprop": {"momentum": float, "alpha": float, "eps": float, "centered": bool},
    "adafactor": {"scale_parameter": bool, "clip_threshold": float, "decay_rate": float, "beta1": float},
}
"""What `optim_args` may say about an optimizer; the other optimizers take all they need from fields of their own."""

_OTHER_PACKAGES = {
    "bitsandbytes": """adamw_bnb_8bit adamw_8bit ademamix ademamix_8bit lion_8bit lion_32bit paged_adamw_32bit
        paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit paged_lion_8bit rmsprop_bnb
        rmsprop_bnb_8bit rmsprop_bnb_32bit""",
    "galore_torch": """galore_adamw galore_adamw_8bit galore_adafactor galore_adamw_layerwise
        galore_adamw_8bit_layerwise galore_adafactor_layerwise""",
    "apollo_torch": "apollo_adamw apollo_adamw_layerwise",
    "torchao": "adamw_torch_4bit adamw_torch_8bit",
    "lomo_optim": "lomo adalomo",
    "grokadamw": "grokadamw",
    "schedulefree": "schedule_free_radam schedule_free_adamw schedule_free_sgd",
    "optimi": "stable_adamw",
    "torchdistx": "adamw_anyprecision",
    "torch_xla": "adamw_torch_xla",
    "torch_npu": "adamw_torch_npu_fused",
}
REFUSED_OPTIMIZERS = {
    **{name: package for package, names in _OTHER_PACKAGES.items() for name in names.split()},
    "adamw_hf": "transformers, which gave it up",
}
"""Optimizers of other packages, with the package: they keep their state in forms that no checkpoint here can hold."""


class Fixed(NamedTuple):
    """A setting that is known, and has no meaning here but with these values."""

    values: tuple[Any, ...]
    reason: str


def _only(*values: Any, reason: str) -> Fixed:
    return Fixed(values, reason)


_TRACKER = "it belongs to a tracker that is not offered; hand a callback for it to Trainer(callbacks=[…])"
_ACCELERATE_SAYS_NOTHING = {
    "split_batches": False, "dispatch_batches": None, "even_batches": True, "use_seedable_sampler": True,
    "non_blocking": False, "gradient_accumulation_kwargs": None,
}  # fmt: skip
_ACCELERATE = "no accelerate is used; processes come from torchrun, and ddp_… and fsdp say how they share the work"
_COMPILE = "packed batches have another shape at every step, and each would be compiled anew; leave it out"
_LIGER = "no kernels of other packages are put into models; leave it out"

FIXED: dict[str, Fixed] = {
    "fp16": _only(False, reason="training needs no scaled losses in bfloat16; set bf16=True in its place"),
    "optim_target_modules": _only(None, reason="it belongs to optimizers of other packages, which are not offered"),
    "torch_compile": _only(False, reason=_COMPILE),
    "torch_compile_backend": _only(None, reason=_COMPILE),
    "torch_compile_mode": _only(None, reason=_COMPILE),
    "use_liger_kernel": _only(False, reason=_LIGER),
    "liger_kernel_config": _only(None, reason=_LIGER),
    "use_cache": _only(False, reason="nothing is remembered between calls in training; leave it out"),
    "neftune_noise_alpha": _only(None, reason="noise on embeddings is not offered; dropout of the configuration is"),
    "auto_find_batch_size": _only(
        False, reason="no size is found by failing; set tokens_per_batch, which bounds the memory of every step"
    ),
    "project": _only("huggingface", reason=_TRACKER),
    "trackio_space_id": _only(None, "trackio", reason=_TRACKER),
    "trackio_bucket_id": _only(None, reason=_TRACKER),
    "trackio_static_space_id": _only(None, False, reason=_TRACKER),
    "eval_do_concat_batches": _only(
        True, reason="answers come in one array; batch_eval_metrics=True shows them batch by batch"
    ),
    "eval_use_gather_object": _only(False, reason="only tensors are exchanged between processes; leave it out"),
    "enable_jit_checkpoint": _only(
        False, True, reason="save_on_signal says whether a signal to end saves first, and is on by itself"
    ),
    "ignore_data_skip": _only(
        False, reason="a resumed run goes on at its place in the data at once, nothing has to be skipped; leave it out"
    ),
    "accelerator_config": _only(None, _ACCELERATE_SAYS_NOTHING, reason=_ACCELERATE),
    "parallelism_config": _only(None, reason=_ACCELERATE),
    "deepspeed": _only(None, reason="DeepSpeed is not offered; fsdp=True shares parameters among processes"),
    "dataloader_in_order": _only(
        True, reason="a run can only be repeated when its batches come in order; leave it out"
    ),
    "debug": _only(
        "", [], reason="nothing of the kind is offered; a loss that is not a number ends training by itself"
    ),
    "skip_memory_metrics": _only(True, reason="memory is not measured; torch.cuda.max_memory_allocated tells it"),
    "sortish_sampler": _only(False, reason='set train_sampling_strategy="group_by_length" in its place'),
}
"""Fields that stand only for what others' settings say."""

_DEVICES = "devices that torch does not bring are not offered; leave it out"
_HALF = "there is one way to compute in bfloat16, that of torch; leave it out"

GONE: dict[str, Fixed] = {
    "overwrite_output_dir": _only(
        False, True, reason="a run goes on where another ended only when resume_from_checkpoint asks for it"
    ),
    "save_safetensors": _only(True, None, reason="weights are only written as safetensors, which cannot hold code"),
    "use_mps_device": _only(False, True, reason="the device is found by itself"),
    "include_tokens_per_second": _only(False, True, reason="tokens a second are always shown"),
    "jit_mode_eval": _only(False, reason="models are not traced; leave it out"),
    "fp16_opt_level": _only("O1", reason=_HALF),
    "fp16_backend": _only("auto", reason=_HALF),
    "half_precision_backend": _only("auto", "cuda_amp", "cpu_amp", reason=_HALF),
    "tpu_num_cores": _only(None, reason=_DEVICES),
    "tpu_metrics_debug": _only(False, reason=_DEVICES),
    "mp_parameters": _only("", None, reason=_DEVICES),
    "past_index": _only(-1, reason="no state is carried from batch to batch; leave it out"),
    "use_legacy_prediction_loop": _only(False, reason="there is one loop; leave it out"),
    "ray_scope": _only("last", reason="no search over settings is offered; leave it out"),
    "torchdynamo": _only(None, reason=_COMPILE),
    "fsdp_min_num_params": _only(0, reason='set fsdp_config={"min_num_params": …} in its place'),
    "fsdp_transformer_layer_cls_to_wrap": _only(
        None, reason='set fsdp_config={"transformer_layer_cls_to_wrap": […]} in its place'
    ),
    "push_to_hub_organization": _only(None, reason='set hub_model_id="organization/name" in its place'),
}
"""Settings of older versions that are no fields any more."""

RENAMED: dict[str, str] = {
    "evaluation_strategy": "eval_strategy",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "no_cuda": "use_cpu",
    "warmup_ratio": "warmup_steps",
    "push_to_hub_token": "hub_token",
    "push_to_hub_model_id": "hub_model_id",
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}
"""Older spelling → field with the same values."""

SWITCHES: dict[str, tuple[str, Any]] = {
    "adafactor": ("optim", "adafactor"),
    "group_by_length": ("train_sampling_strategy", "group_by_length"),
    "include_inputs_for_metrics": ("include_for_metrics", ["inputs"]),
}
"""Older switch → field and value that turning it on means."""

TRAINER_ARGUMENTS = frozenset({
    "args", "callbacks", "compute_loss_func", "compute_metrics", "data_collator", "eval_dataset", "model", "model_init",
    "optimizer_cls_and_kwargs", "optimizers", "preprocess_logits_for_metrics", "processing_class", "tokenizer",
    "train_dataset",
})  # fmt: skip
"""What the trainer takes itself."""

FSDP_OPTIONS = frozenset({
    "activation_checkpointing", "auto_wrap_policy", "cpu_offload", "cpu_ram_efficient_loading", "min_num_params",
    "reshard_after_forward", "state_dict_type", "transformer_layer_cls_to_wrap", "version",
})  # fmt: skip
"""Keys of `fsdp_config`."""
FSDP_NOTHING = (("min_num_params", 0), ("xla", False), ("xla_fsdp_v2", False), ("xla_fsdp_grad_ckpt", False))
"""Entries of `fsdp_config` that others write and that say nothing."""


def fixed_problem(name: str, value: Any, table: Mapping[str, Fixed]) -> str | None:
    """What is wrong with the value of a setting that means nothing but with certain values, or `None`."""
    fixed = table.get(name)
    if fixed is None or any(
        value is allowed or (type(value) is type(allowed) and value == allowed) for allowed in fixed.values
    ):
        return None
    wanted = " or ".join(quoted(allowed) for allowed in fixed.values)
    return f"{name}: got {quoted(value)}, wanted {wanted}; {fixed.reason}"


def modern(owner: str, given: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under their present names; each older name that says something is logged with the present one.

    Args:
        owner: class that the settings are for.
        given: names, present or older, and values.
        defaults: name of each field, and what it holds when nobody sets it.

    Raises:
        UnknownArgumentError: a name that never was one, with the nearest that is.
        InputError: an older name whose value has no meaning here, or one given beside its present name.
    """
    values = {name: value for name, value in given.items() if name in defaults}
    for old, value in given.items():
        if old in values:
            continue
        if problem := fixed_problem(old, value, GONE):
            raise InputError(f"{owner}: {problem}")
        if old in GONE:
            if value is not GONE[old].values[0]:
                logger.warning("%s: %s has no effect: %s", owner, old, GONE[old].reason)
        elif old in RENAMED or old in SWITCHES:
            _rename(owner, old, value, values, defaults)
        elif old in TRAINER_ARGUMENTS:
            now = "processing_class" if old == "tokenizer" else old
            raise InputError(f"{owner}: {old}: is no training setting; hand it to the trainer, Trainer({now}=…)")
        else:
            reject_unknown(owner, [old], {*defaults, *RENAMED, *SWITCHES, *GONE})
    return values


def _rename(owner: str, old: str, value: Any, values: dict[str, Any], defaults: Mapping[str, Any]) -> None:
    """Put what an older name says under its present name, unless it says nothing."""
    if value is None or value is False or (old == "warmup_ratio" and value == 0):
        return
    if old in SWITCHES:
        if value is not True:
            raise InputError(f"{owner}: {old}: got {quoted(value)}, wanted true or false")
        new, value = SWITCHES[old]
    else:
        new = RENAMED[old]
    if old == "warmup_ratio" and (isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1):
        raise InputError(f"{owner}: warmup_ratio: got {quoted(value)}, wanted a share of the steps, 0 or more, below 1")
    if new in values and values[new] not in (value, defaults[new]):
        raise InputError(f"{owner}: {old} and {new}: got both with different values, wanted one; keep {new}")
    logger.warning("%s: %s is now called %s: write %s=%r", owner, old, new, new, "…" if new == "hub_token" else value)
    values[new] = value
