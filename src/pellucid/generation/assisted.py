"""Assisted decoding: something cheap drafts the next tokens, and the model checks them all in one reading.

    draft = [t1, t2, t3]                              # by a small model, or copied from earlier in the text
    scores = model.read(last token + draft)           # one reading gives the scores after each of them
    choose a token from each of the scores in turn    # just as the plain loop would
    go on as long as the choice is what was drafted   # then the next scores are the right ones as well

What is written is what the plain loop writes, token for token, drawn tokens included: a draft only saves readings
(Leviathan et al. 2022, "Fast Inference from Transformers via Speculative Decoding", arXiv:2211.17192; prompt look-up:
Saxena 2023). Each row accepts as much of its draft as is right; rows need not agree.

Axes: `R` rows, `V` vocabulary.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from pellucid.cache import DynamicCache
from pellucid.errors import InputError
from pellucid.generation.loop import Call, Decoding, Rows, Step, Written, draw, is_stopped, process
from pellucid.generation.reader import Reader


class Drafter(ABC):
    """Something that guesses how texts go on."""

    @abstractmethod
    def draft(self, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[list[int]]:
        """At most `sizes[i]` tokens that may follow text `i`."""

    def learn(self, accepted: Sequence[int], drafted: Sequence[int]) -> None:
        """Hear how many tokens of each draft were right."""
        return

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the given rows, in that order."""
        return


class ModelDrafter(Drafter):
    """A smaller model with the same vocabulary, which writes on greedily.

    Args:
        model: the smaller model.
        tokens: how many tokens to draft.
        schedule: `"constant"`; or `"heuristic"`: two more after a draft that was right to its end, one less otherwise.
        threshold: stop drafting where the model gives its own choice less than this probability.
    """

    def __init__(self, model: Reader, tokens: int, schedule: str, threshold: float) -> None:
        self.reader, self.tokens, self.schedule, self.threshold = model, tokens, schedule, threshold

    def draft(self, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[list[int]]:
        """Let the small model catch up with the texts, then write on."""
        reader = self.reader
        if reader.texts:
            reader.forget([_common(own, text) for own, text in zip(reader.texts, texts, strict=True)])
        new = [list(text[len(own) :]) for own, text in zip(reader.texts or [[]] * len(texts), texts, strict=True)]
        made: list[list[int]] = [[] for _ in texts]
        going = [min(self.tokens, size) > 0 for size in sizes]
        for turn in range(min(self.tokens, max(sizes))):
            chances, chosen = reader.read(new).softmax(dim=-1).max(dim=-1)
            for row, (chance, token) in enumerate(zip(chances.tolist(), chosen.tolist(), strict=True)):
                going[row] = going[row] and turn < sizes[row] and (turn == 0 or chance >= self.threshold)
                if going[row]:
                    made[row].append(token)
            if not any(going):
                break
            new = [[token] for token in chosen.tolist()]
        return made

    def learn(self, accepted: Sequence[int], drafted: Sequence[int]) -> None:
        """Draft more after success, and less after failure."""
        if self.schedule.startswith("heuristic"):
            right = all(good == size for good, size in zip(accepted, drafted, strict=True))
            self.tokens = self.tokens + 2 if right else max(self.tokens - 1, 1)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the given rows, in that order."""
        if self.reader.texts:
            self.reader.select(rows)


class LookupDrafter(Drafter):
    """Copies what followed the last words where they stood before in the same text: prompt look-up.

    Args:
        tokens: how many tokens to draft.
        longest: length of the longest run of last words to look for.
    """

    def __init__(self, tokens: int, longest: int) -> None:
        self.tokens, self.longest = tokens, longest

    def draft(self, texts: Sequence[Sequence[int]], sizes: Sequence[int]) -> list[list[int]]:
        """What followed the latest earlier place of the last words."""
        return [self._look(list(text), min(self.tokens, size)) for text, size in zip(texts, sizes, strict=True)]

    def _look(self, text: list[int], size: int) -> list[int]:
        for length in range(min(self.longest, len(text) - 1), 0, -1):
            words = text[-length:]
            for start in range(len(text) - length - 1, -1, -1):
                if text[start : start + length] == words:
                    return text[start + length : start + length + size]
        return []


def drafter_of(call: Call) -> Drafter:
    """What drafts, by the settings."""
    config = call.config
    if call.assistant is None:
        assert config.prompt_lookup_num_tokens is not None
        return LookupDrafter(config.prompt_lookup_num_tokens, config.max_matching_ngram_size or 2)
    ours, theirs = call.reader.model.config.vocab_size, call.assistant.config.vocab_size
    if ours != theirs:
        raise InputError(
            f"assistant_model: has a vocabulary of {theirs}, wanted the model's own, {ours}; take a smaller model of "
            "the same family"
        )
    reader = Reader(call.assistant, cache=None if call.reader.is_seq2seq else DynamicCache(), source=call.reader.source)
    if call.copies > 1:
        reader.spread(call.prompts, call.copies)
    tokens, schedule = config.num_assistant_tokens or 20, config.num_assistant_tokens_schedule or "constant"
    return ModelDrafter(reader, tokens, schedule, config.assistant_confidence_threshold or 0.0)


def write_assisted(call: Call) -> Decoding:
    """Greedy search or sampling, with drafts."""
    reader, drafter = call.reader, drafter_of(call)
    made = Written([[] for _ in range(len(call.prompts) * call.copies)])
    limits = [limit for limit in call.limits for _ in range(call.copies)]
    generators = call.generators()
    texts = [list(prompt) for prompt in call.prompts for _ in range(call.copies)]
    prompts = [len(text) for text in texts]
    unread = [list(text) for text in texts]
    if call.copies > 1:
        reader.spread(call.prompts, call.copies)
        unread = [text[-1:] for text in texts]
    alive = list(range(len(texts)))
    while alive:
        room = [limits[row] - len(made.sequences[row]) - 1 for row in alive]
        drafts = drafter.draft(texts, room)
        keep = max(map(len, drafts)) + 1
        scores = reader.read([[*new, *draft] for new, draft in zip(unread, drafts, strict=True)], keep)
        scores = scores[:, None] if keep == 1 else scores  # [R, keep, V]
        step = Step({}, rows=alive)
        accepted: list[int] = []
        kept: list[int] = []
        for place, row in enumerate(alive):
            ready = scores[place, keep - len(drafts[place]) - 1 :]
            own = None if generators is None else generators[place]
            room_left = limits[row] - len(made.sequences[row])
            written, over = _check(
                call, row // call.copies, texts[place], prompts[place], drafts[place], ready, own, room_left
            )
            accepted.append(len(written) - 1)
            texts[place] += written
            made.sequences[row] += written
            step.tokens[row] = written
            (step.ended if over else kept).append(row if over else place)
        yield step
        drafter.learn(accepted, [len(draft) for draft in drafts])
        reader.forget([len(text) - 1 for text in texts])
        if step.ended:
            reader.select(kept)
            drafter.select(kept)
            texts, prompts, alive = ([list_[place] for place in kept] for list_ in (texts, prompts, alive))  # type: ignore[assignment]
            generators = None if generators is None else [generators[place] for place in kept]
        unread = [text[-1:] for text in texts]
    return made


def _check(
    call: Call,
    number: int,
    text: list[int],
    prompt: int,
    draft: list[int],
    scores: Tensor,
    generator: torch.Generator | None,
    room: int,
) -> tuple[list[int], bool]:
    """Choose token after token as long as the draft holds: what was written, and whether the text is over.

    `scores` `[len(draft) + 1, V]` are those after the text, and after each token of the draft.
    """
    rows = Rows([text], scores.device, [number])
    rows.prompts, rows.written = [prompt], len(text) - prompt
    written: list[int] = []
    for turn, logits in enumerate(scores):
        ready = process(call.processing, rows, logits[None])
        chosen = draw(ready, None if generator is None else [generator]) if call.config.do_sample else ready.argmax(-1)
        rows.append(chosen)
        token = int(chosen)
        written.append(token)
        stopped = bool(is_stopped(call.stopping, rows, ready)[0])
        if stopped or token in call.end_tokens or len(written) >= room:
            return written, True
        if turn == len(draft) or token != draft[turn]:
            break
    return written, False


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two texts have in common from the start, but at least one of the second is left to be read."""
    for place, (one, other) in enumerate(zip(first, second, strict=False)):
        if one != other:
            return place
    return min(len(first), len(second) - 1)
