"""Write what independent libraries say about hostile inputs, for `test_metrics.py`, which runs without them.

    python -m venv reference
    reference/bin/pip install scikit-learn scipy seqeval rouge_score sacrebleu jiwer torch "transformers==4.57.*"
    reference/bin/python tests/make_metrics_golden.py

Each batch has predictions, references, and what was asked of them: a metric, its options, the figures that are right.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jiwer
import numpy as np
import sacrebleu
import scipy.stats
import seqeval.metrics
import seqeval.scheme
import sklearn.metrics
from nltk.stem import PorterStemmer
from rouge_score import rouge_scorer
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support as lenient_scores
from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
from transformers.data.metrics.squad_metrics import normalize_answer, squad_evaluate

GOLDEN = Path(__file__).parent / "golden" / "metrics.json"
CHANCE = random.Random(0)
Case = tuple[str, dict[str, Any], list[Any], list[Any], dict[str, float]]

warnings.simplefilter("ignore")  # of divisions by nothing, which are what is asked here


def labels(rows: int, count: int) -> list[int]:
    return [CHANCE.randrange(count) for _ in range(rows)]


def classification() -> Iterator[Case]:
    pairs = {
        "two": (labels(40, 2), labels(40, 2)),
        "five": (labels(60, 5), labels(60, 5)),
        "other labels": (labels(30, 3), [label + 1 for label in labels(30, 3)]),
        "one class": ([0] * 5, [0] * 5),
        "all positive": ([1] * 5, [1] * 5),
        "never predicted": ([0] * 6, [0, 1, 0, 1, 0, 0]),
        "never right": ([1, 1, 0], [0, 0, 0]),
        "all wrong": ([1, 0, 1, 0], [0, 1, 0, 1]),
        "one row": ([1], [1]),
        "big ids": ([10, 9, 2, 10, 100], [9, 10, 2, 10, 2]),
    }
    for found, right in pairs.values():
        yield "accuracy", {}, found, right, {"accuracy": sklearn.metrics.accuracy_score(right, found)}
        mcc = sklearn.metrics.matthews_corrcoef(right, found)
        yield "matthews_correlation", {}, found, right, {"matthews_correlation": mcc}
        for zero_division in (0, 1):
            averages: list[str | None] = ["micro", "macro", "weighted", None]
            for average in averages + (["binary"] if set(found + right) <= {0, 1} else []):
                values = sklearn.metrics.precision_recall_fscore_support(
                    right, found, average=average, zero_division=zero_division
                )
                figures = dict(zip(("precision", "recall", "f1"), values, strict=False))
                if average is None:
                    names = sorted(set(found + right))
                    figures = {
                        f"{figure}_{name}": values[row][column]
                        for row, figure in enumerate(("precision", "recall", "f1", "support"))
                        for column, name in enumerate(names)
                    }
                yield "f1", {"average": average, "zero_division": zero_division}, found, right, figures
            values = sklearn.metrics.precision_recall_fscore_support(
                right, found, average="macro", labels=[0, 1, 7], zero_division=zero_division
            )
            options = {"average": "macro", "labels": [0, 1, 7], "zero_division": zero_division}
            yield "f1", options, found, right, dict(zip(("precision", "recall", "f1"), values, strict=False))
    logits = np.round(np.random.default_rng(0).normal(size=(20, 4)), 3)
    right_rows = np.random.default_rng(1).integers(0, 2, size=(20, 4))
    for average in ("micro", "macro", "weighted"):
        values = sklearn.metrics.precision_recall_fscore_support(right_rows, logits > 0, average=average)
        figures = dict(zip(("precision", "recall", "f1"), values, strict=False))
        yield "f1", {"average": average, "multilabel": True}, logits.tolist(), right_rows.tolist(), figures


def numbers() -> Iterator[Case]:
    rng = np.random.default_rng(2)
    x = rng.normal(size=50)
    pairs = [
        (x, x + rng.normal(size=50)),
        (np.round(x), np.round(x + rng.normal(size=50))),  # ties
        (1e8 + x, 1e8 + x + rng.normal(size=50)),  # digits that squares would lose
        (x * 1e-9, -x * 1e9),
        (np.array([1.0, 2.0]), np.array([2.0, 1.0])),
    ]
    for found, right in pairs:
        lists = found.tolist(), right.tolist()
        yield "pearson", {}, *lists, {"pearson": scipy.stats.pearsonr(found, right)[0]}
        yield "spearmanr", {}, *lists, {"spearmanr": scipy.stats.spearmanr(found, right)[0]}
        mse = sklearn.metrics.mean_squared_error(right, found)
        mae = sklearn.metrics.mean_absolute_error(right, found)
        yield "mse", {}, *lists, {"mse": mse, "rmse": mse**0.5, "mae": mae}


def retrieval() -> Iterator[Case]:
    rng = np.random.default_rng(3)
    tables = [
        (rng.normal(size=(6, 12)), rng.integers(0, 4, size=(6, 12))),
        (rng.integers(0, 4, size=(8, 9)).astype(float), rng.integers(0, 2, size=(8, 9))),  # ties
        (np.ones((3, 7)), rng.integers(0, 3, size=(3, 7))),
        (rng.normal(size=(4, 5)), np.zeros((4, 5), dtype=int)),
    ]
    for scores, right in tables:
        figures = {f"ndcg@{k}": sklearn.metrics.ndcg_score(right, scores, k=k) for k in (1, 3, 5, 100)}
        yield "retrieval", {"k": [1, 3, 5, 100]}, scores.tolist(), right.tolist(), figures


TAGS = {
    "IOB1": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "I-X-Y"],
    "IOB2": ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-X-Y", "I"],
    "IOE2": ["O", "E-PER", "I-PER", "E-LOC", "I-LOC"],
    "IOBES": ["O", "B-PER", "I-PER", "E-PER", "S-PER", "B-LOC", "I-LOC", "E-LOC", "S-LOC"],
    "BILOU": ["O", "B-PER", "I-PER", "L-PER", "U-PER", "B-LOC", "I-LOC", "L-LOC", "U-LOC"],
}


def tagging() -> Iterator[Case]:
    for scheme, tags in TAGS.items():
        right = [[CHANCE.choice(tags) for _ in range(CHANCE.randrange(1, 15))] for _ in range(25)]
        found = [[tag if CHANCE.random() < 0.7 else CHANCE.choice(tags) for tag in row] for row in right]
        empty = [["O"] * len(row) for row in right]
        for predicted, actual in ((found, right), (empty, right), (found, empty)):
            accuracy = seqeval.metrics.accuracy_score(actual, predicted)
            for average in ("micro", "macro", "weighted"):
                for zero_division in (0, 1):
                    options = {"average": average, "zero_division": zero_division}
                    strict = strict_scores(actual, predicted, scheme=getattr(seqeval.scheme, scheme), **options)
                    figures = dict(zip(("precision", "recall", "f1"), strict, strict=False)) | {"accuracy": accuracy}
                    yield "seqeval", {**options, "mode": "strict", "scheme": scheme}, predicted, actual, figures
                    if scheme != "BILOU":
                        lenient = lenient_scores(actual, predicted, **options)
                        figures = dict(zip(("precision", "recall", "f1"), lenient, strict=False))
                        yield "seqeval", options, predicted, actual, figures | {"accuracy": accuracy}


SOME = (
    'the a an The cat sat on mat, mat. 3.14 1,000 don\'t well-known (yes) "no" &amp; &lt;b&gt; Ünïcödé 東京 🎉 naïve '
    "running ran happily nationally -x $5 50% e.g. U.S. <skipped> x-\ny end."
)
WORDS = SOME.split(" ")
HOSTILE = [
    "",
    " ",
    "\n",
    ".",
    "...",
    "the",
    "!?",
    "東京",
    "a\nb\n\nc",
    "  two  blanks ",
    "İstanbul ΣΑΣ ﬁ",
    "-",
    "5-5",
    "a-",
]


def sentence(longest: int = 12) -> str:
    return CHANCE.choice([" ", " ", "\n"]).join(CHANCE.choice(WORDS) for _ in range(CHANCE.randrange(1, longest)))


def nearby(text: str) -> str:
    words = [word for word in text.split(" ") if CHANCE.random() < 0.8]
    return " ".join(words + [CHANCE.choice(WORDS)] * CHANCE.randrange(2))


def corpora() -> Iterator[tuple[list[str], list[list[str]]]]:
    right = [sentence() for _ in range(15)]
    yield [nearby(text) for text in right], [[text] for text in right]
    several = [[sentence(), sentence(8), sentence(5)] for _ in range(15)]
    yield [nearby(CHANCE.choice(row)) for row in several], several
    yield HOSTILE, [[text] for text in reversed(HOSTILE)]
    yield HOSTILE, [[text, CHANCE.choice(HOSTILE)] for text in HOSTILE]
    yield ["one two"], [["one two"]]
    yield ["nothing here"], [["shared by either"]]
    yield [""], [[""]]


def translations() -> Iterator[Case]:
    every_option: list[dict[str, Any]] = [
        {},
        {"effective_order": True},
        {"smooth_method": "none"},
        {"smooth_method": "floor", "effective_order": True},
        {"smooth_method": "add-k", "smooth_value": 2},
        {"lowercase": True, "max_ngram_order": 2},
        {"tokenize": "char"},
        {"tokenize": "none"},
    ]
    for found, right in corpora():
        columns = [list(column) for column in zip(*right, strict=True)]
        for options in every_option:
            score = sacrebleu.BLEU(**options).corpus_score(found, columns)
            figures = {f"precision_{order}": value for order, value in enumerate(score.precisions, start=1)}
            figures |= {"bleu": score.score, "brevity_penalty": score.bp}
            yield "bleu", options, found, right, figures | {"sys_len": score.sys_len, "ref_len": score.ref_len}
        for options in ({}, {"word_order": 2}, {"beta": 1, "whitespace": True, "lowercase": True, "char_order": 3}):
            score = sacrebleu.CHRF(**options).corpus_score(found, columns)
            yield "chrf", options, found, right, {"chrf": score.score}


def summaries() -> Iterator[Case]:
    kinds = ["rouge1", "rouge2", "rouge3", "rougeL", "rougeLsum"]
    for found, right in corpora():
        for use_stemmer in (False, True):
            scorer = rouge_scorer.RougeScorer(kinds, use_stemmer=use_stemmer)
            scores = [scorer.score_multi(row, text) for text, row in zip(found, right, strict=True)]
            figures = {kind: float(np.mean([score[kind].fmeasure for score in scores])) for kind in kinds}
            yield "rouge", {"use_stemmer": use_stemmer, "rouge_types": kinds}, found, right, figures


def error_rates() -> Iterator[Case]:
    for found, right in corpora():
        found = [" ".join(text.split()) for text in found]
        first = [" ".join(row[0].split()) for row in right]
        yield "wer", {}, found, first, {"wer": float(jiwer.wer(first, found))}
        yield "cer", {}, found, first, {"cer": float(jiwer.cer(first, found))}


def answers() -> Iterator[Case]:
    texts = [
        "the Cat",
        "a cat!",
        "Cat.",
        "the",
        "",
        "東京 the tower",
        "the the an",
        "an apple, a day",
        "3.14",
        "naïve café",
    ]
    rows = [(CHANCE.choice(texts), CHANCE.sample(texts, CHANCE.randrange(4))) for _ in range(60)]
    rows = [(found, [text for text in right if text]) for found, right in rows]
    for chosen in (rows, [row for row in rows if row[1]], [row for row in rows if not row[1]]):
        found, right = [row[0] for row in chosen], [row[1] for row in chosen]
        yield "squad_v2", {}, found, right, dict(squad_scores(found, right))
    worded = [row for row in rows if row[1] and all(map(normalize_answer, [row[0], *row[1]]))]
    found, right = [row[0] for row in worded], [row[1] for row in worded]
    scores = squad_scores(found, right)
    yield "squad", {}, found, right, {"exact_match": scores["exact"], "f1": scores["f1"]}


def squad_scores(found: list[str], right: list[list[str]]) -> dict[str, float]:
    """The figures of the SQuAD 2.0 script, which 1.1 shares where each text has words and each question an answer."""
    questions = [
        SimpleNamespace(qas_id=str(number), answers=[{"text": text} for text in texts])
        for number, texts in enumerate(right)
    ]
    scores = squad_evaluate(questions, {str(number): text for number, text in enumerate(found)})
    return {name: value for name, value in scores.items() if "best" not in name}


ENDINGS = (
    "s es ies ied ed eed ing ly ally ational tional enci anci izer bli alli entli eli ousli ization ation ator alism "
    "iveness fulness ousness aliti iviti biliti fulli logi icate ative alize iciti ical ful ness al ance ence er ic "
    "able ible ant ement ment ent ion sion tion ou ism ate iti ous ive ize e ll y sses ss edly ingly"
)
ROOTS = "hop hopp fall fizz motor ski d tr toy syzyg rat conflat troubl adopt act geo cat agre f sk spy 3d x8 vil yy"
ALONE = (
    "sky skies dying lying tying news innings outing cannings howe proceed exceed succeed die feed controlling enjoy"
)


def stems() -> dict[str, str]:
    words = [root + ending for root in ROOTS.split() for ending in ["", *ENDINGS.split()]] + ALONE.split()
    return {word: PorterStemmer().stem(word) for word in words}


def main() -> None:
    """Ask, and write."""
    makers = (classification, numbers, retrieval, tagging, translations, summaries, error_rates, answers)
    batches: dict[str, list[Any]] = {}
    for name, options, found, right, figures in (case for maker in makers for case in maker()):
        rows = json.dumps({"predictions": found, "references": right}, ensure_ascii=False)
        batches.setdefault(rows, []).append({"metric": name, "options": options, "figures": figures})
    lines = [
        f'{rows[:-1]}, "asked": {json.dumps(asked, allow_nan=False, default=float)}}}'
        for rows, asked in batches.items()
    ]
    text = '{"batches": [\n' + ",\n".join(lines) + '\n],\n"stems": ' + json.dumps(stems()) + "}\n"
    GOLDEN.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
