"""Optimizers by name, which parameters they change by how much, and their state as plain named tensors.

The state of an optimizer is kept under the names of parameters (`encoder.layer.0.output.dense.weight.exp_avg`), so that
it can be written as safetensors and loaded wherever the parameters have the same names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.optim import SGD, Adagrad, AdamW, Optimizer, RMSprop

from pellucid.errors import InputError, strict
from pellucid.training.adafactor import Adafactor
from pellucid.training.argument_checks import optimizer_options
from pellucid.training.argument_tables import OptimizerNames

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments

_UNDECAYED = re.compile(r"bias|layernorm|rmsnorm|(?:^|\.)norm(?:$|\.)|_norm(?:$|\.)")
"""Parts of the names of parameters that are not pulled to zero."""


# ---------------------------------------------------------------------- which parameters, by how much


def _owned_by(model: nn.Module, kind: type[nn.Module]) -> set[int]:
    """Identities of the parameters that modules of a kind own."""
    return {
        id(parameter)
        for module in model.modules()
        if isinstance(module, kind)
        for parameter in module.parameters(recurse=False)
    }


@strict
def decay_parameter_names(model: nn.Module) -> list[str]:
    """Names of the parameters that weight decay is for: all but biases and those of norms."""
    norms = _owned_by(model, nn.LayerNorm)
    return [
        name
        for name, parameter in model.named_parameters()
        if id(parameter) not in norms and not _UNDECAYED.search(name.lower())
    ]


@strict
def layerwise_depths(model: nn.Module) -> dict[str, int]:
    """How deep each parameter lies: 0 for embeddings, 1 for those of the first layer, and so on; the head is deepest.

    Layers are the members of the outermost `nn.ModuleList`s. Lists that lie beside each other in one module count
    together (the third of each is the third layer); those of a decoder go on where those of its encoder end. Outside of
    layers embeddings have depth 0, and so has what comes before layers and belongs to embeddings by its name. The rest
    (pooler, last norm, head) lies one above the layers of the smallest module around it that has any.
    """
    lists = {name: len(module) for name, module in model.named_modules() if isinstance(module, nn.ModuleList)}
    order = {name: number for number, (name, _) in enumerate(model.named_parameters())}
    below: dict[str, int] = {}  # module that holds lists of layers → layers that lie under its first
    height, depths = 0, {}
    for name in order:
        parts = name.split(".")
        end = next((end for end in range(1, len(parts)) if ".".join(parts[:end]) in lists), None)
        if end is not None:
            owner = ".".join(parts[: end - 1])
            start = below.setdefault(owner, height)
            height = max(height, start + lists[".".join(parts[:end])])
            depths[name] = start + int(parts[end]) + 1
    layers, embeddings = dict(depths), _owned_by(model, nn.Embedding)
    for name, parameter in model.named_parameters():
        if name in layers:
            continue
        parts, around = name.split("."), dict[str, int]()
        for end in range(len(parts) - 1, -1, -1):
            prefix = "".join(f"{part}." for part in parts[:end])
            if around := {other: depth for other, depth in layers.items() if other.startswith(prefix)}:
                break
        leads_up = "embed" in name and all(order[name] < order[other] for other in around)
        depths[name] = 0 if leads_up or id(parameter) in embeddings else max(around.values(), default=0) + 1
    return {name: depths[name] for name in order}


@strict
def parameter_groups(
    model: nn.Module, weight_decay: float, learning_rate: float, layerwise_lr_decay: float | None = None
) -> list[dict[str, Any]]:
    """Groups of the parameters that learn: those that are pulled to zero, then the others.

    Args:
        model: frozen parameters are left out.
        weight_decay: of the first group.
        learning_rate: of the deepest parameters.
        layerwise_lr_decay: with it there are two groups for each depth, the embeddings' first, and the rate at depth
            `d` of `D` is `learning_rate * layerwise_lr_decay ** (D - d)` (Clark et al. 2020; see `layerwise_depths`).

    Raises:
        InputError: no parameter learns.
    """
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    if not named:
        raise InputError("optimizer: got a model whose parameters are all frozen, wanted one that learns")
    decayed = set(decay_parameter_names(model))
    depths = layerwise_depths(model) if layerwise_lr_decay is not None else dict.fromkeys(named, 0)
    deepest = max(depths.values())
    groups: list[dict[str, Any]] = []
    for depth in sorted({depths[name] for name in named}):
        for is_decayed in (True, False):
            members = [named[name] for name in named if depths[name] == depth and (name in decayed) == is_decayed]
            group: dict[str, Any] = {"params": members, "weight_decay": weight_decay if is_decayed else 0.0}
            if layerwise_lr_decay is not None:
                group["lr"] = learning_rate * layerwise_lr_decay ** (deepest - depth)
            if members or layerwise_lr_decay is None:
                groups.append(group)
    return groups


@strict
def optimizer_class(args: TrainingArguments) -> tuple[type[Optimizer], dict[str, Any]]:
    """The class that `optim` names, and what it is built with beside the parameters."""
    settings: dict[str, Any] = {"lr": args.learning_rate, **optimizer_options(args)}
    adam = {"betas": (args.adam_beta1, args.adam_beta2), "eps": args.adam_epsilon}
    match OptimizerNames(args.optim):
        case OptimizerNames.ADAMW_TORCH:
            return AdamW, settings | adam
        case OptimizerNames.ADAMW_TORCH_FUSED:
            return AdamW, settings | adam | {"fused": True}
        case OptimizerNames.ADAFACTOR:
            return Adafactor, {"scale_parameter": False, "relative_step": False} | settings
        case OptimizerNames.SGD:
            return SGD, settings
        case OptimizerNames.ADAGRAD:
            return Adagrad, settings
        case OptimizerNames.RMSPROP:
            return RMSprop, settings


@strict
def create_optimizer(model: nn.Module, args: TrainingArguments) -> Optimizer:
    """The optimizer that the settings ask for, over the parameters of a model that learn.

    Raises:
        InputError: no parameter learns.
    """
    made, settings = optimizer_class(args)
    groups = parameter_groups(model, args.weight_decay, args.learning_rate, args.layerwise_lr_decay)
    return made(groups, **settings)


# ---------------------------------------------------------------------- state as named tensors

_NUMBERS: dict[type, torch.dtype] = {bool: torch.bool, int: torch.int64, float: torch.float64}
_KINDS = {str(dtype).removeprefix("torch."): kind for kind, dtype in _NUMBERS.items()}
_NUMBER = re.compile(rf"(.+)\(({'|'.join(_KINDS)})\)")  # `step(int64)`: a number of Python, not a tensor

_REMEMBERED: dict[type, tuple[str, ...]] = {
    AdamW: ("step", "exp_avg", "exp_avg_sq"),
    Adafactor: ("step", "exp_avg", "exp_avg_sq", "exp_avg_sq_row", "exp_avg_sq_col"),
    SGD: ("momentum_buffer",),
    Adagrad: ("step", "sum"),
    RMSprop: ("step", "square_avg", "momentum_buffer", "grad_avg"),
}


@strict
def optimizer_tensors(optimizer: Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """What an optimizer remembers of each parameter, under `name of the parameter.name of the value`.

    A number that is no tensor becomes one, and its name ends with its kind: `…weight.step(int64)`. Rates and other
    settings are not part of it: they follow from the training settings and the schedule.

    Args:
        optimizer: its tensors are shared, not copied.
        model: that the optimizer's parameters belong to.

    Raises:
        InputError: the optimizer has a parameter that is not the model's, or remembers what is no number.
    """
    tensors: dict[str, Tensor] = {}
    for parameter, owner in _named(optimizer, model):
        for key, value in optimizer.state.get(parameter, {}).items():
            name = f"{owner}.{key}"
            if isinstance(value, Tensor):
                tensors[name] = value
            elif type(value) in _NUMBERS:
                dtype = _NUMBERS[type(value)]
                tensors[f"{name}({str(dtype).removeprefix('torch.')})"] = torch.tensor(value, dtype=dtype)
            elif value is not None:
                raise InputError(f"optimizer: {name}: got {type(value).__name__}, wanted a tensor or a number")
    return tensors


@strict
def load_optimizer_tensors(optimizer: Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Let an optimizer remember what another did, to the bit.

    Args:
        optimizer: built from the same settings.
        model: whose parameters it has.
        tensors: from `optimizer_tensors`; they are copied to where the parameters are.

    Raises:
        InputError: names or shapes are not those of the model; then nothing is changed.
    """
    parameters = {name: parameter for parameter, name in _named(optimizer, model)}
    # Counts of steps lie beside the parameter only where the optimizer counts there.
    counts_there = any(group.get("fused") or group.get("capturable") for group in optimizer.param_groups)
    loaded: dict[str, dict[str, Any]] = {}
    for full, tensor in tensors.items():
        name, _, key = full.rpartition(".")
        if name not in parameters:
            raise InputError(f"optimizer: {full}: got the state of a parameter that does not learn in this model")
        parameter, state = parameters[name], loaded.setdefault(name, {})
        if number := _NUMBER.fullmatch(key):
            key = number[1]
            state[key] = _KINDS[number[2]](tensor.item())
        else:
            place = tensor.device if key == "step" and not counts_there else parameter.device
            state[key] = tensor.to(place, copy=True)
        if key not in _REMEMBERED.get(type(optimizer), (key,)):
            raise InputError(
                f"optimizer: {full}: got what {type(optimizer).__name__} does not remember; the run had another optim"
            )
        shape = parameter.shape
        if tensor.shape not in (torch.Size(), shape, shape[:-1], shape[:-2] + shape[-1:]):
            raise InputError(
                f"optimizer: {full}: got shape {list(tensor.shape)}, wanted that of the parameter, {list(shape)}"
            )
    optimizer.state.clear()
    for name, state in loaded.items():
        optimizer.state[parameters[name]] = state


def _named(optimizer: Optimizer, model: nn.Module) -> list[tuple[nn.Parameter, str]]:
    """Each parameter of an optimizer with its name in the model."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    own = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    if any(id(parameter) not in names for parameter in own):
        raise InputError(
            "optimizer: got one with parameters that are not the model's; build it from model.parameters()"
        )
    return [(parameter, names[id(parameter)]) for parameter in own]
