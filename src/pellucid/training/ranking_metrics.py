"""Metrics of numbers and of orders: correlations, errors of a regression, retrieval."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pellucid.errors import InputError, strict
from pellucid.training.metric_base import (
    IGNORED,
    Array,
    CountingMetric,
    Counts,
    arrayed,
    boolean_mask,
    paired_rows,
    real_pairs,
    to_numpy,
    whole,
)


class Pearson(CountingMetric):
    """`pearson`: the linear correlation, as `scipy.stats.pearsonr`, from means and sums of squares around them.

    Batches are joined as Chan, Golub and LeVeque (1983) do, so that large numbers that differ little lose no digits.
    0 where either side is constant, so that it is undefined.
    """

    name = "pearson"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _nothing(self) -> Counts:
        return dict.fromkeys(("rows", "xx", "yy", "xy", "x", "y", "x_low", "x_high", "y_low", "y_high"), 0)

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        x, y = real_pairs(self.name, predictions, references, mask)
        if not len(x):
            return self._nothing()
        around_x, around_y = x - x.mean(), y - y.mean()
        products = {"xx": around_x @ around_x, "yy": around_y @ around_y, "xy": around_x @ around_y}
        ends = {"x_low": x.min(), "x_high": x.max(), "y_low": y.min(), "y_high": y.max()}
        sums = products | ends | {"x": x.mean(), "y": y.mean()}
        return {"rows": len(x), **{name: float(value) for name, value in sums.items()}}

    def _add(self, counts: Counts) -> None:
        mine, rows = self._counts, self._counts["rows"] + counts["rows"]
        if not mine["rows"] or not counts["rows"]:
            self._counts = counts if counts["rows"] else mine
            return
        apart = {side: counts[side] - mine[side] for side in "xy"}
        share = counts["rows"] / rows
        for product in ("xx", "yy", "xy"):
            mine[product] += counts[product] + apart[product[0]] * apart[product[1]] * mine["rows"] * share
        for side in "xy":
            mine[side] += apart[side] * share
            mine[f"{side}_low"] = min(mine[f"{side}_low"], counts[f"{side}_low"])
            mine[f"{side}_high"] = max(mine[f"{side}_high"], counts[f"{side}_high"])
        mine["rows"] = rows

    def _figures(self, counts: Counts) -> dict[str, float]:
        spread = math.sqrt(counts["xx"]) * math.sqrt(counts["yy"])
        constant = any(counts[f"{side}_low"] == counts[f"{side}_high"] for side in "xy")
        return {self.name: 0.0 if constant or not spread else max(-1.0, min(1.0, counts["xy"] / spread))}


class Spearman(CountingMetric):
    """`spearmanr`: the correlation of ranks, as `scipy.stats.spearmanr`; equal values share the mean of their ranks.

    Ranks are known at the end only, so that this one keeps the two numbers of each row, and nothing else. 0 where
    either side is constant, so that it is undefined.
    """

    name = "spearmanr"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "predictions": [], "references": []}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        found, wanted = real_pairs(self.name, predictions, references, mask)
        return {"rows": len(wanted), "predictions": found.tolist(), "references": wanted.tolist()}

    def _figures(self, counts: Counts) -> dict[str, float]:
        ranks = Pearson()
        ranks.update(_ranks(counts["predictions"]), _ranks(counts["references"]))
        return {self.name: ranks.compute()["pearson"]}


def _ranks(values: Sequence[float]) -> Array:
    """`[N]` ranks from 1; equal values share the mean of theirs."""
    _, place, counts = np.unique(np.asarray(values, dtype=np.float64), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]


class MeanSquaredError(CountingMetric):
    """`mse`, its root `rmse`, and `mae`, the mean absolute error, over all numbers."""

    name = "mse"

    @strict
    def __init__(self) -> None:
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0, "squared": 0.0, "absolute": 0.0}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        found, wanted = real_pairs(self.name, predictions, references, mask)
        apart = found - wanted
        return {"rows": len(apart), "squared": float(apart @ apart), "absolute": float(np.abs(apart).sum())}

    def _figures(self, counts: Counts) -> dict[str, float]:
        mse = counts["squared"] / counts["rows"]
        return {"mse": mse, "rmse": math.sqrt(mse), "mae": counts["absolute"] / counts["rows"]}


# ---------------------------------------------------------------------- retrieval


class Retrieval(CountingMetric):
    """`mrr@k`, `ndcg@k` and `recall@k`, means over queries.

    Predictions are scores `[Q, D]` of the documents of each query, references how relevant each is, 0 not at all; or
    lists of rows of different lengths. A relevance of -100 takes a document out.

    `mrr` is one over the rank of the first relevant document, 0 beyond `k`. `recall` is the share of the relevant ones
    among the first `k`. `ndcg` is as in `sklearn.metrics.ndcg_score`: gains are relevances, discounted by the binary
    logarithm of the rank plus 1, divided by what the best order gives. Documents of equal score have no order: figures
    are the mean over all their orders, so that a model that scores everything alike gets what chance gives. A query
    without a relevant document counts as 0.

    Args:
        k: how many of the first documents count, one number or several.
    """

    name = "retrieval"

    @strict
    def __init__(self, k: int | Sequence[int] = 10) -> None:
        several = [k] if isinstance(k, int) else k
        if not isinstance(several, list | tuple) or not several:
            raise InputError(f"retrieval: k: got {k!r}, wanted a whole number from 1, or a list of such")
        self.k = [whole(each, "retrieval: k", 1) for each in several]
        super().__init__()

    def _nothing(self) -> Counts:
        return {"rows": 0} | {f"{figure}@{k}": 0.0 for k in self.k for figure in ("mrr", "ndcg", "recall")}

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        counts = self._nothing()
        for row in paired_rows(self.name, predictions, references, mask):
            groups = self._tied_groups(*row)
            if groups is None:
                continue
            counts["rows"] += 1
            for k in self.k:
                for figure, value in _query_figures(*groups, k).items():
                    counts[f"{figure}@{k}"] += value
        return counts

    def _tied_groups(self, scores: Any, relevances: Any, mask: Any) -> tuple[Array, Array, Array, Array] | None:
        """Of documents with the same score, from the highest: how many, how many relevant, their gains; all gains."""
        score = to_numpy(arrayed(scores, "retrieval: predictions"))
        gain = to_numpy(arrayed(relevances, "retrieval: references"))
        if score.ndim != 1 or score.shape != gain.shape:
            raise InputError(
                f"retrieval: got a query with scores of {list(score.shape)} and relevances of {list(gain.shape)}, "
                f"wanted one of each for each document"
            )
        kept = boolean_mask(self.name, mask, gain.shape) & (gain != IGNORED)
        if not kept.any():
            return None
        if "U" in (score.dtype.kind, gain.dtype.kind) or np.isnan(score[kept]).any():
            raise InputError("retrieval: predictions: got something that is no number, wanted scores")
        score, gain = score[kept].astype(np.float64), gain[kept].astype(np.float64)
        if not (np.isfinite(gain) & (gain >= 0)).all():
            raise InputError("retrieval: references: got a relevance below 0 or not finite, wanted 0 or more")
        _, group, sizes = np.unique(-score, return_inverse=True, return_counts=True)
        relevant = np.bincount(group, weights=gain > 0, minlength=len(sizes))
        return sizes, relevant, np.bincount(group, weights=gain, minlength=len(sizes)), np.sort(gain)[::-1]

    def _figures(self, counts: Counts) -> dict[str, float]:
        return {name: value / counts["rows"] for name, value in counts.items() if name != "rows"}


def _query_figures(sizes: Array, relevant: Array, gains: Array, best: Array, k: int) -> dict[str, float]:
    """The figures of one query, from its groups of documents with equal scores."""
    if not relevant.any():
        return {}
    ends = np.minimum(np.cumsum(sizes), k)
    starts = np.minimum(np.cumsum(sizes) - sizes, k)
    discounts = 1 / np.log2(np.arange(2, min(k, len(best)) + 2))
    until = np.concatenate([[0.0], np.cumsum(discounts)])  # the discounts of the first 0, 1, 2, … ranks
    gained = float((gains / sizes * (until[ends] - until[starts])).sum())
    first = int(np.argmax(relevant > 0))
    return {
        "mrr": _first_relevant(int(ends[first - 1]) if first else 0, int(sizes[first]), int(relevant[first]), k),
        "ndcg": gained / float(best[:k] @ discounts),
        "recall": float((relevant / sizes * (ends - starts)).sum() / relevant.sum()),
    }


def _first_relevant(before: int, size: int, relevant: int, k: int) -> float:
    """One over the rank of the first relevant document, as a mean over the orders of those that score the same.

    Args:
        before: documents with a higher score.
        size: documents with the same score as the first relevant one.
        relevant: how many of them are.
        k: ranks beyond it give 0.
    """
    mean, chance = 0.0, relevant / size  # that the first relevant one stands at the first of these places, then next
    for place in range(min(size - relevant + 1, k - before)):
        mean += chance / (before + place + 1)
        if place < size - 1:
            chance *= (size - relevant - place) / (size - place - 1)
    return mean
