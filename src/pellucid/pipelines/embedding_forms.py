"""Vectors in fewer bytes, and how near two sets of vectors are.

| precision | what is stored of a vector of `H` numbers | bytes of 384 numbers |
|---|---|---|
| `"float32"` | the numbers | 1536 |
| `"int8"`, `"uint8"` | for each its place in the range of its component, in 256 steps | 384 |
| `"binary"`, `"ubinary"` | for each whether it is above 0, eight to a byte | 48 |

The codes are those of sentence-transformers, so that stored vectors can be exchanged. The *ranges* of the components,
`[2, H]` with the least numbers and the largest, belong to 8-bit codes: without them nothing can be read back, and
codes made with other ranges cannot be compared. The `u` forms hold 0 to 255, the others the same minus 128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.files import quoted

CODES = {"int8": torch.int8, "uint8": torch.uint8, "binary": torch.int8, "ubinary": torch.uint8}
"""Precision → number format of its codes."""
PRECISIONS = ("float32", *CODES)
SCALED = ("int8", "uint8")
"""Precisions whose codes are places in ranges."""


def check_precision(precision: Any) -> None:
    """Raise `InputError` for a precision that does not exist."""
    if precision not in PRECISIONS:
        near = did_you_mean(str(precision), PRECISIONS)
        raise InputError(f"precision: got {precision!r}, wanted one of {list(PRECISIONS)}{near}")


def as_tensor(vectors: Any, name: str = "embeddings") -> Tensor:
    """Vectors of any kind as a tensor; `InputError` naming the argument if they are none."""
    if isinstance(vectors, Tensor):
        return vectors
    import numpy as np

    try:
        if isinstance(vectors, list | tuple) and any(isinstance(vector, Tensor) for vector in vectors):
            return torch.stack(list(vectors))
        array = np.asarray(vectors)
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    except (TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise InputError(f"{name}: got {quoted(vectors)}, wanted vectors [B, H] as a tensor, array or list") from error


# ---------------------------------------------------------------------- fewer bytes


@strict
def quantization_ranges(embeddings: Any) -> Tensor:
    """The least and the largest number of each component, `[2, H]`, of vectors like those to be quantized.

    Args:
        embeddings: vectors `[B, H]` of at least two texts; a thousand or more give ranges that new texts rarely leave.

    Raises:
        InputError: fewer than two vectors, or numbers that are not finite.
    """
    vectors = as_tensor(embeddings)
    if vectors.dim() != 2 or len(vectors) < 2:
        raise InputError(
            f"embeddings: got {list(vectors.shape)}, wanted the vectors [B, H] of two texts or more to take ranges "
            "from; or pass ranges="
        )
    vectors = _finite(vectors)
    return torch.stack([vectors.amin(dim=0), vectors.amax(dim=0)])


@strict
def quantize_embeddings(embeddings: Any, precision: str, ranges: Any = None, calibration_embeddings: Any = None) -> Any:
    """Vectors in another precision.

    Args:
        embeddings: vectors `[B, H]` or one `[H]`, of floating-point numbers.
        precision: one of `PRECISIONS`.
        ranges: for 8-bit codes, of `quantization_ranges`. A number outside becomes the nearest code.
        calibration_embeddings: vectors to take the ranges from. Default: the `embeddings` themselves, which suits
            a whole corpus and never a single text.

    Returns:
        `[B, H]` as float32 or 8-bit codes, or `[B, ceil(H / 8)]` of packed bits: the first number in the highest bit,
        zeros behind the last. A tensor for a tensor, else an array.

    Raises:
        InputError: vectors that are codes already, an unknown precision, or ranges that do not fit.
    """
    check_precision(precision)
    vectors = as_tensor(embeddings)
    if not vectors.is_floating_point():
        raise InputError(f"embeddings: got {vectors.dtype}, wanted floating-point numbers to quantize")
    if precision == "float32":
        found = vectors.float()
    elif precision in SCALED:
        found = _places(_finite(vectors), precision, ranges, calibration_embeddings)
    else:
        found = _pack_bits(vectors > 0)
        found = found if precision == "ubinary" else _signed(found)
    return found if isinstance(embeddings, Tensor) else found.detach().numpy()


@strict
def dequantize_embeddings(embeddings: Any, precision: str, ranges: Any = None, dim: int | None = None) -> Any:
    """The floating-point vectors that codes stand for: 8-bit codes the lower end of their step, bits -1 and 1.

    Args:
        embeddings: codes `[B, …]` of `quantize_embeddings`.
        precision: of the codes.
        ranges: that 8-bit codes were made with.
        dim: numbers in a vector, for bits; default all bits that are there.

    Returns:
        `[B, H]` in float32; a tensor for a tensor, else an array.

    Raises:
        InputError: codes of another precision, or ranges or a `dim` that do not fit.
    """
    check_precision(precision)
    codes = as_tensor(embeddings)
    if precision == "float32":
        found = codes.float()
    elif codes.dtype != CODES[precision]:
        raise InputError(f"embeddings: got {codes.dtype}, wanted {CODES[precision]} for precision={precision!r}")
    elif precision in SCALED:
        low, step = _steps(check_ranges(ranges, codes.shape[-1]))
        found = codes.float().add_(128 if precision == "int8" else 0).mul_(step).add_(low)
    else:
        if dim is not None and (dim + 7) // 8 != codes.shape[-1]:
            raise InputError(f"dim: got {dim}, and {codes.shape[-1]} bytes hold {8 * codes.shape[-1]} bits")
        found = _signs(codes if precision == "ubinary" else _unsigned(codes))[..., :dim]
    return found if isinstance(embeddings, Tensor) else found.detach().numpy()


def check_ranges(ranges: Any, dim: int) -> Tensor:
    """Ranges as a float32 tensor `[2, dim]`; `InputError` if they are none."""
    if ranges is None:
        raise InputError("ranges: got none, and 8-bit codes mean nothing without; pass those they were made with")
    found = as_tensor(ranges, "ranges").float()
    if found.shape != (2, dim) or not bool((found[0] <= found[1]).all()):
        raise InputError(
            f"ranges: got {list(found.shape)}, wanted [2, {dim}]: the least and the largest number of each component"
        )
    return found


def _finite(vectors: Tensor) -> Tensor:
    if not bool(vectors.isfinite().all()):
        raise InputError("embeddings: there are infinite numbers or NaN among them, which have no code")
    return vectors.float()


def _places(vectors: Tensor, precision: str, ranges: Any, calibration: Any) -> Tensor:
    """8-bit codes `[..., H]`: the step of each number in the range of its component."""
    if vectors.dim() == 2 and len(vectors) == 0:
        return vectors.to(CODES[precision])
    if ranges is None:
        ranges = quantization_ranges(vectors if calibration is None else calibration)
    low, step = _steps(check_ranges(ranges, vectors.shape[-1]).to(vectors.device))
    places = ((vectors - low) / step).floor().clamp(0, 255).to(torch.uint8)
    return places if precision == "uint8" else _signed(places)


def _steps(ranges: Tensor) -> tuple[Tensor, Tensor]:
    """The lower end of each range and the width of one of its 256 steps; 1 where a component never changes."""
    step = (ranges[1] - ranges[0]) / 255
    return ranges[0], torch.where(step == 0, torch.ones_like(step), step)


def _signed(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) - 128).to(torch.int8)


def _unsigned(codes: Tensor) -> Tensor:
    return (codes.to(torch.int16) + 128).to(torch.uint8)


_PLACES = (7, 6, 5, 4, 3, 2, 1, 0)  # of a byte's bits, the highest first


def _pack_bits(bits: Tensor) -> Tensor:
    """Booleans `[..., H]` → bytes `[..., ceil(H / 8)]`."""
    padded = torch.nn.functional.pad(bits.to(torch.uint8), (0, -bits.shape[-1] % 8))
    values = torch.tensor([1 << place for place in _PLACES], dtype=torch.uint8, device=bits.device)
    return (padded.view(*bits.shape[:-1], padded.shape[-1] // 8, 8) * values).sum(dim=-1, dtype=torch.uint8)


def _signs(codes: Tensor) -> Tensor:
    """Bytes `[..., N]` → -1 and 1 for their bits, `[..., 8 N]` in float32."""
    bits = (torch.arange(256, device=codes.device)[:, None] >> torch.tensor(_PLACES, device=codes.device)) & 1
    return torch.nn.functional.embedding(codes.int(), bits * 2.0 - 1.0).flatten(-2)


# ---------------------------------------------------------------------- how near


def _pair(a: Any, b: Any) -> tuple[Tensor, Tensor]:
    """Two sets of vectors `[A, H]` and `[B, H]` in floating point; one vector counts as a set."""
    first, second = (
        (vectors if vectors.is_floating_point() else vectors.float())[(None,) * (vectors.dim() == 1)]
        for vectors in (x if isinstance(x, Tensor) else as_tensor(x, name) for x, name in ((a, "a"), (b, "b")))
    )  # tensors as they are, so that gradients go through
    if first.dim() != 2 or second.dim() != 2 or first.shape[-1] != second.shape[-1]:
        raise InputError(f"a, b: got {list(first.shape)} and {list(second.shape)}, wanted [A, H] and [B, H]")
    common = torch.promote_types(first.dtype, second.dtype)
    return first.to(common), second.to(common)


@strict
def cos_sim(a: Any, b: Any) -> Tensor:
    """The cosine of the angle between each vector of `a` and each of `b`: `[A, H]`, `[B, H]` → `[A, B]`."""
    first, second = _pair(a, b)
    return normalize(first, dim=-1) @ normalize(second, dim=-1).T


@strict
def dot_score(a: Any, b: Any) -> Tensor:
    """The product of each vector of `a` with each of `b`: `[A, H]`, `[B, H]` → `[A, B]`."""
    first, second = _pair(a, b)
    return first @ second.T


@strict
def euclidean_sim(a: Any, b: Any) -> Tensor:
    """The distance between each vector of `a` and each of `b` with a minus sign: `[A, H]`, `[B, H]` → `[A, B]`."""
    return -torch.cdist(*_pair(a, b), p=2.0, compute_mode="donot_use_mm_for_euclid_dist")  # exact for near vectors


@strict
def manhattan_sim(a: Any, b: Any) -> Tensor:
    """The sum of the differences between components with a minus sign: `[A, H]`, `[B, H]` → `[A, B]`."""
    return -torch.cdist(*_pair(a, b), p=1.0)


SIMILARITIES: dict[str, Callable[[Any, Any], Tensor]] = {
    "cosine": cos_sim,
    "dot": dot_score,
    "euclidean": euclidean_sim,
    "manhattan": manhattan_sim,
}
"""Name of a score function → the function; larger is nearer."""


def check_similarity(name: Any, source: str = "score_function") -> str:
    """The name, if there is a score function of that name; `InputError` naming `source` otherwise."""
    if not isinstance(name, str) or name not in SIMILARITIES:
        near = did_you_mean(str(name), SIMILARITIES)
        raise InputError(f"{source}: got {quoted(name)}, wanted one of {list(SIMILARITIES)}{near}")
    return name
