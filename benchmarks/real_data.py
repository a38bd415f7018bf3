"""The public data sets of `real_tasks.py`, each in the form in which it is published, read into rows."""

from __future__ import annotations

import gzip
import json
import sys
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple


class Question(NamedTuple):
    """A question of SQuAD: what is asked about which text, and every answer with its first character's place."""

    question: str
    context: str
    answers: list[tuple[int, str]]


def find(folder: Path, *names: str) -> list[Path]:
    """The files of a folder that have these names, gzipped or not; `*` stands for any characters."""
    found = []
    for name in names:
        files = sorted(folder.glob(name)) or sorted(folder.glob(f"{name}.gz"))
        if not files:
            sys.exit(f"{folder}: got no {name} and no {name}.gz; see --help for what is expected and where it is from")
        found += files
    return found


def read(path: Path) -> str:
    """The text of a file, which may be gzipped."""
    content = path.read_bytes()
    return (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8")


def lines(path: Path) -> list[str]:
    """The lines of a file; only a line feed ends one."""
    return read(path).rstrip("\n").split("\n")


def columns(path: Path) -> list[list[str]]:
    """The lines of a file with a header, each as what stands between its tabs."""
    return [line.split("\t") for line in lines(path)[1:]]


def tagged_sentences(path: Path) -> list[tuple[list[str], list[str]]]:
    """Words and their tags of each sentence: `word<TAB>tag` a line, an empty line behind each sentence."""
    stripped = [line.strip() for line in lines(path)]
    sentences = [list(group) for filled, group in groupby(stripped, key=bool) if filled]
    pairs = [[line.split("\t")[:2] for line in sentence] for sentence in sentences]
    return [([word for word, _ in sentence], [tag for _, tag in sentence]) for sentence in pairs]


def articles(path: Path) -> list[list[Question]]:
    """The questions of each article of a SQuAD file."""
    return [
        [
            Question(
                asked["question"], paragraph["context"], [(a["answer_start"], a["text"]) for a in asked["answers"]]
            )
            for paragraph in article["paragraphs"]
            for asked in paragraph["qas"]
        ]
        for article in json.loads(read(path))["data"]
    ]


def phrases(path: Path) -> list[tuple[str, int]]:
    """Texts with their labels, of a GLUE file: a header, then `sentence<TAB>label` a line."""
    return [(text.strip(), int(label)) for text, label in columns(path)]


def stories(path: Path) -> list[str]:
    """The texts of a file of JSON lines, each an object with `text`."""
    return [json.loads(line)["text"] for line in lines(path)]


def pieces(text: str, size: int) -> list[str]:
    """A text cut behind empty lines, into pieces of at least so many characters."""
    found = [""]
    for part in text.replace("\r\n", "\n").split("\n\n"):
        if len(found[-1]) >= size:
            found.append("")
        found[-1] += f"{part}\n\n"
    return [piece.strip("\n") for piece in found if piece.strip()]


def translations(path: Path, excluded: int) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Pairs to learn from, and texts with all their translations that share no sentence with those.

    Args:
        path: `sentence<TAB>translation` a line; a sentence may have several translations, on lines of their own.
        excluded: how many sentences to hold out, spread evenly over the file.
    """
    pairs = [(one, other) for one, other in (line.split("\t") for line in lines(path))]
    sources = list(dict.fromkeys(source for source, _ in pairs))
    chosen = set(spread(sources, excluded))
    held: dict[str, list[str]] = {source: [] for source in sources if source in chosen}
    for source, target in pairs:
        if source in held:
            held[source].append(target)
    targets = {target for found in held.values() for target in found}
    return [(source, target) for source, target in pairs if source not in held and target not in targets], held


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """So many items, evenly spread over all."""
    return [items[number * len(items) // count] for number in range(min(count, len(items)))]
