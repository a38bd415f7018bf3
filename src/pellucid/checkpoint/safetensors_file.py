"""The safetensors format, checked completely before a single byte of weights is looked at.

A file is: 8 bytes with the length of the header; the header, a JSON object from tensor names to number format, shape
and place; the numbers. The places must tile the rest of the file: no overlap, no hole, nothing behind the last one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pellucid.checkpoint.mapped import MappedFile
from pellucid.errors import FileError
from pellucid.files import StrPath, parse_json, quoted

HEADER_LIMIT = 100_000_000
"""Longest header, in bytes; the limit that the format itself sets."""
MAX_DIMS = 64
"""Most axes a tensor may have; the limit of torch."""

DTYPES: dict[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U64": torch.uint64,
    "U32": torch.uint32,
    "U16": torch.uint16,
    "U8": torch.uint8,
    "BOOL": torch.bool,
    "C64": torch.complex64,
}


class MappedTensor(NamedTuple):
    """A tensor in a mapped file, not yet made."""

    file: MappedFile
    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int

    def load(self) -> Tensor:
        """The tensor; its numbers are read from the file when first used."""
        return self.file.tensor(self.dtype, self.shape, self.offset)


def read_safetensors(path: StrPath) -> tuple[dict[str, MappedTensor], dict[str, str]]:
    """The tensors of a safetensors file by name, and its metadata.

    Raises:
        FileError: the file breaks a rule of the format, naming the tensor and the rule.
    """
    file = MappedFile(path)
    file.check_not_pointer()
    if file.size < 10:
        raise FileError(f"{path}: got {file.size} bytes, wanted a safetensors file; is the download complete?")
    length = int.from_bytes(file.bytes[:8], "little")
    if length > min(HEADER_LIMIT, file.size - 8):
        raise FileError(
            f"{path}: header: the file says {length:,} bytes, but has {file.size - 8:,} and at most {HEADER_LIMIT:,} "
            "are allowed; it is not a safetensors file or its download is incomplete"
        )
    try:
        text = file.bytes[8 : 8 + length].decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: header: byte {error.start:,} is not UTF-8 text") from error
    if not text.startswith("{"):
        raise FileError(f"{path}: header: got {quoted(text[:1])} first, wanted '{{'")
    header = parse_json(text, f"{path}: header")
    metadata = _check_metadata(header.pop("__metadata__", {}), path)
    start, places = 8 + length, []
    tensors = {}
    for name, entry in header.items():
        dtype, shape, begin, end = _check_entry(name, entry, f"{path}: {quoted(name)}")
        tensors[name] = MappedTensor(file, dtype, shape, start + begin)
        places.append((begin, end, name))
    _check_tiling(places, file.size - start, path)
    return tensors, metadata


def _check_metadata(metadata: Any, path: StrPath) -> dict[str, str]:
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise FileError(f"{path}: header: __metadata__: wanted an object with texts only")
    return metadata


def _check_entry(name: str, entry: Any, where: str) -> tuple[torch.dtype, tuple[int, ...], int, int]:
    """The entry's number format, shape, first byte and end, after checking that they agree with each other."""
    if not isinstance(entry, dict) or entry.keys() != {"dtype", "shape", "data_offsets"}:
        raise FileError(f"{where}: wanted an object with dtype, shape and data_offsets")
    dtype = DTYPES.get(entry["dtype"]) if isinstance(entry["dtype"], str) else None
    if dtype is None:
        raise FileError(f"{where}: dtype: got {quoted(entry['dtype'])}, wanted one of {', '.join(DTYPES)}")
    shape, offsets = entry["shape"], entry["data_offsets"]
    if not _are_sizes(shape) or len(shape) > MAX_DIMS:
        raise FileError(f"{where}: shape: got {quoted(shape)}, wanted at most {MAX_DIMS} whole numbers from 0")
    if not _are_sizes(offsets) or len(offsets) != 2:
        raise FileError(f"{where}: data_offsets: got {quoted(offsets)}, wanted two whole numbers from 0")
    begin, end = offsets
    wanted = math.prod(shape) * dtype.itemsize
    if end - begin != wanted:
        raise FileError(
            f"{where}: data_offsets: {begin} to {end} are {end - begin} bytes, "
            f"but shape {quoted(shape)} in {entry['dtype']} needs {wanted}"
        )
    return dtype, tuple(shape), begin, end


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and 0 <= value < 2**63 for value in values)


def _check_tiling(places: list[tuple[int, int, str]], available: int, path: StrPath) -> None:
    """Refuse overlaps, holes and bytes that belong to no tensor."""
    reached = 0
    for begin, end, name in sorted(places):
        if begin != reached:
            problem = "overlaps another tensor" if begin < reached else "leaves a hole before it"
            raise FileError(f"{path}: {quoted(name)}: data_offsets: it begins at {begin}, which {problem} ({reached})")
        reached = end
    if reached != available:
        problem = "the download is incomplete" if reached > available else "nothing may follow the tensors"
        raise FileError(f"{path}: the tensors need {reached:,} bytes, the file has {available:,}; {problem}")
