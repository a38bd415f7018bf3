"""What pipelines that write texts have in common: from a call's options to settings, from prompts to written tokens."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import repeat
from typing import TYPE_CHECKING, Any, Literal, TypedDict

import torch
from torch import Tensor

from pellucid.errors import InputError
from pellucid.generation import generate
from pellucid.generation.config import GenerationConfig
from pellucid.pipelines.base import Pipeline

if TYPE_CHECKING:
    from pellucid.generation.loop import Decoding
    from pellucid.model import PreTrainedModel
    from pellucid.tokenizer import PreTrainedTokenizerBase

ROWS = 64
"""Prompts that are continued together: more of them would cost memory, and no longer save time."""
TOKENS_PER_BATCH = 8192
"""Tokens of prompts that are read together."""
SAMPLING = ("temperature", "top_k", "top_p", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
TOOLS = ("logits_processor", "stopping_criteria", "assistant_model", "assistant_tokenizer")


class WritingOptions(TypedDict, total=False):
    """What a pipeline that writes can be told, beside every field of `GenerationConfig` by its name.

    Attributes:
        generation_config: settings in place of those that the pipeline was made with.
        stop_sequence: another name of `stop_strings`: texts that end an answer, and are part of it.
        streamer: is given the text while it is written, of one prompt after another.
        logits_processor: further functions `(input_ids, scores) → scores`.
        stopping_criteria: further functions `(input_ids, scores) → [B] booleans` that end a text.
        prefix_allowed_tokens_fn: `(0, ids) → ids that may come next`.
        assistant_model: a smaller model that drafts.
        assistant_tokenizer: its tokenizer, when it is another one.
        return_text: `True`, the default: answers are texts.
        return_tensors: answers are ids, as `generated_token_ids`.
        clean_up_tokenization_spaces: as in `tokenizer.decode`; default as the tokenizer says.
        skip_special_tokens: leave special tokens out of texts; default `True`.
        truncation: `True` cuts prompts that leave no room for an answer; with `max_length`, to that length.
        tokenizer_encode_kwargs: further arguments of the tokenizer's call, or of the chat template.
        add_special_tokens: whether a prompt that is a text gets the tokenizer's markers.
        batch_size: prompts continued together.
        tokens_per_batch: tokens of prompts that are read together; default 8192.
        on_error: `"raise"` (default) the error of a row that cannot be read; `"keep"` it as the row's answer; or
            `"collect"` it: the row's answer is `None`, and `last_run.errors` has its number and the error.
        progress: show a progress bar; default: when the run takes a while and a terminal is there.
        padding: accepted for compatibility; padding is never computed.
        num_workers: accepted for compatibility.
    """

    generation_config: GenerationConfig | None
    stop_sequence: str | list[str] | None
    streamer: Any
    logits_processor: Sequence[Callable[..., Tensor]] | None
    stopping_criteria: Sequence[Callable[..., Any]] | None
    prefix_allowed_tokens_fn: Callable[[int, Tensor], list[int]] | None
    assistant_model: Any
    assistant_tokenizer: Any
    return_text: bool | None
    return_tensors: bool | None
    clean_up_tokenization_spaces: bool | None
    skip_special_tokens: bool | None
    truncation: bool | None
    tokenizer_encode_kwargs: dict[str, Any] | None
    add_special_tokens: bool | None
    batch_size: int | None
    tokens_per_batch: int | None
    on_error: Literal["raise", "keep", "collect"]
    progress: bool | None
    padding: bool | str | None
    num_workers: int | None


class WritingPipeline(Pipeline):
    """Base of the pipelines that write: every setting of `GenerationConfig` can be told by its name."""

    @classmethod
    def known_options(cls) -> frozenset[str]:
        """Names of everything that a call can be told."""
        return super().known_options() | GenerationConfig.fields().keys()

    def merge(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Check options and add the defaults; a call's own `generation_config` takes the place of all settings."""
        if given.get("generation_config") is not None:
            settings = GenerationConfig.fields().keys() | {"stop_sequence"}
            given = {**dict.fromkeys(self.defaults.keys() & settings), **given}
        return super().merge(given)


def ones(answers: Sequence[Any]) -> list[Any]:
    """Answers of which each that is a list of one text is that text alone."""
    return [answer[0] if isinstance(answer, list) and len(answer) == 1 else answer for answer in answers]


@dataclass
class Continuation:
    """One text that was written.

    Attributes:
        tokens: ids, the end token included.
        more: what else was asked for, such as `scores`.
    """

    tokens: list[int]
    more: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Plan:
    """How a call's texts are written.

    Attributes:
        given: the call's settings, over the pipeline's, over the defaults of the task.
        full: the same with the checkpoint's and nothing left open.
        flexible: nobody said how much to write, so it may be less where a model has no room for more.
        tools: the other arguments of `generate`.
    """

    given: GenerationConfig
    full: GenerationConfig
    flexible: bool
    tools: dict[str, Any]

    @classmethod
    def from_options(
        cls,
        options: Mapping[str, Any],
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        defaults: Mapping[str, Any],
    ) -> Plan:
        """What the options ask for, with a task's `defaults` where neither they nor the checkpoint say anything.

        Raises:
            ConfigError: for a value of the wrong type or outside its range, or settings that contradict each other.
        """
        given = copy.deepcopy(options.get("generation_config")) or GenerationConfig()
        named = {name: options[name] for name in GenerationConfig.fields() if options.get(name) is not None}
        if options.get("stop_sequence") is not None:
            if "stop_strings" in named:
                raise InputError("stop_sequence: is another name of stop_strings, and both were given; drop one")
            named["stop_strings"] = options["stop_sequence"]
        given.update(**named)
        base = model.generation_config
        known = {
            name for name in GenerationConfig.fields() if (getattr(given, name), getattr(base, name)) != (None,) * 2
        }
        added = {name: value for name, value in defaults.items() if name not in known}
        if "max_length" in known:
            added.pop("max_new_tokens", None)
        searched = given.penalty_alpha, given.force_words_ids, given.constraints, (given.num_beam_groups or 1) > 1
        if any(searched):  # methods that have no use for chance
            added.pop("do_sample", None)
        sampled = added.get("do_sample", base.do_sample if given.do_sample is None else given.do_sample)
        if not sampled:
            added = {name: value for name, value in added.items() if name not in SAMPLING}
        if tokenizer.pad_token_id is not None and "pad_token_id" not in known:
            added["pad_token_id"] = tokenizer.pad_token_id
        given.update(**added)
        tools = {name: options[name] for name in TOOLS if options.get(name) is not None}
        if (allowed := options.get("prefix_allowed_tokens_fn")) is not None:
            tools["prefix_allowed_tokens_fn"] = lambda row, ids: allowed(0, ids)
        tools["tokenizer"] = tokenizer
        return cls(given, given.resolved(base), "max_new_tokens" in added, tools)

    def up_to(self, length: int) -> GenerationConfig:
        """The settings with `length` tokens of prompt and answer together as the limit."""
        changed = copy.deepcopy(self.given)
        changed.max_new_tokens = None
        changed.max_length = length
        return changed

    def room_for(self, prompt: int) -> int:
        """How many tokens are to be written behind a prompt of that length; may be less than one."""
        if self.full.max_new_tokens is not None:
            return self.full.max_new_tokens
        assert self.full.max_length is not None  # one of the two is always set
        return self.full.max_length - prompt


def opened(
    model: PreTrainedModel, prompt: Sequence[int], config: GenerationConfig, tools: Mapping[str, Any]
) -> Decoding:
    """The decoding of one prompt, ready to take its first step; everything has been checked."""
    call, _ = generate.prepare(model, [prompt], {}, {**tools, "generation_config": config})
    return generate.method_of(call)(call)


def continued(
    model: PreTrainedModel,
    rows: Sequence[Sequence[int]],
    config: GenerationConfig,
    tools: Mapping[str, Any],
    streamer: Any = None,
) -> list[list[Continuation]]:
    """Write behind each prompt.

    Args:
        model: a model that writes, or its speed form.
        rows: ids of the prompts.
        config: settings of the call.
        tools: the other arguments of `generate`.
        streamer: is given the tokens of each prompt, which are then continued one after another.

    Returns:
        For each prompt its texts, one or `num_return_sequences`.
    """
    size = ROWS if streamer is None else 1
    found: list[list[Continuation]] = []
    for start in range(0, len(rows), size):
        prompts = rows[start : start + size]
        call, frame = generate.prepare(model, prompts, {}, {**tools, "generation_config": config})
        collected, written = generate.decode(call, frame, streamer)
        count = len(call.prompts) * call.copies
        tokens = [collected.sequences.get(row, []) for row in range(count)] if written is None else written.sequences
        more: Iterable[dict[str, Any]] = repeat({}, count)
        if frame.config.return_dict_in_generate:
            more = _more(generate.finish(call, frame, collected, written), tokens, frame.config)
        texts = [Continuation(own, beside) for own, beside in zip(tokens, more, strict=True)]
        found += [texts[first : first + call.copies] for first in range(0, len(texts), call.copies)]
    return found


def _more(answer: Any, tokens: list[list[int]], config: GenerationConfig) -> Iterator[dict[str, Any]]:
    """What was asked for beside the tokens, for each text."""
    for row, own in enumerate(tokens):
        found: dict[str, Any] = {}
        if answer.get("sequences_scores") is not None:
            found["sequences_scores"] = float(answer["sequences_scores"][row])
        for name in ("scores", "logits") if (config.num_beams or 1) == 1 else ():
            if answer.get(name) is not None:
                steps: tuple[Tensor, ...] = answer[name][: len(own)]
                found[name] = torch.stack([step[row] for step in steps]).tolist()
        yield found
