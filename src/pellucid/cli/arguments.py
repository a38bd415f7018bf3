"""Arguments of the commands: `argparse` with short messages, "did you mean", and texts anywhere on the line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pellucid.errors import PellucidError, did_you_mean

EMBEDDED = Path(__file__).parent.parent / "assets" / "sentiment"
"""The model that ships inside the package: the default of every command that needs one."""

_KEYWORD = re.compile(r"\b([a-z_]+)=(\"[^\"]*\"|'[^']*'|[\w.…-]*)")


class UsageError(PellucidError):
    """The command was called in a way that it does not know."""


class Parser(argparse.ArgumentParser):
    """The arguments of one command.

    Args:
        command: its name.
        summary: what it does, in a sentence.
        usage: what stands behind the name, such as `"TASK [TEXT ...] [options]"`.
        details: further lines of the help page, such as examples.
        rest: name of the argument that takes all other words; they may stand before, between and after the options.
    """

    def __init__(self, command: str, summary: str, usage: str, details: str = "", rest: str | None = None) -> None:
        self.known: set[str] = set()  # every option, such as "--model"
        self.rest = rest
        super().__init__(
            prog=f"pellucid {command}",
            usage=f"pellucid {command} {usage}",
            description=summary,
            epilog=details,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
        )
        self.add_argument("-h", "--help", action="store_true", help="this page")
        self.add_argument("--debug", action="store_true", help="when something goes wrong, show a traceback")

    def add_argument(self, *names: Any, **settings: Any) -> argparse.Action:
        """As in `argparse`."""
        action = super().add_argument(*names, **settings)
        self.known.update(action.option_strings)
        return action

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing a page and leaving."""
        message = re.sub(r"^the following arguments are required: ", "missing: ", message)
        raise UsageError(f"{message.removeprefix('argument ')} (see '{self.prog} --help')")

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """The arguments in `words`.

        Raises:
            UsageError: a word or option that the command does not know, or a value that an option cannot take.
        """
        options, after = before_dashes(words)
        args, others = self.parse_known_args(options)
        for word in others:
            if word.startswith("-") and word != "-" and " " not in word:
                name = word.partition("=")[0]
                near = did_you_mean(name, self.known)
                cure = "; a text that begins with '-' comes after '--'" if self.rest and not near else ""
                self.error(f"there is no option {name!r}{near}{cure}")
        others += after[1:]
        if self.rest is not None:
            setattr(args, self.rest, others)
        elif others:
            self.error(f"got {others[0]!r}, and nothing is expected there")
        return args

    def in_options(self, message: str) -> str:
        """A message about Python arguments, `long="window"`, in the words of the command line, `--long window`."""

        def spell(match: re.Match[str]) -> str:
            name, value = f"--{match[1].replace('_', '-')}", match[2].strip("\"'")
            if name not in self.known or value == "False":
                return match[0]
            value = "all" if value == "None" else "" if value == "True" else value
            return f"{name} {value}".rstrip()

        return _KEYWORD.sub(spell, message)


def before_dashes(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """The words before the first `--`, where options may stand, and the rest, `--` included."""
    place = words.index("--") if "--" in words else len(words)
    return list(words[:place]), list(words[place:])


def one_of(*choices: str) -> Callable[[str], str]:
    """A `type` of an argument that takes one of a few words."""

    def check(value: str) -> str:
        if value not in choices:
            near = did_you_mean(value, choices)
            raise argparse.ArgumentTypeError(f"got {value!r}, wanted {', '.join(choices)}{near}")
        return value

    return check


def add_model(parser: Parser, default: str = "the sentiment model inside the package") -> None:
    """Add `--model` and `--revision`."""
    parser.add_argument(
        "-m", "--model", metavar="NAME", help=f"a folder, or a name on the Hub such as user/name (default: {default})"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub (default: main)")
