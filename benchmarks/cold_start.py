"""How long a fresh interpreter takes: to import, to the first token ids, to the first answer of a classifier.

Each figure is the time inside a new process from its first line to the result, with files in the page cache and byte
code written; the interpreter's own start, the same for both, is not counted. The classifier is MiniLM with a head of
random weights; both libraries have to give the same score.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from time import perf_counter

from common import OWN, PEER, Row, finish, interleave_processes, medians, minilm, parser, show, temporary_folder

TIMED = """
from time import perf_counter
start = perf_counter()
{body}
print(perf_counter() - start, {result})
"""
TEXT = "I've been waiting for this library my whole life."

STEPS: list[tuple[str, str, str, float]] = [
    ("`import`", "import {library}", "0", 15),
    ("`import AutoModel, AutoTokenizer`", "from {library} import AutoModel, AutoTokenizer", "0", 30),
    (
        "first token ids from a cold start",
        f"""
import sys
from {{library}} import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
ids = tokenizer({TEXT!r})["input_ids"]
""",
        "sum(ids)",
        25,
    ),
    (
        "first answer of `pipeline` from a cold start, MiniLM classifier",
        f"""
import sys
from {{library}} import pipeline
answer = pipeline("text-classification", sys.argv[1])({TEXT!r})
""",
        "answer[0]['score']",
        3,
    ),
    (
        "the same by `AutoTokenizer` and `AutoModelForSequenceClassification`",
        f"""
import sys
from {{library}} import AutoModelForSequenceClassification, AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
model = AutoModelForSequenceClassification.from_pretrained(sys.argv[1])
scores = model(**tokenizer({TEXT!r}, return_tensors="pt")).logits.softmax(-1)
""",
        "scores.max().item()",
        3,
    ),
]
"""Work, its code, the number to compare, and the goal."""


def make_classifier(folder: Path) -> None:
    """Write MiniLM with a random head of two labels, and its tokenizer, into `folder`."""
    import torch

    from pellucid import BertForSequenceClassification

    torch.manual_seed(0)
    BertForSequenceClassification.from_pretrained(minilm(), num_labels=2).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        shutil.copy(minilm() / name, folder)


def measure(work: str, body: str, result: str, goal: float, repeats: int, folder: Path) -> Row:
    """One line: the code in fresh processes of both libraries in turn, and of nothing at all."""
    codes = {name: TIMED.format(body=body.format(library=name), result=result) for name in (PEER, OWN)}
    start = perf_counter()
    runs = interleave_processes(codes, repeats, folder)
    (peer, peer_result), (own, own_result) = medians(runs[PEER]), medians(runs[OWN])
    if abs(peer_result - own_result) > 1e-4:
        sys.exit(f"{work}: {PEER} gives {peer_result}, {OWN} {own_result}: not the same work")
    times = {name: " ".join(f"{seconds:.3f}" for seconds, _ in runs[name]) for name in runs}
    show(f"{work}: {PEER} {times[PEER]}; {OWN} {times[OWN]} ({perf_counter() - start:.0f} s in all)")
    return Row(work, peer, own, goal)


def main() -> None:
    """Measure all steps."""
    given = parser(__doc__).parse_args()
    with temporary_folder(needed=100_000_000) as folder:
        make_classifier(folder)
        finish([measure(*step, repeats=1 if given.quick else 9, folder=folder) for step in STEPS], given)


if __name__ == "__main__":
    main()
