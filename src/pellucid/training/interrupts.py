"""Signals that ask a run to end: it finishes its step, saves, and goes."""

from __future__ import annotations

import logging
import signal
import threading
from types import FrameType
from typing import Any

logger = logging.getLogger("pellucid")


class Interrupts:
    """Notes SIGTERM and Ctrl-C while a run goes on; a second one ends it at once.

    Args:
        wanted: whether to; signals are only heard in the main thread.

    Attributes:
        noted: the signal that came, if any.
    """

    def __init__(self, wanted: bool) -> None:
        self.wanted = wanted and threading.current_thread() is threading.main_thread()
        self.noted: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interrupts:
        if self.wanted:
            self._before = {number: signal.signal(number, self._note) for number in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.noted is not None:
            raise KeyboardInterrupt
        logger.warning("training: %s: saving after this step", signal.Signals(number).name)
        self.noted = number

    def leave(self) -> None:
        """End the program as the noted signal would have; nothing if there was none."""
        if self.noted == signal.SIGINT:
            raise KeyboardInterrupt
        if self.noted is not None:
            raise SystemExit(128 + self.noted)
