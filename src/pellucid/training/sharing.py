"""One model in many processes: the same in each with gradients averaged (DDP), or a part of it in each (FSDP2).

    wrapped = share(model, args, together)      what is called in place of the model while it trains
    with syncing(wrapped, is_last): …           gradients go round once a step, with its last batch
    with whole(model) as plain: …               an undivided model, to be saved

With `fsdp` each process holds a share of the weights, gradients and optimizer's numbers, and gathers the layer that is
computed (Zhao et al. 2023). The optimizer's shares are written by `torch.distributed.checkpoint` as safetensors, each
by the process that has it, and read by any number of processes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict, set_model_state_dict
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from pellucid.errors import FileError, InputError
from pellucid.model import PreTrainedModel
from pellucid.training.adafactor import Adafactor

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments
    from pellucid.training.processes import Processes


def share(model: PreTrainedModel, args: TrainingArguments, together: Processes) -> nn.Module:
    """The model as all processes train it, all with the first one's numbers.

    Args:
        model: on this process's device.
        args: `fsdp`, `fsdp_config` and the settings of DDP.
        together: the processes; alone, the model stays as it is, and so does one that was divided before.

    Raises:
        InputError: a model with adapters is to be divided.
    """
    if together.count == 1 or is_divided(model):
        return model
    if not args.fsdp:
        given: dict[str, Any] = {
            "find_unused_parameters": args.ddp_find_unused_parameters, "bucket_cap_mb": args.ddp_bucket_cap_mb,
            "broadcast_buffers": args.ddp_broadcast_buffers, "static_graph": args.ddp_static_graph,
        }  # fmt: skip
        said = {name: value for name, value in given.items() if value is not None}
        return DistributedDataParallel(model, **{"find_unused_parameters": not model.is_gradient_checkpointing, **said})
    if model.peft_config:
        raise InputError("fsdp: got a model with adapters, which is not divided; leave out fsdp: adapters are small")
    together.share([*model.parameters(), *model.buffers()])
    config = args.fsdp_config if isinstance(args.fsdp_config, dict) else {}
    mesh = init_device_mesh(together.device.type, (together.count,))
    settings: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": bool(config.get("reshard_after_forward", True)),
        "offload_policy": CPUOffloadPolicy() if config.get("cpu_offload") else OffloadPolicy(),
    }
    for parent in list(model.modules()):
        if isinstance(parent, nn.ModuleList):
            for layer in parent:
                fully_shard(layer, **settings)
    fully_shard(model, **settings)
    return model


def is_divided(model: nn.Module) -> bool:
    """Whether this process has only a share of the weights."""
    return isinstance(model, FSDPModule)


def plain_class(model: PreTrainedModel) -> type[PreTrainedModel]:
    """The class of a model before it was divided."""
    kinds: list[Any] = type(model).mro()
    found: type[PreTrainedModel] = next(kind for kind in kinds if not issubclass(kind, FSDPModule))
    return found


def syncing(wrapped: nn.Module, is_last: bool) -> AbstractContextManager[Any]:
    """Within it, gradients go round among the processes only with the last batch of a step."""
    if isinstance(wrapped, DistributedDataParallel) and not is_last:
        return cast(AbstractContextManager[Any], wrapped.no_sync())
    if isinstance(wrapped, FSDPModule):
        wrapped.set_requires_gradient_sync(is_last)
    return nullcontext()


def whole_number(value: Tensor) -> float:
    """A number that may lie divided among processes."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


# ---------------------------------------------------------------------- saving and loading


@contextmanager
def whole(model: PreTrainedModel, together: Processes) -> Iterator[PreTrainedModel | None]:
    """The undivided model in the first process, to be saved; `None` in the others. All must ask for it at once."""
    if not is_divided(model):
        yield model if together.is_first else None
        return
    tensors = get_model_state_dict(model, options=StateDictOptions(full_state_dict=True, cpu_offload=True))
    if not together.is_first:
        yield None
        return
    with torch.device("meta"):
        plain = plain_class(model)(model.config)
    plain.load_state_dict(tensors, assign=True)
    plain.tie_weights()
    if plain.can_generate():
        plain.generation_config = model.generation_config
    yield plain


def load_whole(model: PreTrainedModel, tensors: Mapping[str, Tensor]) -> None:
    """Give a model, divided or not, the numbers of a whole one."""
    if is_divided(model):
        set_model_state_dict(model, dict(tensors), options=StateDictOptions(full_state_dict=True))
    else:
        model.load_state_dict(tensors)


def divided(tensors: Mapping[str, Tensor], like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors `name.value` as the parameters `name` are divided."""
    found = {}
    for full, tensor in tensors.items():
        parameter = like.get(full.rpartition(".")[0])
        if isinstance(parameter, DTensor) and parameter.shape == tensor.shape:
            tensor = distribute_tensor(tensor.to(parameter.device), parameter.device_mesh, parameter.placements)
        found[full] = tensor
    return found


def check_optimizer(optimizer: Optimizer, args: TrainingArguments, together: Processes) -> None:
    """Refuse an optimizer that cannot work on shares.

    Raises:
        InputError: naming it.
    """
    if args.fsdp and together.count > 1 and isinstance(optimizer, Adafactor):
        raise InputError(
            "optim: got 'adafactor' and fsdp, which divides rows that it sums over; use 'adamw_torch_fused'"
        )


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors that lie divided among processes, each process its own part. All must call it at once."""
    state_dict_saver.save(dict(tensors), storage_writer=HuggingFaceStorageWriter(str(folder), save_distributed=True))


def read_shards(folder: Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors that any number of processes have written, divided as they are wanted here.

    Args:
        folder: of `write_shards`.
        like: parameter names and parameters; a tensor `name.value` is divided as the parameter `name`.

    Raises:
        FileError: the folder holds something else.
    """
    reader = HuggingFaceStorageReader(str(folder))
    found: dict[str, Tensor] = {}
    for full, described in reader.read_metadata().state_dict_metadata.items():
        name, _, _ = full.rpartition(".")
        if name not in like or not isinstance(described, TensorStorageMetadata):
            raise FileError(f"{folder}: {full}: the model has no parameter {name!r}")
        size = described.size
        found[full] = (
            torch.empty_like(like[name]) if like[name].shape == size
            else torch.empty(size, dtype=described.properties.dtype)
        )  # fmt: skip
    state_dict_loader.load(found, storage_reader=reader)
    return found
