"""A speed form of a model: the same numbers, computed faster, for answering only.

`for_inference(model)` mirrors a model module by module. Linear layers become `PackedLinear`, whose weights lie in
memory as oneDNN's matrix product reads them; layers that a module names in `joined` (query, key and value) become one
product, and those named in `activated` bring their GELU along. Everything else, embeddings and norms included, is
shared with the model. No model file is rewritten for this, and the reference stays the model as written.

On a processor or number format that oneDNN does not know, the model itself is returned.
"""

from __future__ import annotations

import copy
from typing import TypeGuard, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pellucid.adapters import with_adapters_merged
from pellucid.errors import strict
from pellucid.model import PreTrainedModel
from pellucid.ops import Conv1D

Model = TypeVar("Model", bound=PreTrainedModel)


class PackedLinear(nn.Module):
    """`x @ weight.T + bias`, and a GELU on top if asked, on weights packed for oneDNN.

    Args:
        layers: linear layers on the same input, which become one product.
        gelu: whether to apply the exact GELU.
    """

    def __init__(self, *layers: nn.Linear | Conv1D, gelu: bool = False) -> None:
        super().__init__()
        weights: list[Tensor] = [
            layer.weight.detach().t() if isinstance(layer, Conv1D) else layer.weight.detach() for layer in layers
        ]
        weight = torch.cat(weights)  # [outputs, inputs]
        self.sizes = [len(each) for each in weights]
        biases: list[Tensor] = [
            layer.bias if layer.bias is not None else weight.new_zeros(size)
            for layer, size in zip(layers, self.sizes, strict=True)
        ]
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous())
        self.bias = torch.cat(biases).detach()
        self.activation = "gelu" if gelu else "none"

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """`[T, in]` → `[T, out]`, or one of these for each of several layers."""
        y: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, self.activation, [], "none")
        return y if len(self.sizes) == 1 else torch.split(y, self.sizes, dim=-1)


def can_pack(model: nn.Module) -> bool:
    """Whether oneDNN can compute with this model's numbers on this machine."""
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):  # type: ignore[no-untyped-call]
        return False
    formats = {(p.device.type, p.dtype) for p in model.parameters() if p.is_floating_point()}
    if formats == {("cpu", torch.bfloat16)}:
        return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return formats == {("cpu", torch.float32)}


@strict
def for_inference(model: Model) -> Model:
    """A speed form of `model` that answers faster on a CPU and cannot be trained or saved.

    It keeps the weights that it has packed beside the model's own, so it doubles the memory of linear layers until
    the model is let go. Later changes to the model's weights do not reach it. Active adapters are merged into it.

    Args:
        model: any model in evaluation mode.

    Returns:
        The speed form, which is called like the model; or `model` itself where nothing can be gained.
    """
    if model.training or not can_pack(model):
        return model
    made = _mirror(with_adapters_merged(model))
    assert isinstance(made, type(model))
    made._adapters = None
    made.is_speed_form = True
    return made


def _mirror(module: nn.Module) -> nn.Module:
    """A module like `module` that shares its tensors, but for linear layers, which are packed."""
    if _is_plain(module):
        return PackedLinear(module)
    made = copy.copy(module)
    made._parameters = dict(module._parameters)
    made._modules = {}
    joined: tuple[str, ...] = getattr(module, "joined", ())
    activated: dict[str, str] = getattr(module, "activated", {})
    for name, child in module._modules.items():
        if name in made._modules or child is None:
            made._modules.setdefault(name, child)
        elif name in joined and all(_is_plain(module.get_submodule(other)) for other in joined):
            made._modules.update(dict.fromkeys(joined, PackedLinear(*(module.get_submodule(n) for n in joined))))  # type: ignore[arg-type]
        elif name in activated and _is_plain(child) and getattr(module, activated[name]) is F.gelu:
            made._modules[name] = PackedLinear(child, gelu=True)
            setattr(made, activated[name], _same)
        else:
            made._modules[name] = _mirror(child)
    return made


def _is_plain(module: nn.Module | None) -> TypeGuard[nn.Linear | Conv1D]:
    """Whether this is a linear layer and nothing else: no adapter, and nobody listens to it."""
    if module is None or type(module).forward not in (nn.Linear.forward, Conv1D.forward):
        return False
    return not module._forward_hooks and not module._forward_pre_hooks


def _same(x: Tensor) -> Tensor:
    return x
