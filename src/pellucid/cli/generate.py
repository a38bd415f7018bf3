"""`pellucid generate MODEL TEXT …`: texts that go on, word by word as they are written."""

from __future__ import annotations

import argparse
from collections import deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError
from pellucid.cli.texts import given
from pellucid.cli.writing import add_model, add_settings, load, number, one_line, settings_of, speed
from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.pipelines.text_generation import TextGenerationPipeline

EXAMPLE = 'pellucid generate openai-community/gpt2 "Once upon a time"'

DETAILS = f"""\
Without TEXT, standard input is read, one text a line; so is '-'. Settings that are not given are those of the model.
Of several texts, one that cannot be continued is reported, and the others are continued; the exit code is 1.

  {EXAMPLE} --max-new-tokens 50
  pellucid generate MODEL "The capital of France is" --greedy --stop .
  pellucid generate MODEL "Is a whale a fish? Answer:" --choices yes no
  pellucid generate MODEL --json --seed 1 < prompts.txt > texts.jsonl"""


def parser() -> Parser:
    """The arguments."""
    made = Parser("generate", "Go on with each text.", "MODEL [TEXT ...] [options]", DETAILS, "texts")
    add_model(made)
    add_settings(made, "default: the model's own setting, else 256")
    made.add_argument(
        "--beams", type=number(int, "a whole number from 1", 1), metavar="N", help="search the best text with N beams"
    )
    made.add_argument("--full", action="store_true", help="print the text itself before what is written")
    made.add_argument("--json", action="store_true", help="print a JSON object for each text")
    made.add_argument("--stats", action="store_true", help="say how fast it was, on standard error")
    return made


def run(args: argparse.Namespace) -> int:
    """Go on with every text; 1 if one of them could not be continued."""
    rows = given(args.texts, None, EXAMPLE)
    settings = settings_of(args)
    if args.beams is not None:
        if args.greedy:
            raise UsageError("--beams: has no effect with --greedy; leave one of the two out")
        settings |= {"num_beams": args.beams, "do_sample": False}
    terminal.quiet_downloads()
    pipe = load(args, settings)
    at_once = args.json or (args.beams or 1) > 1
    failed = False
    for count, (text, answer) in enumerate(_answers(pipe, rows) if at_once else _written(pipe, rows, args.full), 1):
        if isinstance(answer, InputError):
            failed = True
            message = parser().in_options(one_line(answer))
            terminal.flush()
            terminal.complain("error", f"text {count}: {message}")
            if args.json:
                terminal.out_json({"prompt": text, "error": message})
        elif args.json:
            terminal.out_json({"prompt": text, "text": answer})
        elif at_once:
            terminal.out(terminal.clean_lines((text if args.full else "") + answer), now=True)
        if args.stats and not isinstance(answer, InputError):
            terminal.note(speed(pipe))
    return int(failed)


def _answers(pipe: TextGenerationPipeline, rows: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
    """Each text with what was written behind it, those of a batch together, or with its error."""
    waiting: deque[Any] = deque()

    def noted() -> Iterator[Any]:
        for row in rows:
            waiting.append(row)
            yield row

    answers = pipe(noted(), return_full_text=False, on_error="keep", progress=False)
    for answer in answers:
        yield waiting.popleft(), answer if isinstance(answer, InputError) else answer[0]["generated_text"]


def _written(pipe: TextGenerationPipeline, rows: Iterable[Any], full: bool) -> Iterator[tuple[Any, InputError | None]]:
    """Print what is written behind each text while it is; the text, with its error if there is one."""
    for row in rows:
        try:
            pieces = pipe.stream(row)
        except InputError as error:
            yield row, error
            continue
        terminal.out_piece(row if full else "")
        for piece in pieces:
            terminal.out_piece(piece)
        terminal.out(now=True)
        yield row, None
