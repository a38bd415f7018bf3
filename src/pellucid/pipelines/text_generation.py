"""Text generation: a model goes on with a text, or answers in a chat.

    pipe = pipeline("text-generation", "HuggingFaceTB/SmolLM2-135M-Instruct")
    pipe("Once upon a time", max_new_tokens=30)               # [{"generated_text": "Once upon a time …"}]
    pipe([{"role": "user", "content": "Why is the sky blue?"}])  # the messages, with the answer as one more
    for piece in pipe.stream("Once upon a time"):             # text as it is written
        print(piece, end="", flush=True)
    pipe("The answer is", choices=["yes", "no"])              # or regex=…, json_schema=…: nothing else is written

Every setting of `GenerationConfig` can be given by its name. What neither the call nor the checkpoint says is as in
Transformers: up to 256 new tokens, sampled with temperature 0.7; `do_sample=False` takes the most probable ones.

A prompt that leaves no room for an answer is an error; `long="truncate"` leaves out its beginning. There are no windows
over a prompt, as a model goes on with all of it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch

from pellucid.errors import InputError, did_you_mean
from pellucid.files import quoted
from pellucid.generation.config import GenerationConfig
from pellucid.generation.detokenizer import Detokenizer
from pellucid.generation.room import window_of
from pellucid.pipelines.engine import Part, Row
from pellucid.pipelines.preprocess import LengthRule, readable_tokens
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

if TYPE_CHECKING:
    from pellucid.layout import PackedTokens

Chat = list[Mapping[str, Any]]
SHOWN = 10
"""Candidates for the next token that `steps` shows."""


class GenerationOptions(WritingOptions, total=False):
    """What a text generation pipeline can be told, beside every field of `GenerationConfig` by its name.

    Attributes:
        return_full_text: `False` gives what was written without the prompt, or the chat, before it.
        prefix: a text put before each prompt, that is not part of the answer; default as the checkpoint says.
        long: `"error"` (default) for prompts that leave no room for an answer, or `"truncate"`: the beginning of such a
            prompt is left out, as what is written follows its end. There are no windows over a prompt.
        handle_long_generation: `"hole"`, another name of `long="truncate"`.
        continue_final_message: go on with the last message of a chat; default: if it is the assistant's.
        tools: what a chat's model may call, as JSON schemas or functions.
        documents: texts that a chat's model may look at, `{"title": …, "text": …}`.
    """

    return_full_text: bool | None
    prefix: str | None
    long: Literal["error", "truncate"] | None
    handle_long_generation: Literal["hole"] | None
    continue_final_message: bool | None
    tools: Sequence[Mapping[str, Any] | Callable[..., Any]] | None
    documents: Sequence[Mapping[str, Any]] | None


class Prompt(list[Part]):
    """A row as the model reads it, and as it was given.

    Args:
        ids: what the model reads.
        given: the text or chat.
        cut: whether some of it is not read.
    """

    def __init__(self, ids: list[int], given: str | Chat, cut: bool) -> None:
        super().__init__([Part(ids, None, (0, len(ids)), cut)])
        self.given = given


class TextGenerationPipeline(WritingPipeline):
    """Texts that go on, and chats; arguments as in `Pipeline`, and the options of `GenerationOptions`.

    Attributes:
        new_tokens: how many tokens are written when neither the caller nor the checkpoint says so; fewer where the
            model has no room for them.
    """

    name = "text-generation"
    auto_class = "AutoModelForCausalLM"
    default_model = "openai-community/gpt2"
    options = GenerationOptions
    tokens_per_batch: ClassVar[int] = TOKENS_PER_BATCH
    reads_ahead = False  # reading prompts takes next to no time beside writing
    list_name = "texts"
    new_tokens = 256

    def __call__(self, text_inputs: Any, **options: Any) -> Any:
        """Go on with texts, or answer chats.

        Args:
            text_inputs: a text or a chat, which is a list of messages `{"role": …, "content": …}`; a list of texts or
                of chats; anything else that yields them; or the `pathlib.Path` of a file of lines.
            options: see `GenerationOptions`, `WritingOptions` and `GenerationConfig`.

        Returns:
            For each prompt a list of `{"generated_text": …}`, one or `num_return_sequences`: prompt and what was
            written as one text, or the messages of the chat and one more. With `return_tensors=True`
            `{"generated_token_ids": …}`. A list of these for a list, a generator for anything else with many rows.

        Raises:
            InputError, ConfigError: a prompt, or a setting, cannot be used.
            UnknownArgumentError: an option does not exist.
        """
        return self.answer(tuple(text_inputs) if _is_chat(text_inputs) else text_inputs, options)

    def stream(self, prompt: str | Sequence[Mapping[str, Any]], **options: Any) -> Generator[str, None, None]:
        """Go on with one text, or answer one chat, piece by piece: what is written, as it is written.

        A piece is never taken back and never ends within a character. Closing the generator, or leaving the loop over
        it, stops the work. Its numbers are in `last_run` while it runs.

        Args:
            prompt: a text, or a chat.
            options: as in a call.

        Raises:
            InputError, ConfigError, UnknownArgumentError: before the first piece is asked for.
        """
        chosen = self.merge(options)
        (row,) = self.preprocess([tuple(prompt) if _is_chat(prompt) else prompt], **chosen)
        if isinstance(row, InputError):
            raise row
        plan, ids = self._plan(chosen), row[0].ids
        if chosen.get("streamer") is not None:
            raise InputError("streamer: the pieces come out of stream itself; leave it out, or call the pipeline")
        if (plan.full.num_beams or 1) > 1 or (plan.full.num_return_sequences or 1) > 1:
            raise InputError(
                "stream: wants one answer and no beams, which are only known in the end; call the pipeline"
            )
        with self._answering():
            decoding = opened(self._writer(), ids, self._limited(plan, len(ids)), plan.tools)
        detokenizer = Detokenizer(self.tokenizer, **self._decoding(chosen))
        return self._pieces(decoding, detokenizer, len(ids))

    def _pieces(self, decoding: Any, detokenizer: Detokenizer, read: int) -> Generator[str, None, None]:
        self.last_run = statistics = type(self.last_run)(rows=1, tokens=read, computed=read, batches=1)
        try:
            while True:
                before = perf_counter()
                with self._answering():
                    step = next(decoding, None)
                statistics.seconds += perf_counter() - before
                statistics.model_seconds = statistics.seconds
                if step is None:
                    break
                statistics.written += len(step.tokens[0])
                if piece := detokenizer.push(step.tokens[0]):
                    yield piece
            if piece := detokenizer.finish():
                yield piece
        finally:
            decoding.close()

    # ------------------------------------------------------------------ options

    def check(self, options: Mapping[str, Any]) -> None:
        """Raise `InputError` or `ConfigError` for an option's value that cannot be used."""
        super().check(options)
        for one, other in (("text", "full_text"), ("tensors", "full_text"), ("tensors", "text")):
            if options.get(f"return_{one}") is not None and options.get(f"return_{other}") is not None:
                raise InputError(f"return_{one}: cannot be combined with return_{other}; give one of them")
        how = options.get("handle_long_generation")
        if how not in (None, "hole"):
            raise InputError(
                f"handle_long_generation: got {how!r}, wanted 'hole' or None{did_you_mean(str(how), ['hole'])}"
            )
        long, wanted = options.get("long"), ("error", "truncate")
        if long == "window":
            raise InputError(
                'long="window": a model goes on with a prompt as a whole, and what it writes behind each window is not '
                'one answer; pass long="truncate" to keep the end of the prompt'
            )
        if long not in (None, *wanted):
            raise InputError(f"long: got {long!r}, wanted one of {list(wanted)}{did_you_mean(str(long), wanted)}")
        if long == "error" and (how == "hole" or options.get("truncation")):
            raise InputError('long="error" and handle_long_generation or truncation contradict each other; drop one')
        if options.get("truncation") not in (None, True, False):
            raise InputError(f"truncation: got {options['truncation']!r}, wanted True or False")
        config = options.get("generation_config")
        if config is not None and not isinstance(config, GenerationConfig):
            raise InputError(f"generation_config: got a {type(config).__name__}, wanted a GenerationConfig")
        if isinstance(options.get("seed"), list):
            raise InputError("seed: got a list, wanted one number, with which the text of every prompt begins")
        self._plan(options)

    def length_rule(self, options: Mapping[str, Any]) -> LengthRule:
        """Prompts have rules of their own, as an answer needs room too."""
        return LengthRule(readable_tokens(self.model))

    def _plan(self, options: Mapping[str, Any]) -> Plan:
        """What the options say about writing."""
        prefix, truncated = self._prefix(options), options.get("truncation")
        if truncated and options.get("max_length") is not None and options.get("max_new_tokens") is not None:
            options = {name: value for name, value in options.items() if name != "max_length"}  # it is the prompt's
        defaults = {"max_new_tokens": self.new_tokens, "do_sample": True, "temperature": 0.7}
        plan = Plan.from_options(options, self.model, self.tokenizer, defaults)
        if prefix and plan.full.max_new_tokens is None and plan.full.max_length is not None:
            more = len(self.tokenizer(prefix, add_special_tokens=False, verbose=False)["input_ids"])
            plan = replace(plan, given=plan.up_to(plan.full.max_length + more))
            plan = replace(plan, full=plan.given.resolved(self.model.generation_config))
        return plan

    def _prefix(self, options: Mapping[str, Any]) -> str:
        """What stands before each prompt."""
        given = options.get("prefix")
        return str(given if given is not None else self.model.config.extra.get("prefix") or "")

    def _limited(self, plan: Plan, prompt: int) -> GenerationConfig:
        """The settings for a prompt of that length."""
        return plan.given if self._fits(plan, prompt) else plan.up_to(readable_tokens(self.model))

    def _fits(self, plan: Plan, prompt: int) -> bool:
        """Whether there is room for the whole answer; one that nobody measured may be shorter."""
        return not plan.flexible or prompt + self.new_tokens <= readable_tokens(self.model)

    def _decoding(self, options: Mapping[str, Any]) -> dict[str, Any]:
        skip, clean_up = options.get("skip_special_tokens"), options.get("clean_up_tokenization_spaces")
        return {"skip_special_tokens": skip is not False, "clean_up_tokenization_spaces": clean_up}

    # ------------------------------------------------------------------ step one: prompts → ids

    def preprocess(self, rows: Sequence[Any], first: int = 0, **options: Any) -> list[Row]:
        """Turn texts and chats into ids; those that leave no room for an answer are refused, or cut if asked."""
        plan, window = self._plan(options), window_of(self.model)
        prompts = [_read(row, number) for number, row in enumerate(rows, first)]
        found: list[Any] = [prompt if isinstance(prompt, InputError) else None for prompt in prompts]
        given = {**(options.get("tokenizer_encode_kwargs") or {}), "padding": False, "return_tensors": None}
        if options.get("truncation") and options.get("max_length"):
            given = {"truncation": True, "max_length": options["max_length"], **given}
        places = [place for place, prompt in enumerate(prompts) if isinstance(prompt, str)]
        if places:
            special = options.get("add_special_tokens")
            texts = [self._prefix(options) + str(prompts[place]) for place in places]
            marked = {} if special is None else {"add_special_tokens": special}
            ids = self.tokenizer(texts, **{"verbose": False, **marked, **given})["input_ids"]
            for place, own in zip(places, ids, strict=True):
                found[place] = own
        for place, prompt in enumerate(prompts):
            if isinstance(prompt, list):
                try:
                    found[place] = self._chat_ids(prompt, options, given)
                except InputError as error:
                    found[place] = InputError(f"row {first + place}: {error}")
        laid: list[Row] = []
        for number, (ids, prompt) in enumerate(zip(found, prompts, strict=True), first):
            kept = ids if isinstance(ids, InputError) else self._fit(ids, plan, options, number, window)
            if isinstance(kept, InputError):
                laid.append(kept)
                continue
            assert not isinstance(prompt, InputError)  # its error stands where ids would
            cut = len(kept) < len(ids) or (given.get("truncation") and self._is_longer(prompt, len(ids), options))
            laid.append(Prompt(kept, prompt, bool(cut)))
        return laid

    def _is_longer(self, prompt: str | Chat, tokens: int, options: Mapping[str, Any]) -> bool:
        """Whether a prompt of which the tokenizer left so many tokens has more."""
        given = {**(options.get("tokenizer_encode_kwargs") or {}), "truncation": False, "padding": False}
        given = {name: value for name, value in given.items() if name not in ("max_length", "return_tensors")}
        if isinstance(prompt, list):
            return len(self._chat_ids(prompt, options, given)) > tokens
        special = options.get("add_special_tokens")
        marked = {} if special is None else {"add_special_tokens": special}
        whole = self.tokenizer(self._prefix(options) + prompt, **{"verbose": False, **marked, **given})
        return len(whole["input_ids"]) > tokens

    def _chat_ids(self, chat: Chat, options: Mapping[str, Any], given: Mapping[str, Any]) -> list[int]:
        goes_on = _goes_on(chat, options)
        ids: list[int] = self.tokenizer.apply_chat_template(
            chat,
            tools=options.get("tools"),
            documents=options.get("documents"),
            add_generation_prompt=not goes_on,
            continue_final_message=goes_on,
            return_dict=False,
            **{**given, "tokenizer_kwargs": {"verbose": False, **(given.get("tokenizer_kwargs") or {})}},
        )
        return ids

    def _fit(
        self, ids: list[int], plan: Plan, options: Mapping[str, Any], number: int, window: int | None
    ) -> list[int] | InputError:
        """The ids of a prompt, cut where the options say so, or why nothing can be written behind it."""
        if not ids:
            begin = plan.full.bos_token_id
            if begin is None:
                return InputError(
                    f"row {number}: an empty prompt, and the model has no token to begin with; give a text"
                )
            ids = [begin]
        readable = readable_tokens(self.model)
        limit, new = min(readable, self.tokenizer.model_max_length), plan.room_for(len(ids))
        if plan.flexible:
            new = min(new, max(limit - len(ids), limit // 2))
        cut_left = options.get("handle_long_generation") == "hole" or options.get("long") == "truncate"
        if (cut_left or (options.get("truncation") and not options.get("max_length"))) and len(ids) + new > limit:
            if new >= limit:
                return InputError(
                    f"row {number}: {new} new tokens leave no room for a prompt, as the model reads at most {limit}; "
                    "set a smaller max_new_tokens"
                )
            left = cut_left or self.tokenizer.truncation_side == "left"
            ids = ids[new - limit :] if left else ids[: limit - new]
        new = 1 if plan.flexible else plan.room_for(len(ids))
        if new < 1:
            return InputError(
                f"row {number}: the prompt has {len(ids):,} tokens, max_length for prompt and answer together is "
                f"{plan.full.max_length}; set max_new_tokens instead"
            )
        if len(ids) > readable or (window is not None and len(ids) + new > window):
            more = "" if plan.flexible else f" and is to get {new:,} more"
            return InputError(
                f"row {number}: the prompt has {len(ids):,} tokens{more}, the model reads at most {readable:,}; "
                'leave out the beginning of such a prompt by long="truncate", or shorten max_new_tokens'
            )
        return ids

    # ------------------------------------------------------------------ step two: ids → written tokens

    def _forward(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """What is written behind each prompt, those of a batch together."""
        assert packed.input_ids is not None
        rows = [ids.tolist() for ids in packed.layout.split(packed.input_ids)]
        plan, writer = self._plan(options), self._writer()
        found: list[list[Continuation]] = [[] for _ in rows]
        for fits in (True, False):
            group = [place for place, ids in enumerate(rows) if self._fits(plan, len(ids)) is fits]
            if group:
                config = self._limited(plan, len(rows[group[0]]))
                chosen = [rows[place] for place in group]
                texts = continued(writer, chosen, config, plan.tools, options.get("streamer"))
                for place, own in zip(group, texts, strict=True):
                    found[place] = own
        self.last_run.written += sum(len(text.tokens) for texts in found for text in texts)
        return found

    def _writer(self) -> Any:
        """The speed form of the model, with the model's own settings."""
        writer = self.runner
        writer.generation_config = self.model.generation_config
        return writer

    @contextmanager
    def _answering(self) -> Iterator[None]:
        """Without dropout and gradients, for one step of a stream."""
        training = [module for module in self.model.modules() if module.training] if self.model.training else []
        for module in training:
            module.training = False
        try:
            with torch.inference_mode():
                yield
        finally:
            for module in training:
                module.training = True

    # ------------------------------------------------------------------ step three: written tokens → answer

    def postprocess(self, values: list[Any], parts: list[Part], **options: Any) -> Any:
        """Turn what was written into texts, behind their prompt."""
        prompt: Any = getattr(parts, "given", "")
        whole = options.get("return_full_text") is not False
        answers = []
        for text in values[0]:
            if options.get("return_tensors"):
                answers.append({"generated_token_ids": parts[0].ids + text.tokens, **text.more})
                continue
            written: Any = self.tokenizer.decode(text.tokens, **self._decoding(options))
            if whole and isinstance(prompt, str):
                written = prompt + written
            elif whole:
                written = _answered(prompt, written, _goes_on(prompt, options))
            answers.append({"generated_text": written, **text.more})
        return answers

    def shown(self, row: Any, parts: list[Part], options: Mapping[str, Any]) -> str | tuple[str, ...]:
        """The prompt of a row; of a chat, the text that its template makes of it."""
        prompt = _read(row, 0)
        return prompt if isinstance(prompt, str) else str(self.tokenizer.decode(parts[0].ids))

    def in_columns(self, answers: list[Any], options: Mapping[str, Any]) -> dict[str, list[Any]]:
        """Answers as columns of a frame: of one text each, its fields; of several, `texts`."""
        return super().in_columns(ones(answers), options)

    def describe(self, values: list[Any], parts: list[Part], **options: Any) -> Described:
        """The best candidates for the first token: their scores, and their chances after the logits processors."""
        plan, ids = self._plan(options), parts[0].ids
        with self._answering():
            decoding = opened(self._writer(), ids, self._limited(plan, len(ids)), plan.tools)
            step = next(decoding)
            decoding.close()
        assert step.logits is not None and step.scores is not None
        best = step.logits[0].topk(min(SHOWN, step.logits.shape[-1]))
        chances = step.scores[0].softmax(dim=-1)[best.indices].tolist()
        names = [quoted(self.tokenizer.decode([token])) for token in best.indices.tolist()]
        texts, method = values[0], plan.full.get_generation_mode(plan.tools.get("assistant_model"))
        return {
            "shapes": f"{len(ids)} tokens → {step.logits.shape[-1]:,} scores for the next, "
            f"{len(texts[0].tokens)} times",
            "outputs": [(name, [score]) for name, score in zip(names, best.values.tolist(), strict=True)],
            "function": f"Decoding: {str(method).replace('_', ' ')}; chances of the same tokens after its settings",
            "scores": [(name, [chance]) for name, chance in zip(names, chances, strict=True)],
        }

    def explained(self, row: Any, values: list[Any], parts: list[Part], **options: Any) -> Explained:
        """The logit of the first token that was written."""
        tokens = values[0][0].tokens
        if not tokens:
            raise InputError("explain: nothing was written behind the prompt, so there is no token to explain")
        token = tokens[0]
        prompt = _read(row, 0)
        text = self._prefix(options) + prompt if isinstance(prompt, str) else self.shown(row, parts, options)
        name = f"logit of {quoted(self.tokenizer.decode([token]))} as the first token"
        return Explained(name, lambda found: found[0][token], texts=[text])

    def differentiable(self, packed: PackedTokens, **options: Any) -> Sequence[Any]:
        """The logits `[V]` of the next token, for each part."""
        output: Any = self.model(packed=packed, logits_to_keep=1, return_dict=True)
        return output.logits[:, -1].float().cpu().unbind(0)  # type: ignore[no-any-return]  # [B, 1, V] → [V] each


def _is_message(value: Any) -> bool:
    return isinstance(value, Mapping) and "role" in value


def _is_chat(value: Any) -> bool:
    """Whether this is one chat, and not a list of prompts."""
    return isinstance(value, list | tuple) and len(value) > 0 and _is_message(value[0])


def _read(row: Any, number: int) -> str | Chat | InputError:
    """The prompt in a row, or what is wrong with it."""
    if isinstance(row, Mapping) and row.keys() == {"text"}:
        row = row["text"]
    if isinstance(row, str):
        return row
    if _is_chat(row):
        bad = next((message for message in row if not _is_message(message) or "content" not in message), None)
        if bad is None:
            return list(row)
        row = bad
    cure = "; put the messages of a chat into a list of their own" if _is_message(row) else ""
    return InputError(
        f"row {number}: got {quoted(row)}, wanted a text, or a chat as a list of messages "
        f'{{"role": …, "content": …}}{cure}'
    )


def _goes_on(chat: Chat, options: Mapping[str, Any]) -> bool:
    """Whether the last message is to be continued, as few models take two answers in a row."""
    wanted = options.get("continue_final_message")
    return bool(chat[-1].get("role") == "assistant" if wanted is None else wanted)


def _answered(chat: Chat, text: str, goes_on: bool) -> Chat:
    """The chat with its answer."""
    if not goes_on:
        return [*chat, {"role": "assistant", "content": text}]
    last, content = chat[-1], chat[-1]["content"]
    content = content + text if isinstance(content, str) else [*content, {"type": "text", "text": text}]
    return [*chat[:-1], {**last, "content": content}]
