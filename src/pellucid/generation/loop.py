"""The decode loop: read, score, choose, write; again. Greedy search and sampling are this and nothing more.

    scores = reader.read(prompts)                    # the model: scores of each row's next word
    while there are rows:
        scores = process(scores)                     # logits processors: temperature, top-k, penalties …
        tokens = choose(scores)                      # the highest, or one drawn by its probability
        yield what was written                       # streaming is the base case
        let go of rows that have ended
        scores = reader.read(tokens)

Every decoding method is such a generator: it yields a `Step` for each token written and returns the `Written` rows.

Axes: `R` rows that are still being written, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pellucid.generation.processor_base import LogitsProcessorList
from pellucid.generation.reader import Reader

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig
    from pellucid.model import PreTrainedModel

Stopping = Callable[[Tensor, Tensor], Any]


@dataclass
class Call:
    """What a decoding method is given.

    Attributes:
        reader: the model.
        config: all settings.
        prompts: ids of each prompt; for an encoder-decoder, what the decoder begins with.
        limits: for each prompt, how many tokens may be written at most.
        processing: length of a prompt → the logits processors for it.
        stopping: what ends a row, beside its limit and the end tokens.
        end_tokens: tokens that end a row.
        seeds: of each prompt; `None`: torch's own state.
        watch: keep what the model answers at each step, for hidden states and attention weights.
        assistant: a smaller model that drafts, for assisted decoding.
        tokenizer: of the model, for methods that need text.
        assistant_tokenizer: of the assistant, when it is another one.
    """

    reader: Reader
    config: GenerationConfig
    prompts: list[list[int]]
    limits: list[int]
    processing: Callable[[int], LogitsProcessorList]
    stopping: Sequence[Stopping] = ()
    end_tokens: Sequence[int] = ()
    seeds: Sequence[int] | None = None
    watch: bool = False
    assistant: PreTrainedModel | None = None
    tokenizer: Any = None
    assistant_tokenizer: Any = None

    @property
    def copies(self) -> int:
        """How many texts are wanted for each prompt."""
        return self.config.num_return_sequences or 1

    def numbers(self, each: int) -> list[int]:
        """Which prompt each row belongs to, when there are `each` rows of every prompt."""
        return [prompt for prompt in range(len(self.prompts)) for _ in range(each)]

    def generators(self) -> list[torch.Generator] | None:
        """Random numbers of each output row: its prompt's seed, counted up for further copies."""
        if self.seeds is None:
            return None
        device = self.reader.device
        return [torch.Generator(device).manual_seed(seed + copy) for seed in self.seeds for copy in range(self.copies)]


@dataclass
class Step:
    """What one turn of the loop wrote.

    Attributes:
        tokens: output row → the tokens that were added to it, usually one.
        ended: output rows that this turn ended.
        logits: `[R, V]` scores as the model gave them, for the rows in `rows`.
        scores: `[R, V]` scores after all processors.
        rows: output row of each of those.
    """

    tokens: dict[int, list[int]]
    ended: list[int] = field(default_factory=list)
    logits: Tensor | None = None
    scores: Tensor | None = None
    rows: list[int] = field(default_factory=list)


@dataclass
class Written:
    """What a decoding method has written in the end.

    Attributes:
        sequences: the new tokens of each output row, the end token included.
        sequences_scores: a score of each output row, where the method has one.
        beam_indices: for beams, which row of the step before each token continues.
        extras: what the model answered at each step, when hidden states or attention weights were asked for.
    """

    sequences: list[list[int]]
    sequences_scores: Tensor | None = None
    beam_indices: list[list[int]] | None = None
    extras: list[Any] = field(default_factory=list)


Decoding = Generator[Step, None, Written]


class Rows:
    """What each row holds so far, as processors and stopping criteria look at it: real tokens and no padding.

    Args:
        texts: what each row begins with, rows of one prompt side by side.
        device: where `ids` are kept.
        numbers: which prompt each row belongs to; `None`: each row has its own.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], device: torch.device, numbers: Sequence[int] | None = None
    ) -> None:
        self.numbers = list(range(len(texts)) if numbers is None else numbers)
        self.prompts = [len(text) for text in texts]  # length of each row's prompt
        self.written = 0
        ids = torch.zeros(len(texts), max(self.prompts, default=0) + 64, dtype=torch.long)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, dtype=torch.long)
        self.ids = ids.to(device)

    def append(self, tokens: Tensor) -> None:
        """Add one token to each row: `[R]`."""
        ends = [length + self.written for length in self.prompts]
        if max(ends) == self.ids.shape[1]:
            self.ids = torch.cat([self.ids, torch.zeros_like(self.ids)], dim=1)
        if ends.count(ends[0]) == len(ends):
            self.ids[:, ends[0]] = tokens
        else:
            self.ids.scatter_(1, torch.tensor(ends, device=tokens.device)[:, None], tokens[:, None])
        self.written += 1

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the given rows, in that order."""
        self.ids = self.ids[torch.tensor(rows, dtype=torch.long, device=self.ids.device)]
        self.prompts = [self.prompts[row] for row in rows]
        self.numbers = [self.numbers[row] for row in rows]

    def groups(self) -> Iterator[tuple[int, Tensor | None, Tensor]]:
        """Rows of equal length together: length of the prompt, places of the rows (`None`: all), ids `[rows, S]`."""
        kinds = sorted(set(self.prompts))
        for length in kinds:
            end = length + self.written
            if len(kinds) == 1:
                yield length, None, self.ids[:, :end]
            else:
                rows = [row for row, own in enumerate(self.prompts) if own == length]
                chosen = torch.tensor(rows, device=self.ids.device)
                yield length, chosen, self.ids[chosen, :end]


def process(processing: Callable[[int], LogitsProcessorList], rows: Rows, scores: Tensor) -> Tensor:
    """Run the logits processors on scores `[R, V]`, for rows of each length their own."""
    every = processing(rows.prompts[0])
    if not every.needs_ids:
        return every(rows.ids[:, :0], scores, rows=rows.numbers)
    changed = scores
    for length, chosen, ids in rows.groups():
        if chosen is None:
            return processing(length)(ids, scores, rows=rows.numbers)
        numbers = [rows.numbers[row] for row in chosen.tolist()]
        changed = changed.index_copy(0, chosen, processing(length)(ids, scores[chosen], rows=numbers))
    return changed


def is_stopped(stopping: Sequence[Stopping], rows: Rows, scores: Tensor) -> Tensor:
    """`[R]`: rows that one of the criteria ends."""
    stopped = torch.zeros(len(rows.prompts), dtype=torch.bool, device=rows.ids.device)
    for criterion in stopping:
        for _, chosen, ids in rows.groups():
            if chosen is None:
                stopped |= torch.as_tensor(criterion(ids, scores), device=stopped.device)
            else:
                stopped[chosen] |= torch.as_tensor(criterion(ids, scores[chosen]), device=stopped.device)
    return stopped


def draw(scores: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """One token a row by its probability: `[R, V]` → `[R]`.

    With generators, one a row, what is drawn depends on nothing but the row itself.
    """
    chances = scores.softmax(dim=-1)
    if generators is None:
        return torch.multinomial(chances, 1)[:, 0]
    drawn = [torch.multinomial(row, 1, generator=own) for row, own in zip(chances, generators, strict=True)]
    return torch.cat(drawn)


def write(call: Call) -> Decoding:
    """Greedy search, or sampling when `config.do_sample` says so; every row goes its own way."""
    reader, config = call.reader, call.config
    made = Written([[] for _ in range(len(call.prompts) * call.copies)])
    limits = [limit for limit in call.limits for _ in range(call.copies)]
    generators = call.generators()
    logits = reader.read(call.prompts)
    numbers = call.numbers(call.copies)
    if call.copies > 1:  # each prompt was read once
        reader.select(numbers)
        logits = logits[numbers]
    rows = Rows(reader.texts, reader.device, numbers)
    alive = list(range(len(made.sequences)))  # output row of each row that is being written
    while True:
        if call.watch:
            made.extras.append(reader.extras)
        scores = process(call.processing, rows, logits)
        chosen = draw(scores, generators) if config.do_sample else scores.argmax(dim=-1)
        rows.append(chosen)
        tokens: list[int] = chosen.tolist()
        stopped: list[bool] = is_stopped(call.stopping, rows, scores).tolist()
        for row, token in zip(alive, tokens, strict=True):
            made.sequences[row].append(token)
        over = [
            stop or token in call.end_tokens or len(made.sequences[row]) >= limits[row]
            for row, token, stop in zip(alive, tokens, stopped, strict=True)
        ]
        kept = [place for place, is_over in enumerate(over) if not is_over]
        ended = [row for row, is_over in zip(alive, over, strict=True) if is_over]
        yield Step({row: [token] for row, token in zip(alive, tokens, strict=True)}, ended, logits, scores, alive)
        if not kept:
            return made
        if ended:
            reader.select(kept)
            rows.select(kept)
            alive, tokens = [alive[place] for place in kept], [tokens[place] for place in kept]
            generators = None if generators is None else [generators[place] for place in kept]
        logits = reader.read([[token] for token in tokens])
