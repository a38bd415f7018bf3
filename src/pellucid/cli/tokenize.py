"""`pellucid tokenize TEXT …`: the pieces of each text, their ids, and where in the text they stand."""

from __future__ import annotations

import argparse
from typing import Any

from pellucid.cli import terminal
from pellucid.cli.arguments import EMBEDDED, Parser, add_model
from pellucid.cli.texts import given

DETAILS = """\
Without TEXT, standard input is read, one text a line.

  pellucid tokenize "Transformers are see-through."
  pellucid tokenize --model bert-base-uncased --json < lines.txt"""


def parser() -> Parser:
    """The arguments."""
    made = Parser(
        "tokenize",
        "Show the pieces that a model's tokenizer cuts each text into: id, piece, place in the text.",
        "[TEXT ...] [options]",
        details=DETAILS,
        rest="texts",
    )
    add_model(made)
    made.add_argument("--json", action="store_true", help="print a JSON object for each text")
    return made


def run(args: argparse.Namespace) -> int:
    """Print a table, or a JSON object, for each text."""
    rows = given(args.texts, None, 'pellucid tokenize "Transformers are see-through."')
    from pellucid.tokenizer import AutoTokenizer

    terminal.quiet_downloads()
    tokenizer = AutoTokenizer.from_pretrained(args.model or EMBEDDED, revision=args.revision or "main")
    for number, text in enumerate(rows):
        encoded = tokenizer(text, return_offsets_mapping=True, verbose=False)
        ids = encoded["input_ids"]
        tokens = tokenizer.convert_ids_to_tokens(ids)
        spans = [(int(start), int(stop)) for start, stop in encoded["offset_mapping"]]
        if args.json:
            terminal.out_json({"text": text, "tokens": tokens, "input_ids": ids, "offsets": spans})
            continue
        if number:
            terminal.out()
        _show(text, tokens, ids, spans)
    return 0


def _show(text: str, tokens: list[str], ids: list[int], spans: list[tuple[int, int]]) -> None:
    terminal.out(terminal.bold(terminal.fit(terminal.clean(text))))
    rows: list[Any] = [("id", "piece", "place", "text")]
    for token, token_id, (start, stop) in zip(tokens, ids, spans, strict=True):
        place = f"{start}–{stop}" if stop > start else ""  # what the tokenizer added stands nowhere
        rows.append((str(token_id), terminal.clean(token), place, terminal.clean(text[start:stop])))
    heading, *lines = terminal.table(rows, right={0, 2})
    terminal.out(f"  {terminal.dim(heading)}")
    for line in lines:
        terminal.out(f"  {line}")
    terminal.out(f"  {terminal.dim(f'{len(tokens)} tokens, {len(text)} characters')}")
