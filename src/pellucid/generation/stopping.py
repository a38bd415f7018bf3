"""What ends a text before it is as long as it may be: time, strings, tokens, or a function of the caller's.

A stopping criterion takes the texts so far `[B, S]`, prompt included and without padding, and the scores `[B, V]` that
the last token was chosen by; it answers for each row whether it is finished, or with one `bool` for all.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from typing import Any, Protocol, cast

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.files import quoted
from pellucid.generation.config import GenerationConfig

_BYTE = re.compile("<0x[0-9A-Fa-f]{2}>")
_MARGIN = 8  # characters at the beginning of a decoded part that may differ from those of the whole text


class Tokenizer(Protocol):
    """What is needed of a tokenizer."""

    def encode(self, text: str, *, add_special_tokens: bool) -> Any:
        """Ids of a text."""

    def decode(self, token_ids: list[int], skip_special_tokens: bool) -> Any:
        """Text of ids."""

    def get_vocab(self) -> dict[str, int]:
        """Ids of all tokens."""


class StoppingCriteria:
    """Tells which texts are finished. A plain function will do as well."""

    def __call__(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        """`[B]` whether each row is finished; this is what a criterion of one's own defines.

        Args:
            input_ids: `[B, S]` what each row holds so far.
            scores: `[B, V]` that the last token was chosen by.
        """
        return self._finished(input_ids, scores)

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        raise InputError(f"{type(self).__name__}: a stopping criterion must define __call__(input_ids, scores)")


def _all_rows(ids: Tensor, finished: bool) -> Tensor:
    return torch.full((ids.shape[0],), finished, dtype=torch.bool, device=ids.device)


class MaxLengthCriteria(StoppingCriteria):
    """Texts of `max_length` tokens are finished, prompt included.

    Args:
        max_length: how long a text may be.
        max_position_embeddings: how many tokens the model can read; texts that long are finished as well.
    """

    @strict
    def __init__(self, max_length: int, max_position_embeddings: int | None = None) -> None:
        self.max_length = max_length
        self.max_position_embeddings = max_position_embeddings

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        window = self.max_position_embeddings
        return _all_rows(input_ids, input_ids.shape[1] >= min(self.max_length, window or self.max_length))


class MaxTimeCriteria(StoppingCriteria):
    """All texts are finished when `max_time` seconds have gone by.

    Args:
        max_time: how many.
        initial_timestamp: since when, as `time.time()` says it; default now.
    """

    @strict
    def __init__(self, max_time: float, initial_timestamp: float | None = None) -> None:
        self.max_time = max_time
        self.initial_timestamp = time.time() if initial_timestamp is None else initial_timestamp

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        return _all_rows(input_ids, time.time() - self.initial_timestamp > self.max_time)


class EosTokenCriteria(StoppingCriteria):
    """Texts that end with an end token are finished."""

    @strict
    def __init__(self, eos_token_id: int | Sequence[int] | Tensor) -> None:
        self.eos_token_id = torch.as_tensor(eos_token_id).reshape(-1)
        if self.eos_token_id.is_floating_point() or (self.eos_token_id < 0).any():
            raise InputError(f"eos_token_id: got {quoted(eos_token_id)}, wanted ids of tokens, whole numbers from 0")

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        self.eos_token_id = self.eos_token_id.to(input_ids.device)
        return torch.isin(input_ids[:, -1], self.eos_token_id)


class ConfidenceCriteria(StoppingCriteria):
    """A draft is finished when the model that makes it gave its last token too little probability.

    Args:
        assistant_confidence_threshold: how much is enough.
    """

    @strict
    def __init__(self, assistant_confidence_threshold: float) -> None:
        self.assistant_confidence_threshold = assistant_confidence_threshold

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        if scores is None:
            raise InputError("ConfidenceCriteria: got no scores, wanted those that the last token was chosen by")
        chance = scores.softmax(dim=-1).gather(-1, input_ids[:, -1:])[:, 0]
        return chance < self.assistant_confidence_threshold


class StopStringCriteria(StoppingCriteria):
    """Texts in which the last token completes one of some strings are finished.

    What counts is the text that the tokenizer makes of the ids, special tokens included: a string may begin and end in
    the middle of tokens, and it may begin in the prompt. A string that was there before the last token does not count.

    Each step decodes only the end of a text, just as much as the longest string needs, so that a long text costs no
    more than a short one.

    Args:
        tokenizer: of the model.
        stop_strings: one or several.

    Raises:
        InputError: a string is empty, or the tokenizer can never write it.
    """

    @strict
    def __init__(self, tokenizer: Tokenizer, stop_strings: str | Sequence[str]) -> None:
        strings = [stop_strings] if isinstance(stop_strings, str) else list(stop_strings)
        if not strings or not all(isinstance(one, str) and one for one in strings):
            raise InputError(f"stop_strings: got {quoted(stop_strings)}, wanted texts, none of them empty")
        self.stop_strings = tuple(strings)
        self.tokenizer = tokenizer
        vocabulary = tokenizer.get_vocab()
        self._bytes = {number for token, number in vocabulary.items() if _BYTE.fullmatch(token)}
        self._reach = max(map(len, strings)) - 1  # how far before the new text a string can begin
        for string in strings:
            if string not in vocabulary:
                self._check_writable(string)

    def _check_writable(self, string: str) -> None:
        """Raise unless the tokenizer, given the string alone or within a text, gives it back."""
        back = ""
        for text in (string, f"a{string}a", f"a {string} a"):
            back = self._text(list(self.tokenizer.encode(text, add_special_tokens=False)))
            if string in back:
                return
        came = back.removeprefix("a").removesuffix("a").strip()
        raise InputError(
            f"stop_strings: got {quoted(string)}, which this tokenizer never writes: it reads it as {quoted(came)}; "
            "give the string as it stands in decoded text"
        )

    def _text(self, ids: list[int]) -> str:
        return str(self.tokenizer.decode(ids, skip_special_tokens=False))

    def _finished(self, input_ids: Tensor, scores: Tensor | None) -> Tensor:
        rows: list[list[int]] = input_ids.tolist()
        return torch.tensor([self._is_completed(row) for row in rows], dtype=torch.bool, device=input_ids.device)

    def _is_completed(self, ids: list[int]) -> bool:
        """Whether the last token of a text completes a string."""
        count = self._reach // 2 + _MARGIN
        while True:
            start = max(len(ids) - count, 0)
            while start and ids[start] in self._bytes:  # tokens that are bytes are decoded all together
                start -= 1
            before, text = self._text(ids[start:-1]), self._text(ids[start:])
            same = _shared(before, text)
            sure = same >= self._reach + _MARGIN and "\N{REPLACEMENT CHARACTER}" not in text
            if sure or start == 0:
                break
            count *= 2
        first = max(same - self._reach, 0)
        return any(text.find(one, max(first, same - len(one) + 1)) >= 0 for one in self.stop_strings)


def _shared(first: str, second: str) -> int:
    """How many characters two texts have in common from their beginning."""
    if second.startswith(first):
        return len(first)
    pairs = enumerate(zip(first, second, strict=False))
    return next((place for place, (one, other) in pairs if one != other), min(len(first), len(second)))


class StoppingCriteriaList(list[Callable[..., Any]]):
    """Criteria of which one is enough."""

    def __call__(self, input_ids: Tensor, scores: Tensor | None = None) -> Tensor:
        """`[B]` whether each row is finished; arguments as in `StoppingCriteria`."""
        finished = _all_rows(input_ids, False)
        for criterion in self:
            finished = finished | torch.as_tensor(criterion(input_ids, scores), device=input_ids.device).bool()
        return finished

    @property
    def max_length(self) -> int | None:
        """The length that one of the criteria sets, if any."""
        return next((one.max_length for one in self if isinstance(one, MaxLengthCriteria)), None)


@strict
def build_stopping(
    config: GenerationConfig,
    tokenizer: Tokenizer | None = None,
    *,
    custom: Sequence[Callable[..., Any]] | None = None,
) -> StoppingCriteriaList:
    """The criteria that settings ask for, besides lengths and end tokens, which the loops know themselves.

    Args:
        config: the settings.
        tokenizer: of the model, for stop strings.
        custom: the caller's own.

    Raises:
        InputError: there are stop strings and no tokenizer, or one that the tokenizer can never write.
    """
    listed = StoppingCriteriaList()
    if config.max_time is not None:
        listed.append(MaxTimeCriteria(config.max_time))
    if config.stop_strings is not None:
        if tokenizer is None:
            raise InputError(
                f"stop_strings: got {quoted(config.stop_strings)} without a tokenizer; pass generate(tokenizer=…)"
            )
        listed.append(StopStringCriteria(tokenizer, config.stop_strings))
    for criterion in custom or ():
        listed.append(_checked(criterion))
    return listed


def _checked(criterion: Any) -> Callable[..., Any]:
    if not callable(criterion):
        wanted = "a function or a StoppingCriteria"
        raise InputError(f"stopping_criteria: got a {type(criterion).__name__}, wanted {wanted}")
    return cast("Callable[..., Any]", criterion)
