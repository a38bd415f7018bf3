"""Text scoring: how probable a model finds a text, token by token.

    pipe = pipeline("text-scoring", "openai-community/gpt2")
    pipe("The cat sat on the mat.")                 # {"log_prob": -24.3…, "perplexity": 32.1…, "tokens": 7}
    pipe(("The capital of France is", " Paris."))   # of a pair: the second text, given the first
    pipe("The cat sat.", return_tokens=True)        # … and "token_scores": a number and the offsets of each token

What is given depends on the model's head:

- one that goes on with a text (`ForCausalLM`): each token given all before it. The first has none before it and no
  score, unless the tokenizer, or `add_start_token=True`, puts a start token in front;
- one of an encoder-decoder: pairs, each token of the second text given the first and all tokens before it; the token
  that closes the second text counts;
- one that fills masks (`ForMaskedLM`): each token given all others, by masking one at a time (the pseudo-log-likelihood
  of Salazar et al., 2020, arXiv 1910.14659), markers such as `[CLS]` left out. A text of n tokens is computed n times.

A long text read with `long="window"` has each of its tokens scored once: by the earliest window that holds it, which is
the one that sees most before it; with a head that fills masks, by the window that sees more of what is around it.
`truncation=True` cuts what is given, and only where this is not enough the end of what is scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from os import PathLike
from typing import TYPE_CHECKING, Any, NamedTuple, Unpack

import torch

from pellucid import auto
from pellucid.adapters import base_of_adapter
from pellucid.auto import AutoConfig
from pellucid.config import PretrainedConfig
from pellucid.encoder_heads import MaskedLM, NextWord
from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.generation import scoring
from pellucid.layout import PackedTokens
from pellucid.outputs import BaseModelOutput
from pellucid.pipelines.base import CallOptions, Pipeline
from pellucid.pipelines.budget import TOKENS_PER_BATCH
from pellucid.pipelines.engine import Part, Row, cut_batches
from pellucid.pipelines.preprocess import LengthRule, read_text, refusal, windows
from pellucid.pipelines.steps import Described, Explained

if TYPE_CHECKING:
    from torch import Tensor

    from pellucid.model import PreTrainedModel

HEADS = {
    "AutoModelForCausalLM": ("ForCausalLM", "LMHeadModel"),
    "AutoModelForSeq2SeqLM": ("ForConditionalGeneration", "EncoderDecoderModel", "MarianMTModel"),
    "AutoModelForMaskedLM": ("ForMaskedLM", "ForPreTraining"),
}
"""Auto class of each head that scores words → endings of the names of such classes in a checkpoint."""
PLACE = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
"""Keywords that say where a checkpoint is."""
SCORED = 2
"""Added to the token type (0 or 1) of tokens that are to be scored; so what is to be done travels with the ids."""


class ScoringOptions(CallOptions, total=False):
    """What a text scoring pipeline can be told.

    Attributes:
        return_tokens: add the list `token_scores`: `token`, `id`, `log_prob`, `start` and `end` of each.
        add_start_token: put the tokenizer's `bos_token`, or else its `eos_token`, in front of a text that does not
            begin with it, so that its first word is scored too; only with a head that goes on with a text.
    """

    return_tokens: bool
    add_start_token: bool


class Reading(NamedTuple):
    """A text, or a pair, as the tokenizer reads it: for each token its id, type, text and place.

    Attributes:
        ids: vocabulary indices.
        types: first (0) or second (1) text of a pair, as the model is told.
        texts: the text that the token is from, 0 or 1, or `None` for a marker; for heads that fill masks.
        spans: its characters there.
    """

    ids: list[int]
    types: list[int]
    texts: list[int | None]
    spans: list[tuple[int, int]]


class Scored(list[Part]):
    """A row: what is read of it, and the tokens that are scored.

    Args:
        parts: what the model reads at once.
        tokens: ids of the tokens that are scored, in order.
        spans: their places in the text that is scored.
    """

    def __init__(self, parts: Sequence[Part], tokens: Sequence[int], spans: Sequence[tuple[int, int]]) -> None:
        super().__init__(parts)
        self.tokens, self.spans = list(tokens), list(spans)


class TextScoringPipeline(Pipeline):
    """Log-probabilities of texts; arguments as in `Pipeline`, and the options of `ScoringOptions`.

    Attributes:
        head: name of the auto class whose kind of head the model has.
    """

    name = "text-scoring"
    auto_class = "AutoModelForCausalLM"
    default_model = "openai-community/gpt2"
    options = ScoringOptions
    head: str

    def __call__(self, inputs: Any, **options: Unpack[ScoringOptions]) -> Any:
        """Score texts.

        Args:
            inputs: a text; a pair `(text, text_pair)` or `{"text": …, "text_pair": …}`, of which the second is scored
                and the first given; a list of them; anything else that yields them; or the `pathlib.Path` of a file of
                lines.
            options: see `ScoringOptions` and `CallOptions`.

        Returns:
            For each row `{"log_prob": …, "perplexity": …, "tokens": …}`: the natural logarithm of the text's
            probability, `exp(-log_prob / tokens)`, and how many tokens were scored. A list for a list, a generator for
            anything else with many rows.

        Raises:
            InputError: a row or an option cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        return self.answer(inputs, options)

    @classmethod
    def load_model(cls, source: str | PathLike[str], **arguments: Any) -> PreTrainedModel:
        """Load a checkpoint with the head that it was saved with, or else one that goes on with a text."""
        config, gguf_file = arguments.get("config"), arguments.get("gguf_file")
        where = {name: arguments[name] for name in PLACE if name in arguments}
        if not isinstance(config, PretrainedConfig):
            base, place = (None if gguf_file else base_of_adapter(source, where)) or (source, where)
            config = AutoConfig.from_pretrained(base if config is None else config, gguf_file=gguf_file, **place)
        names = tuple(config.architectures or ())
        heads = [head for head, endings in HEADS.items() if any(name.endswith(endings) for name in names)]
        said = {"name": cls.name, "auto_class": [*heads, cls.auto_class][0]}
        loader: type[Pipeline] = type(cls.__name__, (Pipeline,), said)
        return loader.load_model(source, **arguments)

    def _check_model(self) -> None:
        """Raise `InputError` unless the model has one of the heads."""
        for head in HEADS:
            try:
                wanted = getattr(auto, head).model_class(self.model.config)
            except InputError:
                continue
            if isinstance(self.model, wanted):
                self.head = head
                if isinstance(self.model, NextWord) and not self.model.config.is_decoder:
                    raise InputError(
                        f"{self.task}: is_decoder is false in the model's configuration, so each token sees those "
                        "behind it; load it with is_decoder=True"
                    )
                return
        raise InputError(
            f"{self.task}: got a {type(self.model).__name__}, wanted a model with a head that scores words: one for "
            "AutoModelForCausalLM, AutoModelForMaskedLM or AutoModelForSeq2SeqLM"
        )

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        super().check(options)
        if options.get("long") == "window" and self.head == "AutoModelForSeq2SeqLM":
            raise InputError('long="window": an encoder-decoder reads a text at once; pass truncation=True to cut it')
        if options.get("add_start_token"):
            if self.head != "AutoModelForCausalLM":
                raise InputError("add_start_token: it is for models that go on with a text; leave it out")
            self._start_token()
        if self.head == "AutoModelForMaskedLM" and self.tokenizer.mask_token_id is None:
            raise InputError(f"{self.name}: the tokenizer has no mask_token; take the one the model was trained with")

    def _start_token(self) -> int:
        start = self.tokenizer.bos_token_id
        start = self.tokenizer.eos_token_id if start is None else start
        if start is None:
            raise InputError("add_start_token: the tokenizer has no bos_token and no eos_token; leave it out")
        return start

    # ------------------------------------------------------------------ step one

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids, and mark those that are to be scored."""
        texts = [read_text(row, number) for number, row in enumerate(rows, first)]
        found: list[Row] = [text if isinstance(text, InputError) else [] for text in texts]
        read = {"AutoModelForCausalLM": self._read_onward, "AutoModelForSeq2SeqLM": self._read_answers}
        reader, rule = read.get(self.head, self._read_around), self.length_rule(options)
        for kind in (str, tuple):  # texts in one call of the tokenizer, pairs in another
            places = [place for place, text in enumerate(texts) if isinstance(text, kind)]
            if places:
                of_kind: list[Any] = [texts[place] for place in places]
                numbers = [first + place for place in places]
                for place, row in zip(places, reader(of_kind, numbers, rule, options), strict=True):
                    found[place] = row
        return found

    def _readings(self, texts: list[Any], options: Mapping[str, Any], **more: Any) -> list[Reading]:
        """What the tokenizer makes of texts or pairs."""
        batch = self.tokenizer(
            **{"text": texts, **more},
            add_special_tokens=options.get("add_special_tokens", True),
            return_offsets_mapping=True,
            return_attention_mask=False,
            verbose=False,
        )
        types = batch.data.get("token_type_ids") or [[0] * len(ids) for ids in batch["input_ids"]]
        around = self.head == "AutoModelForMaskedLM"
        return [
            Reading(ids, kinds, batch.sequence_ids(number) if around else [], spans)
            for number, (ids, kinds, spans) in enumerate(
                zip(batch["input_ids"], types, batch["offset_mapping"], strict=True)
            )
        ]

    def _read_onward(
        self, texts: list[Any], numbers: list[int], rule: LengthRule, options: Mapping[str, Any]
    ) -> list[Row]:
        """Rows for a head that goes on with a text: of a pair, the two are joined before they become ids."""
        given = [len(text[0]) if isinstance(text, tuple) else 0 for text in texts]
        found: list[Row] = []
        for reading, before, number in zip(
            self._readings(["".join(text) for text in texts], options), given, numbers, strict=True
        ):
            ids, spans = reading.ids, reading.spans
            if options.get("add_start_token") and ids[:1] != [self._start_token()]:
                ids, spans = [self._start_token(), *ids], [(0, 0), *spans]
            start = next((place for place, (_, end) in enumerate(spans) if end > before), len(ids)) if before else 0
            found.append(_onward(ids, spans, max(start, 1), before, rule, number))
        return found

    def _read_answers(
        self, texts: list[Any], numbers: list[int], rule: LengthRule, options: Mapping[str, Any]
    ) -> list[Row]:
        """Rows for an encoder-decoder: the first text of a pair is its source, the second what it is to write."""
        if isinstance(texts[0], str):
            wanted = "wanted a pair: an encoder-decoder scores a text given another one, (text, text_pair)"
            return [
                InputError(f"row {number}: got one text {quoted(text)}, {wanted}")
                for number, text in zip(numbers, texts, strict=True)
            ]
        sources = self._readings([source for source, _ in texts], options)
        answers = self._readings([], options, text=None, text_target=[answer for _, answer in texts])
        found: list[Row] = []
        for number, pair, source, answer in zip(numbers, texts, sources, answers, strict=True):
            wrong = None
            cuts = {"longest_first": (True, True), "only_first": (True, False), "only_second": (False, True)}
            may_cut, whole = cuts.get(rule.strategy or "", (False, False)), (source.ids, answer.ids)
            if len(source.ids) > rule.limit and may_cut[0]:
                (source,) = self._readings([pair[0]], options, truncation=True, max_length=rule.limit)
            if len(answer.ids) > rule.limit and may_cut[1]:
                limit = {"truncation": True, "max_length": rule.limit}
                (answer,) = self._readings([], options, text=None, text_target=[pair[1]], **limit)
            for reading in (source, answer):
                wrong = wrong or refusal(len(reading.ids), LengthRule(rule.limit), number)
            ids = source.ids + answer.ids
            cut = sum(may_cut) > 0 and max(map(len, whole)) > rule.limit
            part = Part(ids, [0] * len(source.ids) + [SCORED] * len(answer.ids), (0, len(ids)), cut)
            found.append(wrong or Scored([part], answer.ids, answer.spans))
        return found

    def _read_around(
        self, texts: list[Any], numbers: list[int], rule: LengthRule, options: Mapping[str, Any]
    ) -> list[Row]:
        """Rows for a head that fills masks."""
        scored_text = 0 if isinstance(texts[0], str) else 1
        found: list[Row] = []
        for text, number, reading in zip(texts, numbers, self._readings(texts, options), strict=True):
            cut = len(reading.ids) > rule.limit and rule.strategy is not None
            if cut:
                strategy = rule.strategy
                if options.get("truncation") in (None, True) and scored_text:
                    strategy = "only_first"
                try:
                    (reading,) = self._readings([text], options, truncation=strategy, max_length=rule.limit)
                except InputError as error:
                    found.append(InputError(f"row {number}: {error}"))
                    continue
            found.append(_around(reading, scored_text, rule, number, cut))
        return found

    # ------------------------------------------------------------------ step two

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Tensor]:
        """Log-probabilities of each part's marked tokens."""
        assert packed.input_ids is not None and packed.token_type_ids is not None
        ids = [row.tolist() for row in packed.layout.split(packed.input_ids)]
        types = [row.tolist() for row in packed.layout.split(packed.token_type_ids)]
        if self.head == "AutoModelForMaskedLM":
            found = self._each_masked(ids, types)
        elif self.head == "AutoModelForSeq2SeqLM":
            found = self._answers(ids, [kinds.index(SCORED) for kinds in types])
        else:
            parts = [scoring.Part(row, kinds.index(SCORED)) for row, kinds in zip(ids, types, strict=True)]
            found = scoring.score_parts(self.runner, parts)
        return [torch.tensor(values) for values in found]

    def _answers(self, rows: list[list[int]], starts: list[int]) -> list[list[float]]:
        """Log-probabilities of what stands from `starts` on in each row, given what stands before."""
        model: Any = self.runner
        opening, found = scoring.start_of_answers(model), list[list[float]]([] for _ in rows)
        answers = [row[start:] for row, start in zip(rows, starts, strict=True)]
        for batch in cut_batches([len(answer) for answer in answers], budget=scoring.rows_at_once(model)):
            read = PackedTokens.from_lists([rows[number][: starts[number]] for number in batch], device=self.device)
            written = [[opening, *answers[number][:-1]] for number in batch]
            tokens = PackedTokens.from_lists(written, device=self.device)
            logits = model(packed=tokens, packed_source=read, use_cache=False).logits  # [T, V]
            for number, row in zip(batch, tokens.layout.split(logits), strict=True):
                found[number] = scoring.logprobs_of(row, answers[number])
        return found

    def _each_masked(self, rows: list[list[int]], types: list[list[int]]) -> list[list[float]]:
        """Log-probabilities of marked tokens, each of them masked alone, in packed batches of such copies."""
        mask = self.tokenizer.mask_token_id
        assert mask is not None
        jobs = [(number, place) for number, row in enumerate(types) for place, kind in enumerate(row) if kind >= SCORED]
        of_pair = any(kind % SCORED for row in types for kind in row)
        found = [[0.0] * len(row) for row in rows]
        budget = TOKENS_PER_BATCH.get(self.device.type, TOKENS_PER_BATCH["cuda"])
        for batch in cut_batches([len(rows[number]) for number, _ in jobs], budget=budget):
            copies = [list(rows[jobs[one][0]]) for one in batch]
            kinds = [[kind % SCORED for kind in types[jobs[one][0]]] for one in batch] if of_pair else None
            at, before = [], 0
            for copy, one in zip(copies, batch, strict=True):
                copy[jobs[one][1]] = mask
                at.append(before + jobs[one][1])
                before += len(copy)
            tokens = [rows[number][place] for number, place in (jobs[one] for one in batch)]
            values = self._at(PackedTokens.from_lists(copies, kinds, device=self.device), at, tokens)
            for one, value in zip(batch, values, strict=True):
                number, place = jobs[one]
                found[number][place] = value
        return [
            [value for value, kind in zip(values, row, strict=True) if kind >= SCORED]
            for values, row in zip(found, types, strict=True)
        ]

    def _at(self, packed: PackedTokens, places: list[int], tokens: list[int]) -> list[float]:
        """Log-probabilities of `tokens` at `places` of a packed batch; only these are compared with the vocabulary."""
        model: Any = self.runner
        if not isinstance(model, MaskedLM):
            return scoring.logprobs_of(model(packed=packed, return_dict=True).logits[places], tokens)
        hidden, size = model.base_model(packed=packed, return_dict=True).last_hidden_state, scoring.rows_at_once(model)
        values: list[float] = []
        for start in range(0, len(places), size):
            some = slice(start, start + size)
            logits = model.logits(BaseModelOutput(hidden[places[some]]))  # [M, H] → [M, V]
            values += scoring.logprobs_of(logits, tokens[some])
        return values

    # ------------------------------------------------------------------ step three

    def postprocess(self, values: list[Tensor], parts: list[Part], **options: Any) -> Any:
        """Numbers of a row's tokens → those of the text."""
        assert isinstance(parts, Scored)
        score = scoring.Score(parts.tokens, [number for value in values for number in value.tolist()])
        answer: dict[str, Any] = {"log_prob": score.sum, "perplexity": score.perplexity, "tokens": len(score.tokens)}
        if options.get("return_tokens"):
            names = self.tokenizer.convert_ids_to_tokens(score.tokens)
            answer["token_scores"] = [
                {"token": str(name), "id": token, "log_prob": number, "start": start, "end": end}
                for name, token, number, (start, end) in zip(
                    names, score.tokens, score.logprobs, parts.spans, strict=True
                )
            ]
        return answer

    def describe(self, values: list[Tensor], parts: list[Part], **options: Any) -> Described:
        """The logarithm of each token's probability, and what they make together."""
        answer = self.postprocess(values, parts, **{**options, "return_tokens": True})
        each = answer.pop("token_scores")
        read, size = sum(len(part.ids) for part in parts), self.model.config.vocab_size
        return {
            "shapes": f"{read} tokens → {size:,} logits for each of {len(each)} scored → log softmax",
            "outputs": [(one["token"], [one["log_prob"]]) for one in each],
            "function": "Postprocessing: sum of the logarithms, exp(-mean), count",
            "scores": [(name, [float(number)]) for name, number in answer.items()],
        }

    def explained(self, row: Any, values: list[Any], parts: list[Part], **options: Any) -> Explained:
        """The logit of the token that was expected least, given those before it.

        Raises:
            InputError: the model is no decoder, and scores each token with another text.
        """
        if not hasattr(self.model, "read_out") or hasattr(self.model, "get_encoder"):
            raise InputError(f"explain: {self.name} reads what is around tokens; pass return_tokens=True for scores")
        found = []
        for number, (value, part) in enumerate(zip(values, parts, strict=True)):
            places = [place for place, kind in enumerate(part.type_ids or ()) if kind >= SCORED]
            found += [(float(score), number, place) for score, place in zip(value, places, strict=True)]
        _, number, place = min(found)
        token = parts[number].ids[place]
        name = f"logit of {quoted(self.tokenizer.decode([token]))} as token {place}"
        return Explained(name, lambda rows: rows[0][token], [number], options={"place": place - 1})

    def differentiable(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """The logits `[V]` of the token behind the one at `place`, for each part."""
        model: Any = self.model
        hidden = model.base_model(packed=packed._replace(token_type_ids=None), return_dict=True).last_hidden_state
        rows = torch.stack([row[options["place"]] for row in packed.layout.split(hidden)])  # [B, H]
        return model.read_out(rows).float().cpu().unbind(0)  # type: ignore[no-any-return]


def _onward(
    ids: list[int], spans: list[tuple[int, int]], start: int, before: int, rule: LengthRule, number: int
) -> Row:
    """A row whose tokens from `start` on are scored, given all before them.

    Args:
        ids: the row's tokens.
        spans: their places in the joined text.
        start: the first token that is scored.
        before: characters of the text that is given.
        rule: what happens to long texts.
        number: the row's number, for messages.
    """
    if start >= len(ids):
        return InputError(
            f"row {number}: there is no token to score: the first one has none before it; pass add_start_token=True, "
            "or a longer text"
        )
    cut = len(ids) > rule.limit and rule.strategy is not None
    if cut:
        drop = len(ids) - rule.limit
        front = 0 if rule.strategy == "only_second" else min(drop, start - 1)
        back = 0 if rule.strategy == "only_first" and before else drop - front
        ids, spans = ids[front : len(ids) - back], spans[front : len(spans) - back]
        start -= front
    if len(ids) > rule.limit and (error := refusal(len(ids), LengthRule(rule.limit, None, rule.overlap), number)):
        return error
    if start >= len(ids):
        return InputError(f"row {number}: nothing is left to score after cutting; use a larger max_length")
    step = rule.limit - max(rule.overlap or 0, 1)  # the first token of a window needs one before it
    if len(ids) > rule.limit and step < 1:
        return InputError(
            f"row {number}: its windows of {rule.limit:,} tokens have no room to move on by, with an overlap of "
            f"{rule.overlap:,}; use a larger max_length or a smaller stride"
        )
    parts: list[Part] = []
    for part in scoring.cut_windows(ids, start, rule.limit, step):
        marks = [0] * part.first + [SCORED] * (len(part.ids) - part.first)
        parts.append(Part(part.ids, marks, (part.first if parts else 0, len(part.ids)), cut))
    placed = [(max(begin - before, 0), max(end - before, 0)) for begin, end in spans[start:]]
    return Scored(parts, ids[start:], placed)


def _around(reading: Reading, scored_text: int, rule: LengthRule, number: int, cut: bool) -> Row:
    """A row whose tokens of one text are scored, given all others; `cut`: something of it was left out."""
    places = [place for place, text in enumerate(reading.texts) if text == scored_text]
    if not places:
        return InputError(f"row {number}: there is no token to score in it; drop empty texts")
    if error := refusal(len(reading.ids), LengthRule(rule.limit, None, rule.overlap), number):
        return error
    marked = list(reading.types)
    for place in places:
        marked[place] += SCORED
    parts: Row = [Part(reading.ids, marked, (0, len(reading.ids)), cut)]
    if len(reading.ids) > rule.limit:
        parts = windows(reading.ids, marked, reading.texts, rule.overlap or 0, rule.limit, number)
    if isinstance(parts, InputError):
        return parts
    own = [
        part._replace(
            type_ids=[
                kind if part.own[0] <= place < part.own[1] else kind % SCORED
                for place, kind in enumerate(part.type_ids or [])
            ]
        )
        for part in parts
    ]
    return Scored(own, [reading.ids[place] for place in places], [reading.spans[place] for place in places])
