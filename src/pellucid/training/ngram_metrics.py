"""Metrics of translations: BLEU and chrF as sacrebleu has them, of a corpus, from 0 to 100.

Predictions are a list of texts. References are as many, each a text or a list of texts that are all right: a list for
each prediction, where sacrebleu itself wants a list for each set of references.
"""

from __future__ import annotations

import math
import re
import string
from collections import Counter
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from pellucid.errors import InputError, strict
from pellucid.training.metric_base import Counts, TextMetric, one_of, whole

ENTITIES = {"&quot;": '"', "&amp;": "&", "&lt;": "<", "&gt;": ">"}
SPACED = [
    (re.compile(r"([!-&(-+/:-@\[-`{-~ ])"), r" \1 "),  # all ASCII punctuation but ' , - .
    (re.compile(r"([^0-9])([.,])"), r"\1 \2 "),
    (re.compile(r"([.,])([^0-9])"), r" \1 \2"),
    (re.compile(r"([0-9])(-)"), r"\1 \2 "),
]
"""Where the script mteval-v13a puts blanks: around punctuation, but not in numbers and within words."""


def words_13a(text: str) -> list[str]:
    """Words as the script mteval-v13a of WMT separates them."""
    text = text.replace("<skipped>", "").replace("-\n", "").replace("\n", " ")
    for entity, character in ENTITIES.items():
        text = text.replace(entity, character)
    text = f" {text} "
    for pattern, spaced in SPACED:
        text = pattern.sub(spaced, text)
    return text.split()


TOKENIZERS: dict[str, Callable[[str], list[str]]] = {
    "13a": words_13a,
    "char": lambda text: list("".join(text.split())),
    "none": str.split,
}
SMOOTHING = {"exp": None, "floor": 0.1, "add-k": 1, "none": None}
"""Method → its usual value."""


def _grams(items: Sequence[Hashable], size: int) -> Counter[tuple[Hashable, ...]]:
    return Counter(tuple(items[start : start + size]) for start in range(len(items) - size + 1))


class Bleu(TextMetric):
    """`bleu` of a corpus, as `sacrebleu.corpus_bleu`, with what it is made of.

    That is `precision_1` to `precision_4`, the `brevity_penalty`, and the numbers of words predicted, `sys_len`, and
    in the references of the nearest length, `ref_len`. Without a shared word it is 0.

    Args:
        tokenize: `"13a"`, words as WMT separates them; `"char"`, characters; `"none"`, what blanks separate.
        lowercase: compare in small letters.
        smooth_method: what stands for a precision of 0: `"exp"`, halved from order to order; `"floor"`, a small
            count; `"none"`; or `"add-k"`, which adds to all counts of the orders from 2.
        smooth_value: of `"floor"` (0.1) and `"add-k"` (1).
        max_ngram_order: runs of up to so many words.
        effective_order: leave out orders that are longer than all predictions, as fits single sentences.
    """

    name = "bleu"

    @strict
    def __init__(
        self,
        tokenize: str = "13a",
        lowercase: bool = False,
        smooth_method: str = "exp",
        smooth_value: float | None = None,
        max_ngram_order: int = 4,
        effective_order: bool = False,
    ) -> None:
        self.tokenize = one_of(tokenize, TOKENIZERS, "bleu: tokenize")
        self.lowercase = lowercase
        self.smooth_method = one_of(smooth_method, SMOOTHING, "bleu: smooth_method")
        if smooth_value is not None and (SMOOTHING[smooth_method] is None or smooth_value < 0):
            raise InputError(
                f"bleu: smooth_value: got {smooth_value!r}, wanted 0 or more, with 'floor' or 'add-k' only"
            )
        self.smooth_value = SMOOTHING[smooth_method] if smooth_value is None else smooth_value
        self.max_ngram_order = whole(max_ngram_order, "bleu: max_ngram_order", 1)
        self.effective_order = effective_order
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "sys_len": 0, "ref_len": 0, "shared": {}, "predicted": {}}

    def _words(self, text: str) -> list[str]:
        return TOKENIZERS[self.tokenize]((text.lower() if self.lowercase else text).rstrip())

    def _row(self, prediction: str, references: list[str]) -> Counts:
        found, right = self._words(prediction), [self._words(each) for each in references]
        shared, predicted = {}, {}
        for size in range(1, self.max_ngram_order + 1):
            grams, allowed = _grams(found, size), Counter[tuple[Hashable, ...]]()
            for each in right:
                allowed |= _grams(each, size)
            shared[str(size)], predicted[str(size)] = (grams & allowed).total(), grams.total()
        nearest = min((abs(len(each) - len(found)), len(each)) for each in right)[1]
        return {"sys_len": len(found), "ref_len": nearest, "shared": shared, "predicted": predicted}

    def _precisions(self, counts: Counts) -> tuple[list[float], int]:
        """Percentages of each order, and how many orders there are."""
        precisions, halved, orders = [0.0] * self.max_ngram_order, 1.0, self.max_ngram_order
        for order in range(1, self.max_ngram_order + 1):
            shared, predicted = counts["shared"][str(order)], counts["predicted"][str(order)]
            if self.smooth_method == "add-k" and order > 1:
                shared, predicted = shared + self.smooth_value, predicted + self.smooth_value
            if not predicted:
                break
            orders = order if self.effective_order else orders
            if not shared and self.smooth_method == "exp":
                halved *= 2
                shared = 1 / halved
            elif not shared and self.smooth_method == "floor":
                shared = self.smooth_value
            precisions[order - 1] = 100 * shared / predicted
        return precisions, orders

    def _figures(self, counts: Counts) -> dict[str, float]:
        found, right = counts["sys_len"], counts["ref_len"]
        brevity = 1.0 if found >= right else math.exp(1 - right / found) if found else 0.0
        precisions, orders = [0.0] * self.max_ngram_order, self.max_ngram_order
        if any(counts["shared"].values()):
            precisions, orders = self._precisions(counts)
        score = 0.0
        if all(precisions[:orders]):
            score = brevity * math.exp(sum(map(math.log, precisions[:orders])) / orders)
        each = {f"precision_{order}": value for order, value in enumerate(precisions, start=1)}
        return {"bleu": score, **each, "brevity_penalty": brevity, "sys_len": found, "ref_len": right}


class Chrf(TextMetric):
    """`chrf`: F-score of runs of characters over a corpus, as `sacrebleu.corpus_chrf`; of words too for chrF++.

    Precisions and recalls are means over the lengths of runs that both sides have anywhere. Of several references the
    one with the best score counts. Without any shared run it is 0.

    Args:
        char_order: runs of up to so many characters.
        word_order: runs of up to so many words; 2 makes it chrF++.
        beta: how much more recall weighs than precision.
        lowercase: compare in small letters.
        whitespace: blanks are characters.
    """

    name = "chrf"

    @strict
    def __init__(
        self,
        char_order: int = 6,
        word_order: int = 0,
        beta: int = 2,
        lowercase: bool = False,
        whitespace: bool = False,
    ) -> None:
        self.char_order = whole(char_order, "chrf: char_order", 1)
        self.word_order = whole(word_order, "chrf: word_order", 0)
        self.beta = whole(beta, "chrf: beta", 1)
        self.lowercase = lowercase
        self.whitespace = whitespace
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "shared": {}, "predicted": {}, "actual": {}}

    def _runs(self, text: str) -> dict[str, Counter[tuple[Hashable, ...]]]:
        """Runs by kind and length: `c1`, `c2`, …, `w1`, …."""
        text = text.lower() if self.lowercase else text
        characters, words = text if self.whitespace else "".join(text.split()), _words_and_marks(text)
        return {f"c{size}": _grams(characters, size) for size in range(1, self.char_order + 1)} | {
            f"w{size}": _grams(words, size) for size in range(1, self.word_order + 1)
        }

    def _row(self, prediction: str, references: list[str]) -> Counts:
        found = self._runs(prediction)
        tried = [self._compared(found, self._runs(each)) for each in references]
        return max(tried, key=self._score)  # the first of several that are equal

    def _compared(self, found: dict[str, Counter[Any]], right: dict[str, Counter[Any]]) -> Counts:
        return {
            "shared": {run: (found[run] & right[run]).total() for run in found},
            "predicted": {run: found[run].total() if right[run] else 0 for run in found},
            "actual": {run: right[run].total() for run in found},
        }

    def _score(self, counts: Counts) -> float:
        shared, predicted, actual = counts["shared"], counts["predicted"], counts["actual"]
        runs = [run for run in shared if predicted[run] and actual[run]]
        precision = sum(shared[run] / predicted[run] for run in runs) / max(len(runs), 1)
        recall = sum(shared[run] / actual[run] for run in runs) / max(len(runs), 1)
        weight = self.beta**2
        return 100 * (1 + weight) * precision * recall / (weight * precision + recall) if precision + recall else 0.0

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {"chrf": self._score(counts)}


def _words_and_marks(text: str) -> list[str]:
    """Words, with a mark of punctuation at the end, or else at the start, as a word of its own."""
    words: list[str] = []
    for word in text.split():
        if len(word) > 1 and word[-1] in string.punctuation:
            words += [word[:-1], word[-1]]
        elif len(word) > 1 and word[0] in string.punctuation:
            words += [word[0], word[1:]]
        else:
            words.append(word)
    return words
