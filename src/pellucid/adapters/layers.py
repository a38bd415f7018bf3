"""What an adapted layer computes (LoRA, Hu et al. 2021, arXiv:2106.09685).

A layer that computes `y = W x` then computes

    y = W x + (alpha / r) · B(A(dropout(x)))        A: inputs → r,  B: r → outputs,  r small

where only A and B are trained. The weight W keeps its name and its place: `layer.weight` is what it was.
"""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Module = TypeVar("Module", bound=nn.Module)


class LoraLayer(nn.Module, ABC):
    """What adapted layers have in common. A and B have the same sizes for every kind of layer."""

    weight: Tensor
    scaling: dict[str, float]
    """Adapter → the factor `alpha / r`."""
    active: tuple[str, ...]
    """The adapters that are added up now."""

    @abstractmethod
    def pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A `[r, inputs]` and B `[outputs, r]` of one adapter."""

    @abstractmethod
    def start(self) -> None:
        """Make room for adapters, under the names that PEFT's files have."""

    @abstractmethod
    def put(self, name: str, a: Tensor, b: Tensor, dropout: float) -> None:
        """Take A and B of one adapter in."""

    @torch.no_grad()
    def merged_weight(self) -> Tensor:
        """The weight with the active adapters added: `W + (alpha / r) · B A`, summed in at least single precision."""
        total = self.weight.to(torch.promote_types(self.weight.dtype, torch.float32))
        for name in self.active:
            a, b = (part.to(total.dtype) for part in self.pair(name))
            change = (b @ a) * self.scaling[name]  # [outputs, inputs]
            total = total + (change.T if inputs_first(self) else change)
        return total.to(self.weight.dtype)


class LoraLinear(LoraLayer):
    """A linear layer with adapters: `[..., inputs]` → `[..., outputs]`."""

    def forward(self, x: Tensor) -> Tensor:
        """The layer's own answer, and each active adapter's part on top."""
        y: Tensor = super().forward(x)  # W x
        for name in self.active:
            a, b, dropout = self.lora_A[name], self.lora_B[name], self.lora_dropout[name]
            x = x.to(self.pair(name)[0].dtype)
            y = y + (self.scaling[name] * b(a(dropout(x)))).to(y.dtype)  # inputs → r → outputs
        return y

    def start(self) -> None:
        """Make room for adapters, under the names that PEFT's files have."""
        self.lora_A, self.lora_B, self.lora_dropout = nn.ModuleDict(), nn.ModuleDict(), nn.ModuleDict()

    def put(self, name: str, a: Tensor, b: Tensor, dropout: float) -> None:
        """Take A and B of one adapter in."""
        for place, weight in ((self.lora_A, a), (self.lora_B, b)):
            place[name] = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
            place[name].weight = nn.Parameter(weight)
        self.lora_dropout[name] = nn.Dropout(dropout).train(self.training)

    def pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A `[r, inputs]` and B `[outputs, r]` of one adapter."""
        return self.lora_A[name].get_parameter("weight"), self.lora_B[name].get_parameter("weight")


class LoraEmbedding(LoraLayer):
    """A table with adapters: ids `[...]` → `[..., outputs]`; here the inputs are the table's rows."""

    def forward(self, ids: Tensor) -> Tensor:
        """The table's own rows, and each active adapter's part on top; without dropout, as in PEFT."""
        y: Tensor = super().forward(ids)  # a row of W for each id
        for name in self.active:
            a, b = self.pair(name)
            columns = F.embedding(ids, a.T, getattr(self, "padding_idx", None))  # ids → r, a column of A for each
            part = self.scaling[name] * (columns @ b.T) * getattr(self, "factor", 1.0)  # r → outputs
            y = y + part.to(y.dtype)
        return y

    def start(self) -> None:
        """Make room for adapters, under the names that PEFT's files have."""
        self.lora_embedding_A, self.lora_embedding_B = nn.ParameterDict(), nn.ParameterDict()

    def put(self, name: str, a: Tensor, b: Tensor, dropout: float) -> None:
        """Take A and B of one adapter in."""
        self.lora_embedding_A[name], self.lora_embedding_B[name] = nn.Parameter(a), nn.Parameter(b)

    def pair(self, name: str) -> tuple[nn.Parameter, nn.Parameter]:
        """A `[r, inputs]` and B `[outputs, r]` of one adapter."""
        return self.lora_embedding_A[name], self.lora_embedding_B[name]


@cache
def _adapted_class(plain: type[nn.Module]) -> type[nn.Module]:
    """A layer's own class with the sum above on top."""
    return type(f"Lora{plain.__name__}", (LoraEmbedding if issubclass(plain, nn.Embedding) else LoraLinear, plain), {})


def inputs_first(layer: nn.Module) -> bool:
    """Whether the weight is stored as `[inputs, outputs]`: in tables, and in layers that say so."""
    return isinstance(layer, nn.Embedding) or getattr(layer, "transposed", False)


def can_adapt(layer: nn.Module) -> bool:
    """Whether this is a kind of layer that adapters are for."""
    return isinstance(layer, nn.Linear | nn.Embedding) or getattr(layer, "transposed", False)


def sizes(layer: nn.Module) -> tuple[int, int]:
    """Inputs and outputs."""
    rows, columns = layer.get_parameter("weight").shape
    return (rows, columns) if inputs_first(layer) else (columns, rows)


def fresh_pair(layer: nn.Module, r: int, initial: bool | str) -> tuple[Tensor, Tensor]:
    """A and B for training to begin with; unless `initial` is false, they add nothing yet."""
    inputs, outputs = sizes(layer)
    like = layer.get_parameter("weight")
    a, b = (torch.empty(shape, dtype=like.dtype, device=like.device) for shape in ((r, inputs), (outputs, r)))
    if isinstance(layer, nn.Embedding):
        a.normal_() if initial is False else a.zero_()
        return a, b.normal_()
    if initial == "gaussian":
        a.normal_(std=1 / r)
    else:
        nn.init.kaiming_uniform_(a, a=math.sqrt(5))
    if initial is False:
        nn.init.kaiming_uniform_(b, a=math.sqrt(5))
    else:
        b.zero_()
    return a, b


def attach(layer: nn.Module, name: str, pair: tuple[Tensor, Tensor], scaling: float, dropout: float) -> None:
    """Give a layer an adapter. The layer stays the same object, so whatever refers to it sees the adapter."""
    if not isinstance(layer, LoraLayer):
        layer.__class__ = _adapted_class(type(layer))  # type: ignore[arg-type]  # as torch.nn.utils.parametrize does
        assert isinstance(layer, LoraLayer)
        layer.scaling, layer.active = {}, ()
        layer.start()
    layer.put(name, *pair, dropout)
    layer.scaling[name] = scaling


def detach(layer: LoraLayer, names: Iterable[str]) -> None:
    """Take adapters away; a layer without any is what it was."""
    places = {name: child for name, child in layer._modules.items() if name.startswith("lora_")}
    for name in layer.scaling.keys() & set(names):
        del layer.scaling[name]
        for place in places.values():
            assert isinstance(place, nn.ModuleDict | nn.ParameterDict)
            del place[name]
    if not layer.scaling:
        for name in places:
            del layer._modules[name]
        del layer.scaling, layer.active
        layer.__class__ = type(layer).__bases__[1]


def resize(layer: LoraLayer) -> None:
    """Fit A and B to the layer's size of now: new inputs and outputs get zeros."""
    inputs, outputs = sizes(layer)
    for name in layer.scaling:
        a, b = layer.pair(name)
        a.data = F.pad(a.data, (0, inputs - a.shape[1]))
        b.data = F.pad(b.data, (0, 0, 0, outputs - b.shape[0]))


def adapted_layers(model: nn.Module) -> Iterator[tuple[str, LoraLayer]]:
    """Path and layer of all that have adapters."""
    return ((path, layer) for path, layer in model.named_modules() if isinstance(layer, LoraLayer))


def with_adapters_merged(module: Module) -> Module:
    """The same module with the active adapters inside plain layers; what has none is shared with `module`."""
    changed = {name: child and with_adapters_merged(child) for name, child in module._modules.items()}
    same = all(changed[name] is child for name, child in module._modules.items())
    if same and not isinstance(module, LoraLayer):
        return module
    made = copy.copy(module)
    made._modules = changed
    if isinstance(module, LoraLayer):
        assert isinstance(made, LoraLayer)
        made._parameters = {**module._parameters, "weight": nn.Parameter(module.merged_weight(), requires_grad=False)}
        made.scaling = {}
        detach(made, ())
    return made
