"""`pellucid download NAME`: the files of a model on the Hub into the cache, so that it works offline."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from glob import escape
from pathlib import PurePosixPath

from pellucid import hub
from pellucid.cli import terminal
from pellucid.cli.arguments import Parser
from pellucid.errors import HubError

TEXT_FILES = {".json", ".jinja", ".md", ".model", ".txt"}

DETAILS = """\
By default these files are fetched: configuration, tokenizer, and the weights in one form, as safetensors where there
are any. Files that are in the cache already are not fetched again.

  pellucid download bert-base-uncased
  pellucid download bert-base-uncased --include "*.json" --include "*.txt"
  pellucid download user/private --token hf_…"""


def parser() -> Parser:
    """The arguments."""
    made = Parser("download", "Fetch a model from the Hub into the cache; print its folder.", "NAME [options]", DETAILS)
    made.add_argument("name", metavar="NAME", help="name on the Hub, such as bert-base-uncased or user/name")
    made.add_argument("--revision", metavar="REV", help="branch, tag or commit (default: main)")
    made.add_argument("--token", metavar="TOKEN", help="access token (default: HF_TOKEN, or the one that is logged in)")
    made.add_argument("--cache-dir", metavar="FOLDER", help="another cache (default: see 'pellucid env')")
    made.add_argument(
        "--include", metavar="PATTERN", action="append", help="fetch these files instead, such as '*.json' (repeatable)"
    )
    return made


def run(args: argparse.Namespace) -> int:
    """Fetch, and print the folder."""
    if hub.is_local(args.name):
        raise HubError(f"{args.name}: this is a folder or path here, and only what is on the Hub can be downloaded")
    terminal.quiet_downloads()
    where = {"revision": args.revision or "main", "token": args.token, "cache_dir": args.cache_dir}
    patterns = args.include
    if patterns is None:
        files = dict(hub.list_files(args.name, **where))
        names = needed_files(list(files))
        total = terminal.size(sum(files[name] for name in names))
        if terminal.is_terminal(sys.stderr):
            print(f"{args.name}: {len(names)} of {len(files)} files, {total}", file=sys.stderr)
        patterns = [escape(name) for name in names]
    terminal.out(str(hub.snapshot(args.name, patterns, **where)))
    return 0


def needed_files(names: Sequence[str]) -> list[str]:
    """Those that loading reads: text files, and weights in the one form that would be taken."""
    weights = [name for name in names if _is_weights(name, ".safetensors")]
    weights = weights or [name for name in names if _is_weights(name, ".bin")]
    texts = [name for name in names if PurePosixPath(name).suffix in TEXT_FILES]
    return sorted({*texts, *weights})


def _is_weights(name: str, ending: str) -> bool:
    """Whether this is `model.safetensors`, `pytorch_model.bin`, one of their shards, or the weights of a pooling."""
    path = PurePosixPath(name)
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    return path.suffix == ending and (path.stem == stem or path.stem.startswith(f"{stem}-"))
