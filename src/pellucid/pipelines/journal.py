"""What a run over a file has answered so far, kept so that a kill at any moment loses nothing.

Beside the file to be made, `answers.csv`, there is a folder `answers.csv.partial` until the run is done:

    answers.jsonl    one answer a line, in the order of the rows
    progress.json    what run it is, how many rows are done, and how many bytes of `answers.jsonl` they take

Answers are brought to the disk first, then the record that counts them. So all that is counted is there, and what
stands behind it, a line torn by a kill perhaps, is dropped when the run goes on.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Self

from pellucid.errors import FileError, InputError, strict
from pellucid.files import quoted, read_json, write_json
from pellucid.pipelines.datafiles import json_line

ANSWERS, PROGRESS = "answers.jsonl", "progress.json"


class Journal:
    """The answers of a run that is not done yet; a context manager, which closes it.

    Args:
        out: the file that the run is to make.
        run: what makes it this run and no other, such as input, model and options, in the forms that JSON has.
        overwrite: an older file may be replaced, and another unfinished run be dropped.

    Attributes:
        rows: rows answered; after `sync` they are on the disk.
        errors: how many of them have an error.
        complete: whether these are all rows of the input.

    Raises:
        InputError: the file exists, or another run to it has begun, and `overwrite` is false.
        FileError: the folder cannot be written or its record not be read, or another process is writing to it.
    """

    @strict
    def __init__(self, out: Path, run: Mapping[str, Any], *, overwrite: bool = False) -> None:
        self.out, self.folder, self.run = out, out.with_name(f"{out.name}.partial"), dict(run)
        self.rows = self.errors = self._bytes = 0
        self.complete = False
        record = self.folder / PROGRESS
        try:
            self.folder.mkdir(exist_ok=True)
            self._file = (self.folder / ANSWERS).open("ab", buffering=0)
        except OSError as error:
            self._refuse(error)
        try:
            self._take_lock()
            if record.exists():
                self._go_on(record, overwrite)
            elif out.exists() and not overwrite:
                self.remove()
                raise InputError(f"{out}: it exists already; choose another name, or pass overwrite=True to replace it")
            self._file.truncate(self._bytes)
            self.sync()
        except OSError as error:
            self._file.close()
            self._refuse(error)
        except BaseException:
            self._file.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self.rows or self.complete:
            self._file.close()
        else:  # nothing has come of it
            self.remove()

    def _refuse(self, error: OSError) -> NoReturn:
        if isinstance(error, FileError):
            raise error
        cure = f"; make room, and the same run goes on behind row {self.rows:,}" if self.rows else ""
        raise FileError(f"{self.folder}: cannot be written: {error.strerror or error}{cure}") from error

    def _take_lock(self) -> None:
        """Mark the run as in progress until this process ends, or see that another process has done so."""
        if sys.platform == "win32":
            return
        import fcntl

        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise FileError(f"{self.folder}: another process is writing it; wait for its end") from error

    def _go_on(self, record: Path, overwrite: bool) -> None:
        """Take over what an earlier process has done."""
        found = read_json(record)
        kinds = {"run": dict, "rows": int, "errors": int, "bytes": int, "complete": bool}
        if not isinstance(found, dict) or any(not isinstance(found.get(name), kind) for name, kind in kinds.items()):
            raise FileError(f"{record}: not the record of a run; remove the folder to begin again")
        run, rows, size = found["run"], found["rows"], found["bytes"]
        cure = f"finish that run by the same call, or pass overwrite=True to drop its {rows:,} rows"
        if run != self.run:
            if overwrite or not rows:
                return
            name = next(name for name in {**run, **self.run} if run.get(name) != self.run.get(name))
            was, now = quoted(run.get(name)), quoted(self.run.get(name))
            raise InputError(f"{self.folder}: was begun with {name} {was}, and now it is {now}; {cure}")
        if os.fstat(self._file.fileno()).st_size < size:
            if overwrite:
                return
            raise FileError(f"{self.folder / ANSWERS}: shorter than the {size:,} bytes that were written; {cure}")
        self.rows, self.errors, self._bytes, self.complete = rows, found["errors"], size, found["complete"]

    @strict
    def add(self, answers: Sequence[Mapping[str, Any]]) -> None:
        """Write the answers of the next rows; those that hold an `error` are counted.

        Raises:
            FileError: the disk is full, say; what was synced before stays.
        """
        lines = [json_line(answer) for answer in answers]
        failed = sum("error" in answer for answer in answers)
        left = data = memoryview(b"".join(lines))
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._refuse(error)
        self.rows, self.errors, self._bytes = self.rows + len(lines), self.errors + failed, self._bytes + len(data)

    @strict
    def sync(self, *, complete: bool = False) -> None:
        """Bring the answers to the disk, then the record that counts them.

        Args:
            complete: these are all.

        Raises:
            FileError: it cannot be done; what was synced before stays.
        """
        self.complete = self.complete or complete
        try:
            os.fsync(self._file.fileno())
            counts = {"rows": self.rows, "errors": self.errors, "bytes": self._bytes, "complete": self.complete}
            write_json(self.folder / PROGRESS, {"run": self.run, **counts})
        except OSError as error:
            self._refuse(error)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """The answers from the first row on."""
        with (self.folder / ANSWERS).open("rb") as file:
            for _ in range(self.rows):
                yield json.loads(file.readline())

    def remove(self) -> None:
        """Delete the journal, as the file has been made; first the record, without which the rest means nothing."""
        self._file.close()
        for name in (PROGRESS, ANSWERS):
            (self.folder / name).unlink(missing_ok=True)
        with suppress(OSError):  # somebody has put other files there
            self.folder.rmdir()
