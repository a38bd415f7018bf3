"""Training settings on the command line: every field of `TrainingArguments` as an option under its own name.

    add_training_options(parser)             --learning_rate 1e-4, --learning-rate 1e-4, --bf16, --no-packed
    settings = read_training_arguments(args, eval_strategy="epoch")     what was said, and these where nothing was

Older names that `TrainingArguments` translates are taken as well. What a setting means is read off the source of the
class, where it stands below its field.
"""

from __future__ import annotations

import argparse
import re
import textwrap
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from typing import Any, Literal, get_args, get_origin

from pellucid.cli.arguments import Parser, UsageError
from pellucid.errors import ConfigError, InputError, UnknownArgumentError
from pellucid.training.argument_tables import FIXED, GONE, RENAMED, SWITCHES
from pellucid.training.argument_words import (
    base_of,
    is_list,
    meanings,
    older_names,
    options_of,
    spelt,
    value_of,
    without_none,
)
from pellucid.training.arguments import Seq2SeqTrainingArguments, TrainingArguments

OWN_WORDS = ("debug",)
"""Fields whose name is an option of every command."""
RIVALS = ("tokens_per_batch", "per_device_train_batch_size")
"""Of these, a setting that was asked for takes the place of a command's default for the other."""
WIDTH, INDENT = 100, 34
_OWNER = re.compile(r"(?:\w*TrainingArguments|\w+Config): ")
_PART = re.compile(r"\A(\w+): ")


def add_training_options(parser: Parser, kind: type[TrainingArguments] = TrainingArguments) -> None:
    """Let a command take every field of the settings, with underscores or dashes in its name.

    Args:
        parser: of the command, which has no options of these names yet.
        kind: class of the settings.
    """
    for name, hint in {**kind.fields(), **older_names(kind)}.items():
        if name in OWN_WORDS:
            continue
        settings: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        switch = {"nargs": "?", "const": True} if bool in options_of(hint) else {}
        parser.add_argument(*spelt(name), type=partial(value_of, hint=hint), **switch, **settings)
        if hint is bool and name not in FIXED:
            parser.add_argument(*spelt(f"no_{name}"), action="store_const", const=False, **settings)


def said_settings(args: argparse.Namespace, kind: type[TrainingArguments] = TrainingArguments) -> dict[str, Any]:
    """The settings that were asked for, by name.

    Args:
        args: what the parser read.
        kind: class of the settings.

    Raises:
        UsageError: a setting that this class does not have.
    """
    every = Seq2SeqTrainingArguments.fields().keys()
    known = (every | RENAMED.keys() | SWITCHES.keys() | GONE.keys()) - set(OWN_WORDS)
    said = {name: value for name, value in vars(args).items() if name in known}
    if others := said.keys() & (every - kind.fields().keys()):
        raise UsageError(f"{spelt(min(others))[0]}: got it for a task whose answers are no texts; leave it out")
    return said


def read_training_arguments(
    args: argparse.Namespace, kind: type[TrainingArguments] = TrainingArguments, **defaults: Any
) -> TrainingArguments:
    """The settings that were asked for, and those of the command.

    Args:
        args: what the parser read.
        kind: class of the settings.
        defaults: values of fields that the command gives when nobody else does.

    Raises:
        UsageError: a setting that cannot be, under the name of its option.
    """
    said = said_settings(args, kind)
    for old in said.keys() - kind.fields().keys():
        defaults.pop(SWITCHES[old][0] if old in SWITCHES else RENAMED.get(old, old), None)
    for own, other in (RIVALS, RIVALS[::-1]):
        if own in said and other not in said:
            defaults.pop(other, None)
    for name in ("logging", "eval", "save"):
        if f"{name}_steps" in said and f"{name}_strategy" not in said:
            defaults[f"{name}_strategy"] = "steps"
    with in_option_names():
        return kind(**{**defaults, **said})


@contextmanager
def in_option_names(names: Collection[str] = ()) -> Iterator[None]:
    """Within this, what is wrong with a setting or a field of a configuration is said of its option.

    Args:
        names: what else has an option.
    """
    try:
        yield
    except (InputError, ConfigError, UnknownArgumentError) as error:
        message, part = str(error), _PART.match(str(error))
        if owner := _OWNER.match(message):
            message, part = message[owner.end() :], _PART.match(message[owner.end() :])
        elif part is None or part[1] not in names:
            raise
        raise UsageError(message if part is None else f"{spelt(part[1])[0]}: {message[part.end() :]}") from error


def training_options_help(kind: type[TrainingArguments] = TrainingArguments) -> str:
    """The part of a help page that lists the settings; those that mean nothing here are left out."""
    told = meanings(kind)
    lines = ["Training settings, with the names of TrainingArguments (dashes or underscores)"]
    defaults = kind()
    for name, hint in kind.fields().items():
        if name in FIXED or name in OWN_WORDS:
            continue
        option = f"  --{'[no-]' if hint is bool else ''}{name.replace('_', '-')} {_shown(hint)}".rstrip()
        value = getattr(defaults, name)
        default = "" if value in (None, "", [], {}) else f"(default: {_plain(value)})"
        text = " ".join(filter(None, (told.get(name, ""), default)))
        first, *rest = textwrap.wrap(text, WIDTH - INDENT) or [""]
        if len(option) < INDENT - 1:
            lines.append(f"{option:<{INDENT}}{first}".rstrip())
        else:
            lines += [option, f"{'':<{INDENT}}{first}".rstrip()] if first else [option]
        lines += [f"{'':<{INDENT}}{line}" for line in rest]
    return "\n".join(lines)


# ---------------------------------------------------------------------- the help page


def _shown(hint: Any) -> str:
    """What stands for a value."""
    bases = [base_of(kind) for kind in without_none(hint)]
    for base in bases:
        if isinstance(base, type) and issubclass(base, StrEnum):
            return "|".join(member.value for member in base) if len(base) < 5 else "NAME"
        if get_origin(base) is Literal:
            return "|".join(str(choice) for choice in get_args(base))
    if bases == [bool]:
        return ""
    words = {int: "N", float: "X", str: "TEXT", bool: "yes|no"}
    return words.get(bases[0], "WORDS" if is_list(bases[0]) else "JSON")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
