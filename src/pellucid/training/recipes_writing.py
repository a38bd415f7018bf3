"""Recipes for texts: hidden words, the next word, and texts that answer texts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from pellucid.errors import FileError, InputError
from pellucid.files import quoted
from pellucid.training.metric_base import IGNORED
from pellucid.training.metrics import as_compute_metrics
from pellucid.training.recipes import (
    ComputeMetrics,
    Features,
    Figures,
    Found,
    Recipe,
    cut_note,
    cut_texts,
    text_column,
)
from pellucid.training.recipes_files import Table, where

if TYPE_CHECKING:
    import torch

    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.collators import Collator

BLOCK = 1024
"""Tokens of a block, unless told otherwise or the model reads fewer."""
SOURCES = ("source", "src", "input", "document", "article", "dialogue", "text", "question", "prompt")
TARGETS = ("target", "tgt", "output", "summary", "highlights", "translation", "answer", "response", "label")
_LOSS_LIMIT = 700.0
"""Above this, e to the loss is no number."""

Row = Mapping[str, Any]


# ---------------------------------------------------------------------- words of one text


@dataclass(kw_only=True)
class _OneText(Recipe):
    """What recipes for single texts share: rows of `text`, and perplexity."""

    text_column: str | None = field(default=None, metadata={"help": "the column of texts"})

    shifted: ClassVar[bool] = False
    """Whether a token's logits tell the next one."""

    @property
    def best(self) -> str:
        """Perplexity, the lower the better."""
        return "perplexity"

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`text`; rows with nothing in it stay, and are read as nothing."""
        found = Found(table)
        if found.lines:
            if self.text_column is not None:
                raise FileError(
                    f"{table.path}: text_column: got {self.text_column!r} for a file of lines without columns"
                )
            yield from ({"text": line} for line in table.records)
            return
        column = text_column(found, "text_column", self.text_column)
        for number in range(len(table.records)):
            yield {"text": found.text(number, column)}

    def reducer(self) -> Callable[[Any, Any], Any]:
        """The losses of each row in place of its logits, which are many."""
        return partial(sums_of, shifted=self.shifted)

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Perplexity: e to the mean loss of a word, in which each word weighs the same."""

        def compute_metrics(prediction: Any) -> Figures:
            loss, words = np.asarray(prediction.predictions, dtype=np.float64).sum(axis=0)
            mean = loss / max(words, 1.0)
            return {"perplexity": math.exp(mean) if mean < _LOSS_LIMIT else math.inf}

        return compute_metrics


def sums_of(logits: Any, labels: torch.Tensor, shifted: bool) -> torch.Tensor:
    """The loss of each row, summed over the words that count, and their number: `[B, 2]`.

    Args:
        logits: `[B, S, V]`.
        labels: `[B, S]`, -100 where none counts.
        shifted: a token's logits tell the next one.
    """
    import torch
    import torch.nn.functional as F

    logits = logits[0] if isinstance(logits, tuple) else logits
    if shifted:
        logits, labels = logits[:, :-1], labels[:, 1:]
    rows = []
    for row, wanted in zip(logits, labels, strict=True):  # row by row: a copy of all in float32 would be large
        kept = wanted != IGNORED
        loss = F.cross_entropy(row[kept].float(), wanted[kept], reduction="sum").double()
        rows.append(torch.stack([loss, kept.sum().to(loss)]))
    return torch.stack(rows)


@dataclass(kw_only=True)
class FillMask(_OneText):
    """Masked language modelling: some words of each text are hidden, and learnt. Args are the fields.

    A text that is longer than the model reads goes on in further rows.
    """

    mlm_probability: float = field(default=0.15, metadata={"help": "share of the words that are hidden"})
    whole_word_mask: bool = field(default=False, metadata={"help": "hide whole words and not pieces"})

    task: ClassVar[str] = "fill-mask"
    auto_class: ClassVar[str] = "AutoModelForMaskedLM"

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Ids of each text, in as many rows as it takes; empty texts are left out."""
        numbers = [number for number, row in enumerate(rows) if row["text"].strip()]
        if not numbers:
            raise InputError(f"{self.task}: got empty texts alone, wanted words to learn from")
        made, limit = Features(), self.limit(tokenizer, model)
        batch = tokenizer(
            [rows[number]["text"] for number in numbers],
            truncation=True,
            max_length=limit,
            return_overflowing_tokens=True,
            return_offsets_mapping=self.whole_word_mask,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        for place, number in enumerate(batch["overflow_to_sample_mapping"]):
            entry = {"input_ids": np.array(batch["input_ids"][place], dtype=np.int32)}
            if self.whole_word_mask:
                entry["offset_mapping"] = batch["offset_mapping"][place]
            made.append(entry)
            made.rows.append(numbers[number])
        return made

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Texts with hidden words."""
        from pellucid.training.masking import DataCollatorForLanguageModeling

        whole = self.whole_word_mask
        return DataCollatorForLanguageModeling(
            tokenizer, whole_word_mask=whole, mlm_probability=self.mlm_probability,
            mask_replace_prob=1.0 if whole else 0.8, random_replace_prob=0.0 if whole else 0.1,
        )  # fmt: skip


@dataclass(kw_only=True)
class TextGeneration(_OneText):
    """Causal language modelling: the next word of documents, cut into blocks of one length. Args are the fields.

    A document is a row of a file with columns, or a whole file of text; the end of a document is marked by the
    tokenizer's token for it, if there is one.
    """

    lines: bool = field(default=False, metadata={"help": "each line of a text file is a document of its own"})
    max_length: int | None = field(
        default=None, metadata={"help": f"tokens of a block (default: {BLOCK}, or what the model reads)"}
    )

    task: ClassVar[str] = "text-generation"
    auto_class: ClassVar[str] = "AutoModelForCausalLM"
    shifted: ClassVar[bool] = True
    lora_task: ClassVar[str | None] = "CAUSAL_LM"
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 5e-5, "per_device_train_batch_size": 8}

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`text`, a document each."""
        if table.format == "text" and not self.lines:
            table.records, table.numbers = ["\n".join(table.records)], [1]
        return super().rows_of(table)

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Blocks of tokens, one after another through all documents; labels are the tokens themselves."""
        documents = [row["text"] for row in rows if row["text"].strip()]
        if not documents:
            raise InputError(f"{self.task}: got empty texts alone, wanted words to learn from")
        batch = tokenizer(documents, return_attention_mask=False, return_token_type_ids=False, verbose=False)
        end = tokenizer.eos_token_id
        behind = [[] if end is None or ids[-1:] == [end] else [end] for ids in batch["input_ids"]]
        pieces = (ids + more for ids, more in zip(batch["input_ids"], behind, strict=True))
        stream = np.fromiter(chain.from_iterable(pieces), dtype=np.int32)
        size = min(self.limit(tokenizer, model), self.max_length or BLOCK)
        made = Features()
        for start in range(0, len(stream), size):
            block = stream[start : start + size]
            if len(block) > 1:  # of a single token nothing follows
                made.append({"input_ids": block, "labels": block})
        if not made:
            raise InputError(f"{self.task}: got {len(stream)} token in all, wanted at least two")
        return made

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Blocks with a label for each token."""
        from pellucid.training.collators import DataCollatorForTokenClassification

        return DataCollatorForTokenClassification(tokenizer)


# ---------------------------------------------------------------------- texts that answer texts


@dataclass(kw_only=True)
class Text2TextGeneration(Recipe):
    """Texts that answer texts, for encoder-decoders. Args are the fields."""

    source_column: str | None = field(default=None, metadata={"help": "the column of what is read"})
    target_column: str | None = field(default=None, metadata={"help": "the column of what is to be written"})
    prefix: str | None = field(
        default=None, metadata={"help": "words put before each text (default: the checkpoint's)"}
    )
    max_target_length: int = field(default=128, metadata={"help": "tokens that are learnt and written at most"})

    task: ClassVar[str] = "text2text-generation"
    auto_class: ClassVar[str] = "AutoModelForSeq2SeqLM"
    lora_task: ClassVar[str | None] = "SEQ_2_SEQ_LM"
    writes: ClassVar[bool] = True
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 1e-4, "per_device_train_batch_size": 16}
    figures: ClassVar[tuple[str, ...]] = ("rouge", "exact_match")

    @property
    def best(self) -> str:
        """The longest common parts with the reference."""
        return "rougeL"

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`source` and `target`."""
        for number, record in enumerate(table.records):  # {"translation": {"en": …, "fr": …}}, as data sets have it
            if isinstance(record, dict) and record.keys() - {"id"} == {"translation"}:
                inner = record["translation"]
                if not isinstance(inner, dict):
                    raise FileError(
                        f"{table.where(number)}: translation: got {quoted(inner)}, wanted texts by language"
                    )
                table.records[number] = inner
        found = Found(table)
        source = found.chosen("source_column", self.source_column, ())
        target = found.chosen("target_column", self.target_column, ())
        if source is None:
            source = found.chosen("", None, [name for name in SOURCES if name != target])
        if target is None:
            target = found.chosen("", None, [name for name in TARGETS if name != source])
        if source is None and target is None and len(found.names) == 2:
            source, target = found.names
        if source is None and len(rest := found.others(target)) == 1:
            source = rest[0]
        if target is None and len(rest := found.others(source)) == 1:
            target = rest[0]
        if source is None or target is None:
            raise found.missing("what is read, and what is to be written", "source_column", "target_column")
        for number in range(len(table.records)):
            yield {"source": found.text(number, source), "target": found.text(number, target)}

    def _prefix(self, model: PreTrainedModel) -> str:
        """What stands before each text, as the pipeline will put it there."""
        tasks = model.config.extra.get("task_specific_params")
        own = tasks.get(self.task) if isinstance(tasks, Mapping) else None
        known = own.get("prefix") if isinstance(own, Mapping) else None
        if self.prefix is not None and self.prefix != known:
            kept = dict(tasks) if isinstance(tasks, Mapping) else {}
            kept[self.task] = {**(own if isinstance(own, Mapping) else {}), "prefix": self.prefix}
            model.config.extra["task_specific_params"] = kept
            return self.prefix
        return str(known or model.config.extra.get("prefix") or "")

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Ids of what is read, and as labels those of what is to be written; longer texts are cut."""
        encoder: Any = model
        limit, made, prefix = self.limit(tokenizer, encoder.get_encoder()), Features(), self._prefix(model)
        ids, _, cut = cut_texts([prefix + row["source"] for row in rows], tokenizer, limit)
        written = tokenizer(
            text_target=[row["target"] for row in rows], truncation=True, max_length=self.max_target_length,
            return_attention_mask=False, return_token_type_ids=False, verbose=False,
        )["input_ids"]  # fmt: skip
        for number, (read, labels) in enumerate(zip(ids, written, strict=True)):
            if not read or not labels:
                raise InputError(f"{where(rows, number)}: there are no tokens in it to read or write; drop empty texts")
            made.append({"input_ids": read, "labels": labels})
        made.rows = list(range(len(rows)))
        made.notes += cut_note(cut, len(rows), limit)
        return made

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Texts and what is to be written."""
        from pellucid.training.collators import DataCollatorForSeq2Seq

        return DataCollatorForSeq2Seq(tokenizer, model)

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Figures of what the model writes beside the texts of the file."""
        count = as_compute_metrics(list(self.figures))

        def compute_metrics(prediction: Any) -> Figures:
            from pellucid.training.metrics import EvalPrediction

            found = self._texts(prediction.predictions, tokenizer)
            return count(EvalPrediction(found, [row["target"] for row in rows]))

        return compute_metrics

    @staticmethod
    def _texts(ids: Any, tokenizer: PreTrainedTokenizerBase) -> list[str]:
        """What was written, as texts."""
        rows: Iterable[Any] = ids[0] if isinstance(ids, tuple) else ids
        return [str(tokenizer.decode(row[row != IGNORED].tolist(), skip_special_tokens=True)).strip() for row in rows]

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Row],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """What was written."""
        return [{"predicted": text} for text in self._texts(predictions, tokenizer)]


@dataclass(kw_only=True)
class Summarization(Text2TextGeneration):
    """Short texts of long ones, judged by ROUGE. Args are the fields."""

    task: ClassVar[str] = "summarization"
    figures: ClassVar[tuple[str, ...]] = ("rouge",)


@dataclass(kw_only=True)
class Translation(Text2TextGeneration):
    """Texts in another language, judged by BLEU and chrF. Args are the fields."""

    src_lang: str | None = field(default=None, metadata={"help": "language of the texts, for models that know many"})
    tgt_lang: str | None = field(default=None, metadata={"help": "language to be written, for models that know many"})

    task: ClassVar[str] = "translation"
    figures: ClassVar[tuple[str, ...]] = ("bleu", "chrf")

    @property
    def best(self) -> str:
        """BLEU."""
        return "bleu"

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """As in `Text2TextGeneration`, with the tokenizer reading and the model writing the languages."""
        if self.src_lang is not None or self.tgt_lang is not None:
            speaker: Any = tokenizer
            if not hasattr(speaker, "_build_translation_inputs"):
                raise InputError(
                    f"src_lang and tgt_lang: {type(tokenizer).__name__} has no languages to choose from: the model "
                    "translates in one direction; leave them out"
                )
            speaker.src_lang = self.src_lang or speaker.src_lang
            speaker.tgt_lang = self.tgt_lang or speaker.tgt_lang
            inputs = speaker._build_translation_inputs("", src_lang=speaker.src_lang, tgt_lang=speaker.tgt_lang)
            writer: Any = model
            writer.generation_config.forced_bos_token_id = inputs["forced_bos_token_id"]
        return super().features(rows, tokenizer, model)
