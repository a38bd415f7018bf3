"""From a text to another one: summaries, translations, and whatever else an encoder-decoder was trained to write.

    pipeline("summarization")(article)                           # [{"summary_text": "…"}]
    pipeline("translation_en_to_fr")("How are you?")             # [{"translation_text": "Comment allez-vous?"}]
    pipe = pipeline("translation", "facebook/nllb-200-distilled-600M", src_lang="eng_Latn", tgt_lang="fra_Latn")
    pipeline("text2text-generation")("translate English to German: How are you?")  # [{"generated_text": "…"}]

Every setting of `GenerationConfig` can be given by its name. What the call does not say, the checkpoint says: in its
settings for this very task (`task_specific_params`, with the words that T5 wants in front of a text), then in those for
all writing; else up to 256 new tokens are written with 4 beams.

A text longer than the model reads is an error; `truncation=True` cuts it, and `long="window"` reads all of it: it is
cut into windows that end with a sentence where possible, each is answered, and the answers are joined.
"""

from __future__ import annotations

import copy
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch

from pellucid.errors import InputError, reject_unknown
from pellucid.files import quoted
from pellucid.generation.config import GenerationConfig
from pellucid.layout import PackedTokens
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.preprocess import LengthRule, Text, encode, read_text, readable_tokens
from pellucid.pipelines.steps import Described, Explained
from pellucid.pipelines.writing import (
    TOKENS_PER_BATCH,
    Continuation,
    Plan,
    WritingOptions,
    WritingPipeline,
    continued,
    ones,
    opened,
)

logger = logging.getLogger("pellucid")

SHOWN = 10
"""Candidates for the first token that `steps` shows."""
CUTS = (
    re.compile(r"(?<=[.!?…])[\"'”’»)\]]{0,3}\s+|(?<=[。！？])(?![。！？])|\n\s*"),  # sentences
    re.compile(r"\s+"),  # words
    re.compile(r".", re.DOTALL),  # characters
)
"""A long text may be cut behind what these find, the best places first."""
TOGETHER = 4096
"""Pieces of a text that are measured together."""
READING = frozenset({"add_special_tokens", "max_length", "truncation"})
"""What `tokenizer_encode_kwargs` may say."""


class Text2TextOptions(WritingOptions, total=False):
    """What a pipeline from text to text can be told, beside every field of `GenerationConfig` by its name.

    Attributes:
        long: `"error"` (default) for texts longer than the model reads, `"truncate"`, or `"window"`: answer them window
            by window, and join the answers.
        prefix: words put before each text; default as the checkpoint says for the task.
    """

    long: Literal["error", "truncate", "window"] | None
    prefix: str | None


class TranslationOptions(Text2TextOptions, total=False):
    """What a translation pipeline can be told beside that.

    Attributes:
        src_lang: language of the texts, in the code of a model that knows many; default as the task's name says
            (`"translation_en_to_fr"`), or the tokenizer.
        tgt_lang: language to be written.
    """

    src_lang: str | None
    tgt_lang: str | None


class Source(list[Part]):
    """A text as the model reads it.

    Args:
        parts: the whole text, or its windows.
        gaps: what stands between the answers of neighbouring windows.
    """

    def __init__(self, parts: Sequence[Part], gaps: Sequence[str] = ()) -> None:
        super().__init__(parts)
        self.gaps = [*gaps, ""]


class Text2TextGenerationPipeline(WritingPipeline):
    """Texts that answer texts; arguments as in `Pipeline`, and the options of `Text2TextOptions`.

    Attributes:
        new_tokens: how many tokens are written when neither the caller nor the checkpoint says so; fewer where the
            model has no room for them.
        beams: beams of the search, in the same case.
    """

    name = "text2text-generation"
    auto_class = "AutoModelForSeq2SeqLM"
    default_model = "google-t5/t5-base"
    options = Text2TextOptions
    tokens_per_batch: ClassVar[int] = TOKENS_PER_BATCH
    reads_ahead = False  # languages are chosen in the tokenizer itself, and reading takes little time beside writing
    list_name = "texts"
    return_name: ClassVar[str] = "generated"
    """Beginning of the names in an answer: `generated_text`."""
    new_tokens = 256
    beams = 4

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Write an answer to each text.

        Args:
            inputs: a text; a list of them; anything else that yields them; or the `pathlib.Path` of a file of lines.
            options: see the task's options (`Text2TextOptions` or `TranslationOptions`) and `GenerationConfig`.

        Returns:
            For one text a list of `{"generated_text": …}` (`summary_text`, `translation_text`), of one or of
            `num_return_sequences`; with `return_tensors=True` of `{"generated_token_ids": …}`, the ids as a tensor with
            the start token before them. For a list of texts one list of all these, or with several answers each a
            list of lists; for anything else with many rows a generator of lists.

        Raises:
            InputError, ConfigError: a text, or a setting, cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        answer = self.answer(inputs, options)
        bad = (type(None), InputError)
        if isinstance(inputs, list) and all(isinstance(row, bad) or len(row) == 1 for row in answer):
            return [row if isinstance(row, bad) else row[0] for row in answer]
        return answer

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` or `ConfigError` for an option's value that cannot be used."""
        super().check(options)
        if options.get("return_tensors") is not None and options.get("return_text") is not None:
            raise InputError("return_tensors: cannot be combined with return_text; give one of them")
        config = options.get("generation_config")
        if config is not None and not isinstance(config, GenerationConfig):
            raise InputError(f"generation_config: got a {type(config).__name__}, wanted a GenerationConfig")
        if isinstance(options.get("seed"), list):
            raise InputError("seed: got a list, wanted one number, with which each answer begins")
        self._plan(options)

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """What happens to texts that are too long; `max_length` is the answer's, so the text's stands elsewhere."""
        inner = options.get("tokenizer_encode_kwargs") or {}
        if unknown := inner.keys() - READING:
            reject_unknown("tokenizer_encode_kwargs", unknown, READING)
        given = {
            "truncation": inner.get("truncation", options.get("truncation")),
            "max_length": inner.get("max_length"),
            "long": options.get("long"),
        }
        model: Any = self.model
        readable = readable_tokens(model.get_encoder())
        # The tokenizer's limit is a habit and says where to cut; what the model can read beyond it is not refused.
        cut = given["truncation"] not in (None, False, "do_not_truncate") or given["long"] in ("truncate", "window")
        return LengthRule.from_options(given, readable, self.tokenizer.model_max_length if cut else readable)

    @property
    def task_settings(self) -> Mapping[str, Any]:
        """What the checkpoint says about this very task."""
        tasks = self.model.config.extra.get("task_specific_params")
        found = tasks.get(self.task) if isinstance(tasks, Mapping) else None
        return found if isinstance(found, Mapping) else {}

    def _prefix(self, options: Mapping[str, Any]) -> str:
        """What stands before each text."""
        given = options.get("prefix")
        if given is None:
            given = self.task_settings.get("prefix") or self.model.config.extra.get("prefix")
        return str(given or "")

    def _own(self, model: Any, options: Mapping[str, Any]) -> Any:
        """The model with the task's settings over the checkpoint's; all else is shared, and nothing is copied."""
        own = copy.copy(model)
        own.generation_config = copy.deepcopy(self.model.generation_config)
        if options.get("generation_config") is None:
            fields = GenerationConfig.fields()
            own.generation_config.update(
                **{name: value for name, value in self.task_settings.items() if name in fields and value is not None}
            )
        return own

    def _plan(self, options: Mapping[str, Any]) -> Plan:
        """What the options say about writing."""
        defaults = {"max_new_tokens": self.new_tokens, "num_beams": self.beams}
        if options.get("generation_config") is not None:
            defaults = {}
        return Plan.from_options(options, self._own(self.model, options), self.tokenizer, defaults)

    def _limited(self, plan: Plan) -> GenerationConfig:
        """The settings; an answer whose length nobody said may be shorter, where the model has no room for it."""
        model: Any = self.model
        room = readable_tokens(model.get_decoder())
        return plan.up_to(room) if plan.flexible and self.new_tokens + 1 > room else plan.given

    # ------------------------------------------------------------------ step one: texts → ids

    def read(self, row: Any, number: int, options: Mapping[str, Any]) -> Text | InputError:
        """The text in a row, with the words that belong before it, or what is wrong with it."""
        text = read_text(row, number)
        if isinstance(text, tuple):
            return InputError(f"row {number}: got a pair {quoted(row)}, wanted one text")
        return text if isinstance(text, InputError) else self._prefix(options) + text

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts into ids; those that are too long are refused, cut, or laid out in windows."""
        rule, inner = self.length_rule(options), options.get("tokenizer_encode_kwargs") or {}
        special = inner.get("add_special_tokens", options.get("add_special_tokens")) is not False
        texts = [self.read(row, number, options) for number, row in enumerate(rows, first)]
        with self._reading(options):
            if rule.overlap is None:
                encoded = encode(texts, self.tokenizer, rule, add_special_tokens=special, first=first)
                return [row if isinstance(row, InputError) else Source(row) for row in encoded]
            return [
                text if isinstance(text, InputError) else self._in_windows(str(text), rule.limit, special, options, row)
                for row, text in enumerate(texts, first)
            ]

    @contextmanager
    def _reading(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Within this, the tokenizer reads texts as the task wants them."""
        yield

    def _in_windows(self, text: str, limit: int, special: bool, options: Mapping[str, Any], number: int) -> Row:
        """The parts of a text, each with the prefix, and none with more than `limit` tokens."""
        prefix = self._prefix(options)

        def ids_of(texts: list[str]) -> list[list[int]]:
            return list(self.tokenizer(texts, add_special_tokens=special, verbose=False)["input_ids"])

        whole = ids_of([text])[0]
        if 0 < len(whole) <= limit:
            return Source([_part(whole)])
        room = limit - len(ids_of([prefix])[0])

        def sizes_of(texts: list[str]) -> list[int]:
            sizes: list[int] = []
            for start in range(0, len(texts), TOGETHER):  # what is made of a million pieces would not fit into memory
                some = texts[start : start + TOGETHER]
                sizes += map(len, self.tokenizer(some, add_special_tokens=False, verbose=False)["input_ids"])
            return sizes

        while room > 0:
            pieces = cut(text[len(prefix) :], sizes_of, room)
            windows = ids_of([prefix + piece.rstrip() for piece in pieces])
            if windows and all(len(ids) <= limit for ids in windows):
                gaps = [piece[len(piece.rstrip()) :] or " " for piece in pieces[:-1]]
                return Source([_part(ids) for ids in windows], gaps)
            room = room * 3 // 4  # pieces may become a few tokens more when they are put together
        return InputError(
            f"row {number}: there is no room in windows of {limit:,} tokens beside the markers and the words before "
            "each; leave the limit as it is, or use a shorter prefix"
        )

    # ------------------------------------------------------------------ step two: ids → written tokens

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """What is written for each part, the start token before it, those of a batch together."""
        assert packed.input_ids is not None
        rows = [ids.tolist() for ids in packed.layout.split(packed.input_ids)]
        plan = self._plan(options)
        writer = self._own(self.runner, options)
        found = continued(writer, rows, self._limited(plan), plan.tools, options.get("streamer"))
        self.last_run.written += sum(len(text.tokens) for texts in found for text in texts)
        before = _start_of(plan)
        return [[Continuation(before + text.tokens, text.more) for text in texts] for texts in found]

    # ------------------------------------------------------------------ step three: written tokens → answer

    def postprocess(self, values: list[Any], parts: list[Part], **options: Any) -> Any:
        """Turn what was written into texts, those of a long text's windows joined."""
        gaps = parts.gaps if isinstance(parts, Source) else [""]
        clean_up = bool(options.get("clean_up_tokenization_spaces"))
        answers = []
        for windows in zip(*values, strict=True):  # the best of each window, then the second best, …
            more = windows[0].more if len(windows) == 1 else {}
            if options.get("return_tensors"):
                ids = torch.tensor([token for window in windows for token in window.tokens])
                answers.append({f"{self.return_name}_token_ids": ids, **more})
                continue
            texts = [
                self.tokenizer.decode(
                    window.tokens,
                    skip_special_tokens=options.get("skip_special_tokens") is not False,
                    clean_up_tokenization_spaces=clean_up,
                )
                for window in windows
            ]
            if len(texts) > 1:
                texts = [text.strip() + gap for text, gap in zip(texts, gaps, strict=True)]
            answers.append({f"{self.return_name}_text": "".join(texts), **more})
        return answers

    def in_columns(self, answers: list[Any], options: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Answers as columns of a frame: of one text each, its fields; of several, `texts`."""
        return super().in_columns(ones(answers), options)

    def describe(self, values: list[Any], parts: list[Part], **options: Any) -> Described:
        """The best candidates for the first token: their scores as the model gave them, and their chances."""
        plan, ids = self._plan(options), parts[0].ids
        decoding = opened(self._own(self.runner, options), ids, self._limited(plan), plan.tools)
        with torch.inference_mode():
            step = next(decoding)
        decoding.close()
        assert step.logits is not None
        first: Continuation = values[0][0]
        best = step.logits[0].topk(min(SHOWN, step.logits.shape[-1]))
        chances = step.logits[0].softmax(dim=-1)[best.indices].tolist()
        names = [quoted(self.tokenizer.decode([token])) for token in best.indices.tolist()]
        method = str(plan.full.get_generation_mode(plan.tools.get("assistant_model"))).replace("_", " ")
        return {
            "shapes": f"{len(ids)} tokens read → {step.logits.shape[-1]:,} scores for the next word, "
            f"{len(first.tokens) - len(_start_of(plan))} times",
            "outputs": [(name, [score]) for name, score in zip(names, best.values.tolist(), strict=True)],
            "function": f"Decoding: {method}; chances of the same words as the first",
            "scores": [(name, [chance]) for name, chance in zip(names, chances, strict=True)],
        }

    def explained(self, row: Any, values: list[Any], parts: list[Part], **options: Any) -> Explained:
        """The logit of the first word that was written, language codes aside, for the first window of a long text."""
        tokens, special = values[0][0].tokens, set(self.tokenizer.all_special_ids)
        start = len(_start_of(self._plan(options)))
        place = next((place for place in range(start, len(tokens)) if tokens[place] not in special), start)
        if place >= len(tokens) or not place:
            raise InputError("explain: nothing was written behind the start token, so there is no word to explain")
        name = f"logit of {quoted(self.tokenizer.decode([tokens[place]]))} as the first word"
        return Explained(name, lambda found: found[0][tokens[place]], options={"written": tokens[:place]})

    def differentiable(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """The logits `[V]` of the word behind those `written`, for each part."""
        answers = PackedTokens.from_lists([options["written"]] * packed.layout.batch, device=self.device)
        output: Any = self.model(packed=answers, packed_source=packed, logits_to_keep=1, return_dict=True)
        return output.logits[:, -1].float().cpu().unbind(0)  # type: ignore[no-any-return]  # [B, 1, V] → [V] each


class SummarizationPipeline(Text2TextGenerationPipeline):
    """Short texts of long ones: `{"summary_text": …}`; all else as in `Text2TextGenerationPipeline`."""

    name = "summarization"
    default_model = "sshleifer/distilbart-cnn-12-6"
    return_name = "summary"


class TranslationPipeline(Text2TextGenerationPipeline):
    """Texts in another language: `{"translation_text": …}`; also under names such as `"translation_en_to_fr"`.

    Of a checkpoint with settings for several such names, the plain name means the first, and a warning says so.
    Models that know many languages are told which by `src_lang` and `tgt_lang`; all else is as in
    `Text2TextGenerationPipeline`.
    """

    name = "translation"
    return_name = "translation"
    options = TranslationOptions

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        tasks = self.model.config.extra.get("task_specific_params")
        known = [name for name in tasks if name.startswith("translation_")] if isinstance(tasks, Mapping) else []
        if self.task == self.name and known:
            self.task = known[0]
            logger.warning("task: translation means %s here; the checkpoint knows %s", self.task, ", ".join(known))

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` for an option's value that cannot be used."""
        for name in ("src_lang", "tgt_lang"):
            if options.get(name) is not None and not self._has_languages:
                raise InputError(
                    f"{name}: got {quoted(options[name])}, and {type(self.tokenizer).__name__} has no languages to "
                    "choose from: the model translates in one direction; leave it out"
                )
        super().check(options)

    @property
    def _has_languages(self) -> bool:
        return hasattr(self.tokenizer, "_build_translation_inputs")

    def _languages(self, options: Mapping[str, Any]) -> dict[str, str | None]:
        """The language of the texts and that to be written: of the call, of the task's name, or of the tokenizer."""
        source, target = options.get("src_lang"), options.get("tgt_lang")
        words = self.task.split("_")
        if source is None and target is None and len(words) == 4:
            source, target = words[1], words[3]
        tokenizer: Any = self.tokenizer
        return {"src_lang": source or tokenizer.src_lang, "tgt_lang": target or tokenizer.tgt_lang}

    def _prefix(self, options: Mapping[str, Any]) -> str:
        """What stands before each text; where languages are chosen, nothing but what the caller says."""
        return str(options.get("prefix") or "") if self._has_languages else super()._prefix(options)

    @contextmanager
    def _reading(self, options: Mapping[str, Any]) -> Iterator[None]:
        """Within this, the tokenizer reads texts of the chosen language."""
        if not self._has_languages:
            yield
            return
        tokenizer: Any = self.tokenizer
        before = tokenizer.src_lang
        tokenizer._build_translation_inputs("", **self._languages(options))
        try:
            yield
        finally:
            tokenizer.src_lang = before

    def _plan(self, options: Mapping[str, Any]) -> Plan:
        """What the options say about writing: the first token written names the language."""
        if self._has_languages and options.get("forced_bos_token_id") is None:
            languages = self._languages(options)
            if None not in languages.values():
                with self._reading(options):
                    tokenizer: Any = self.tokenizer
                    inputs = tokenizer._build_translation_inputs("", **languages)
                options = {**options, "forced_bos_token_id": inputs["forced_bos_token_id"]}
        return super()._plan(options)


def _start_of(plan: Plan) -> list[int]:
    """What stands before the words that are written."""
    start, begin = plan.full.decoder_start_token_id, plan.full.bos_token_id
    first = begin if start is None else start
    return [] if first is None else list(first[:1]) if isinstance(first, list) else [first]


def _part(ids: list[int]) -> Part:
    return Part(ids, None, (0, len(ids)))


def cut(
    text: str,
    sizes_of: Callable[[list[str]], list[int]],
    room: int,
    patterns: Sequence[re.Pattern[str]] = CUTS,
) -> list[str]:
    """Cut a text into pieces, which end with a sentence where one fits into a piece, else with a word.

    Args:
        text: any text; the pieces put together are this text.
        sizes_of: how many tokens each of several texts has.
        room: tokens that a piece may have.
        patterns: what to cut the text into; what is still too long is cut by the next one.
    """
    ends = [0, *(found.end() for found in patterns[0].finditer(text)), len(text)]
    units = [text[start:end] for start, end in pairwise(ends) if start < end]
    pieces: list[str] = []
    joined: list[str] = []  # what the next piece is made of
    used = 0
    for unit, size in zip(units, sizes_of(units) if units else [], strict=True):
        if joined and used + size > room:
            pieces.append("".join(joined))
            joined, used = [], 0
        if size > room and len(patterns) > 1:
            pieces += cut(unit, sizes_of, room, patterns[1:])
        else:
            joined.append(unit)
            used += size
    return [*pieces, "".join(joined)] if joined else pieces
