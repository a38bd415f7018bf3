"""The same text, the same answer: whatever it is read with, and in whatever order.

1,000 real texts of mixed length go through pipelines one by one; then as a list, as lists in random orders, in batches
of fixed sizes, and as a stream. Each answer is compared with the one that the text got alone: the labels and spans in
it, its numbers, and whether it is the same to the last bit. Sentiment and vectors have real weights; the heads for
names and for answers to questions are random, so that their labels are lively. Everything is computed in fp32.
The reference's pipelines do the same with a part of the texts; question answering is not among its tasks any more.

The exit status says whether all labels and spans were equal, and all numbers within 1e-6, in pellucid.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import torch

import corpus
from common import OWN, PEER, machine, minilm, quiet_peer, show, temporary_folder

CLOSE = 1e-6
QUESTION = "What is this about?"
NAMES = ["O", "B-ONE", "I-ONE", "B-TWO", "I-TWO"]
Ask = Callable[..., Any]
"""What a pipeline is asked, as a text, a list or a generator of texts, with the options of a call."""


@dataclass(frozen=True)
class Task:
    """One task in both libraries.

    Attributes:
        name: what the table calls it.
        own: pellucid's pipeline.
        peer: the reference's; `None` where it has none.
        row: a text → what the pipelines are given for it.
        tokenizer: says how many of the reference's vectors are not padding; `None` where answers need no trimming.
    """

    name: str
    own: Ask
    peer: Ask | None
    row: Callable[[str], Any] = str
    tokenizer: Any = None

    def trimmed(self, text: str, answer: Any) -> Any:
        """The reference's answer for a text without what belongs to padding."""
        return answer if self.tokenizer is None else answer[0, : len(self.tokenizer(text, truncation=True).input_ids)]


@dataclass
class Compared:
    """What came of comparing answers with those to single texts.

    Attributes:
        answers: how many were compared.
        equal: how many have the same labels, spans and words.
        bits: how many are equal in every bit.
        apart: the largest difference of a number among those that are equal otherwise.
    """

    answers: int = 0
    equal: int = 0
    bits: int = 0
    apart: float = 0.0

    def add(self, found: Any, wanted: Any) -> None:
        """Compare one more answer."""
        (words, numbers), (other_words, other_numbers) = taken_apart(found), taken_apart(wanted)
        self.answers += 1
        if words == other_words and numbers.shape == other_numbers.shape:
            self.equal += 1
            self.bits += torch.equal(numbers, other_numbers)
            self.apart = max(self.apart, float((numbers - other_numbers).abs().max()) if numbers.numel() else 0.0)

    def line(self, *before: str) -> str:
        """A row of the table."""
        counts = [f"{self.equal:,} of {self.answers:,}", f"{self.apart:.1g}", f"{self.bits:,}"]
        return "| " + " | ".join([*before, *counts]) + " |"


def taken_apart(answer: Any) -> tuple[list[Any], torch.Tensor]:
    """What must be equal in an answer (labels, words, places), and the numbers that must be near, in float64."""
    words: list[Any] = []
    numbers: list[float] = []
    if isinstance(answer, torch.Tensor):
        return [], answer.double()
    stack = [answer]
    while stack:
        value = stack.pop()
        if isinstance(value, dict):
            words.append(tuple(value))
            stack += value.values()
        elif isinstance(value, list):
            words.append(len(value))
            stack += value
        elif isinstance(value, int | str):
            words.append(value)
        else:
            numbers.append(float(value))
    return words, torch.tensor(numbers, dtype=torch.float64)


# ---------------------------------------------------------------------- pipelines


def tasks(folder: Path) -> Iterator[Task]:
    """The tasks, with the same weights in both libraries; `folder` takes the models that are made for it."""
    import transformers

    from pellucid import pipeline

    sentiment = pipeline("sentiment-analysis", truncation=True)
    sentiment.save_pretrained(folder / "sentiment")
    theirs = partial(
        transformers.pipeline("sentiment-analysis", str(folder / "sentiment"), device="cpu"), truncation=True
    )
    yield Task("sentiment", sentiment, theirs)

    options: dict[str, Any] = {"truncation": True, "return_tensors": True}
    vectors = pipeline("feature-extraction", minilm(), **options)
    theirs = partial(transformers.pipeline("feature-extraction", str(minilm()), device="cpu"), **options)
    yield Task("vectors of tokens", vectors, theirs, tokenizer=vectors.tokenizer)
    pooled = pipeline("feature-extraction", minilm(), pooling="mean", normalize=True, **options)
    yield Task("vectors of texts", pooled, None)

    _save_random("TokenClassification", folder / "names", id2label=dict(enumerate(NAMES)))
    entities: dict[str, Any] = {"aggregation_strategy": "simple"}
    theirs = transformers.pipeline("ner", str(folder / "names"), device="cpu", **entities)
    yield Task("names, random head", pipeline("ner", folder / "names", **entities), theirs)

    _save_random("QuestionAnswering", folder / "answers")
    yield Task("answers, random head", pipeline("question-answering", folder / "answers"), None, row=_asked)


def _asked(text: str) -> dict[str, str]:
    return {"question": QUESTION, "context": text}


def _save_random(head: str, folder: Path, **settings: Any) -> None:
    """Write MiniLM with a random head, whose weights are large enough for lively answers."""
    import pellucid

    torch.manual_seed(0)
    model = getattr(pellucid, f"AutoModelFor{head}").from_pretrained(minilm(), **settings)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith(("classifier.", "qa_outputs.")):
                parameter.normal_(0.0, 0.3)
    model.save_pretrained(folder)
    pellucid.AutoTokenizer.from_pretrained(minilm()).save_pretrained(folder)


# ---------------------------------------------------------------------- ways to ask


def shuffled(ask: Ask, rows: Sequence[Any], seed: int, **options: Any) -> list[Any]:
    """The answers to a list in random order, brought back into the order of the texts."""
    order = random.Random(seed).sample(range(len(rows)), len(rows))
    answers = ask([rows[number] for number in order], **options)
    back: list[Any] = [None] * len(rows)
    for number, answer in zip(order, answers, strict=True):
        back[number] = answer
    return back


def own_ways(ask: Ask, rows: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Ways to ask pellucid, and what it answers."""
    yield "a list, in order", list(ask(list(rows)))
    for seed in (1, 2, 3):
        yield f"a list, random order {seed}", shuffled(ask, rows, seed)
    yield "batch_size=5, random order 4", shuffled(ask, rows, 4, batch_size=5)
    yield "batch_size=64, random order 5", shuffled(ask, rows, 5, batch_size=64)
    yield "a stream", list(ask(iter(rows)))


def peer_ways(ask: Ask, rows: Sequence[Any]) -> Iterator[tuple[str, list[Any]]]:
    """Ways to ask the reference."""
    yield "a list, in order", ask(list(rows))
    for seed, size in ((1, 8), (2, 32)):
        yield f"batch_size={size}, random order {seed}", shuffled(ask, rows, seed, batch_size=size)


def compare(task: Task, texts: Sequence[str], part: int) -> Iterator[tuple[str, str, Compared]]:
    """Library, way to ask, and what came of it."""
    rows = [task.row(text) for text in texts]
    wanted = [next(task.own(iter([row]))) for row in rows]  # some tasks answer a list of one without a list
    for way, answers in own_ways(task.own, rows):
        yield OWN, way, _compared(answers, wanted)
    if task.peer is not None:
        few = texts[:part]
        wanted = [task.trimmed(text, task.peer([row])[0]) for text, row in zip(few, rows, strict=False)]
        for way, answers in peer_ways(task.peer, rows[:part]):
            yield PEER, way, _compared(map(task.trimmed, few, answers), wanted)


def _compared(found: Iterable[Any], wanted: Iterable[Any]) -> Compared:
    compared = Compared()
    for one, other in zip(found, wanted, strict=True):
        compared.add(one, other)
    return compared


def main() -> None:
    """Print the table; the exit status says whether pellucid's answers were the same."""
    options = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    options.add_argument("--quick", action="store_true", help="40 texts: to try the script out")
    options.add_argument("--count", type=int, help="texts (default 1000, with --quick 40)")
    options.add_argument("--part", type=int, help="of them for the reference (default 200, with --quick 10)")
    given = options.parse_args()
    count, part = given.count or (40 if given.quick else 1000), given.part or (10 if given.quick else 200)
    texts = corpus.sample(count)
    heads = ["task", "library", "way to ask", "labels and spans as alone", "largest difference", "equal to the bit"]
    lines = ["| " + " | ".join(heads) + " |", "| --- | --- | --- |" + " ---: |" * 3]
    missed = []
    quiet_peer()
    with temporary_folder(needed=2**28) as folder:
        for task in tasks(folder):
            start = perf_counter()
            for library, way, compared in compare(task, texts, part):
                lines.append(compared.line(task.name, library, way))
                same = compared.equal == compared.answers and compared.apart <= CLOSE
                missed += [f"{task.name} ({way})"] if library == OWN and not same else []
            show(f"{task.name}: {perf_counter() - start:.0f} s")
    show(machine())
    print("\n".join(lines))
    if missed:
        sys.exit(f"other answers than alone: {', '.join(missed)}")


if __name__ == "__main__":
    main()
