"""Metrics of texts: exact match, answers to questions as SQuAD scores them, errors of words and characters, ROUGE.

Predictions are a list of texts. References are as many, each a text or a list of texts that are all right.
"""

from __future__ import annotations

import re
import string
from abc import abstractmethod
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from itertools import chain
from typing import Any

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.training.metric_base import Counts, TextMetric, text_of
from pellucid.training.stemming import stem

PUNCTUATION = str.maketrans("", "", string.punctuation)
ARTICLES = re.compile(r"\b(a|an|the)\b")
NOT_ROUGE = re.compile(r"[^a-z0-9]+")


class ExactMatch(TextMetric):
    """`exact_match`: the share, from 0 to 1, of predictions equal to one of their references.

    Args:
        ignore_case: compare in small letters.
        ignore_punctuation: compare without the punctuation of ASCII.
        ignore_spaces: white space counts as one blank, none at the ends.
    """

    name = "exact_match"

    @strict
    def __init__(
        self, ignore_case: bool = False, ignore_punctuation: bool = False, ignore_spaces: bool = False
    ) -> None:
        self.ignore_case = ignore_case
        self.ignore_punctuation = ignore_punctuation
        self.ignore_spaces = ignore_spaces
        super().__init__()

    def _plain(self, text: str) -> str:
        text = text.lower() if self.ignore_case else text
        text = text.translate(PUNCTUATION) if self.ignore_punctuation else text
        return " ".join(text.split()) if self.ignore_spaces else text

    def _nothing(self) -> Counts:
        return {"rows": 0, "right": 0}

    def _row(self, prediction: str, references: list[str]) -> Counts:
        return {"right": int(self._plain(prediction) in map(self._plain, references))}

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {"exact_match": counts["right"] / counts["rows"]}


# ---------------------------------------------------------------------- SQuAD


def plain_answer(text: str) -> str:
    """An answer as the SQuAD scripts compare it: small letters, no punctuation, no articles, single blanks."""
    return " ".join(ARTICLES.sub(" ", text.lower().translate(PUNCTUATION)).split())


def _overlap(found: Sequence[str], right: Sequence[str]) -> float:
    """F1 of the words that two answers share."""
    shared = sum((Counter(found) & Counter(right)).values())
    return 2 * shared / (len(found) + len(right)) if shared else 0.0


class _Squad(TextMetric):
    """What both forms of SQuAD read: texts, or the rows of the data set and of `evaluate`.

    Those are predictions with `prediction_text`, and references with `answers` (a dict with `text`, or dicts with
    `text` each); an `id` must be the same on both sides.
    """

    def _read(self, number: int, prediction: Any, reference: Any) -> tuple[str, list[str]]:
        if isinstance(prediction, Mapping) and isinstance(reference, Mapping):
            if prediction.get("id") != reference.get("id"):
                raise InputError(
                    f"{self.name}: prediction {number}: got id {prediction.get('id')!r}, wanted that of its reference, "
                    f"{reference.get('id')!r}"
                )
            reference = reference.get("answers")
        if isinstance(prediction, Mapping):
            prediction = prediction.get("prediction_text")
        if isinstance(reference, Mapping):
            reference = reference.get("text")
        answers = [reference] if isinstance(reference, str) else reference
        if isinstance(answers, list | tuple):
            answers = [each.get("text") if isinstance(each, Mapping) else each for each in answers]
        if not isinstance(answers, list) or not all(isinstance(each, str) for each in answers):
            raise InputError(f"{self.name}: reference {number}: got {reference!r:.60}, wanted the texts of its answers")
        return text_of(self.name, number, prediction), answers


class Squad(_Squad):
    """`exact_match` and `f1` from 0 to 100, as the script of SQuAD 1.1 has them: the best over the references.

    Answers are compared by `plain_answer`; F1 is of their words. Where either side has no words left, F1 is 0.
    """

    name = "squad"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "exact": 0, "f1": 0.0}

    def _row(self, prediction: str, references: list[str]) -> Counts:
        if not references:
            raise InputError(
                "squad: got a question without an answer, wanted at least one; metric 'squad_v2' has those"
            )
        found, right = plain_answer(prediction), [plain_answer(each) for each in references]
        return {"exact": int(found in right), "f1": max(_overlap(found.split(), each.split()) for each in right)}

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {"exact_match": 100 * counts["exact"] / counts["rows"], "f1": 100 * counts["f1"] / counts["rows"]}


class SquadV2(_Squad):
    """`exact` and `f1` from 0 to 100, as the script of SQuAD 2.0 has them, with questions that have no answer.

    Such a question has an empty list of references, or empty texts; the right prediction is an empty text. The same
    figures follow for questions with answers (`HasAns_exact`, `HasAns_f1`, `HasAns_total`) and without (`NoAns_…`),
    where there are any, and `total`. A reference without words is left out if there are others.
    """

    name = "squad_v2"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "HasAns": {}, "NoAns": {}}

    def _row(self, prediction: str, references: list[str]) -> Counts:
        found = plain_answer(prediction)
        right = [plain for each in references if (plain := plain_answer(each))] or [""]
        exact = int(found in right)
        f1 = max(_overlap(found.split(), each.split()) if found and each else float(found == each) for each in right)
        return {"HasAns" if any(references) else "NoAns": {"exact": exact, "f1": f1, "total": 1}}

    def _figures(self, counts: Counts) -> dict[str, float]:
        kinds = [(f"{kind}_", counts[kind]) for kind in ("HasAns", "NoAns") if counts[kind]]
        both = {key: sum(kind[key] for _, kind in kinds) for key in ("exact", "f1", "total")}
        figures: dict[str, float] = {}
        for prefix, kind in [("", both), *kinds]:
            for key in ("exact", "f1"):
                figures[f"{prefix}{key}"] = 100 * kind[key] / kind["total"]
            figures[f"{prefix}total"] = kind["total"]
        return figures


# ---------------------------------------------------------------------- errors of words and characters


def edit_distance(found: Sequence[Hashable], right: Sequence[Hashable]) -> int:
    """The fewest insertions, deletions and substitutions that make one of the other (Levenshtein).

    Works on a whole column of the table at once, a bit a row (Myers 1999, in the form of Hyyrö 2003).
    """
    if not right:
        return len(found)
    places: dict[Hashable, int] = {}
    for place, item in enumerate(right):
        places[item] = places.get(item, 0) | 1 << place
    full, last = (1 << len(right)) - 1, 1 << (len(right) - 1)
    more, less, distance = full, 0, len(right)  # rows where the table grows, or falls, by 1
    for item in found:
        same = places.get(item, 0)
        diagonal = (((same & more) + more) ^ more) | same | less
        grows, falls = less | ~(diagonal | more) & full, more & diagonal
        distance += bool(grows & last) - bool(falls & last)
        grows = grows << 1 | 1
        more = (falls << 1 | ~(diagonal | grows)) & full
        less = grows & diagonal & full
    return distance


class _ErrorRate(TextMetric):
    """Edits over the length of the references; of several references the one with the lowest rate counts."""

    def _nothing(self) -> Counts:
        return {"rows": 0, "edits": 0, "length": 0}

    @abstractmethod
    def _units(self, text: str) -> Sequence[str]: ...

    def _row(self, prediction: str, references: list[str]) -> Counts:
        found = self._units(prediction)
        tried = [(edit_distance(found, right), len(right)) for right in map(self._units, references)]
        edits, length = min(tried, key=lambda each: each[0] / max(each[1], 1))
        return {"edits": edits, "length": length}

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {self.name: counts["edits"] / max(counts["length"], 1)}


class WordErrorRate(_ErrorRate):
    """`wer`: edits of words over the number of words in all references, as `jiwer.wer`; can be above 1.

    Words are what white space separates. If no reference has any, it is the number of words predicted.
    """

    name = "wer"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _units(self, text: str) -> Sequence[str]:
        return text.split()


class CharacterErrorRate(_ErrorRate):
    """`cer`: edits of characters over the number of characters in all references, as `jiwer.cer`; can be above 1.

    White space at the ends does not count. If no reference has any character, it is the number of those predicted.
    """

    name = "cer"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _units(self, text: str) -> Sequence[str]:
        return text.strip()


# ---------------------------------------------------------------------- ROUGE


def common_length(one: Sequence[Hashable], other: Sequence[Hashable]) -> int:
    """The length of the longest common subsequence, a whole column at once, a bit a row (Crochemore et al. 2001)."""
    places: dict[Hashable, int] = {}
    for place, item in enumerate(one):
        places[item] = places.get(item, 0) | 1 << place
    full = (1 << len(one)) - 1
    column = full
    for item in other:
        matched = column & places.get(item, 0)
        column = ((column + matched) | (column - matched)) & full
    return len(one) - column.bit_count()


def _common_places(right: Sequence[str], found: Sequence[str]) -> set[int]:
    """Places in `right` of a longest common subsequence, the one that `rouge_score` finds."""
    table = [[0] * (len(found) + 1)]
    for word in right:
        above, row = table[-1], [0]
        for column, other in enumerate(found):
            row.append(above[column] + 1 if word == other else max(above[column + 1], row[-1]))
        table.append(row)
    places: set[int] = set()
    row_place, column = len(right), len(found)
    while row_place and column:
        if right[row_place - 1] == found[column - 1]:
            row_place, column = row_place - 1, column - 1
            places.add(row_place)
        elif table[row_place][column - 1] > table[row_place - 1][column]:
            column -= 1
        else:
            row_place -= 1
    return places


def _f1(hits: int, found: int, right: int) -> float:
    return 2 * hits / (found + right) if hits else 0.0


class Rouge(TextMetric):
    """`rouge1`, `rouge2`, `rougeL` and `rougeLsum`: F1 from 0 to 1, mean over rows, as Google's `rouge_score`.

    Words are runs of the letters a to z and digits, in small letters: other scripts have none. `rougeN` is of runs of
    N words, `rougeL` of the longest common subsequence, `rougeLsum` of the union of those of each line with all lines
    (put a line break between sentences). Of several references each figure takes the best. Where nothing is shared,
    or there are no words, F1 is 0.

    Args:
        rouge_types: `"rouge1"` to `"rouge9"`, `"rougeL"`, `"rougeLsum"`.
        use_stemmer: compare the stems of words longer than 3 letters, by Porter's stemmer as in NLTK.
    """

    name = "rouge"

    @strict
    def __init__(
        self,
        rouge_types: Sequence[str] = ("rouge1", "rouge2", "rougeL", "rougeLsum"),
        use_stemmer: bool = False,
    ) -> None:
        known = [f"rouge{size}" for size in range(1, 10)] + ["rougeL", "rougeLsum"]
        if isinstance(rouge_types, str) or not rouge_types:
            raise InputError(f"rouge: rouge_types: got {rouge_types!r}, wanted a list such as ['rouge1', 'rougeL']")
        for each in rouge_types:
            if each not in known:
                raise InputError(
                    f"rouge: rouge_types: got {each!r}, wanted rouge1 to rouge9, rougeL or rougeLsum"
                    f"{did_you_mean(str(each), known)}"
                )
        self.rouge_types = list(dict.fromkeys(rouge_types))
        self.use_stemmer = use_stemmer
        super().__init__()

    def _words(self, text: str) -> list[str]:
        words = NOT_ROUGE.sub(" ", text.lower()).split()
        return [stem(word) if len(word) > 3 else word for word in words] if self.use_stemmer else words

    def _nothing(self) -> Counts:
        return {"rows": 0} | dict.fromkeys(self.rouge_types, 0.0)

    def _row(self, prediction: str, references: list[str]) -> Counts:
        found = [self._words(line) for line in prediction.split("\n")]
        each = [self._scores(found, [self._words(line) for line in right.split("\n")]) for right in references]
        return {kind: max(scores[kind] for scores in each) for kind in self.rouge_types}

    def _scores(self, found: list[list[str]], right: list[list[str]]) -> dict[str, float]:
        """F1 of each kind, from the words of each line."""
        words_found, words_right = list(chain(*found)), list(chain(*right))
        scores: dict[str, float] = {}
        for kind in self.rouge_types:
            if kind == "rougeL":
                hits = common_length(words_right, words_found)
                scores[kind] = _f1(hits, len(words_found), len(words_right))
            elif kind == "rougeLsum":
                hits = _summary_hits(found, right)
                scores[kind] = _f1(hits, len(words_found), len(words_right))
            else:
                grams_found, grams_right = (_grams(words, int(kind[5:])) for words in (words_found, words_right))
                hits = (grams_found & grams_right).total()
                scores[kind] = _f1(hits, grams_found.total(), grams_right.total())
        return scores

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {kind: counts[kind] / counts["rows"] for kind in self.rouge_types}


def _grams(words: Sequence[str], size: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + size]) for start in range(len(words) - size + 1))


def _summary_hits(found: list[list[str]], right: list[list[str]]) -> int:
    """Words that lines of the reference share with all predicted lines, each no more often than both have it."""
    left = Counter(chain(*found)) & Counter(chain(*right))
    hits = 0
    for line in right:
        places = set().union(*(_common_places(line, other) for other in found))
        for place in sorted(places):
            if left[line[place]] > 0:
                left[line[place]] -= 1
                hits += 1
    return hits
