"""`pellucid cache`: the models that were downloaded."""

from __future__ import annotations

import argparse
import sys
import time

from pellucid import hub
from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, one_of

DETAILS = """\
  pellucid cache ls
  pellucid cache rm bert-base-uncased
  pellucid cache rm bert-base-uncased --yes"""


def parser() -> Parser:
    """The arguments."""
    made = Parser("cache", "List the models in the cache, or remove one.", "[ls | rm NAME] [options]", DETAILS, "names")
    made.add_argument(
        "action", metavar="ACTION", nargs="?", default="ls", type=one_of("ls", "rm"), help="ls (default), or rm NAME"
    )
    made.add_argument("-y", "--yes", action="store_true", help="rm: don't ask")
    made.add_argument("--cache-dir", metavar="FOLDER", help="another cache (default: see 'pellucid env')")
    return made


def run(args: argparse.Namespace) -> int:
    """Do what `args.action` says."""
    if len(args.names) != (args.action == "rm"):
        wanted = "one NAME, as 'cache ls' shows it" if args.action == "rm" else "nothing behind it"
        parser().error(f"cache {args.action}: got {len(args.names) or 'no'} names, wanted {wanted}")
    return _remove(args.names[0], args) if args.action == "rm" else _list(args)


def _list(args: argparse.Namespace) -> int:
    repos = hub.list_cache(args.cache_dir)
    if repos:
        rows = [("model", "size", "last used", "revisions")]
        for repo in repos:
            names = [", ".join(refs) or commit[:8] for commit, refs in repo.revisions.items()]
            used = time.strftime("%Y-%m-%d", time.localtime(repo.last_used)) if repo.last_used else ""
            revisions = ", ".join(names) or "incomplete"
            rows.append((terminal.clean(repo.name), terminal.size(repo.size), used, terminal.clean(revisions)))
        heading, *lines = terminal.table(rows, right={1})
        for line in (terminal.dim(heading), *lines, ""):
            terminal.out(line)
    models = f"{len(repos)} model{'' if len(repos) == 1 else 's'}, {terminal.size(sum(repo.size for repo in repos))}"
    terminal.out(terminal.dim(f"{models} in {terminal.clean(str(hub.cache_folder(args.cache_dir)))}"))
    return 0


def _remove(name: str, args: argparse.Namespace) -> int:
    found = next((repo for repo in hub.list_cache(args.cache_dir) if repo.name == name), None)
    if found is not None and not args.yes and not _agrees(f"remove {name} ({terminal.size(found.size)})? [y/N] "):
        terminal.complain("cache rm", "nothing was removed")
        return 1
    terminal.out(f"removed {name}, {terminal.size(hub.remove_cached(name, args.cache_dir))} freed")
    return 0


def _agrees(question: str) -> bool:
    """Ask on standard error, so that standard output stays clean; no answer means no."""
    sys.stderr.write(question)
    sys.stderr.flush()
    answer = sys.stdin.readline() if sys.stdin is not None else ""
    if not answer.endswith("\n"):
        sys.stderr.write("\n")
    return answer.strip().lower() in ("y", "yes")
