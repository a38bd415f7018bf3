"""Constrained beams: words that must stand in the text, wherever they fit best.

Beside the usual options, each beam may also write the token that brings it nearer to a word that is still missing
(Hokamp & Liu 2017, arXiv:1704.07138). Texts that have got equally far lie in one bank, and the beams of the next step
are dealt out bank by bank, so that neither the probable nor the far ones crowd out the others (Post & Vilar 2018,
arXiv:1804.06609). A text counts as finished only when nothing is missing.

Words that stand in a decoder's prompt already are not asked for again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy as duplicate
from itertools import groupby
from typing import TYPE_CHECKING, Any

from torch import Tensor

from pellucid.errors import ConfigError, InputError
from pellucid.generation.beams import Beam, OpenSearch, Option, run
from pellucid.generation.loop import Call, Decoding

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig

LONGEST = 10_000
"""Tokens after which a constraint that is still not fulfilled is taken for one that never will be."""


class Constraint(ABC):
    """Something that a text must hold, and how far a text has got with it.

    A subclass sets `seqlen`, the tokens that it takes at most, and calls `super().__init__()` at the end of its own
    `__init__`, which tries it out: `advance` and `update` in turn must fulfil it.
    """

    seqlen: int
    completed = False

    def __init__(self) -> None:
        self.test()

    @abstractmethod
    def advance(self) -> int | list[int] | None:
        """The token that brings the text one step nearer, or any of several; `None` when nothing is missing."""

    @abstractmethod
    def does_advance(self, token_id: int) -> bool:
        """Whether the token would bring the text nearer."""

    @abstractmethod
    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Count a token as written.

        Returns:
            Whether it brought the text nearer; whether nothing is missing now; whether it broke off what was begun.
        """

    @abstractmethod
    def reset(self) -> None:
        """Begin anew."""

    @abstractmethod
    def remaining(self) -> int:
        """How many tokens are still missing, at most."""

    @abstractmethod
    def copy(self, stateful: bool = False) -> Constraint:
        """The same constraint; `stateful`: as far as this one has got, else from its beginning."""

    def test(self) -> None:
        """Raise `InputError` unless the constraint can be fulfilled by following its own advice."""
        name = type(self).__name__
        for _ in range(LONGEST):
            token = _tokens(self.advance())[:1]
            if not token or not self.does_advance(token[0]):
                raise InputError(f"{name}: does_advance({token}) is False for what advance() gives; make it True")
            if self.update(token[0])[1]:
                break
        if not self.completed or self.remaining() != 0:
            raise InputError(f"{name}: is not fulfilled after its own tokens; set completed, and let remaining() be 0")
        self.reset()


class PhrasalConstraint(Constraint):
    """A word or phrase that must stand in the text.

    Args:
        token_ids: its ids in order.
    """

    def __init__(self, token_ids: list[int]) -> None:
        _check_ids(token_ids, "token_ids")
        self.token_ids = list(token_ids)
        self.seqlen = len(token_ids)
        self.done = 0  # tokens of it that stand at the end of the text
        super().__init__()

    def advance(self) -> int | None:
        """The next token of the phrase."""
        return None if self.completed else self.token_ids[self.done]

    def does_advance(self, token_id: int) -> bool:
        """Whether it is the next token of the phrase."""
        return token_id == self.advance()

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """Another token than the next one breaks the phrase off."""
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.done += 1
        self.completed = self.done == self.seqlen
        return True, self.completed, False

    def reset(self) -> None:
        """Begin anew."""
        self.done, self.completed = 0, False

    def remaining(self) -> int:
        """Tokens that are missing."""
        return self.seqlen - self.done

    def copy(self, stateful: bool = False) -> PhrasalConstraint:
        """See `Constraint.copy`."""
        made = duplicate(self)
        if not stateful:
            made.reset()
        return made


class DisjunctiveConstraint(Constraint):
    """Several phrases, one of which must stand in the text, such as the forms of a word.

    Args:
        nested_token_ids: ids of each; none may be the beginning of another, as the longer one would never be reached.
    """

    def __init__(self, nested_token_ids: list[list[int]]) -> None:
        if not isinstance(nested_token_ids, list) or not nested_token_ids:
            raise InputError(f"nested_token_ids: got {nested_token_ids!r}, wanted a list of lists of ids")
        for ids in nested_token_ids:
            _check_ids(ids, "nested_token_ids")
        for one in nested_token_ids:
            if sum(other[: len(one)] == one for other in nested_token_ids) > 1:
                raise InputError(f"nested_token_ids: {one} is the beginning of another phrase; leave one of them out")
        self.token_ids = [list(ids) for ids in nested_token_ids]
        self.seqlen = max(map(len, nested_token_ids))
        self.current_seq: list[int] = []  # what stands at the end of the text: the beginning of some of the phrases
        super().__init__()

    def advance(self) -> list[int] | None:
        """The next tokens of all phrases that begin as the text ends."""
        done = len(self.current_seq)
        begun = [ids for ids in self.token_ids if ids[:done] == self.current_seq and len(ids) > done]
        return list(dict.fromkeys(ids[done] for ids in begun)) or None

    def does_advance(self, token_id: int) -> bool:
        """Whether one of the phrases goes on with it."""
        return token_id in (self.advance() or ())

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        """A token with which none of the phrases goes on breaks off what was begun."""
        if not self.does_advance(token_id):
            self.reset()
            return False, False, True
        self.current_seq = [*self.current_seq, token_id]
        self.completed = self.advance() is None
        return True, self.completed, False

    def reset(self) -> None:
        """Begin anew."""
        self.current_seq, self.completed = [], False

    def remaining(self) -> int:
        """Tokens that are missing of the longest phrase."""
        return 0 if self.completed else self.seqlen - len(self.current_seq)

    def copy(self, stateful: bool = False) -> DisjunctiveConstraint:
        """See `Constraint.copy`."""
        made = duplicate(self)
        if not stateful:
            made.reset()
        return made


class ConstraintListState:
    """How far a text has got with all constraints: one is in progress at a time, the others are pending or complete.

    Args:
        constraints: all of them.
    """

    def __init__(self, constraints: Sequence[Constraint]) -> None:
        self.constraints = list(constraints)
        self.max_seqlen = max(constraint.seqlen for constraint in constraints)
        self.init_state()

    def init_state(self) -> None:
        """Begin anew."""
        self.complete_constraints: list[Constraint] = []
        self.inprogress_constraint: Constraint | None = None
        self.pending_constraints = [constraint.copy() for constraint in self.constraints]

    @property
    def completed(self) -> bool:
        """Whether nothing is missing."""
        return self.inprogress_constraint is None and not self.pending_constraints

    def get_bank(self) -> int:
        """How far the text has got, in tokens, where each constraint counts as much as the longest."""
        begun = self.inprogress_constraint
        return len(self.complete_constraints) * self.max_seqlen + (
            0 if begun is None else self.max_seqlen - begun.remaining()
        )

    def advance(self) -> list[int]:
        """Tokens that bring the text nearer: of what is in progress, else the first of each that is pending."""
        asked = self.pending_constraints if self.inprogress_constraint is None else [self.inprogress_constraint]
        return [token for constraint in asked for token in _tokens(constraint.advance())]

    def reset(self, token_ids: Sequence[int] | None) -> None:
        """Begin anew, and count these tokens as written."""
        self.init_state()
        for token in token_ids or ():
            self.add(token)

    def add(self, token_id: int) -> tuple[bool, bool]:
        """Count a token as written.

        Returns:
            Whether it completed a constraint, and whether it brought one nearer.
        """
        begun = self.inprogress_constraint
        if begun is None:
            begun = next((one for one in self.pending_constraints if one.does_advance(token_id)), None)
            if begun is None:
                return False, False
            self.pending_constraints = [one for one in self.pending_constraints if one is not begun]
        stepped, complete, broken = begun.update(token_id)
        self.inprogress_constraint = None if complete or broken else begun
        if broken:
            self.pending_constraints.append(begun.copy())
        if complete:
            self.complete_constraints.append(begun)
        return complete, stepped

    def copy(self, stateful: bool = True) -> ConstraintListState:
        """The same constraints; `stateful`: as far as this text has got."""
        made = ConstraintListState(self.constraints)
        if stateful:
            begun = self.inprogress_constraint
            made.complete_constraints = list(self.complete_constraints)
            made.inprogress_constraint = None if begun is None else begun.copy(stateful=True)
            made.pending_constraints = [constraint.copy() for constraint in self.pending_constraints]
        return made

    def after(self, token_id: int) -> ConstraintListState:
        """How far the text will have got with that token."""
        made = self.copy()
        made.add(token_id)
        return made


class ConstrainedSearch(OpenSearch):
    """The search for texts that fulfil constraints.

    A text that misses nothing may be far less probable than others that have yet to pay for their words. The best of
    such texts always goes on, and those that miss something come last in the answer.

    Args:
        config: as in `Search`, and `num_return_sequences`.
        limit: how many tokens may be written at most.
        first: number of the row of scores that belongs to the first beam.
        constraints: what is asked for.
        prompt: ids that the texts begin with.
        end_tokens: tokens that end a text.
    """

    def __init__(
        self,
        config: GenerationConfig,
        limit: int,
        first: int,
        constraints: Sequence[Constraint],
        prompt: Sequence[int],
        end_tokens: Sequence[int],
    ) -> None:
        super().__init__(config, config.num_beams or 1, limit, first)
        self.wanted, self.end_tokens = config.num_return_sequences or 1, end_tokens
        state = ConstraintListState(constraints)
        state.reset(prompt)
        self.states = [state] * self.size  # of each beam

    def take_finished(self, options: Sequence[Option]) -> None:
        """Keep texts that end and miss nothing."""
        for option in options[: self.size]:
            if option.ends and self.states[option.beam].after(option.token).completed:
                self.finish(self.grow(option))

    def best_open(self, options: Sequence[Option], totals: Tensor) -> list[Beam]:
        """Deal the places out among the usual options and those that bring a beam nearer to its constraints."""
        usual = super().best_open(options, totals)
        found = [(text, self.states[text.path[-1] - self.first].after(text.tokens[-1])) for text in usual]
        known = [text.tokens for text, _ in found]
        for number, state in enumerate(self.states):
            for token in state.advance():
                text = self.grow(Option(float(totals[number, token]), number, token, ends=False))
                if text.tokens not in known:
                    known.append(text.tokens)
                    found.append((text, state.after(token)))
        dealt = deal(found)[: self.size]
        complete = [number for number, state in enumerate(self.states) if state.completed]
        if complete and not any(state.completed for _, state in dealt):
            number = max(complete, key=lambda beam: self.beams[beam].score)
            dealt[-1] = (self.go_on(number, totals[number]), self.states[number])
        self.states = [state for _, state in dealt]
        return [text for text, _ in dealt]

    def go_on(self, number: int, totals: Tensor) -> Beam:
        """A beam with its best next token by `totals` `[V]`; when that would be an end, both are kept."""
        best, tokens = totals.topk(min(len(self.end_tokens) + 1, len(totals)))
        for score, token in zip(best.tolist(), tokens.tolist(), strict=True):
            text = self.grow(Option(score, number, token, ends=token in self.end_tokens))
            if token not in self.end_tokens:
                break
            self.finish(text)
        return text

    def close(self) -> None:
        """Take in what is still open; texts that miss something only when there are too few others, and last."""
        for text, state in zip(self.beams, self.states, strict=True):
            if state.completed:
                self.finish(text)
        missing = [text for text, state in zip(self.beams, self.states, strict=True) if not state.completed]
        for text in sorted(missing, key=lambda text: -text.score)[: max(self.wanted - len(self.finished), 0)]:
            self.finished.append((self.value(text), text))


def deal(found: Sequence[tuple[Beam, ConstraintListState]]) -> list[tuple[Beam, ConstraintListState]]:
    """The best of each bank, the fullest bank first, then the second best of each, and so on."""
    banks = [state.get_bank() for _, state in found]
    order = sorted(range(len(found)), key=lambda place: (-banks[place], -found[place][0].score))
    ranks = {place: rank for _, bank in groupby(order, banks.__getitem__) for rank, place in enumerate(bank)}
    return [found[place] for place in sorted(order, key=ranks.__getitem__)]


def constrained_beam_search(call: Call) -> Decoding:
    """The most probable texts that fulfil `constraints` and hold the words in `force_words_ids`."""
    config, constraints = call.config, constraints_of(call.config)
    searches = [
        [ConstrainedSearch(config, limit, (config.num_beams or 1) * number, constraints, prompt, call.end_tokens)]
        for number, (prompt, limit) in enumerate(zip(call.prompts, call.limits, strict=True))
    ]
    return run(call, searches)


def constraints_of(config: GenerationConfig) -> list[Constraint]:
    """The constraints of the settings, words as constraints among them.

    Raises:
        ConfigError: for something else in `constraints`.
    """
    found: list[Constraint] = []
    for constraint in config.constraints or ():
        if not isinstance(constraint, Constraint):
            raise ConfigError(
                f"constraints: got a {type(constraint).__name__}, wanted a Constraint such as "
                "PhrasalConstraint(token_ids)"
            )
        found.append(constraint)
    for word in config.force_words_ids or ():
        if word and isinstance(word[0], list):
            found.append(DisjunctiveConstraint(word))
        else:
            found.append(PhrasalConstraint(word))  # type: ignore[arg-type]
    return found


def _tokens(advance: int | list[int] | None) -> list[int]:
    """What `Constraint.advance` gives, as a list."""
    return [] if advance is None else advance if isinstance(advance, list) else [advance]


def _check_ids(ids: Any, what: str) -> None:
    good = isinstance(ids, list) and ids
    if not good or any(not isinstance(token, int) or isinstance(token, bool) or token < 0 for token in ids):
        raise InputError(f"{what}: got {ids!r}, wanted a list of ids, at least one and none below 0")
