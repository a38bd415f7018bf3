"""Reading files that nobody vouches for, and saving so that a kill at any moment loses nothing.

Every file of a checkpoint is opened by `open_regular`, every JSON file is read by `read_json`, every name that comes
out of a file and becomes a path passes `safe_name`, and every save happens inside `atomic_folder`.
"""

from __future__ import annotations

import errno
import fnmatch
import json
import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from os import PathLike
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from pellucid.errors import FileError, InputError, strict

MB = 1 << 20
JSON_LIMIT = 16 * MB
"""Largest JSON or text file read unless the caller allows more."""
JSON_DEPTH = 64
"""How deep lists and objects of a JSON file may nest."""
JSON_CONTAINERS = 1_000_000
"""How many lists and objects a JSON file may hold: two bytes of text can cost 200 bytes of memory."""
JSON_VALUES = 3_000_000
"""How many values a JSON file may hold; the largest published tokenizers have half of that."""
MIRROR_LIMIT = 20_000
"""With more other files than this, a target folder gets its new files one by one instead of being exchanged."""

StrPath = str | PathLike[str]


def quoted(value: object) -> str:
    """`value` as it may stand in an error message: one line, escaped, at most 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


# ---------------------------------------------------------------------- reading


@strict
def open_regular(path: StrPath, limit: int | None = None, *, follow: bool = False) -> BinaryIO:
    """Open an ordinary file for reading; never waits on a pipe, never reads a device.

    A symbolic link is followed when it ends in the folder it stands in or, as in the Hub cache, leads from a
    repository's `snapshots/` to its `blobs/`. So a checkpoint cannot name other files of this machine.

    Args:
        path: the file.
        limit: largest size allowed, in bytes; `None` for any.
        follow: follow links to anywhere; for a path that the user, not a checkpoint, has chosen.

    Raises:
        FileError: missing, unreadable, not an ordinary file, larger than `limit`, or a link that leads away.
    """
    path = Path(path)
    try:
        if not follow and path.is_symlink():
            _check_link(path)
        # Without O_NONBLOCK opening a pipe would wait for a writer; the check below comes before any read.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
        if not stat.S_ISREG(path.stat().st_mode):  # before opening, because opening a device can already act
            _refuse_kind(path)
        descriptor = os.open(path, flags)
    except (OSError, ValueError) as error:
        if isinstance(error, FileError):
            raise
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise FileError(f"{path}: cannot be opened: {reason}") from error
    file = os.fdopen(descriptor, "rb")
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or (limit is not None and found.st_size > limit):
        file.close()
        if stat.S_ISREG(found.st_mode):
            raise FileError(f"{path}: the file has {found.st_size:,} bytes, at most {limit:,} are read here")
        _refuse_kind(path)
    return file


def _refuse_kind(path: Path) -> NoReturn:
    kind = "a folder" if path.is_dir() else "a pipe, socket or device"
    raise FileError(f"{path}: got {kind}, wanted an ordinary file")


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # RuntimeError: a loop of links, before Python 3.13
        raise FileError(f"{path}: a link that cannot be followed") from error


def _check_link(path: Path) -> None:
    """Refuse a symbolic link that leaves its folder, except into the blobs of the same Hub repository."""
    folder, target = _resolved(path.parent), _resolved(path)
    allowed = [folder]
    for level in folder.parents:
        repository = level.parent
        if level.name == "snapshots" and repository.name.startswith(("models--", "datasets--", "spaces--")):
            allowed += [repository / "blobs", repository.parent / "blobs"]  # of the repository; shared by the cache
    if not any(target.is_relative_to(root) for root in allowed):
        raise FileError(
            f"{path}: a symbolic link out of the checkpoint's folder, to {quoted(str(target))}, is not followed; "
            "copy the file into the folder, or load the folder that it is in"
        )


@strict
def read_text(path: StrPath, limit: int = JSON_LIMIT, *, follow: bool = False) -> str:
    """The text of a UTF-8 file of at most `limit` bytes; `follow` as in `open_regular`.

    Raises:
        FileError: as `open_regular`, or not UTF-8.
    """
    with open_regular(path, limit, follow=follow) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise FileError(f"{path}: the file grew beyond {limit:,} bytes while it was read")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise FileError(f"{path}: byte {error.start:,} is not UTF-8 text; save the file as UTF-8") from error


@strict
def read_json(path: StrPath, limit: int = JSON_LIMIT, *, follow: bool = False) -> Any:
    """The value in a JSON file.

    Stricter than `json.load`: UTF-8 only, at most `limit` bytes, at most 64 levels and a million lists and objects,
    no key twice in one object, no `NaN` or infinite numbers. `follow` as in `open_regular`.

    Raises:
        FileError: names the file, the place and the reason.
    """
    return parse_json(read_text(path, limit, follow=follow), str(path))


@strict
def parse_json(text: str, source: str) -> Any:
    """The value of JSON `text` under the rules of `read_json`; `source` is the file's name for messages."""
    if text.count("[") + text.count("{") > JSON_CONTAINERS or text.count(",") > JSON_VALUES:
        raise FileError(f"{source}: more than {JSON_CONTAINERS:,} lists and objects or {JSON_VALUES:,} values")

    def refuse(constant: str) -> NoReturn:
        raise FileError(f"{source}: got the number {constant}, wanted finite numbers only")

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            seen: set[str] = set()
            name = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
            raise FileError(f"{source}: key {quoted(name)} stands twice in one object, and only one can be meant")
        return found

    try:
        value = json.loads(text, object_pairs_hook=unique, parse_constant=refuse)
    except RecursionError:
        raise FileError(f"{source}: nested deeper than {JSON_DEPTH} levels") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        hint = "; the file is empty" if not text.strip() else ""
        raise FileError(f"{source}: not valid JSON at {where}: {error.msg}{hint}") from error
    except ValueError as error:  # a number of thousands of digits
        if isinstance(error, FileError):
            raise
        raise FileError(f"{source}: a whole number is too long to read") from error
    _check_values(value, source)
    if "\\ud" in text or "\\uD" in text:
        try:
            json.dumps(value, ensure_ascii=False).encode("utf-8")
        except UnicodeEncodeError as error:
            raise FileError(f"{source}: holds half of a surrogate pair (\\ud8xx), which is not text") from error
    return value


def _check_values(value: Any, source: str) -> None:
    """Refuse nesting deeper than 64 levels and numbers such as 1e999, which Python reads as infinity."""
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            kind = type(item)
            if kind is dict:
                below.extend(item.values())
            elif kind is list:
                below.extend(item)
            elif kind is float and item - item != 0.0:
                raise FileError(f"{source}: got a number beyond the range of floating point, wanted finite numbers")
        level, depth = below, depth + 1
        if depth > JSON_DEPTH + 1:
            raise FileError(f"{source}: nested deeper than {JSON_DEPTH} levels")


_PORTS = [f"{port}{number}" for port in ("com", "lpt") for number in "0123456789¹²³"]
_RESERVED = frozenset(["con", "prn", "aux", "nul", "conin$", "conout$", *_PORTS])


@strict
def safe_name(name: object, source: str) -> str:
    """`name` when it is a plain file name on every system, so that joined to a folder it stays inside.

    Args:
        name: what a file or server gave as a file name.
        source: where it came from, for the message: `"model.safetensors.index.json: weight_map"`.

    Raises:
        FileError: a path, a drive, `..`, a device name of Windows, a control character, or not text at all.
    """
    reason = None
    if not isinstance(name, str) or not name:
        reason = "wanted text"
    elif any(character in '/\\:*?"<>|' or ord(character) < 32 or 0x7F <= ord(character) < 0xA0 for character in name):
        reason = "wanted a file in the same folder, without path, drive or control characters"
    elif name in (".", "..") or name[-1] in ". " or name[0] == " ":
        reason = "wanted a name that does not begin or end with a space or end with a dot"
    elif name.split(".")[0].rstrip(" ").lower() in _RESERVED:
        reason = "this names a device on Windows"
    elif len(name.encode("utf-8", "surrogatepass")) > 255 or any(0xD800 <= ord(c) < 0xE000 for c in name):
        reason = "wanted at most 255 bytes of UTF-8"
    if reason is not None:
        raise FileError(f"{source}: got {quoted(name)} as a file name; {reason}")
    assert isinstance(name, str)
    return name


# ---------------------------------------------------------------------- writing one file


@strict
def write_json(path: StrPath, obj: Any) -> None:
    """Write `obj` as indented UTF-8 JSON, atomically.

    Raises:
        InputError: `obj` holds something that JSON has no form for.
        FileError: the file cannot be written.
    """
    try:
        text = json.dumps(obj, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        data = text.encode("utf-8")
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: cannot be written as JSON: {error}") from error
    atomic_write(path, data)


@strict
def atomic_write(path: StrPath, data: bytes) -> None:
    """Write `data` so that at every moment, also after a kill, `path` is the old file or the whole new one.

    Raises:
        FileError: the file cannot be written; the old one is unchanged.
    """
    target = Path(path)
    if target.is_symlink():
        target = _resolved(target)  # the file behind a link is replaced, the link stays
    temporary = _temporary_path(target.parent, target.name)
    try:
        _remove_leftovers(target.parent, target.name)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        with os.fdopen(descriptor, "wb") as file:
            _lock(descriptor)
            if target.exists():
                temporary.chmod(stat.S_IMODE(target.stat().st_mode))
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        temporary.replace(target)
        _sync_folder(target.parent)
    except OSError as error:
        raise FileError(f"{path}: cannot be written: {error.strerror or error}") from error
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_path(parent: Path, name: str) -> Path:
    return parent / f".{name[:80]}.{os.urandom(8).hex()}.saving"


def _lock(descriptor: int) -> bool:
    """Mark an open file or folder as in use until it is closed or the process dies; false when it already is."""
    if sys.platform == "win32":
        return True
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _remove_leftovers(parent: Path, name: str) -> None:
    """Delete what killed saves of `name` left in `parent`: temporaries that no living process holds locked."""
    if sys.platform == "win32" or not parent.is_dir():
        return  # folders cannot be locked there, so a leftover cannot be told from a save in progress
    start = f".{name[:80]}."
    for entry in list(os.scandir(parent)):
        if not (entry.name.startswith(start) and entry.name.endswith(".saving") and len(entry.name) == len(start) + 23):
            continue
        with suppress(OSError):
            descriptor = os.open(entry.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                if _lock(descriptor):
                    _remove_tree(Path(entry.path))
            finally:
                os.close(descriptor)


def _remove_tree(path: Path) -> None:
    import shutil

    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    """Bring the names in `folder` to the disk; file systems that cannot do it for folders are left alone."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


# ---------------------------------------------------------------------- writing a folder


@dataclass
class StagedFolder:
    """The folder inside `atomic_folder`: write new files under `path`, name stale ones for removal."""

    path: Path
    """Where to write; what is there at the end is published."""
    _stale: list[str] = field(default_factory=list)

    def remove(self, pattern: str) -> None:
        """Let the files whose name matches `pattern` (`*`, `?`) disappear in the same step, unless written anew."""
        self._stale.append(pattern)

    def is_stale(self, name: str) -> bool:
        """Whether a file of this name in the target is to disappear."""
        return any(fnmatch.fnmatchcase(name, pattern) for pattern in self._stale)


@contextmanager
@strict
def atomic_folder(folder: StrPath, *, needed: int = 0) -> Iterator[StagedFolder]:
    """Write several files into `folder` in one step: all of them appear, or none.

        with atomic_folder("my-model") as staged:
            write_json(staged.path / "config.json", {"model_type": "bert"})
            staged.remove("pytorch_model*.bin")

    The files are written into a hidden folder beside the target and brought to the disk; the other files of the
    target join them as hard links; then the two folders change places in one system call. A process killed at any
    point leaves the old folder or the new one. What a killed save leaves behind is removed by the next save.

    File systems that cannot exchange two folders (network drives, a mount point as target), and a target that is the
    current working directory, get the files one by one, each atomically, `config.json` last: a kill in between
    can then leave some files old and some new.

    Args:
        folder: the target, made if missing, with its parents; a link is followed.
        needed: how many bytes will be written; when the disk has less, nothing is begun.

    Raises:
        FileError: not a folder, too little space, or a write failed; the old contents are then unchanged.
    """
    target = _resolved(Path(folder))
    staged, descriptor = _stage(target, needed)
    try:
        yield staged
        _publish(staged, target)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        reason = error.strerror or str(error)
        raise FileError(f"{folder}: not saved: {reason}; what was there before is unchanged") from error
    finally:
        _remove_tree(staged.path)
        if descriptor is not None:
            os.close(descriptor)


def _stage(target: Path, needed: int) -> tuple[StagedFolder, int | None]:
    """Make the hidden folder that is written into, and hold it locked by the returned descriptor."""
    import shutil

    if target.exists() and not target.is_dir():
        raise FileError(f"{target}: got a file, wanted a folder to save into")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # A mount point cannot be exchanged, and a parent may be read-only: then stage inside the target.
        inside = target.is_dir() and (
            target.stat().st_dev != target.parent.stat().st_dev or not os.access(target.parent, os.W_OK | os.X_OK)
        )
        parent = target if inside else target.parent
        _remove_leftovers(parent, target.name)
        free = shutil.disk_usage(parent).free
        if needed > free:
            raise FileError(
                f"{target}: saving needs {needed:,} bytes and the disk has {free:,} free; make room or save elsewhere"
            )
        while True:
            path = _temporary_path(parent, target.name)
            path.mkdir()
            if sys.platform == "win32":
                return StagedFolder(path), None
            with suppress(FileNotFoundError):  # another process tidied up before the lock was there: once more
                descriptor = os.open(path, os.O_RDONLY)
                if _lock(descriptor) and path.exists():
                    return StagedFolder(path), descriptor
                os.close(descriptor)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"{target}: cannot be saved to: {error.strerror or error}") from error


def _publish(staged: StagedFolder, target: Path) -> None:
    """Bring everything written to the disk and put it in place, by the best way the file system has."""
    new = staged.path
    written = []
    for root, _, names in os.walk(new):
        for name in names:
            path = Path(root, name)
            with path.open("r+b" if os.name == "nt" else "rb") as file:
                os.fsync(file.fileno())
            written.append(path.relative_to(new))
        _sync_folder(Path(root))
    if not target.exists():
        with suppress(FileExistsError):  # somebody else may make it at the same time
            new.rename(target)
            _sync_folder(target.parent)
            return
    if new.parent == target.parent and not _is_working_folder(target):
        exchanged = False
        with suppress(OSError):  # whatever the file system cannot do is done the other way
            _mirror(target, new, staged)
            _sync_folder(new)
            _exchange(new, target)
            exchanged = True
        if exchanged:
            _sync_folder(target.parent)
            with suppress(OSError):
                _rescue(new, target, staged)
            return
    try:
        _replace_one_by_one(staged, target, written)
    except OSError as error:
        raise FileError(f"{target}: only partly saved: {error.strerror or error}; save again") from error


def _is_working_folder(target: Path) -> bool:
    """Whether this process works inside `target`: exchanged, it would find itself in a deleted folder."""
    try:
        return Path.cwd().is_relative_to(target)
    except OSError:
        return False


def _mirror(old: Path, new: Path, staged: StagedFolder | None, count: int = 0) -> int:
    """Link everything in `old` that is neither written anew nor stale into `new`; count entries against the limit."""
    import shutil

    for entry in list(os.scandir(old)):
        count += 1
        if count > MIRROR_LIMIT:
            raise OSError(errno.EMLINK, "too many files to link")
        target = new / entry.name
        if staged is not None and staged.is_stale(entry.name):
            continue
        if entry.is_dir(follow_symlinks=False):
            target.mkdir(exist_ok=True)
            count = _mirror(Path(entry.path), target, None, count)
        elif entry.is_symlink() and not os.path.lexists(target):
            target.symlink_to(Path(entry.path).readlink())
        elif not os.path.lexists(target):
            target.hardlink_to(entry.path)
    found = old.stat()
    with suppress(PermissionError):
        os.chown(new, found.st_uid, found.st_gid)
    shutil.copymode(old, new)
    return count


def _exchange(first: Path, second: Path) -> None:
    """Let two folders change places in one system call; `OSError` where system or file system cannot."""
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    one, two = os.fsencode(first), os.fsencode(second)
    if sys.platform == "darwin" and hasattr(libc, "renamex_np"):
        failed = libc.renamex_np(one, two, ctypes.c_uint(2))  # RENAME_SWAP
    elif sys.platform == "linux" and hasattr(libc, "renameat2"):
        failed = libc.renameat2(-100, one, -100, two, ctypes.c_uint(2))  # AT_FDCWD, RENAME_EXCHANGE
    else:
        raise OSError(errno.ENOSYS, "folders cannot be exchanged on this system")
    if failed:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _rescue(old: Path, new: Path, staged: StagedFolder | None) -> None:
    """Move files that others put into the old folder during the save over to the new one, before the old one goes."""
    for entry in list(os.scandir(old)):
        target = new / entry.name
        if staged is not None and staged.is_stale(entry.name):
            continue
        if not os.path.lexists(target):
            Path(entry.path).rename(target)
        elif entry.is_dir(follow_symlinks=False) and target.is_dir():
            _rescue(Path(entry.path), target, None)


def _replace_one_by_one(staged: StagedFolder, target: Path, written: list[Path]) -> None:
    """The way without an exchange: each file atomically, then the stale ones away, `config.json` last."""
    last = [path for path in written if path.name == "config.json"]
    for path in sorted(set(written) - set(last)):
        _replace(staged.path / path, target / path)
    for entry in list(os.scandir(target)):
        if staged.is_stale(entry.name) and Path(entry.name) not in written:
            Path(entry.path).unlink()
    for path in last:
        _replace(staged.path / path, target / path)
    _sync_folder(target)


def _replace(source: Path, target: Path) -> None:
    import shutil

    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        source.replace(target)
    except OSError as error:
        if error.errno != errno.EXDEV:  # a mount boundary: copy to the other side, then replace there
            raise
        copy = _temporary_path(target.parent, target.name)
        try:
            shutil.copyfile(source, copy)
            with copy.open("rb") as file:
                os.fsync(file.fileno())
            copy.replace(target)
        finally:
            copy.unlink(missing_ok=True)
