"""Write `docs/architectures.md`: what there is, read off the files in `models/`.

    python scripts/architectures_page.py

Nothing is listed here. An architecture's name, paper and checkpoints are in the first lines of its file, its heads in
`HEADS`; a test fails when the page is not what this makes.
"""

from __future__ import annotations

import ast
import importlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
FOLDER = "src/pellucid/models"
TITLE = re.compile(r'"([^"]+?)[,.]?",?\s+(arXiv:\d{4}\.\d{4,5}|[a-z.]+\.[a-z]+/[^\s,;]*[^\s,;.])')
FORM = (
    "the first line is 'Name: what it is.'; then come the paper as 'Authors year, \"Title\", arXiv:number' (or an "
    "address), a line 'Checkpoints: owner/name, …', and the legend of 'Axes' (or whose axes they are)"
)

OPENING = """\
# Architectures

One file each, to be read from top to bottom. This page is made from those files by `scripts/architectures_page.py`.

| architecture | what it is | paper | checkpoints, for example |
|---|---|---|---|
"""
MATRIX = """
## Heads

Each column is an auto class, `AutoModel` with the name in front of it: `AutoModelForMaskedLM` and so on. A dot means
that the architecture has this head, so that any of its checkpoints loads with it.

"""


@dataclass(frozen=True)
class Opening:
    """What the first lines of a model's file say."""

    name: str
    about: str
    papers: list[tuple[str, str]]
    """Title, and arXiv number or address, of each."""
    checkpoints: list[str]


def opening_of(path: Path) -> Opening:
    """Read the docstring of one file in `models/`; `ValueError` says what is not in the form that all have."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    first, *paragraphs = text.split("\n\n")
    name, colon, about = first.partition(": ")
    source, _, named = (paragraphs[0] if paragraphs else "").partition("\nCheckpoints: ")
    papers = [(title, where) for title, where in TITLE.findall(" ".join(source.split()))]
    checkpoints = " ".join(named.split()).rstrip(".").split(", ")
    complete = colon and about.endswith(".") and "\n" not in first and papers and checkpoints[0]
    if not complete or not any(paragraph.startswith("Axes") for paragraph in paragraphs):
        raise ValueError(f"{path.name}: {FORM}")
    return Opening(name, about.rstrip("."), papers, checkpoints)


def link(paper: tuple[str, str]) -> str:
    """A paper as a link."""
    title, where = paper
    address = f"arxiv.org/abs/{where.removeprefix('arXiv:')}" if where.startswith("arXiv:") else where
    return f"[{title}](https://{address})"


def page() -> str:
    """The whole page."""
    from pellucid import auto

    heads = [auto.AutoModel, *auto.AutoModel.__subclasses__()]
    rows, matrix = [], []
    for path in sorted((ROOT / FOLDER).glob("[!_]*.py"), key=lambda path: opening_of(path).name.lower()):
        opening = opening_of(path)
        module = importlib.import_module(f"pellucid.models.{path.stem}")
        name = f"[{opening.name}](../{FOLDER}/{path.name})"
        examples = ", ".join(f"`{checkpoint}`" for checkpoint in opening.checkpoints)
        rows.append(f"| {name} | {opening.about} | {'; '.join(map(link, opening.papers))} | {examples} |\n")
        found = ["●" if head._head_in(module.HEADS) else "" for head in heads]
        matrix.append(f"| `{module.CONFIG.model_type}` | {' | '.join(found)} |\n")
    columns = " | ".join(head.head for head in heads)
    table = f"| `model_type` | {columns} |\n|---|{':-:|' * len(heads)}\n"
    return "".join([OPENING, *rows, MATRIX, table, *matrix])


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT / "src"))
    PAGE.write_text(page(), encoding="utf-8")
