"""The cache of downloaded repositories: where it is, what it holds, and how a name in it is checked.

The whole field shares it, so its form is given:

    models--user--name/
      blobs/ETAG                     the bytes
      refs/main                      the commit that a branch or tag pointed to when the Hub was last asked
      snapshots/COMMIT/config.json   a link into blobs/
      .no_exist/COMMIT/FILE          an empty file: the Hub said that COMMIT has no FILE

Nothing here asks the Hub, and `huggingface_hub`, which takes 0.12 s to import, is needed for removal only.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from pellucid.errors import HubError, did_you_mean, strict

COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_NAME = re.compile(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
_NOT_IN_A_NAME = re.compile(r"[\\\x00-\x1f\x7f]|^[A-Za-z]:")

StrPath = str | os.PathLike[str]


@strict
def cache_folder(cache_dir: StrPath | None = None) -> Path:
    """The folder that holds the cached repositories: `cache_dir`, or what the environment says when asked.

    `HF_HUB_CACHE`, then `HUGGINGFACE_HUB_CACHE`, then `HF_HOME`/hub, then `XDG_CACHE_HOME`/huggingface/hub, then
    `~/.cache/huggingface/hub`, as `huggingface_hub` has it.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    get = os.environ.get
    home = get("HF_HOME") or f"{get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    folder = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or f"{home}/hub"
    return Path(os.path.expandvars(folder)).expanduser()


def check_repo_name(name: str) -> None:
    """Refuse what cannot be a repository's name, so that it can neither leave the cache nor change the address."""
    if not _REPO_NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", "-", ".")):
        raise HubError(
            f"{name!r} is neither a folder here nor a name on the Hub ('name' or 'user/name', of letters, digits,"
            " '-', '_' and '.')"
        )


def check_relative(name: object, what: str) -> str:
    """Refuse a name, maybe with folders in it, that could lead out of where it belongs on any system; return it."""
    if (
        not isinstance(name, str)
        or {"", ".", ".."} & set(name.removesuffix("/").split("/"))
        or _NOT_IN_A_NAME.search(name)
    ):
        raise HubError(f"{what} {name!r}: expected a relative name such as 'config.json' or 'folder/config.json'")
    return name


def relative_files(folder: Path, limit: int | None = None) -> dict[str, int]:
    """The files below `folder`, at least `limit` of them if there are so many, with sizes in bytes; not hidden ones."""
    sizes: dict[str, int] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent, name) for name in files if not name.startswith(".")):
            if is_file(path):
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
        if limit is not None and len(sizes) >= limit:
            break
    return dict(sorted(sizes.items()))


def holds(file: str, names: Iterable[str], shown: int = 8) -> str:
    """For a message about a missing file: `"it holds a, b, … (3 more); did you mean 'b'?"`."""
    names = list(names)
    if not names:
        return "it is empty"
    more = f" ({len(names) - shown} more)" if len(names) > shown else ""
    return f"it holds {', '.join(names[:shown])}{more}{did_you_mean(file, names)}"


def is_file(path: Path) -> bool:
    """`path.is_file()`, and `False` where the system does not let us look."""
    try:
        return path.is_file()
    except OSError:
        return False


@dataclass(frozen=True)
class Cached:
    """One revision of one repository, as far as the cache has it."""

    name: str
    revision: str
    cache: Path

    @property
    def folder(self) -> Path:
        """All the cache has of the repository."""
        return self.cache / f"models--{self.name.replace('/', '--')}"

    def commit(self) -> str | None:
        """The commit that the revision is, or meant when the Hub was last asked."""
        if COMMIT.fullmatch(self.revision):
            return self.revision
        try:
            with (self.folder / "refs" / self.revision).open(encoding="ascii") as ref:
                commit = ref.read(64).strip()
        except (OSError, UnicodeDecodeError):
            return None
        return commit if COMMIT.fullmatch(commit) else None

    def find(self, file: str) -> Path | Literal[False] | None:
        """The cached file; `False` if it is known not to exist at that commit; `None` if the cache cannot say."""
        commit = self.commit()
        if commit is None:
            return None
        path = self.folder / "snapshots" / commit / file
        if is_file(path):
            return path
        return False if is_file(self.folder / ".no_exist" / commit / file) else None

    def snapshot(self) -> Path | None:
        """The folder with the files of that commit, if there is one."""
        commit = self.commit()
        folder = self.folder / "snapshots" / (commit or "")
        return folder if commit and folder.is_dir() else None

    def files(self) -> dict[str, int]:
        """The files of that commit with their sizes in bytes."""
        folder = self.snapshot()
        return relative_files(folder) if folder else {}


@strict
def commit_of(path: StrPath) -> str | None:
    """The commit that a file from the cache belongs to, or `None` for a file from elsewhere.

    Pass it as the `revision` of further files: all files of a load then come from one commit, and those already
    cached, or known not to exist, cost no request.
    """
    parts = Path(path).parts
    for repo, snapshots, commit in zip(parts, parts[1:], parts[2:], strict=False):
        if repo.startswith("models--") and snapshots == "snapshots" and COMMIT.fullmatch(commit):
            return commit
    return None


# --- looking after the cache ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """A repository in the cache.

    Attributes:
        name: Its name on the Hub.
        size: Bytes that it uses on disk.
        revisions: Each cached commit, with the branches and tags that pointed to it.
        last_used: When one of its files was last read or written, in seconds since 1970.
        path: Its folder.
    """

    name: str
    size: int
    revisions: dict[str, list[str]]
    last_used: float
    path: Path


@strict
def list_cache(cache_dir: StrPath | None = None) -> list[CachedRepo]:
    """The model repositories in the cache, by name, also those whose download never finished."""
    cache = cache_folder(cache_dir)
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return [_cached_repo(folder) for folder in folders if folder.is_dir()]


def _cached_repo(folder: Path) -> CachedRepo:
    repo = Cached(folder.name.removeprefix("models--").replace("--", "/"), "main", folder.parent)
    files: dict[tuple[int, int], os.stat_result] = {}  # by inode: a link and the blob it leads to count once
    for path in filter(is_file, folder.rglob("*")):
        stat = path.stat()
        files[stat.st_dev, stat.st_ino] = stat
    revisions: dict[str, list[str]] = {commit.name: [] for commit in sorted(folder.glob("snapshots/*"))}
    refs = folder / "refs"
    for name in sorted(path.relative_to(refs).as_posix() for path in refs.rglob("*") if is_file(path)):
        commit = replace(repo, revision=name).commit()
        if commit in revisions:
            revisions[commit].append(name)
    return CachedRepo(
        name=repo.name,
        size=sum(stat.st_size for stat in files.values()),
        revisions=revisions,
        last_used=max((max(stat.st_atime, stat.st_mtime) for stat in files.values()), default=0.0),
        path=folder,
    )


@strict
def remove_cached(name: str, cache_dir: StrPath | None = None) -> int:
    """Remove a repository with all its revisions from the cache.

    Returns:
        The bytes freed. Bytes that another cached repository shares stay, and don't count.

    Raises:
        HubError: It is not cached, or this user may not remove it.
    """
    check_repo_name(name)
    cache = cache_folder(cache_dir)
    folder = Cached(name, "main", cache).folder
    if not folder.is_dir() or folder.is_symlink():
        raise HubError(
            f"{name}: not in the cache {cache}{did_you_mean(name, [repo.name for repo in list_cache(cache)])}"
        )
    before = _bytes_below(cache)
    try:
        _remove(folder)
    except OSError as error:
        raise HubError(f"{name}: {error.filename or folder} cannot be removed ({error.strerror})") from error
    return before - _bytes_below(cache)


def _remove(folder: Path) -> None:
    import shutil

    from huggingface_hub import scan_cache_dir

    # The client knows which blobs other repositories share. Only this repository is handed to its deletion, which
    # goes by commit hash: a duplicated repository has the same commits.
    report = scan_cache_dir(folder.parent)
    ours = replace(report, repos=frozenset(repo for repo in report.repos if repo.repo_path.name == folder.name))
    ours.delete_revisions(*(revision.commit_hash for repo in ours.repos for revision in repo.revisions)).execute()
    if folder.is_dir():  # left over from a download that never finished, or not ours to remove: then this says so
        shutil.rmtree(folder)
    shutil.rmtree(folder.parent / ".locks" / folder.name, ignore_errors=True)


def _bytes_below(folder: Path) -> int:
    """Bytes of the files below `folder`; links are not followed."""
    return sum(path.stat().st_size for path in folder.rglob("*") if is_file(path) and not path.is_symlink())
