"""The tensors of a GGUF file under their published names, as they were before the conversion.

Numbers in a plain format are views of the file, quantized ones are computed when a tensor is asked for. All of a model
has one number format: float32 if some of it is quantized, else the file's main one (files keep norms in float32 beside
matrices in float16).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from pellucid.checkpoint.gguf_blocks import DECODERS, dequantize
from pellucid.checkpoint.mapped import MappedFile
from pellucid.errors import FileError
from pellucid.files import StrPath, quoted
from pellucid.gguf import GgufTensor, read_gguf
from pellucid.gguf_models import COMPUTED, PLAIN, Change, Keys, family_of, stored_dtype

_WHOLE = {"I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64}
_DTYPES: dict[str, torch.dtype] = {name: getattr(torch, dtype) for name, dtype in PLAIN.items()} | _WHOLE


class GgufWeight(NamedTuple):
    """A tensor in a mapped GGUF file, not yet made."""

    file: MappedFile
    place: GgufTensor
    dtype: torch.dtype
    shape: tuple[int, ...]
    change: Change | None
    heads: int
    """How many heads the rows belong to, for the changes that look at it."""

    def load(self, dtype: torch.dtype | None = None) -> Tensor:
        """The tensor, in `dtype` if given; a view of the file where nothing is to be computed."""
        wanted = dtype or self.dtype
        form = self.place.format
        if form.name in _DTYPES:
            tensor = self.file.tensor(_DTYPES[form.name], self.place.shape, self.place.offset)
        else:
            tensor = torch.empty(self.place.shape, dtype=wanted)
            blocks = self.file.tensor(torch.uint8, (self.place.nbytes,), self.place.offset)
            dequantize(blocks, form, tensor)
        return _undone(tensor, self.change, self.heads).to(wanted)


def read_gguf_tensors(path: StrPath) -> dict[str, GgufWeight]:
    """The tensors of a GGUF file by their published names; those that the architecture has no name for keep theirs.

    Raises:
        FileError: the file breaks a rule of the format, is of an unknown architecture, or has a tensor that cannot be.
    """
    file = read_gguf(path)
    family, keys = family_of(file), Keys(file)
    main: torch.dtype = getattr(torch, stored_dtype(file))
    mapped = MappedFile(path)
    heads, key_heads = keys.heads, keys.key_value_heads
    found: dict[str, GgufWeight] = {}
    for name, place in file.tensors.items():
        if name in COMPUTED:
            continue
        where = f"{path}: {quoted(name)}"
        if place.format.name not in _DTYPES and place.format.name not in DECODERS:
            raise FileError(
                f"{where}: got the format {place.format.name}, wanted one of {', '.join([*PLAIN, *DECODERS])}; "
                "get the model in one of those"
            )
        published, change = family.name_of(name) or (name, None)
        its_heads = key_heads if ".attn_k." in name else heads
        _check_change(change, place.shape, its_heads, where)
        shape = place.shape[::-1] if change == "transposed" else place.shape
        dtype = _WHOLE.get(place.format.name, main)
        found[published] = GgufWeight(mapped, place, dtype, shape, change, its_heads)
    return found


def _check_change(change: Change | None, shape: tuple[int, ...], heads: int, where: str) -> None:
    """Refuse a shape that the converter cannot have made."""
    if change == "transposed" and len(shape) != 2:
        raise FileError(f"{where}: got shape {quoted(list(shape))}, wanted a matrix")
    parts = {"rotary_pairs": 2, "parts_first": 3}
    if change in parts and shape[0] % (parts[change] * heads):
        raise FileError(f"{where}: got shape {quoted(list(shape))}, wanted rows for {heads} heads")


def _undone(tensor: Tensor, change: Change | None, heads: int) -> Tensor:
    """A tensor as it was before a converter changed it; see `gguf_models.Change`."""
    if change == "plus_one":
        return tensor.float() - 1
    if change == "transposed":
        return tensor.t().contiguous()
    if change == "rotary_pairs":  # [N, D / 2, 2] back to [N, 2, D / 2]: `ops.rotate` pairs the halves of a head
        pairs = tensor.view(heads, -1, 2, *tensor.shape[1:])
        return pairs.transpose(1, 2).reshape(tensor.shape)
    if change == "parts_first":  # [3, N, D] back to [N, 3, D]
        parts = tensor.view(3, heads, -1, *tensor.shape[1:])
        return parts.transpose(0, 1).reshape(tensor.shape)
    return tensor
