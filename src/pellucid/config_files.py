"""Where a configuration comes from: `config.json` of a folder or repository, or the head of a GGUF file."""

from __future__ import annotations

from os import PathLike
from pathlib import Path
from typing import Any

from pellucid import hub
from pellucid.errors import ConfigError
from pellucid.files import read_json
from pellucid.hub_cache import COMMIT

LOADING_KEYWORDS = frozenset(
    {
        "pretrained_model_name_or_path",
        "revision",
        "token",
        "cache_dir",
        "local_files_only",
        "force_download",
        "subfolder",
        "gguf_file",
        "trust_remote_code",
        "return_unused_kwargs",
    }
)
"""Keywords that say where a checkpoint is, for suggestions when an override is misspelt."""


def load_config_dict(
    name_or_path: str | PathLike[str], *, gguf_file: str | None = None, **where: Any
) -> dict[str, Any]:
    """The contents of a checkpoint's `config.json` as a dictionary.

    Args:
        name_or_path: a folder, a JSON or GGUF file, or a Hub name.
        gguf_file: name of a GGUF file there, to read in place of `config.json`.
        where: keywords of `hub.resolve_file`.
    """
    if gguf_file is not None or str(name_or_path).endswith(".gguf"):
        from pellucid.gguf import find_gguf, read_gguf
        from pellucid.gguf_models import config_values

        if (gguf := find_gguf(name_or_path, gguf_file, **where)) is not None:
            return config_values(read_gguf(gguf))
    path = Path(name_or_path)
    if not path.is_file():
        found = hub.resolve_file(name_or_path, "config.json", **where)
        assert found is not None  # required files are found or raise
        path = found
    values = read_json(path)
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: got a JSON {type(values).__name__}, wanted an object with the model's settings")
    return values


def at_one_commit(
    name_or_path: str | PathLike[str], where: dict[str, Any], filename: str | None = None
) -> dict[str, Any]:
    """The same place, with a branch replaced by the commit that its `config.json`, or `filename`, is from now.

    All files of a load then belong together, and those that are cached cost no further request.

    Args:
        name_or_path: a folder (nothing to do) or a Hub name.
        where: keywords of `hub.resolve_file`.
        filename: a file that is needed in any case.
    """
    if hub.is_local(name_or_path) or COMMIT.fullmatch(where["revision"] or ""):
        return where  # a caller has pinned it already
    found = hub.resolve_file(name_or_path, filename or "config.json", required=False, **where)
    commit = None if found is None else hub.commit_of(found)
    return where if commit is None else {**where, "revision": commit}
