"""Recipes with labels: of texts and pairs of texts, and of choices; those of words are in `recipes_words.py`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pellucid.errors import FileError, InputError, did_you_mean
from pellucid.files import parse_json, quoted
from pellucid.training.metrics import as_compute_metrics, get_metric
from pellucid.training.recipes import (
    LABELS,
    ComputeMetrics,
    Features,
    Found,
    Recipe,
    cut_note,
    cut_texts,
    text_column,
)
from pellucid.training.recipes_files import Table, where

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.collators import Collator

PAIRS = (
    ("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"), ("question1", "question2"),
    ("question", "sentence"), ("text1", "text2"), ("query", "document"), ("query", "passage"),
)  # fmt: skip
"""Usual names of the columns of two texts that are read together."""
CHOICES = ("choices", "endings", "options", "answers")
ONE_CHOICE = re.compile(r"(?:ending|choice|option|answer)_?(\d+)")
"""A column that holds one of several choices."""
SHOWN = 20
"""Labels that a message names."""
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?")

Row = Mapping[str, Any]


# ---------------------------------------------------------------------- labels


def number_of(label: Any) -> float | None:
    """A label as a number, if it is one or a text that says one."""
    if isinstance(label, str):
        return float(label) if _NUMBER.fullmatch(label.strip()) else None
    return float(label) if isinstance(label, int | float) else None


def name_of(label: Any) -> str:
    """The name of a label: itself, or the digits of a whole number, however it is written."""
    number = number_of(label)
    if number is not None and number == int(number):
        return str(int(number))
    return str(label).strip()


def classes(names: Iterable[str], config: PretrainedConfig, given: Sequence[str] | None) -> dict[str, Any]:
    """What a configuration must say about these labels; nothing, where it knows all of them already.

    Whole numbers from 0 on are the numbers of classes. All else are names: texts in their order, numbers by value.

    Args:
        names: of the labels that occur.
        config: of the checkpoint.
        given: names of all classes, in the order of their numbers.
    """
    found = set(names)
    if given is None:
        numbers = sorted(int(name) for name in found) if all(map(is_whole, found)) else []
        if numbers and numbers[0] == 0:
            count = numbers[-1] + 1
            return {} if config.num_labels == count else {"num_labels": count}
        if found <= (config.label2id or {}).keys():
            return {}
        given = [str(number) for number in numbers] or sorted(found)
    id2label = dict(enumerate(given))
    return {"num_labels": len(given), "id2label": id2label, "label2id": {name: key for key, name in id2label.items()}}


def is_whole(name: str) -> bool:
    """Whether a label's name is a whole number."""
    return name.removeprefix("-").isdecimal()


def class_of(label: Any, config: PretrainedConfig, place: str) -> int:
    """The number of a label's class.

    Raises:
        InputError: the model has no such class; it names the place.
    """
    known, name = config.label2id or {}, name_of(label)
    if name in known:
        return known[name]
    if name.isdecimal() and int(name) < config.num_labels and not any(map(is_whole, known)):
        return int(name)
    shown = ", ".join(map(repr, list(known)[:SHOWN])) + (", …" if len(known) > SHOWN else "")
    near = did_you_mean(name, known)
    raise InputError(f"{place}: label: got {quoted(label)}, wanted one that was learnt: {shown}{near}")


def label_names(model: PreTrainedModel) -> list[str]:
    """Names of the classes of a model, by number."""
    names = model.config.id2label or {}
    return [names[number] for number in range(len(names))]


def several(names: Iterable[str], what: str) -> None:
    """Raise `InputError` unless there are two different labels."""
    found = sorted(set(names))
    if len(found) < 2:
        raise InputError(
            f"{what}: got {', '.join(map(repr, found)) or 'none'} in all rows, wanted at least two to tell apart"
        )


def list_of(value: Any, name: str, place: str) -> list[Any]:
    """A list that a cell holds: as such, as JSON, or as words between blanks."""
    if isinstance(value, str):
        value = parse_json(value, f"{place}: {name}") if value.lstrip().startswith("[") else value.split()
    if not isinstance(value, list):
        raise FileError(f"{place}: {name}: got {quoted(value)}, wanted a list")
    return value


def softmax(logits: Any) -> Any:
    """`[…, C]` logits → probabilities."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return powers / powers.sum(axis=-1, keepdims=True)


# ---------------------------------------------------------------------- texts


@dataclass(kw_only=True)
class TextClassification(Recipe):
    """A label for a text or a pair of texts, several labels, or a number. Args are the fields."""

    text_column: str | None = field(default=None, metadata={"help": "the column of texts"})
    pair_column: str | None = field(
        default=None, metadata={"help": "the column of second texts, read beside the first"}
    )
    label_column: str | None = field(default=None, metadata={"help": "the column of labels"})
    class_names: list[str] | None = field(default=None, metadata={"help": "names of classes 0, 1, … in this order"})
    multi_label: bool | None = field(
        default=None, metadata={"help": "a row has any number of labels: a list, or a text as in 'a|b'"}
    )
    label_separator: str = field(default="|", metadata={"help": "what stands between several labels in a text"})
    regression: bool | None = field(default=None, metadata={"help": "labels are amounts; found out from fractions"})

    task: ClassVar[str] = "text-classification"
    auto_class: ClassVar[str] = "AutoModelForSequenceClassification"
    lora_task: ClassVar[str | None] = "SEQ_CLS"

    @property
    def best(self) -> str:
        """Accuracy, F1 of several labels, or the correlation of amounts."""
        return "f1" if self.multi_label else "pearson" if self.regression else "accuracy"

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`text`, perhaps `text_pair`, and `label`."""
        found = Found(table)
        label = found.chosen("label_column", self.label_column, LABELS)
        if label is None:
            raise found.missing("labels", "label_column")
        first, second = self._texts(found, label)
        for number in range(len(table.records)):
            row = {"text": found.text(number, first)}
            if second is not None:
                row["text_pair"] = found.text(number, second)
            yield {**row, "label": self._label(found.value(number, label), table.where(number))}

    def _texts(self, found: Found, label: str) -> tuple[str, str | None]:
        """The columns of the text and of the second text."""
        if self.text_column is None and self.pair_column is None:
            for first, second in PAIRS:
                pair = found.chosen("", None, [first]), found.chosen("", None, [second])
                if pair[0] is not None and pair[1] is not None and label not in pair:
                    return pair[0], pair[1]
        second_text = found.chosen("pair_column", self.pair_column, ())
        return text_column(found, "text_column", self.text_column, label, second_text), second_text

    def _label(self, value: Any, place: str) -> Any:
        if isinstance(value, str) and self.multi_label:
            value = [part.strip() for part in value.split(self.label_separator) if part.strip()]
        parts = value if isinstance(value, list) else [value]
        if not all(isinstance(part, str | int | float) and part != "" for part in parts):
            raise FileError(f"{place}: label: got {quoted(value)}, wanted a text or a number")
        if len({name_of(part) for part in parts}) != len(parts):
            raise FileError(f"{place}: label: got {quoted(value)}, wanted each of several labels once, by its name")
        return value

    def settle(self, rows: Sequence[Row]) -> None:
        """Whether rows have one label or several, and whether these are amounts."""
        labels = [row["label"] for row in rows]
        if self.multi_label is None:
            self.multi_label = any(isinstance(label, list) for label in labels)
        if self.regression is None:
            numbers = [] if self.multi_label or self.class_names else list(map(number_of, labels))
            amounts = [number for number in numbers if number is not None]
            self.regression = len(amounts) == len(rows) and any(number != int(number) for number in amounts)
        if self.multi_label and self.regression:
            raise InputError("regression: got several labels a row, wanted one number; leave out one of the options")

    def _check(self, rows: Sequence[Row]) -> None:
        """Raise `InputError` for a row whose label is of another kind than `settle` has said."""
        for number, row in enumerate(rows):
            label = row["label"]
            if isinstance(label, list) != bool(self.multi_label):
                wanted = "a list of labels as in other rows" if self.multi_label else "one label"
                raise InputError(f"{where(rows, number)}: label: got {quoted(label)}, wanted {wanted}")
            if self.regression and number_of(label) is None:
                raise InputError(f"{where(rows, number)}: label: got {quoted(label)}, wanted a number")

    def head(self, rows: Sequence[Row], config: PretrainedConfig) -> dict[str, Any]:
        """Classes and the kind of problem."""
        self._check(rows)
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        labels = [row["label"] for row in rows]
        if self.multi_label:
            names = [name_of(part) for label in labels for part in label]
            return {**classes(names, config, self.class_names), "problem_type": "multi_label_classification"}
        names = list(map(name_of, labels))
        if self.class_names is None:
            several(names, "label")
        return {**classes(names, config, self.class_names), "problem_type": "single_label_classification"}

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Ids and label of each row; longer texts are cut."""
        self._check(rows)
        texts: list[Any] = [(row["text"], row["text_pair"]) if "text_pair" in row else row["text"] for row in rows]
        limit, made = self.limit(tokenizer, model), Features()
        ids, types, cut = cut_texts(texts, tokenizer, limit)
        for number, row in enumerate(rows):
            if not ids[number]:
                raise InputError(f"{where(rows, number)}: there are no tokens in it to read; drop empty texts")
            entry: dict[str, Any] = {"input_ids": ids[number]}
            if types is not None:
                entry["token_type_ids"] = types[number]
            entry["label"] = self._target(row["label"], model.config, where(rows, number))
            made.append(entry)
        made.rows = list(range(len(rows)))
        made.notes += cut_note(cut, len(rows), limit)
        return made

    def _target(self, label: Any, config: PretrainedConfig, place: str) -> Any:
        """What the loss compares with: the number of a class, an amount, or 1 at each label and 0 elsewhere."""
        if self.regression:
            return number_of(label)
        if not self.multi_label:
            return class_of(label, config, place)
        chosen = {class_of(part, config, place) for part in label}
        return [float(number in chosen) for number in range(config.num_labels)]

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Texts with a label each."""
        from pellucid.training.collators import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Accuracy and macro F1; of several labels micro F1; of amounts the error and correlations."""
        if self.regression:
            return as_compute_metrics(["mse", "pearson", "spearmanr"])
        if self.multi_label:
            return as_compute_metrics(get_metric("f1", average="micro", multilabel=True))
        return as_compute_metrics(["accuracy", get_metric("f1", average="macro")])

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Row],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """The best label and its score, all labels above a half, or the amount."""
        logits = np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions, dtype=np.float64)
        if self.regression:
            return [{"predicted": float(value)} for value in logits.reshape(len(rows), -1)[:, 0]]
        names = label_names(model)
        if self.multi_label:
            return [
                {"predicted": [name for name, logit in zip(names, row, strict=True) if logit > 0]} for row in logits
            ]
        scores = softmax(logits)
        return [{"predicted": names[int(row.argmax())], "score": float(row.max())} for row in scores]


# ---------------------------------------------------------------------- choices


@dataclass(kw_only=True)
class MultipleChoice(Recipe):
    """Which of some continuations, or answers, fits a text. Args are the fields."""

    text_column: str | None = field(default=None, metadata={"help": "the column of texts"})
    question_column: str | None = field(default=None, metadata={"help": "the column of what stands before each choice"})
    choices_column: str | None = field(default=None, metadata={"help": "the column of lists of choices"})
    label_column: str | None = field(default=None, metadata={"help": "the column of the right choice, from 0"})

    task: ClassVar[str] = "multiple-choice"
    auto_class: ClassVar[str] = "AutoModelForMultipleChoice"
    lora_task: ClassVar[str | None] = "SEQ_CLS"
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 5e-5, "per_device_train_batch_size": 16}

    @property
    def best(self) -> str:
        """Accuracy."""
        return "accuracy"

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`text`, `lead` (what stands before each choice), `choices` and `label`."""
        found = Found(table)
        label = found.chosen("label_column", self.label_column, ("label", "answer", "correct"))
        if label is None:
            raise found.missing("the right choice", "label_column")
        choices = found.chosen("choices_column", self.choices_column, [name for name in CHOICES if name != label])
        single = {name: matched for name in found.names if (matched := ONE_CHOICE.fullmatch(name.lower()))}
        columns = sorted(single, key=lambda name: int(single[name][1]))
        if choices is None and len(columns) < 2:
            raise found.missing("the choices", "choices_column")
        text = found.chosen("text_column", self.text_column, ("context", "sent1", "prompt", "text", "question"))
        lead = found.chosen(
            "question_column", self.question_column, [name for name in ("question", "sent2") if name != text]
        )
        if text is None:
            raise found.missing("the text", "text_column")
        count = 0
        for number in range(len(table.records)):
            place = table.where(number)
            if choices is None:
                given: list[Any] = [found.text(number, name) for name in columns]
            else:
                given = list_of(found.value(number, choices), choices, place)
            count = count or len(given)
            if not all(isinstance(choice, str) for choice in given) or len(given) != count or count < 2:
                wanted = f"{count} texts as in the first row" if count > 1 else "at least two texts"
                raise FileError(f"{place}: choices: got {quoted(given)}, wanted {wanted}")
            row = {"text": found.text(number, text), "lead": f"{found.text(number, lead)} " if lead else ""}
            yield {**row, "choices": given, "label": _choice(found.value(number, label), given, place)}

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """For each row the ids of the text beside each of its choices; the text gives way where both are too long."""
        pairs = [(row["text"], row["lead"] + choice) for row in rows for choice in row["choices"]]
        limit, made = self.limit(tokenizer, model), Features()
        try:
            ids, types, cut = cut_texts(pairs, tokenizer, limit, "only_first")
        except InputError as error:
            raise InputError(f"{self.task}: a choice has no room in {limit} tokens beside its text: {error}") from error
        start = 0
        for row in rows:
            own = slice(start, start + len(row["choices"]))
            entry: dict[str, Any] = {"input_ids": ids[own]}
            if types is not None:
                entry["token_type_ids"] = types[own]
            made.append({**entry, "label": row["label"]})
            start = own.stop
        made.rows = list(range(len(rows)))
        made.notes += cut_note(cut, len(pairs), limit)
        return made

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Texts with as many choices each."""
        from pellucid.training.collators import DataCollatorForMultipleChoice

        return DataCollatorForMultipleChoice(tokenizer)

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Accuracy."""
        return as_compute_metrics("accuracy")

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Row],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """The best choice and its score."""
        scores = softmax(
            np.asarray(predictions[0] if isinstance(predictions, tuple) else predictions, dtype=np.float64)
        )
        return [
            {
                "predicted": int(score.argmax()),
                "predicted_text": row["choices"][int(score.argmax())],
                "score": float(score.max()),
            }
            for row, score in zip(rows, scores, strict=True)
        ]


def _choice(label: Any, choices: Sequence[str], place: str) -> int:
    """The place of the right choice, which a label says as a number or as its text."""
    number = number_of(label)
    if number is not None and number in range(len(choices)):
        return int(number)
    if isinstance(label, str) and label in choices:
        return choices.index(label)
    raise FileError(f"{place}: label: got {quoted(label)}, wanted 0 to {len(choices) - 1}, or the text of a choice")
