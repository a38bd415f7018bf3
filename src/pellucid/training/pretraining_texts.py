"""Texts to pretrain on: read from files, split into what is learnt and what is measured, and cut into blocks of tokens.

    texts = Texts(["tales.txt", "more/*.jsonl.gz"])        read once, so that bad files are known before time is spent
    Blocks(texts.tokens(tokenizer), 128)[0]                 {"input_ids": [...128 numbers...]}

A document is a file of text, or a row of a file of rows. Texts are read and tokenized piece by piece; what stays in
memory are the tokens, four bytes each.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import StrPath
from pellucid.pipelines.datafiles import kind_of, open_rows_file

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase

Documents = Literal["file", "line", "paragraph"]
PIECE = 1 << 15
"""Characters that are tokenized together; longer texts are cut at the end of a line, or between two words."""
TOGETHER = 64
"""Pieces that are handed to the tokenizer at once."""
MOST_HELD_OUT = 2_000_000
"""Characters that are held out at most, unless a share is asked for."""


class Piece(NamedTuple):
    """A part of a document.

    Attributes:
        text: its text.
        ends: whether the document ends with it.
        held_out: whether it is for measuring.
    """

    text: str
    ends: bool
    held_out: bool


@dataclass
class Amount:
    """How much text there is."""

    characters: int = 0
    size: int = 0
    """Bytes in UTF-8."""
    documents: int = 0

    def add(self, text: str, ends: bool) -> None:
        """Count a piece."""
        self.characters += len(text)
        self.size += len(text.encode("utf-8"))
        self.documents += ends


class Texts:
    """The texts of some files, read once to count them.

    Args:
        files: paths or patterns such as `"texts/*.txt"`; text, JSON lines, CSV, TSV or Parquet, also with `.gz`.
        documents: what a document is in files of text: the file, a line that is not empty, or lines between empty ones.
        column: the text's column in files of rows.
        share: of the text that is held out, 0 for none; default: a twentieth, of long texts less.

    Raises:
        InputError: no text in them, or too little to hold some out.
        FileError: a file is missing or cannot be read; it names the line.
    """

    def __init__(
        self,
        files: Sequence[StrPath],
        *,
        documents: Documents = "file",
        column: str = "text",
        share: float | None = None,
    ) -> None:
        self.files, self.documents, self.column = _expanded(files), documents, column
        if share is not None and not 0 <= share < 1:
            raise InputError(f"eval_share: got {share}, wanted a share of the text, 0 or more, below 1")
        self.whole, lengths = Amount(), []
        for file in self.files:
            before = self.whole.characters
            for text, ends in self._pieces_of(file):
                self.whole.add(text, ends)
            lengths.append(self.whole.characters - before)
        if not self.whole.characters:
            raise InputError(f"data: {_names(self.files)}: got no text, wanted some to learn from")
        self.lengths = lengths
        self.share = min(0.05, MOST_HELD_OUT / self.whole.characters) if share is None else share
        every = self.every = round(1 / self.share) if self.share else 0
        self.by_document = 0 < every <= self.whole.documents
        rows = documents != "file" or any(kind_of(file) != "text" for file in self.files)
        if rows and every and not self.by_document:
            raise InputError(
                f"data: got {self.whole.documents} documents, wanted at least {every} to hold out {self.share:.0%} of "
                "them; name a file to measure on (eval), or a larger eval_share"
            )

    def described(self) -> str:
        """Names of the files and how much text they hold, in words."""
        amount = f"{self.whole.characters:,} characters"
        if self.whole.documents > 1:
            amount += f" in {self.whole.documents:,} documents"
        return f"{_names(self.files)} ({amount})"

    # ------------------------------------------------------------------ pieces

    def pieces(self) -> Iterator[Piece]:
        """All pieces in their order; held out is every so-manieth document, or of a few the end of each."""
        number, every = 0, self.every
        for file, length in zip(self.files, self.lengths, strict=True):
            done = 0
            for text, ends in self._pieces_of(file):
                if self.by_document or not every:
                    yield Piece(text, ends, self.by_document and number % every == every - 1)
                else:
                    yield from self._cut(text, ends, round((1 - self.share) * length) - done)
                done += len(text)
                number += ends

    def _cut(self, text: str, ends: bool, start: int) -> Iterator[Piece]:
        """A piece, in two where what is held out of its document begins inside it."""
        at = 0 if start <= 0 else len(text) if start >= len(text) else _place_to_cut(text, start)
        if text[:at]:
            yield Piece(text[:at], ends and at == len(text), held_out=False)
        if text[at:]:
            yield Piece(text[at:], ends, held_out=True)

    def _pieces_of(self, file: Path) -> Iterator[tuple[str, bool]]:
        """Texts of at most a piece, and whether a document ends with them."""
        if kind_of(file) == "text":
            documents = self._documents(file)
        else:
            documents = ([self._text_of(row, file)] for row in open_rows_file(file))
        for lines in documents:
            waiting = ""
            for piece in _joined(lines):
                if waiting:
                    yield waiting, False
                waiting = piece
            if waiting.strip():
                yield waiting, True

    def _documents(self, file: Path) -> Iterator[Iterator[str] | list[str]]:
        """The lines of each document of a file of text."""
        lines = (f"{line}\n" for line in open_rows_file(file))
        if self.documents == "file":
            yield lines
        elif self.documents == "line":
            yield from ([line.removesuffix("\n")] for line in lines)
        else:
            paragraph: list[str] = []
            for line in lines:
                if line.strip():
                    paragraph.append(line)
                elif paragraph:
                    yield paragraph
                    paragraph = []
            yield paragraph

    def _text_of(self, row: Any, file: Path) -> str:
        """The text of a row."""
        if isinstance(row, str):
            return row
        if not isinstance(row, Mapping) or self.column not in row:
            known = list(row) if isinstance(row, Mapping) else []
            raise InputError(
                f"{file}: there is no column {self.column!r}, wanted one of texts{did_you_mean(self.column, known)}"
                f"; its columns are {', '.join(map(repr, known))}"
            )
        text = row[self.column]
        if text is not None and not isinstance(text, str):
            raise InputError(f"{file}: column {self.column!r}: got {text!r}, wanted a text")
        return text or ""

    # ------------------------------------------------------------------ what becomes of them

    def to_learn(self, most: int | None = None) -> Iterator[str]:
        """The texts that are not held out; of more than `most` characters, pieces from all over them."""
        every = 1 if most is None else max(1, -(-self.whole.characters // most))
        yield from islice((piece.text for piece in self.pieces() if not piece.held_out), 0, None, every)

    def tokens(
        self, tokenizer: PreTrainedTokenizerBase, *, held_out: bool = False, separator: int | None = None
    ) -> tuple[np.ndarray[Any, Any], Amount]:
        """All tokens of one part, and how much text they stand for.

        Args:
            tokenizer: of the model.
            held_out: the part that is for measuring, or else the other one.
            separator: token after each document.
        """
        found, amount = array("i"), Amount()
        pieces = (piece for piece in self.pieces() if piece.held_out == held_out)
        while some := list(islice(pieces, TOGETHER)):
            texts = [piece.text for piece in some]
            rows = tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
            for piece, row in zip(some, rows, strict=True):
                amount.add(piece.text, piece.ends)
                found.extend(row)
                if piece.ends and separator is not None:
                    found.append(separator)
        return np.frombuffer(found, dtype=np.int32) if found else np.zeros(0, np.int32), amount


def _expanded(files: Sequence[StrPath]) -> list[Path]:
    """Paths with patterns replaced by the files that fit, each once."""
    found: list[Path] = []
    for given in files:
        path = Path(given).expanduser()
        if any(sign in str(path) for sign in "*?[") and not path.exists():
            start = Path(path.anchor)
            fitting = sorted(file for file in start.glob(str(path.relative_to(start))) if file.is_file())
            if not fitting:
                raise FileError(f"data: {given}: no file fits this pattern")
            found += fitting
        elif path.is_dir():
            raise FileError(f"data: {given}: got a folder, wanted files, such as {path / '*.txt'}")
        else:
            found.append(path)
    for path in found:
        kind_of(path)  # an ending that is not known, before anything is read
    return list(dict.fromkeys(found))


def _names(files: Sequence[Path]) -> str:
    names = [file.name for file in files]
    return ", ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])


def _joined(lines: Iterator[str] | list[str]) -> Iterator[str]:
    """Lines as pieces."""
    waiting: list[str] = []
    size = 0
    for line in lines:
        waiting.append(line)
        size += len(line)
        if size >= PIECE:
            text = "".join(waiting)
            while len(text) > 2 * PIECE:  # a line without an end
                at = _place_to_cut(text, PIECE)
                yield text[:at]
                text = text[at:]
            yield text
            waiting, size = [], 0
    if waiting:
        yield "".join(waiting)


def _place_to_cut(text: str, near: int) -> int:
    """A place for a cut at or before `near`: behind a line's end, else before a space, else there."""
    line = text.rfind("\n", max(0, near - PIECE), near)
    space = text.rfind(" ", max(0, near - 200), near)
    return line + 1 if line > 0 else space if space > 0 else near


class Blocks:
    """Tokens as rows of one length, for a trainer.

    Args:
        tokens: one after another.
        context: tokens of a row, those around it included.
        around: tokens before and after each row.
        overlap: tokens that a row has from the one before it.
        keep_rest: whether the last row may be shorter.
    """

    def __init__(
        self,
        tokens: np.ndarray[Any, Any],
        context: int,
        *,
        around: tuple[Sequence[int], Sequence[int]] = ((), ()),
        overlap: int = 0,
        keep_rest: bool = True,
    ) -> None:
        self.tokens, self.around = tokens, around
        self.inside = context - len(around[0]) - len(around[1])
        self.step = self.inside - overlap
        whole, rest = divmod(max(len(tokens) - overlap, 0), self.step)
        self.count = whole + (keep_rest and rest + overlap >= 2)

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, number: int) -> dict[str, list[int]]:
        if not 0 <= number < self.count:
            raise IndexError(number)
        start = number * self.step
        return {"input_ids": [*self.around[0], *self.tokens[start : start + self.inside].tolist(), *self.around[1]]}
