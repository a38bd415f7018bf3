"""What is the same in every architecture: attention, activations, embedding look-up and losses.

Pure functions on tensors, none of which knows an architecture. Axes: `T` packed tokens, `N` heads, `D` head size,
`B` batch, `S` sequence, `C` classes.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.errors import InputError, did_you_mean

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig
    from pellucid.layout import Layout

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": F.gelu,
    "gelu_new": partial(F.gelu, approximate="tanh"),
    "gelu_pytorch_tanh": partial(F.gelu, approximate="tanh"),
    "gelu_fast": partial(F.gelu, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
    "relu": F.relu,
    "relu2": lambda x: F.relu(x).square(),
    "silu": F.silu,
    "swish": F.silu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "mish": F.mish,
    "leaky_relu": F.leaky_relu,
    "relu6": F.relu6,
    "linear": lambda x: x,
}
"""Activation functions by the names that `config.json` uses (Hendrycks & Gimpel 2016 for GELU)."""


def activation(name: str) -> Callable[[Tensor], Tensor]:
    """The activation function of that name; `InputError` with the nearest one if there is none."""
    if name not in ACTIVATIONS:
        raise InputError(
            f"activation: got {name!r}, wanted one of {sorted(ACTIVATIONS)}{did_you_mean(name, ACTIVATIONS)}"
        )
    return ACTIVATIONS[name]


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    need_weights: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Scaled dot-product attention (Vaswani et al. 2017) within each sequence of a layout.

    Args:
        query: `[T, N, D]`.
        key: `[T, N, D]`.
        value: `[T, N, D]`.
        layout: which tokens belong to one sequence.
        causal: whether a token sees only itself and those before it.
        dropout: share of the weights dropped; 0 outside of training.
        scale: factor on the scores, default `1 / sqrt(D)`.
        need_weights: also return the weights, computed openly instead of by the fused kernel.

    Returns:
        The mixed values `[T, N * D]`, and per run of the layout the weights `[count, N, length, length]` or `None`.
    """
    mixed, weights = [], []
    for start, count, length in layout.runs:
        q, k, v = (_block(x, start, count, length) for x in (query, key, value))  # [count, N, length, D]
        if need_weights:
            block, weight = _open_attention(q, k, v, layout.mask, causal, dropout, scale)
            weights.append(weight)
        else:
            mask = layout.mask
            if causal and mask is not None:
                mask, causal_flag = mask & _lower_triangle(length, query.device), False
            else:
                causal_flag = causal
            block = F.scaled_dot_product_attention(
                q, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal_flag, scale=scale
            )
        mixed.append(block.transpose(1, 2).reshape(count * length, -1))  # [count * length, N * D]
    if not mixed:
        return value.flatten(1), () if need_weights else None
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed), tuple(weights) if need_weights else None


def project(x: Tensor, *layers: nn.Module) -> Sequence[Tensor]:
    """Several linear layers on the same input; a speed form (`inference.py`) has put one joint layer in their places.

    Args:
        x: `[T, H]`.
        layers: the layers, each `[T, H]` → `[T, size]`.
    """
    if len(layers) > 1 and layers[0] is layers[-1]:
        return layers[0](x)  # type: ignore[no-any-return]
    return [layer(x) for layer in layers]


def _block(x: Tensor, start: int, count: int, length: int) -> Tensor:
    """Tokens `[T, N, D]` of one run as `[count, N, length, D]`, a view."""
    block = x.narrow(0, start, count * length)
    return block.view(count, length, *x.shape[1:]).transpose(1, 2)


def _lower_triangle(length: int, device: torch.device) -> Tensor:
    return torch.ones(length, length, dtype=torch.bool, device=device).tril()


def _open_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, dropout: float, scale: float | None
) -> tuple[Tensor, Tensor]:
    """The same as the fused kernel, step by step: scores, softmax, mix. All `[count, N, length, ...]`."""
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if causal:
        scores = scores.masked_fill(~_lower_triangle(scores.shape[-1], scores.device), float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return weights @ value, weights


def embed(table: nn.Embedding, ids: Tensor, what: str = "input_ids") -> Tensor:
    """Rows of an embedding table, `[T]` → `[T, H]`; an id outside the table is an `InputError` that says so."""
    try:
        return table(ids)  # type: ignore[no-any-return]
    except IndexError:
        bad = ids[(ids < 0) | (ids >= table.num_embeddings)][0].item()
        raise InputError(
            f"{what}: got {bad}, wanted 0 to {table.num_embeddings - 1}; use the tokenizer of this checkpoint, "
            "or model.resize_token_embeddings(len(tokenizer)) after adding tokens"
        ) from None


def check_length(width: int, limit: int) -> None:
    """Raise `InputError` when a sequence has more tokens than the model has positions."""
    if width > limit:
        raise InputError(
            f"sequence length: got {width} tokens, the model reads at most {limit}; "
            "call the tokenizer with truncation=True, or split the text"
        )


def run_layers(
    layers: Iterable[nn.Module],
    hidden: Tensor,
    layout: Layout,
    want_maps: bool | Collection[int] | None,
    want_states: bool,
    recompute: bool,
) -> tuple[Tensor, tuple[Tensor, ...] | None, tuple[tuple[Tensor, ...], ...] | None]:
    """Run a stack of layers, each `(hidden, layout, need_weights) → (hidden, weights or None)`, and keep what is asked.

    Args:
        layers: the stack.
        hidden: `[T, H]`.
        layout: how the batch is packed.
        want_maps: attention weights of all layers (`True`), of a collection of layer numbers, or of none.
        want_states: keep the states before the first and after each layer.
        recompute: save memory by computing each layer's inside again for the gradients (gradient checkpointing).

    Returns:
        The last states `[T, H]`, all states or `None`, all weights (run by run of the layout) or `None`.
    """
    states, maps = [hidden], []
    for number, layer in enumerate(layers):
        need_weights = number in want_maps if isinstance(want_maps, Collection) else bool(want_maps)
        if recompute:
            hidden, weights = checkpoint(layer, hidden, layout, need_weights, use_reentrant=False)
        else:
            hidden, weights = layer(hidden, layout, need_weights)
        if want_states:
            states.append(hidden)
        if weights is not None:
            maps.append(weights)
    return hidden, tuple(states) if want_states else None, tuple(maps) if want_maps else None


# ---------------------------------------------------------------------- losses


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of `[..., C]` logits and `[...]` labels; label -100 is left out.

    Raises:
        InputError: for a label that is no class.
    """
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    try:
        return F.cross_entropy(logits.float(), labels)
    except IndexError:
        classes = logits.shape[-1]
        bad = labels[(labels != -100) & ((labels < 0) | (labels >= classes))][0].item()
        raise InputError(
            f"labels: got {bad}, wanted 0 to {classes - 1} (or -100 to leave out); set num_labels"
        ) from None


def classification_loss(logits: Tensor, labels: Tensor | None, config: PretrainedConfig) -> Tensor | None:
    """Loss of a sequence classifier by the kind of problem.

    The kind is `config.problem_type`, or follows from the labels: one class is regression (mean squared error),
    whole-number labels are one class each (cross entropy), others several classes at once (binary cross entropy).

    Args:
        logits: `[B, C]`.
        labels: `[B]` class numbers or values, or `[B, C]` targets; `None` gives `None`.
        config: holds `problem_type` and `num_labels`.
    """
    if labels is None:
        return None
    kind = config.problem_type
    if kind is None:
        whole = labels.dtype in (torch.long, torch.int)
        one = "single_label_classification" if whole else "multi_label_classification"
        kind = "regression" if config.num_labels == 1 else one  # type: ignore[assignment]
    if kind == "regression":
        target = labels.to(logits.dtype)
        return F.mse_loss(logits.squeeze(), target.squeeze()) if config.num_labels == 1 else F.mse_loss(logits, target)
    if kind == "single_label_classification":
        return cross_entropy(logits, labels)
    if labels.shape != logits.shape:
        raise InputError(f"labels: got shape {list(labels.shape)}, wanted {list(logits.shape)} for multi-label targets")
    return F.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))


def label_loss(logits: Tensor, labels: Tensor | None) -> Tensor | None:
    """Cross entropy of `[B, C]` logits with `[B]` class numbers; `None` without labels."""
    return None if labels is None else cross_entropy(logits, labels)


def token_loss(logits: Tensor, labels: Tensor | None, layout: Layout) -> Tensor | None:
    """Cross entropy at each token: packed logits `[T, C]`, labels `[B, S]` (or `[T]` when packed by the caller)."""
    return None if labels is None else cross_entropy(logits, layout.pack_labels(labels))


def next_token_loss(logits: Tensor, labels: Tensor | None, layout: Layout) -> Tensor | None:
    """Cross entropy of each token's successor in its sequence: packed logits `[T, V]`, labels as the input ids."""
    if labels is None:
        return None
    following = layout.pack_labels(labels).roll(-1)
    for start, count, length in layout.runs:  # a sequence's last token has no successor
        following[start + length - 1 : start + count * length : length] = -100
    return cross_entropy(logits, following)


def span_loss(start: Tensor, end: Tensor, start_at: Tensor | None, end_at: Tensor | None) -> Tensor | None:
    """Mean cross entropy of the answer's first and last token: `[B, S]` scores, `[B]` positions.

    A position outside the sequence (an answer that was cut off) does not count.
    """
    if start_at is None or end_at is None:
        return None
    width = start.shape[1]
    losses = []
    for scores, at in ((start, start_at), (end, end_at)):
        at = at.squeeze(-1) if at.dim() > 1 else at
        at = at.clamp(0, width)
        losses.append(F.cross_entropy(scores.float(), at.masked_fill(at == width, -100)))
    return (losses[0] + losses[1]) / 2
