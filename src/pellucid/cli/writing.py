"""What the commands that write have in common: options for how words are chosen, and the model that writes."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid.cli.arguments import Parser, UsageError
from pellucid.errors import PellucidError
from pellucid.files import read_text

if TYPE_CHECKING:
    from pellucid.pipelines.text_generation import TextGenerationPipeline

SETTINGS = (
    "max_new_tokens", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "seed", "regex", "choices",
)  # fmt: skip
"""Options that are fields of `GenerationConfig` by the same name."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "seed")
"""Those of them that are about chance."""


def number(kind: Callable[[str], Any], wanted: str, least: float) -> Callable[[str], Any]:
    """A `type` of an argument that takes a number."""

    def check(value: str) -> Any:
        try:
            found = kind(value)
        except ValueError:
            found = None
        if found is None or not found >= least:
            raise argparse.ArgumentTypeError(f"got {value!r}, wanted {wanted}")
        return found

    return check


def add_model(parser: Parser) -> None:
    """Add what says which model writes, and where."""
    parser.add_argument("model", metavar="MODEL", help="a folder, or a name on the Hub such as user/name")
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub (default: main)")
    parser.add_argument("--device", metavar="DEVICE", help="cpu, cuda, cuda:1, … (default: a GPU if there is one)")
    parser.add_argument("--dtype", metavar="TYPE", help="number format: float32, bfloat16 (default: the file's)")


def add_settings(parser: Parser, length: str) -> None:
    """Add what says how words are chosen; `length` is how much is written by default."""
    count, share = number(int, "a whole number from 1", 1), number(float, "a number from 0", 0)
    parser.add_argument("-n", "--max-new-tokens", type=count, metavar="N", help=f"write at most N tokens ({length})")
    parser.add_argument("--greedy", action="store_true", help="always take the most probable word")
    parser.add_argument("-t", "--temperature", type=share, metavar="T", help="below 1 less surprising, above 1 more")
    parser.add_argument(
        "--top-k", type=number(int, "a whole number from 0", 0), metavar="K", help="draw among the K best words"
    )
    parser.add_argument("--top-p", type=share, metavar="P", help="draw among the best words that have P together")
    parser.add_argument("--min-p", type=share, metavar="P", help="leave out words with less than P times the best")
    parser.add_argument("--repetition-penalty", type=share, metavar="X", help="above 1: repeat fewer words")
    parser.add_argument("--seed", type=int, metavar="N", help="the same seed gives the same text")
    parser.add_argument("--stop", metavar="TEXT", action="append", help="end behind this text (repeatable)")
    parser.add_argument("--regex", metavar="PATTERN", help="write only what matches the pattern as a whole")
    parser.add_argument("--json-schema", metavar="FILE", help="write only JSON that follows the schema in a file")
    parser.add_argument("--choices", metavar="TEXT", nargs="+", help="write one of these texts")


def settings_of(args: argparse.Namespace) -> dict[str, Any]:
    """The pipeline's options for what was said on the command line."""
    found = {name: value for name in SETTINGS if (value := getattr(args, name)) is not None}
    if args.greedy:
        if idle := next((name for name in SAMPLING if name in found), None):
            raise UsageError(f"--{idle.replace('_', '-')}: has no effect with --greedy; leave one of the two out")
        found["do_sample"] = False
    if args.stop:
        found["stop_strings"] = args.stop
    if args.json_schema is not None:
        found["json_schema"] = read_text(Path(args.json_schema), follow=True)
    return found


def load(args: argparse.Namespace, settings: Mapping[str, Any], tokenizer: Any = None) -> TextGenerationPipeline:
    """The pipeline that writes with the model of the command line."""
    from pellucid.pipelines import pipeline

    device = args.device
    if device is not None and device.removeprefix("-").isdecimal():
        device = int(device)
    where = {"revision": args.revision, "device": device, "dtype": args.dtype, "tokenizer": tokenizer}
    return pipeline("text-generation", args.model, **where, **settings)


def speed(pipe: TextGenerationPipeline) -> str:
    """How much was written, and how fast."""
    run = pipe.last_run
    rate = run.written / run.seconds if run.seconds else 0.0
    return f"{run.written:,} token{'' if run.written == 1 else 's'}, {rate:,.1f} tokens/s"


def one_line(error: PellucidError) -> str:
    """An error's message without the number that the pipeline gave the row."""
    return re.sub(r"^row \d+: ", "", str(error))
