"""Blocks answered by the workers of a Ray cluster: Ray Data actors, each with the model and a pipeline on it.

The model travels as files (configuration, safetensors, tokenizer) through Ray's object store, so neither a folder that
all machines share nor a network is needed, and nothing of it is pickled. A worker writes them into a folder of its
own, loads them, which maps the weights, and removes the folder.

What goes wrong in a worker comes back as data, in one line, and is raised where the run was started. A worker that dies
is started again by Ray, and its blocks are answered again; a block that ends its worker every time ends the run.
"""

from __future__ import annotations

import json
import logging
import os
import re
import weakref
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from shutil import rmtree
from tempfile import TemporaryDirectory, mkdtemp
from typing import TYPE_CHECKING, Any

import torch

from pellucid import errors
from pellucid.errors import InputError, MissingDependencyError, PellucidError, require
from pellucid.pipelines.mapping import ADDED, Block, Finished, Plan, Workers, extra_files, plain_model
from pellucid.pipelines.ray_starts import Starts

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.base import Pipeline
    from pellucid.tokenizer import PreTrainedTokenizerBase

MOST_STARTS = 4
"""How often a block is begun at most: a worker may die for any reason, but one block should not end all of them."""
STORE_BYTES = 2**28
"""Room for rows and answers on their way in a Ray that is started here; more goes to the disk."""
SHARD = "256MB"
"""Size of the pieces in which weights travel."""


# ---------------------------------------------------------------------- Ray


def import_ray() -> Any:
    """The module `ray`, with its part for data loaded; it sends no statistics about its use.

    Raises:
        MissingDependencyError: it is not installed.
    """
    require("ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise MissingDependencyError(f"Ray cannot be imported ({error}): pip install 'pellucid[ray]'") from error
    return ray


def _arrow() -> Any:
    """The module `pyarrow`, which comes with Ray Data."""
    import pyarrow  # type: ignore[import-untyped]

    return pyarrow


@contextmanager
def _running(workers: Workers, model_bytes: int) -> Iterator[Any]:
    """Ray as it is connected already; else the cluster of `RAY_ADDRESS`, or a Ray of this machine, until the end."""
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    level = os.environ.get("RAY_BACKEND_LOG_LEVEL")
    os.environ["RAY_BACKEND_LOG_LEVEL"] = level or "fatal"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        if os.environ.get("RAY_ADDRESS"):
            ray.init(**quiet)
        else:
            ray.init(
                address="local",
                num_cpus=max(cores, (workers.count or 1) * workers.cpus),
                include_dashboard=False,
                object_store_memory=STORE_BYTES + 2 * model_bytes,
                **quiet,
            )
        yield ray
    finally:
        ray.shutdown()
        if level is None:
            del os.environ["RAY_BACKEND_LOG_LEVEL"]


@contextmanager
def _quiet(ray: Any) -> Iterator[None]:
    """Without Ray Data's bars and reports, which are about its own works; what was set before comes back."""
    context, logger = ray.data.DataContext.get_current(), logging.getLogger("ray.data")
    names = ("enable_progress_bars", "print_on_execution_start")
    before, level = {name: getattr(context, name) for name in names if hasattr(context, name)}, logger.level
    try:
        for name in before:
            setattr(context, name, False)
        logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)
        logger.setLevel(level)


def _pool(ray: Any, workers: Workers) -> dict[str, Any]:
    """How many actors there are and what each gets, as Ray Data takes it.

    Raises:
        InputError: not even one fits.
    """
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    for name, wanted, found in (("cpus_per_worker", workers.cpus, cpus), ("gpus_per_worker", workers.gpus, gpus)):
        if wanted > found:
            raise InputError(f"{name}: got {wanted:g}, and Ray has {found:g} in all; ask for less or add machines")
    room = int(min(cpus // workers.cpus, gpus // workers.gpus if workers.gpus else cpus))
    count: int | tuple[int, int] = workers.count if workers.count is not None else (1, max(room, 1))
    return {"concurrency": count, "num_cpus": workers.cpus, "num_gpus": workers.gpus or None}


# ---------------------------------------------------------------------- the model on its way


@dataclass(frozen=True)
class Shipped:
    """A pipeline in Ray's object store.

    Attributes:
        kind: class of the pipeline.
        model: class of the model.
        tokenizer: class of the tokenizer.
        name: what the model was loaded from, for messages.
        task: name of the task as it was asked for.
        defaults: options for all calls.
        files: name → reference to the bytes of a file that model and tokenizer are loaded from.
        extras: the same for files that the pipeline may ask for later.
    """

    kind: type[Pipeline]
    model: type[PreTrainedModel]
    tokenizer: type[PreTrainedTokenizerBase]
    name: str
    task: str
    defaults: Mapping[str, Any]
    files: Mapping[str, Any]
    extras: Mapping[str, Any]

    @classmethod
    def of(cls, pipe: Pipeline, ray: Any) -> Shipped:
        """Put what a pipeline is made of into the object store; adapters are merged into the weights."""
        import numpy as np

        def put(path: Path) -> Any:
            return ray.put(np.fromfile(path, dtype=np.uint8))  # arrays are read where they lie, without a copy

        with TemporaryDirectory() as folder:
            plain_model(pipe.model).save_pretrained(folder, max_shard_size=SHARD)
            pipe.tokenizer.save_pretrained(folder)
            files = {str(path.relative_to(folder)): put(path) for path in Path(folder).rglob("*") if path.is_file()}
        extras = {name: put(path) for name, path in extra_files(pipe).items()}
        classes = type(pipe), type(pipe.model), type(pipe.tokenizer)
        return cls(*classes, pipe.model.name_or_path, pipe.task, dict(pipe.defaults), files, extras)

    def open(self, device: str) -> Pipeline:
        """The pipeline, loaded where this is called."""
        with TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            _write(self.files, Path(folder))
            model = self.model.from_pretrained(folder)
            if model.can_generate():
                _ = model.generation_config  # read now, while the file is there
            tokenizer = self.tokenizer.from_pretrained(folder)
        model.name_or_path = self.name
        kept = None if not self.extras else _Kept(self.extras)
        return self.kind(model, tokenizer, task=self.task, device=device, resolve=kept, **self.defaults)


class _Kept:
    """Small files that are there as long as the worker, by their names."""

    def __init__(self, files: Mapping[str, Any]) -> None:
        self.folder = Path(mkdtemp())
        weakref.finalize(self, rmtree, self.folder, ignore_errors=True)
        _write(files, self.folder)

    def __call__(self, name: str) -> Path | None:
        path = self.folder / name
        return path if path.is_file() else None


def _write(files: Mapping[str, Any], folder: Path) -> None:
    ray = import_ray()
    for name, reference in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(memoryview(ray.get(reference)))


# ---------------------------------------------------------------------- a worker


class Worker:
    """One actor: a pipeline that answers blocks, or knows why it could not be made.

    Args:
        shipped: the pipeline.
        plan: what is done with a block.
        workers: what a worker gets.
        starts: the actor that counts starts of blocks.
    """

    def __init__(self, shipped: Shipped, plan: Plan, workers: Workers, starts: Any = None) -> None:
        self.plan, self.starts, self.problem = plan, starts, ("", "")
        os.environ["RAYON_NUM_THREADS"] = str(workers.cpus)
        torch.set_num_threads(workers.cpus)
        try:
            self.pipe = shipped.open("cuda" if workers.gpus else "cpu")
        except Exception as error:  # raised in here, it would start workers again and again
            self.problem = _one_line(error, "the model cannot be loaded on a worker: ")

    def __call__(self, table: Any) -> Any:
        """Answer the blocks of a table, one in each row."""
        pyarrow = _arrow()
        found = [self.answer(Block(**row)) for row in table.to_pylist()]
        return pyarrow.table({name: [row[name] for row in found] for name in found[0]})

    def answer(self, block: Block) -> dict[str, Any]:
        """A block's answers packed as bytes, or what went wrong: name of the error's class and its message."""
        kind, message = self.problem
        if not message and self.starts is not None:
            begun = import_ray().get(self.starts.begin.remote(block.number))
            if begun > MOST_STARTS:
                rows = f"block {block.number} (rows {block.first} to {block.first + block.size - 1})"
                kind, message = (
                    "PellucidError",
                    (
                        f"{rows}: its worker died {MOST_STARTS} times, perhaps for lack of memory; take a smaller "
                        "block_rows, fewer workers on a machine, or look into Ray's logs"
                    ),
                )
        data = b""
        if not message:
            try:
                result = self.plan.answer(self.pipe, block)
                data = result if isinstance(result, bytes) else pack(result)
            except Exception as error:
                kind, message = _one_line(error)
        return {"number": block.number, "size": block.size, "data": data, "kind": kind, "message": message}


class TableWorker(Worker):
    """The same for the rows of a Ray Dataset, which get their answers as further columns."""

    def __call__(self, table: Any) -> Any:
        """Answer the rows of a table.

        Raises:
            PellucidError: of the first row that cannot be answered, unless errors are kept.
        """
        pyarrow = _arrow()
        kind, message = self.problem
        if message:
            raise _error(kind, message)
        rows = table.to_pylist()
        joined = self.plan.with_answers(rows, self.plan.answer_rows(self.pipe, rows, None, {}))
        for name in ADDED if self.plan.keep_errors else ADDED[:1]:
            values = [row[name] for row in joined]
            table = table.append_column(name, pyarrow.array(values, pyarrow.string() if name == "error" else None))
        return table


def _one_line(error: Exception, before: str = "") -> tuple[str, str]:
    """Name of an error's class and its message with what stands before it, in one line."""
    if isinstance(error, PellucidError):
        return type(error).__name__, f"{before}{error}"
    lines = str(error).strip().splitlines() or [""]
    return "PellucidError", f"{before}{type(error).__name__}: {lines[0]}"


def _error(kind: str, message: str) -> PellucidError:
    found: PellucidError = getattr(errors, kind, PellucidError)(message)
    return found


def pack(answers: list[Any]) -> bytes:
    """Answers as bytes: vectors as Arrow has them, eight bytes a number, and all others as JSON."""
    pyarrow = _arrow()
    if _are_vectors(answers):
        table = pyarrow.table({"answer": answers})
        sink = pyarrow.BufferOutputStream()
        with pyarrow.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return b"A" + bytes(sink.getvalue())
    bad = {place: str(answer) for place, answer in enumerate(answers) if isinstance(answer, InputError)}
    good = [None if place in bad else answer for place, answer in enumerate(answers)]
    return b"J" + json.dumps([good, bad]).encode()


def unpack(data: bytes) -> list[Any]:
    """What was packed."""
    pyarrow = _arrow()
    if data[:1] == b"A":
        vectors: list[Any] = pyarrow.ipc.open_stream(data[1:]).read_all()["answer"].to_pylist()
        return vectors
    answers: list[Any]
    answers, bad = json.loads(data[1:])
    for place, message in bad.items():
        answers[int(place)] = InputError(message)
    return answers


def _are_vectors(answers: list[Any]) -> bool:
    """Whether all answers are lists of numbers, or lists of such lists, judged by the first of each."""
    for answer in answers:
        first = answer
        while isinstance(first, list) and first:
            first = first[0]
        if first is answer or not isinstance(first, float):
            return False
    return True


# ---------------------------------------------------------------------- a run


def answer_blocks(pipe: Pipeline, plan: Plan, blocks: Iterator[Block], workers: Workers) -> Iterator[Finished]:
    """Have blocks answered by Ray Data actors.

    Args:
        pipe: the pipeline; its model is sent to every worker once.
        plan: what is done with a block.
        blocks: all are put into the object store before the first is answered; without any, Ray is not started.
        workers: how many actors, and what each gets.

    Yields:
        Each finished block, in the order in which they are finished.

    Raises:
        PellucidError: what went wrong in a worker.
    """
    first = next(blocks, None)
    if first is None:
        return
    with _running(workers, pipe.model.get_memory_footprint()) as ray, _quiet(ray):
        references = [ray.put(_table(block)) for block in chain([first], blocks)]
        starts = ray.remote(num_cpus=0)(Starts).remote()
        given = {"shipped": Shipped.of(pipe, ray), "plan": plan, "workers": workers, "starts": starts}
        answered = ray.data.from_arrow_refs(references).map_batches(
            Worker, batch_size=1, batch_format="pyarrow", fn_constructor_kwargs=given, **_pool(ray, workers)
        )
        with closing(_tables(ray, answered)) as tables:
            for table in tables:
                for row in table.to_pylist():
                    if row["message"]:
                        raise _error(row["kind"], row["message"])
                    data = row["data"]
                    yield row["number"], row["size"], unpack(data) if plan.file_format is None else data


def _table(block: Block) -> Any:
    pyarrow = _arrow()
    return pyarrow.table({name: [value] for name, value in block._asdict().items()})


def _tables(ray: Any, dataset: Any) -> Generator[Any]:
    """The tables of a Ray Dataset as they are finished; what Ray itself reports comes in one line."""
    try:
        yield from dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
    except ray.exceptions.RayError as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        reason = next((line for line in reversed(lines) if re.match(r"[\w.]+(Error|Exception): ", line)), lines[0])
        raise PellucidError(f"engine='ray': a worker failed: {reason}; Ray's logs say more") from None


def map_dataset(pipe: Pipeline, plan: Plan, dataset: Any, block_rows: int, workers: Workers) -> Any:
    """A Ray Dataset with the answers in further columns, computed when it is read, as Ray Datasets are."""
    ray = import_ray()
    given = {"shipped": Shipped.of(pipe, ray), "plan": plan, "workers": workers}
    return dataset.map_batches(
        TableWorker,
        batch_size=block_rows,
        batch_format="pyarrow",
        fn_constructor_kwargs=given,
        **_pool(ray, workers),
    )
