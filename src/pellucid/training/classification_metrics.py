"""Metrics of labels: accuracy, precision, recall and F1, the Matthews correlation, perplexity of a language model.

Predictions are labels `[B]`, or logits `[B, C]` of which the highest counts; with tokens `[B, S]` and `[B, S, C]`, or a
list of rows of different lengths. A label of -100 does not count, nor does what a mask leaves out.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pellucid.errors import InputError, strict
from pellucid.training.metric_base import (
    IGNORED,
    Array,
    CountingMetric,
    Counts,
    Places,
    arrayed,
    boolean_mask,
    label_pairs,
    one_of,
    places,
    real_pairs,
    to_numpy,
)

AVERAGES = ("binary", "micro", "macro", "weighted", None)
LARGEST = math.log(sys.float_info.max)
Triple = tuple[int, int, int]
"""Of one label: how often it was predicted rightly, predicted, and right."""


class Accuracy(CountingMetric):
    """`accuracy`: the share of rows whose label is predicted, as in `sklearn.metrics.accuracy_score`."""

    name = "accuracy"

    @strict
    def __init__(self, ignore_index: int | None = IGNORED) -> None:
        self.ignore_index = ignore_index
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "right": 0}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        return _agreement(*label_pairs(self.name, predictions, references, mask, self.ignore_index))

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {self.name: counts["right"] / counts["rows"]}


class TokenAccuracy(Accuracy):
    """`token_accuracy`: the share of tokens that are predicted, among those whose label is not ignored.

    With `shift=True`, for causal language models, the logits of a token are compared with the label of the next one.
    """

    name = "token_accuracy"

    @strict
    def __init__(self, shift: bool = False, ignore_index: int | None = IGNORED) -> None:
        self.shift = shift
        super().__init__(ignore_index)

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        return _agreement(*label_pairs(self.name, predictions, references, mask, self.ignore_index, self.shift))


def _agreement(found: Array, wanted: Array) -> Counts:
    return {"rows": len(wanted), "right": int((found == wanted).sum())}


# ---------------------------------------------------------------------- counts of each label


def _tally(labels: Array) -> dict[str, int]:
    values, counts = np.unique(labels, return_counts=True)
    return {str(value): int(count) for value, count in zip(values, counts, strict=True)}


class _LabelCounts(CountingMetric):
    """What all figures of single labels are made of: how often each was predicted, right, and both."""

    ignore_index: int | None

    def _nothing(self) -> Counts:
        return {"rows": 0, "right": {}, "predicted": {}, "actual": {}}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        found, wanted = label_pairs(self.name, predictions, references, mask, self.ignore_index)
        right = _tally(found[found == wanted])
        return {"rows": len(wanted), "right": right, "predicted": _tally(found), "actual": _tally(wanted)}


def by_number(label: str) -> tuple[bool, int, str]:
    """Sorts labels: whole numbers by value, then texts."""
    is_number = label.removeprefix("-").isdecimal()
    return not is_number, int(label) if is_number else 0, label


def f1_scores(counts: Triple, zero_division: float) -> tuple[float, float, float]:
    """Precision, recall and F1 of one label; where nothing is divided by nothing, `zero_division`.

    Precision has nothing to divide by if the label was never predicted, recall if it was never right, F1 if neither.
    """
    right, predicted, actual = counts
    precision = right / predicted if predicted else zero_division
    recall = right / actual if actual else zero_division
    return precision, recall, 2 * right / (predicted + actual) if predicted + actual else zero_division


def averaged(counts: Sequence[Triple], average: str, zero_division: float) -> dict[str, float]:
    """Precision, recall and F1 of several labels together.

    Args:
        counts: of each label.
        average: `micro` adds the counts; `macro` is the mean of the labels' figures; `weighted` the mean weighted by
            how often a label is right, unweighted if none ever is.
        zero_division: what a division by nothing gives, also if there are no labels.
    """
    if average == "micro" or not counts:
        right, predicted, actual = (sum(column) for column in zip(*counts, strict=True)) if counts else (0, 0, 0)
        figures = f1_scores((right, predicted, actual), zero_division)
    else:
        weights = [actual for _, _, actual in counts] if average == "weighted" else []
        table = np.array([f1_scores(each, zero_division) for each in counts])
        figures = tuple(np.average(table, axis=0, weights=weights if any(weights) else None).tolist())
    return dict(zip(("precision", "recall", "f1"), figures, strict=True))


class F1(_LabelCounts):
    """`precision`, `recall` and `f1`, as `sklearn.metrics.precision_recall_fscore_support`.

    Args:
        average: `"binary"`: of the label `pos_label`, where there are two; `"micro"`, `"macro"`, `"weighted"`: of all
            labels that are predicted or right somewhere, see `averaged`; `None`: of each label, as `f1_NAME` and so
            on, with `support_NAME`, how often it is right.
        pos_label: the label that `"binary"` is about.
        labels: only these labels, also if they never occur.
        id2label: names of labels, for `average=None`.
        multilabel: each row has any number of labels: references are 0 or 1 `[B, C]`, predictions are logits `[B, C]`,
            and those above `threshold` are labels.
        threshold: of the logits; 0 is a probability of a half.
        zero_division: 0 or 1, what stands where nothing is divided by nothing: precision of a label never predicted,
            recall of one never right, F1 of one that is neither.
        ignore_index: the label that does not count.
    """

    name = "f1"

    @strict
    def __init__(
        self,
        average: str | None = "binary",
        pos_label: int | str = 1,
        labels: Sequence[int | str] | None = None,
        id2label: Mapping[int, str] | Sequence[str] | None = None,
        multilabel: bool = False,
        threshold: float = 0.0,
        zero_division: float = 0.0,
        ignore_index: int | None = IGNORED,
    ) -> None:
        self.average = one_of(average, AVERAGES, f"{self.name}: average")
        self.pos_label = str(pos_label)
        self.labels = None if labels is None else [str(label) for label in labels]
        self.id2label = label_names(id2label)
        self.multilabel = multilabel
        self.threshold = threshold
        self.zero_division = one_of(zero_division, (0, 1), f"{self.name}: zero_division")
        self.ignore_index = ignore_index
        if average == "binary" and (multilabel or labels is not None):
            raise InputError(
                "f1: average: got 'binary', wanted 'micro', 'macro', 'weighted' or None for several labels"
            )
        super().__init__()

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        if not self.multilabel:
            return super()._count(predictions, references, mask)
        logits = to_numpy(arrayed(predictions, "f1: predictions"))
        wanted = to_numpy(arrayed(references, "f1: references"))
        if logits.ndim != 2 or logits.shape != wanted.shape:
            raise InputError(
                f"f1: got predictions of {list(logits.shape)} for references of {list(wanted.shape)}, wanted [B, C]"
            )
        counted = boolean_mask("f1", mask, wanted.shape)
        if self.ignore_index is not None:
            counted = counted & (wanted != self.ignore_index)
        real_pairs("f1", logits, wanted, counted)  # refuses what is no number
        if not np.isin(wanted[counted], (0, 1)).all():
            raise InputError("f1: references: got something other than 0 and 1, wanted 0 or 1 for each label")
        found, right = counted & (logits > self.threshold), counted & (wanted == 1)

        def columns(table: Array) -> dict[str, int]:
            return {str(label): int(count) for label, count in enumerate(table.sum(axis=0))}

        rows = int(counted.any(axis=1).sum())
        return {"rows": rows, "right": columns(found & right), "predicted": columns(found), "actual": columns(right)}

    def _figures(self, counts: Counts) -> dict[str, float]:
        seen = sorted(counts["predicted"].keys() | counts["actual"].keys(), key=by_number)
        labels = seen if self.labels is None else self.labels
        if self.average == "binary":
            if len({*seen, self.pos_label}) > 2:
                raise InputError(
                    f"f1: average: got 'binary' for the labels {', '.join(seen):.60}, wanted 'macro', 'micro' or "
                    f"'weighted', or a pos_label among two"
                )
            labels = [self.pos_label]
        right, predicted, actual = counts["right"], counts["predicted"], counts["actual"]
        triples = [(right.get(label, 0), predicted.get(label, 0), actual.get(label, 0)) for label in labels]
        if self.average is not None:
            return averaged(triples, "micro" if self.average == "binary" else self.average, self.zero_division)
        figures: dict[str, float] = {}
        for label, triple in zip(labels, triples, strict=True):
            figures |= named_figures(self.id2label.get(label, label), triple, self.zero_division)
        return figures


def named_figures(name: str, counts: Triple, zero_division: float) -> dict[str, float]:
    """The figures of one label under its name, and how often it is right."""
    precision, recall, f1 = f1_scores(counts, zero_division)
    return {f"precision_{name}": precision, f"recall_{name}": recall, f"f1_{name}": f1, f"support_{name}": counts[2]}


def label_names(id2label: Mapping[Any, str] | Sequence[str] | None) -> dict[str, str]:
    """Id of each label, as a text, → its name."""
    if id2label is None:
        return {}
    pairs = id2label.items() if isinstance(id2label, Mapping) else enumerate(id2label)
    return {str(label): name for label, name in pairs}


class MatthewsCorrelation(_LabelCounts):
    """`matthews_correlation` of two or more labels, as `sklearn.metrics.matthews_corrcoef` (Gorodkin 2004).

    0 where either side has only one label, so that it is undefined.
    """

    name = "matthews_correlation"

    @strict
    def __init__(self, ignore_index: int | None = IGNORED) -> None:
        self.ignore_index = ignore_index
        super().__init__()

    def _figures(self, counts: Counts) -> dict[str, float]:
        rows, predicted, actual = counts["rows"], counts["predicted"], counts["actual"]

        def covariance(one: dict[str, int], other: dict[str, int], together: int) -> int:
            apart: int = together * rows - sum(count * other.get(label, 0) for label, count in one.items())
            return apart

        spread = covariance(predicted, predicted, rows) * covariance(actual, actual, rows)
        shared = covariance(predicted, actual, sum(counts["right"].values()))
        return {self.name: shared / math.sqrt(spread) if spread else 0.0}


# ---------------------------------------------------------------------- language models


class Perplexity(CountingMetric):
    """`perplexity`: e to the mean loss of a token, in which each token weighs the same, whatever batch it came in.

    Predictions are mean losses with the numbers of tokens that they are the means of as references; or logits
    `[B, S, V]` with labels `[B, S]`. A perplexity too large for a number is infinite.

    Args:
        shift: the logits of a token tell the next one, as those of causal language models; without effect on losses.
        ignore_index: the label that does not count.
    """

    name = "perplexity"

    @strict
    def __init__(self, shift: bool = False, ignore_index: int = IGNORED) -> None:
        self.shift = shift
        self.ignore_index = ignore_index
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "loss": 0.0}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        predictions = arrayed(predictions, "perplexity: predictions")
        references = arrayed(references, "perplexity: references")
        if predictions.ndim == references.ndim + 1:
            return self._count_logits(places(self.name, predictions, references, mask, self.ignore_index, self.shift))
        losses, tokens = real_pairs(self.name, predictions, references, mask)
        if not ((tokens >= 0) & (tokens == np.trunc(tokens))).all():
            raise InputError("perplexity: references: got something other than numbers of tokens, wanted whole ones")
        return {"rows": int(tokens.sum()), "loss": float(losses @ tokens)}

    def _count_logits(self, given: Places) -> Counts:
        import torch
        from torch.nn.functional import cross_entropy

        scores = torch.as_tensor(given.predictions)
        rows: Iterable[Any] = [(scores, given.labels, given.kept)]
        if scores.ndim > 2:
            rows = zip(scores, given.labels, given.kept, strict=True)
        loss = 0.0
        for row, labels, kept in rows:  # row by row: in float64 the whole batch would be large
            right = torch.as_tensor(labels[kept], dtype=torch.long, device=row.device)
            counted = row[torch.as_tensor(kept, device=row.device)].double()
            loss += cross_entropy(counted, right, reduction="sum").item()
        if not math.isfinite(loss):
            raise InputError(f"perplexity: predictions: got logits with a loss of {loss}, wanted a finite one")
        return {"rows": int(given.kept.sum()), "loss": loss}

    def _figures(self, counts: Counts) -> dict[str, float]:
        mean = counts["loss"] / counts["rows"]
        return {"perplexity": math.exp(mean) if mean < LARGEST else math.inf}
