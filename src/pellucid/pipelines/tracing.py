"""Looking into a model while it reads: the shapes of what each module makes, and where attention heads look.

Nothing is done to the model itself. A *twin* of it is made, which shares its tensors, or holds them in float32 where
they are in a shorter format; it is the twin that is listened to and led back through.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from pellucid.errors import InputError
from pellucid.model import PreTrainedModel
from pellucid.outputs import ModelOutput

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline

MOST_LAYERS = 2000
"""Modules whose shapes are kept."""
SILENT = (nn.Dropout, nn.Identity, nn.ModuleList)
"""Modules that change nothing when a model answers, or only hold others."""


class LayerShape(NamedTuple):
    """What a module was given and what it made of it.

    Attributes:
        name: its path in the model, such as `bert.encoder.layer.0.attention`; empty for the model itself.
        kind: its class.
        given: shape of the first tensor that went in; tokens of a text are one after another, `[T, H]`.
        made: shape of the first tensor that came out.
        parameters: how many numbers it has learnt, those of the modules in it included.
    """

    name: str
    kind: str
    given: tuple[int, ...]
    made: tuple[int, ...]
    parameters: int


class Attention(NamedTuple):
    """Where the heads of one layer looked.

    Attributes:
        name: what the layer belongs to: `"layer"`, or `"encoder layer"`, `"decoder layer"`, and `"decoder to text"`
            for a decoder that looks at what the encoder read.
        layer: its number.
        weights: `[N, tokens that look, tokens looked at]`; what a token's head gives to all others adds up to 1.
        queries: the tokens that look.
        keys: the tokens looked at.
    """

    name: str
    layer: int
    weights: Tensor
    queries: list[str]
    keys: list[str]


def twin_of(model: PreTrainedModel) -> PreTrainedModel:
    """A model of the same modules and tensors, in float32 and in evaluation mode, that can be listened to freely.

    Raises:
        InputError: `model` is a speed form, which knows no gradients.
    """
    if model.is_speed_form:
        raise InputError("explain: got a pipeline on a speed form, wanted the model that it was made from")
    known: dict[int, Any] = {}
    for tensor in (*model.parameters(), *model.buffers()):
        taken = tensor.detach()
        if taken.is_inference():
            taken = taken.clone()
        if taken.is_floating_point() and taken.dtype.itemsize < 4:
            taken = taken.float()
        known[id(tensor)] = nn.Parameter(taken, requires_grad=False) if isinstance(tensor, nn.Parameter) else taken
    for module in model.modules():  # functions of the caller are shared, not copied
        for hook in (*module._forward_hooks.values(), *module._forward_pre_hooks.values()):
            known[id(hook)] = hook
    twin = copy.deepcopy(model, known).eval()
    for module in twin.modules():
        if isinstance(module, PreTrainedModel) and hasattr(module.config, "use_cache"):
            module.config.use_cache = False  # nothing is written, so nothing needs to be remembered
    return twin


def probe_of(pipe: Pipeline) -> Pipeline:
    """The pipeline on a twin of its model."""
    probe = copy.copy(pipe)
    probe.model, probe.plain = twin_of(pipe.model), True
    return probe


class Trace:
    """What was seen while a model ran.

    Attributes:
        layers: shapes, in the order in which modules began.
        maps: attention weights, as `(name, layer, weights [N, Q, K])`.
    """

    def __init__(self) -> None:
        self.layers: list[LayerShape] = []
        self.maps: list[tuple[str, int, Tensor]] = []
        self._kept: dict[int, Any] = {}  # what has been seen, so that a head does not show the same once more

    @contextmanager
    def of(self, model: PreTrainedModel, asked: bool | Collection[int]) -> Iterator[None]:
        """Within this, what the model does is seen.

        Args:
            model: a twin.
            asked: the layers whose attention weights are wanted: all (`True`), none, or those listed.
        """
        handles, stacks = [], dict[int, list[int]]()
        for name, module in model.named_modules(remove_duplicate=False):
            if isinstance(module, PreTrainedModel):
                if "output_attentions" in module._arguments:
                    handles.append(module.register_forward_pre_hook(_asking(asked), with_kwargs=True))
                handles.append(module.register_forward_hook(self._keep_maps(name, asked)))
            if id(module) in stacks or isinstance(module, SILENT):
                continue
            begun = stacks[id(module)] = list[int]()
            handles.append(module.register_forward_pre_hook(self._begin(name, begun), with_kwargs=True))
            handles.append(module.register_forward_hook(self._end(begun)))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _begin(self, name: str, begun: list[int]) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> None:
            begun.append(len(self.layers))
            if len(self.layers) < MOST_LAYERS:
                learnt = sum(parameter.numel() for parameter in module.parameters())
                shape = _shape((*given, *named.values()))
                self.layers.append(LayerShape(name, type(module).__name__, shape, (), learnt))

        return hook

    def _end(self, begun: list[int]) -> Callable[..., None]:
        def hook(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            number = begun.pop()
            if number < len(self.layers):
                self.layers[number] = self.layers[number]._replace(made=_shape(made))

        return hook

    def _keep_maps(self, path: str, asked: bool | Collection[int]) -> Callable[..., None]:
        """A hook that takes the weights off a body's packed answer; those of heads are the same once more."""
        part = next((f"{word} " for word in ("encoder", "decoder") if word in path.split(".")), "")

        def hook(module: nn.Module, given: tuple[Any, ...], made: Any) -> None:
            for field, name in (("attentions", f"{part}layer"), ("cross_attentions", "decoder to text")):
                layers = getattr(made, field, None)
                if layers and isinstance(layers[0], tuple) and id(layers[0]) not in self._kept:
                    self._kept[id(layers[0])] = layers[0]
                    numbers = sorted(asked) if isinstance(asked, Collection) else range(len(layers))
                    for number, blocks in zip(numbers, layers, strict=False):
                        self.maps.append((name, number, _joined(blocks)))

        return hook


def _asking(asked: bool | Collection[int]) -> Callable[..., Any]:
    """A hook that asks a model for the weights of some layers."""

    def hook(module: nn.Module, given: tuple[Any, ...], named: Mapping[str, Any]) -> Any:
        bound = inspect.signature(module.forward).bind(*given, **named)
        bound.arguments["output_attentions"] = asked
        return bound.args, bound.kwargs

    return hook


def _joined(blocks: Sequence[Tensor]) -> Tensor:
    """Weights of each run, `[count, N, L, K]` → `[N, T, all K]`: texts beside each other do not look at each other."""
    texts = [text for block in blocks for text in block.detach().float().cpu()]  # [N, L, K] each
    rows, keys = sum(text.shape[1] for text in texts), sum(text.shape[2] for text in texts)
    joined = torch.zeros(texts[0].shape[0], rows, keys)
    row = key = 0
    for text in texts:
        joined[:, row : row + text.shape[1], key : key + text.shape[2]] = text
        row, key = row + text.shape[1], key + text.shape[2]
    return joined


def _shape(value: Any) -> tuple[int, ...]:
    """Shape of the first tensor in what a module was given or made."""
    if isinstance(value, Tensor):
        return tuple(value.shape)
    inner = value.values() if isinstance(value, ModelOutput) else value if isinstance(value, list | tuple) else ()
    return next((found for found in map(_shape, inner) if found), ())
