"""Real English of mixed length that every Python brings along: the reference pages behind `help("while")`.

The pages are taken apart as documents are when their vectors are wanted: every heading is a text; what stands below
it becomes sentences, or paragraphs, or passages of up to 150 words, one of the three by chance for each section.
Tables, grammar and code are left out.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pydoc_data.topics import topics
from statistics import mean, median

UNDERLINE = re.compile(r"([*=\-~^])\1+")
SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z\"])")
NOT_PROSE = re.compile(r"::=|>>>|^\s*[+|].*[+|]$|^ {3,}\S", re.MULTILINE)
PASSAGE_WORDS = 150


def read_texts(seed: int) -> list[str]:
    """All texts, each once; `seed` decides how finely a section is cut."""
    choose = random.Random(seed)
    cuts = (_sentences, _paragraphs, _passages)
    texts: list[str] = []
    for name in sorted(topics):
        for heading, paragraphs in _sections(topics[name]):
            texts += [heading] if heading else []
            texts += choose.choice(cuts)(paragraphs)
    return list(dict.fromkeys(texts))


def sample(count: int, seed: int = 0) -> list[str]:
    """`count` texts in random order; none is drawn again before all have been drawn."""
    choose = random.Random(seed)
    pool = read_texts(seed)
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += choose.sample(pool, min(len(pool), count - len(drawn)))
    return drawn


def sentences(count: int, seed: int = 0) -> list[str]:
    """`count` single sentences and headings in random order, drawn as in `sample`."""
    choose = random.Random(seed)
    pool = list(dict.fromkeys(text for name in sorted(topics) for text in _lines(topics[name])))
    drawn: list[str] = []
    while len(drawn) < count:
        drawn += choose.sample(pool, min(len(pool), count - len(drawn)))
    return drawn


def describe(lengths: list[int], batch: int = 32) -> str:
    """How long the texts are in tokens, and what padding them in batches of the given order adds."""
    ordered = sorted(lengths)
    deciles = " ".join(str(ordered[round(tenth * (len(ordered) - 1) / 10)]) for tenth in range(1, 10))
    batches = [lengths[start : start + batch] for start in range(0, len(lengths), batch)]
    padded = sum(len(one) * max(one) for one in batches)
    return (
        f"{len(lengths):,} texts, {sum(lengths):,} tokens; a text: mean {mean(lengths):.0f}, median "
        f"{median(lengths):.0f}, longest {ordered[-1]}, deciles {deciles}; in batches of {batch} padded to {padded:,}"
    )


def _sections(page: str) -> Iterator[tuple[str, list[str]]]:
    """Headings (`""` where there is none) and the paragraphs below each."""
    heading, paragraphs = "", list[str]()
    for block in re.split(r"\n\s*\n", page):
        lines = block.strip("\n").splitlines()
        if len(lines) == 2 and UNDERLINE.fullmatch(lines[1].strip()):
            yield heading, paragraphs
            heading, paragraphs = lines[0].strip(), []
            continue
        text = " ".join(block.split()).removeprefix("* ")
        if text.endswith((".", "!", "?", ":")) and not NOT_PROSE.search(block):
            paragraphs.append(text)
    yield heading, paragraphs


def _lines(page: str) -> Iterator[str]:
    for heading, paragraphs in _sections(page):
        yield from filter(None, [heading, *_sentences(paragraphs)])


def _sentences(paragraphs: list[str]) -> list[str]:
    return [sentence for paragraph in paragraphs for sentence in SENTENCE_END.split(paragraph)]


def _paragraphs(paragraphs: list[str]) -> list[str]:
    return paragraphs


def _passages(paragraphs: list[str]) -> list[str]:
    passages, words = list[str](), 0
    for sentence in _sentences(paragraphs):
        length = len(sentence.split())
        if passages and words + length <= PASSAGE_WORDS:
            passages[-1] += " " + sentence
            words += length
        else:
            passages.append(sentence)
            words = length
    return passages
