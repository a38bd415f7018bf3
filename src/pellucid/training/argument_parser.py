"""`HfArgumentParser`: the fields of dataclasses as options of a script, or as keys of a dictionary, JSON or YAML file.

    parser = HfArgumentParser((ModelArguments, TrainingArguments))
    model_args, training_args = parser.parse_args_into_dataclasses()      --learning_rate 1e-4 --bf16 --names a b c
    model_args, training_args = parser.parse_json_file("run.json")

A field that nobody sets is left to its class, so that its default, and what it works out for itself, hold. Training
settings take their older names as well. How words are read is in `argument_words.py`.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

from pellucid.errors import FileError, InputError, MissingDependencyError, did_you_mean, strict
from pellucid.files import StrPath, quoted, read_json, read_text
from pellucid.training.argument_tables import FIXED
from pellucid.training.argument_words import (
    base_of,
    choices_of,
    is_list,
    meanings,
    older_names,
    options_of,
    read_words,
    spelt,
    value_of,
    without_none,
)
from pellucid.training.arguments import TrainingArguments

_LEFT_OUT = dataclasses.MISSING
"""Stands for the value of a field that nobody set."""


class HfArgumentParser(argparse.ArgumentParser):
    """`argparse.ArgumentParser` with an option for each field of dataclasses, read back as their instances.

    The annotation says how a word is read; `metadata` of a field may hold `help`, `aliases` (one option or several),
    `choices`, `metavar` and `required`. Without `help`, the text below the field is shown. A class may name a group of
    the help page, `_argument_group_name`. Other arguments are added with `add_argument`, as in `argparse`.

    Args:
        dataclass_types: one dataclass or several.
        kwargs: those of `argparse.ArgumentParser`. Unless they say otherwise, help shows defaults, and an option is
            only found by its whole name, so that a misspelt one is never taken for another.

    Raises:
        InputError: something that is no dataclass, or an annotation that cannot be looked up.
        argparse.ArgumentError: two fields of one name.
    """

    def __init__(self, dataclass_types: type[Any] | Iterable[type[Any]] | None = None, **kwargs: Any) -> None:
        super().__init__(**{"formatter_class": argparse.ArgumentDefaultsHelpFormatter, "allow_abbrev": False, **kwargs})
        if isinstance(dataclass_types, type) or not isinstance(dataclass_types, Iterable):
            dataclass_types = [] if dataclass_types is None else [dataclass_types]
        self.dataclass_types = list(dataclass_types)
        self._hints = {kind: _hints(kind) for kind in self.dataclass_types}
        for kind in self.dataclass_types:
            self._add_fields(kind)
        taken = {name for hints in self._hints.values() for name in hints}
        # Older names of training settings, but for those that are fields of another class.
        self._older: dict[str, Any] = {}
        for kind in self.dataclass_types:
            if issubclass(kind, TrainingArguments):
                self._older |= {name: hint for name, hint in older_names(kind).items() if name not in taken}

    # ------------------------------------------------------------------ the command line

    @strict
    def parse_args_into_dataclasses(
        self,
        args: Sequence[str] | None = None,
        return_remaining_strings: bool = False,
        look_for_args_file: bool = True,
        args_filename: StrPath | None = None,
        args_file_flag: str | None = None,
    ) -> tuple[Any, ...]:
        """Instances of the classes, from words of the command line and of files.

        Words of files come first, and the last word on a matter holds: the command line wins.

        Args:
            args: the words; those of this process when left out.
            return_remaining_strings: hand back words that no option takes, and do not refuse them.
            look_for_args_file: read the file beside the script that has its name and ends with `.args`, if there is
                one and no `args_filename`.
            args_filename: a file of words with white space between them.
            args_file_flag: option whose values are such files; it may stand several times.

        Returns:
            The instances in the order of the classes; one `argparse.Namespace` of all other arguments, if the script
            added any; with `return_remaining_strings` the list of words that are left.

        Raises:
            InputError: words that no option takes, with the nearest that is one, or what a class says of its values.
            FileError: a file that was named cannot be read.
            SystemExit: a word that does not fit its option, or an option that is missing, as in `argparse`.
        """
        words = list(sys.argv[1:] if args is None else args)
        files = [Path(args_filename)] if args_filename is not None else []
        if args_filename is None and look_for_args_file and sys.argv and Path(sys.argv[0]).name:
            beside = Path(sys.argv[0]).with_suffix(".args")
            files += [beside] if beside.is_file() else []
        if args_file_flag is not None:
            named, words = self._files_in(words, args_file_flag)
            files += named
        words = [word for file in files for word in read_text(file, follow=True).split()] + words

        unset = {action.dest: _LEFT_OUT for action in self._actions if isinstance(action, _Field) and action.is_unset()}
        found, others = self.parse_known_args(words, argparse.Namespace(**unset))
        if others and not return_remaining_strings:
            known = list(self._option_string_actions)
            shown = ", ".join(map(quoted, others))
            raise InputError(f"{self.prog}: got {shown}, wanted options that --help names{_nearest(others, known)}")
        fields = {action.dest for action in self._actions if isinstance(action, _Field)}
        said = {name: value for name, value in vars(found).items() if value is not _LEFT_OUT}
        rest = {name: value for name, value in said.items() if name not in fields}
        given = {name: value for name, value in said.items() if name in fields}
        parts = [*self._instances(given, self.prog), *([argparse.Namespace(**rest)] if rest else [])]
        return (*parts, others) if return_remaining_strings else tuple(parts)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As in `argparse`; here options get older names, but for those that the script has added itself by now."""
        taken = {action.dest for action in self._actions}
        for name, hint in self._older.items():
            if name not in taken and not self._option_string_actions.keys() & set(spelt(name)):
                hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
                self.add_argument(*spelt(name), action=_Field, dest=name, hint=hint, **hidden)
        return super().parse_known_args(args, namespace)

    def format_help(self) -> str:
        """As in `argparse`; a field without `help` is shown with the text below it, which is only looked for here."""
        bare = [action for action in self._actions if isinstance(action, _Field) and action.help is None]
        told = {name: text for kind in self.dataclass_types if bare for name, text in meanings(kind).items()}
        for action in bare:
            default = None if action.default is argparse.SUPPRESS else "(default: %(default)s)"
            action.help = told[action.dest].replace("%", "%%") if action.dest in told else default
        return super().format_help()

    def _files_in(self, words: Sequence[str], flag: str) -> tuple[list[Path], list[str]]:
        """The files that an option names, and the words without it."""
        files, others, ahead = [], [], iter(words)
        for word in ahead:
            name, equals, value = word.partition("=")
            if name != flag:
                others.append(word)
            elif file := value if equals else next(ahead, ""):
                files.append(Path(file))
            else:
                self.error(f"argument {flag}: got nothing, wanted the name of a file")
        return files, others

    def _add_fields(self, kind: type[Any]) -> None:
        """The options of a class."""
        title = getattr(kind, "_argument_group_name", None)
        page = self if title is None else self.add_argument_group(title)
        for part in dataclasses.fields(kind):
            if not part.init:
                continue
            hint, told = self._hints[kind][part.name], part.metadata
            settings: dict[str, Any] = {name: told[name] for name in ("help", "metavar", "required") if name in told}
            if part.default_factory is not dataclasses.MISSING:
                settings |= {"default": part.default_factory(), "is_own": True}
            elif part.default is not dataclasses.MISSING:
                settings |= {"default": part.default, "is_own": True}
            elif hint is bool:
                settings["default"] = False  # a switch that nobody turns on
            else:
                settings |= {"default": argparse.SUPPRESS, "required": True}
            hidden = issubclass(kind, TrainingArguments) and part.name in FIXED  # there is nothing to choose
            if hidden:
                settings["help"] = argparse.SUPPRESS
            aliases = told.get("aliases", ())
            names = [*spelt(part.name), *([aliases] if isinstance(aliases, str) else aliases)]
            page.add_argument(*names, action=_Field, dest=part.name, hint=hint, allowed=told.get("choices"), **settings)
            if part.default is True and without_none(hint) == [bool]:
                text = argparse.SUPPRESS if hidden else f"the same as --{part.name} false"
                off: dict[str, Any] = {"dest": part.name, "default": argparse.SUPPRESS, "help": text}
                page.add_argument(*spelt(f"no_{part.name}"), action="store_const", const=False, **off)

    # ------------------------------------------------------------------ dictionaries and files

    @strict
    def parse_dict(self, args: Mapping[str, Any], allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """Instances of the classes, from values by name.

        Args:
            args: the values.
            allow_extra_keys: pass over names that no class has.

        Returns:
            The instances in the order of the classes.

        Raises:
            InputError: names that no class has, with the nearest that is one; a value that a class cannot be without;
                or what a class says of its values.
        """
        return self._from_values(args, allow_extra_keys, "parse_dict")

    @strict
    def parse_json_file(self, json_file: StrPath, allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """`parse_dict` of a JSON file; what `TrainingArguments.to_json_file` writes is one.

        Raises:
            FileError: the file is missing, no JSON, or no object.
            InputError: see `parse_dict`.
        """
        values = read_json(json_file, follow=True)
        if not isinstance(values, dict):
            raise FileError(f"{json_file}: got {quoted(values)}, wanted a JSON object with names of fields")
        return self._from_values(values, allow_extra_keys, str(json_file))

    @strict
    def parse_yaml_file(self, yaml_file: StrPath, allow_extra_keys: bool = False) -> tuple[Any, ...]:
        """`parse_dict` of a YAML file. For a field of numbers, `1e-4` is one, which YAML itself reads as a text.

        Raises:
            MissingDependencyError: the package `pyyaml` is not installed.
            FileError: the file is missing, no YAML, or no mapping.
            InputError: see `parse_dict`.
        """
        values = _read_yaml(yaml_file)
        if not isinstance(values, dict):
            raise FileError(f"{yaml_file}: got {quoted(values)}, wanted lines such as 'seed: 42', with names of fields")
        hints = {name: hint for kind in self.dataclass_types for name, hint in self._names(kind).items()}
        numbers = {name for name, hint in hints.items() if [base_of(part) for part in without_none(hint)] == [float]}
        for name, value in values.items():
            if name in numbers and isinstance(value, str):
                values[name] = value_of(value, hints[name])
        return self._from_values(values, allow_extra_keys, str(yaml_file))

    def _from_values(self, values: Mapping[str, Any], allow_extra_keys: bool, source: str) -> tuple[Any, ...]:
        if not isinstance(values, Mapping):
            raise InputError(f"{source}: got {quoted(values)}, wanted a dictionary with names of fields")
        known = [name for kind in self.dataclass_types for name in self._names(kind)]
        unknown = [name for name in values if name not in known]
        if unknown and not allow_extra_keys:
            wanted = f"names of fields of {', '.join(kind.__name__ for kind in self.dataclass_types)}"
            cure = "take them out, or pass them over with allow_extra_keys=True"
            shown = ", ".join(map(quoted, unknown))
            raise InputError(f"{source}: got {shown}, wanted {wanted}; {cure}{_nearest(map(str, unknown), known)}")
        return tuple(self._instances(values, source))

    # ------------------------------------------------------------------ instances

    def _names(self, kind: type[Any]) -> dict[str, Any]:
        """Every name that a class takes, with its annotation."""
        return {**self._hints[kind], **(self._older if issubclass(kind, TrainingArguments) else {})}

    def _instances(self, values: Mapping[str, Any], source: str) -> list[Any]:
        """An instance of each class, made of the values that have names of its own."""
        made: list[Any] = []
        for kind in self.dataclass_types:
            names = self._names(kind)
            given = {name: value for name, value in values.items() if name in names}
            needed = [part.name for part in dataclasses.fields(kind) if _is_needed(part)]
            if missing := [name for name in needed if name not in given]:
                raise InputError(f"{source}: got no {', '.join(missing)}, wanted by {kind.__name__}; say what it is")
            # From a dictionary training settings read what stands in files in place of tokens, too.
            made.append(kind.from_dict(given) if issubclass(kind, TrainingArguments) else kind(**given))
        return made


class _Field(argparse.Action):
    """The option of a field.

    Args:
        hint: annotation of the field.
        allowed: what its metadata allow, when that is less.
        is_own: whether the default is that of the class, which need not be told to it.
        settings: those of `argparse.Action`.
    """

    def __init__(
        self, *, hint: Any, allowed: Iterable[Any] | None = None, is_own: bool = False, **settings: Any
    ) -> None:
        kinds = options_of(hint)
        lists, alone = any(map(is_list, kinds)), bool in kinds  # several words; none, which says yes
        if lists or alone:
            settings |= {"nargs": "?" if not lists else "*" if alone else "+", "const": ()}
        self.hint, self.allowed = hint, None if allowed is None else list(allowed)
        if choices := choices_of(hint) or self.allowed:
            settings.setdefault("metavar", "{" + ",".join(map(str, choices)) + "}")
        super().__init__(**settings)
        self.left = self.default if is_own else _LEFT_OUT

    def is_unset(self) -> bool:
        """Whether nobody but the class has given a default, such as the script with `set_defaults`."""
        return self.default is self.left

    def __call__(
        self, parser: Any, namespace: argparse.Namespace, values: str | Sequence[Any] | None, option_string: Any = None
    ) -> None:
        words = [values] if isinstance(values, str) else list(values or ())
        try:
            value = read_words(words, self.hint, self.allowed) if words else True
        except InputError as error:
            raise argparse.ArgumentError(self, str(error)) from error
        setattr(namespace, self.dest, value)


def _hints(kind: Any) -> dict[str, Any]:
    """Annotation of each field of a class that may be set."""
    if not isinstance(kind, type) or not dataclasses.is_dataclass(kind):
        raise InputError(f"HfArgumentParser: got {quoted(kind)}, wanted dataclasses")
    try:
        hints = kind.fields() if issubclass(kind, TrainingArguments) else get_type_hints(kind)
    except NameError as error:
        reason = "which its module does not know; define or import it there, outside of functions"
        raise InputError(f"{kind.__name__}: an annotation says {error.name!r}, {reason}") from error
    return {part.name: hints[part.name] for part in dataclasses.fields(kind) if part.init}


def _is_needed(part: dataclasses.Field[Any]) -> bool:
    """Whether a field can be set and has no default."""
    return part.init and part.default is dataclasses.MISSING and part.default_factory is dataclasses.MISSING


def _nearest(words: Iterable[str], known: Sequence[str]) -> str:
    """What the first of these words that is near to one of the known may have been meant as."""
    return next(filter(None, (did_you_mean(word.partition("=")[0], known) for word in words)), "")


def _read_yaml(path: StrPath) -> Any:
    """What a YAML file holds: plain values alone, no objects of Python."""
    try:
        yaml = import_module("yaml")
    except ImportError as error:
        raise MissingDependencyError("'yaml' is needed here and not installed: pip install pyyaml") from error
    text = read_text(path, follow=True)
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = "" if mark is None else f" at line {mark.line + 1}, column {mark.column + 1}"
        reason = getattr(error, "problem", None) or getattr(error, "reason", "it cannot be read")
        raise FileError(f"{path}: not valid YAML{where}: {reason}") from error
    except (ValueError, RecursionError) as error:  # a day that no month has, or lists in lists in lists
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise FileError(f"{path}: not valid YAML: {reason}") from error
