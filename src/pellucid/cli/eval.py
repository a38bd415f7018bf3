"""`pellucid eval --model FOLDER --data FILE`: the figures of a model on a file, as its training measured them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError, add_model
from pellucid.cli.train import OPTION, add_option, add_options, in_words_of_the_command, print_figures, task_in

SETTINGS = (
    "bf16", "bf16_full_eval", "disable_tqdm", "generation_max_length", "generation_num_beams",
    "per_device_eval_batch_size", "seed", "use_cpu",
)  # fmt: skip
"""Training settings that mean something here."""
DETAILS = """\
A folder that 'pellucid train' has made says its task, and how texts were read; of any other model name --task.

Settings, as in training: {settings}

Examples
  pellucid eval --model out --data test.tsv --json
  pellucid eval --task question-answering --model distilbert-base-cased-distilled-squad --data dev-v1.1.json
  pellucid eval --model out --data test.tsv --out answers.jsonl"""


def parser(words: Sequence[str] = ()) -> Parser:
    """The arguments; of all tasks, or of the one that the words name."""
    from pellucid.training.arguments import Seq2SeqTrainingArguments

    hints = Seq2SeqTrainingArguments.fields()
    made = Parser(
        "eval",
        "Measure a model on files.",
        "--model NAME --data FILE [--task TASK] [options]",
        details=DETAILS.format(settings=", ".join(f"--{name}" for name in SETTINGS)),
    )
    made.add_argument("--task", metavar="TASK", help="what the model does (default: as its folder says)")
    add_model(made, "none")
    made.add_argument("--data", metavar="FILE", nargs="+", action="extend", help="files to measure on")
    made.add_argument("-o", "--out", metavar="FILE", help="write each row with the model's answer: JSON lines, CSV, …")
    made.add_argument("--json", action="store_true", help="print the figures as a JSON object")
    add_options(made, task_in(words))
    for name in SETTINGS:
        add_option(made, name, hints[name], argparse.SUPPRESS)
    return made


def page(words: Sequence[str]) -> str:
    """The page of help, for one task where it is named."""
    return parser(words).format_help()


def run(args: argparse.Namespace) -> int:
    """Measure, and print the figures."""
    for name in ("model", "data"):
        if not getattr(args, name):
            raise UsageError(f"missing: --{name} (see 'pellucid eval --help')")
    said = vars(args)
    options = {name.removeprefix(OPTION): value for name, value in said.items() if name.startswith(OPTION)}
    settings = {name: said[name] for name in SETTINGS if name in said}
    if args.out is not None:
        from pellucid.pipelines.datafiles import kind_of

        kind_of(args.out, written=True)  # refuses a name that says no kind, before time is spent
    if not terminal.is_terminal(sys.stderr):
        settings.setdefault("disable_tqdm", True)
    terminal.quiet_downloads()
    with in_words_of_the_command(), redirect_stdout(sys.stderr):
        from pellucid.training.recipes_run import evaluate

        found = evaluate(
            args.model, args.data, args.task, options=options, settings=settings, revision=args.revision,
            answers=args.out is not None,
        )  # fmt: skip
    for note in found.notes:
        terminal.note(note)
    if args.out is not None:
        from pellucid.pipelines.datafiles import write_rows

        write_rows(args.out, [{**row, **answer} for row, answer in zip(found.rows, found.answers, strict=True)])
        terminal.note(f"{terminal.clean(args.out)}: {len(found.rows):,} rows written")
    if args.json:
        from pellucid.training.state import as_json

        terminal.out_json(as_json(found.figures))
    else:
        print_figures(found.figures)
    return 0
