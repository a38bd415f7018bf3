"""Question answering: where in a text the answer to a question stands.

    pipe = pipeline("question-answering")
    pipe(question="Where does Ada live?", context="Ada lives in London.")
    # {"score": 0.97…, "start": 13, "end": 19, "answer": "London"}

`context[start:end]` is the answer, and never part of the question. The model scores each token of the text to be the
answer's first and its last one; a span's score is the product of the two probabilities.

A long text is read in overlapping windows, all of them with the question. The best spans of all windows are collected;
equal answers, letter case aside, count as one with the sum of their scores, so a score may be above 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack

import torch
import torch.nn.functional as F

from pellucid.errors import InputError, reject_unknown
from pellucid.files import quoted
from pellucid.pipelines.base import Pipeline
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.preprocess import LONG, LengthRule, readable_tokens
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from tokenizers import Encoding
    from torch import Tensor

    from pellucid.layout import PackedTokens
    from pellucid.tokenizer.encoding import BatchEncoding

WINDOW = 384
"""Tokens of a window, question included, unless told otherwise."""
OVERLAP = 128
ANSWER = 15
"""Tokens of the longest answer, unless told otherwise."""


class AnsweringOptions(TypedDict, total=False):
    """What a question answering pipeline can be told.

    Attributes:
        top_k: answers for each question, best first; default 1.
        topk: older name of `top_k`.
        doc_stride: tokens that neighbouring windows share; default 128, or less where windows are small.
        max_answer_len: tokens of the longest answer; default 15.
        max_seq_len: tokens of a window, question included; default 384, or what the model reads.
        max_question_len: cut longer questions to that many tokens; default: no question is cut.
        handle_impossible_answer: let "no answer" (an empty one) compete with the others.
        align_to_words: stretch answers to whole words; default `True`.
        long: for texts longer than a window, `"window"` (default), `"error"` or `"truncate"`.
        batch_size: windows in a batch, in place of the token budget, which is the faster choice.
        tokens_per_batch: tokens in a batch, in place of the budget that is found by trying.
        on_error: `"raise"` (default) the error of a row that cannot be read; `"keep"` it as the row's answer; or
            `"collect"` it: the row's answer is `None`, and `last_run.errors` has its number and the error.
        progress: show a progress bar; default: when the run takes a while and a terminal is there.
        padding: accepted for compatibility; padding is never computed.
        num_workers: accepted for compatibility; tokenizing uses all cores by itself.
    """

    top_k: int | None
    topk: int | None
    doc_stride: int | None
    max_answer_len: int | None
    max_seq_len: int | None
    max_question_len: int | None
    handle_impossible_answer: bool | None
    align_to_words: bool | None
    long: Literal["error", "truncate", "window"] | None
    batch_size: int | None
    tokens_per_batch: int | None
    on_error: Literal["raise", "keep", "collect"]
    progress: bool | None
    padding: bool | str | None
    num_workers: int | None


COUNTS = {"top_k": 1, "topk": 1, "doc_stride": 0, "max_answer_len": 1, "max_seq_len": 1, "max_question_len": 1}
"""Options that are numbers, and the least that each may be."""


class Passage(list[Part]):
    """A text with its question, window by window.

    Args:
        parts: the windows.
        context: the text.
        encodings: the windows with their way back to characters.
        spans: for each window the places of its tokens that are of the text.
        second: whether the text stands behind the question.
    """

    def __init__(
        self, parts: Sequence[Part], context: str, encodings: Sequence[Encoding], spans: Sequence[range], second: bool
    ) -> None:
        super().__init__(parts)
        self.context, self.encodings, self.spans, self.second = context, encodings, spans, second

    def keep_first(self) -> None:
        """Cut the text to its first window."""
        self[0] = self[0]._replace(own=(0, len(self[0].ids)), cut=self[0].cut or len(self) > 1)
        del self[1:]
        self.encodings, self.spans = self.encodings[:1], self.spans[:1]


class QuestionAnsweringPipeline(Pipeline):
    """Answers out of texts; arguments as in `Pipeline`, and the options of `AnsweringOptions`."""

    name = "question-answering"
    auto_class = "AutoModelForQuestionAnswering"
    default_model = "distilbert/distilbert-base-cased-distilled-squad"
    options = AnsweringOptions
    fields = ("question", "context")

    def __call__(
        self, inputs: Any = None, context: Any = None, *, question: Any = None, **options: Unpack[AnsweringOptions]
    ) -> Any:
        """Answer questions.

        Args:
            inputs: `{"question": …, "context": …}` or `(question, context)`; a list of them; anything else that yields
                them, such as a data set; or the `pathlib.Path` of a JSON lines file. Or a question alone.
            context: the text to find the answer in, or one for each of several questions.
            question: a question or a list of questions, in place of `inputs`.
            options: see `AnsweringOptions`.

        Returns:
            For each question `{"score": …, "start": …, "end": …, "answer": …}`, or a list of those where there are
            several, best first. A list for a list (of one question: its answer alone, as the field has it), a
            generator for anything else that has many rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        known = self.known_options()
        if unknown := options.keys() - known:
            reject_unknown(type(self).__name__, unknown, known | {"question", "context", "inputs"})
        if question is not None and inputs is not None:
            raise InputError("question: got inputs too; give the question once, with its context")
        asked = inputs if question is None else question
        rows = asked if context is None and question is None else _joined(asked, context)
        answer = self.answer(rows, options)
        return answer[0] if isinstance(rows, list) and len(rows) == 1 else answer

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        for name, least in COUNTS.items():
            value = options.get(name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
                raise InputError(f"{name}: got {value!r}, wanted a number from {least}")
        if options.get("long") not in (None, *LONG):
            raise InputError(f"long: got {options['long']!r}, wanted one of {list(LONG)}")
        super().check(options)

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """How large windows are, and what they share."""
        readable = readable_tokens(self.model)
        limit = options.get("max_seq_len") or min(self.tokenizer.model_max_length, readable, WINDOW)
        if limit > readable:
            raise InputError(f"max_seq_len: got {limit}, the model reads at most {readable} tokens")
        stride = options.get("doc_stride")
        if stride is not None and stride >= limit:
            raise InputError(f"doc_stride: got {stride}, wanted less than the {limit} tokens of a window (max_seq_len)")
        return LengthRule(limit, overlap=min(limit // 2, OVERLAP) if stride is None else stride)

    # ------------------------------------------------------------------ step one: question and text → windows

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn questions and texts into the ids of windows, and remember which characters the tokens stand for."""
        found: list[Any] = [_read(row, number) for number, row in enumerate(rows, first)]
        rule = self.length_rule(options)
        places = [place for place, pair in enumerate(found) if not isinstance(pair, InputError)]
        limit = options.get("max_question_len")
        pairs = {place: self._shortened(found[place], limit) if limit else found[place] for place in places}
        by_overlap: dict[int, list[int]] = {}
        for place, room in zip(places, self._rooms([question for question, _ in pairs.values()], rule), strict=True):
            if room < 1:
                found[place] = InputError(
                    f"row {first + place}: the question has {rule.limit - room:,} tokens, with the markers around it, "
                    f"and a window has {rule.limit:,}; shorten it, or pass max_question_len or a larger max_seq_len"
                )
            else:  # windows that are nearly filled by the question cannot share as much as others
                overlap = rule.overlap or 0
                by_overlap.setdefault(overlap if overlap < room else room // 2, []).append(place)
        for overlap, alike in by_overlap.items():
            passages = self._passages([pairs[place] for place in alike], LengthRule(rule.limit, overlap=overlap))
            for place, passage in zip(alike, passages, strict=True):
                if pairs[place] != found[place]:  # the question was shortened
                    passage[0] = passage[0]._replace(cut=True)
                error = _refusal(passage, overlap, rule, options)
                found[place] = InputError(f"row {first + place}: {error}") if error else passage
        return found

    def _shortened(self, pair: tuple[str, str], limit: int) -> tuple[str, str]:
        """The question cut to a number of tokens, and the text as it is."""
        question, context = pair
        read = self.tokenizer(question, add_special_tokens=False, return_offsets_mapping=True, verbose=False)
        offsets = read["offset_mapping"]
        return question[: offsets[limit - 1][1]] if len(offsets) > limit else question, context

    def _rooms(self, questions: list[str], rule: LengthRule) -> list[int]:
        """How many tokens of the text fit into a window beside each question."""
        if not questions:
            return []
        read = self.tokenizer(questions, add_special_tokens=False, return_attention_mask=False, verbose=False)
        room = rule.limit - self.tokenizer.num_special_tokens_to_add(pair=True)
        return [room - len(ids) for ids in read["input_ids"]]

    @property
    def _question_first(self) -> bool:
        """Whether the model was trained with the text behind the question, as those padded on the right are."""
        return self.tokenizer.padding_side == "right"

    def _passages(self, pairs: Sequence[tuple[str, str]], rule: LengthRule) -> list[Passage]:
        """Questions and texts in windows, which have room for what they share."""
        second = self._question_first
        batch = self.tokenizer(
            [pair if second else pair[::-1] for pair in pairs],
            truncation="only_second" if second else "only_first",
            max_length=rule.limit,
            stride=rule.overlap or 0,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        numbers: list[list[int]] = [[] for _ in pairs]
        for number, pair in enumerate(batch["overflow_to_sample_mapping"]):
            numbers[pair].append(number)
        texts = [context for _, context in pairs]
        return [self._passage(text, batch, own, rule) for text, own in zip(texts, numbers, strict=True)]

    def _passage(self, context: str, batch: BatchEncoding, numbers: Sequence[int], rule: LengthRule) -> Passage:
        """The windows of one text, which are rows of a batch."""
        assert batch.encodings is not None
        types, wanted = batch.data.get("token_type_ids"), int(self._question_first)
        encodings, spans, parts = [batch.encodings[number] for number in numbers], [], []
        for number, encoding in zip(numbers, encodings, strict=True):
            sequence_ids = encoding.sequence_ids
            start, count = [*sequence_ids, wanted].index(wanted), sequence_ids.count(wanted)
            spans.append(range(start, start + count))
            begin = 0 if number == numbers[0] else start + (rule.overlap or 0)
            own = begin, len(encoding) if number == numbers[-1] else start + count
            parts.append(Part(batch["input_ids"][number], types and types[number], own))
        return Passage(parts, context, encodings, spans, self._question_first)

    # ------------------------------------------------------------------ steps two and three

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Logits `[S, 2]` of each part's tokens: to be the first of the answer, and the last."""
        output = self.runner(**self.both_ways(packed), return_dict=True)
        return packed.layout.split(torch.stack([output.start_logits, output.end_logits], dim=-1).float().cpu())

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Logits of a row's windows → its best answers."""
        answers = self._answers(values, parts, options)
        return answers[0] if len(answers) == 1 else answers

    def _answers(self, values: list[Tensor], parts: list[Part], options: Mapping[str, Any]) -> list[dict[str, Any]]:
        """The best answers of all windows, best first."""
        assert isinstance(parts, Passage)
        count = options.get("top_k") or options.get("topk") or 1
        aligned = options.get("align_to_words") is not False
        longest = options.get("max_answer_len") or ANSWER
        found: dict[str, dict[str, Any]] = {}
        nothing = 1e6  # above every score
        for value, part, encoding, span in zip(values, parts, parts.encodings, parts.spans, strict=True):
            marker = self._marker(part, encoding)
            places = [*([] if marker is None else [marker]), *span]
            scores = value[places].softmax(dim=0)  # [places, 2]
            start, end = scores[len(places) - len(span) :].unbind(dim=1)
            nothing = min(nothing, 0.0 if marker is None else float(scores[0].prod()))
            # Some of them are one answer once they are aligned, so more are taken than are wanted.
            for first, last, score in best_spans(start, end, 2 * count + 10 if aligned else count, longest):
                characters = _characters(encoding, span[first], span[last], int(parts.second), aligned)
                answer = parts.context[slice(*characters)]
                known = found.setdefault(
                    answer.lower(), {"score": 0.0, "start": characters[0], "end": characters[1], "answer": answer}
                )
                known["score"] += score
        answers = list(found.values())
        if options.get("handle_impossible_answer"):
            answers.append({"score": nothing, "start": 0, "end": 0, "answer": ""})
        return sorted(answers, key=lambda answer: answer["score"], reverse=True)[:count]

    def _marker(self, part: Part, encoding: Encoding) -> int | None:
        """Place of the marker that stands for "no answer", such as `[CLS]`; not one that is written in a text."""
        marker = self.tokenizer.cls_token_id
        rows = enumerate(zip(part.ids, encoding.sequence_ids, strict=True))
        return next((place for place, (token, text) in rows if token == marker and text is None), None)

    def shown(self, row: Any, parts: list[Part], options: Mapping[str, Any]) -> str | tuple[str, ...]:
        """Question and text of a row."""
        pair = _read(row, 0)
        return super().shown(row, parts, options) if isinstance(pair, InputError) else pair

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The tokens with the highest logits, and the best answers."""
        assert isinstance(parts, Passage)
        rows = [
            (str(self.tokenizer.convert_ids_to_tokens(part.ids[place])), value[place].tolist())
            for value, part, span in zip(values, parts, parts.spans, strict=True)
            for place in span
        ]
        rows.sort(key=lambda row: max(row[1]), reverse=True)
        answers = self._answers(values, parts, {**options, "top_k": options.get("top_k") or 5})
        tokens = len(self.pieces(parts)[0])
        return {
            "shapes": f"{tokens} tokens × {self.model.config.hidden_size} numbers → 2 logits each: first, last",
            "outputs": rows,
            "function": "Postprocessing: logits → softmax over the text → products for spans",
            "scores": [(answer["answer"], [answer["score"]]) for answer in answers],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The sum of the start logit and the end logit of the answer, in the window that is surest of it."""
        assert isinstance(parts, Passage)
        wanted = self._answers(values, parts, {**options, "handle_impossible_answer": False, "top_k": 1})[0]["answer"]
        aligned, longest = options.get("align_to_words") is not False, options.get("max_answer_len") or ANSWER
        found = []
        for number, (value, encoding, span) in enumerate(zip(values, parts.encodings, parts.spans, strict=True)):
            start, end = value[list(span)].softmax(dim=0).unbind(dim=1)
            for first, last, score in best_spans(start, end, 12, longest):
                characters = _characters(encoding, span[first], span[last], int(parts.second), aligned)
                same = parts.context[slice(*characters)].lower() == wanted.lower()
                found.append((same, score, number, span[first], span[last]))
        _, _, number, first, last = max(found)
        encoding = parts.encodings[number]
        spans = [
            None if text is None else (text, *offsets)
            for text, offsets in zip(encoding.sequence_ids, encoding.offsets, strict=True)
        ]
        pair = _read(row, 0)
        assert not isinstance(pair, InputError)
        return Explained(
            f"start and end logit of {wanted}",
            lambda logits: logits[0][first, 0] + logits[0][last, 1],
            [number],
            [pair if parts.second else pair[::-1]],
            spans,
        )


# ---------------------------------------------------------------------- rows


def _joined(question: Any, context: Any) -> Any:
    """Rows of what came as question and context."""
    if isinstance(question, str) and isinstance(context, str):
        return question, context
    if isinstance(question, list) and isinstance(context, str):
        return [(each, context) for each in question]
    if isinstance(question, list) and isinstance(context, list):
        if len(question) != len(context):
            raise InputError(f"context: got {len(context)} for {len(question)} questions, wanted one for each, or one")
        return list(zip(question, context, strict=True))
    raise InputError(
        f"question and context: got {quoted(question)} and {quoted(context)}, wanted two texts, or lists of them"
    )


def _read(row: Any, number: int) -> tuple[str, str] | InputError:
    """The question and the text in a row, or what is wrong with it; other fields of a data set's row may be there."""
    if isinstance(row, Mapping):
        row = row.get("question"), row.get("context")
    if isinstance(row, tuple) and len(row) == 2 and all(isinstance(text, str) for text in row):
        empty = next((name for name, text in zip(("question", "context"), row, strict=True) if not text), None)
        return InputError(f"row {number}: {empty}: it is empty; drop such rows") if empty else row
    return InputError(
        f'row {number}: got {quoted(row)}, wanted {{"question": …, "context": …}} or (question, context), both of them '
        "texts"
    )


def _refusal(passage: Passage, overlap: int, rule: LengthRule, options: Mapping[str, Any]) -> str | None:
    """Why a text cannot be read in these windows; what is to be cut is."""
    if not any(passage.spans):
        return "the context has no tokens in it to find an answer in; drop empty texts"
    if options.get("long") == "truncate":
        passage.keep_first()
    if len(passage) > 1 and options.get("long") == "error":
        return (
            f'question and text have more than {rule.limit:,} tokens; pass long="window" to read all of it, or '
            'long="truncate" to cut it'
        )
    if len(passage) > 1 and options.get("doc_stride") is not None and overlap != rule.overlap:
        return (
            f"doc_stride: got {rule.overlap}, and a window has no more room than that beside this question; use a "
            "smaller one, or a larger max_seq_len"
        )
    return None


# ---------------------------------------------------------------------- spans


def best_spans(start: Tensor, end: Tensor, count: int, longest: int) -> list[tuple[int, int, float]]:
    """The spans with the highest scores, best first; of equal ones the earlier and shorter.

    Args:
        start: `[S]`, how probable each token is as the first one.
        end: `[S]`, the same for the last one.
        count: how many spans.
        longest: tokens of the longest one.

    Returns:
        First token, last token (which is part of it), and score.
    """
    longest = min(longest, len(start))
    if not longest:
        return []
    table = start[:, None] * F.pad(end, (0, longest - 1)).unfold(0, longest, 1)  # [S, longest]
    place = torch.arange(len(start))[:, None] + torch.arange(longest)
    table = table.masked_fill(place >= len(start), -1.0)
    scores, order = table.flatten().sort(descending=True, stable=True)
    best = zip(order[:count].tolist(), scores[:count].tolist(), strict=True)
    return [(at // longest, at // longest + at % longest, score) for at, score in best if score >= 0]


def _characters(encoding: Encoding, first: int, last: int, text: int, aligned: bool) -> tuple[int, int]:
    """Characters from the beginning of one token to the end of another, or of their words."""
    if aligned:
        words = encoding.token_to_word(first), encoding.token_to_word(last)
        around = [None if word is None else encoding.word_to_chars(word, text) for word in words]
        if around[0] is not None and around[1] is not None:
            return around[0][0], around[1][1]
    start, end = encoding.token_to_chars(first), encoding.token_to_chars(last)
    assert start is not None and end is not None  # tokens of the text, and no markers
    return start[0], end[1]
