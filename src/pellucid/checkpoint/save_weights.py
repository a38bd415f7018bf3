"""Writing weights: `model.safetensors` or `pytorch_model.bin`, in one file or in shards with an index."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from pellucid.checkpoint.safetensors_file import DTYPES
from pellucid.errors import FileError, InputError, strict
from pellucid.files import StagedFolder, quoted, write_json

_UNITS = {
    "TB": 10**12,
    "GB": 10**9,
    "MB": 10**6,
    "KB": 10**3,
    "TIB": 2**40,
    "GIB": 2**30,
    "MIB": 2**20,
    "KIB": 2**10,
    "B": 1,
}


def weight_names(kind: str, variant: str | None, stem: str | None = None) -> tuple[str, str, str]:
    """Names of the single file, of its shards (a pattern with `*`) and of their index.

    Args:
        kind: `"safetensors"` or `"bin"`.
        variant: such as `"fp16"` for `model.fp16.safetensors`.
        stem: what the names begin with; default `"model"` or `"pytorch_model"`.
    """
    if variant is not None and not (variant and variant.replace("-", "").replace("_", "").isalnum()):
        raise InputError(f"variant: got {quoted(variant)}, wanted letters, digits, - and _, such as 'fp16'")
    stem = stem or ("model" if kind == "safetensors" else "pytorch_model")
    part = f".{variant}" if variant else ""
    return f"{stem}{part}.{kind}", f"{stem}{part}-*-of-*.{kind}", f"{stem}.{kind}.index{part}.json"


@strict
def parse_size(size: int | str) -> int:
    """A number of bytes from `5000000`, `"5GB"`, `"200 MB"` or `"1GiB"`.

    Raises:
        InputError: none of these forms, or less than one byte.
    """
    number, unit = size, "B"
    if isinstance(size, str):
        text = size.strip().upper()
        unit = next((unit for unit in _UNITS if text.endswith(unit)), "B")
        number_text = text.removesuffix(unit).strip()
        try:
            number = int(float(number_text) * _UNITS[unit]) if len(number_text) < 20 else -1
        except (ValueError, OverflowError):
            number = -1
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise InputError(f"max_shard_size: got {quoted(size)}, wanted bytes as a number or a text such as '5GB'")
    return number


@strict
def save_state(
    state: Mapping[str, Tensor],
    staged: StagedFolder,
    *,
    max_shard_size: int | str = "50GB",
    safe_serialization: bool = True,
    metadata: Mapping[str, str] | None = None,
    variant: str | None = None,
    stem: str | None = None,
) -> list[str]:
    """Write the weights of a model; the folder's older weights, in whatever form, go away in the same step.

    A tensor that has several names is written once, under the first. Views and strided tensors are packed.

    Args:
        state: tensors by name.
        staged: the folder, from `atomic_folder`.
        max_shard_size: more bytes than this are written as several files and an index: a number, or `"5GB"`,
            `"200MB"`, `"1GiB"`. A single tensor above it gets a file of its own.
        safe_serialization: `model.safetensors`; `False` writes `pytorch_model.bin`.
        metadata: texts for the header of a safetensors file; default `{"format": "pt"}`.
        variant: part of the file names, as in `model.fp16.safetensors`.
        stem: what the file names begin with, in place of `model` or `pytorch_model`.

    Returns:
        The names of the files written.

    Raises:
        InputError: a tensor without numbers (on meta), or one that the format has no form for.
        FileError: the files cannot be written.
    """
    limit = parse_size(max_shard_size)
    for kind in ("safetensors", "bin"):
        for pattern in weight_names(kind, variant, stem):
            staged.remove(pattern)
    single, pattern, index = weight_names("safetensors" if safe_serialization else "bin", variant, stem)
    shards = _shards(_once(state, safe_serialization), limit)
    if len(shards) == 1:
        names = [single]
    else:
        names = [pattern.replace("*", f"{number:05d}", 1) for number in range(1, len(shards) + 1)]
        names = [name.replace("*", f"{len(shards):05d}") for name in names]
    for name, tensors in zip(names, shards, strict=True):
        packed = {key: _pack(tensor) for key, tensor in tensors.items()}
        _write(packed, staged.path / name, safe_serialization, dict(metadata or {"format": "pt"}))
    if len(shards) > 1:
        place = {key: name for name, tensors in zip(names, shards, strict=True) for key in tensors}
        total = sum(tensor.nbytes for tensors in shards for tensor in tensors.values())
        weight_map = dict(sorted(place.items()))
        write_json(staged.path / index, {"metadata": {"total_size": total}, "weight_map": weight_map})
        names.append(index)
    return names


def _once(state: Mapping[str, Tensor], safe_serialization: bool) -> dict[str, Tensor]:
    """The tensors without further names of one that is there already."""
    kept: dict[str, Tensor] = {}
    seen = set()
    for name, tensor in state.items():
        if not isinstance(tensor, Tensor) or tensor.is_meta or tensor.layout != torch.strided:
            kind = f"a tensor in {tensor.layout} on {tensor.device}" if isinstance(tensor, Tensor) else type(tensor)
            raise InputError(f"{name}: got {kind}, wanted a dense tensor that holds numbers")
        if safe_serialization and tensor.dtype not in DTYPES.values():
            raise InputError(f"{name}: safetensors files cannot hold {tensor.dtype}; convert the model first")
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride())
        if tensor.numel() == 0 or place not in seen:
            seen.add(place)
            kept[name] = tensor
    return kept


def _shards(tensors: Mapping[str, Tensor], limit: int) -> list[dict[str, Tensor]]:
    """Fill shards in order; one that would exceed the limit is closed first."""
    shards: list[dict[str, Tensor]] = [{}]
    size = 0
    for name, tensor in tensors.items():
        if shards[-1] and size + tensor.nbytes > limit:
            shards.append({})
            size = 0
        shards[-1][name] = tensor
        size += tensor.nbytes
    return shards


def _pack(tensor: Tensor) -> Tensor:
    """The tensor contiguous in main memory, in a storage that holds nothing else."""
    tensor = tensor.detach().resolve_conj().resolve_neg().cpu().contiguous()
    return tensor if tensor.untyped_storage().nbytes() == tensor.nbytes else tensor.clone()


def _write(tensors: dict[str, Tensor], path: Path, safe_serialization: bool, metadata: dict[str, str]) -> None:
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    try:
        if safe_serialization:
            path.touch()
            usual = stat.S_IMODE(path.stat().st_mode)
            save_file(tensors, str(path), metadata=metadata)
            path.chmod(usual)  # the library makes its files readable by their owner alone
        else:
            torch.save(tensors, path)
    except (SafetensorError, RuntimeError) as error:  # what the two libraries make of a failed write
        reason = (str(error).splitlines() or ["unknown reason"])[0]
        raise FileError(
            f"{path.name}: cannot be written: {reason}; the checkpoint that was there is unchanged"
        ) from error
