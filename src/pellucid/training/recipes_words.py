"""The recipe with a label for each word, such as the kind of name that it is part of."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pellucid.errors import FileError, InputError
from pellucid.files import quoted
from pellucid.training.metric_base import IGNORED
from pellucid.training.metrics import MetricGroup, get_metric
from pellucid.training.recipes import ComputeMetrics, Features, Figures, Found, Recipe
from pellucid.training.recipes_files import Table, where
from pellucid.training.recipes_labels import class_of, classes, is_whole, label_names, list_of, name_of, several

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.collators import Collator

WORDS = ("tokens", "words")
TAGS = ("tags", "ner_tags", "labels", "pos_tags", "chunk_tags")
_ENTITY_TAG = re.compile(r"O|[BIES]-.+")

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class TokenClassification(Recipe):
    """A label for each word of a text, such as the name that it is part of. Args are the fields.

    A word's label is that of its first piece. Texts that are longer than the model reads are laid out in overlapping
    windows, and each word is learnt and judged in the window that sees more of what is around it.
    """

    text_column: str | None = field(
        default=None, metadata={"help": "the column of words; of a CoNLL file its number, from 0 (default: 0)"}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "the column of tags; of a CoNLL file its number (default: -1, the last)"}
    )
    class_names: list[str] | None = field(default=None, metadata={"help": "names of classes 0, 1, … in this order"})

    task: ClassVar[str] = "token-classification"
    auto_class: ClassVar[str] = "AutoModelForTokenClassification"
    lora_task: ClassVar[str | None] = "TOKEN_CLS"
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 5e-5, "per_device_train_batch_size": 16}

    @property
    def best(self) -> str:
        """F1 of entities, or of labels."""
        return "f1"

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`tokens` and `tags`, as many."""
        if table.format == "conll":
            yield from self._of_cells(table)
            return
        found = Found(table)
        words = found.chosen("text_column", self.text_column, WORDS)
        tags = found.chosen("label_column", self.label_column, [name for name in TAGS if name != words])
        if words is None or tags is None:
            raise found.missing("words and tags", "text_column", "label_column")
        for number in range(len(table.records)):
            place = table.where(number)
            row = {"tokens": list_of(found.value(number, words), words, place)}
            row["tags"] = list_of(found.value(number, tags), tags, place)
            if len(row["tokens"]) != len(row["tags"]) or not row["tokens"]:
                counts = f"{len(row['tokens'])} words and {len(row['tags'])} tags"
                raise FileError(f"{place}: got {counts}, wanted as many of both, and at least one")
            if not all(isinstance(word, str) for word in row["tokens"]):
                raise FileError(f"{place}: {words}: got {quoted(row['tokens'])}, wanted texts")
            yield row

    def _of_cells(self, table: Table) -> Iterator[dict[str, Any]]:
        width = len(table.records[0][0])
        chosen = []
        for option, value in (("text_column", self.text_column or "0"), ("label_column", self.label_column or "-1")):
            if not is_whole(value) or not -width <= int(value) < width:
                raise FileError(f"{table.path}: {option}: got {value!r}, wanted a number from {-width} to {width - 1}")
            chosen.append(int(value))
        for sentence in table.records:
            yield {"tokens": [cells[chosen[0]] for cells in sentence], "tags": [cells[chosen[1]] for cells in sentence]}

    def head(self, rows: Sequence[Row], config: PretrainedConfig) -> dict[str, Any]:
        """The classes."""
        names = {name_of(tag) for row in rows for tag in row["tags"]}
        if self.class_names is None:
            several(names, "tags")
        return classes(names, config, self.class_names)

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Ids and labels of each text, or of its windows."""
        from pellucid.pipelines.preprocess import windows

        limit, made = self.limit(tokenizer, model), Features()
        words: list[Any] = spaced([row["tokens"] for row in rows], tokenizer)
        batch = tokenizer(
            words, is_split_into_words=True, return_attention_mask=False, return_token_type_ids=False, verbose=False
        )
        for number, (row, ids) in enumerate(zip(rows, batch["input_ids"], strict=True)):
            place = where(rows, number)
            targets = [class_of(tag, model.config, place) for tag in row["tags"]]
            at, labels, before = [], [], None
            for word in batch.word_ids(number):
                at.append(-1 if word is None or word == before else word)
                labels.append(IGNORED if at[-1] < 0 else targets[at[-1]])
                before = word
            if len(ids) <= limit:
                self._add(made, number, ids, labels, at)
                continue
            laid_out: list[Any] = [
                windows(values, None, batch.sequence_ids(number), limit // 4, limit, number)
                for values in (ids, labels, at)
            ]
            if isinstance(laid_out[0], InputError):
                raise InputError(f"{place}: {str(laid_out[0]).partition(': ')[2]}")
            for part, label_part, word_part in zip(*laid_out, strict=True):
                own = range(*part.own)
                kept = [[values[spot] if spot in own else none for spot in range(len(part.ids))]
                        for values, none in ((label_part.ids, IGNORED), (word_part.ids, -1))]  # fmt: skip
                self._add(made, number, part.ids, *kept)
        return made

    @staticmethod
    def _add(made: Features, row: int, ids: Sequence[int], labels: list[int], words: list[int]) -> None:
        made.append({"input_ids": ids, "labels": labels})
        made.rows.append(row)
        made.words.append([word for word in words if word >= 0])

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Texts with a label for each token."""
        from pellucid.training.collators import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Precision, recall and F1 of entities as seqeval has them; of other tags macro F1; and accuracy."""
        names = label_names(model)
        right = [
            [names[class_of(tag, model.config, where(rows, at))] for tag in row["tags"]] for at, row in enumerate(rows)
        ]
        by_entity = all(_ENTITY_TAG.fullmatch(name) for name in names)

        def compute_metrics(prediction: Any) -> Figures:
            found = self._tags(prediction.predictions, prediction.label_ids, rows, features, names)
            metric = (
                get_metric("seqeval") if by_entity else MetricGroup(["accuracy", get_metric("f1", average="macro")])
            )
            metric.update(found, right)
            return metric.compute()

        return compute_metrics

    def _tags(
        self, logits: Any, labels: Any, rows: Sequence[Row], features: Features, names: list[str]
    ) -> list[list[str]]:
        """A tag for each word of each row; `O`, or the first class, for a word that no token stands for."""
        nothing = "O" if "O" in names else names[0]
        found = [[nothing] * len(row["tokens"]) for row in rows]
        logits = logits[0] if isinstance(logits, tuple) else logits
        for number, row in enumerate(features.rows):
            best = logits[number][labels[number] != IGNORED].argmax(axis=-1)
            for word, label in zip(features.words[number], best.tolist(), strict=True):
                found[row][word] = names[label]
        return found

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Row],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """A tag for each word."""
        logits = predictions[0] if isinstance(predictions, tuple) else predictions
        width = logits.shape[1]
        filled = [(IGNORED,) * (width - len(entry["labels"])) for entry in features]
        left = tokenizer.padding_side == "left"
        labels = np.array([
            (*fill, *entry["labels"]) if left else (*entry["labels"], *fill)
            for fill, entry in zip(filled, features, strict=True)
        ])  # fmt: skip
        return [{"predicted": tags} for tags in self._tags(logits, labels, rows, features, label_names(model))]


def spaced(rows: list[list[str]], tokenizer: PreTrainedTokenizerBase) -> list[list[str]]:
    """Words as the pipeline will meet them in texts: with the space before them, if the tokenizer makes it a piece.

    Args:
        rows: the words of each text.
        tokenizer: of the model.
    """
    told: dict[str, Any] = {"is_split_into_words": True, "verbose": False}
    in_text = tokenizer(["a b a"], verbose=False)["input_ids"]
    if tokenizer([["a", "b", "a"]], **told)["input_ids"] == in_text:
        return rows
    if tokenizer([["a", " b", " a"]], **told)["input_ids"] != in_text:
        return rows
    return [[words[0], *(f" {word}" for word in words[1:])] for words in rows]
