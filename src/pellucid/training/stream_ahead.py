"""Reading beside the work: a thread that stays a few rows ahead of whoever takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable, Iterator
from threading import Condition, Thread, current_thread
from typing import Any, TypeVar

from pellucid.errors import strict
from pellucid.training.metric_base import whole

T = TypeVar("T")

PATIENCE = 5.0
"""Seconds that are waited, once nobody takes rows any more, for the thread to come back from reading one."""
LOOK = 1.0
"""Seconds after which a wait looks up, so that Ctrl-C is noticed where a wait cannot be interrupted."""


@strict
def read_ahead(iterator: Iterable[T], rows: int = 2) -> Iterator[T]:
    """The same rows in the same order, read in a thread of their own while the caller works.

    The thread begins with the first row that is asked for. It ends with the last row; with an error, which is raised
    here behind the rows before it; and when the rows are no longer wanted, because the loop over them is left or
    `close` is called. Tokenizers and reading files run beside the caller, other Python code in turn with it.

    Args:
        iterator: rows, batches, or anything else; from now on to be read here alone.
        rows: most of them that are ready and not yet taken.

    Raises:
        InputError: `rows` is not a whole number from 1.
    """
    whole(rows, "rows", 1)
    return _taken(iterator, rows)


class _Shelf:
    """What the thread puts and the caller takes, at most `room` at a time."""

    def __init__(self, room: int) -> None:
        self.room = room
        self.ready: deque[Any] = deque()
        self.changed = Condition()
        self.ended = self.closed = False
        self.error: BaseException | None = None

    def is_wanted(self) -> bool:
        """Wait until there is room for one more; false if no more are wanted."""
        with self.changed:
            while len(self.ready) >= self.room and not self.closed:
                self.changed.wait()
            return not self.closed

    def put(self, row: Any) -> None:
        """Make a row ready."""
        with self.changed:
            self.ready.append(row)
            self.changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        """There are no more."""
        with self.changed:
            self.ended, self.error = True, error
            self.changed.notify_all()

    def has_more(self) -> bool:
        """Wait until a row is ready; false if none will be."""
        with self.changed:
            while not self.ready and not self.ended:
                self.changed.wait(LOOK)
            return bool(self.ready)

    def take(self) -> Any:
        """The next row that is ready."""
        with self.changed:
            self.changed.notify_all()
            return self.ready.popleft()

    def close(self) -> None:
        """No more are wanted."""
        with self.changed:
            self.closed = True
            self.ready.clear()
            self.changed.notify_all()


def _fill(shelf: _Shelf, rows: Iterable[Any]) -> None:
    """What the thread does."""
    error = None
    try:
        coming = iter(rows)
        while shelf.is_wanted():
            try:
                row = next(coming)
            except StopIteration:
                break
            shelf.put(row)
            del row  # so that only the shelf and who has taken it hold it
        if isinstance(coming, Generator):
            coming.close()
    except BaseException as found:
        error = found
    shelf.end(error)


def _taken(rows: Iterable[T], room: int) -> Iterator[T]:
    shelf = _Shelf(room)
    thread = Thread(target=_fill, args=(shelf, rows), name="pellucid-read-ahead", daemon=True)
    del rows
    thread.start()
    try:
        while shelf.has_more():
            yield shelf.take()
        if shelf.error is not None:
            raise shelf.error
    finally:
        shelf.close()
        if thread is not current_thread():  # the garbage collector may come by here in any thread
            thread.join(PATIENCE)
