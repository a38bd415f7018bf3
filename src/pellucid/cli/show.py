"""`pellucid show MODEL`: what a checkpoint is and what it can do, without loading its weights."""

from __future__ import annotations

import argparse
import importlib
import math
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from pellucid import hub
from pellucid.auto import config_class
from pellucid.cli import terminal
from pellucid.cli.arguments import EMBEDDED, Parser
from pellucid.cli.layers import lines, read_tree
from pellucid.config import PretrainedConfig
from pellucid.config_files import at_one_commit, load_config_dict
from pellucid.errors import ConfigError, FileError, PellucidError

if TYPE_CHECKING:
    from pellucid.checkpoint import Checkpoint
    from pellucid.model import PreTrainedModel

SHARED_NAMES = ("ForSequenceClassification", "ForTokenClassification", "ForMultipleChoice", "ForCausalLM")
"""Heads whose tensors are named like those of another head: only `architectures` tells which one was trained."""

UNUSED = ("pooler.*", "*.pooler.*")
"""A body without this layer, which only some heads read, still gives a vector for each token."""
NO_LIMIT = 10**9
"""Tokenizers without a limit say a number beyond this one."""

DETAILS = """\
The weights are not loaded: names, shapes and number formats stand at the beginning of their files. Those of a model
on the Hub are shown once it was downloaded.

  pellucid show
  pellucid show ./my-model
  pellucid download bert-base-uncased && pellucid show bert-base-uncased"""


def parser() -> Parser:
    """The arguments."""
    made = Parser(
        "show",
        "Show what a model is made of: configuration, layers, files, tokenizer, tasks.",
        "[MODEL] [options]",
        DETAILS,
    )
    made.add_argument(
        "model", metavar="MODEL", nargs="?", help="folder, or name on the Hub (default: the model inside the package)"
    )
    made.add_argument("--revision", metavar="REV", help="branch, tag or commit on the Hub (default: main)")
    return made


def run(args: argparse.Namespace) -> int:
    """Print everything about a model."""
    terminal.quiet_downloads()
    name = str(args.model or EMBEDDED)
    where = at_one_commit(name, {"revision": args.revision or "main"})
    values = load_config_dict(name, **where)
    config, problem = _config(values, name)
    classes = values.get("architectures") or [values.get("model_type", "")]
    terminal.out(f"{terminal.bold(terminal.clean(name))}  {terminal.clean(', '.join(map(str, classes)))}".rstrip())
    _section("Configuration", _settings(values, config))
    try:
        files = _weight_files(name, where)
    except PellucidError as error:
        files, problem = [], problem or str(error)
        _section("Layers", [str(error)])
    if files:
        from pellucid.checkpoint import Checkpoint

        _section(*_layers(Checkpoint.open(files), config))
    _section(*_files(name, where))
    _section("Tokenizer", _tokenizer(name, where))
    try:
        able = _abilities(config, files, name) if config is not None and files else [f"not known: {problem}"]
    except PellucidError as error:
        able = [f"nothing here: {error}"]
    _section("What it can do", able)
    return 0


def _section(heading: str, content: Iterable[str]) -> None:
    terminal.out(f"\n{terminal.bold(heading)}")
    for line in content:
        terminal.out(f"  {terminal.fit(terminal.clean_lines(line), 2)}")


def _config(values: dict[str, Any], name: str) -> tuple[PretrainedConfig | None, str]:
    """The configuration, or why this library has no use for it."""
    try:
        return config_class(values.get("model_type"), f"{name}/config.json").from_dict(values), ""
    except ConfigError as error:
        return None, str(error)


def _settings(values: dict[str, Any], config: PretrainedConfig | None) -> list[str]:
    """The settings that make this model what it is: the architecture's own, labels, number format."""
    if config is None:
        shown = {key: value for key, value in values.items() if not isinstance(value, dict | list)}
    else:
        own = [key for key in type(config).fields() if key not in PretrainedConfig.fields()]
        shown = {"model_type": config.model_type, **{key: getattr(config, key) for key in own}}
        if values.get("id2label"):
            shown["labels"] = ", ".join((config.id2label or {}).values())
    known = {key: value for key, value in shown.items() if value is not None}
    return terminal.table([(terminal.clean(key), terminal.clean(str(value))) for key, value in known.items()])


# ---------------------------------------------------------------------- weights


def _weight_files(name: str, where: dict[str, Any]) -> list[Path]:
    """The weight files on this machine; the large files of a model are not downloaded for a look."""
    from pellucid.checkpoint import find_weights

    def resolve(filename: str) -> Path | None:
        return hub.resolve_file(name, filename, required=False, local_files_only=not hub.is_local(name), **where)

    try:
        return find_weights(resolve, source=name)
    except FileError as error:
        if hub.is_local(name):
            raise
        revision = "" if where["revision"] == "main" else f" --revision {where['revision']}"
        raise FileError(
            f"the weights are not on this machine; fetch them: pellucid download {name}{revision}"
        ) from error


def _reading_order(opened: Checkpoint, config: PretrainedConfig | None) -> list[str]:
    """Names of tensors in the order in which text passes them; files have them in the order of the alphabet."""
    from pellucid.checkpoint import check_config_against

    if config is None:
        return []
    heads = _heads(config)
    named = [model_class for model_class in heads.values() if model_class.__name__ in (config.architectures or [])]
    try:
        check_config_against(opened, config)
        return list(_on_meta((named or [heads["Model"]])[0], config).state_dict())
    except PellucidError:
        return []


def _layers(opened: Checkpoint, config: PretrainedConfig | None) -> tuple[str, list[str]]:
    """Heading and lines of the table of layers."""
    from pellucid.checkpoint.int8_rows import SCALE

    places = {name: place for place, name in enumerate(_reading_order(opened, config))}
    tensors, kinds = {}, Counter[str]()
    for name in sorted(opened.shapes, key=lambda name: places.get(name.removesuffix(SCALE), len(places))):
        shape = opened.shapes[name]
        dtype = opened.dtypes[name]
        nbytes = math.prod(shape) * dtype.itemsize
        is_scale = name.endswith(SCALE) and name.removesuffix(SCALE) in opened.shapes
        is_learnt = dtype.is_floating_point or name + SCALE in opened.shapes
        tensors[name] = (shape, nbytes, is_learnt and not is_scale)
        kinds[str(dtype).removeprefix("torch.")] += nbytes
    root = read_tree(tensors)
    rows = [("", "shape", "parameters", "bytes")]
    for line in lines(root):
        times = f"{line.alike} × " if line.alike > 1 else ""
        sizes = (f"{times}{line.parameters:,}", f"{times}{terminal.size(line.nbytes)}")
        rows.append((terminal.clean_lines(line.name), line.shape, *sizes))
    formats = ", ".join(kind for kind, _ in kinds.most_common())
    heading = f"Layers: {root.parameters:,} parameters, {terminal.size(root.nbytes)}, {formats}"
    return heading, terminal.table(rows, right={1, 2, 3})


# ---------------------------------------------------------------------- files, tokenizer, tasks


def _files(name: str, where: dict[str, Any]) -> tuple[str, list[str]]:
    """Heading and lines of the list of files."""
    found = hub.list_files(name, **where)
    heading = f"Files: {len(found)}, {terminal.size(sum(size for _, size in found))}"
    rows = [(terminal.clean(file), terminal.size(size)) for file, size in found]
    return heading, terminal.table(rows, right={1}) if rows else []


def _tokenizer(name: str, where: dict[str, Any]) -> list[str]:
    """What the tokenizer is, or why there is none."""
    from pellucid.tokenizer import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, **where)
    except PellucidError as error:
        return [f"none: {error}"]
    limit = tokenizer.model_max_length
    rows = [
        ("class", type(tokenizer).__name__),
        ("vocabulary", f"{len(tokenizer):,} tokens"),
        ("longest text", f"{limit:,} tokens" if limit < NO_LIMIT else "no limit given"),
        ("special tokens", " ".join(tokenizer.all_special_tokens)),
    ]
    return terminal.table([(key, terminal.clean(value)) for key, value in rows])


def _abilities(config: PretrainedConfig, files: list[Path], name: str) -> list[str]:
    """The heads whose tensors the checkpoint has, with the tasks that they answer; then the others."""
    from pellucid.pipelines import HEAD_TASKS

    able, rest = [], []
    for head, model_class in _heads(config).items():
        named = model_class.__name__ in (config.architectures or [model_class.__name__])
        if (named or head not in SHARED_NAMES) and _fits(model_class, config, files):
            task = HEAD_TASKS.get(head)
            model = "" if name == str(EMBEDDED) else f" --model {name}"
            asked = ' --question "…"' if task == "question-answering" else ""
            call = f"pellucid run {task}{model}{asked} TEXT" if task else ""
            able.append((f"AutoModel{head.removeprefix('Model')}", call))
        else:
            rest.append(head)
    found = terminal.table([(auto, terminal.clean(call)) for auto, call in able]) if able else []
    return [*found, *wrap(f"after training: {', '.join(rest)}", 100, subsequent_indent="  ")] if rest else found


def _heads(config: PretrainedConfig) -> dict[str, type[PreTrainedModel]]:
    """Every class of the architecture by its head."""
    found: dict[str, type[PreTrainedModel]] = importlib.import_module(type(config).__module__).HEADS
    return found


def _on_meta(model_class: type[PreTrainedModel], config: PretrainedConfig) -> PreTrainedModel:
    """A model without memory for its tensors."""
    import torch

    with torch.device("meta"):
        return model_class(config)


def _fits(model_class: type[PreTrainedModel], config: PretrainedConfig, files: list[Path]) -> bool:
    """Whether the checkpoint has every tensor that the class needs; they are assigned to it, and not read."""
    from pellucid.checkpoint import Checkpoint, check_config_against, load_into, wants_int8_rows

    opened = Checkpoint.open(files, int8_rows=wants_int8_rows(config.extra.get("quantization_config")))
    check_config_against(opened, config)
    tied = model_class.tied if config.tie_word_embeddings else {}
    try:
        report = load_into(
            _on_meta(model_class, config),
            opened,
            prefix=model_class.base_model_prefix,
            renames=model_class.renames,
            tied=tied,
            ignore_missing=UNUSED,
        )
    except FileError:
        return False
    return not report.missing_keys
