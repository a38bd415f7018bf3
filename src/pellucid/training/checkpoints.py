"""Checkpoints of a run: written whole or not at all, checked before they are used, and nothing in them is unpickled.

    checkpoint-500/
      config.json, model.safetensors, tokenizer files     what `from_pretrained` loads
      training_args.json, trainer_state.json              settings, and where the run stands
      optimizer.safetensors, scheduler.json               what resuming needs
      rng_state.safetensors, rng_state.json               random numbers of torch, NumPy and Python; of further
                                                          processes rng_state_1.safetensors, …
      checkpoint.json                                     name, size and SHA-256 of every file: written last

A checkpoint is made in a hidden folder beside, brought to the disk, and put in its place in one step (see
`files.atomic_folder`). A run that is killed leaves whole checkpoints and perhaps such a folder, which the next one
removes.
"""

from __future__ import annotations

import hashlib
import logging
import random
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from pellucid.errors import FileError, InputError
from pellucid.files import atomic_folder, atomic_write, open_regular, quoted, read_json, write_json

if TYPE_CHECKING:
    from pellucid.training.processes import Processes

logger = logging.getLogger("pellucid")

MANIFEST = "checkpoint.json"
PREFIX = "checkpoint"


def write_checkpoint(folder: Path, fill: Callable[[Path], None], together: Processes) -> None:
    """Write a checkpoint in one step.

    Args:
        folder: its place, which all processes see; one that is there already is replaced.
        fill: writes the files into the folder that it is given.
        together: the processes that fill it; the first one makes it and puts it in its place.

    Raises:
        FileError: the disk is full or refuses; what was there is unchanged.
    """
    if not together.is_first:
        path = Path(together.tell("")[0])
        with together.in_agreement():
            fill(path)
        together.wait()
        return
    with atomic_folder(folder) as staged:
        together.tell(str(staged.path))
        with together.in_agreement():
            fill(staged.path)
        found = sorted(path for path in staged.path.rglob("*") if path.is_file())
        files = {path.relative_to(staged.path).as_posix(): _described(path) for path in found}
        write_json(staged.path / MANIFEST, {"files": files})
        staged.remove("*")  # of a checkpoint that was there nothing stays
    together.wait()


def _described(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


# ---------------------------------------------------------------------- which there are


def problem_of(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or `None` if it is whole."""
    if not (folder / MANIFEST).is_file():
        return f"it has no {MANIFEST}"
    try:
        files = read_json(folder / MANIFEST).get("files")
    except (FileError, AttributeError) as error:
        return str(error)
    if not isinstance(files, dict):
        return f"{MANIFEST} names no files"
    for name, wanted in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if _described(path) != wanted:
            return f"{name} is not as it was written"
    return None


def checkpoints_in(folder: Path) -> list[Path]:
    """The checkpoints in a folder, the oldest first."""
    if not folder.is_dir():
        return []
    steps = {path: re.fullmatch(rf"{PREFIX}-(\d+)", path.name) for path in folder.iterdir() if path.is_dir()}
    found = [(int(match[1]), path) for path, match in steps.items() if match]
    return [path for _, path in sorted(found)]


def newest_checkpoint(folder: Path) -> Path:
    """The newest whole checkpoint; damaged ones are passed over with a warning.

    Raises:
        InputError: there is none.
    """
    for path in reversed(checkpoints_in(folder)):
        problem = problem_of(path)
        if problem is None:
            return path
        logger.warning("%s: passed over: %s", path, problem)
    raise InputError(
        f"resume_from_checkpoint: {folder} holds no whole checkpoint; leave it out to begin anew, or name a folder"
    )


def remove_old(folder: Path, limit: int | None, keep: str | None) -> None:
    """Remove the oldest checkpoints above a limit, but never the newest, nor the best one, which is `keep`."""
    if limit is None:
        return
    found = checkpoints_in(folder)
    best = [path for path in found if keep is not None and path.name == Path(keep).name]
    others = [path for path in found if path not in best]
    room = max(limit - len(best), 1 if others else 0)
    for path in others[: max(len(others) - room, 0)]:
        gone = path.with_name(f".{path.name}.removed")  # renamed first: a half removed one must not look like one
        path.rename(gone)
        shutil.rmtree(gone, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed runs have left unfinished."""
    for path in folder.glob(f".*{PREFIX}-*"):
        shutil.rmtree(path, ignore_errors=True)


# ---------------------------------------------------------------------- tensors and random numbers


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    atomic_write(path, to_bytes(plain))


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        FileError: it is missing or damaged.
    """
    open_regular(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (no mapping)
    except Exception as error:
        raise FileError(f"{path}: it is no whole safetensors file: {error}") from error


def read_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        FileError: it is missing, damaged, or holds something else.
    """
    found = read_json(path)
    if not isinstance(found, dict):
        raise FileError(f"{path}: got {quoted(found)}, wanted a JSON object")
    return found


def _random_files(folder: Path, process: int) -> tuple[Path, Path]:
    name = f"rng_state_{process}" if process else "rng_state"
    return folder / f"{name}.safetensors", folder / f"{name}.json"


def write_random_state(folder: Path, process: int) -> None:
    """Write where the random numbers of torch, its GPUs, NumPy and Python stand in a process."""
    tensors = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda:{number}": state for number, state in enumerate(torch.cuda.get_rng_state_all())}
    for_tensors, for_numbers = _random_files(folder, process)
    write_tensors(for_tensors, tensors)
    kind, keys, *rest = np.random.get_state(legacy=True)
    version, numbers, gauss = random.getstate()
    write_json(
        for_numbers,
        {"python": [version, list(numbers), gauss], "numpy": [kind, np.asarray(keys).tolist(), *rest]},
    )


def read_random_state(folder: Path, process: int) -> None:
    """Let random numbers go on where `write_random_state` found them; those of a process that was not there stay.

    Raises:
        FileError: a file is missing or holds something else.
    """
    of_tensors, of_numbers = _random_files(folder, process)
    if process and not of_tensors.is_file():
        return
    tensors, plain = read_tensors(of_tensors), read_json(of_numbers)
    try:
        torch.set_rng_state(tensors["cpu"])
        version, numbers, gauss = plain["python"]
        random.setstate((version, tuple(numbers), gauss))
        kind, keys, *rest = plain["numpy"]
        np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise FileError(f"{folder}: rng_state: got {quoted(plain)[:80]}, wanted the state of random numbers") from error
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for number in range(count):
        if f"cuda:{number}" in tensors:
            torch.cuda.set_rng_state(tensors[f"cuda:{number}"], number)
