"""What is the same in every architecture: attention, activations, embedding look-up and losses.

Pure functions on tensors, none of which knows an architecture. Axes: `T` packed tokens, `N` heads, `D` head size,
`B` batch, `S` sequence, `C` classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pellucid.errors import InputError, did_you_mean
from pellucid.ops_dropout import Dropout as Dropout
from pellucid.ops_dropout import dropped as dropped

if TYPE_CHECKING:
    from pellucid.cache import CrossMemory, Memory
    from pellucid.config import PretrainedConfig
    from pellucid.layout import Layout, PackedTokens

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


SHORT = 40
"""Tokens up to which attention in bf16 is faster on a CPU by way of float32: by a sixth, and more for very few."""


class Block(NamedTuple):
    """The sequences of one run of a layout, ready to be attended to.

    Attributes:
        query: `[count, N, L, D]`.
        key: `[count, N or fewer, K, D]`; `K` is `L`, or with a memory the tokens before counted.
        value: `[count, N or fewer, K, D]`.
        mask: `[count or 1, 1, L or 1, K]`, true where a token may look; `None`: everywhere.
        causal: whether, beside the mask, a token sees only itself and those before it.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None
    causal: bool


def blocks(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    causal: bool = False,
    window: int | None = None,
    memory: Memory | None = None,
) -> Iterator[Block]:
    """What attends to what in a packed batch, run by run; arguments as in `attention`."""
    if memory is None or layout.past is None:
        if memory is not None:
            memory.store(key, value, layout)
        for start, count, length in layout.runs:
            q, k, v = (_block(x, start, count, length) for x in (query, key, value))
            mask = layout.mask
            near = None if window is None or window >= length else window
            if near is not None or (causal and mask is not None):
                pattern = _pattern(layout, length, causal, near, query.device)
                mask = pattern if mask is None else mask & pattern
            yield Block(q, k, v, mask, causal and mask is None)
        return
    keys, values = memory.look(key, value, layout)
    spans = memory.spans(layout, causal, window, query.device)
    for (start, count, length), span in zip(layout.runs, spans, strict=True):
        q = _block(query, start, count, length)
        yield Block(q, span.of(keys), span.of(values), span.mask, span.causal)


def cross_blocks(query: Tensor, layout: Layout, memory: CrossMemory) -> Iterator[Block]:
    """What the tokens of a layout see of another text of the same row, which the memory holds.

    Rows that share a text are one sequence here: their tokens do not look at each other.
    """
    assert memory.keys is not None
    assert memory.values is not None
    spans = memory.spans(layout, False, None, query.device)
    for (start, count, length), span in zip(layout.runs, spans, strict=True):
        k, v = (x if span.rows is None else x.index_select(0, span.rows) for x in (memory.keys, memory.values))
        shared = memory.sharing
        yield Block(_block(query, start, count // shared, length * shared), k, v, span.mask, False)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    layout: Layout,
    *,
    causal: bool = False,
    window: int | None = None,
    bias: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    need_weights: bool = False,
    memory: Memory | None = None,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """Scaled dot-product attention (Vaswani et al. 2017) within each sequence of a layout.

    Args:
        query: `[T, N, D]`.
        key: `[T, N, D]`, or fewer heads, each of which serves several heads of the query (Ainslie et al. 2023).
        value: as `key`.
        layout: which tokens belong to one sequence.
        causal: whether a token sees only itself and those before it.
        window: a token sees only those nearer than this many places; `None`: all.
        bias: numbers added to the scores, one tensor `[count or 1, N, L, K]` for each run, as from `distances`.
        dropout: share of the weights dropped; 0 outside of training.
        scale: factor on the scores, default `1 / sqrt(D)`.
        need_weights: also return the weights, computed openly instead of by the fused kernel.
        memory: of this layer, which the keys and values are added to and earlier ones are taken from.

    Returns:
        The mixed values `[T, N * D]`, and per run of the layout the weights `[count, N, L, K]` or `None`.
    """
    found = blocks(query, key, value, layout, causal=causal, window=window, memory=memory)
    return attend(found, query, bias=bias, dropout=dropout, scale=scale, need_weights=need_weights)


def attend(
    found: Iterable[Block],
    query: Tensor,
    *,
    bias: Sequence[Tensor] | None = None,
    dropout: float = 0.0,
    scale: float | None = None,
    need_weights: bool = False,
) -> tuple[Tensor, tuple[Tensor, ...] | None]:
    """The arithmetic of `attention` on blocks that were found already; `query` is what an empty batch gives back."""
    mixed, weights = [], []
    for number, (q, k, v, mask, causal) in enumerate(found):
        added = None if bias is None else bias[number].to(q.dtype)
        if need_weights or (dropout and q.device.type == "cpu"):  # the fused kernel draws slowly there
            block, weight = _open_attention(q, k, v, mask, added, causal, dropout, scale)
            weights.append(weight)
        else:
            if added is not None:
                if causal:
                    mask = _lower_triangle(q.shape[2], q.device)
                mask = added if mask is None else added.masked_fill(~mask, float("-inf"))
                causal = False
            folded = q
            if q.shape[2] == 1 and added is None:  # heads that share keys look at them together, as several tokens
                folded = q.reshape(q.shape[0], k.shape[1], -1, q.shape[3])
            if q.dtype == torch.bfloat16 and not q.is_cuda and (folded.shape[2] == 1 or k.shape[2] <= SHORT):
                # For a single token, torch's kernel for the CPU is two to four times as fast in float32.
                folded, k, v = folded.float(), k.float(), v.float()
                mask = mask.float() if mask is not None and mask.is_floating_point() else mask
            block = F.scaled_dot_product_attention(
                folded, k, v, attn_mask=mask, dropout_p=dropout, is_causal=causal, scale=scale,
                enable_gqa=k.shape[1] != folded.shape[1],
            ).reshape(*q.shape[:3], -1).to(q.dtype)  # fmt: skip
        mixed.append(block.transpose(1, 2).reshape(-1, block.shape[1] * block.shape[3]))  # [count * L, N * D]
    if not mixed:
        return query.flatten(1), () if need_weights else None
    return mixed[0] if len(mixed) == 1 else torch.cat(mixed), tuple(weights) if need_weights else None


def distances(layout: Layout, device: torch.device, memory: Memory | None = None) -> list[Tensor]:
    """For each run of a layout, `[count or 1, L, K]`: place of the token looked at − place of the token that looks."""
    if memory is not None and layout.past is not None:
        return memory.distances(layout, device)
    found = []
    for _, _, length in layout.runs:
        place = torch.arange(length, device=device)
        found.append((place[None, :] - place[:, None])[None])
    return found


def relative_buckets(relative: Tensor, buckets: int, max_distance: int, bidirectional: bool) -> Tensor:
    """Which of a few buckets a distance falls into: near ones have their own, far ones share (Raffel et al. 2019).

    Args:
        relative: distances of any shape, place of the token looked at − place of the token that looks.
        buckets: how many there are.
        max_distance: from here on, all fall into the last.
        bidirectional: half of the buckets are for tokens ahead; otherwise those all fall into the first.
    """
    place = torch.zeros_like(relative)
    if bidirectional:
        buckets //= 2
        place = (relative > 0).long() * buckets
        away = relative.abs()
    else:
        away = (-relative).clamp(min=0)
    exact = buckets // 2
    shared = (away.clamp(min=1).float() / exact).log() / math.log(max_distance / exact) * (buckets - exact)
    far = (exact + shared.long()).clamp(max=buckets - 1)
    return place + torch.where(away < exact, away, far)


class Conv1D(nn.Module):
    """A linear layer whose weight lies as `[inputs, outputs]`, as in the checkpoints of GPT and GPT-2.

    Args:
        inputs: size of the last axis of what comes in.
        outputs: size of the last axis of what goes out.
    """

    transposed = True

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """`[..., inputs]` → `[..., outputs]`."""
        return F.linear(x, self.weight.t(), self.bias)


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


def _pattern(layout: Layout, length: int, causal: bool, window: int | None, device: torch.device) -> Tensor:
    """`[L, L]`: who may look at whom by distance alone; worked out once for all layers."""
    plan = ("pattern", length, causal, window)
    if plan not in layout.plans:
        seen = torch.ones(length, length, dtype=torch.bool, device=device)
        if window is not None:
            seen = seen.tril(window - 1).triu(1 - window)
        layout.plans[plan] = seen.tril() if causal else seen
    return layout.plans[plan]  # type: ignore[no-any-return]


def _open_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    dropout: float,
    scale: float | None,
) -> tuple[Tensor, Tensor]:
    """The same as the fused kernel, step by step: scores, softmax, mix. All `[count, N, L, ...]`."""
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, dim=1), value.repeat_interleave(shared, dim=1)
    scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
    if bias is not None:
        scores = scores + bias
    if causal:
        scores = scores.masked_fill(~_lower_triangle(scores.shape[-1], scores.device), float("-inf"))
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = dropped(scores.softmax(dim=-1), dropout)
    return weights @ value, weights


# ---------------------------------------------------------------------- rotary positions


class Rotary(nn.Module):
    """Rotary position embedding (Su et al. 2021): positions as angles, by which pairs of numbers are turned.

    Args:
        parameters: `rope_parameters` of a configuration: `rope_type`, `rope_theta` and what the type needs.
        head_size: `D`.
        max_positions: `max_position_embeddings` of the configuration.
    """

    def __init__(self, parameters: Mapping[str, Any], head_size: int, max_positions: int) -> None:
        super().__init__()
        self.settings = dict(parameters)
        self.size = int(head_size * parameters.get("partial_rotary_factor", 1.0))
        self.max_positions = max_positions
        self.by_length = parameters["rope_type"] in ("dynamic", "longrope")
        self.speeds: Tensor | None = None  # [D], angle per position, negative for the first of each pair
        self.factor = 1.0

    def forward(self, positions: Tensor, layout: Layout, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Positions `[T]` → cosine and sine of the angles, each `[T, 1, D]`, for `rotate`."""
        if self.by_length:
            speeds = self._speeds_by_length(layout, positions.device)[:, None]  # [T, 1, D]
        else:
            if self.speeds is None or self.speeds.device != positions.device:
                made, self.factor = rotary_speeds(self.settings, self.size, self.max_positions, 0)
                self.speeds = torch.cat([-made, made]).to(positions.device)
            speeds = self.speeds
        angles = positions[:, None, None].float() * speeds  # [T, 1, D]
        return (angles.cos() * self.factor).to(dtype), (angles.sin() * self.factor).to(dtype)

    def _speeds_by_length(self, layout: Layout, device: torch.device) -> Tensor:
        """`[T, D]`: each text by its own length, so that it gives the same answer alone and in any batch."""
        made = [rotary_speeds(self.settings, self.size, self.max_positions, length) for length in layout.totals()]
        self.factor = made[0][1]
        return torch.stack([torch.cat([-speeds, speeds]) for speeds, _ in made]).to(device)[layout.places(device)[0]]


def rotate(x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
    """Turn each pair of numbers of `x` `[T, N, D]` by its angle; `i` of the first half pairs with `i` of the second.

    Angles for fewer than `D` numbers leave the last ones as they are.
    """
    cos, sin = rotary
    size = cos.shape[-1]
    if size < x.shape[-1]:
        return torch.cat([rotate(x[..., :size], rotary), x[..., size:]], dim=-1)
    return x * cos + x.roll(size // 2, dims=-1) * sin  # first * cos - second * sin, second * cos + first * sin


def rotary_speeds(parameters: Mapping[str, Any], size: int, max_positions: int, length: int) -> tuple[Tensor, float]:
    """How fast each pair of numbers turns, `[size / 2]`, and a factor on the result.

    The scalings stretch a model beyond the length it was trained on: `linear` slows all turns down; `dynamic` slows
    more, the longer the text is; `yarn` (Peng et al. 2023, arXiv:2309.00071) and `llama3` leave fast turns as they are
    and slow down slow ones; `longrope` (Ding et al. 2024, arXiv:2402.13753) has a number for each pair.

    Args:
        parameters: `rope_type`, `rope_theta` and what the type needs.
        size: how many numbers of a head are turned.
        max_positions: `max_position_embeddings`.
        length: of the longest text at hand, which `dynamic` and `longrope` look at.
    """
    kind, theta = parameters["rope_type"], float(parameters["rope_theta"])
    steps = torch.arange(0, size, 2, dtype=torch.float32, device="cpu") / size
    factor: Any = parameters.get("factor")
    trained = parameters.get("original_max_position_embeddings") or max_positions
    if kind == "dynamic":
        longest = max(length, max_positions)
        theta *= (factor * longest / max_positions - (factor - 1)) ** (size / (size - 2))
    speeds = 1.0 / theta**steps
    if kind == "linear":
        speeds = speeds / factor
    elif kind == "llama3":
        low, high = parameters["low_freq_factor"], parameters["high_freq_factor"]
        turns = trained * speeds / (2 * math.pi)  # in the length that the model was trained on
        share = ((turns - low) / (high - low)).clamp(0, 1)
        speeds = (1 - share) * speeds / factor + share * speeds
    elif kind == "yarn":
        return _yarn_speeds(parameters, speeds, size, factor or max_positions / trained, trained)
    elif kind == "longrope":
        numbers = parameters["long_factor" if length > trained else "short_factor"]
        speeds = 1.0 / (torch.tensor(numbers, dtype=torch.float32, device="cpu") * theta**steps)
        stretch = factor or max_positions / trained
        usual = 1.0 if stretch <= 1 else math.sqrt(1 + math.log(stretch) / math.log(trained))
        given = parameters.get("attention_factor")
        return speeds, usual if given is None else given
    return speeds, 1.0


def _yarn_speeds(
    parameters: Mapping[str, Any], speeds: Tensor, size: int, factor: float, trained: int
) -> tuple[Tensor, float]:
    """YaRN: pairs that turn often keep their speed, those that turn seldom are slowed down, a ramp between."""

    def pair_of(turns: float) -> float:
        """Which pair turns that often within the length that the model was trained on."""
        return size * math.log(trained / (turns * 2 * math.pi)) / (2 * math.log(parameters["rope_theta"]))

    def warmth(scale: float, weight: float = 1.0) -> float:
        return 1.0 if scale <= 1 else 0.1 * weight * math.log(scale) + 1.0

    low, high = pair_of(parameters.get("beta_fast") or 32), pair_of(parameters.get("beta_slow") or 1)
    if parameters.get("truncate", True):
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    pairs = torch.arange(size // 2, dtype=torch.float32, device="cpu")
    slowed = ((pairs - low) / (high - low if high != low else 0.001)).clamp(0, 1)
    given = parameters.get("attention_factor")
    above, below = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if given is None:
        given = warmth(factor, above) / warmth(factor, below) if above and below else warmth(factor)
    return speeds / factor * slowed + speeds * (1 - slowed), float(given)


def sinusoids(rows: int, size: int) -> Tensor:
    """Positions as `[rows, size]` numbers: sines at ever slower speeds, then their cosines (Vaswani et al. 2017)."""
    steps = torch.arange(0, size, 2, dtype=torch.float64, device="cpu") / size
    angles = torch.arange(rows, dtype=torch.float64, device="cpu")[:, None] * 10000.0**-steps  # [rows, size / 2]
    return torch.cat([angles.sin(), angles.cos()[:, : size // 2]], dim=1)


def embed(table: nn.Embedding, ids: Tensor, what: str = "input_ids") -> Tensor:
    """Rows of an embedding table, `[T]` → `[T, H]`; an id outside the table is an `InputError` that says so."""
    try:
        return table(ids)  # type: ignore[no-any-return]
    except IndexError:
        rows = table.weight.shape[0]
        bad = ids[(ids < 0) | (ids >= rows)][0].item()
        raise InputError(
            f"{what}: got {bad}, wanted 0 to {rows - 1}; use the tokenizer of this checkpoint, "
            "or model.resize_token_embeddings(len(tokenizer)) after adding tokens"
        ) from None


def embed_words(table: nn.Embedding, tokens: PackedTokens) -> Tensor:
    """Vectors of the words, `[T, H]`: looked up, or as they came."""
    if tokens.input_ids is not None:
        return embed(table, tokens.input_ids)
    assert tokens.inputs_embeds is not None
    return tokens.inputs_embeds


def embed_types(table: nn.Embedding, tokens: PackedTokens) -> Tensor:
    """Vectors of the texts of a pair, `[T, H]`; without types all tokens are of the first, whose vector is `[1, H]`."""
    types = tokens.token_type_ids
    if types is None:
        types = torch.zeros(1, dtype=torch.long, device=table.weight.device)
    return embed(table, types, "token_type_ids")


def embed_positions(table: nn.Embedding, tokens: PackedTokens) -> Tensor:
    """Vectors of the positions, `[T, H]`; without positions those of the layout, which must be in the table."""
    if tokens.position_ids is None:
        check_length(tokens.layout.reach, table.num_embeddings)
    return embed(table, tokens.positions(table.weight.device), "position_ids")


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
    *shared: Any,
) -> tuple[Tensor, tuple[Tensor, ...] | None, Any]:
    """Run layers `(hidden, layout, need_weights, *shared) → (hidden, weights or None)` and keep what is asked.

    Args:
        layers: the stack.
        hidden: `[T, H]`.
        layout: how the batch is packed.
        want_maps: attention weights of all layers (`True`), of a collection of layer numbers, or of none.
        want_states: keep the states before the first and after each layer.
        recompute: save memory by computing each layer's inside again for the gradients (gradient checkpointing).
        shared: what all layers are given beside, such as rotary angles.

    Returns:
        The last states `[T, H]`, all states or `None`, all weights (run by run of the layout) or `None`.
    """
    states, maps = [hidden], []
    for number, layer in enumerate(layers):
        need_weights = number in want_maps if isinstance(want_maps, Collection) else bool(want_maps)
        if recompute:
            hidden, weights = checkpoint(layer, hidden, layout, need_weights, *shared, use_reentrant=False)
        else:
            hidden, weights = layer(hidden, layout, need_weights, *shared)
        if want_states:
            states.append(hidden)
        if weights is not None:
            maps.append(weights)
    return hidden, tuple(states) if want_states else None, tuple(maps) if want_maps else None


# ---------------------------------------------------------------------- losses


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross entropy of `[..., C]` logits and `[...]` labels; label -100 is left out, and of none the mean is 0.

    Raises:
        InputError: for a label that is no class.
    """
    logits, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)
    try:
        total = F.cross_entropy(logits.float(), labels, reduction="sum")
        return total / (labels != -100).sum().clamp(min=1)
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
    if layout.padded and layout.index is None:  # padding that is carried along foretells nothing
        following = layout.pack_labels(following.view(layout.batch, layout.width))
    return cross_entropy(logits, following)


def span_loss(
    start: Tensor, end: Tensor, start_at: Tensor | None, end_at: Tensor | None, layout: Layout
) -> Tensor | None:
    """Mean cross entropy of the answer's first and last token: `[B, S]` or packed `[T]` scores, `[B]` positions.

    A position outside its sequence (an answer that was cut off) does not count.
    """
    if start_at is None or end_at is None:
        return None
    ends = layout.width if layout.padded else torch.tensor(layout.lengths(), device=start.device)  # [B]
    losses = []
    for scores, at in ((layout.as_rows(start), start_at), (layout.as_rows(end), end_at)):
        at = at.squeeze(-1) if at.dim() > 1 else at
        losses.append(cross_entropy(scores, at.clamp(min=0).masked_fill(at >= ends, -100)))
    return (losses[0] + losses[1]) / 2
