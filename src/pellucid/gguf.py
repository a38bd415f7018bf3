"""The GGUF container: what a `.gguf` file says about itself, checked before a single weight is looked at.

A file is: the letters `GGUF`; a version; how many tensors and how many keys there are; the keys with their values; for
each tensor its name, shape, number format and place; the numbers. Nothing is made from a size that the file claims:
texts and lists stay in the file, as places that were found to lie inside it, until they are asked for.

    file = read_gguf("model-q8_0.gguf")
    file.text("general.architecture"), file.tensors["token_embd.weight"].shape
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from pellucid import hub
from pellucid.errors import FileError, strict
from pellucid.files import MB, StrPath, open_regular, quoted

METADATA_LIMIT = 256 * MB
"""Most bytes before the numbers; the largest published vocabularies take 40 MB."""
MAX_KEYS = 100_000
MAX_TENSORS = 100_000
MAX_ITEMS = 4_000_000
"""How many texts and lists all lists of a file may hold together, and how many values a list that is read."""
MAX_DEPTH = 4
"""How deep lists may nest."""
KEY_LENGTH = 1024
ALIGNMENT_LIMIT = MB


class NumberFormat(NamedTuple):
    """A format of tensors: numbers stand in blocks of `block`, each of `size` bytes."""

    name: str
    block: int
    size: int


FORMATS: dict[int, NumberFormat] = {
    number: NumberFormat(name, block, size)
    for number, name, block, size in [
        (0, "F32", 1, 4),
        (1, "F16", 1, 2),
        (2, "Q4_0", 32, 18),
        (3, "Q4_1", 32, 20),
        (6, "Q5_0", 32, 22),
        (7, "Q5_1", 32, 24),
        (8, "Q8_0", 32, 34),
        (9, "Q8_1", 32, 40),
        (10, "Q2_K", 256, 84),
        (11, "Q3_K", 256, 110),
        (12, "Q4_K", 256, 144),
        (13, "Q5_K", 256, 176),
        (14, "Q6_K", 256, 210),
        (15, "Q8_K", 256, 292),
        (16, "IQ2_XXS", 256, 66),
        (17, "IQ2_XS", 256, 74),
        (18, "IQ3_XXS", 256, 98),
        (19, "IQ1_S", 256, 50),
        (20, "IQ4_NL", 32, 18),
        (21, "IQ3_S", 256, 110),
        (22, "IQ2_S", 256, 82),
        (23, "IQ4_XS", 256, 136),
        (24, "I8", 1, 1),
        (25, "I16", 1, 2),
        (26, "I32", 1, 4),
        (27, "I64", 1, 8),
        (28, "F64", 1, 8),
        (29, "IQ1_M", 256, 56),
        (30, "BF16", 1, 2),
        (34, "TQ1_0", 256, 54),
        (35, "TQ2_0", 256, 66),
        (39, "MXFP4", 32, 17),
    ]
}
"""Number of a format in files → what it is."""

_CODES = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "B", 10: "Q", 11: "q", 12: "d"}
"""Kind of a value → how `struct` writes it; the kinds below are the others."""
_FLOAT, _BOOL, _TEXT, _LIST = 6, 7, 8, 9
_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,256}")


class GgufTensor(NamedTuple):
    """Where a tensor stands in the file."""

    format: NumberFormat
    shape: tuple[int, ...]
    """Sizes as PyTorch has them: rows first."""
    offset: int
    """First byte, from the start of the file."""
    nbytes: int


class GgufList:
    """A list in the metadata. It knows its length; its values are read when asked for."""

    def __init__(self, reader: _Reader, kind: int, length: int, start: int) -> None:
        self._reader, self._kind, self._length, self._start = reader, kind, length, start

    def __len__(self) -> int:
        return self._length

    def values(self) -> list[Any]:
        """Texts, numbers, truth values, or lists of those.

        Raises:
            FileError: more than a vocabulary has, or a text that is not UTF-8.
        """
        if self._length > MAX_ITEMS:
            raise FileError(f"{self._reader.path}: a list of {self._length:,} values, at most {MAX_ITEMS:,} are read")
        reader = _Reader(self._reader.path, self._reader.data, self._start)
        if self._kind in (_BOOL, _TEXT, _LIST):
            return [reader.value(self._kind, "list", 1) for _ in range(self._length)]
        return list(struct.unpack_from(f"<{self._length}{_CODES[self._kind]}", reader.data, self._start))


Value = str | int | float | bool | GgufList


class GgufFile:
    """The metadata and the tensors' places of one file.

    Attributes:
        path: the file, for messages.
        metadata: key → value. A float32 is the shortest decimal number that means it.
        tensors: name → where and what it is.
    """

    def __init__(
        self, path: str, data: mmap.mmap, metadata: Mapping[str, Value], tensors: Mapping[str, GgufTensor]
    ) -> None:
        self.path, self._data = path, data
        self.metadata, self.tensors = dict(metadata), dict(tensors)

    def refuse(self, key: str, wanted: str) -> FileError:
        """The error for a key whose value cannot be used."""
        return FileError(f"{self.path}: {key}: got {_shown(self.metadata.get(key))}, wanted {wanted}")

    def text(self, key: str, default: str | None = None) -> str | None:
        """The text under `key`."""
        value = self.metadata.get(key, default)
        if value is not None and not isinstance(value, str):
            raise self.refuse(key, "text")
        return value

    def whole(self, key: str, default: int | None = None) -> int | None:
        """The whole number under `key`."""
        value = self.metadata.get(key, default)
        if value is not None and type(value) is not int:
            raise self.refuse(key, "a whole number")
        return value

    def number(self, key: str, default: float | None = None) -> float | None:
        """The finite number under `key`."""
        value = self.metadata.get(key, default)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise self.refuse(key, "a finite number")
        return value

    def flag(self, key: str, default: bool | None = None) -> bool | None:
        """The truth value under `key`."""
        value = self.metadata.get(key, default)
        if value is not None and not isinstance(value, bool):
            raise self.refuse(key, "true or false")
        return value

    def texts(self, key: str) -> list[str] | None:
        """The list of texts under `key`."""
        found = self._values(key, "a list of texts")
        if found is not None and not all(isinstance(item, str) for item in found):
            raise self.refuse(key, "a list of texts")
        return found

    def numbers(self, key: str) -> list[Any] | None:
        """The list of finite numbers under `key`."""
        found = self._values(key, "a list of numbers")
        if found is not None and not all(type(item) in (int, float) and math.isfinite(item) for item in found):
            raise self.refuse(key, "a list of finite numbers")
        return found

    def _values(self, key: str, wanted: str) -> list[Any] | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, GgufList):
            raise self.refuse(key, wanted)
        return value.values()

    def floats(self, name: str, limit: int = 4096) -> list[float]:
        """The numbers of a small float32 tensor, such as a table of rotary factors."""
        if (tensor := self.tensors.get(name)) is None:
            raise FileError(f"{self.path}: {quoted(name)}: the tensor is missing")
        count = math.prod(tensor.shape)
        if tensor.format.name != "F32" or count > limit:
            raise FileError(
                f"{self.path}: {quoted(name)}: got {list(tensor.shape)} in {tensor.format.name}, "
                f"wanted at most {limit:,} numbers in F32"
            )
        return list(struct.unpack_from(f"<{count}f", self._data, tensor.offset))


@strict
def find_gguf(name_or_path: StrPath, gguf_file: str | None, **where: Any) -> Path | None:
    """The GGUF file that is meant, or `None` if none is.

    Args:
        name_or_path: a folder or a name on the Hub, or the path of a `.gguf` file itself.
        gguf_file: name of the file in the folder or repository.
        where: keywords of `hub.resolve_file`.

    Raises:
        FileError, HubError: there is no such file, or it cannot be had.
    """
    if gguf_file is not None:
        return hub.resolve_file(name_or_path, gguf_file, **where)
    path = Path(name_or_path).expanduser()
    return path if path.suffix == ".gguf" and hub.is_local(name_or_path) and path.is_file() else None


@strict
def read_gguf(path: StrPath) -> GgufFile:
    """What a `.gguf` file holds, completely checked; its numbers are not touched.

    Raises:
        FileError: the file breaks a rule of the format, naming the key or tensor and the rule.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size < 24:
            raise FileError(f"{path}: got {size} bytes, wanted a GGUF file; is the download complete?")
        try:
            data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError as error:
            raise FileError(f"{path}: {size:,} bytes cannot be mapped: {error.strerror or error}") from error
    if data[:24] == b"version https://git-lfs.":
        raise FileError(f"{path}: a Git LFS pointer, not the weights; run `git lfs pull` in its folder")
    if data[:4] != b"GGUF":
        raise FileError(f"{path}: got {quoted(data[:4])} first, wanted the letters GGUF; is it another format?")
    reader = _Reader(str(path), data, 4)
    version = reader.number("I", "version")
    if version not in (2, 3):
        swapped = version in (2 << 24, 3 << 24)
        hint = "the file is for big-endian machines" if swapped else "convert the model again"
        raise FileError(f"{path}: version: got {version}, wanted 2 or 3; {hint}")
    tensor_count = reader.count("tensors", MAX_TENSORS)
    key_count = reader.count("keys", MAX_KEYS)
    metadata: dict[str, Value] = {}
    for index in range(key_count):
        key = reader.text(f"key {index:,}", KEY_LENGTH)
        if not key or key in metadata:
            raise FileError(f"{path}: key {quoted(key)}: {'it stands twice' if key else 'wanted a name'}")
        metadata[key] = reader.value(reader.number("I", f"{quoted(key)}: kind"), quoted(key))
    entries = [reader.entry(index) for index in range(tensor_count)]
    found = GgufFile(str(path), data, metadata, _places(entries, metadata, reader))
    if (parts := found.whole("split.count", 1)) != 1:
        raise FileError(f"{path}: split.count: got {parts} files, wanted the whole model in one; merge them first")
    return found


class _Reader:
    """Reads values one after another and never past the end."""

    def __init__(self, path: str, data: mmap.mmap, position: int) -> None:
        self.path, self.data, self.position = path, data, position
        self.end = min(len(data), METADATA_LIMIT)
        self.items = 0

    def skip(self, size: int, where: str) -> int:
        """Step over `size` bytes and return where they begin."""
        start = self.position
        if size > self.end - start:
            reason = f"at most {METADATA_LIMIT:,} bytes of metadata are read"
            if self.end == len(self.data):
                reason = f"the file ends after {self.end - start:,} more; is the download complete?"
            raise FileError(f"{self.path}: {where}: {size:,} bytes are needed, {reason}")
        self.position = start + size
        return start

    def number(self, code: str, where: str) -> Any:
        start = self.skip(struct.calcsize(f"<{code}"), where)
        return struct.unpack_from(f"<{code}", self.data, start)[0]

    def count(self, what: str, limit: int) -> int:
        count: int = self.number("Q", what)
        if count > limit:
            raise FileError(f"{self.path}: the file says it has {count:,} {what}, at most {limit:,} are read")
        return count

    def text(self, where: str, limit: int = METADATA_LIMIT) -> str:
        length: int = self.number("Q", where)
        if length > limit:
            raise FileError(f"{self.path}: {where}: a text of {length:,} bytes, at most {limit:,} are read here")
        start = self.skip(length, where)
        try:
            return self.data[start : start + length].decode("utf-8")
        except UnicodeDecodeError as error:
            raise FileError(f"{self.path}: {where}: byte {start + error.start:,} is not UTF-8 text") from error

    def value(self, kind: int, where: str, depth: int = 0) -> Value:
        """The value of a kind at the current place; a list stays where it is."""
        if kind == _TEXT:
            return self.text(where)
        if kind == _LIST:
            return self.list(where, depth + 1)
        if kind not in _CODES:
            raise FileError(f"{self.path}: {where}: the unknown kind {kind} of value, wanted 0 to 12")
        number: int | float = self.number(_CODES[kind], where)
        if kind == _BOOL:
            if number not in (0, 1):
                raise FileError(f"{self.path}: {where}: got the byte {number}, wanted 0 or 1 for a truth value")
            return bool(number)
        return _shortest(number) if kind == _FLOAT else number

    def list(self, where: str, depth: int) -> GgufList:
        """Step over a list, checking that all of it lies in the file."""
        if depth > MAX_DEPTH:
            raise FileError(f"{self.path}: {where}: lists nest deeper than {MAX_DEPTH} levels")
        kind: int = self.number("I", where)
        length: int = self.number("Q", where)
        start = self.position
        if kind in _CODES:
            self.skip(length * struct.calcsize(f"<{_CODES[kind]}"), where)
            return GgufList(self, kind, length, start)
        if kind not in (_TEXT, _LIST):
            raise FileError(f"{self.path}: {where}: a list of the unknown kind {kind}, wanted 0 to 12")
        self.items += length
        if self.items > MAX_ITEMS:
            raise FileError(f"{self.path}: {where}: its lists hold more than {MAX_ITEMS:,} texts and lists")
        for _ in range(length):
            if kind == _LIST:
                self.list(where, depth + 1)
            else:
                self.skip(self.number("Q", where), where)
        return GgufList(self, kind, length, start)

    def entry(self, index: int) -> tuple[str, NumberFormat, tuple[int, ...], int]:
        """Name, format, shape and offset of one tensor."""
        name = self.text(f"tensor {index:,}", KEY_LENGTH)
        where = f"{self.path}: {quoted(name)}"
        if not _NAME.fullmatch(name):
            raise FileError(f"{where}: wanted a tensor name of letters, digits, '.', '_', ':' and '-'")
        dims: int = self.number("I", quoted(name))
        if not 1 <= dims <= 4:
            raise FileError(f"{where}: got {dims} axes, wanted 1 to 4")
        shape = tuple(reversed([self.number("Q", quoted(name)) for _ in range(dims)]))
        number: int = self.number("I", quoted(name))
        if number not in FORMATS:
            raise FileError(f"{where}: the unknown number format {number}; save the model as Q8_0 or F16")
        form = FORMATS[number]
        if 0 in shape or shape[-1] % form.block:
            raise FileError(f"{where}: got shape {quoted(list(shape))}, wanted rows of whole blocks of {form.block}")
        return name, form, shape, self.number("Q", quoted(name))


def _shortest(value: float) -> float:
    """The shortest decimal number that is this float32: 1e-05 and not 9.99999974e-06."""
    if math.isfinite(value):
        for digits in range(6, 9):
            short = float(f"{value:.{digits}g}")
            if struct.pack("<f", short) == struct.pack("<f", value):
                return short
    return value


def _places(
    entries: list[tuple[str, NumberFormat, tuple[int, ...], int]], metadata: Mapping[str, Value], reader: _Reader
) -> dict[str, GgufTensor]:
    """Where the tensors stand, after checking that each is aligned, inside the file and on its own."""
    path = reader.path
    alignment = metadata.get("general.alignment", 32)
    if type(alignment) is not int or alignment.bit_count() != 1 or not 8 <= alignment <= ALIGNMENT_LIMIT:
        raise FileError(f"{path}: general.alignment: got {_shown(alignment)}, wanted a power of two from 8")
    start = -(-reader.position // alignment) * alignment
    available = len(reader.data) - start
    tensors: dict[str, GgufTensor] = {}
    reached = 0
    for name, form, shape, offset in sorted(entries, key=lambda entry: entry[3]):
        where = f"{path}: {quoted(name)}"
        if name in tensors:
            raise FileError(f"{where}: the tensor stands twice in the file")
        nbytes = math.prod(shape) // form.block * form.size
        if offset % alignment:
            raise FileError(f"{where}: it begins at {offset:,}, wanted a multiple of {alignment}")
        if offset < reached:
            raise FileError(f"{where}: it begins at {offset:,}, which overlaps another tensor ({reached:,})")
        reached = offset + nbytes
        if reached > available:
            raise FileError(
                f"{where}: {quoted(list(shape))} in {form.name} at {offset:,} needs {reached:,} bytes, "
                f"the file has {max(available, 0):,}; is the download complete?"
            )
        tensors[name] = GgufTensor(form, shape, start + offset, nbytes)
    return tensors


def _shown(value: object) -> str:
    return f"a list of {len(value):,}" if isinstance(value, GgufList) else quoted(value)
