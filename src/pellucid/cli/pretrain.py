"""`pellucid pretrain --arch ARCH --data FILE`: a model with random weights, and its tokenizer, learn from texts."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from typing import TYPE_CHECKING, Any

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError, one_of
from pellucid.cli.training_options import add_training_options, in_option_names, said_settings, training_options_help
from pellucid.errors import PellucidError
from pellucid.training.argument_words import spelt, value_of

if TYPE_CHECKING:
    from pellucid.training.pretraining import Pretraining

DETAILS = """\
What is made
  A tokenizer learnt from the texts, a model of the chosen size with random weights, trained on blocks of the texts, its
  figures, a card (README.md) and the curves of the run (training.html), all in --output_dir.

  ARCH is a model_type: {archs}.
  Sizes (width, layers, heads, context): {sizes}.
  Any field of the architecture's configuration is an option, too: --arch llama --hidden_size 192 --num_hidden_layers 3.

Objectives
{objectives}

Texts
  Files of text, JSON lines, CSV, TSV or Parquet, also with .gz; patterns such as 'texts/*.txt' in quotes. A document is
  a file of text (--documents line or paragraph: a part of it) or a row. A twentieth is held out, or --eval names files.

Examples
  pellucid pretrain --arch gpt2 --data tales.txt --output_dir tales
  pellucid pretrain --arch bert --data 'texts/*.jsonl.gz' --column body --size mini --max_steps 2000 --output_dir bert
  pellucid pretrain --arch t5 --data a.txt b.txt --vocab-size 8000 --context 256 --learning_rate 1e-3 --output_dir t5

  A run that was stopped, or killed, goes on from its newest checkpoint with --resume and the same options."""

OWN = ("arch", "data", "eval", "eval_share", "context", "objective", "generator", "vocab_size")
"""Options whose names stand in messages."""
FIELD = "config."
"""What names of configuration fields begin with in the namespace of the arguments."""


class PretrainParser(Parser):
    """The arguments of this command; those of a configuration are known once the architecture is."""

    def read(self, words: Sequence[str]) -> argparse.Namespace:
        """As in `Parser`, with the fields of the configuration of `--arch`."""
        if (arch := _arch_in(words)) is not None:
            for name, hint in _config_fields(arch).items():
                if self.known & set(spelt(name)):
                    continue
                settings: dict[str, Any] = {"nargs": "?", "const": "true"} if hint is bool else {}
                settings |= {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                self.add_argument(*spelt(name), dest=f"{FIELD}{name}", **settings)
        return super().read(words)


def _arch_in(words: Sequence[str]) -> str | None:
    """The architecture that the words of a command line name."""
    for place, word in enumerate(words):
        if word == "--arch" and place + 1 < len(words):
            return words[place + 1]
        if word.startswith("--arch="):
            return word.partition("=")[2]
    return None


def _config_fields(arch: str) -> dict[str, Any]:
    """Every field of an architecture's configuration, with its other names, and its annotation."""
    from pellucid.auto import config_class

    try:
        found = config_class(arch, "--arch")
    except PellucidError as error:
        raise UsageError(str(error).replace("--arch: model_type: ", "--arch: ").partition("; to add one")[0]) from error
    hints = found.fields()
    others = {other: hints[name] for other, name in found.attribute_map.items() if name in hints}
    return {**hints, **others}


def parser() -> Parser:
    """The arguments."""
    from pellucid.auto import model_files
    from pellucid.training.pretraining_models import COLLATOR_OPTIONS, OBJECTIVES, SIZES

    sizes = ", ".join(f"{name} ({s.width}, {s.layers}, {s.heads}, {s.context})" for name, s in SIZES.items())
    objectives = "\n".join(f"  {name:<10} {objective.about}" for name, objective in OBJECTIVES.items())
    made = PretrainParser(
        "pretrain",
        "Train a new model and its tokenizer on texts.",
        "--arch ARCH --data FILE [FILE ...] [--output_dir FOLDER] [options]",
        details=DETAILS.format(
            archs=", ".join(sorted({stem for stem in model_files().values() if stem != "encoder_decoder"})),
            sizes=sizes, objectives=objectives,
        ),
    )  # fmt: skip
    made.add_argument("--arch", metavar="ARCH", required=True, help="architecture: gpt2, llama, bert, t5, …")
    made.add_argument("--data", metavar="FILE", nargs="+", action="extend", required=True, help="files to learn from")
    made.add_argument("--eval", metavar="FILE", nargs="+", action="extend", default=[], help="files to measure on")
    made.add_argument("--eval-share", "--eval_share", type=float, metavar="X", help="share held out (default: 0.05)")
    made.add_argument(
        "--documents", type=one_of("file", "line", "paragraph"), default="file", metavar="WHAT",
        help="a document in a file of text: file (default), line, paragraph",
    )  # fmt: skip
    made.add_argument("--column", default="text", metavar="NAME", help="column of texts in files of rows")
    made.add_argument("--size", type=one_of(*SIZES), default="tiny", metavar="SIZE", help="tiny (default) to base")
    made.add_argument("--context", type=int, metavar="N", help="tokens of a block (default: of the size)")
    made.add_argument("--objective", type=one_of(*OBJECTIVES), metavar="NAME", help="what the model learns by")
    made.add_argument("--generator", metavar="MODEL", help="for --objective replaced: the model that proposes words")
    made.add_argument("--tokenizer", metavar="NAME", help="take this one, a folder or a name on the Hub")
    made.add_argument(
        "--vocab-size", "--vocab_size", type=int, metavar="N", help="tokens to learn (default: by the amount of text)"
    )
    for name in dict.fromkeys(name for names in COLLATOR_OPTIONS.values() for name in names):
        users = ", ".join(objective for objective, names in COLLATOR_OPTIONS.items() if name in names)
        made.add_argument(*spelt(name), type=float, metavar="X", help=f"for {users}; see its collator")
    made.add_argument("--resume", action="store_true", help="go on from the newest checkpoint")
    made.add_argument("--overwrite", action="store_true", help="remove checkpoints of an earlier run")
    add_training_options(made)
    return made


def page(words: Sequence[str]) -> str:
    """The help page, with all settings of training, and the fields of the architecture that the words name."""
    lines = [parser().format_help(), training_options_help()]
    if (arch := _arch_in(words)) is not None:
        lines += ["", f"Fields of the configuration of {arch}", "  " + ", ".join(sorted(_config_fields(arch)))]
    return "\n".join(lines)


def run(args: argparse.Namespace) -> int:
    """Pretrain, and print the figures and what a decoder writes."""
    from pellucid.training.pretraining_models import COLLATOR_OPTIONS

    settings = said_settings(args)
    folder = settings.pop("output_dir", "trainer_output")
    resume = settings.pop("resume_from_checkpoint", None) or args.resume
    if not terminal.is_terminal(sys.stderr):
        settings.setdefault("disable_tqdm", True)
    terminal.quiet_downloads()
    options = {name for names in COLLATOR_OPTIONS.values() for name in names}
    with in_option_names(OWN):
        from pellucid.training.pretraining import Pretraining

        made = Pretraining(
            args.arch, args.data, folder, eval_data=args.eval, size=args.size, config=_config(args),
            context=args.context, objective=args.objective,
            objective_options={name: value for name in options if (value := getattr(args, name)) is not None},
            tokenizer=args.tokenizer, vocab_size=args.vocab_size, generator=args.generator,
            eval_share=args.eval_share, documents=args.documents, column=args.column, settings=settings,
            resume=resume, overwrite=args.overwrite, say=terminal.note,
        )  # fmt: skip
    chosen = (f"--{name} {value}" for name, value in made.chosen.items() if name != "batch_eval_metrics")
    terminal.note(f"chosen: {', '.join(chosen)}")
    try:
        with (
            in_option_names(OWN),
            redirect_stdout(sys.stderr),
        ):  # entries of the log, so that what is printed are the figures
            figures = made.train()
    except KeyboardInterrupt:
        terminal.note("stopped; the same command with --resume goes on from the checkpoint that was written")
        raise
    _report(made, figures)
    return 0


def _config(args: argparse.Namespace) -> dict[str, Any]:
    """The fields of the configuration that were asked for, as values."""
    said = {name.removeprefix(FIELD): text for name, text in vars(args).items() if name.startswith(FIELD)}
    hints = _config_fields(args.arch) if said else {}
    return {name: value_of(text, hints[name]) for name, text in said.items()}


def _report(made: Pretraining, figures: Mapping[str, float]) -> None:
    """The figures, samples, and how the result is used."""
    from pellucid.cli.run import EXAMPLES
    from pellucid.training.model_card import plain_value
    from pellucid.training.pretraining_models import OBJECTIVES

    rows = [("figure", "value"), *((name, plain_value(value)) for name, value in figures.items())]
    for line in terminal.table(rows, right={1}):
        terminal.out(line)
    if made.samples:
        terminal.out()
        terminal.out(terminal.bold("What it writes behind the beginnings of texts that were held out"))
        for sample in made.samples:
            terminal.out(f"  {terminal.clean(sample)}")
    place, task = terminal.clean(str(made.folder)), OBJECTIVES[made.objective].task
    call = re.sub(r"--model \S+ ?", "", EXAMPLES[task])
    if made.tokenizer is not None and made.tokenizer.mask_token is not None:
        call = call.replace("<mask>", made.tokenizer.mask_token)
    terminal.out()
    terminal.out(f"{place}: written, with README.md and training.html; to use it:")
    terminal.out(f"  pellucid run {task} --model {place} {call}")
    terminal.out(f"  pipeline({task!r}, {place!r})(…)  # in Python, from pellucid import pipeline")
