"""`pellucid train --task TASK --model NAME --data FILE`: a model for a task, from files of examples.

What training for a task needs is in `pellucid.training.recipes…`; here is how it is asked for on the command line.
"""

from __future__ import annotations

import argparse
import dataclasses
import re
import shlex
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args, get_type_hints

from pellucid.cli import terminal
from pellucid.cli.arguments import Parser, UsageError, add_model
from pellucid.cli.training_options import add_training_options, training_options_help
from pellucid.errors import PellucidError, did_you_mean
from pellucid.files import read_json, read_text
from pellucid.training.argument_words import value_of

if TYPE_CHECKING:
    from pellucid.adapters import LoraConfig

DETAILS = """\
Tasks
{tasks}
  'pellucid train --task TASK --help' shows the options of one task alone.

Data
  Rows of JSON lines, CSV, TSV or Parquet files, perhaps gzipped, whose columns are found by their usual names, such as
  text and label. For token-classification also CoNLL files (a word and its tag on a line, blank lines between
  sentences), for question-answering the files of SQuAD, for fill-mask and text-generation files of text.

  What you leave out of the settings below and matters is chosen by the task and the amount of data, and printed.

Examples
  pellucid train --task text-classification --model bert-base-uncased --data train.tsv --eval dev.tsv --output_dir out
  pellucid train --task ner --model roberta-base --data train.conll --eval dev.conll --output_dir names
  pellucid train --task translation --model t5-small --data pairs.tsv --columns source,target --output_dir translator
  pellucid train --task text-generation --model gpt2 --data tales.txt --lora r=16,alpha=32 --output_dir tales

  A run that was stopped, or killed, goes on from its newest checkpoint with --resume.

{settings}"""

OWN = ("task", "model", "revision", "data", "eval", "lora", "merge", "resume", "overwrite")
"""What a file of --config may say beside options of the task and settings."""
SHORT = {"alpha": "lora_alpha", "dropout": "lora_dropout", "targets": "target_modules"}
"""Short names of what --lora may say."""
OPTION = "option."
"""What names of options of tasks begin with in the namespace of the arguments."""


def parser(words: Sequence[str] = ()) -> Parser:
    """The arguments; of all tasks, or of the one that the words name."""
    from pellucid.training.arguments import Seq2SeqTrainingArguments
    from pellucid.training.recipes import RECIPES, recipe_class

    task = task_in(words)
    kind = Seq2SeqTrainingArguments if task is None else recipe_class(task).arguments_class()
    made = Parser(
        "train",
        "Train a model for a task, and write it into a folder that 'pellucid run' and pipeline() open.",
        "--task TASK --model NAME --data FILE [--eval FILE] [--output_dir FOLDER] [options]",
        details=DETAILS.format(tasks=_in_columns(RECIPES), settings=training_options_help(kind)),
    )
    made.add_argument("--task", metavar="TASK", help="what the model is to do")
    add_model(made, "none; a checkpoint to begin with")
    made.add_argument("--data", metavar="FILE", nargs="+", action="extend", help="files to learn from")
    made.add_argument(
        "--eval", metavar="FILE", nargs="+", action="extend", help="files to measure on, after each epoch"
    )
    made.add_argument("--config", metavar="FILE", help="a JSON or TOML file with any of these options by name")
    made.add_argument("--resume", action="store_true", default=None, help="go on from the newest checkpoint")
    made.add_argument("--overwrite", action="store_true", default=None, help="remove checkpoints of an earlier run")
    made.add_argument(
        "--lora", metavar="HOW", nargs="?", const="",
        help="train adapters in place of all weights; r=8,alpha=16,dropout=0.1,targets=query,value",
    )  # fmt: skip
    made.add_argument(
        "--merge", action="store_true", default=None, help="make the adapters part of the model at the end"
    )
    add_options(made, task)
    add_training_options(made, Seq2SeqTrainingArguments)
    return made


def page(words: Sequence[str]) -> str:
    """The page of help, for one task where it is named."""
    return parser(words).format_help()


def run(args: argparse.Namespace) -> int:
    """Train, and print the figures."""
    told = {name: getattr(args, name) for name in OWN if getattr(args, name) is not None}
    options = {name.removeprefix(OPTION): value for name, value in vars(args).items() if name.startswith(OPTION)}
    passed_over = {*OWN, "config", "help", "debug"}
    settings = {
        name: value for name, value in vars(args).items() if name not in passed_over and not name.startswith(OPTION)
    }
    if args.config is not None:
        told, options, settings = _with_config(Path(args.config), told, options, settings)
    for name in ("task", "model", "data"):
        if not told.get(name):
            raise UsageError(f"missing: --{name} (see 'pellucid train --help')")
    folder = settings.pop("output_dir", "trainer_output")
    resume = settings.pop("resume_from_checkpoint", None) or bool(told.get("resume"))
    if not terminal.is_terminal(sys.stderr):
        settings.setdefault("disable_tqdm", True)
    terminal.quiet_downloads()
    with in_words_of_the_command():
        from pellucid.training.recipes_run import FineTuning

        made = FineTuning(
            told["task"], told["model"], _listed(told["data"]), _listed(told.get("eval")), folder, options=options,
            settings=settings, lora=lora_of(told.get("lora")), merge=bool(told.get("merge")), resume=resume,
            overwrite=bool(told.get("overwrite")), revision=told.get("revision"), say=terminal.note,
        )  # fmt: skip
    if made.chosen:
        terminal.note("chosen: " + ", ".join(f"--{name} {value}" for name, value in made.chosen.items()))
    try:
        with redirect_stdout(sys.stderr):  # entries of the log, so that what is printed are the figures
            figures = made.train()
    except KeyboardInterrupt:
        terminal.note("stopped; the same command with --resume goes on from the checkpoint that was written")
        raise
    if made.args.should_save:  # one of several processes reports
        _report(made.task, folder, figures, _listed(told.get("eval")))
    return 0


def _report(task: str, folder: str, figures: Mapping[str, float], measured: Sequence[str]) -> None:
    """The figures, and how the result is used."""
    from pellucid.cli.run import EXAMPLES
    from pellucid.pipelines.registry import plain_name

    place = shlex.quote(terminal.clean(folder))
    print_figures(figures)
    terminal.out()
    terminal.out(f"{terminal.clean(folder)}: written, with README.md and training.html; to use it:")
    example = re.sub(r"--model \S+ ?", "", EXAMPLES.get(plain_name(task), '"A text."'))
    terminal.out(f"  pellucid run {task} --model {place} {example}")
    terminal.out(f"  pipeline({task!r}, {folder!r})(…)  # in Python, from pellucid import pipeline")
    data = " ".join(shlex.quote(terminal.clean(path)) for path in measured) or "FILE"
    terminal.out(f"  pellucid eval --model {place} --data {data}")


def print_figures(figures: Mapping[str, float]) -> None:
    """A table of figures."""
    from pellucid.training.model_card import plain_value

    rows = [("figure", "value"), *((name, plain_value(value)) for name, value in figures.items())]
    for line in terminal.table(rows, right={1}):
        terminal.out(line)


# ---------------------------------------------------------------------- options of tasks, and settings


def task_in(words: Sequence[str]) -> str | None:
    """The task that the words of a command line name, if there is such a one."""
    from pellucid.pipelines.registry import plain_name
    from pellucid.training.recipes import RECIPES

    said = " ".join(words)
    named = re.search(r"(?:^| )--task[ =](\S+)", said)
    name = None if named is None else str(plain_name(named[1]))
    return name if name in RECIPES else None


def _option_fields(task: str | None) -> Iterable[tuple[Any, Any]]:
    """Fields of the recipe of a task, or of all, with their annotations; each name once."""
    from pellucid.training.recipes import RECIPES, recipe_class

    seen: set[str] = set()
    for kind in map(recipe_class, RECIPES if task is None else [task]):
        hints = get_type_hints(kind)
        for part in dataclasses.fields(kind):
            if part.name not in seen:
                seen.add(part.name)
                yield part, hints[part.name]


def add_options(made: Parser, task: str | None) -> None:
    """Add the options of a task, or of all."""
    for part, hint in _option_fields(task):
        add_option(made, f"{OPTION}{part.name}", hint, part.metadata["help"])


def add_option(made: Parser, place: str, hint: Any, text: str) -> None:
    """Add an option by its annotation, under its name with dashes, which the page shows, and with underscores.

    Args:
        made: of the command.
        place: where the value is kept, the name of the option behind its last point.
        hint: says how the word is read; a switch can be turned off as well.
        text: for the page.
    """
    name = place.rpartition(".")[2]
    where: dict[str, Any] = {"dest": place, "default": argparse.SUPPRESS, "type": partial(value_of, hint=hint)}
    is_switch = hint is bool or bool in get_args(hint)
    if is_switch:
        where |= {"nargs": "?", "const": True, "metavar": "yes|no"}
    else:
        where["metavar"] = "NAMES" if list[str] in get_args(hint) else "VALUE"
    for spelt in dict.fromkeys([name.replace("_", "-"), name]):
        made.add_argument(f"--{spelt}", help=text, **where)
        text = argparse.SUPPRESS
        if is_switch:
            off: dict[str, Any] = {"action": "store_const", "const": False, "dest": place, "default": text}
            made.add_argument(f"--no-{spelt}", help=text, **off)


def _in_columns(names: Iterable[str]) -> str:
    """Names in lines as long as those of the page."""
    lines = ["   "]
    for name in names:
        if len(lines[-1]) + len(name) > 118:
            lines.append("   ")
        lines[-1] += f" {name}"
    return "\n".join(lines)


class in_words_of_the_command:  # noqa: N801  (read as words)
    """Within this, what is wrong with a setting is said of the option, and makes the call a wrong one."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        said = re.match(r"(?:Seq2Seq)?TrainingArguments: (?:unknown argument '(\w+)'|(.*))", str(error))
        if isinstance(error, PellucidError) and said is not None:
            other = f"{said[1]}: is for tasks that write texts; leave it out"
            raise UsageError(f"--{said[2] or other}") from error


def _listed(value: Any) -> list[str]:
    """Files, of which a file of settings may name one alone."""
    return [value] if isinstance(value, str) else list(value or ())


# ---------------------------------------------------------------------- files of settings


def _with_config(
    path: Path, told: dict[str, Any], options: dict[str, Any], settings: dict[str, Any]
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """What a file says, below what the command line says."""
    from pellucid.training.argument_tables import GONE, RENAMED, SWITCHES
    from pellucid.training.arguments import Seq2SeqTrainingArguments

    known_options = {part.name for part, _ in _option_fields(None)}
    known_settings = {*Seq2SeqTrainingArguments.fields(), *GONE, *RENAMED, *SWITCHES}
    merged: tuple[dict[str, Any], dict[str, Any], dict[str, Any]] = {}, {}, {}
    for key, value in _read_config(path).items():
        name = key.replace("-", "_")
        homes = (OWN, known_options, known_settings)
        place = next((number for number, home in enumerate(homes) if name in home), None)
        if place is None:
            near = did_you_mean(name, [*OWN, *known_options, *known_settings])
            raise UsageError(f"--config: {path}: there is no option {key!r}{near}")
        merged[place][name] = value
    return {**merged[0], **told}, {**merged[1], **options}, {**merged[2], **settings}


def _read_config(path: Path) -> dict[str, Any]:
    if path.suffix == ".toml":
        import tomllib

        try:
            return tomllib.loads(read_text(path, follow=True))
        except tomllib.TOMLDecodeError as error:
            raise UsageError(f"--config: {path}: not valid TOML: {error}") from error
    found = read_json(path, follow=True)
    if not isinstance(found, dict):
        raise UsageError(f"--config: {path}: got a {type(found).__name__}, wanted an object of options by name")
    return found


def lora_of(text: Any) -> LoraConfig | None:
    """The adapters that `--lora` asks for: `r=8,alpha=16,targets=query,value`; a file of settings may hold an object.

    Raises:
        UsageError: a word in it is not understood.
    """
    if text is None or text is False:
        return None
    from pellucid.adapters import LoraConfig

    said: dict[str, Any] = dict(text) if isinstance(text, dict) else {}
    if isinstance(text, str):
        name = ""
        for part in filter(None, text.split(",")):
            before, equals, value = part.partition("=")
            if equals:
                name, said[before.strip()] = before.strip(), value.strip()
            elif name:  # a further one of several names
                earlier = said[name]
                said[name] = [*(earlier if isinstance(earlier, list) else [earlier]), part.strip()]
            else:
                raise UsageError(f"--lora: got {part!r}, wanted name=value, such as r=8,alpha=16")
    known = {name: SHORT.get(name, name) for name in said}
    try:
        return LoraConfig(**{known[name]: _plain(value) for name, value in said.items()})
    except PellucidError as error:
        raise UsageError(f"--lora: {str(error).removeprefix('LoraConfig: ')}") from error


def _plain(value: Any) -> Any:
    return value_of(value, bool | int | float | str) if isinstance(value, str) else value
