"""From a name or a path to files on this machine; the only module that touches the network.

A folder is used as it is. Anything else is a repository on the Hub: its files come from the cache that the whole
field shares (`HF_HUB_CACHE`, else `HF_HOME`/hub, else `~/.cache/huggingface/hub`), or are downloaded into it:

    models--user--name/
      blobs/ETAG                   the bytes
      refs/main                    the commit that a branch or tag pointed to when last asked
      snapshots/COMMIT/config.json a link into blobs/
      .no_exist/COMMIT/FILE        an empty file: the Hub said that COMMIT has no FILE

Questions that the cache can answer (offline, or a commit hash whose file is there) are answered by a small look-up
of our own: no request, and `huggingface_hub`, which takes 0.12 s to import, stays unimported. The rest goes through
`huggingface_hub`, whose errors become one-line `HubError`s that say what to do.

Variables read, each time they are needed: `HF_HOME`, `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `XDG_CACHE_HOME`,
`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_ENDPOINT`; `HF_TOKEN` and the timeouts are read by `huggingface_hub`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from pellucid.errors import FileError, HubError, InputError, PellucidError, did_you_mean, strict

DEFAULT_ENDPOINT = "https://huggingface.co"
_TRUE = {"1", "ON", "YES", "TRUE"}
_COMMIT = re.compile(r"[0-9a-f]{40}")
_REPO_NAME = re.compile(r"(?:\w[\w.-]{0,95}/)?\w[\w.-]{0,95}", re.ASCII)
_LOOKS_LIKE_PATH = re.compile(r"[/~\\]|\.{1,2}(?:[/\\]|$)|[A-Za-z]:[/\\]")
_SECRET = re.compile(r"hf_\w{6,}|Bearer\s+\S+", re.IGNORECASE)


# --- what the environment says -------------------------------------------------------------------------------------


def cache_folder(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The folder that holds the cached repositories: `cache_dir`, or what the environment says.

    `HF_HUB_CACHE`, then `HUGGINGFACE_HUB_CACHE`, then `HF_HOME`/hub, then `XDG_CACHE_HOME`/huggingface/hub, then
    `~/.cache/huggingface/hub`, as `huggingface_hub` has it.
    """
    if cache_dir is not None:
        return Path(cache_dir).expanduser()
    get = os.environ.get
    home = get("HF_HOME") or os.path.join(get("XDG_CACHE_HOME") or "~/.cache", "huggingface")  # noqa: PTH118
    folder = get("HF_HUB_CACHE") or get("HUGGINGFACE_HUB_CACHE") or os.path.join(home, "hub")  # noqa: PTH118
    return Path(os.path.expandvars(folder)).expanduser()


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` (or, where that is not set, `TRANSFORMERS_OFFLINE`) forbids the network."""
    return _offline_variable() is not None


def _offline_variable() -> str | None:
    for variable in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        if value := os.environ.get(variable):  # a value of "0" still hides the second variable
            return f"{variable}={value}" if value.upper() in _TRUE else None
    return None


def _endpoint() -> str | None:
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


# --- names ---------------------------------------------------------------------------------------------------------


@strict
def is_local(name_or_path: str | os.PathLike[str]) -> bool:
    """Whether this means something on this machine (it exists, or is written like a path) and not a Hub name."""
    if not isinstance(name_or_path, str):
        return True
    if _LOOKS_LIKE_PATH.match(name_or_path) or "\\" in name_or_path or name_or_path.count("/") > 1:
        return True
    return os.path.exists(name_or_path)  # noqa: PTH110 (never raises, whatever the string holds)


def _check_source(name_or_path: Any) -> None:
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise InputError(f"name_or_path: got {name_or_path!r}, expected a Hub name such as 'user/name' or a folder")


def _check_repo_name(name: str) -> None:
    if not _REPO_NAME.fullmatch(name) or "--" in name or ".." in name or name.endswith((".git", "-", ".")):
        raise HubError(
            f"{name!r} is neither a folder here nor a name on the Hub ('name' or 'user/name', of letters, digits,"
            " '-', '_' and '.')"
        )


def _check_inside(name: str, what: str) -> str:
    """Refuse a relative name that could lead out of its folder on any system; return it."""
    parts = name.split("/") if isinstance(name, str) else [""]
    if any(part in {"", ".", ".."} for part in parts) or re.search(r"[\\:\x00-\x1f]", name):
        raise HubError(f"{what} {name!r}: expected a relative name such as 'config.json' or 'folder/config.json'")
    return name


# --- one file ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Asked:
    """One question to the Hub: which repository, at which revision, as whom, into which cache."""

    name: str
    revision: str
    cache: Path
    token: str | bool | None = field(default=None, repr=False)
    file: str = ""

    @property
    def folder(self) -> Path:
        return self.cache / f"models--{self.name.replace('/', '--')}"

    @property
    def url(self) -> str:
        return f"{_endpoint() or DEFAULT_ENDPOINT}/{self.name}"

    @property
    def client(self) -> dict[str, Any]:
        """The arguments that every call of the client takes."""
        return {"endpoint": _endpoint(), "token": self.token, "library_name": "pellucid"}


def _ask(
    name: str,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike[str] | None,
    file: str = "",
) -> _Asked:
    _check_repo_name(name)
    _check_inside(revision or "main", "revision")
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise InputError("token: it is empty or holds a space or a line break; copy it again from the Hub's settings")
    return _Asked(name, revision or "main", cache_folder(cache_dir), token, file)


@strict
def resolve_file(
    name_or_path: str | os.PathLike[str],
    filename: str,
    *,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    subfolder: str = "",
    force_download: bool = False,
    required: bool = True,
) -> Path | None:
    """The path of one file of a folder or of a repository, downloaded if need be.

    A file of a branch or tag costs one metadata request, and a second one if it must be fetched; none when offline,
    or when `revision` is a commit whose file is cached (see `commit_of`). When the Hub cannot be reached, a cached
    file is used and a warning logged once.

    Args:
        name_or_path: A folder, or a name on the Hub such as `"user/name"`.
        filename: The file's name in it, with `/` between folders.
        revision: Branch, tag or full commit hash; `None` is `"main"`.
        token: A token; `True`: the stored one, which must exist; `False`: none; `None`: the stored one if any.
        cache_dir: The cache to use in place of the environment's.
        local_files_only: Answer from the cache alone.
        subfolder: Folder of the repository in which `filename` lies.
        force_download: Download again even if the file is cached.
        required: Whether a file that does not exist is an error; if not, `None` is returned for it.

    Returns:
        The file's path, or `None` if it does not exist and is not `required`.

    Raises:
        FileError: The folder, or the file in it, does not exist.
        HubError: The file could not be found or fetched; the message says why and what to do.
        InputError: `name_or_path` or `token` cannot be used, or `force_download` was asked for offline.
    """
    _check_source(name_or_path)
    file = _check_inside(f"{subfolder.strip('/')}/{filename}" if subfolder else filename, "file name")
    if is_local(name_or_path):
        return _local_file(Path(name_or_path).expanduser(), file, required)
    asked = _ask(os.fspath(name_or_path), revision, token, cache_dir, file)
    forbidden = "local_files_only=True" if local_files_only else _offline_variable()
    if force_download and forbidden:
        raise InputError(f"force_download=True needs the network, which {forbidden} forbids; drop one of the two")
    cached = None if force_download else _look_up(asked)
    if cached and (forbidden or _COMMIT.fullmatch(asked.revision)):
        return cached
    if forbidden:
        if required:
            raise _not_cached(asked, forbidden)
        return None
    if cached is False and _COMMIT.fullmatch(asked.revision):
        if required:
            raise _not_in_repo(asked, _cached_files(asked))
        return None
    return _fetch(asked, cached or None, required, force_download)


@strict
def commit_of(path: str | os.PathLike[str]) -> str | None:
    """The commit that a file from the cache belongs to, or `None` for a file from elsewhere.

    Pass it as the `revision` of further files, and all files of a load come from one commit, those already cached
    (or known not to exist) without a request.
    """
    parts = Path(path).parts
    for repo, snapshots, commit in zip(parts, parts[1:], parts[2:], strict=False):
        if repo.startswith("models--") and snapshots == "snapshots" and _COMMIT.fullmatch(commit):
            return commit
    return None


def _local_file(folder: Path, file: str, required: bool) -> Path | None:
    path = folder / file
    if path.is_file():
        return path
    _check_folder(folder)
    if not required:
        return None
    held = sorted(_relative_files(folder, limit=1000))
    raise FileError(f"{folder}: no file {file!r}; {_holds(file, held)}")


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise FileError(f"{folder}: this is a file; give the folder that holds it: {folder.parent}")
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise FileError(
            f"{folder}: no such folder{did_you_mean(folder.name, siblings)}"
            " (a name on the Hub is written 'user/name', without './' or '\\')"
        )


def _relative_files(folder: Path, limit: int | None = None) -> dict[str, int]:
    """The files below `folder` with their sizes in bytes, hidden ones aside."""
    sizes: dict[str, int] = {}
    for parent, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for path in (Path(parent) / name for name in files if not name.startswith(".")):
            if path.is_file():
                sizes[path.relative_to(folder).as_posix()] = path.stat().st_size
            if limit is not None and len(sizes) >= limit:
                return sizes
    return sizes


def _holds(file: str, names: Iterable[str], shown: int = 8) -> str:
    """`"it holds a, b, … (3 more); did you mean 'b'?"`."""
    names = list(names)
    if not names:
        return "it is empty"
    more = f" ({len(names) - shown} more)" if len(names) > shown else ""
    return f"it holds {', '.join(names[:shown])}{more}{did_you_mean(file, names)}"


# --- the cache's own answer ----------------------------------------------------------------------------------------


def _commit(asked: _Asked) -> str | None:
    """The commit that the revision meant when the Hub was last asked."""
    if _COMMIT.fullmatch(asked.revision):
        return asked.revision
    try:
        with open(asked.folder / "refs" / asked.revision, encoding="ascii") as ref:  # noqa: PTH123
            commit = ref.read(64).strip()
    except (OSError, UnicodeDecodeError):
        return None
    return commit if _COMMIT.fullmatch(commit) else None


def _look_up(asked: _Asked) -> Path | Literal[False] | None:
    """The cached file; `False` if it is known not to exist at that commit; `None` if the cache cannot say."""
    commit = _commit(asked)
    if commit is None:
        return None
    path = asked.folder / "snapshots" / commit / asked.file
    if os.path.isfile(path):  # noqa: PTH113 (answers False, where Path.is_file raises, for a folder not ours)
        return path
    return False if os.path.isfile(asked.folder / ".no_exist" / commit / asked.file) else None  # noqa: PTH113


def _snapshot(asked: _Asked) -> Path | None:
    commit = _commit(asked)
    folder = asked.folder / "snapshots" / (commit or "")
    return folder if commit and folder.is_dir() else None


def _cached_files(asked: _Asked) -> dict[str, int]:
    folder = _snapshot(asked)
    return _relative_files(folder) if folder else {}


def _not_cached(asked: _Asked, forbidden: str) -> HubError:
    held = _cached_files(asked)
    what = f"{asked.file!r} is" if asked.file else f"revision {asked.revision!r} is"
    return HubError(
        f"{asked.name}: {what} not in the cache {asked.cache}, and {forbidden} forbids to download it; allow the"
        f" network, or run 'pellucid download {asked.name}' where there is one"
        + (f" (for {asked.revision!r}, {_holds(asked.file, held)})" if held and asked.file else "")
    )


def _not_in_repo(asked: _Asked, held: Iterable[str]) -> HubError:
    return HubError(f"{asked.name}: no file {asked.file!r} at revision {asked.revision!r}; {_holds(asked.file, held)}")


# --- through the client --------------------------------------------------------------------------------------------

# When each endpoint last failed to answer, so that one load does not wait for the same dead network file by file.
_failed_at: dict[str | None, float] = {}
_PATIENCE = 30.0  # seconds for which such a failure is believed


def _fetch(asked: _Asked, cached: Path | None, required: bool, force_download: bool) -> Path | None:
    """Ask the Hub for a file; fall back to `cached`, or to the absence of an optional file, if it does not answer."""
    spare = cached is not None or (not required and _snapshot(asked) is not None)  # we could do without an answer
    if spare and _monotonic() - _failed_at.get(_endpoint(), -_PATIENCE) < _PATIENCE:
        return cached
    import huggingface_hub as client
    from huggingface_hub import errors

    try:
        if cached is not None and _is_current(asked, cached):
            return cached
        path = client.hf_hub_download(
            asked.name,
            asked.file,
            revision=asked.revision,
            cache_dir=asked.cache,
            force_download=force_download,
            **asked.client,
        )
        return Path(path)
    except Exception as error:
        if isinstance(error, errors.EntryNotFoundError) and not isinstance(error, errors.LocalEntryNotFoundError):
            if not required:
                return None
            raise _not_in_repo(asked, _names_or_nothing(asked)) from None
        problem, outage = _explain(error, asked)
        if not (spare and outage):
            raise problem from _without_secret(error)
        import logging

        _failed_at[_endpoint()] = _monotonic()
        logging.getLogger(__name__).warning("using the cached files: %s", problem)
        return cached


def _monotonic() -> float:
    import time

    return time.monotonic()


def _is_current(asked: _Asked, cached: Path) -> bool:
    """One metadata request: does the revision still mean the commit that `cached` is from?"""
    import huggingface_hub as client
    from huggingface_hub import errors

    url = client.hf_hub_url(asked.name, asked.file, revision=asked.revision, endpoint=_endpoint())
    try:
        return client.get_hf_file_metadata(url, **asked.client).commit_hash == commit_of(cached)
    except errors.EntryNotFoundError:  # gone since: the download records that and raises
        return False


def _names_or_nothing(asked: _Asked) -> list[str]:
    """The repository's file names for an error message, which must not fail for the want of them."""
    try:
        return [name for name, _ in _remote_files(asked)]
    except HubError:
        return []


def _explain(error: Exception, asked: _Asked) -> tuple[HubError, bool]:
    """One line for what the client raised, and whether a cached file may be used in place of an answer."""
    from huggingface_hub import errors

    if isinstance(error, errors.LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        error = error.__cause__  # "not in the cache either", because of this
    where, outage = f"{asked.name}: ", True
    login = "give token=…, set HF_TOKEN, or run 'hf auth login'"
    response = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if isinstance(error, errors.GatedRepoError):
        text = f"this repository is gated; ask for access at {asked.url}, then {login}"
    elif isinstance(error, errors.RevisionNotFoundError):
        outage = False
        text = f"no revision {asked.revision!r}; branches, tags and commits are listed at {asked.url}/commits/main"
    elif status == 401 and _refused_token(response):
        text = f"the Hub refused the token (wrong or expired); {login}, or token=False to go without"
    elif isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        text = (
            f"no such repository at {asked.url}, or it is private; check the spelling, {login} if it is private,"
            f" or write './{asked.name}' for a folder on this machine"
        )
    elif isinstance(error, errors.LocalTokenNotFoundError):
        outage, text = False, "token=True, but no token is stored; set HF_TOKEN or run 'hf auth login'"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        text = "HF_HUB_OFFLINE was set when huggingface_hub was imported; start Python again without it"
    elif status == 403:
        text = f"the Hub does not allow this with your token ({_server_says(error)}); {login} with more rights"
    elif status == 429:
        text = "too many requests for the Hub; wait a few minutes" + ("" if asked.token else f", or {login}")
    elif status >= 500:
        text = f"the Hub has a problem of its own (HTTP {status}); try again in a few minutes"
    elif status:
        outage, text = False, f"the Hub answered HTTP {status} ({_server_says(error)})"
    elif isinstance(error, OSError) and (reason := _disk_problem(error, asked)):
        outage, text = False, reason
    elif "Consistency check failed" in str(error):
        outage, text = False, f"{asked.file!r} arrived with a wrong size and was thrown away; try again"
    elif _is_network(error):
        text = (
            f"{_endpoint() or DEFAULT_ENDPOINT} cannot be reached ({_one_line(error)}); check the network, the proxy"
            " and HF_ENDPOINT"
        )
    elif isinstance(error, errors.FileMetadataError):
        text = f"{asked.url} does not answer like a Hub; check HF_ENDPOINT, the proxy and the firewall"
    else:
        outage, text = False, _one_line(error)
    return HubError(where + text), outage


def _refused_token(response: Any) -> bool:
    return "credentials" in response.headers.get("X-Error-Message", "").lower()


def _disk_problem(error: OSError, asked: _Asked) -> str | None:
    path = error.filename or asked.cache
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return f"the disk is full at {path}; make room ('pellucid cache rm NAME'), or set HF_HOME or cache_dir="
    if error.errno in {errno.EACCES, errno.EPERM, errno.EROFS}:
        return f"no permission to write {path}; set HF_HOME or cache_dir= to a folder that is yours"
    return None


def _is_network(error: Exception) -> bool:
    library = type(error).__module__.partition(".")[0]
    return isinstance(error, (ConnectionError, TimeoutError)) or library.startswith(("httpx", "requests", "urllib3"))


def _server_says(error: Exception) -> str:
    return _SECRET.sub("***", " ".join((getattr(error, "server_message", None) or "no reason given").split()))[:200]


def _one_line(error: Exception) -> str:
    return _SECRET.sub("***", " ".join(f"{type(error).__name__}: {error}".split()))[:300]


def _without_secret(error: Exception) -> Exception | None:
    """The error as a cause for the traceback, unless its own message would show a token there."""
    return None if _SECRET.search(str(error)) else error


@contextmanager
def _client_errors(asked: _Asked) -> Iterator[None]:
    """Turn whatever the client raises inside into a `HubError`."""
    try:
        yield
    except PellucidError:
        raise
    except Exception as error:
        raise _explain(error, asked)[0] from _without_secret(error)


# --- whole repositories --------------------------------------------------------------------------------------------


@strict
def list_files(
    name_or_path: str | os.PathLike[str],
    *,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
) -> list[tuple[str, int]]:
    """Names and sizes in bytes of the files of a folder or repository, sorted; offline, of those cached.

    Raises:
        FileError: There is no such folder.
        HubError: The Hub could not be asked, or listed a name that leads out of the repository.
    """
    _check_source(name_or_path)
    if is_local(name_or_path):
        folder = Path(name_or_path).expanduser()
        _check_folder(folder)
        return sorted(_relative_files(folder).items())
    asked = _ask(os.fspath(name_or_path), revision, token, cache_dir)
    forbidden = "local_files_only=True" if local_files_only else _offline_variable()
    if not forbidden:
        return _remote_files(asked)
    if _snapshot(asked) is None:
        raise _not_cached(asked, forbidden)
    return sorted(_cached_files(asked).items())


def _remote_files(asked: _Asked) -> list[tuple[str, int]]:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoFile

    with _client_errors(asked):
        entries = HfApi(**asked.client).list_repo_tree(asked.name, recursive=True, revision=asked.revision)
        files = [(entry.path, entry.size) for entry in entries if isinstance(entry, RepoFile)]
    return sorted((_check_inside(name, f"{asked.name}: listed file"), size) for name, size in files)


@strict
def snapshot(
    name_or_path: str | os.PathLike[str],
    allow_patterns: str | list[str] | None = None,
    *,
    ignore_patterns: str | list[str] | None = None,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    local_files_only: bool = False,
    force_download: bool = False,
) -> Path:
    """The folder that holds the files of a repository at one commit, downloaded side by side as far as need be.

    Args:
        name_or_path: A name on the Hub; a folder is returned as it is.
        allow_patterns: Fetch only files that match one of these shell patterns, such as `"*.json"`.
        ignore_patterns: Don't fetch files that match one of these.
        revision: Branch, tag or full commit hash; `None` is `"main"`.
        token: As in `resolve_file`.
        cache_dir: The cache to use in place of the environment's.
        local_files_only: Answer from the cache alone; an incomplete answer is an error where that can be known.
        force_download: Download again what is cached.

    Raises:
        FileError: There is no such folder.
        HubError: Something could not be found or fetched; the message says why and what to do.
    """
    _check_source(name_or_path)
    if is_local(name_or_path):
        folder = Path(name_or_path).expanduser()
        _check_folder(folder)
        return folder
    asked = _ask(os.fspath(name_or_path), revision, token, cache_dir)
    forbidden = "local_files_only=True" if local_files_only else _offline_variable()
    if forbidden and _snapshot(asked) is None:
        raise _not_cached(asked, forbidden)
    from huggingface_hub import HfApi, snapshot_download

    with _client_errors(asked):
        if not forbidden:  # asked first: the client would quietly return an old folder where this raises
            HfApi(**asked.client).model_info(asked.name, revision=asked.revision)
        path = snapshot_download(
            asked.name,
            revision=asked.revision,
            cache_dir=asked.cache,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            local_files_only=forbidden is not None,
            force_download=force_download,
            **asked.client,
        )
    return Path(path)


@strict
def push_folder(
    repo_id: str,
    folder: str | os.PathLike[str],
    *,
    commit_message: str = "Upload with pellucid",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload the files of a folder in one commit, making the repository (and the branch) if need be.

    Args:
        repo_id: `"user/name"`, or `"name"` under the token's own account.
        folder: The folder whose files are uploaded; hidden `.git` and `.cache` folders are left out.
        commit_message: First line of the commit.
        private: Whether a repository made by this call is private; `None`: as the account has it.
        token: A token with the right to write; `None` or `True`: the stored one.
        revision: The branch to commit to, made if it does not exist; `None` is `"main"`.
        create_pr: Propose the commit as a pull request.

    Returns:
        The address of the commit, or of the pull request.

    Raises:
        FileError: There is no such folder.
        HubError: The upload was refused or broke off; nothing is committed then.
    """
    folder = Path(folder).expanduser()
    _check_folder(folder)
    asked = _ask(repo_id, revision, token, None)
    if forbidden := _offline_variable():
        raise HubError(f"{repo_id}: {forbidden} forbids to upload; unset it")
    from huggingface_hub import HfApi

    api = HfApi(**asked.client)
    with _client_errors(asked):
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(name, branch=revision, exist_ok=True)
        commit = api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=commit_message, revision=revision, create_pr=create_pr
        )
    return commit.pr_url or commit.commit_url


# --- the cache as a place ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CachedRepo:
    """A repository in the cache.

    Attributes:
        name: Its name on the Hub.
        size: Bytes on disk.
        revisions: Each cached commit, with the branches and tags that pointed to it.
        last_used: When a file of it was last read or written, in seconds since 1970.
        path: Its folder.
    """

    name: str
    size: int
    revisions: dict[str, list[str]]
    last_used: float
    path: Path


@strict
def list_cache(cache_dir: str | os.PathLike[str] | None = None) -> list[CachedRepo]:
    """The model repositories in the cache, by name, also those with unfinished downloads."""
    cache = cache_folder(cache_dir)
    folders = sorted(cache.glob("models--*")) if cache.is_dir() else []
    return [_cached_repo(folder) for folder in folders if folder.is_dir()]


def _cached_repo(folder: Path) -> CachedRepo:
    asked = _Asked(folder.name.removeprefix("models--").replace("--", "/"), "main", folder.parent)
    files: dict[tuple[int, int], os.stat_result] = {}  # by inode: links from snapshots to blobs count once
    for path in folder.rglob("*"):
        if path.is_file():
            stat = path.stat()
            files[stat.st_dev, stat.st_ino] = stat
    snapshots = folder / "snapshots"
    revisions: dict[str, list[str]] = {
        commit.name: [] for commit in (sorted(snapshots.iterdir()) if snapshots.is_dir() else [])
    }
    refs = folder / "refs"
    for ref in sorted(path for path in refs.rglob("*") if path.is_file()):
        name = ref.relative_to(refs).as_posix()
        commit = _commit(replace(asked, revision=name))
        if commit in revisions:
            revisions[commit].append(name)
    return CachedRepo(
        name=asked.name,
        size=sum(stat.st_size for stat in files.values()),
        revisions=revisions,
        last_used=max((max(stat.st_atime, stat.st_mtime) for stat in files.values()), default=0.0),
        path=folder,
    )


@strict
def remove_cached(name: str, cache_dir: str | os.PathLike[str] | None = None) -> int:
    """Remove a repository with all its revisions from the cache.

    Returns:
        The bytes freed. Bytes that another cached repository still shares stay, and don't count.

    Raises:
        HubError: It is not cached, or may not be removed.
    """
    asked = _ask(name, None, None, cache_dir)
    if not asked.folder.is_dir():
        raise HubError(
            f"{name}: not in the cache {asked.cache}{did_you_mean(name, [r.name for r in list_cache(asked.cache)])}"
        )
    import shutil

    from huggingface_hub import scan_cache_dir

    with _client_errors(asked):
        before = _bytes_below(asked.cache)
        report = scan_cache_dir(asked.cache)
        # Only this repository is handed to the deletion: it goes by commit hash, and a duplicated repository
        # has the same commits.
        ours = replace(report, repos=frozenset(repo for repo in report.repos if repo.repo_path == asked.folder))
        ours.delete_revisions(*(revision.commit_hash for repo in ours.repos for revision in repo.revisions)).execute()
        if asked.folder.is_dir():  # left over from a download that never finished
            shutil.rmtree(asked.folder)
        shutil.rmtree(asked.cache / ".locks" / asked.folder.name, ignore_errors=True)
        return before - _bytes_below(asked.cache)


def _bytes_below(folder: Path) -> int:
    """Bytes of the files below `folder`, links not counted."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
