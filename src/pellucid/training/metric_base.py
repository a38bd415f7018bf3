"""What metrics have in common: counts to which each batch adds, and the reading of what they are given.

A metric keeps no logits: `update` turns a batch into a few sums, `compute` turns the sums into figures. The sums are
plain numbers, so that they stand in a JSON file beside a checkpoint and add up across processes.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pellucid.errors import InputError, did_you_mean, strict

IGNORED = -100
"""The label of tokens and rows that take no part, as in losses."""
HUGE = 1e150
"""From here on, squares are no finite numbers."""
Array = NDArray[Any]
Counts = dict[str, Any]
"""Name → a number, the numbers of several labels or orders (a dict), or numbers of each row (a list)."""


class Metric(ABC):
    """Figures of how good predictions are, fed batch by batch."""

    @strict
    def update(self, predictions: Any, references: Any, mask: Any = None) -> None:
        """Count a batch; one that is refused leaves the counts as they were.

        Args:
            predictions: what a model answered, a row each.
            references: what is right, a row each.
            mask: for metrics of labels and numbers: what counts, shaped as the references; `None`: all of it.

        Raises:
            InputError: the two do not belong together, or hold what this metric cannot read.
        """
        self._add(self._count(predictions, references, mask))

    def merge(self, state: Mapping[str, Any]) -> None:
        """Add what another process, or a run before, has counted.

        Args:
            state: what `state` returned there.

        Raises:
            InputError: it is of another metric or of other options, or damaged; nothing is added then.
        """
        self._add(self._checked(state))

    @abstractmethod
    def compute(self) -> dict[str, float]:
        """The figures of everything counted since the start or the last `reset`.

        Raises:
            InputError: nothing was counted.
        """

    @abstractmethod
    def reset(self) -> None:
        """Forget everything that was counted."""

    @abstractmethod
    def state(self) -> dict[str, Any]:
        """What was counted, as plain numbers, texts, lists and dicts: fit for JSON and for `merge`."""

    @abstractmethod
    def _count(self, predictions: Any, references: Any, mask: Any) -> Any:
        """What a batch adds."""

    @abstractmethod
    def _checked(self, state: Mapping[str, Any]) -> Any:
        """What a state adds, as a copy."""

    @abstractmethod
    def _add(self, counts: Any) -> None: ...


class CountingMetric(Metric):
    """A metric that is made of sums.

    A subclass says what it begins with (`_nothing`), what a batch adds (`_count`) and what the sums mean (`_figures`).
    `rows` is always among the counts. Attributes without an underscore are its options.
    """

    name: ClassVar[str]

    def __init__(self) -> None:
        self._counts = self._nothing()

    def compute(self) -> dict[str, float]:
        """The figures of everything counted; see `Metric.compute`."""
        if not self._counts["rows"]:
            raise InputError(f"{self.name}: got nothing to count, wanted at least one row that is not ignored")
        return self._figures(self._counts)

    def reset(self) -> None:
        """Forget everything that was counted."""
        self._counts = self._nothing()

    def state(self) -> dict[str, Any]:
        """What was counted, with the metric's name and options."""
        plain: dict[str, Any] = json.loads(json.dumps({"options": self._options(), "counts": self._counts}))
        return {"metric": self.name, **plain}

    def _options(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}

    def _checked(self, state: Mapping[str, Any]) -> Counts:
        given = state if isinstance(state, Mapping) else {}
        for key, wanted in (("metric", self.name), ("options", json.loads(json.dumps(self._options())))):
            if given.get(key) != wanted:
                raise InputError(f"{self.name}: merge: {key}: got {given.get(key)!r}, wanted {wanted!r}")
        counts = given.get("counts")
        _check_counts(counts, self._nothing(), f"{self.name}: merge: counts")
        copied: Counts = json.loads(json.dumps(counts))  # what is added later must not reach the caller's
        return copied

    def _add(self, counts: Counts) -> None:
        self._counts = _sum(self._counts, counts)

    @abstractmethod
    def _nothing(self) -> Counts: ...

    @abstractmethod
    def _figures(self, counts: Counts) -> dict[str, float]: ...


def _sum(mine: Any, theirs: Any) -> Any:
    """Numbers added, dicts added by name, lists one after the other."""
    if isinstance(mine, dict):
        for name, value in theirs.items():
            mine[name] = _sum(mine[name], value) if name in mine else value
        return mine
    if isinstance(mine, list):
        mine.extend(theirs)
        return mine
    return mine + theirs


def _check_counts(given: Any, like: Any, what: str) -> None:
    """Refuse counts that are not shaped as `like`; an empty dict in it stands for names that are not known before."""
    if isinstance(like, dict):
        if not isinstance(given, dict) or (like and given.keys() != like.keys()):
            raise InputError(f"{what}: got {given!r:.80}, wanted a dict with {', '.join(like) or 'numbers'}")
        for name, value in given.items():
            _check_counts(value, like.get(name, 0), f"{what}: {name}")
    elif isinstance(like, list):
        if not isinstance(given, list):
            raise InputError(f"{what}: got {given!r:.80}, wanted a list of numbers")
        for value in given:
            _check_counts(value, 0.0, what)
    elif isinstance(given, bool) or not isinstance(given, int | float) or not np.isfinite(given):
        raise InputError(f"{what}: got {given!r:.80}, wanted a finite number")


# ---------------------------------------------------------------------- options


def one_of(value: Any, known: Iterable[Any], what: str) -> Any:
    """`value` if it is one of the `known`, else an `InputError` that names them."""
    names = list(known)
    if value not in names:
        near = did_you_mean(value, [name for name in names if isinstance(name, str)]) if isinstance(value, str) else ""
        raise InputError(f"{what}: got {value!r}, wanted one of {', '.join(map(repr, names))}{near}")
    return value


def whole(value: Any, what: str, least: int) -> int:
    """`value` if it is a whole number from `least`, else an `InputError`."""
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise InputError(f"{what}: got {value!r}, wanted a whole number from {least}")
    return value


# ---------------------------------------------------------------------- numbers and labels


def is_tensor(values: Any) -> bool:
    """Whether these are of torch, which need not be imported to know."""
    return hasattr(values, "detach")


def arrayed(values: Any, what: str) -> Any:
    """Lists as an array; arrays and tensors as they are."""
    if is_tensor(values):
        return values.detach()
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{what}: got rows of different lengths, wanted an array, or lists of both sides") from None
    if array.dtype.kind not in "biufU":
        raise InputError(f"{what}: got {type(values).__name__} of {array.dtype}, wanted numbers or texts")
    return array


def to_numpy(values: Any) -> Array:
    """An array or tensor on the CPU; numbers with a fraction in float64."""
    if is_tensor(values):
        array: Array = (values.double() if values.is_floating_point() else values).cpu().numpy()
        return array
    return np.asarray(values, dtype=np.float64 if values.dtype.kind == "f" else None)


def real_pairs(name: str, predictions: Any, references: Any, mask: Any) -> tuple[Array, Array]:
    """Numbers of both sides, `[N]` each, without those masked out.

    Args:
        name: of the metric.
        predictions: any shape, that of the references, or with one axis of 1 more: the logits of a regression.
        references: any shape.
        mask: `None`, or shaped as the references.
    """
    found = to_numpy(arrayed(predictions, f"{name}: predictions"))
    wanted = to_numpy(arrayed(references, f"{name}: references"))
    if found.ndim == wanted.ndim + 1 and found.shape[-1] == 1:
        found = found[..., 0]
    if found.shape != wanted.shape:
        raise InputError(f"{name}: got predictions of {list(found.shape)} for references of {list(wanted.shape)}")
    kept = boolean_mask(name, mask, wanted.shape)
    for side, values in (("predictions", found), ("references", wanted)):
        if values.dtype.kind == "U" or not (np.abs(values[kept]) < HUGE).all():
            raise InputError(f"{name}: {side}: got something that is no finite number below {HUGE}, wanted numbers")
    return found[kept].astype(np.float64).ravel(), wanted[kept].astype(np.float64).ravel()


class Places(NamedTuple):
    """Predictions and labels that fit together, neither flattened nor reduced yet.

    Attributes:
        predictions: labels shaped as `labels`, or logits with one axis more.
        classes: how many the logits are of; `None` for labels.
        labels: of the references.
        kept: which of them count.
    """

    predictions: Any
    classes: int | None
    labels: Array
    kept: Array


def places(
    name: str, predictions: Any, references: Any, mask: Any, ignore_index: int | None, shift: bool = False
) -> Places:
    """Check that predictions and labels belong together; the arguments are those of `label_pairs`."""
    predictions = arrayed(predictions, f"{name}: predictions")
    labels = to_numpy(arrayed(references, f"{name}: references"))
    classes = predictions.shape[-1] if predictions.ndim == labels.ndim + 1 else None
    if tuple(predictions.shape[: labels.ndim]) != labels.shape or predictions.ndim > labels.ndim + 1:
        raise InputError(
            f"{name}: got predictions of {list(predictions.shape)} for references of {list(labels.shape)}, wanted "
            f"labels of that shape, or logits with one axis more"
        )
    if classes is not None and classes < 2:
        raise InputError(f"{name}: predictions: got logits of {classes} classes, wanted at least 2")
    kept = boolean_mask(name, mask, labels.shape)
    if labels.dtype.kind != "U" and ignore_index is not None:
        kept = kept & (labels != ignore_index)
    if shift:
        labels, kept = labels[..., 1:], kept[..., 1:]
        predictions = predictions[..., :-1] if classes is None else predictions[..., :-1, :]
    if classes is not None and kept.any():
        counted = _whole_labels(f"{name}: references", labels[kept])
        if counted.dtype.kind == "U":
            raise InputError(f"{name}: references: got texts for logits, wanted ids of labels")
        if (wrong := counted[(counted < 0) | (counted >= classes)]).size:
            raise InputError(
                f"{name}: references: got label {wrong[0]}, wanted one from 0 to {classes - 1}"
                f"{'' if ignore_index is None else f', or {ignore_index} for none'}"
            )
    return Places(predictions, classes, labels, kept)


def label_pairs(
    name: str, predictions: Any, references: Any, mask: Any, ignore_index: int | None, shift: bool = False
) -> tuple[Array, Array]:
    """Labels of both sides, `[N]` each, without those that are masked out or ignored.

    Args:
        name: of the metric.
        predictions: labels shaped as the references, or logits with an axis of classes more, of which the highest is
            taken (the first of several that are equal).
        references: `[B]`, `[B, S]`, or a list of rows of different lengths; ids or texts.
        mask: `None`, or shaped as the references; what is 0 does not count.
        ignore_index: the id that does not count.
        shift: a token's logits tell the next token, as those of a causal language model.
    """
    if _is_row_by_row(predictions, references):
        rows = paired_rows(name, predictions, references, mask)
        pairs = [label_pairs(name, *row, ignore_index, shift) for row in rows]
        pairs = [pair for pair in pairs if pair[1].size] or pairs[:1]
        return np.concatenate([found for found, _ in pairs]), np.concatenate([wanted for _, wanted in pairs])
    found, classes, labels, kept = places(name, predictions, references, mask, ignore_index, shift)
    found = to_numpy(found)[kept] if classes is None else _highest(name, found, kept)
    labels = labels[kept]
    if labels.size and (found.dtype.kind == "U") != (labels.dtype.kind == "U"):
        raise InputError(f"{name}: got texts on one side and numbers on the other, wanted the same on both")
    return _whole_labels(f"{name}: predictions", found), _whole_labels(f"{name}: references", labels)


def _is_row_by_row(predictions: Any, references: Any) -> bool:
    """Whether rows make no array: tensors in a list, or references of different lengths."""
    for values in (predictions, references):
        if isinstance(values, list | tuple) and any(is_tensor(row) and row.ndim for row in values):
            return True
    if not isinstance(references, list | tuple):
        return False
    if not all(isinstance(row, list | tuple) or getattr(row, "ndim", 0) for row in references):
        return False
    return len({len(row) for row in references}) > 1


def paired_rows(name: str, predictions: Any, references: Any, mask: Any) -> list[tuple[Any, Any, Any]]:
    """Each row's predictions, references and mask."""
    for side, values in (("predictions", predictions), ("references", references), ("mask", mask)):
        is_list = hasattr(values, "__len__") and not isinstance(values, str) and getattr(values, "ndim", 1) > 0
        if not is_list and not (side == "mask" and values is None):
            raise InputError(f"{name}: {side}: got {type(values).__name__}, wanted a list of rows")
    masks = [None] * len(references) if mask is None else mask
    if not len(predictions) == len(references) == len(masks):
        raise InputError(
            f"{name}: got {len(predictions)} rows of predictions for {len(references)} of references, wanted as many"
        )
    return list(zip(predictions, references, masks, strict=True))


def boolean_mask(name: str, mask: Any, shape: tuple[int, ...]) -> Array:
    """A mask as booleans; all true where there is none."""
    if mask is None:
        return np.ones(shape, dtype=bool)
    kept = to_numpy(arrayed(mask, f"{name}: mask"))
    if kept.shape != shape:
        raise InputError(f"{name}: mask: got shape {list(kept.shape)}, wanted that of the references, {list(shape)}")
    return kept.astype(bool)


def _highest(name: str, logits: Any, kept: Array) -> Array:
    """`[N]` classes with the highest logit, of the places that are kept; where torch has the logits, by torch."""
    if is_tensor(logits):
        top = logits.max(dim=-1)
        value, found = to_numpy(top.values), to_numpy(top.indices)
    else:
        found = logits.argmax(axis=-1)
        value = np.take_along_axis(logits, found[..., None], axis=-1)[..., 0]
    if np.isnan(value[kept]).any():  # the highest is NaN as soon as one of them is
        raise InputError(f"{name}: predictions: got NaN among the logits, wanted numbers; the model has diverged")
    return found[kept]


def _whole_labels(what: str, labels: Array) -> Array:
    """Labels as whole numbers or texts."""
    if labels.dtype.kind == "U":
        return labels
    if labels.dtype.kind == "f" and not (np.isfinite(labels).all() and (labels == np.trunc(labels)).all()):
        raise InputError(f"{what}: got numbers with a fraction, wanted labels; logits have one axis more")
    return labels.astype(np.int64)


# ---------------------------------------------------------------------- texts


class TextMetric(CountingMetric):
    """A metric of texts: a list of predictions, and for each of them a text or a list of texts that are all right."""

    def _count(self, predictions: Any, references: Any, mask: Any) -> Counts:
        if mask is not None:
            raise InputError(f"{self.name}: mask: got {type(mask).__name__}, wanted None; texts are counted whole")
        rows = paired_rows(self.name, predictions, references, None)
        counts = self._nothing()
        for number, (found, right, _) in enumerate(rows):
            counts = _sum(counts, self._row(*self._read(number, found, right)))
        counts["rows"] = len(rows)
        return counts

    def _read(self, number: int, prediction: Any, reference: Any) -> tuple[str, list[str]]:
        """The texts of a row."""
        return text_of(self.name, number, prediction), texts_of(self.name, number, reference)

    @abstractmethod
    def _row(self, prediction: str, references: list[str]) -> Counts:
        """What a row adds, `rows` aside."""


def text_of(name: str, number: int, value: Any) -> str:
    """`value` if it is a text."""
    if not isinstance(value, str):
        raise InputError(f"{name}: prediction {number}: got {type(value).__name__}, wanted a text; decode ids first")
    return value


def texts_of(name: str, number: int, value: Any) -> list[str]:
    """A text or texts as a list, which must not be empty."""
    texts: Sequence[Any] = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not texts or not all(isinstance(text, str) for text in texts):
        raise InputError(f"{name}: reference {number}: got {value!r:.60}, wanted a text or a list of texts")
    return list(texts)
