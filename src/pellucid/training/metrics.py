"""Metrics by name, several at once, and as the `compute_metrics` of a `Trainer`.

    metric = get_metric("f1", average="macro")
    for batch in batches:
        metric.update(model(**batch).logits, batch["labels"])
    metric.compute()  # {"precision": …, "recall": …, "f1": …}

Metrics keep sums, no logits; `state()` of several processes is joined by `merge`. Which definition each one follows is
said by its class, in `classification_metrics.py`, `ranking_metrics.py`, `tagging_metrics.py`, `text_metrics.py` and
`ngram_metrics.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pellucid.errors import InputError, did_you_mean, strict
from pellucid.training.classification_metrics import F1, Accuracy, MatthewsCorrelation, Perplexity, TokenAccuracy
from pellucid.training.metric_base import IGNORED, Metric, arrayed, to_numpy
from pellucid.training.ngram_metrics import Bleu, Chrf
from pellucid.training.ranking_metrics import MeanSquaredError, Pearson, Retrieval, Spearman
from pellucid.training.tagging_metrics import EntityF1
from pellucid.training.text_metrics import CharacterErrorRate, ExactMatch, Rouge, Squad, SquadV2, WordErrorRate

if TYPE_CHECKING:
    from pellucid.tokenizer import PreTrainedTokenizerBase


class MetricGroup(Metric):
    """Several metrics that see the same batches; their figures stand in one dict.

    Args:
        metrics: metrics, or names of such.
    """

    @strict
    def __init__(self, metrics: Sequence[Metric | str]) -> None:
        self.metrics = [get_metric(metric) if isinstance(metric, str) else metric for metric in metrics]
        for metric in self.metrics:
            if not isinstance(metric, Metric):
                raise InputError(f"metrics: got {type(metric).__name__}, wanted metrics or their names")
        if not self.metrics:
            raise InputError("metrics: got none, wanted at least one")

    def compute(self) -> dict[str, float]:
        """The figures of all; two of the same name are refused."""
        figures: dict[str, float] = {}
        for metric in self.metrics:
            more = metric.compute()
            if twice := sorted(figures.keys() & more.keys()):
                raise InputError(f"metrics: got {twice[0]!r} from two of them, wanted each figure once; use two groups")
            figures |= more
        return figures

    def reset(self) -> None:
        """Forget everything that was counted, in each."""
        for metric in self.metrics:
            metric.reset()

    def state(self) -> dict[str, Any]:
        """What was counted, in each."""
        return {"metrics": [metric.state() for metric in self.metrics]}

    def _count(self, predictions: Any, references: Any, mask: Any) -> list[Any]:
        return [metric._count(predictions, references, mask) for metric in self.metrics]

    def _checked(self, state: Mapping[str, Any]) -> list[Any]:
        states = state.get("metrics") if isinstance(state, Mapping) else None
        if not isinstance(states, list) or len(states) != len(self.metrics):
            raise InputError(f"metrics: merge: got {state!r:.60}, wanted the state of {len(self.metrics)} metrics")
        return [metric._checked(each) for metric, each in zip(self.metrics, states, strict=True)]

    def _add(self, counts: list[Any]) -> None:
        for metric, each in zip(self.metrics, counts, strict=True):
            metric._add(each)


@strict
def _sts() -> MetricGroup:
    """`pearson` and `spearmanr`, as GLUE scores STS-B."""
    return MetricGroup([Pearson(), Spearman()])


METRICS: dict[str, Callable[..., Metric]] = {
    "accuracy": Accuracy,
    "bleu": Bleu,
    "cer": CharacterErrorRate,
    "chrf": Chrf,
    "exact_match": ExactMatch,
    "f1": F1,
    "matthews_correlation": MatthewsCorrelation,
    "mse": MeanSquaredError,
    "pearson": Pearson,
    "perplexity": Perplexity,
    "retrieval": Retrieval,
    "rouge": Rouge,
    "seqeval": EntityF1,
    "spearmanr": Spearman,
    "squad": Squad,
    "squad_v2": SquadV2,
    "sts": _sts,
    "token_accuracy": TokenAccuracy,
    "wer": WordErrorRate,
}
"""Name → what makes the metric."""
ALIASES = {
    "entity_f1": "seqeval",
    "mcc": "matthews_correlation",
    "mrr": "retrieval",
    "ndcg": "retrieval",
    "pearsonr": "pearson",
    "precision": "f1",
    "recall": "f1",
    "sacrebleu": "bleu",
    "spearman": "spearmanr",
    "stsb": "sts",
}
"""Other name → the name; all three figures of `f1` come together, and those of `retrieval`."""


@strict
def get_metric(name: str, **options: Any) -> Metric:
    """A metric by its name.

    Args:
        name: one of `METRICS` or `ALIASES`.
        options: those of its class, as `average="macro"` for `f1`.

    Returns:
        A metric that has counted nothing.

    Raises:
        InputError: there is no such metric, or an option cannot have this value.
        UnknownArgumentError: there is no such option.
    """
    make = METRICS.get(ALIASES.get(name, name)) if isinstance(name, str) else None
    if make is None:
        near = did_you_mean(name, [*METRICS, *ALIASES]) if isinstance(name, str) else ""
        raise InputError(f"metric: got {name!r}, wanted one of {', '.join(METRICS)}{near}")
    return make(**options)


# ---------------------------------------------------------------------- the Trainer's form


class EvalPrediction:
    """What a `compute_metrics` function is given; `logits, labels = prediction` takes it apart.

    Attributes:
        predictions: what the model answered, or several such in a tuple.
        label_ids: what is right.
        inputs: what the model was given, if that was asked for.
        losses: the loss of each batch, if that was asked for.
    """

    @strict
    def __init__(self, predictions: Any, label_ids: Any, inputs: Any = None, losses: Any = None) -> None:
        self.predictions = predictions
        self.label_ids = label_ids
        self.inputs = inputs
        self.losses = losses

    def _parts(self) -> list[Any]:
        return [self.predictions, self.label_ids, *(part for part in (self.inputs, self.losses) if part is not None)]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._parts())

    def __getitem__(self, place: int) -> Any:
        return self._parts()[place]


@strict
def as_compute_metrics(
    metrics: Metric | str | Sequence[Metric | str], tokenizer: PreTrainedTokenizerBase | None = None
) -> Callable[..., dict[str, float]]:
    """Metrics as a function for `Trainer(compute_metrics=…)`, of this library or the reference.

    The function is given an `EvalPrediction` (anything with `predictions` and `label_ids`) and returns figures; of a
    tuple of predictions it takes the first, the logits. With `batch_eval_metrics=True` it is called for each batch with
    `compute_result`, counts until that is true, returns an empty dict so far, and starts anew afterwards.

    Args:
        metrics: one or several, by name or made with options.
        tokenizer: for metrics of texts: decodes predicted ids (or the highest logits) and labels, without markers and
            blanks at the ends; -100 is left out.

    Returns:
        `compute_metrics(prediction, compute_result=True)`.
    """
    several = [metrics] if isinstance(metrics, Metric | str) else list(metrics)
    group = MetricGroup(several)

    def compute_metrics(prediction: Any, compute_result: bool = True) -> dict[str, float]:
        predictions, references = prediction.predictions, prediction.label_ids
        if isinstance(predictions, tuple):
            predictions = predictions[0]
        if tokenizer is not None:
            predictions, references = _decoded(tokenizer, predictions, 3), _decoded(tokenizer, references, 2)
        try:
            group.update(predictions, references)
            figures = group.compute() if compute_result else {}
        except Exception:
            group.reset()  # the next evaluation begins anew
            raise
        if compute_result:
            group.reset()
        return figures

    return compute_metrics


def _decoded(tokenizer: PreTrainedTokenizerBase, values: Any, most_axes: int) -> list[str]:
    """The texts of rows of ids, or of logits where there is one axis more."""
    rows = values if isinstance(values, list | tuple) else arrayed(values, "predictions and label_ids")
    ids = [to_numpy(arrayed(row, "predictions and label_ids")) for row in rows]
    ids = [row.argmax(axis=-1) if row.ndim == most_axes - 1 and most_axes == 3 else row for row in ids]
    if any(row.ndim != 1 or row.dtype.kind not in "iu" for row in ids):
        raise InputError("compute_metrics: tokenizer: got rows that are no ids, wanted ids to decode")
    return [tokenizer.decode(row[row != IGNORED].tolist(), skip_special_tokens=True).strip() for row in ids]
