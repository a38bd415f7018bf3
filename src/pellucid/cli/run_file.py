"""`pellucid run TASK --in FILE --out FILE`: a file's rows with their answers, in a run that goes on after a kill.

Rows are answered in blocks, and what a block's answers are depends on nothing but its rows. So a run that was killed,
and goes on with the first block that is not on the disk, makes the same file to the byte as one that was not.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pellucid import __version__
from pellucid.cli import terminal
from pellucid.cli.answers import as_columns, listed, reason
from pellucid.cli.arguments import UsageError
from pellucid.cli.texts import Columns, Counted
from pellucid.errors import FileError, PellucidError, require
from pellucid.pipelines.datafiles import columns_of, count_rows, in_blocks, kind_of, open_rows_file, write_rows
from pellucid.pipelines.frames import free_name
from pellucid.pipelines.journal import Journal

if TYPE_CHECKING:
    from pellucid.pipelines.base import Pipeline
    from pellucid.pipelines.engine import RunStatistics

BLOCK_ROWS, BLOCK_CHARACTERS = 4096, 2**19
"""Most rows of a block, and the length of their texts that ends it early."""
WRITTEN_ROWS = 256
"""Most rows of a block where the task is to write, which takes longer."""
SYNC_SECONDS = 1.0
"""How long answers may wait to be brought to the disk, beside the time for a block."""
SHOWN_ERRORS = 5
"""How many rows with errors are named on the terminal; all of them are in the file."""


class FileRun:
    """One call of the command with `--out`.

    Args:
        args: the call.
        columns: how a row of the file is read.
        options: the pipeline's options.
        in_options: a message of the library in the words of the command line.

    Raises:
        UsageError, InputError: the files cannot be read or made in this way.
    """

    def __init__(
        self,
        args: argparse.Namespace,
        columns: Columns,
        options: Mapping[str, Any],
        in_options: Callable[[str], str],
    ) -> None:
        if args.texts or args.file in (None, "-"):
            raise UsageError("--out: wants the texts from a file, --in FILE; without --out, texts and '-' are answered")
        if args.out == "-":
            raise UsageError(
                "--out: got '-', wanted a file; without --out answers are printed, with --json as JSON lines"
            )
        if shown := next((name for name in ("json", "table", "steps", "explain") if getattr(args, name)), None):
            raise UsageError(f"--{shown}: is for answers that are printed, and has no effect with --out; drop one")
        self.args, self.columns, self.options, self.in_options = args, columns, dict(options), in_options
        self.source, self.out = Path(args.file), Path(args.out)
        if "parquet" in (kind_of(self.source), kind_of(self.out, written=True)):
            require("pyarrow", "files")
        if not self.out.parent.is_dir():
            raise UsageError(f"--out: {self.out.parent} is no folder; make it first")
        if self.out.is_dir() or (self.out.exists() and self.out.samefile(self.source)):
            raise UsageError(
                f"--out: {self.out} is {'a folder' if self.out.is_dir() else 'the input'}; name another file"
            )
        columns.check(self.source)
        self.shown = 0  # errors on the terminal

    def run(self, load: Callable[..., Pipeline]) -> int:
        """Answer what is not answered yet and make the file; 1 if a row has an error.

        Args:
            load: makes the pipeline.
        """
        before = self._input()
        with Journal(self.out, self._identity(before), overwrite=self.args.overwrite) as journal:
            earlier, report = journal.rows, ""
            if not journal.complete:
                report = f"; {_summary(self._answer(load(), journal))}"
            if self._input() != before:
                raise FileError(f"{self.source}: was changed while it was read; begin again with --overwrite")
            self._make(journal)
            errors = f"{journal.errors:,} with errors" if journal.errors else "no errors"
            went_on = f", {earlier:,} of them earlier" if earlier else ""
            terminal.note(f"{terminal.clean(str(self.out))}: {_counted(journal.rows)}{went_on}, {errors}{report}")
            return int(journal.errors > 0)

    # ------------------------------------------------------------------ which run it is

    def _input(self) -> dict[str, Any]:
        """What tells whether the input is still the same."""
        found = self.source.stat()
        return {"input": str(self.source.resolve()), "size": found.st_size, "modified": found.st_mtime_ns}

    def _identity(self, source: Mapping[str, Any]) -> dict[str, Any]:
        """Everything that the answers depend on."""
        asked = {name: getattr(self.args, name) for name in ("task", "model", "revision", "device", "dtype")}
        columns = {"columns": self.columns.names, "given": self.columns.fixed}
        return {"pellucid": __version__, **source, **asked, "options": self.options, **columns}

    # ------------------------------------------------------------------ answers

    def _answer(self, pipe: Pipeline, journal: Journal) -> RunStatistics:
        """Answer the rows that are not answered yet; what was done, in numbers."""
        total, synced = type(pipe.last_run)(), time.monotonic()
        writes = hasattr(pipe, "new_tokens")
        rows = open_rows_file(self.source, skip=journal.rows, keep_errors=True)
        try:
            with self._bar(journal.rows) as bar, _each_warning_once():
                for block in in_blocks(rows, WRITTEN_ROWS if writes else BLOCK_ROWS, BLOCK_CHARACTERS):
                    journal.add(list(self._answers(pipe, block, journal, bar)))
                    _add(total, pipe.last_run)
                    if bar is not None:
                        bar.set_postfix_str(f"{total.tokens_per_second:,.0f} tokens/s")
                    if time.monotonic() - synced > SYNC_SECONDS:
                        journal.sync()
                        synced = time.monotonic()
                journal.sync(complete=True)
        except (KeyboardInterrupt, PellucidError):
            journal.sync()
            if journal.rows:
                terminal.note(f"stopped; answered are {_counted(journal.rows)}, and the same command goes on behind")
            raise
        return total

    def _answers(self, pipe: Pipeline, block: list[Any], journal: Journal, bar: Any) -> Iterator[dict[str, Any]]:
        """The answer of each row of a block as columns, or its error."""
        asked = [self.columns.of(row) for row in block]
        good = [row for row in asked if not isinstance(row, PellucidError)]
        call: Any = pipe
        answers = iter(call(Counted(good, len(good)), on_error="keep", progress=False, **self._fixed(pipe)))
        for number, row in enumerate(asked, journal.rows + 1):
            answer = row if isinstance(row, PellucidError) else next(answers)
            if bar is not None:
                bar.update()
            if not isinstance(answer, PellucidError):
                yield as_columns(answer, listed(pipe))
                continue
            message = self.in_options(reason(answer))
            where = message if isinstance(answer, FileError) else f"{self.source}: row {number}: {message}"
            if self.args.on_error == "raise":
                raise type(answer)(where)
            self.shown += 1
            if self.shown <= SHOWN_ERRORS:
                terminal.complain("error", where)
            elif self.shown == SHOWN_ERRORS + 1:
                terminal.note("further errors are only written into the file")
            yield {"error": message}

    def _fixed(self, pipe: Pipeline) -> dict[str, int]:
        """The size of batches, which is otherwise found by trying: the last digit of an answer may depend on it."""
        chosen = {"batch_size", "tokens_per_batch"} & self.options.keys() or pipe.tokens_per_batch
        if chosen or "tokens_per_batch" not in pipe.known_options():
            return {}
        from pellucid.pipelines.budget import TokenBudget

        return {"tokens_per_batch": TokenBudget.of_device(pipe.device.type).tokens}

    def _bar(self, done: int) -> AbstractContextManager[Any]:
        """A progress bar where somebody reads along."""
        if not terminal.is_terminal(sys.stderr):
            return nullcontext()
        from tqdm import tqdm

        bar: tqdm[Any] = tqdm(total=count_rows(self.source), initial=done, unit=" rows")
        return bar

    # ------------------------------------------------------------------ the file

    def _make(self, journal: Journal) -> None:
        """Write the file of all rows with their answers."""
        names = columns_of(self.source)
        taken = set(names or ())
        if names is None:
            for row in open_rows_file(self.source, keep_errors=True):
                taken |= (
                    row.keys() if isinstance(row, Mapping) else {self.columns.main} if isinstance(row, str) else set()
                )
        like = self.source if kind_of(self.source) == "parquet" else None
        try:
            write_rows(
                self.out, _Answered(self.source, journal, self.columns.main, taken), columns=names or (), like=like
            )
        except FileError:
            terminal.note("all rows are answered; the same command makes the file")
            raise
        journal.remove()


class _Answered:
    """The rows of a file with the answers beside them, as often as they are asked for.

    Args:
        source: the file.
        answers: an answer for each row.
        main: name of the column of texts that stand in none.
        taken: names of the file's columns.
    """

    def __init__(self, source: Path, answers: Iterable[dict[str, Any]], main: str, taken: Collection[str]) -> None:
        self.source, self.answers, self.main, self.taken = source, answers, main, taken

    def __iter__(self) -> Iterator[dict[str, Any]]:
        names: dict[str, str] = {}
        for row, answer in zip(open_rows_file(self.source, keep_errors=True), self.answers, strict=True):
            own = {self.main: row} if isinstance(row, str) else row if isinstance(row, Mapping) else {}
            for name in answer.keys() - names.keys():
                names[name] = free_name(name, self.taken)
            yield {**own, **{names[name]: value for name, value in answer.items()}}


def _counted(rows: int) -> str:
    return f"{rows:,} row{'' if rows == 1 else 's'}"


def _summary(done: RunStatistics) -> str:
    """What a run of this process has done, in a line."""
    written = f" and {done.written:,} written" if done.written else ""
    cut = f", {done.truncated:,} rows cut" if done.truncated else ""
    return (
        f"{done.tokens:,} tokens{written} in {done.seconds:.1f} s, {done.tokens_per_second:,.0f} tokens/s, "
        f"waste {done.waste:.1%}{cut}"
    )


def _add(total: RunStatistics, one: RunStatistics) -> None:
    """Add the numbers of one run to those of others."""
    for name in ("rows", "tokens", "computed", "written", "truncated", "seconds"):
        setattr(total, name, getattr(total, name) + getattr(one, name))


@contextmanager
def _each_warning_once() -> Iterator[None]:
    """Let the library say the same of one block only, not of each."""
    seen: set[str] = set()

    def is_new(record: logging.LogRecord) -> bool:
        new = record.msg not in seen
        seen.add(record.msg)
        return new

    logger = logging.getLogger("pellucid")
    logger.addFilter(is_new)
    try:
        yield
    finally:
        logger.removeFilter(is_new)
