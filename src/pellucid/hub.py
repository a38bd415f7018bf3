"""From a name or a path to files on this machine; the only module that touches the network.

A folder is used as it is. Anything else is a repository on the Hub: its files come from the cache (`hub_cache`) or
are downloaded into it.

What the cache can answer, offline or for a commit hash, costs no request, and `huggingface_hub` stays unimported.
The rest goes through `huggingface_hub`, whose errors become one-line `HubError`s that say what to do.

Variables read, each time they are needed: `HF_HOME`, `HF_HUB_CACHE`, `HUGGINGFACE_HUB_CACHE`, `XDG_CACHE_HOME`,
`HF_HUB_OFFLINE`, `TRANSFORMERS_OFFLINE`, `HF_ENDPOINT`; `HF_TOKEN` and the timeouts are read by `huggingface_hub`.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pellucid.errors import FileError, HubError, InputError, PellucidError, did_you_mean, strict
from pellucid.hub_cache import (
    COMMIT,
    Cached,
    CachedRepo,
    StrPath,
    cache_folder,
    check_relative,
    check_repo_name,
    commit_of,
    holds,
    list_cache,
    relative_files,
    remove_cached,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

__all__ = [
    "CachedRepo",
    "cache_folder",
    "commit_of",
    "is_local",
    "list_cache",
    "list_files",
    "offline",
    "push_folder",
    "remove_cached",
    "resolve_file",
    "snapshot",
]

T = TypeVar("T")

_TRUE = {"1", "ON", "YES", "TRUE"}
_LOOKS_LIKE_PATH = re.compile(r"[/~]|\.{1,2}(?:/|$)|[A-Za-z]:/|.*\\|.*/.*/", re.DOTALL)
_SECRET = re.compile(r"hf_[a-z0-9]{20,}|Bearer\s+\S+|(?<=\?)\w+=\S+", re.IGNORECASE)


@strict
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


@strict
def is_local(name_or_path: StrPath) -> bool:
    """Whether this means something on this machine (it exists, or is written like a path) and not a Hub name."""
    if not isinstance(name_or_path, str) or _LOOKS_LIKE_PATH.match(name_or_path):
        return True
    try:
        return Path(name_or_path).exists()
    except OSError:  # longer than any file name
        return False


def _check_source(name_or_path: Any) -> None:
    if not isinstance(name_or_path, (str, os.PathLike)) or not os.fspath(name_or_path):
        raise InputError(f"name_or_path: got {name_or_path!r}, expected a Hub name such as 'user/name' or a folder")


@dataclass(frozen=True)
class _Asked(Cached):
    """One question to the Hub: which revision of which repository, for which cache, as whom, about which file."""

    token: str | bool | None = field(default=None, repr=False)
    file: str = ""

    @property
    def endpoint(self) -> str:
        return _endpoint() or "https://huggingface.co"

    @property
    def url(self) -> str:
        return f"{self.endpoint}/{self.name}"

    @property
    def client(self) -> dict[str, Any]:
        """The arguments that every call of the client takes."""
        return {"endpoint": _endpoint(), "token": self.token, "library_name": "pellucid"}


def _ask(
    name_or_path: StrPath, revision: str | None, token: str | bool | None, cache_dir: StrPath | None, file: str = ""
) -> _Asked:
    name, revision = os.fspath(name_or_path), revision or "main"
    check_repo_name(name)
    check_relative(revision, "revision")
    if isinstance(token, str) and not re.fullmatch(r"[!-~]+", token):
        raise InputError("token: it is empty or holds a space or a line break; copy it again from the Hub's settings")
    return _Asked(name, revision, cache_folder(cache_dir), token, file)


# --- one file ------------------------------------------------------------------------------------------------------


@strict
def resolve_file(
    name_or_path: StrPath,
    filename: str,
    *,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: StrPath | None = None,
    local_files_only: bool = False,
    subfolder: str | None = "",
    force_download: bool = False,
    required: bool = True,
) -> Path | None:
    """The path of one file of a folder or of a repository, downloaded if need be.

    A file of a branch or tag costs one metadata request (two where the cache has an older one), besides its download.
    No request is made offline, or where `revision` is a commit of which the cache has the file (see `commit_of`).
    When the Hub gives no answer, a cached file is used, with a warning in the log; an optional file that the cache
    knows nothing about then counts as absent if the cache has others of its commit.

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
    file = check_relative(filename, "file name")
    if subfolder:
        file = f"{check_relative(subfolder, 'subfolder').removesuffix('/')}/{file}"
    if is_local(name_or_path):
        return _local_file(Path(name_or_path).expanduser(), file, required)
    asked = _ask(os.fspath(name_or_path), revision, token, cache_dir, file)
    forbidden = "local_files_only=True" if local_files_only else _offline_variable()
    if force_download and forbidden:
        raise InputError(f"force_download=True needs the network, which {forbidden} forbids; drop one of the two")
    cached = None if force_download else asked.find(asked.file)
    if cached and (forbidden or COMMIT.fullmatch(asked.revision)):
        return cached
    if forbidden:
        if required:
            raise _not_cached(asked, forbidden)
        return None
    if cached is False and COMMIT.fullmatch(asked.revision):
        if required:
            raise _not_in_repo(asked, asked.files())
        return None
    return _fetch(asked, cached or None, required, force_download)


def _local_file(folder: Path, file: str, required: bool) -> Path | None:
    path = folder / file
    if path.is_file():
        return path
    _check_folder(folder)
    if not required:
        return None
    held = relative_files(folder, limit=1000)
    raise FileError(f"{folder}: no file {file!r}; {holds(file, held)}")


def _check_folder(folder: Path) -> None:
    if folder.is_file():
        raise FileError(f"{folder}: this is a file; give the folder that holds it: {folder.parent}")
    if not folder.is_dir():
        siblings = [entry.name for entry in folder.parent.iterdir()] if folder.parent.is_dir() else []
        raise FileError(
            f"{folder}: no such folder{did_you_mean(folder.name, siblings)}"
            " (a name on the Hub is written 'user/name', without './' or '\\')"
        )


def _not_cached(asked: _Asked, forbidden: str) -> HubError:
    held = asked.files()
    what = f"{asked.file!r} is" if asked.file else f"revision {asked.revision!r} is"
    return HubError(
        f"{asked.name}: {what} not in the cache {asked.cache}, and {forbidden} forbids to download it; allow the"
        f" network, or run 'pellucid download {asked.name}' where there is one"
        + (f" (for {asked.revision!r}, {holds(asked.file, held)})" if held and asked.file else "")
    )


def _not_in_repo(asked: _Asked, held: Iterable[str]) -> HubError:
    return HubError(f"{asked.name}: no file {asked.file!r} at revision {asked.revision!r}; {holds(asked.file, held)}")


# --- through the client --------------------------------------------------------------------------------------------

# When each endpoint was last out of reach, so that one load does not wait for a dead network file by file.
_down_at: dict[str | None, float] = {}
_PATIENCE = 30.0  # seconds for which that is believed
_CUT = {"RemoteProtocolError", "ReadError", "WriteError"}  # what the client's HTTP library calls a cut connection


def _fetch(asked: _Asked, cached: Path | None, required: bool, force_download: bool) -> Path | None:
    """Ask the Hub for a file of which the cache has nothing, or `cached`, which may have been replaced since."""
    import huggingface_hub as client
    from huggingface_hub import errors

    def is_current() -> bool:
        url = client.hf_hub_url(asked.name, asked.file, revision=asked.revision, endpoint=_endpoint())
        try:
            return client.get_hf_file_metadata(url, **asked.client).commit_hash == asked.commit()
        except errors.EntryNotFoundError:  # gone since: the download will record that
            return False

    def download() -> Path | Literal[False]:
        try:
            path = client.hf_hub_download(
                asked.name,
                asked.file,
                revision=asked.revision,
                cache_dir=asked.cache,
                force_download=force_download,
                **asked.client,
            )
        except errors.LocalEntryNotFoundError:  # a kind of EntryNotFoundError, but it means "no answer"
            raise
        except errors.EntryNotFoundError:
            return False
        return Path(path)

    if cached and _answer(is_current, True, asked):
        return cached
    absent: Literal[False] | None = False if not required and asked.snapshot() else None
    path: Path | Literal[False] = _answer(download, absent, asked)
    if path or not required:
        return path or None
    try:
        names = [name for name, _ in _remote_files(asked)]
    except Exception:  # the list is a help only
        names = []
    raise _not_in_repo(asked, names)


def _answer(question: Callable[[], T], spare: T | None, asked: _Asked, again: bool = True) -> T:
    """What the Hub answers; where it gives no answer, `spare` from the cache if there is one, else a `HubError`.

    `again`: a cut connection, such as one kept open for too long, is worth a second try (the client makes one for some
    cuts only).
    """
    import time

    if spare is not None and time.monotonic() - _down_at.get(_endpoint(), -_PATIENCE) < _PATIENCE:
        return spare
    try:
        return question()
    except PellucidError:
        raise
    except Exception as error:
        if again and type(_reason(error)).__name__ in _CUT:
            return _answer(question, spare, asked, again=False)
        problem = _explain(error, asked)
        if spare is None or not _cache_may_answer(error):
            raise problem from (None if _shows_secret(error, asked) else error)
        if _is_down(_reason(error)):
            _down_at[_endpoint()] = time.monotonic()
        import logging

        logging.getLogger(__name__).warning("using the cache, because %s", problem)
        return spare


def _reason(error: Exception) -> Exception:
    """What stopped the client, when it says only that the cache has no answer (or must not give one) either."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    cause = error.__cause__ if isinstance(error, LocalEntryNotFoundError) or type(error) is ValueError else None
    return cause if isinstance(cause, Exception) else error


def _status(error: Exception) -> int:
    """The HTTP status that the Hub answered with, or 0."""
    return int(getattr(getattr(error, "response", None), "status_code", 0))


def _is_down(error: Exception) -> bool:
    """Whether no request to the Hub can be expected to succeed now."""
    library = type(error).__module__.partition(".")[0]
    network = isinstance(error, (ConnectionError, TimeoutError)) or library.startswith(("httpx", "requests", "urllib3"))
    return network or _status(error) >= 500


def _cache_may_answer(error: Exception) -> bool:
    """Whether a cached file stands in: not when the Hub did answer that the revision does not exist."""
    from huggingface_hub import errors

    error = _reason(error)
    refused = _status(error) in {401, 403, 404, 429} and not isinstance(error, errors.RevisionNotFoundError)
    return refused or _is_down(error) or isinstance(error, (errors.OfflineModeIsEnabled, errors.FileMetadataError))


def _explain(error: Exception, asked: _Asked) -> HubError:
    """One line for what the client raised: what happened and what to do."""
    from huggingface_hub import errors

    error = _reason(error)
    status = _status(error)
    says = _brief(getattr(error, "server_message", None) or "no reason given", asked)
    login = "give token=…, set HF_TOKEN, or run 'hf auth login'"
    if isinstance(error, errors.GatedRepoError):
        text = f"this repository is gated; ask for access at {asked.url}, then {login}"
    elif isinstance(error, errors.RevisionNotFoundError):
        text = f"no revision {asked.revision!r}; {asked.url}/commits/main lists branches, tags and commits"
    elif status == 401 and "credentials" in says.lower():
        text = f"the Hub refused the token (wrong or expired); {login}, or token=False to go without"
    elif isinstance(error, errors.RepositoryNotFoundError) or status == 401:
        text = (
            f"no repository at {asked.url}, or a private one that you may not see; check the spelling; for a private"
            f" one, {login}; for a folder on this machine, write './{asked.name}'"
        )
    elif status == 403:
        text = f"the Hub does not allow this with your token ({says}); {login} with the right to do it"
    elif status == 429:
        text = f"too many requests for the Hub; wait a few minutes, or {login}"
    elif status >= 500:
        text = f"the Hub has a problem of its own (HTTP {status}); try again in a few minutes"
    elif status:
        text = f"the Hub answered HTTP {status} ({says})"
    elif isinstance(error, errors.LocalTokenNotFoundError):
        text = "token=True, but no token is stored; set HF_TOKEN or run 'hf auth login'"
    elif isinstance(error, errors.OfflineModeIsEnabled):
        text = "HF_HUB_OFFLINE was set when huggingface_hub was imported; start Python again without it"
    elif isinstance(error, errors.FileMetadataError):
        text = f"{asked.url} does not answer like a Hub; check HF_ENDPOINT, the proxy and the firewall"
    elif _is_down(error):
        kind = f"{type(error).__name__}: {error}"
        text = (
            f"{asked.endpoint} cannot be reached ({_brief(kind, asked)}); check the network, the proxy and HF_ENDPOINT"
        )
    elif isinstance(error, OSError) and error.errno in {errno.ENOSPC, errno.EDQUOT}:
        text = f"the disk of {asked.cache} is full; make room ('pellucid cache rm NAME') or set HF_HOME or cache_dir="
    elif isinstance(error, OSError) and error.errno:
        where = error.filename or asked.cache
        text = f"{where} cannot be written ({error.strerror}); set HF_HOME or cache_dir= to a folder of yours"
    elif "Consistency check failed" in str(error):
        text = f"{asked.file or 'a file'!r} arrived with a wrong size and was thrown away; try again"
    elif isinstance(error, errors.LocalEntryNotFoundError):
        text = "the cache holds only a part of what is asked for; allow the network once to complete it"
    else:
        text = _brief(f"{type(error).__name__}: {error}", asked)
    return HubError(f"{asked.name}: {text}")


def _redact(text: str, asked: _Asked) -> str:
    """`text` without tokens and the signed part of addresses."""
    for secret in (asked.token, os.environ.get("HF_TOKEN"), os.environ.get("HUGGING_FACE_HUB_TOKEN")):
        if isinstance(secret, str) and secret.strip():
            text = text.replace(secret.strip(), "***")
    return _SECRET.sub("***", text)


def _brief(text: str, asked: _Asked) -> str:
    return " ".join(_redact(text, asked).split())[:300]


def _shows_secret(error: BaseException | None, asked: _Asked) -> bool:
    """Whether a traceback that shows `error` and what led to it would show a token."""
    if error is None:
        return False
    return _redact(str(error), asked) != str(error) or _shows_secret(error.__cause__ or error.__context__, asked)


# --- whole repositories --------------------------------------------------------------------------------------------


@strict
def list_files(
    name_or_path: StrPath,
    *,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: StrPath | None = None,
    local_files_only: bool = False,
) -> list[tuple[str, int]]:
    """Names and sizes in bytes of the files of a folder or repository, sorted.

    Offline, or with a warning in the log when the Hub gives no answer, those in the cache.

    Raises:
        FileError: There is no such folder.
        HubError: The Hub could not be asked, or listed a name that leads out of the repository.
    """
    _check_source(name_or_path)
    if is_local(name_or_path):
        folder = Path(name_or_path).expanduser()
        _check_folder(folder)
        return list(relative_files(folder).items())
    asked = _ask(os.fspath(name_or_path), revision, token, cache_dir)
    forbidden = "local_files_only=True" if local_files_only else _offline_variable()
    cached = list(asked.files().items()) if asked.snapshot() else None
    if not forbidden:
        return _answer(lambda: _remote_files(asked), cached, asked)
    if cached is None:
        raise _not_cached(asked, forbidden)
    return cached


def _remote_files(asked: _Asked) -> list[tuple[str, int]]:
    from huggingface_hub.hf_api import RepoFile

    entries = _api(asked).list_repo_tree(asked.name, recursive=True, revision=asked.revision)
    files = [(entry.path, entry.size) for entry in entries if isinstance(entry, RepoFile)]
    return sorted((check_relative(name, f"{asked.name}: listed file"), size) for name, size in files)


@strict
def snapshot(
    name_or_path: StrPath,
    allow_patterns: str | list[str] | None = None,
    *,
    ignore_patterns: str | list[str] | None = None,
    revision: str | None = "main",
    token: str | bool | None = None,
    cache_dir: StrPath | None = None,
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
    if forbidden and asked.snapshot() is None:
        raise _not_cached(asked, forbidden)
    from huggingface_hub import snapshot_download

    # Asked first, although the client asks again: where this raises or warns, the client would quietly return an
    # old folder; and it does not check the names.
    def is_reached() -> bool:
        _remote_files(asked)
        return True

    def download() -> Path:
        path = snapshot_download(
            asked.name,
            revision=asked.revision,
            cache_dir=asked.cache,
            allow_patterns=allow_patterns,
            ignore_patterns=ignore_patterns,
            local_files_only=not reached,
            force_download=force_download,
            **asked.client,
        )
        return Path(path)

    reached = not forbidden and _answer(is_reached, False if asked.snapshot() else None, asked)
    return _answer(download, None, asked)


@strict
def push_folder(
    repo_id: str,
    folder: StrPath,
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
        folder: The folder whose files are uploaded, hidden ones (`.git`) aside; files of other names stay.
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

    def upload() -> str:
        from huggingface_hub import CommitOperationAdd

        api = _api(asked)
        name = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(name, branch=revision, exist_ok=True)
        files = [CommitOperationAdd(file, str(folder / file)) for file in relative_files(folder)]
        commit = api.create_commit(
            name, files, commit_message=commit_message, revision=revision, create_pr=create_pr
        )  # not upload_folder, which may cut a large folder into several commits
        return commit.pr_url or commit.commit_url

    return _answer(upload, None, asked, again=False)


def _api(asked: _Asked) -> HfApi:
    from huggingface_hub import HfApi

    return HfApi(**asked.client)
