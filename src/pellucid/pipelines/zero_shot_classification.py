"""Zero-shot classification: which of any labels, chosen at the time of asking, fits a text.

    pipe = pipeline("zero-shot-classification", "facebook/bart-large-mnli")
    pipe("My phone does not start.", candidate_labels=["urgent", "not urgent", "phone"])
    # {"sequence": "My phone …", "labels": ["phone", "urgent", "not urgent"], "scores": [0.6…, 0.3…, 0.0…]}

The model has learnt to say whether one text follows from another. Each label becomes such a text ("This example is
urgent."), and how surely it follows is the label's score. All pairs of a batch are computed together.

A text read with `long="window"` gets, for each label, the mean of its windows' logits, each window counting as often
as it has tokens of its own. `truncation=True` cuts the text, never a label.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

import torch

from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.pairs import Pairs
from pellucid.pipelines.preprocess import Text, encode, read_text
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.layout import PackedTokens

logger = logging.getLogger("pellucid")

TEMPLATE = "This example is {}."


class ZeroShotOptions(CallOptions, total=False):
    """What a zero-shot classification pipeline can be told beside its `candidate_labels`.

    Attributes:
        hypothesis_template: the text that a label becomes, with `{}` where the label stands; default
            `"This example is {}."`.
        multi_label: `True` scores each label for itself, as several may fit: how surely it follows rather than
            contradicts. Default: the scores of a text's labels add up to 1.
    """

    hypothesis_template: str
    multi_label: bool


class Premise(Pairs):
    """A text beside each of its labels, in one part for each, or several where it is long.

    Args:
        sequence: the text.
        pairs: the parts of each label's pair.
    """

    def __init__(self, sequence: str, pairs: Sequence[list[Part]]) -> None:
        super().__init__(pairs)
        self.sequence = sequence


class ZeroShotClassificationPipeline(Pipeline):
    """Any labels with their scores; arguments as in `Pipeline`, and the options of `ZeroShotOptions`."""

    name = "zero-shot-classification"
    auto_class = "AutoModelForSequenceClassification"
    default_model = "facebook/bart-large-mnli"
    options = ZeroShotOptions
    cut_text = "only_first"  # the text, and never a label

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        if self.entailment_id == -1:
            logger.warning(
                "%s: label2id has no label that begins with 'entail' (it has %s), so the last one is taken for it; "
                "set config.label2id to what the model was trained with",
                self.name,
                ", ".join(self.model.config.label2id or {}),
            )

    @property
    def entailment_id(self) -> int:
        """Number of the label that says that the second text follows from the first; -1 if no label's name says so."""
        labels = self.model.config.label2id or {}
        return next((number for label, number in labels.items() if label.lower().startswith("entail")), -1)

    def __call__(
        self, sequences: Any, candidate_labels: str | Sequence[str] | None = None, **options: Unpack[ZeroShotOptions]
    ) -> Any:
        """Score labels for texts.

        Args:
            sequences: a text; a list of them; anything else that yields them; or the `pathlib.Path` of a file of lines.
            candidate_labels: the labels, in a list or separated by commas; needed, here or when the pipeline is made.
            options: see `ZeroShotOptions` and `CallOptions`.

        Returns:
            For each text `{"sequence": …, "labels": […], "scores": […]}`, best label first. A list for a list, a
            generator for anything else that has many rows.

        Raises:
            InputError: a row or an option cannot be used, or there are no labels.
            UnknownArgumentError: an option does not exist.
        """
        given: dict[str, Any] = {**options}
        if candidate_labels is not None:
            given["candidate_labels"] = candidate_labels
        self._labels(self.merge(given))
        return self.answer(sequences, given)

    # ------------------------------------------------------------------ options

    @classmethod
    def known_options(cls) -> frozenset[str]:
        """Names of everything that a call can be told."""
        return super().known_options() | {"candidate_labels"}

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        if options.get("candidate_labels") is not None:
            self._labels(options)
        self._hypothesis("label", options)

    def _labels(self, options: Mapping[str, Any]) -> list[str]:
        """The labels as they were given, one by one."""
        given = options.get("candidate_labels")
        if isinstance(given, str):
            given = [label.strip() for label in given.split(",") if label.strip()]
        labels = list(given) if isinstance(given, Sequence) else []
        if not labels or not all(isinstance(label, str) for label in labels):
            raise InputError(
                f"candidate_labels: got {quoted(options.get('candidate_labels'))}, wanted labels in a list, or "
                "separated by commas"
            )
        return labels

    def _hypothesis(self, label: str, options: Mapping[str, Any]) -> str:
        """The text that a label becomes."""
        template = options.get("hypothesis_template", TEMPLATE)
        try:
            text = str(template.format(label))
        except (AttributeError, IndexError, KeyError, ValueError):
            text = template
        if text == template:
            raise InputError(
                f"hypothesis_template: got {quoted(template)}, wanted a text with {{}} where the label stands, such as "
                f"{TEMPLATE!r}"
            )
        return text

    # ------------------------------------------------------------------ the three steps

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The text in a row, or what is wrong with it."""
        text = read_text(row, number)
        if isinstance(text, tuple):
            return InputError(f"row {number}: got a pair {quoted(row)}, wanted a text; what it is read with are labels")
        return text

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, each as many times as there are labels."""
        labels, rule = self._labels(options), self.length_rule(options)
        texts = [self.read(row, number, options) for number, row in enumerate(rows, first)]
        by_label = []
        for label in labels:
            hypothesis = self._hypothesis(label, options)
            pairs = [text if isinstance(text, InputError) else (str(text), hypothesis) for text in texts]
            special = options.get("add_special_tokens", True)
            by_label.append(encode(pairs, self.tokenizer, rule, add_special_tokens=special, first=first))
        found: list[Row] = []
        for text, *pairs_of_text in zip(texts, *by_label, strict=True):
            errors = [pair for pair in pairs_of_text if isinstance(pair, InputError)]
            found.append(errors[0] if errors else Premise(text, pairs_of_text))
        return found

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Logits `[C]` of each part: whether the label follows from the text, and what else the model tells."""
        logits: Tensor = self.runner(**self.both_ways(packed), return_dict=True).logits  # [B, C]
        return logits.float().cpu().unbind(0)

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Logits of a text with each label → its labels and their scores, best first."""
        assert isinstance(parts, Premise)
        labels, scores = self._labels(options), self._scores(self._logits(values, parts), options).tolist()
        order = sorted(range(len(labels)), key=scores.__getitem__)[::-1]
        return {
            "sequence": parts.sequence,
            "labels": [labels[number] for number in order],
            "scores": [scores[number] for number in order],
        }

    def _logits(self, values: list[Tensor], parts: Premise) -> Tensor:
        """Logits `[L, C]` of each label, the mean of its windows'."""
        rows, place = [], 0
        for count in parts.counts:
            own = [stop - start for start, stop in (part.own for part in parts[place : place + count])]
            weights = torch.tensor(own, dtype=torch.float32)
            rows.append((weights / weights.sum()) @ torch.stack(values[place : place + count]))  # [W] @ [W, C]
            place += count
        return torch.stack(rows)

    def _scores(self, logits: Tensor, options: Mapping[str, Any]) -> Tensor:
        """Scores `[L]` from logits `[L, C]`."""
        follows = self.entailment_id
        if options.get("multi_label") or len(logits) == 1:
            contradicts = -1 if follows == 0 else 0
            return logits[:, [contradicts, follows]].softmax(dim=-1)[:, 1]
        return logits[:, follows].softmax(dim=0)

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The logits of each label's pair, and its score."""
        assert isinstance(parts, Premise)
        logits, labels = self._logits(values, parts), self._labels(options)
        names = self.model.config.id2label or {}
        shown = ", ".join(names.get(number, str(number)) for number in range(logits.shape[-1]))
        alone = options.get("multi_label") or len(labels) == 1
        how = "follows rather than contradicts" if alone else "follows, softmax over the labels"
        return {
            "shapes": f"{len(labels)} pairs, {sum(len(part.ids) for part in parts)} tokens → logits for {shown}",
            "outputs": [(label, row.tolist()) for label, row in zip(labels, logits, strict=True)],
            "function": f"Postprocessing: how surely each label {how}",
            "scores": [
                (label, [score]) for label, score in zip(labels, self._scores(logits, options).tolist(), strict=True)
            ],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The logit by which the best label follows from the text, in the window where it is highest."""
        assert isinstance(parts, Premise)
        labels, follows = self._labels(options), self.entailment_id
        best = int(self._scores(self._logits(values, parts), options).argmax())
        first = sum(parts.counts[:best])
        part = max(range(first, first + parts.counts[best]), key=lambda number: float(values[number][follows]))
        texts = [(parts.sequence, self._hypothesis(labels[best], options))]
        return Explained(f"logit that {labels[best]} follows", lambda found: found[0][follows], [part], texts)
