"""Weights from files into modules: which files, what is in them, which tensor goes where, and what was left over.

`find_weights` names the files, `Checkpoint.open` checks and maps them, `load_into` gives their tensors to a module
that was built on the meta device, and its `LoadingReport` says what is new, unused or of another shape. Nothing is
copied: a tensor's numbers are read from the file when they are first used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor, nn

from pellucid.checkpoint.gguf_tensors import GgufWeight, read_gguf_tensors
from pellucid.checkpoint.int8_rows import SCALE, dequantize_rows, quantize_rows, quantize_state, wants_int8_rows
from pellucid.checkpoint.safetensors_file import MappedTensor, read_safetensors
from pellucid.checkpoint.save_weights import save_state, weight_names
from pellucid.checkpoint.torch_bin import read_torch_bin
from pellucid.config import PretrainedConfig
from pellucid.errors import ConfigError, FileError, InputError, strict
from pellucid.files import MB, quoted, read_json, safe_name

__all__ = [
    "Checkpoint",
    "LoadingReport",
    "WeightFiles",
    "check_config_against",
    "dequantize_rows",
    "find_weights",
    "load_into",
    "quantize_rows",
    "quantize_state",
    "save_state",
    "wants_int8_rows",
]

INDEX_LIMIT = 64 * MB
MAX_SHARDS = 10_000
MAX_NEW = 4
"""Tensors that a checkpoint lacks may take this many times the memory of its files (or of 64 MB)."""

COMPUTED = ("*position_ids", "*rotary_emb.inv_freq")
"""Tables that old checkpoints hold and models compute by themselves."""
MAX_SHARING = 8
"""Tensors of a `.bin` file that share memory may add up to this many times its size."""

# ---------------------------------------------------------------------- which files


class WeightFiles(list[Path]):
    """The files of one checkpoint, in order; `weight_map` holds what its index says, if it has one."""

    weight_map: Mapping[str, str]
    """Tensor name → name of the file that it should be in."""

    def __init__(self, files: Iterable[Path], weight_map: Mapping[str, str] | None = None) -> None:
        super().__init__(files)
        self.weight_map = weight_map or {}


@strict
def find_weights(
    resolve: Callable[[str], Path | None],
    *,
    use_safetensors: bool | None = None,
    variant: str | None = None,
    source: str = "checkpoint",
) -> WeightFiles:
    """The weight files of a checkpoint: one file, or all shards that its index names.

    Looked for in this order: `model.safetensors`, `model.safetensors.index.json`, `pytorch_model.bin`,
    `pytorch_model.bin.index.json`.

    Args:
        resolve: from a file name in the checkpoint to a local path, or `None` if there is no such file.
        use_safetensors: `True` for safetensors only, `False` for `.bin` only, `None` for whatever is there.
        variant: part of the file names, as in `model.fp16.safetensors`.
        source: the checkpoint's name, for messages.

    Raises:
        FileError: no weights, a damaged index, an index that names a file outside the folder or a missing one.
    """
    if use_safetensors not in (None, True, False):
        raise InputError(f"use_safetensors: got {quoted(use_safetensors)}, wanted True, False or None")
    kinds = ["safetensors", "bin"] if use_safetensors is None else ["safetensors" if use_safetensors else "bin"]
    tried = []
    for kind in kinds:
        single, _, index = weight_names(kind, variant)
        if (path := resolve(single)) is not None:
            return WeightFiles([path])
        if (path := resolve(index)) is not None:
            return _read_index(path, resolve, kind)
        tried += [single, index]
    only = "" if use_safetensors is None else f" (use_safetensors={use_safetensors} excludes other forms)"
    raise FileError(f"{source}: no weights found: looked for {', '.join(tried)}{only}")


def _read_index(path: Path, resolve: Callable[[str], Path | None], kind: str) -> WeightFiles:
    index = read_json(path, INDEX_LIMIT)
    weight_map = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise FileError(f"{path}: weight_map: wanted an object from tensor names to file names")
    names = {safe_name(name, f"{path}: weight_map") for name in weight_map.values() if isinstance(name, str)}
    if not all(isinstance(name, str) for name in weight_map.values()) or len(names) > MAX_SHARDS:
        raise FileError(f"{path}: weight_map: wanted a file name for each tensor and at most {MAX_SHARDS:,} files")
    files = []
    for name in sorted(names):
        if not name.endswith(f".{kind}"):
            raise FileError(f"{path}: weight_map: got {quoted(name)}, wanted names that end with .{kind}")
        if (file := resolve(name)) is None:
            raise FileError(f"{path}: weight_map: there is no file {quoted(name)}; the checkpoint is incomplete")
        files.append(file)
    return WeightFiles(files, weight_map)


# ---------------------------------------------------------------------- what is in them

Stored = MappedTensor | GgufWeight | Tensor


class Checkpoint:
    """The tensors of one or several weight files, mapped and checked, none of them read yet.

    Attributes:
        source: the first file, for messages.
        shapes: tensor name → shape.
        dtypes: tensor name → number format.
        metadata: the texts in the header of a safetensors file.
        file_bytes: bytes of the files.
    """

    def __init__(
        self, tensors: Mapping[str, Stored], metadata: Mapping[str, str], source: str, file_bytes: int
    ) -> None:
        self._tensors = dict(tensors)
        self._scales: dict[str, Stored] = {}
        self.metadata = dict(metadata)
        self.source = source
        self.file_bytes = file_bytes
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self._tensors.items()}
        self.dtypes = {name: tensor.dtype for name, tensor in self._tensors.items()}

    @classmethod
    @strict
    def open(cls, files: Sequence[Path], *, int8_rows: bool = False) -> Self:
        """Map `.safetensors`, `.bin` and `.gguf` files.

        Args:
            files: from `find_weights`, or any files; those of one checkpoint hold each name once.
            int8_rows: matrices stand as 8-bit rows with scales (see `int8_rows.py`); they appear as float32.

        Raises:
            FileError: a file is damaged, two files hold the same name, or the index does not fit the files.
        """
        if not files:
            raise FileError("checkpoint: got no weight files, wanted at least one")
        tensors: dict[str, Stored] = {}
        metadata: dict[str, str] = {}
        weight_map = files.weight_map if isinstance(files, WeightFiles) else {}
        file_bytes = 0
        for path in map(Path, files):
            found: Mapping[str, Stored]
            if path.suffix == ".safetensors":
                found, texts = read_safetensors(path)
                metadata.update(texts)
            elif path.suffix == ".bin":
                found = read_torch_bin(path)
            elif path.suffix == ".gguf":
                found = read_gguf_tensors(path)
            else:
                raise FileError(f"{path}: wanted a .safetensors, .bin or .gguf file")
            if twice := found.keys() & tensors.keys():
                raise FileError(f"{path}: {quoted(min(twice))}: the tensor is in another file of the checkpoint too")
            for name, place in weight_map.items():
                if place == path.name and name not in found:
                    raise FileError(f"{path}: {quoted(name)}: the index says the tensor is here, and it is not")
            tensors.update(found)
            file_bytes += path.stat().st_size
        checkpoint = cls(tensors, metadata, str(files[0]), file_bytes)
        may_share = any(isinstance(tensor, Tensor) for tensor in tensors.values())
        if may_share and checkpoint.nbytes > MAX_SHARING * file_bytes:
            raise FileError(
                f"{files[0]}: its tensors claim {checkpoint.nbytes:,} bytes by sharing the {file_bytes:,} of the file, "
                f"at most {MAX_SHARING} times as much is allowed"
            )
        if int8_rows:
            checkpoint._join_scales()
        return checkpoint

    def _join_scales(self) -> None:
        """Show each pair of int8 matrix and scales as one float32 matrix."""
        for name in [name for name, dtype in self.dtypes.items() if dtype == torch.int8]:
            shape, scale = self.shapes[name], self._tensors.get(name + SCALE)
            if scale is None or len(shape) != 2 or tuple(scale.shape) != shape[:1] or not scale.dtype.is_floating_point:
                found = "none" if scale is None else f"{list(scale.shape)} in {scale.dtype}"
                raise FileError(f"{self.source}: {quoted(name)}: 8-bit rows {list(shape)} with scales: {found}")
            self._scales[name] = self._tensors.pop(name + SCALE)
            self.shapes.pop(name + SCALE)
            self.dtypes.pop(name + SCALE)
            self.dtypes[name] = torch.float32

    @property
    def nbytes(self) -> int:
        """Bytes of all tensors together, as they stand in the files."""
        parts = [*self._tensors.values(), *self._scales.values()]
        return sum(math.prod(part.shape) * part.dtype.itemsize for part in parts)

    @property
    def main_dtype(self) -> torch.dtype:
        """The floating-point format that most numbers have; float32 if none is floating-point."""
        counts: dict[torch.dtype, int] = {}
        for name, dtype in self.dtypes.items():
            if dtype.is_floating_point:
                counts[dtype] = counts.get(dtype, 0) + math.prod(self.shapes[name])
        return max(counts, key=lambda dtype: counts[dtype], default=torch.float32)

    @strict
    def tensor(self, name: str, dtype: torch.dtype | None = None) -> Tensor:
        """One tensor: a view of the file, or a copy where `dtype` is another one or the file holds quantized numbers.

        Raises:
            FileError: there is no such tensor.
        """
        if name not in self._tensors:
            raise FileError(f"{self.source}: there is no tensor {quoted(name)}")
        if name in self._scales:
            return dequantize_rows(_made(self._tensors[name]), _made(self._scales[name]), dtype or torch.float32)
        stored = self._tensors[name]
        if isinstance(stored, GgufWeight):
            return stored.load(dtype)
        tensor = _made(stored)
        return tensor if dtype is None else tensor.to(dtype)

    def __contains__(self, name: object) -> bool:
        return name in self._tensors

    def __len__(self) -> int:
        return len(self._tensors)


def _made(tensor: Stored) -> Tensor:
    return tensor if isinstance(tensor, Tensor) else tensor.load()


_SIZE_ENDINGS = ("_size", "dim", "_embd", "d_model", "d_ff", "d_kv")


@strict
def check_config_against(checkpoint: Checkpoint, config: PretrainedConfig) -> None:
    """Refuse a configuration whose sizes the weight files cannot hold, before anything is built from it.

    A model needs at least one tensor for each layer (or group of them), and a tensor at least as large as each of its
    sizes; small numbers are let through, because the shapes are compared one by one later.

    Raises:
        ConfigError: names the field, its value and what the files hold.
    """
    largest = max((math.prod(shape) for shape in checkpoint.shapes.values()), default=0)
    for name in type(config).fields():
        value = getattr(config, name)
        if isinstance(value, PretrainedConfig):  # of a part
            check_config_against(checkpoint, value)
        if type(value) is not int:
            continue
        if ("layer" in name or "group" in name) and value > max(128, len(checkpoint)):
            held = f"{len(checkpoint):,} tensors"
        elif name.endswith(_SIZE_ENDINGS) and value > max(2**20, largest):
            held = f"no tensor of more than {largest:,} numbers"
        else:
            continue
        raise ConfigError(f"config.json: {name}: got {value:,}, but the weights in {checkpoint.source} have {held}")


# ---------------------------------------------------------------------- what became of it


@dataclass
class LoadingReport:
    """What happened when a checkpoint was loaded; `print` it for the verdict."""

    source: str
    """The checkpoint's name."""
    total: int = 0
    """Tensors the model has."""
    missing_keys: list[str] = field(default_factory=list)
    """Tensors of the model that the checkpoint lacks: they start from random numbers."""
    unexpected_keys: list[str] = field(default_factory=list)
    """Tensors of the checkpoint that the model has no place for."""
    mismatched_keys: list[tuple[str, tuple[int, ...], tuple[int, ...]]] = field(default_factory=list)
    """Name, shape in the file and shape in the model of tensors that start from random numbers because they differ."""
    to_initialize: list[str] = field(default_factory=list)
    """Parameters that are still on the meta device: the missing, the mismatched, and those missing in silence."""

    @property
    def loaded(self) -> int:
        """Tensors of the model that came from the checkpoint."""
        return self.total - len(self.to_initialize)

    @property
    def clean(self) -> bool:
        """Whether model and checkpoint fit without a remainder."""
        return not (self.missing_keys or self.unexpected_keys or self.mismatched_keys)

    @property
    def verdict(self) -> str:
        """One line: how much was loaded, what is untrained, what was not used."""
        parts = [f"loaded {self.loaded} of {self.total} tensors from {self.source}"]
        if self.missing_keys:
            parts.append(f"new and untrained: {_listed(self.missing_keys)} (train before use)")
        if self.mismatched_keys:
            changed = [f"{name} (file {list(old)}, model {list(new)})" for name, old, new in self.mismatched_keys]
            parts.append(f"untrained because of another shape: {_listed(changed)} (train before use)")
        if self.unexpected_keys:
            parts.append(f"not used: {_listed(self.unexpected_keys)}")
        return "; ".join(parts)

    def note_brought(self, names: Collection[str]) -> None:
        """Tensors that another file has brought, such as an adapter's head: they are not missing any more."""
        self.missing_keys = [name for name in self.missing_keys if name not in names]
        self.mismatched_keys = [one for one in self.mismatched_keys if one[0] not in names]
        self.to_initialize = [name for name in self.to_initialize if name not in names]

    def as_dict(self) -> dict[str, Any]:
        """The lists under the names that `output_loading_info=True` gives them."""
        return {
            "missing_keys": list(self.missing_keys),
            "unexpected_keys": list(self.unexpected_keys),
            "mismatched_keys": list(self.mismatched_keys),
            "error_msgs": [],
        }

    def __str__(self) -> str:
        return self.verdict


def _listed(names: Sequence[str], limit: int = 4) -> str:
    """The first few names in one line, escaped where they come from a file, and how many more there are."""
    shown = [name if name.isprintable() and len(name) < 120 else quoted(name) for name in names[:limit]]
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(shown) + more


# ---------------------------------------------------------------------- into a module


@dataclass
class _Place:
    """One tensor that a module wants, and every attribute that means it."""

    name: str
    tensor: Tensor
    holders: list[tuple[nn.Module, str]]
    files: list[str] = field(default_factory=list)
    """Names in the checkpoint that belong here, the best one first."""

    @property
    def is_parameter(self) -> bool:
        return isinstance(self.tensor, nn.Parameter)

    def assign(self, tensor: Tensor) -> None:
        for owner, name in self.holders:
            if self.is_parameter:
                trained = self.tensor.requires_grad and tensor.is_floating_point()
                tensor = tensor if isinstance(tensor, nn.Parameter) else nn.Parameter(tensor, requires_grad=trained)
                owner._parameters[name] = tensor
            else:
                owner._buffers[name] = tensor


@strict
@torch.no_grad()
def load_into(
    module: nn.Module,
    checkpoint: Checkpoint,
    *,
    prefix: str = "",
    other_prefixes: Sequence[str] = (),
    renames: Sequence[tuple[str, str]] = (),
    tied: Mapping[str, str] | None = None,
    ignore_mismatched_sizes: bool = False,
    dtype: torch.dtype | None = None,
    ignore_missing: Sequence[str] = (),
    ignore_unexpected: Sequence[str] = COMPUTED,
    source: str | None = None,
) -> LoadingReport:
    """Give a module that was built on the meta device the tensors of a checkpoint, without copying them.

    Names are compared as they are, then with `prefix` added or taken away: the body loads from a checkpoint of a
    model with a head, and the other way round.

    Args:
        module: its parameters are replaced; those that the checkpoint lacks stay on meta, for the caller to fill.
        checkpoint: open files.
        prefix: attribute that holds the body, such as `"bert"`.
        other_prefixes: what that attribute is called in other models of the architecture.
        renames: endings of names in old files → endings of today, such as `(".gamma", ".weight")`.
        tied: second name of a tensor → its first name; in a file either one will do.
        ignore_mismatched_sizes: leave a tensor of another shape untrained instead of raising.
        dtype: number format to convert floating-point tensors to; `None` keeps the file's.
        ignore_missing: names (`*` and `?` allowed) that the report does not mention when they are missing.
        ignore_unexpected: the same for names in the file that the model has no place for; default tables of positions.
        source: the checkpoint's name for report and messages; default its first file.

    Raises:
        FileError: a shape differs, a tensor is of another kind, tied tensors differ, nothing fits at all, or the
            checkpoint lacks more than it holds. The module is unchanged then.
    """
    source = source or checkpoint.source
    places = _places(module, tied or {})
    report = LoadingReport(source)
    wanted = list({id(place): place for place in places.values()}.values())
    report.total = len(wanted)
    unexpected = _match(checkpoint, places, _unsaved_buffers(module), (prefix, *other_prefixes), renames)
    report.unexpected_keys = sorted(name for name in unexpected if not _is_among(name, ignore_unexpected))
    loaded = []
    for place in wanted:
        if not place.files:
            if not _is_among(place.name, ignore_missing):
                report.missing_keys.append(place.name)
        elif checkpoint.shapes[place.files[0]] != tuple(place.tensor.shape):
            report.mismatched_keys.append((place.name, checkpoint.shapes[place.files[0]], tuple(place.tensor.shape)))
        else:
            _check_kind(place, checkpoint, source)
            loaded.append(place)
            continue
        if not place.is_parameter:
            raise FileError(f"{source}: {place.name}: the checkpoint lacks this table, which cannot be made anew")
        report.to_initialize.append(place.name)
    if report.mismatched_keys and not ignore_mismatched_sizes:
        _refuse_shapes(report, prefix if hasattr(module, prefix) else "")  # a body alone has no head
    _check_amount(report, places, checkpoint, len(loaded), type(module).__name__)
    for place in loaded:
        _check_tied(place, checkpoint, source)
    for place in loaded:
        place.assign(checkpoint.tensor(place.files[0], dtype if place.tensor.is_floating_point() else None))
    return report


def _places(module: nn.Module, tied: Mapping[str, str]) -> dict[str, _Place]:
    """Every name under which a checkpoint may hold a tensor of the module; names of one tensor share a place."""
    places: dict[str, _Place] = {}
    by_tensor: dict[int, _Place] = {}
    for path, owner in module.named_modules(remove_duplicate=False):
        unsaved = owner._non_persistent_buffers_set
        for name, tensor in [*owner._parameters.items(), *owner._buffers.items()]:
            if tensor is not None and name not in unsaved:
                full = f"{path}.{name}" if path else name
                place = by_tensor.setdefault(id(tensor), _Place(full, tensor, []))
                place.holders.append((owner, name))
                places[full] = place
    for second, first in tied.items():
        if second in places and first in places and places[second] is not places[first]:
            places[first].holders += places[second].holders
            places[second] = places[first]
    return places


def _unsaved_buffers(module: nn.Module) -> set[str]:
    """Names of buffers that the module makes itself; old checkpoints hold some of them."""
    return {
        f"{path}.{name}" if path else name
        for path, owner in module.named_modules()
        for name in owner._non_persistent_buffers_set
    }


def _match(
    checkpoint: Checkpoint,
    places: Mapping[str, _Place],
    unsaved: set[str],
    prefixes: Sequence[str],
    renames: Sequence[tuple[str, str]],
) -> list[str]:
    """Note in each place which tensors of the checkpoint belong there; return those that belong nowhere."""
    taken: set[str] = set()
    rest = []
    for name in checkpoint.shapes:
        if name in places:
            places[name].files.append(name)
            taken.add(name)
        else:
            rest.append(name)
    unexpected = []
    for name in rest:
        spellings = _spellings(name, prefixes, renames)
        target = next((spelling for spelling in spellings if spelling in places), None)
        if target is not None and target not in taken:
            places[target].files.append(name)
            taken.add(target)
        elif target is not None or not any(spelling in unsaved for spelling in (name, *spellings)):
            unexpected.append(name)
    for place in places.values():  # the first name of a tied tensor is better than its second
        place.files.sort(key=lambda name: place.name not in _spellings(name, prefixes, renames))
    return unexpected


def _spellings(name: str, prefixes: Sequence[str], renames: Sequence[tuple[str, str]]) -> list[str]:
    """What a name of the file may be called in the model, the likeliest first; the first prefix is the model's own."""
    stems = [name]
    stems += [name.removesuffix(old) + new for old, new in renames if name.endswith(old)]
    if not prefixes[0]:
        return stems
    found = []
    for stem in stems:
        inside = {stem: None} | {stem.removeprefix(f"{prefix}."): None for prefix in prefixes}
        found += [stem, *(f"{prefixes[0]}.{one}" for one in inside), *inside]
    return found


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _check_kind(place: _Place, checkpoint: Checkpoint, source: str) -> None:
    """Refuse whole numbers where the model calculates with fractions, and the reverse."""
    found = checkpoint.dtypes[place.files[0]]
    if found.is_floating_point != place.tensor.is_floating_point() or found.is_complex:
        wanted = "floating-point numbers" if place.tensor.is_floating_point() else "whole numbers"
        raise FileError(f"{source}: {place.name}: got {found}, wanted {wanted}; is the checkpoint quantized?")


def _check_tied(place: _Place, checkpoint: Checkpoint, source: str) -> None:
    """Refuse a checkpoint that holds two different tensors where the model has one."""
    for other in place.files[1:]:
        first, second = checkpoint.tensor(place.files[0]), checkpoint.tensor(other)
        same = first.data_ptr() == second.data_ptr() and first.stride() == second.stride()
        if first.shape != second.shape or not (same or torch.equal(first, second.to(first.dtype))):
            raise FileError(
                f"{source}: {place.files[0]} and {other} are one tensor in this model but differ in the checkpoint; "
                "load it with tie_word_embeddings=False"
            )


def _refuse_shapes(report: LoadingReport, prefix: str) -> None:
    name, old, new = report.mismatched_keys[0]
    more = f" (and {len(report.mismatched_keys) - 1} more)" if len(report.mismatched_keys) > 1 else ""
    is_head = bool(prefix) and not name.startswith(f"{prefix}.") and len(old) > 0 and old[1:] == new[1:]
    cure = f"load it with num_labels={old[0]}, or" if is_head else "change the configuration to the file's sizes, or"
    raise FileError(
        f"{report.source}: {name}: the file has shape {quoted(list(old))}, the model wants {quoted(list(new))}{more}; "
        f"{cure} pass ignore_mismatched_sizes=True to start such tensors anew"
    )


def _check_amount(
    report: LoadingReport, places: Mapping[str, _Place], checkpoint: Checkpoint, loaded: int, model: str
) -> None:
    """Refuse a checkpoint of something else, and a configuration that asks for far more than the files hold."""
    if loaded == 0 and report.total:
        raise FileError(
            f"{report.source}: none of its {len(checkpoint):,} tensors belongs to {model}: it holds "
            f"{_listed(sorted(checkpoint.shapes), 2)}, wanted {_listed(sorted(places), 2)}; is it another architecture?"
        )
    sizes = {name: math.prod(places[name].tensor.shape) * places[name].tensor.itemsize for name in report.to_initialize}
    allowed = MAX_NEW * max(checkpoint.file_bytes, 64 * MB)
    if (needed := sum(sizes.values())) > allowed:
        largest = max(sizes, key=lambda name: sizes[name])
        raise FileError(
            f"{report.source}: the configuration asks for {needed:,} bytes of tensors that the files lack, such as "
            f"{largest} {list(places[largest].tensor.shape)}; at most {allowed:,} are made anew, check config.json"
        )
