"""Token classification: which label fits each piece or word of a text, such as the kind of name that it is part of.

    pipe = pipeline("ner", aggregation_strategy="simple")
    pipe("Ada lives in London")
    # [{"entity_group": "PER", "score": 0.99…, "word": "Ada", "start": 0, "end": 3}, {"entity_group": "LOC", …}]

`text[start:end]` is what an answer is about. Labels are of pieces, and are brought together in two steps: pieces to
words (`first`, `average`, `max`), then neighbours of one kind to an entity (`simple` does only this).

A long text is read in overlapping windows unless told otherwise. Each of its pieces gets its label from the window
that sees more of its surroundings, so an entity may go from one window into the next. With `stride` alone, answers are
merged as Transformers does it: each window has entities of its own, and of those that overlap the longest stays.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Unpack

import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.preprocess import LengthRule, refusal, windows
from pellucid.pipelines.steps import Described, Explained
from pellucid.tokenizer.vocabulary import replace_surrogates

if TYPE_CHECKING:
    from tokenizers import Encoding
    from torch import Tensor

    from pellucid.layout import PackedTokens

STRATEGIES = ("none", "simple", "first", "average", "max")
BY_WORD = STRATEGIES[2:]


class TokenOptions(CallOptions, total=False):
    """What a token classification pipeline can be told.

    Attributes:
        aggregation_strategy: `"none"` (default) answers for each piece; `"simple"` for each entity, as the pieces say;
            the others let a word have one label only: that of its `"first"` piece, that of the `"average"` of its
            pieces' scores, or that of the piece which is surest (`"max"`).
        ignore_labels: labels without an answer; default `["O"]`.
        is_split_into_words: a text is a list of words.
        delimiter: what stands between these words in the text that `start` and `end` count in; default a space.
        grouped_entities: older way to ask for `"simple"`.
        ignore_subwords: with it, older way to ask for `"first"`.
    """

    aggregation_strategy: Literal["none", "simple", "first", "average", "max"] | None
    ignore_labels: Sequence[str] | None
    is_split_into_words: bool
    delimiter: str | None
    grouped_entities: bool | None
    ignore_subwords: bool | None


class Piece(NamedTuple):
    """A token of the text.

    Attributes:
        index: its place among the tokens that the model reads.
        text: the token as it stands in the vocabulary; of an unknown one, its characters.
        start: first of its characters.
        end: the one behind its last.
        goes_on: whether it belongs to the word of the piece before.
    """

    index: int  # type: ignore[assignment]  # stands before the method of tuples on purpose
    text: str
    start: int
    end: int
    goes_on: bool


class Marked(list[Part]):
    """A text as the model reads it, and the pieces that it was made of.

    Args:
        parts: windows of the text, or all of it.
        pieces: its tokens; `None` for markers such as `[CLS]`.
    """

    def __init__(self, parts: Sequence[Part], pieces: list[Piece | None]) -> None:
        super().__init__(parts)
        self.pieces = pieces

    def by_window(self) -> Iterator[list[Piece | None]]:
        """The pieces of each window, one for each of its tokens; those around the text are markers in all windows."""
        before = next(place for place, piece in enumerate(self.pieces) if piece is not None)
        after = next(place for place, piece in enumerate(reversed(self.pieces)) if piece is not None)
        passed = 0
        for part in self:
            shift, inside = passed - part.own[0], range(before, len(part.ids) - after)
            yield [self.pieces[place + shift] if place in inside else None for place in range(len(part.ids))]
            passed += part.own[1] - part.own[0]


class TokenClassificationPipeline(Pipeline):
    """Labels of pieces, words and entities; arguments as in `Pipeline`, and the options of `TokenOptions`."""

    name = "token-classification"
    auto_class = "AutoModelForTokenClassification"
    default_model = "dslim/distilbert-NER"
    options = TokenOptions
    list_name = "entities"

    def __call__(self, inputs: Any, **options: Unpack[TokenOptions]) -> Any:
        """Find what is named in texts.

        Args:
            inputs: a text; a list of texts; anything else that yields them; or the `pathlib.Path` of a file of lines.
                With `is_split_into_words` a list of words, or several of them.
            options: see `TokenOptions` and `CallOptions`.

        Returns:
            For each text a list of `{"entity": …, "score": …, "index": …, "word": …, "start": …, "end": …}` for
            pieces, or, aggregated, of `{"entity_group": …, "score": …, "word": …, "start": …, "end": …}`. `word` is
            what the tokenizer makes of the pieces; the text itself says `text[start:end]`. A list of these lists for
            a list, a generator for anything else that has many rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        split = self.merge(options).get("is_split_into_words")
        if split and isinstance(inputs, list | tuple) and not all(isinstance(words, list) for words in inputs):
            inputs = [inputs]
        return self.answer(inputs, options)

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        self._strategy(options)
        ignored, delimiter = options.get("ignore_labels"), options.get("delimiter")
        if ignored is not None and (isinstance(ignored, str) or not isinstance(ignored, Sequence)):
            raise InputError(f"ignore_labels: got {quoted(ignored)}, wanted a list of labels")
        if delimiter is not None and not isinstance(delimiter, str):
            raise InputError(f"delimiter: got {quoted(delimiter)}, wanted a text")

    def _strategy(self, options: Mapping[str, Any]) -> str:
        """How pieces become answers."""
        asked = options.get("aggregation_strategy")
        if asked is None:
            if not options.get("grouped_entities"):
                return "none"
            return "first" if options.get("ignore_subwords") else "simple"
        name = str(asked).lower()
        if name not in STRATEGIES:
            near = did_you_mean(name, STRATEGIES)
            raise InputError(f"aggregation_strategy: got {asked!r}, wanted one of {list(STRATEGIES)}{near}")
        return name

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """What the options say about long texts, which are read in windows when they say nothing."""
        if options.get("long") is None and options.get("truncation") in (None, False, "do_not_truncate"):
            options = {**options, "long": "window"}
        return super().length_rule(options)

    # ------------------------------------------------------------------ step one: text → pieces

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, and remember which characters each of them stands for."""
        rule, split = self.length_rule(options), bool(options.get("is_split_into_words"))
        found: list[Any] = [_read(row, number, split) for number, row in enumerate(rows, first)]
        places = [place for place, text in enumerate(found) if not isinstance(text, InputError)]
        if not places:
            return found
        batch = self.tokenizer(
            [found[place] for place in places],
            is_split_into_words=split,
            add_special_tokens=options.get("add_special_tokens", True),
            truncation=rule.strategy or False,
            max_length=rule.limit if rule.strategy else None,
            return_offsets_mapping=True,
            return_token_type_ids=False,
            return_attention_mask=False,
            verbose=False,
        )
        delimiter = options.get("delimiter")
        for place, encoding in zip(places, batch.encodings or (), strict=True):
            words = found[place] if split else None
            pieces = self._pieces(found[place], words, " " if delimiter is None else delimiter, encoding)
            found[place] = _lay_out(encoding, pieces, rule, first + place)
        return found

    def _pieces(self, text: Any, words: Sequence[str] | None, delimiter: str, encoding: Encoding) -> list[Piece | None]:
        """What each token stands for in the text, or in the text that its words make."""
        begins = [0]
        for word in words or ():
            begins.append(begins[-1] + len(word) + len(delimiter))
        if words is not None:
            text = delimiter.join(words)
        prefix = getattr(self.tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        unknown, before = self.tokenizer.unk_token_id, None
        found: list[Piece | None] = []
        rows = zip(
            encoding.ids,
            encoding.tokens,
            encoding.offsets,
            encoding.word_ids,
            encoding.special_tokens_mask,
            strict=True,
        )
        for index, (token_id, token, (start, end), word_id, special) in enumerate(rows):
            if special:
                found.append(None)
                continue
            if words is not None and word_id is not None:
                start, end = start + begins[word_id], end + begins[word_id]
            if token_id == unknown:
                token, goes_on = replace_surrogates(text[start:end]), False
            elif prefix:
                goes_on = token.startswith(prefix)
            else:  # without marks on its pieces, a word is what has no space in it
                goes_on = start > 0 and not any(letter.isspace() for letter in text[start - 1 : start + 1])
                goes_on = goes_on and (words is None or word_id == before)
            before = word_id
            found.append(Piece(index, token, start, end, goes_on))
        return found

    # ------------------------------------------------------------------ steps two and three

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Logits `[S, C]` of each part."""
        logits: Tensor = self.runner(**self.both_ways(packed), return_dict=True).logits  # [T, C]
        return packed.layout.split(logits.float().cpu())

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> list[dict[str, Any]]:
        """Logits of a row's windows → its answers."""
        assert isinstance(parts, Marked)
        strategy = self._strategy(options)
        by_window = options.get("stride") is not None and options.get("long") is None and strategy != "none"
        if by_window and len(parts) > 1:
            found = []
            for value, pieces in zip(values, parts.by_window(), strict=True):
                found += self._answers(value, pieces, strategy, options)
            return longest(found)
        return self._answers(_own(values, parts), parts.pieces, strategy, options)

    def _answers(
        self, logits: Tensor, pieces: Sequence[Piece | None], strategy: str, options: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        """Answers for pieces with logits `[S, C]`, without those that are to be ignored."""
        real = [(piece, row) for row, piece in enumerate(pieces) if piece is not None]
        if not real:
            return []
        scores = logits[[row for _, row in real]].softmax(dim=-1)
        names = self.model.config.id2label or {}
        found = self._by_word([piece for piece, _ in real], scores, strategy, names)
        if strategy != "none":
            found = [self._joined(group) for group in neighbours(found)]
        ignored = ["O"] if options.get("ignore_labels") is None else options["ignore_labels"]
        return [answer for answer in found if answer.get("entity", answer.get("entity_group")) not in ignored]

    def _by_word(
        self, pieces: Sequence[Piece], scores: Tensor, strategy: str, names: Mapping[int, str]
    ) -> list[dict[str, Any]]:
        """An answer for each word, from the scores `[S, C]` of its pieces; where words do not count, for each piece."""
        best, labels = scores.max(dim=-1)
        sure, label_ids = best.tolist(), labels.tolist()
        found = []
        for group in (
            _words(pieces) if strategy in BY_WORD else [range(place, place + 1) for place in range(len(pieces))]
        ):
            chosen = group.start if strategy != "max" else max(group, key=sure.__getitem__)
            score, label = sure[chosen], label_ids[chosen]
            if strategy == "average" and len(group) > 1:
                mean = scores[group.start : group.stop].mean(dim=0)  # [pieces, C] → [C]
                label = int(mean.argmax())
                score = float(mean[label])
            tokens = [pieces[place].text for place in group]
            word = self.tokenizer.convert_tokens_to_string(tokens) if strategy in BY_WORD else tokens[0]
            at = {"start": pieces[group.start].start, "end": pieces[group.stop - 1].end}
            found.append({"entity": names[label], "score": score, "index": pieces[chosen].index, "word": word, **at})
        return found

    def _joined(self, group: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Neighbours as one entity."""
        return {
            "entity_group": group[0]["entity"].split("-", 1)[-1],
            "score": sum(answer["score"] for answer in group) / len(group),
            "word": self.tokenizer.convert_tokens_to_string([answer["word"] for answer in group]),
            "start": group[0]["start"],
            "end": group[-1]["end"],
        }

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """Each piece's best label, with its logit and its score."""
        logits = _own(values, parts)
        names = self.model.config.id2label or {}
        best, scores = logits.max(dim=-1), logits.softmax(dim=-1).amax(dim=-1).tolist()
        shown = [
            f"{token} → {names[label]}"
            for token, label in zip(self.pieces(parts)[0], best.indices.tolist(), strict=True)
        ]
        how = self._strategy(options)
        return {
            "shapes": f"{len(shown)} tokens × {self.model.config.hidden_size} numbers → {logits.shape[-1]} logits each",
            "outputs": [(name, [logit]) for name, logit in zip(shown, best.values.tolist(), strict=True)],
            "function": "Postprocessing: logits → softmax → "
            + ("labels of pieces" if how == "none" else f"labels of entities ({how})"),
            "scores": [(name, [score]) for name, score in zip(shown, scores, strict=True)],
        }

    def explained(self, row: Any, values: list[Tensor], parts: list[Part], **options: Any) -> Explained:
        """The logit of the label that is surest among those that are answered; if there are none, of any."""
        assert isinstance(parts, Marked)
        names = self.model.config.id2label or {}
        ignored = ["O"] if options.get("ignore_labels") is None else options["ignore_labels"]
        pieces, found = list(parts.by_window()), list[tuple[bool, float, int, int, int]]()
        for number, (value, part) in enumerate(zip(values, parts, strict=True)):
            best, labels = value.softmax(dim=-1).max(dim=-1)
            for place in range(*part.own):
                label = int(labels[place])
                if pieces[number][place] is not None:
                    found.append((names[label] not in ignored, float(best[place]), number, place, label))
        if not found:
            raise InputError("explain: there is no word in the text to explain the label of; give one with words")
        _, _, number, place, label = max(found)
        spans = [None if piece is None else (0, piece.start, piece.end) for piece in pieces[number]]
        delimiter = " " if options.get("delimiter") is None else str(options["delimiter"])
        text = row["text"] if isinstance(row, Mapping) else row
        text = text if isinstance(text, str) else delimiter.join(text)
        piece = pieces[number][place]
        assert piece is not None
        name = f"logit of {names[label]} at {text[piece.start : piece.end]}"
        return Explained(name, lambda values: values[0][place, label], [number], [text], spans)


# ---------------------------------------------------------------------- rows and windows


def _read(row: Any, number: int, split: bool) -> str | list[str] | InputError:
    """The text in a row, or its words, or what is wrong with it."""
    if isinstance(row, Mapping) and row.keys() == {"text"}:
        row = row["text"]
    if split and isinstance(row, list | tuple) and all(isinstance(word, str) for word in row):
        return list(row)
    if not split and isinstance(row, str):
        return row
    wanted = "a list of words, as is_split_into_words says" if split else "a text"
    cure = "; for lists of words pass is_split_into_words=True" if not split and isinstance(row, list) else ""
    return InputError(f"row {number}: got {quoted(row)}, wanted {wanted}{cure}")


def _lay_out(encoding: Encoding, pieces: list[Piece | None], rule: LengthRule, number: int) -> Row:
    """A text in one part, or in windows, or why it cannot be read."""
    if error := refusal(len(encoding.ids), rule, number):
        return error
    if len(encoding.ids) <= rule.limit or rule.overlap is None:
        return Marked([Part(encoding.ids, None, (0, len(encoding.ids)), cut=bool(encoding.overflowing))], pieces)
    parts = windows(encoding.ids, None, encoding.sequence_ids, rule.overlap, rule.limit, number)
    return parts if isinstance(parts, InputError) else Marked(parts, pieces)


def _own(values: Sequence[Tensor], parts: Sequence[Part]) -> Tensor:
    """The numbers of a text's tokens `[S, C]`, each from the window that answers for it."""
    return torch.cat([value[slice(*part.own)] for value, part in zip(values, parts, strict=True)])


# ---------------------------------------------------------------------- from pieces to entities


def _words(pieces: Sequence[Piece]) -> list[range]:
    """Places of the pieces of each word."""
    starts = [place for place, piece in enumerate(pieces) if place == 0 or not piece.goes_on]
    return [range(start, stop) for start, stop in zip(starts, [*starts[1:], len(pieces)], strict=True)]


def neighbours(answers: Sequence[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Answers side by side that name one thing: of one kind, and the next does not say that it begins (`B-`)."""
    groups: list[list[dict[str, Any]]] = []
    for answer in answers:
        begins, kind = _kind(answer["entity"])
        if groups and not begins and _kind(groups[-1][-1]["entity"])[1] == kind:
            groups[-1].append(answer)
        else:
            groups.append([answer])
    return groups


def _kind(label: str) -> tuple[bool, str]:
    """Whether a label says that something begins, and of which kind; labels without `B-` or `I-` always go on."""
    return label.startswith("B-"), label[2:] if label.startswith(("B-", "I-")) else label


def longest(answers: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of answers that overlap the longest, and of those of one length the surest; in the order of the text."""
    found: list[dict[str, Any]] = []
    for answer in sorted(answers, key=lambda answer: answer["start"]):
        if not found or not found[-1]["start"] <= answer["start"] < found[-1]["end"]:
            found.append(answer)
        elif _weight(answer) > _weight(found[-1]):
            found[-1] = answer
    return found


def _weight(answer: Mapping[str, Any]) -> tuple[int, float]:
    return answer["end"] - answer["start"], answer["score"]
