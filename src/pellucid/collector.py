"""Pause the garbage collector where many objects are made that all stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def paused() -> Iterator[None]:
    """Do without collections for a while: importing torch or building a model makes 100,000 objects and no garbage.

    A full collection in the middle of it looks at every one of them, which costs more than the work itself.
    """
    if not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
