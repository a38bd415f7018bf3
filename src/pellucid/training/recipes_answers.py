"""Question answering: learning where in a text the answer to a question stands.

Question and text are laid out in windows by the pipeline's own step, and answers are chosen by its last one, so that
what an evaluation measures is what `pipeline("question-answering", …)` answers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from pellucid.errors import FileError, InputError
from pellucid.files import parse_json, quoted
from pellucid.training.recipes import ComputeMetrics, Features, Figures, Found, Recipe
from pellucid.training.recipes_files import Table, where

if TYPE_CHECKING:
    from tokenizers import Encoding

    from pellucid.model import PreTrainedModel
    from pellucid.pipelines.question_answering import Passage, QuestionAnsweringPipeline
    from pellucid.tokenizer import PreTrainedTokenizerBase
    from pellucid.training.collators import Collator

TOGETHER = 512
"""Rows that are tokenized together; their encodings, which are large, are not kept."""

Row = Mapping[str, Any]


@dataclass(kw_only=True)
class QuestionAnswering(Recipe):
    """Answers out of texts, with windows over long texts. Args are the fields."""

    question_column: str | None = field(default=None, metadata={"help": "the column of questions"})
    context_column: str | None = field(default=None, metadata={"help": "the column of texts with the answers in them"})
    answers_column: str | None = field(
        default=None, metadata={"help": 'the column of answers: {"text": […], "answer_start": […]}'}
    )
    max_length: int | None = field(
        default=None, metadata={"help": "tokens of a window, question included (default: 384, or what the model reads)"}
    )
    doc_stride: int | None = field(
        default=None, metadata={"help": "tokens that neighbouring windows share (default: 128, or half a window)"}
    )
    max_answer_length: int = field(default=30, metadata={"help": "tokens of the longest answer in evaluations"})
    no_answer: bool | None = field(default=None, metadata={"help": "questions may have no answer, as in SQuAD 2.0"})

    task: ClassVar[str] = "question-answering"
    auto_class: ClassVar[str] = "AutoModelForQuestionAnswering"
    lora_task: ClassVar[str | None] = "QUESTION_ANS"
    usual: ClassVar[dict[str, Any]] = {"learning_rate": 3e-5, "per_device_train_batch_size": 16}

    @property
    def best(self) -> str:
        """F1 of the words of answers."""
        return "f1"

    # ------------------------------------------------------------------ rows

    def rows_of(self, table: Table) -> Iterator[dict[str, Any]]:
        """`id`, `question`, `context`, and `texts` of the answers with their `starts`; none for no answer."""
        found = Found(table)
        question = found.chosen("question_column", self.question_column, ("question",))
        context = found.chosen("context_column", self.context_column, ("context", "passage", "paragraph", "text"))
        answers = found.chosen("answers_column", self.answers_column, ("answers", "answer"))
        for what, column, option in (
            ("the question", question, "question_column"),
            ("the text", context, "context_column"),
            ("the answers", answers, "answers_column"),
        ):
            if column is None:
                raise found.missing(what, option)
        assert question is not None and context is not None and answers is not None
        for number, record in enumerate(table.records):
            place, text = table.where(number), found.text(number, context)
            if not text.strip() or not found.text(number, question).strip():
                raise FileError(f"{place}: got an empty question or text, wanted both")
            texts, starts = _answers(found.value(number, answers), text, f"{place}: {answers}")
            row = {"question": record[question], "context": text, "texts": texts, "starts": starts}
            yield {"id": str(record.get("id", number)), **row}

    def settle(self, rows: Sequence[Row]) -> None:
        """Whether questions without an answer are to be expected."""
        if self.no_answer is None:
            self.no_answer = any(not row["texts"] for row in rows)

    # ------------------------------------------------------------------ windows

    def _pipeline(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> QuestionAnsweringPipeline:
        from pellucid.pipelines.question_answering import QuestionAnsweringPipeline

        return QuestionAnsweringPipeline(model, tokenizer)

    def _passages(self, pipe: QuestionAnsweringPipeline, rows: Sequence[Row]) -> Iterator[tuple[int, Passage]]:
        """Each row's number and windows."""
        from pellucid.pipelines.question_answering import Passage

        told = {"max_seq_len": self.max_length, "doc_stride": self.doc_stride}
        given = {name: value for name, value in told.items() if value is not None}
        for first in range(0, len(rows), TOGETHER):
            pairs = [(row["question"], row["context"]) for row in rows[first : first + TOGETHER]]
            for number, passage in enumerate(pipe.preprocess(pairs, first, **given), first):
                if isinstance(passage, InputError):
                    raise InputError(f"{where(rows, number)}: {str(passage).partition(': ')[2]}")
                assert isinstance(passage, Passage)
                yield number, passage

    def features(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Features:
        """Ids of each window, and the places of the first and the last token of the first answer.

        In a window that does not hold the whole answer both are the place of the marker that stands for none, such as
        `[CLS]`.
        """
        made, pipe = Features(), self._pipeline(tokenizer, model)
        for number, passage in self._passages(pipe, rows):
            row = rows[number]
            if not row["texts"] and not self.no_answer:
                raise InputError(
                    f"{where(rows, number)}: answers: got none, wanted one, as all rows to learn from have; drop "
                    "the row, or pass no_answer=True"
                )
            answer = (row["starts"][0], row["starts"][0] + len(row["texts"][0])) if row["texts"] else None
            for part, encoding, span in zip(passage, passage.encodings, passage.spans, strict=True):
                entry: dict[str, Any] = {"input_ids": part.ids}
                if part.type_ids is not None:
                    entry["token_type_ids"] = part.type_ids
                first, last = places_of(answer, encoding, span) or (self._marker(part.ids, tokenizer),) * 2
                made.append({**entry, "start_positions": first, "end_positions": last})
                made.rows.append(number)
        return made

    @staticmethod
    def _marker(ids: list[int], tokenizer: PreTrainedTokenizerBase) -> int:
        """The place of the marker for no answer; the first where the model has none."""
        marker = tokenizer.cls_token_id
        return ids.index(marker) if marker in ids else 0

    def collator(self, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel) -> Collator:
        """Windows with two places each."""
        from pellucid.training.collators import DataCollatorWithPadding

        return DataCollatorWithPadding(tokenizer)

    # ------------------------------------------------------------------ figures

    def metrics(
        self, rows: Sequence[Row], features: Features, tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel
    ) -> ComputeMetrics:
        """Exact match and F1 from 0 to 100, as the scripts of SQuAD have them."""
        from pellucid.training.metrics import get_metric

        def compute_metrics(prediction: Any) -> Figures:
            found = [
                answer["predicted"] for answer in self.answers(prediction.predictions, rows, features, tokenizer, model)
            ]
            metric = get_metric("squad_v2" if self.no_answer else "squad")
            metric.update(found, [{"text": row["texts"]} for row in rows])
            figures = metric.compute()
            exact = figures.pop("exact", None)  # one name in both forms of SQuAD
            return figures if exact is None else {"exact_match": exact, **figures}

        return compute_metrics

    def answers(
        self,
        predictions: Any,
        rows: Sequence[Row],
        features: Features,
        tokenizer: PreTrainedTokenizerBase,
        model: PreTrainedModel,
    ) -> list[dict[str, Any]]:
        """The best answer to each question with its score, chosen among all windows."""
        import torch

        pipe, left = self._pipeline(tokenizer, model), tokenizer.padding_side == "left"
        start, end = predictions[:2]
        told = {"max_answer_len": self.max_answer_length, "handle_impossible_answer": bool(self.no_answer)}
        found, window = [], 0
        for _, passage in self._passages(pipe, rows):
            values = []
            for part in passage:
                own = slice(-len(part.ids), None) if left else slice(len(part.ids))
                pair = [torch.as_tensor(side[window][own]) for side in (start, end)]
                values.append(torch.stack(pair, dim=-1).float())
                window += 1
            best = pipe.postprocess(values, passage, **told)
            found.append({"predicted": best["answer"], **{name: best[name] for name in ("score", "start", "end")}})
        return found


def places_of(answer: tuple[int, int] | None, encoding: Encoding, span: range) -> tuple[int, int] | None:
    """The first and the last token of an answer in a window, or `None` where it is not all in there.

    Args:
        answer: first character, and the one behind the last.
        encoding: of the window.
        span: places of the tokens that are of the text.
    """
    if answer is None or not span:
        return None
    offsets = encoding.offsets[span.start : span.stop]
    starts, ends = [start for start, _ in offsets], [end for _, end in offsets]
    if starts[0] > answer[0] or ends[-1] < answer[1]:
        return None
    first = bisect_right(starts, answer[0]) - 1  # the last token that begins no later than the answer
    last = bisect_left(ends, answer[1])  # the first that ends no earlier
    return span.start + first, span.start + last


def _answers(value: Any, context: str, place: str) -> tuple[list[str], list[int]]:
    """Texts and first characters of answers in one of the forms that data sets have, each checked against its text."""
    if isinstance(value, str) and value.lstrip().startswith(("{", "[")):
        value = parse_json(value, place)
    if isinstance(value, dict) and isinstance(value.get("text"), list) and "answer_start" in value:
        places = value["answer_start"]
        if not isinstance(places, list) or len(places) != len(value["text"]):
            raise FileError(f"{place}: answer_start: got {quoted(places)}, wanted a number for each text")
        value = [{"text": text, "answer_start": start} for text, start in zip(value["text"], places, strict=True)]
    each = [value] if isinstance(value, dict | str) else value
    if not isinstance(each, list):
        raise FileError(f'{place}: got {quoted(value)}, wanted {{"text": […], "answer_start": […]}}')
    texts: list[str] = []
    starts: list[int] = []
    for answer in each:
        text = answer.get("text") if isinstance(answer, dict) else answer
        if not isinstance(text, str):
            raise FileError(f'{place}: got {quoted(answer)}, wanted {{"text": …, "answer_start": …}}')
        start: Any = answer.get("answer_start") if isinstance(answer, dict) else context.find(text)
        if not text:
            continue
        if isinstance(answer, str) and start >= 0 and context.count(text) > 1:
            raise FileError(f"{place}: {quoted(text)} stands in the text more than once; say where with answer_start")
        if not isinstance(start, int) or start < 0 or context[start : start + len(text)] != text:
            there = quoted(context[start : start + len(text)]) if isinstance(start, int) and start >= 0 else "nothing"
            raise FileError(f"{place}: got {quoted(text)} at {start}, where the text has {there}; count in characters")
        texts.append(text)
        starts.append(start)
    return texts, starts
