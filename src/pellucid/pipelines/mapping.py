"""Many rows through a pipeline, block by block: in this process, or on the workers of a Ray cluster.

    rows → blocks of rows → answers of a block → a file, or a place in the result

Both engines cut the same blocks and answer each by `Plan.answer`, so they give the same rows. With a folder for the
answers each finished block is a file whose name holds its number and a digest of its rows. A run that was killed goes
on from there: blocks whose file is there are left out, and the rows of all others are answered.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import re
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from os import PathLike
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import torch

from pellucid.adapters.layers import with_adapters_merged
from pellucid.errors import FileError, InputError, PellucidError, did_you_mean, reject_unknown
from pellucid.files import atomic_write, read_json, write_json
from pellucid.pipelines import datafiles
from pellucid.pipelines.mapping_input import is_ray_dataset, open_source

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.base import Pipeline

EngineName = Literal["local", "ray"]
FileFormat = Literal["jsonl", "parquet", "csv", "tsv"]
ADDED = ("answer", "error")
"""Columns that a row gets."""
NO_MATTER = {"on_error", "progress", "batch_size", "num_workers", "padding"}
"""Options that change no answer, so that a run may go on with others."""
SETTLED = {"architectures", "dtype", "quantization_config", "transformers_version"}
"""Keys of a configuration that change no answer: the tensors themselves say it."""
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "config_sentence_transformers.json")
MODULE_FILES = ("config.json", "sentence_bert_config.json", "model.safetensors", "pytorch_model.bin")
"""What sentence-transformers folders hold beside a model, at the top and in the folder of each module."""


class Block(NamedTuple):
    """Some rows that are answered together.

    Attributes:
        number: its place among all blocks.
        first: number of its first row.
        size: how many rows it has.
        rows: the rows as JSON, with those that cannot be read: `{"rows": […], "errors": {place: message}}`.
        digest: the beginning of the SHA-256 of `rows`.
    """

    number: int
    first: int
    size: int
    rows: bytes
    digest: str


Finished = tuple[int, int, list[Any] | bytes]
"""A block's number, how many rows it has, and its answers or the contents of its file."""


@dataclass(frozen=True)
class Workers:
    """How many workers of a Ray cluster there are to be, and what each of them gets.

    Attributes:
        count: workers; `None`: as many as the cluster has room for.
        cpus: cores of each.
        gpus: GPUs of each; a fraction lets several workers share one.
    """

    count: int | None = None
    cpus: int = 1
    gpus: float = 0

    def __post_init__(self) -> None:
        for name, value in (("workers", self.count), ("cpus_per_worker", self.cpus)):
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise InputError(f"{name}: got {value!r}, wanted a number from 1")
        if not isinstance(self.gpus, int | float) or isinstance(self.gpus, bool) or self.gpus < 0:
            raise InputError(f"gpus_per_worker: got {self.gpus!r}, wanted a number from 0, such as 1 or 0.5")


@dataclass(frozen=True)
class Plan:
    """What is done with every block, wherever that is.

    Attributes:
        columns: a field of the task's rows → the column that holds it.
        options: the call's options.
        keep_errors: a row that cannot be answered keeps its error, and the others are answered.
        file_format: form of the file of a block; `None` writes none.
    """

    columns: Mapping[str, str]
    options: Mapping[str, Any]
    keep_errors: bool
    file_format: FileFormat | None = None

    def answer(self, pipe: Pipeline, block: Block) -> list[Any] | bytes:
        """The answers of a block's rows, errors among them, or the contents of the file with rows and answers.

        Raises:
            PellucidError: of the first row that cannot be answered, unless errors are kept.
        """
        found = json.loads(block.rows)
        rows, errors = found["rows"], found["errors"]
        answers = self.answer_rows(pipe, rows, block.first, {int(place): text for place, text in errors.items()})
        return answers if self.file_format is None else self._file(rows, answers, self.file_format)

    def answer_rows(
        self, pipe: Pipeline, rows: list[Any], first: int | None, unreadable: Mapping[int, str]
    ) -> list[Any]:
        """The answers of rows, errors among them.

        Args:
            pipe: what answers them.
            rows: texts, or dictionaries of columns.
            first: number of the first row; `None`: messages say nothing about numbers.
            unreadable: place of a row → what is wrong with it.

        Raises:
            InputError: of the first row that cannot be answered, unless errors are kept.
        """

        def numbered(place: int) -> str:
            return "" if first is None else f"row {first + place}: "

        given = [
            InputError(unreadable[place]) if place in unreadable else self.pick(row, numbered(place))
            for place, row in enumerate(rows)
        ]
        if not self.keep_errors and (bad := next((row for row in given if isinstance(row, InputError)), None)):
            raise bad
        places = [place for place, row in enumerate(given) if not isinstance(row, InputError)]

        def renumbered(error: InputError) -> InputError:
            return InputError(re.sub(r"^row (\d+): ", lambda found: numbered(places[int(found[1])]), str(error)))

        call: Any = pipe
        how = {**self.options, "on_error": "keep" if self.keep_errors else "raise", "progress": False}
        try:
            answers = list(call(iter([given[place] for place in places]), **how))
        except InputError as error:
            raise renumbered(error) from None
        for place, answer in zip(places, answers, strict=True):
            given[place] = renumbered(answer) if isinstance(answer, InputError) else _plain(answer)
        return given

    def pick(self, row: Any, prefix: str) -> Any:
        """What the task reads of a row: the text alone, or a dictionary of the fields that the row has.

        Args:
            row: a text, or a dictionary of columns.
            prefix: what an error's message begins with.
        """
        if not isinstance(row, dict):
            return row
        name, column = next(iter(self.columns.items()))
        if column not in row:
            return InputError(f"{prefix}got the columns {list(row)}, wanted {column!r}; say columns={{{name!r}: …}}")
        fields = {name: row[column] for name, column in self.columns.items() if row.get(column) is not None}
        return row[column] if fields.keys() <= {name} else fields

    def with_answers(self, rows: list[Any], answers: list[Any]) -> list[dict[str, Any]]:
        """Rows with their answers in a column of their own, and with errors in another where they are kept."""
        name, joined = next(iter(self.columns.values())), []
        for row, answer in zip(rows, answers, strict=True):
            row = row if isinstance(row, dict) else {name: row}
            if taken := next((column for column in ADDED if column in row), None):
                raise InputError(f"{taken}: the rows have a column of that name, which is for answers; rename it")
            bad = isinstance(answer, InputError)
            error = {"error": str(answer) if bad else None} if self.keep_errors else {}
            joined.append({**row, "answer": None if bad else answer, **error})
        return joined

    def _file(self, rows: list[Any], answers: list[Any], file_format: FileFormat) -> bytes:
        with TemporaryDirectory() as folder:
            path = Path(folder, f"block.{file_format}")
            datafiles.write_rows(path, self.with_answers(rows, answers))
            return path.read_bytes()


def _plain(answer: Any) -> Any:
    """An answer as lists, dictionaries, texts and numbers; those that hold no tensors are not copied."""
    if hasattr(answer, "tolist"):
        return answer.tolist()
    if isinstance(answer, dict):
        return {name: _plain(value) for name, value in answer.items()}
    if isinstance(answer, list | tuple) and not (answer and isinstance(answer[0], float)):
        return [_plain(value) for value in answer]
    return answer


# ---------------------------------------------------------------------- blocks


def cut_blocks(rows: Iterable[Any], size: int, fields: Iterable[str], keep_errors: bool) -> Iterator[Block]:
    """Rows in blocks of `size`, read as they are needed.

    Args:
        rows: texts, pairs, dictionaries; a `FileError` stands for a row of a file that cannot be read.
        size: rows in a block.
        fields: names for the two halves of a pair.
        keep_errors: a row that cannot be written as JSON becomes an error of its block.

    Raises:
        PellucidError: of the first such row, unless errors are kept.
    """
    names, number, first = list(fields), 0, 0
    lines: list[str] = []
    errors: dict[int, str] = {}
    for place, row in enumerate(rows):
        try:
            lines.append(_json(row, place, names))
        except PellucidError as error:
            if not keep_errors:
                raise
            errors[len(lines)] = str(error)
            lines.append("null")
        if len(lines) == size:
            yield _block(number, first, lines, errors)
            number, first, lines, errors = number + 1, first + size, [], {}
    if lines:
        yield _block(number, first, lines, errors)


def _block(number: int, first: int, lines: list[str], errors: dict[int, str]) -> Block:
    data = f'{{"rows": [{", ".join(lines)}], "errors": {json.dumps(errors)}}}'.encode()
    return Block(number, first, len(lines), data, hashlib.sha256(data).hexdigest()[:16])


def _json(row: Any, number: int, names: list[str]) -> str:
    if isinstance(row, FileError):
        raise row
    if isinstance(row, tuple) and len(row) == 2:
        row = dict(zip(names, row, strict=False))
    try:
        return json.dumps(row, default=_as_json)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"row {number}: {error}; give texts, and dictionaries of texts, numbers, dates and lists"
        ) from None


def _as_json(value: Any) -> Any:
    """A form that JSON has for a date or a number of another library."""
    for name in ("isoformat", "tolist"):
        if hasattr(value, name):
            return getattr(value, name)()
    raise TypeError(f"got a {type(value).__name__}")


# ---------------------------------------------------------------------- the folder of answers


@dataclass(frozen=True)
class MapResult:
    """A folder of finished answers; iterating gives its rows in their order.

    Attributes:
        folder: where they are.
        files: the file of each block, in order.
        rows: how many rows there are.
        blocks_found: blocks that an earlier run had finished.
    """

    folder: Path
    files: list[Path]
    rows: int
    blocks_found: int

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[Any]:
        for file in self.files:
            yield from datafiles.open_rows_file(file)

    def __str__(self) -> str:
        new = len(self.files) - self.blocks_found
        return f"{self.rows:,} rows in {len(self.files):,} blocks, {new:,} of them new: {self.folder}"


@dataclass
class BlockFolder:
    """The files of finished blocks, and `manifest.json`, which says what they are answers to.

    Args:
        path: the folder, made if missing.
        file_format: form of the files.
        manifest: what decides the answers: model, options and so on.

    Raises:
        InputError: the folder holds something else, or answers to something else.
    """

    path: Path
    file_format: FileFormat
    manifest: dict[str, Any]
    found: dict[int, Path] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    rows: int = 0

    def __post_init__(self) -> None:
        manifest = self.path / "manifest.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"output: {self.path} is a file, wanted a folder for the files of blocks")
        if manifest.exists():
            self._compare(read_json(manifest))
        elif self.path.exists() and any(self.path.iterdir()):
            raise InputError(f"output: {self.path} holds other files and no manifest.json; name a new folder")
        else:
            self.path.mkdir(parents=True, exist_ok=True)
            write_json(manifest, self.manifest)
        pattern = re.compile(rf"block-(\d+)-[0-9a-f]{{16}}\.{self.file_format}")
        self.found = {
            int(match[1]): path for path in self.path.iterdir() if (match := pattern.fullmatch(path.name)) is not None
        }

    def _compare(self, old: Any) -> None:
        for name, value in self.manifest.items():
            before = old.get(name) if isinstance(old, dict) else None
            if before != value:
                raise InputError(
                    f"output: {self.path} was begun with {name} {_short(before)}, got {_short(value)}; "
                    "give the same, or name a new folder"
                )

    def unfinished(self, blocks: Iterable[Block]) -> Iterator[Block]:
        """The blocks that have no file yet.

        Raises:
            InputError: a file holds answers to other rows.
        """
        for block in blocks:
            path = self.path / f"block-{block.number:06d}-{block.digest}.{self.file_format}"
            self.files.append(path)
            self.rows += block.size
            there = self.found.get(block.number)
            if there not in (None, path):
                self._refuse_rows(block.number)
            if there is None:
                yield block
        if extra := [number for number in self.found if number >= len(self.files)]:
            self._refuse_rows(min(extra))

    def _refuse_rows(self, number: int) -> None:
        raise InputError(
            f"output: {self.path}: block {number} holds answers to other rows; give the same rows in the same order, "
            "or name a new folder"
        )

    def write(self, number: int, data: bytes) -> None:
        """Write a finished block, in one step."""
        atomic_write(self.files[number], data)

    def result(self) -> MapResult:
        """What the folder holds once all blocks are there; `manifest.json` says so from now on."""
        write_json(
            self.path / "manifest.json", {**self.manifest, "finished": {"blocks": len(self.files), "rows": self.rows}}
        )
        return MapResult(self.path, self.files, self.rows, len(self.found))


def _short(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 200 else f"{text[:200]}…"


def plain_model(model: PreTrainedModel) -> PreTrainedModel:
    """The model as it can be written, with a configuration of its own and adapters merged into its weights."""
    made = copy.copy(with_adapters_merged(model))
    assert isinstance(made, type(model))
    made.config, made._adapters = copy.deepcopy(model.config), None
    return made


def extra_files(pipe: Pipeline) -> dict[str, Path]:
    """Files beside the model that say how sentence embeddings are made: name → path."""
    modules = pipe.resolve("modules.json")
    if modules is None:
        return {}
    found = read_json(modules)
    folders = [str(module.get("path", "")) for module in found if isinstance(module, dict)]
    inside = [f"{folder}/{name}" for folder in folders if folder for name in MODULE_FILES]
    names = [*SENTENCE_FILES, *inside]
    return {name: path for name in names if (path := pipe.resolve(name)) is not None}


def fingerprint(pipe: Pipeline) -> str:
    """The SHA-256 of all that decides a pipeline's answers but options: configuration, tensors, tokenizer, files."""
    model = plain_model(pipe.model)
    settings = {name: value for name, value in model.config.to_dict().items() if name not in SETTLED}
    generation = model.generation_config.to_dict() if model.can_generate() else None
    stated = json.dumps([type(model).__name__, settings, generation], default=str, sort_keys=True)
    digest = hashlib.sha256(stated.encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    with TemporaryDirectory() as folder:
        files = {Path(path).name: Path(path) for path in pipe.tokenizer.save_pretrained(folder)} | extra_files(pipe)
        for name, path in sorted(files.items()):
            digest.update(name.encode() + path.read_bytes())
    return digest.hexdigest()


# ---------------------------------------------------------------------- a run


def map_rows(
    pipe: Pipeline,
    dataset: Any,
    *,
    engine: EngineName,
    columns: Mapping[str, str] | str | None,
    output: str | PathLike[str] | None,
    output_format: FileFormat,
    workers: Workers,
    block_rows: int,
    on_error: Literal["raise", "keep"],
    options: Mapping[str, Any],
) -> Any:
    """What `Pipeline.map` does; its documentation says what the arguments mean."""
    _check(pipe, engine, output_format, block_rows, on_error, options)
    if engine == "local" and workers != Workers():
        raise InputError('workers, cpus_per_worker and gpus_per_worker: they are for engine="ray"')
    keep = on_error == "keep"
    plan = Plan(_columns(pipe, columns), dict(options), keep, None if output is None else output_format)
    if is_ray_dataset(dataset):
        if engine == "local":
            raise InputError('dataset: got a Ray Dataset, which is for engine="ray"')
        if output is None:
            from pellucid.pipelines import ray_workers

            return ray_workers.map_dataset(pipe, plan, dataset, block_rows, workers)
    source = open_source(dataset, list(plan.columns.values()), whole=output is not None, keep_errors=keep)
    blocks = cut_blocks(source.rows, block_rows, pipe.fields, keep)
    folder = None
    if output is not None:
        folder = BlockFolder(Path(output), output_format, _manifest(pipe, plan, block_rows))
        blocks = folder.unfinished(blocks)
    answers: dict[int, list[Any]] = {}
    with (
        _progress_bar(options.get("progress"), source.total) as bar,
        closing(_answered(pipe, plan, blocks, engine, workers)) as finished,
    ):
        for number, count, result in finished:
            if isinstance(result, list):
                answers[number] = result
            elif folder is not None:
                folder.write(number, result)
            if bar is not None:
                bar.update(count)
    if folder is not None:
        return folder.result()
    in_order = [answer for number in sorted(answers) for answer in answers[number]]
    return source.build(in_order, partial(pipe.in_columns, options={**options, "on_error": on_error}))


@contextmanager
def _progress_bar(wanted: bool | None, total: int | None) -> Iterator[Any]:
    """A progress bar over the rows of finished blocks, or nothing: by default where a terminal is there."""
    if wanted is False or (wanted is None and not sys.stderr.isatty()):
        yield None
        return
    from tqdm import tqdm

    with tqdm[Any](total=total, unit=" rows", delay=0 if wanted else 1) as bar:
        yield bar


def _check(
    pipe: Pipeline, engine: Any, output_format: Any, block_rows: Any, on_error: Any, options: Mapping[str, Any]
) -> None:
    for name, value, wanted in (
        ("engine", engine, get_args(EngineName)),
        ("output_format", output_format, get_args(FileFormat)),
        ("on_error", on_error, ("raise", "keep")),
    ):
        if value not in wanted:
            raise InputError(f"{name}: got {value!r}, wanted one of {list(wanted)}{did_you_mean(str(value), wanted)}")
    if not isinstance(block_rows, int) or isinstance(block_rows, bool) or block_rows < 1:
        raise InputError(f"block_rows: got {block_rows!r}, wanted a number of rows from 1")
    known = pipe.known_options()
    if unknown := options.keys() - known:
        own = set(inspect.signature(pipe.map).parameters) - {"dataset", "options"}
        reject_unknown(f"{type(pipe).__name__}.map", unknown, known | own)
    pipe.merge(options)


def _columns(pipe: Pipeline, columns: Any) -> dict[str, str]:
    """A field of the task's rows → its column."""
    fields = pipe.fields
    if columns is None:
        return {name: name for name in fields}
    if isinstance(columns, str):
        return {fields[0]: columns}
    if not isinstance(columns, Mapping) or not columns or not all(isinstance(name, str) for name in columns.values()):
        raise InputError(f"columns: got {columns!r}, wanted names of columns, such as {{{fields[0]!r}: 'review'}}")
    if unknown := columns.keys() - set(fields):
        reject_unknown("columns", unknown, fields)
    return {name: columns[name] for name in fields if name in columns}


def _manifest(pipe: Pipeline, plan: Plan, block_rows: int) -> dict[str, Any]:
    options = {name: value for name, value in pipe.merge(plan.options).items() if name not in NO_MATTER}
    made = {
        "format": 1,
        "task": pipe.task,
        "model": fingerprint(pipe),
        "options": options,
        "columns": plan.columns,
        "output_format": plan.file_format,
        "on_error": "keep" if plan.keep_errors else "raise",
        "block_rows": block_rows,
    }
    same: dict[str, Any] = json.loads(json.dumps(made, default=_settings, sort_keys=True))
    return same


def _settings(value: Any) -> Any:
    """An option that JSON has no form for: its own settings, or the name of its kind."""
    return value.to_dict() if hasattr(value, "to_dict") else f"a {type(value).__qualname__}"


def _answered(
    pipe: Pipeline, plan: Plan, blocks: Iterator[Block], engine: EngineName, workers: Workers
) -> Generator[Finished]:
    """Finished blocks, in any order."""
    if engine == "local":
        for block in blocks:
            yield block.number, block.size, plan.answer(pipe, block)
    else:
        from pellucid.pipelines import ray_workers

        yield from ray_workers.answer_blocks(pipe, plan, blocks, workers)
