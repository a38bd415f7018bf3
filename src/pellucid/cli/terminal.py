"""What the commands print: aligned, never wider than the terminal, readable in any encoding, harmless to it."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any, TextIO
from unicodedata import category, east_asian_width

# Characters that move the cursor, change colours or the direction of reading: texts and files must not do that.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_PLAIN = str.maketrans(
    {"…": "...", "–": "-", "×": "x", "→": "->", "↵": "\\n", "·": "-", "█": "#"}
    | {"├": "|", "└": "`", "│": "|", "─": "-"}
)
"""What stands for our own signs where the terminal's encoding lacks them."""
UNITS = (("kB", 10**3), ("MB", 10**6), ("GB", 10**9))


# ---------------------------------------------------------------------- streams


def prepare() -> None:
    """Let no character that the terminal's encoding lacks end the command."""
    for stream in (sys.stdout, sys.stderr):
        if reconfigure := getattr(stream, "reconfigure", None):
            reconfigure(errors="replace")


def quiet_downloads() -> None:
    """Before a command that may download: no bars and retry notes of the Hub's client where nobody reads along."""
    if not is_terminal(sys.stderr):
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        os.environ.setdefault("HF_HUB_VERBOSITY", "error")


def is_terminal(stream: TextIO | None) -> bool:
    """Whether a person reads along."""
    return stream is not None and not stream.closed and stream.isatty()


def is_utf8(stream: TextIO) -> bool:
    """Whether the stream takes any character."""
    return (getattr(stream, "encoding", None) or "utf-8").lower().replace("-", "").replace("_", "") in (
        "utf8",
        "utf8sig",
    )


def out(line: str = "", now: bool = False) -> None:
    """Print a line of text; `now` flushes it, for output that is read while it is made."""
    _print(line, sys.stdout, now)


def out_piece(text: str) -> None:
    """Print a part of a text that goes on, at once."""
    _print(clean_lines(text), sys.stdout, now=True, end="")


def out_json(value: Any) -> None:
    """Print a value as one line of JSON."""
    ascii_only = sys.stdout is not None and not is_utf8(sys.stdout)
    _print(json.dumps(value, ensure_ascii=ascii_only), sys.stdout, now=True)


def complain(kind: str, message: str) -> None:
    """Print one line on standard error: `pellucid: error: …`."""
    start = f"pellucid: {kind}:"
    _print(f"{_styled(start, '31', sys.stderr)} {clean(message)}", sys.stderr, now=True)


def note(line: str) -> None:
    """Print a line beside the point on standard error."""
    _print(_styled(line, "2", sys.stderr), sys.stderr, now=True)


def _print(line: str, stream: TextIO | None, now: bool, end: str = "\n") -> None:
    if stream is None:  # closed by the caller: nobody wants to know
        return
    stream.write((line if is_utf8(stream) else line.translate(_PLAIN)) + end)
    if now:
        stream.flush()


def flush() -> None:
    """Hand over what was printed, so that an error of the reader's side appears here and not at exit."""
    if sys.stdout is not None:
        sys.stdout.flush()


def drop_output() -> None:
    """Forget what standard output did not take, so that the end of the process does not fail on it."""
    with suppress(OSError, ValueError, AttributeError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


# ---------------------------------------------------------------------- style


def _styled(text: str, code: str, stream: TextIO | None) -> str:
    """The text in a colour or weight, if a terminal shows it and `NO_COLOR` does not forbid it."""
    if not is_terminal(stream) or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{code}m{text}\x1b[0m"


def bold(text: str) -> str:
    """The text as a heading or answer."""
    return _styled(text, "1", sys.stdout)


def dim(text: str) -> str:
    """The text as something beside the point."""
    return _styled(text, "2", sys.stdout)


# ---------------------------------------------------------------------- fitting


def clean(text: str) -> str:
    """The text on one line, without characters that act on the terminal."""
    return clean_lines(" ".join(text.split()))


def clean_lines(text: str) -> str:
    """The text with its line breaks, without other characters that act on the terminal."""
    return "\n".join(_CONTROL.sub("�", line) for line in text.split("\n"))


def columns(text: str) -> int:
    """How many columns of a terminal a text takes."""
    return sum(0 if category(c) in ("Mn", "Me", "Cf") else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def pad(text: str, width: int, right: bool = False) -> str:
    """The text filled up with spaces, on its left side with `right`."""
    spaces = " " * (width - columns(text))
    return spaces + text if right else text + spaces


def fit(line: str, used: int = 0) -> str:
    """The line, on a terminal cut to the room that `used` columns leave on it."""
    if not is_terminal(sys.stdout):
        return line
    return cut(line, max(shutil.get_terminal_size().columns - used, 20))


def cut(text: str, width: int) -> str:
    """The text in at most `width` columns, with `…` where it was cut."""
    if columns(text) <= width:
        return text
    text = text[:width]
    while columns(text) > width - 1:
        text = text[:-1]
    return f"{text}…"


def table(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """Rows of equally many cells as lines of aligned columns; those numbered in `right` are aligned to the right."""
    widths = [max(map(columns, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(pad(cell, widths[place], place in right) for place, cell in enumerate(row)).rstrip() for row in rows
    ]


def size(count: int) -> str:
    """A number of bytes as it is read: `90.9 MB`."""
    if count < 1000:
        return f"{count} bytes" if count != 1 else "1 byte"
    unit, one = next(((unit, one) for unit, one in UNITS if count < 999.95 * one), UNITS[-1])
    return f"{count / one:,.1f} {unit}"
