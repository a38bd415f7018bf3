"""A reader for `pytorch_model.bin` that knows tables of tensors and nothing else.

Such a file is a pickle: a small program for a stack machine, which in general may call any function. Here its
instructions are carried out by hand, only those that a table of tensors needs. The names it mentions are compared
with a fixed list and never imported; everything else in the file is refused, with nothing executed.

Both forms are read: the zip file of torch 1.6 and later, and the older one of several pickles followed by the numbers.
"""

from __future__ import annotations

import pickletools
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import IO, Any, NamedTuple, cast

import torch
from torch import Tensor

from pellucid.checkpoint.mapped import MappedFile
from pellucid.checkpoint.torch_zip import Record, zip_records
from pellucid.errors import FileError
from pellucid.files import MB, StrPath, quoted

PICKLE_LIMIT = 64 * MB
"""Longest pickle, in bytes; a tensor takes about 200."""
STEP_LIMIT = 2_000_000
"""Most instructions in a pickle; a tensor takes about 40."""
MAX_DIMS = 64

STORAGES: dict[str, torch.dtype] = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "UntypedStorage": torch.uint8,
}
_DTYPES = ("float8_e4m3fn", "float8_e5m2", "uint16", "uint32", "uint64")  # these have no storage class of their own
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001


class Name(NamedTuple):
    """A name that a pickle mentions: only ever compared, never looked up."""

    text: str


class Storage(NamedTuple):
    """A run of numbers in the file: which one, their format, how many, and the first one used."""

    key: str
    dtype: torch.dtype
    length: int
    first: int = 0
    root_length: int = 0
    """Numbers in the whole run, where this is a part of one."""


class TensorRecord(NamedTuple):
    """What a pickle says about a tensor; checked against its storage already."""

    storage: Storage
    dtype: torch.dtype
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_torch_bin(path: StrPath) -> dict[str, Tensor]:
    """The tensors of a `pytorch_model.bin` by name, as views of the file.

    Tensors that share memory in the file share it here.

    Raises:
        FileError: damaged, or holds anything but a flat table from names to tensors.
    """
    file = MappedFile(path)
    file.check_not_pointer()
    try:
        if file.bytes[:4] == b"PK\x03\x04":
            return _read_zip(file)
        if file.bytes[:1] == b"\x80":
            return _read_legacy(file)
    except (ValueError, TypeError, IndexError, OverflowError, struct.error) as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{path}: the list of tensors is damaged: {str(error).splitlines()[0][:80]}") from error
    raise FileError(f"{path}: not a file of torch: wanted a zip file or a pickle, got {quoted(bytes(file.bytes[:8]))}")


# ---------------------------------------------------------------------- the two forms


def _read_zip(file: MappedFile) -> dict[str, Tensor]:
    records = zip_records(file)
    tables = [name for name in records if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(tables) != 1:
        raise FileError(f"{file.path}: got {len(tables)} records named data.pkl, wanted one")
    folder = tables[0].removesuffix("data.pkl")
    if f"{folder}constants.pkl" in records:
        raise FileError(f"{file.path}: a TorchScript program, wanted a table of tensors")
    order = records.get(f"{folder}byteorder")
    swap = order is not None and _contents(file, order) == b"big"
    if order is not None and not swap and _contents(file, order) != b"little":
        raise FileError(f"{file.path}: byteorder: got {quoted(_contents(file, order))}, wanted 'little' or 'big'")
    pickle = records[tables[0]]
    if pickle.size > PICKLE_LIMIT:
        raise FileError(f"{file.path}: data.pkl: {pickle.size:,} bytes, at most {PICKLE_LIMIT:,} are read")
    data = _contents(file, pickle)
    if zlib.crc32(data) != pickle.crc:
        raise FileError(f"{file.path}: data.pkl: the checksum does not fit; the file is damaged")
    table = _Machine(f"{file.path}: data.pkl").run(_Window(data))
    places = {}
    for storage in _storages(table, file.path):
        record = records.get(f"{folder}data/{storage.key}")
        wanted = storage.length * storage.dtype.itemsize
        if record is None or record.size != wanted:
            found = "none" if record is None else f"{record.size:,} bytes"
            raise FileError(
                f"{file.path}: storage {quoted(storage.key)}: wanted {wanted:,} bytes, the file has {found}"
            )
        places[storage.key] = record.offset
    return _build(file, table, places, swap)


def _contents(file: MappedFile, record: Record) -> bytes:
    return bytes(file.bytes[record.offset : record.offset + record.size])


def _read_legacy(file: MappedFile) -> dict[str, Tensor]:
    window = _Window(file.bytes, limit=min(file.size, PICKLE_LIMIT))

    def unpickle(part: str) -> Any:
        return _Machine(f"{file.path}: {part}").run(window)

    if unpickle("magic number") != _LEGACY_MAGIC or unpickle("protocol") != _LEGACY_PROTOCOL:
        raise FileError(f"{file.path}: not a file of torch: the magic number is another one")
    system = unpickle("system")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise FileError(f"{file.path}: written on a machine with another byte order, wanted little-endian numbers")
    table = unpickle("tensors")
    keys = unpickle("storage keys")
    needed = {storage.key: storage for storage in _storages(table, file.path)}
    if not isinstance(keys, list) or not all(isinstance(key, str) for key in keys):
        raise FileError(f"{file.path}: storage keys: wanted a list of texts")
    if len(set(keys)) != len(keys) or set(keys) != needed.keys():
        raise FileError(f"{file.path}: storage keys: they are not those that the tensors use")
    places, at = {}, window.at
    for key in keys:
        storage = needed[key]
        (count,) = struct.unpack_from("<q", file.bytes, at)
        places[key] = at + 8
        at += 8 + storage.length * storage.dtype.itemsize
        if count != storage.length or at > file.size:
            raise FileError(
                f"{file.path}: storage {quoted(key)}: wanted {storage.length:,} numbers, the file has {count:,} or ends"
            )
    if at != file.size:
        raise FileError(f"{file.path}: {file.size - at:,} bytes follow the last tensor, wanted none")
    return _build(file, table, places, swap=False)


def _storages(table: Any, path: str) -> Iterator[Storage]:
    """Each storage of a table once, after checking that the table is flat and that all its parts agree."""
    if not isinstance(table, dict) or not table:
        raise FileError(
            f"{path}: wanted a table from names to tensors, got {'an empty one' if table == {} else _kind(table)}"
        )
    seen: dict[str, Storage] = {}
    for name, record in table.items():
        if not isinstance(name, str):
            raise FileError(f"{path}: {quoted(name)}: wanted texts as names of tensors")
        if not isinstance(record, TensorRecord):
            nested = "; save that inner table alone" if isinstance(record, dict) else ""
            raise FileError(f"{path}: {quoted(name)}: wanted a tensor, got {_kind(record)}{nested}")
        storage = record.storage
        root = storage._replace(length=storage.root_length or storage.length, first=0, root_length=0)
        if seen.setdefault(storage.key, root) != root:
            raise FileError(f"{path}: {quoted(name)}: its storage is described in two different ways")
    yield from seen.values()


def _build(file: MappedFile, table: dict[str, TensorRecord], places: dict[str, int], swap: bool) -> dict[str, Tensor]:
    """The tensors themselves: one run of numbers for each storage, and views of it."""
    runs: dict[tuple[str, torch.dtype], Tensor] = {}
    tensors = {}
    for name, (storage, dtype, offset, size, stride) in table.items():
        run = runs.get((storage.key, dtype))
        if run is None:
            count = (storage.root_length or storage.length) * storage.dtype.itemsize // dtype.itemsize
            run = file.tensor(dtype, (count,), places[storage.key])
            runs[storage.key, dtype] = run = _swap_bytes(run) if swap else run
        tensors[name] = run.as_strided(size, stride, storage.first + offset)
    return tensors


def _swap_bytes(run: Tensor) -> Tensor:
    """A copy in the other byte order."""
    size = run.dtype.itemsize
    parts = 2 if run.dtype.is_complex else 1  # a complex number is two numbers, each swapped in itself
    swapped = run.view(torch.uint8).view(-1, size // parts).flip(1).contiguous()
    return swapped.view(-1).view(run.dtype)


# ---------------------------------------------------------------------- the stack machine


class _Window:
    """The part of a file that a pickle may be read from, as the file object that `pickletools` wants."""

    def __init__(self, data: Any, limit: int | None = None) -> None:
        self.data = data
        self.limit = len(data) if limit is None else limit
        self.at = 0

    def read(self, count: int) -> bytes:
        begin, self.at = self.at, min(self.at + max(count, 0), self.limit)
        return bytes(self.data[begin : self.at])

    def readline(self) -> bytes:
        end = self.data.find(b"\n", self.at, min(self.at + 4096, self.limit))
        return self.read(4096 if end < 0 else end + 1 - self.at)

    def tell(self) -> int:
        return self.at


_MARK = Name("mark")
_NUMBERS = ["BININT", "BININT1", "BININT2", "INT", "LONG1", "BINFLOAT"]
_TEXTS = ["BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BINSTRING", "SHORT_BINSTRING"]
_PLAIN = frozenset(_NUMBERS + _TEXTS)
_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "MARK": lambda: _MARK,
}


@dataclass
class _Machine:
    """Carries out the instructions of one pickle that build a table of tensors; refuses every other one."""

    source: str

    def run(self, window: _Window) -> Any:
        """The value that the pickle at the window's place describes; the place moves behind it."""
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        for step, (opcode, argument, _) in enumerate(pickletools.genops(cast("IO[bytes]", window))):
            if step >= STEP_LIMIT:
                raise FileError(f"{self.source}: more than {STEP_LIMIT:,} instructions")
            name = opcode.name
            if name in _PLAIN:
                self.stack.append(argument)
            elif name in _CONSTANTS:
                self.stack.append(_CONSTANTS[name]())
            elif name not in ("PROTO", "FRAME", "STOP"):
                action = getattr(self, f"do_{name.lower()}", None)
                if action is None:
                    raise FileError(f"{self.source}: instruction {name} has no place in a table of tensors; refused")
                action(argument)
        if len(self.stack) != 1:
            raise FileError(f"{self.source}: {len(self.stack)} values are left over, wanted one")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        """Take everything above the last mark, and the mark."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                values = self.stack[at + 1 :]
                del self.stack[at:]
                return values
        raise FileError(f"{self.source}: a mark is missing")

    def top(self, kind: type) -> Any:
        """The value on top, which must be a `kind`."""
        if not isinstance(self.stack[-1], kind):
            raise FileError(f"{self.source}: wanted a {kind.__name__} to fill, got {_kind(self.stack[-1])}")
        return self.stack[-1]

    def do_binput(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    do_long_binput = do_put = do_binput

    def do_memoize(self, _: None) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def do_binget(self, index: int) -> None:
        if index not in self.memo:
            raise FileError(f"{self.source}: value {index} is used before it is made")
        self.stack.append(self.memo[index])

    do_long_binget = do_get = do_binget

    def do_tuple(self, _: None) -> None:
        self.stack.append(tuple(self.pop_to_mark()))

    def do_tuple1(self, _: None) -> None:
        self.take_tuple(1)

    def do_tuple2(self, _: None) -> None:
        self.take_tuple(2)

    def do_tuple3(self, _: None) -> None:
        self.take_tuple(3)

    def take_tuple(self, count: int) -> None:
        """Put the last `count` values together."""
        if len(self.stack) < count:
            raise FileError(f"{self.source}: values are missing")
        values = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(values)

    def do_append(self, _: None) -> None:
        value = self.stack.pop()
        self.top(list).append(value)

    def do_appends(self, _: None) -> None:
        values = self.pop_to_mark()
        self.top(list).extend(values)

    def do_setitem(self, _: None) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self.set_items([key, value])

    def do_setitems(self, _: None) -> None:
        self.set_items(self.pop_to_mark())

    def set_items(self, flat: list[Any]) -> None:
        """Put keys and values in turn into the table on top of the stack."""
        table = self.top(dict)
        keys = flat[::2]
        # Only plain keys: comparing nested ones can take time without end.
        if len(flat) % 2 or not all(isinstance(key, str | int) for key in keys):
            raise FileError(f"{self.source}: a table's keys must be texts or numbers")
        table.update(zip(keys, flat[1::2], strict=True))

    def do_global(self, name: str) -> None:
        module, _, attribute = name.partition(" ")
        self.stack.append(self.allowed(module, attribute))

    def do_stack_global(self, _: None) -> None:
        attribute, module = self.stack.pop(), self.stack.pop()
        self.stack.append(self.allowed(module, attribute))

    def allowed(self, module: Any, attribute: Any) -> Name:
        """The name as a mere text, if it is on the list of names that tables of tensors use."""
        if isinstance(module, str) and isinstance(attribute, str):
            full = f"{module}.{attribute}"
            storage = module in ("torch", "torch.storage") and attribute in STORAGES
            if storage or full in _REBUILDERS or (module == "torch" and attribute in _DTYPES):
                return Name(full)
        raise FileError(
            f"{self.source}: it asks for {quoted(f'{module}.{attribute}')}, which a table of tensors has no use for; "
            "refused, nothing was executed; get the model as .safetensors"
        )

    def do_reduce(self, _: None) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or function.text not in _REBUILDERS or not isinstance(arguments, tuple):
            raise FileError(f"{self.source}: a call of {_kind(function)}, which is not on the list; refused")
        self.stack.append(_REBUILDERS[function.text](self.source, arguments))

    def do_build(self, _: None) -> None:
        self.stack.pop()  # attributes of the table itself, such as the versions of its modules: of no use here
        self.top(dict)

    def do_binpersid(self, _: None) -> None:
        self.stack.append(_storage(self.source, self.stack.pop()))


def _kind(value: Any) -> str:
    """What a value is, in one word, without looking inside: it may be nested without end."""
    if isinstance(value, Name):
        return quoted(value.text)
    known = {dict: "a table", type(None): "nothing", TensorRecord: "a tensor", str: "a text", int: "a number"}
    return known.get(type(value), f"a {type(value).__name__.lower()}")


# ---------------------------------------------------------------------- what the calls in a table of tensors mean


def _storage(source: str, description: Any) -> Storage:
    """A storage from `("storage", type, key, device, count)`, with `(key, first, count)` behind in old files."""
    match description:
        case ("storage", Name(text), str(key), str(), int(count)) | (
            "storage",
            Name(text),
            str(key),
            str(),
            int(count),
            None,
        ):
            part = None
        case ("storage", Name(text), str(key), str(), int(count), (str(), int(first), int(size))):
            part = (first, size)
        case _:
            raise FileError(f"{source}: a storage is not described in the known way")
    dtype = STORAGES.get(text.rpartition(".")[2])
    if dtype is None or not 0 <= count < 2**60:
        raise FileError(f"{source}: storage {quoted(key)}: got {quoted(text)} of {quoted(count)} numbers")
    if part is None:
        return Storage(key, dtype, count)
    first, size = part
    if first < 0 or size < 0 or first + size > count:
        raise FileError(f"{source}: storage {quoted(key)}: the part it names lies outside")
    return Storage(key, dtype, size, first, count)


def _tensor(source: str, place: tuple[Any, ...], dtype: torch.dtype | None = None) -> TensorRecord:
    """A tensor, checked to lie inside its storage and to be no larger, from storage, offset, size and stride."""
    storage, offset, size, stride = place
    if not isinstance(storage, Storage):
        raise FileError(f"{source}: a tensor's storage: got {_kind(storage)}")
    for sizes in (size, stride, (offset,)):
        if not isinstance(sizes, tuple) or not all(type(value) is int and 0 <= value < 2**60 for value in sizes):
            raise FileError(f"{source}: a tensor's size, stride or offset: wanted whole numbers from 0")
    if len(size) != len(stride) or len(size) > MAX_DIMS:
        raise FileError(
            f"{source}: a tensor has {len(size)} sizes and {len(stride)} strides, wanted as many, at most 64"
        )
    dtype = dtype or storage.dtype
    available = storage.length * storage.dtype.itemsize // dtype.itemsize
    elements, last = 1, offset
    for length, step in zip(size, stride, strict=True):
        elements *= length
        last += (length - 1) * step
    inside = offset <= available if elements == 0 else last < available and elements <= available
    if not inside:
        raise FileError(f"{source}: a tensor of {elements:,} numbers reaches outside its storage of {available:,}")
    return TensorRecord(storage, dtype, offset, size, stride)


def _rebuild_tensor(source: str, arguments: tuple[Any, ...]) -> TensorRecord:
    if len(arguments) not in (6, 7) or (len(arguments) == 7 and arguments[6]):
        raise FileError(f"{source}: a tensor with {len(arguments)} properties or special ones, wanted a plain one")
    return _tensor(source, arguments[:4])


def _rebuild_tensor_with_dtype(source: str, arguments: tuple[Any, ...]) -> TensorRecord:
    if len(arguments) not in (7, 8) or not isinstance(arguments[6], Name) or (len(arguments) == 8 and arguments[7]):
        raise FileError(f"{source}: a tensor with {len(arguments)} properties or special ones, wanted a plain one")
    name = arguments[6].text.removeprefix("torch.")
    if name not in _DTYPES:
        raise FileError(f"{source}: a tensor of {quoted(name)}, wanted one of {', '.join(_DTYPES)}")
    return _tensor(source, arguments[:4], getattr(torch, name))


def _rebuild_parameter(source: str, arguments: tuple[Any, ...]) -> TensorRecord:
    if not arguments or not isinstance(arguments[0], TensorRecord):
        raise FileError(f"{source}: a parameter without a tensor")
    return arguments[0]


def _ordered_table(source: str, arguments: tuple[Any, ...]) -> dict[Any, Any]:
    if arguments:
        raise FileError(f"{source}: an OrderedDict with {len(arguments)} arguments, wanted an empty one to fill")
    return {}


def _size(source: str, arguments: tuple[Any, ...]) -> tuple[Any, ...]:
    if len(arguments) != 1 or not isinstance(arguments[0], tuple):
        raise FileError(f"{source}: a torch.Size that is not a tuple")
    return arguments[0]


_REBUILDERS: dict[str, Callable[[str, tuple[Any, ...]], Any]] = {
    "collections.OrderedDict": _ordered_table,
    "torch.Size": _size,
    "torch._utils._rebuild_parameter": _rebuild_parameter,
    "torch._utils._rebuild_tensor_v2": _rebuild_tensor,
    "torch._utils._rebuild_tensor_v3": _rebuild_tensor_with_dtype,
}
