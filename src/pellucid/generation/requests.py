"""What goes into continuous batching and what comes out: requests, events, answers; and a request being written."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from pellucid.errors import InputError, reject_unknown
from pellucid.generation.config import GenerationConfig, GenerationMode
from pellucid.generation.detokenizer import Detokenizer
from pellucid.generation.processing import build_processors
from pellucid.generation.room import check_room, new_tokens
from pellucid.generation.stopping import build_stopping
from pellucid.generation.structured import Grammar
from pellucid.tokenizer.rows import IdRows

if TYPE_CHECKING:
    from pellucid.cache_pool import PoolRow
    from pellucid.generation.processor_base import LogitsProcessorList
    from pellucid.model import PreTrainedModel

Prompt = str | Sequence[int] | Sequence[Mapping[str, Any]] | Tensor
Reason = Literal["stop", "length", "cancelled", "error"]


@dataclass
class Request:
    """A prompt, and how it is to be continued.

    Attributes:
        prompt: ids, a list or a tensor of one row; or with a tokenizer a text, or messages of a chat
            (`{"role": "user", "content": "…"}`).
        settings: fields of `GenerationConfig` by name, or a whole one.
        id: by which its events are known; `None`: its number.
        priority: higher ones are served first, and are the last to be put back when memory is full.
        logits_processor: further functions `(input_ids, scores) → scores`, as in `generate`.
        stopping_criteria: further functions `(input_ids, scores) → [B] booleans` that end the text.
        prefix_allowed_tokens_fn: `(row, ids) → ids that may come next`; the row is always 0.
    """

    prompt: Prompt
    settings: Mapping[str, Any] | GenerationConfig = field(default_factory=dict)
    id: Any = None
    priority: int = 0
    logits_processor: Sequence[Callable[..., Any]] | None = None
    stopping_criteria: Sequence[Callable[..., Any]] | None = None
    prefix_allowed_tokens_fn: Callable[..., Any] | None = None


@dataclass(frozen=True)
class Usage:
    """What a request took.

    Attributes:
        prompt_tokens: tokens of the prompt.
        new_tokens: tokens written.
        shared_tokens: tokens of the prompt that did not have to be read, as another text had them.
        preempted: how often the text had to give its memory to others, and was read again later.
    """

    prompt_tokens: int
    new_tokens: int
    shared_tokens: int
    preempted: int


@dataclass(frozen=True)
class Answer:
    """What became of a request.

    Attributes:
        id: of the request.
        tokens: what was written, the end token included.
        text: the same as text, without special tokens; empty without a tokenizer.
        reason: `"stop"` (an end token, or what the settings say ends a text), `"length"`, `"cancelled"`, `"error"`.
        usage: what it took.
        error: what went wrong, when something did.
    """

    id: Any
    tokens: list[int]
    text: str
    reason: Reason
    usage: Usage
    error: Exception | None = None


@dataclass(frozen=True)
class Event:
    """What a step did for one request.

    Attributes:
        id: of the request.
        tokens: tokens that were written; none when it was cancelled or went wrong.
        text: text that is certain by now; the texts of all events together are that of the answer.
        answer: everything, in the last event of a request; `None` in the others.
    """

    id: Any
    tokens: list[int]
    text: str
    answer: Answer | None = None

    @property
    def finished(self) -> Reason | None:
        """Why the request ended, if it did."""
        return None if self.answer is None else self.answer.reason


class Writing:
    """A request while it is being written.

    Attributes:
        number: how many were submitted before.
        ids: prompt and what was written.
        limit: how many tokens may be written.
        kind: requests of equal kind have the same logits processors.
        row: its memory, while it has any.
    """

    def __init__(self, number: int, request: Request, config: GenerationConfig, kind: str, ids: list[int]) -> None:
        self.number, self.request, self.config, self.kind = number, request, config, kind
        self.id = number if request.id is None else request.id
        self.ids, self.prompt = ids, len(ids)
        self.limit = new_tokens(config, self.prompt)
        ends = config.eos_token_id
        self.end_tokens: Sequence[int] = [] if ends is None else ends if isinstance(ends, list) else [ends]
        self.row: PoolRow | None = None
        self.shared = self.preempted = 0
        self.processors: LogitsProcessorList
        self.stopping: Sequence[Callable[..., Any]]
        self.detokenizer: Detokenizer | None = None
        self.texts: list[str] = []

    @cached_property
    def generator(self) -> torch.Generator:
        """Its random numbers: of its seed, or of none in particular."""
        made, seed = torch.Generator(self.device), self.config.seed
        if seed is None:
            made.seed()
            return made
        return made.manual_seed(seed[0] if isinstance(seed, list) else seed)

    def prepare(self, model: PreTrainedModel, tokenizer: IdRows | None, grammar: Grammar | None) -> None:
        """Make what chooses its tokens and what ends it; settings that cannot be followed are refused here."""
        request = self.request
        custom = [] if grammar is None else [grammar.processor(self.prompt)]
        self.device = model.device
        self.processors = build_processors(
            self.config,
            prompt_length=self.prompt,
            device=model.device,
            custom=[*custom, *(request.logits_processor or ())],
            prefix_allowed_tokens_fn=request.prefix_allowed_tokens_fn,
            max_length=self.most,
            vocab_size=getattr(model.config, "vocab_size", None),
        )
        self.stopping = build_stopping(self.config, tokenizer, custom=request.stopping_criteria)
        if tokenizer is not None:
            self.detokenizer = Detokenizer(tokenizer, skip_special_tokens=True)
        if request.logits_processor or request.prefix_allowed_tokens_fn:
            self.kind = f"{self.number}"  # functions of the caller's may know who they are for

    @property
    def rank(self) -> tuple[int, int]:
        """Who is served first."""
        return -self.request.priority, self.number

    @property
    def most(self) -> int:
        """How many tokens the text can have in the end."""
        return self.prompt + self.limit

    @property
    def read(self) -> int:
        """How many tokens are remembered."""
        return 0 if self.row is None else self.row.length

    @property
    def unread(self) -> int:
        """How many tokens the model has yet to read before it can write."""
        return len(self.ids) - self.read

    @property
    def place(self) -> tuple[int, int]:
        """Where it lies in memory: stretches of equal size together, in their order."""
        return (0, 0) if self.row is None else (self.row.size, self.row.start)

    def push(self, token: int) -> str:
        """Take in a token that was written; the text that is certain now."""
        self.ids.append(token)
        return self._say("" if self.detokenizer is None else self.detokenizer.push([token]))

    def is_stopped(self, scores: Tensor) -> bool:
        """Whether the last token ends the text; it was chosen by `scores` `[1, V]`."""
        if self.ids[-1] in self.end_tokens:
            return True
        if not self.stopping:
            return False
        ids = torch.tensor([self.ids], device=scores.device)
        return any(bool(torch.as_tensor(criterion(ids, scores)).any()) for criterion in self.stopping)

    def end(self, reason: Reason, tokens: list[int], text: str, error: Exception | None = None) -> Event:
        """The last event."""
        text += self._say("" if self.detokenizer is None else self.detokenizer.finish())
        written = self.ids[self.prompt :]
        usage = Usage(self.prompt, len(written), self.shared, self.preempted)
        return Event(self.id, tokens, text, Answer(self.id, written, "".join(self.texts), reason, usage, error))

    def _say(self, text: str) -> str:
        self.texts.append(text)
        return text


# ---------------------------------------------------------------------- from a prompt and settings


def given_by(settings: Mapping[str, Any] | GenerationConfig) -> dict[str, Any]:
    """The fields that somebody has set."""
    if isinstance(settings, GenerationConfig):
        return {name: getattr(settings, name) for name in settings.fields() if settings.is_given(name)}
    return dict(settings)


def settle(model: PreTrainedModel, given: Mapping[str, Any]) -> GenerationConfig:
    """The settings of a request with nothing left open: those that were given, and those of the model.

    Raises:
        InputError: they ask for a decoding method that has more than one row for a text.
    """
    if unknown := given.keys() - GenerationConfig.fields().keys():
        reject_unknown("generate_many", unknown, GenerationConfig.fields())
    made = GenerationConfig()
    made.update(**copy.deepcopy(dict(given)))
    config = made.resolved(model.generation_config)
    mode = config.get_generation_mode()
    if mode not in (GenerationMode.GREEDY_SEARCH, GenerationMode.SAMPLE):
        wanted = "greedy search or sampling; use model.generate for other methods"
        raise InputError(f"generate_many: got settings for {mode}, wanted {wanted}")
    if (config.num_return_sequences or 1) > 1:
        raise InputError(
            f"num_return_sequences: got {config.num_return_sequences}, wanted 1; submit the prompt so many times, "
            "with a seed each"
        )
    if config.guidance_scale is not None and config.guidance_scale > 1:
        raise InputError(f"guidance_scale: got {config.guidance_scale}, wanted None; use model.generate for guidance")
    if isinstance(config.seed, list) and len(config.seed) != 1:
        raise InputError(f"seed: got {len(config.seed)} numbers, wanted one; give each request its own settings")
    return config


def ids_of(prompt: Prompt, tokenizer: Any) -> list[int]:
    """Ids of a prompt.

    Raises:
        InputError: it is empty, or a text and there is no tokenizer.
    """
    if isinstance(prompt, Tensor):
        prompt = prompt.reshape(-1).tolist() if prompt.dim() == 1 or len(prompt) == 1 else []
    is_chat = not isinstance(prompt, str) and bool(prompt) and isinstance(prompt[0], Mapping)
    if isinstance(prompt, str) or is_chat:
        if tokenizer is None:
            raise InputError("prompt: got a text without a tokenizer; pass generate_many(tokenizer=…), or ids")
        if isinstance(prompt, str):
            found = tokenizer(prompt)["input_ids"]
        else:
            found = tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
    else:
        found = prompt
    ids: list[Any] = list(found)
    if not ids or not all(isinstance(one, int) and not isinstance(one, bool) for one in ids):
        raise InputError(f"prompt: got {str(prompt)[:40]!r}, wanted at least one token, a whole number each")
    return ids


def check_ids(ids: Sequence[int], model: PreTrainedModel, limit: int) -> None:
    """Refuse a prompt whose ids the model does not know, or that has no room for what is to be written.

    Raises:
        InputError: naming the id, or both lengths.
    """
    size = getattr(model.config, "vocab_size", None)
    if isinstance(size, int) and (bad := next((one for one in ids if not 0 <= one < size), None)) is not None:
        raise InputError(f"prompt: got token {bad}, wanted 0 to {size - 1}; use the tokenizer of this checkpoint")
    check_room(model, len(ids), limit)
