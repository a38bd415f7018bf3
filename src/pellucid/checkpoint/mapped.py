"""A file mapped into memory, and tensors that are views of it."""

from __future__ import annotations

import math
import mmap
import os
import sys
from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.errors import FileError
from pellucid.files import StrPath, open_regular


class MappedFile:
    """One private mapping of one file: bytes are read when first used, and writing to a tensor copies its page.

    The tensors keep the mapping alive; the file may be replaced or deleted meanwhile.

    Raises:
        FileError: not an ordinary file (see `open_regular`), or no address space left for it.
    """

    def __init__(self, path: StrPath) -> None:
        self.path = str(path)
        with open_regular(path) as file:
            self.size = os.fstat(file.fileno()).st_size
            """Bytes in the file."""
            try:
                self.bytes = _map(file.fileno()) if self.size else bytearray()  # an empty file cannot be mapped
            except OSError as error:
                raise FileError(f"{path}: {self.size:,} bytes cannot be mapped: {error.strerror or error}") from error

    def check_not_pointer(self) -> None:
        """Refuse a Git LFS pointer, which is what a clone without LFS holds in place of each large file."""
        if self.bytes[:24] == b"version https://git-lfs.":
            raise FileError(f"{self.path}: a Git LFS pointer, not the weights; run `git lfs pull` in its folder")

    def tensor(self, dtype: torch.dtype, shape: Sequence[int], offset: int) -> Tensor:
        """The tensor of `shape` at byte `offset`, which the caller has checked to lie inside the file.

        A view of the mapping with a storage of its own; a copy where the offset does not suit the number format.
        """
        count = math.prod(shape)
        if count == 0:
            return torch.empty(tuple(shape), dtype=dtype)
        if offset % dtype.itemsize:
            copied = bytearray(self.bytes[offset : offset + count * dtype.itemsize])
            return torch.frombuffer(copied, dtype=dtype).view(shape)
        return torch.frombuffer(self.bytes, dtype=dtype, count=count, offset=offset).view(shape)


def _map(descriptor: int) -> mmap.mmap:
    """A private, writable mapping of a whole file."""
    if sys.platform != "linux":
        return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY)
    # Without MAP_NORESERVE (its number is in the mmap module from Python 3.13 on) Linux wants memory for a copy of
    # every page to be there from the start, and refuses files that are larger than it.
    flags = mmap.MAP_PRIVATE | 0x4000
    return mmap.mmap(descriptor, 0, flags=flags, prot=mmap.PROT_READ | mmap.PROT_WRITE)
