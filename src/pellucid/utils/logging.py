"""How much pellucid says: `logging.set_verbosity_error()`, `logging.get_logger(__name__)`, `disable_progress_bar()`.

The names are those of `transformers.logging`. Everything goes through Python's logger `"pellucid"`, which has no
handler of its own until one is asked for: warnings then go to stderr, as Python's do.
"""

from __future__ import annotations

import logging as python_logging
from logging import CRITICAL, DEBUG, ERROR, FATAL, INFO, NOTSET, WARN, WARNING

from pellucid.errors import InputError, strict

__all__ = [
    "CRITICAL", "DEBUG", "ERROR", "FATAL", "INFO", "NOTSET", "WARN", "WARNING", "add_handler",
    "disable_default_handler", "disable_progress_bar", "disable_propagation", "enable_default_handler",
    "enable_explicit_format", "enable_progress_bar", "enable_propagation", "get_log_levels_dict", "get_logger",
    "get_verbosity", "is_progress_bar_enabled", "remove_handler", "reset_format", "set_verbosity",
    "set_verbosity_debug", "set_verbosity_error", "set_verbosity_info", "set_verbosity_warning",
]  # fmt: skip

ROOT = "pellucid"
LEVELS = {"debug": DEBUG, "info": INFO, "warning": WARNING, "error": ERROR, "critical": CRITICAL}
EXPLICIT = python_logging.Formatter("[%(levelname)s|%(filename)s:%(lineno)s] %(asctime)s >> %(message)s")

_default = python_logging.StreamHandler()
_shows_progress = True


def get_log_levels_dict() -> dict[str, int]:
    """Names of levels, and their numbers."""
    return dict(LEVELS)


@strict
def get_logger(name: str | None = None) -> python_logging.Logger:
    """A logger; without a name the one of pellucid."""
    return python_logging.getLogger(name or ROOT)


def get_verbosity() -> int:
    """The level from which on messages are shown."""
    return get_logger().getEffectiveLevel()


@strict
def set_verbosity(verbosity: int) -> None:
    """Show messages from a level on, such as `logging.INFO`; those below warnings on stderr, too.

    Raises:
        InputError: it is no level.
    """
    if isinstance(verbosity, bool) or not isinstance(verbosity, int):
        raise InputError(f"verbosity: got {verbosity!r}, wanted a level such as logging.INFO")
    get_logger().setLevel(verbosity)
    if verbosity < WARNING and not get_logger().hasHandlers():
        enable_default_handler()


def set_verbosity_debug() -> None:
    """Show everything."""
    set_verbosity(DEBUG)


def set_verbosity_info() -> None:
    """Show what is going on."""
    set_verbosity(INFO)


def set_verbosity_warning() -> None:
    """Show warnings and errors."""
    set_verbosity(WARNING)


def set_verbosity_error() -> None:
    """Show errors alone."""
    set_verbosity(ERROR)


# ---------------------------------------------------------------------- handlers


def enable_default_handler() -> None:
    """Write messages to stderr, whatever handlers the program has."""
    add_handler(_default)


def disable_default_handler() -> None:
    """Leave messages to the handlers of the program."""
    remove_handler(_default)


@strict
def add_handler(handler: python_logging.Handler) -> None:
    """Give messages to a handler too."""
    get_logger().addHandler(handler)


@strict
def remove_handler(handler: python_logging.Handler) -> None:
    """Give messages to a handler no more."""
    get_logger().removeHandler(handler)


def enable_propagation() -> None:
    """Give messages to the handlers of the program, as is usual."""
    get_logger().propagate = True


def disable_propagation() -> None:
    """Keep messages from the handlers of the program."""
    get_logger().propagate = False


def enable_explicit_format() -> None:
    """Show level, place and time with each message of pellucid's own handlers."""
    for handler in get_logger().handlers:
        handler.setFormatter(EXPLICIT)


def reset_format() -> None:
    """Show messages alone again."""
    for handler in get_logger().handlers:
        handler.setFormatter(None)


# ---------------------------------------------------------------------- progress


def is_progress_bar_enabled() -> bool:
    """Whether long work shows how far it is."""
    return _shows_progress


def enable_progress_bar() -> None:
    """Show how far long work is, downloads too."""
    _show_progress(True)


def disable_progress_bar() -> None:
    """Show no progress, of downloads neither."""
    _show_progress(False)


def _show_progress(wanted: bool) -> None:
    from huggingface_hub.utils.tqdm import disable_progress_bars, enable_progress_bars

    global _shows_progress
    _shows_progress = wanted
    (enable_progress_bars if wanted else disable_progress_bars)()
