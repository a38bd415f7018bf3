"""Which heads of attention a model can do without: how much its loss depends on each (Michel et al. 2019).

    importance = head_importance(model, rows, collator)      layer → head → how much
    prune_to(model, 0.6, importance)                         the least important two fifths are gone

A head's importance is the gradient of a text's loss by a factor on what the head has found, without its sign, the mean
over texts: about what the loss would change by if the head found nothing.

Axes: `B` texts of a batch, `T` packed tokens, `N` heads, `D` head size.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.layout import Layout
from pellucid.model import PreTrainedModel
from pellucid.pruning import Heads, heads_of
from pellucid.training.batches import count_items, is_shifted, kept_columns, on_device, read_row

Importance = dict[int, dict[int, float]]


class _Gates:
    """A factor of one on what each head of an attention has found, for each text of a batch: `[B, N]`."""

    def __init__(self, heads: Heads) -> None:
        self.heads = heads
        self.factors: Tensor | None = None
        self.layout: Layout | None = None

    def note_layout(self, attention: Any, given: tuple[Any, ...]) -> None:
        """Called before the attention: which token is of which text."""
        self.layout = next(value for value in given if isinstance(value, Layout))

    def multiply(self, reader: Any, given: tuple[Any, ...]) -> tuple[Any, ...]:
        """Called before the layer that reads the heads: `[T, N * D]` times the factors of each token's text."""
        mixed, layout = given[0], self.layout
        assert layout is not None
        if self.factors is None:  # layers that share their weights share these too
            shape = layout.batch, len(self.heads.kept)
            self.factors = torch.ones(shape, dtype=mixed.dtype, device=mixed.device, requires_grad=True)
        of_tokens = self.factors[layout.places(mixed.device)[0]]  # [T, N]
        return ((mixed.unflatten(-1, (of_tokens.shape[1], -1)) * of_tokens[..., None]).flatten(-2), *given[1:])


@strict
def head_importance(
    model: PreTrainedModel,
    rows: Any,
    data_collator: Callable[[list[Any]], Any],
    batch_size: int = 8,
    normalize: bool = True,
) -> Importance:
    """How much a model's loss depends on each of its heads.

    The loss of a text is the sum over its labels. The model is not changed.

    Args:
        model: with a head whose loss follows from its inputs.
        rows: a list or a `datasets.Dataset` of dictionaries with labels, as a trainer takes them; a few hundred do.
        data_collator: rows → batch.
        batch_size: rows at once.
        normalize: divide by the length of each layer's importances, so that layers are comparable.

    Returns:
        Layer → head → importance, by the numbers that `prune_heads` takes; pruned heads are left out.

    Raises:
        InputError: no rows, no labels, or a model whose heads cannot be told apart.
    """
    heads = _heads(model)
    if len(rows) == 0:
        raise InputError("rows: got none, wanted texts with labels to measure the heads by")
    kept, sums = kept_columns(model, None), [torch.zeros(len(layer.kept), dtype=torch.float64) for layer in heads]
    was_training = model.training
    model.eval()
    try:
        for start in range(0, len(rows), batch_size):
            numbers = range(start, min(start + batch_size, len(rows)))
            batch = dict(data_collator([read_row(rows, number, kept) for number in numbers]))
            for total, found in zip(sums, _gradients(model, heads, on_device(batch, model.device)), strict=True):
                total += found.abs().sum(dim=0).double().cpu()
    finally:
        model.train(was_training)
    means = [total / len(rows) for total in sums]
    if normalize:
        means = [layer / layer.norm().clamp(min=torch.finfo(layer.dtype).tiny) for layer in means]
    return {
        number: dict(zip(layer.kept, values.tolist(), strict=True))
        for number, (layer, values) in enumerate(zip(heads, means, strict=True))
    }


def _heads(model: PreTrainedModel) -> list[Heads]:
    found = heads_of(model.base_model, getattr(model.config, "num_attention_heads", 0))
    if not found or model.config.is_encoder_decoder:
        raise InputError(f"head_importance: {type(model).__name__} has no heads that prune_heads can take away")
    return found


def _gradients(model: PreTrainedModel, heads: list[Heads], batch: dict[str, Any]) -> list[Tensor]:
    """For each attention, the gradients of each text's loss by the factors of the heads, `[B, N]`."""
    gates = [_Gates(layer) for layer in heads]
    with ExitStack() as hooks, torch.enable_grad():
        for gate in gates:
            hooks.callback(gate.heads.attention.register_forward_pre_hook(gate.note_layout).remove)
            hooks.callback(gate.heads.reader.register_forward_pre_hook(gate.multiply).remove)
        loss = model(**batch, return_dict=True).get("loss")
        if loss is None:
            raise InputError(
                f"head_importance: {type(model).__name__} gave no loss for a batch of {sorted(batch)}; give rows "
                "a column 'label' or 'labels', or use a collator that makes labels"
            )
        factors = [gate.factors for gate in gates if gate.factors is not None]
        return list(torch.autograd.grad(loss * count_items(batch, is_shifted(model)), factors))


@strict
def prune_to(
    model: PreTrainedModel, share: float, importance: Mapping[int, Mapping[int, float]]
) -> dict[int, list[int]]:
    """Prune the least important heads of a model, wherever they are, until a share of all heads is left.

    Each layer keeps its most important head. Pruning in a few rounds, with importance measured anew (and training
    between), costs less than all at once.

    Args:
        model: that is pruned; `model.config.pruned_heads` tells which heads are gone.
        share: of the heads that the model was made with.
        importance: as `head_importance` gives it.

    Returns:
        Layer → heads that were pruned now.

    Raises:
        InputError: the share leaves less than one head to a layer, or the importances are of another model.
    """
    heads = _heads(model)
    found = {layer: list(values) for layer, values in importance.items()}
    if found != {number: layer.kept for number, layer in enumerate(heads)}:
        raise InputError("importance: it is not of this model's heads of now; measure it with head_importance")
    count = model.config.num_attention_heads * len(heads)
    least = len(heads) / count
    if not isinstance(share, int | float) or not least <= share <= 1:
        raise InputError(f"share: got {share!r}, wanted {least:.3g} to 1, which leaves a head to each layer")
    best = {(layer, max(values, key=lambda head: values[head])) for layer, values in importance.items()}
    others = [(value, layer, head) for layer, values in importance.items() for head, value in values.items()]
    unwanted = sorted(one for one in others if one[1:] not in best)[: max(0, len(others) - round(share * count))]
    pruned: dict[int, list[int]] = {}
    for _, layer, head in sorted(unwanted, key=lambda one: one[1:]):
        pruned.setdefault(layer, []).append(head)
    model.prune_heads(pruned)
    return pruned
