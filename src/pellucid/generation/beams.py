"""Beam search: several texts of one prompt are written side by side, and the most probable ones go on.

    at each step, for each prompt:
        scores = sums of the beams so far + log-probabilities of the next token      [beams * V]
        options = the best of them                        # or drawn by chance, in beam sampling
        an option among the first `beams` that ends a text is finished; its score is divided by length ** penalty
        the best options that do not end are the beams of the next step
    until no beam can become better than the finished texts

Search by beams goes back to speech recognition; for neural networks that write see Graves 2012 (arXiv:1211.3711) and
Sutskever et al. 2014 (arXiv:1409.3215). Diverse beams (Vijayakumar et al. 2016, arXiv:1610.02424) are searched in
groups, one after another at each step; what earlier groups have just written costs later ones a penalty.

`Search` is the bookkeeping of one prompt, or of one group, on plain lists; `run` is the loop around it that reads,
scores and lets go of prompts that are done. A prompt is read once and then spread to its beams.

Axes: `P` prompts still being written, `R` their beams (`P * beams` rows, those of a prompt one after another),
`V` vocabulary, `K` options looked at.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field
from heapq import merge
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from pellucid.generation.loop import Call, Decoding, Rows, Step, Written, is_stopped, process

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig

IMPOSSIBLE = -1e9
"""Score of what is only there to fill a place: below every text, and yet a number that can be added to."""


class Option(NamedTuple):
    """One way to go on: `beam` of the search writes `token`; `score` is the sum with it, `ends` whether it is over."""

    score: float
    beam: int
    token: int
    ends: bool


@dataclass
class Beam:
    """A text in the making.

    Attributes:
        score: sum of the log-probabilities of its tokens.
        tokens: what was written so far.
        path: for each token, the row of scores `[P * beams]` that it was chosen from.
    """

    score: float = IMPOSSIBLE
    tokens: list[int] = field(default_factory=list)
    path: list[int] = field(default_factory=list)

    def grown(self, token: int, score: float, row: int) -> Beam:
        """The same with one token more."""
        return Beam(score, [*self.tokens, token], [*self.path, row])


class Search:
    """The search for the best texts of one prompt, or of one of its groups.

    Args:
        config: `length_penalty` and `early_stopping`.
        size: how many beams there are.
        limit: how many tokens may be written at most.
        first: number of the row of scores that belongs to the first beam.

    Attributes:
        beams: the texts that go on, the best first.
        finished: score and text of those that have ended, the best first, at most `size`.
        done: whether nothing is left to be found.
    """

    lowest = IMPOSSIBLE  # a text that scores less is not kept

    def __init__(self, config: GenerationConfig, size: int, limit: int, first: int) -> None:
        self.size, self.limit, self.first = size, limit, first
        self.penalty = 1.0 if config.length_penalty is None else config.length_penalty
        self.early = config.early_stopping
        self.written = 0
        # all beams hold the same prompt: only the first counts, or each of its options would be found `size` times
        self.beams = [Beam(IMPOSSIBLE if number else 0.0) for number in range(size)]
        self.finished: list[tuple[float, Beam]] = []
        self.done = False

    def step(self, options: Sequence[Option], totals: Tensor) -> None:
        """Write one token.

        Args:
            options: the best ways to go on, or drawn ones; at least `size` of them do not end with an end token.
            totals: `[size, V]`, the score of every way to go on.
        """
        self.written += 1
        if self.written == self.limit:
            options = [option._replace(ends=True) for option in options]
        self.take_finished(options)
        self.beams = self.best_open(options, totals)
        self.done = all(option.ends for option in options) or self.is_settled(self.beams[0].score)

    def take_finished(self, options: Sequence[Option]) -> None:
        """Keep texts that end, as far as they are among the first `size`: others are there in their place."""
        for option in options[: self.size]:
            if option.ends:
                self.finish(self.grow(option))

    def best_open(self, options: Sequence[Option], totals: Tensor) -> list[Beam]:
        """The `size` best texts that go on; where there are too few, texts that end fill their places."""
        grown = [self.grow(option) for option in options]
        for text, option in zip(grown, options, strict=True):
            text.score += IMPOSSIBLE if option.ends else 0.0
        return sorted(grown, key=lambda text: -text.score)[: self.size]

    def grow(self, option: Option) -> Beam:
        """The text that an option stands for."""
        return self.beams[option.beam].grown(option.token, option.score, self.first + option.beam)

    def finish(self, text: Beam) -> None:
        """Put a text among the finished ones, if it is good enough."""
        if self.value(text) >= self.lowest:
            self.finished.append((self.value(text), text))
            self.finished.sort(key=lambda pair: -pair[0])
            del self.finished[self.size :]

    def value(self, text: Beam) -> float:
        """The score of a text that is not to go on."""
        divisor: float = len(text.tokens) ** self.penalty
        return text.score / divisor

    def is_settled(self, best: float) -> bool:
        """Whether a text whose sum is `best` now has no prospect of a place among the finished ones.

        Its prospect is guessed from its length now. With `early_stopping="never"` it is the best that can come of it:
        every token costs something, but where a long text is divided by more, all of its tokens may be free.
        """
        if len(self.finished) < self.size:
            return False
        length = self.limit if self.early == "never" and self.penalty > 0 else self.written
        return self.early is True or self.finished[-1][0] >= best / length**self.penalty

    def rest(self, pad: int) -> None:
        """Write padding, when this search is done and others of the same prompt are not."""
        self.beams = [beam.grown(pad, beam.score, self.first + number) for number, beam in enumerate(self.beams)]


class OpenSearch(Search):
    """The search of groups and of constrained beams, where a text at the limit need not end.

    Beams that are still open at the limit are taken in beside what is finished; whether the search is settled is
    judged by the best of all options, those that end counted.
    """

    lowest = -float("inf")

    def step(self, options: Sequence[Option], totals: Tensor) -> None:
        """Write one token; arguments as in `Search.step`."""
        self.written += 1
        self.take_finished(options)
        self.beams = self.best_open(options, totals)
        self.done = self.is_settled(max(option.score for option in options))
        if not self.done and (self.written == self.limit or all(option.ends for option in options)):
            self.close()
            self.done = True

    def close(self) -> None:
        """Take in what is still open."""
        for text in self.beams:
            self.finish(text)


# ---------------------------------------------------------------------- decoding methods


def beam_search(call: Call) -> Decoding:
    """The most probable texts by `num_beams` beams; with `do_sample` the options at each step are drawn."""
    beams = call.config.num_beams or 1
    searches = [[Search(call.config, beams, limit, beams * prompt)] for prompt, limit in enumerate(call.limits)]
    return run(call, searches)


def diverse_beam_search(call: Call) -> Decoding:
    """Beams in `num_beam_groups` groups that differ: each token that a group writes costs later groups a penalty."""
    beams, groups = call.config.num_beams or 1, call.config.num_beam_groups or 1
    size = beams // groups
    searches = [
        [OpenSearch(call.config, size, limit, beams * prompt + size * group) for group in range(groups)]
        for prompt, limit in enumerate(call.limits)
    ]
    return run(call, searches)


def run(call: Call, searches: Sequence[Sequence[Search]]) -> Decoding:
    """The loop around the searches of each prompt, one a group: read, score, step, let go of what is done."""
    reader, beams = call.reader, sum(search.size for search in searches[0])
    generators = _generators(call)
    made = Written([])
    spread = [prompt for prompt in range(len(searches)) for _ in range(beams)]
    logits = reader.read(call.prompts)[spread]  # [P, V] → [R, V]
    reader.select(spread)
    rows, alive = Rows(reader.texts, reader.device, spread), list(range(len(searches)))
    while True:
        if call.watch:
            made.extras.append(reader.extras)
        scores = process(call.processing, rows, logits.log_softmax(dim=-1))  # [R, V]
        scores = take_step(call, [searches[prompt] for prompt in alive], rows, scores, generators)
        ended = [prompt for prompt in alive if all(search.done for search in searches[prompt])]
        texts = {prompt: best_texts(searches[prompt], call.copies) for prompt in ended}
        written = {
            prompt * call.copies + number: text.tokens
            for prompt, found in texts.items()
            for number, (_, text) in enumerate(found)
        }
        numbers = [prompt * beams + beam for prompt in alive for beam in range(beams)]
        yield Step(written, list(written), logits, scores, numbers)
        kept = [place for place, prompt in enumerate(alive) if prompt not in texts]
        if not kept:
            break
        moves = [
            ((place - alive[place]) * beams + beam.path[-1], beam.tokens[-1])  # paths count rows of all prompts
            for place in kept
            for search in searches[alive[place]]
            for beam in search.beams
        ]
        origins = [row for row, _ in moves]
        tokens = torch.tensor([token for _, token in moves], device=reader.device)
        alive = [alive[place] for place in kept]
        generators = None if generators is None else [generators[place] for place in kept]
        reader.select(origins)
        rows.select(origins)
        rows.append(tokens)
        logits = reader.read([[token] for _, token in moves])
    every = [pair for groups in searches for pair in best_texts(groups, call.copies)]
    made.sequences = [text.tokens for _, text in every]
    made.sequences_scores = torch.tensor([score for score, _ in every], device=reader.device)
    made.beam_indices = [text.path for _, text in every]
    return made


def take_step(
    call: Call,
    searches: Sequence[Sequence[Search]],
    rows: Rows,
    scores: Tensor,
    generators: Sequence[torch.Generator] | None,
) -> Tensor:
    """Let every search write one token, group by group.

    Args:
        call: settings, end tokens, stopping criteria.
        searches: of each prompt that is being written, `[P][groups]`.
        rows: what the beams hold.
        scores: log-probabilities of the next token, `[R, V]`.
        generators: one a prompt, for drawing.

    Returns:
        The scores `[R, V]`, less what groups had to pay.
    """
    groups, vocabulary = len(searches[0]), scores.shape[-1]
    blocks = scores.view(len(searches), groups, -1, vocabulary)  # [P, groups, size, V]
    said = scores.new_zeros(len(searches), vocabulary)  # how often earlier groups have written each token now
    paid = []
    for number in range(groups):
        block, own = blocks[:, number], [prompt[number] for prompt in searches]  # [P, size, V]
        if number:
            block = block - (call.config.diversity_penalty or 0.0) * said[:, None]
        paid.append(block)
        sums = torch.tensor([[beam.score for beam in search.beams] for search in own], device=scores.device)
        totals = block + sums[:, :, None]
        options = find_options(call, own, rows, totals, scores, generators)
        for search, found, total in zip(own, options, totals, strict=True):
            if search.done:
                search.rest(_pad(call))
            else:
                search.step(found, total)
        if groups > 1:
            tokens = torch.tensor([[beam.tokens[-1] for beam in search.beams] for search in own])
            said.scatter_add_(1, tokens.to(said.device), torch.ones_like(tokens, dtype=said.dtype, device=said.device))
    return scores if groups == 1 else torch.stack(paid, dim=1).view_as(scores)


def find_options(
    call: Call,
    searches: Sequence[Search],
    rows: Rows,
    totals: Tensor,
    scores: Tensor,
    generators: Sequence[torch.Generator] | None,
) -> list[list[Option]]:
    """The `K` best ways to go on of each prompt, the best first, or drawn ones in the order drawn.

    A beam can end in as many ways as there are end tokens. `K` is so large that `size` options are left that go on.

    Args:
        call: settings, end tokens, stopping criteria.
        searches: one of each prompt, `[P]`.
        rows: what the beams hold.
        totals: scores of every way to go on, `[P, size, V]`.
        scores: of all groups, `[R, V]`, for stopping criteria.
        generators: one a prompt, for drawing.
    """
    _, size, vocabulary = totals.shape
    flat = totals.flatten(1)  # [P, size * V]
    count = min(max(2, 1 + len(call.end_tokens)) * size, flat.shape[1])
    if not call.config.do_sample:
        best, places = flat.topk(count)  # [P, K]
    else:
        chances = flat.softmax(dim=-1)
        if generators is None:
            places = torch.multinomial(chances, count)
        else:
            drawn = [torch.multinomial(row, count, generator=own) for row, own in zip(chances, generators, strict=True)]
            places = torch.stack(drawn)
        best = flat.gather(1, places)
    beams, tokens = places // vocabulary, places % vocabulary
    ends = torch.isin(tokens, torch.tensor(list(call.end_tokens), dtype=tokens.dtype, device=tokens.device))
    if call.stopping:
        per_prompt = len(scores) // len(searches)
        firsts = torch.tensor([place * per_prompt + search.first % per_prompt for place, search in enumerate(searches)])
        origins = (firsts.to(beams.device)[:, None] + beams).flatten()
        grown = copy.copy(rows)
        grown.select(origins.tolist())
        grown.append(tokens.flatten())
        ends = ends | is_stopped(call.stopping, grown, scores[origins]).view_as(ends)
    columns = (best.tolist(), beams.tolist(), tokens.tolist(), ends.tolist())
    return [[Option(*values) for values in zip(*prompt, strict=True)] for prompt in zip(*columns, strict=True)]


def best_texts(searches: Sequence[Search], count: int) -> list[tuple[float, Beam]]:
    """Score and text of the best of all groups of a prompt; where too few were found, empty ones behind them."""
    found = list(merge(*(search.finished for search in searches), key=lambda pair: -pair[0]))
    return [*found, *[(IMPOSSIBLE, Beam())] * (count - len(found))][:count]


def _generators(call: Call) -> list[torch.Generator] | None:
    """Random numbers of each prompt."""
    if call.seeds is None:
        return None
    return [torch.Generator(call.reader.device).manual_seed(seed) for seed in call.seeds]


def _pad(call: Call) -> int:
    """What a group writes that is done before the others of its prompt."""
    pad = call.config.pad_token_id
    return pad if pad is not None else (list(call.end_tokens) or [0])[0]
