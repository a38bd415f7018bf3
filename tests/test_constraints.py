"""Constrained beams: the words are in the text, at the best place; and the constraints that users make themselves."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

import beam_oracles
from architectures import PAD, Case
from pellucid import ConfigError, InputError
from pellucid.generation.config import GenerationConfig
from pellucid.generation.constraints import (
    Constraint,
    ConstraintListState,
    DisjunctiveConstraint,
    PhrasalConstraint,
)
from test_generate import model_of, prompts_of

DECODER, BOTH = Case("gpt2", "ForCausalLM", 0), Case("t5", "ForSeq2SeqLM", 0)
FULL = {"return_dict_in_generate": True, "output_scores": True}


def holds(text: list[int], phrase: list[int]) -> bool:
    return any(text[place : place + len(phrase)] == phrase for place in range(len(text)))


@pytest.mark.parametrize("seed", range(16))
@pytest.mark.parametrize("case", [DECODER, BOTH], ids=str)
def test_constrained_beams(case: Case, seed: int) -> None:
    rng = random.Random(seed)
    model = model_of(case)
    beams = rng.randint(2, 6)
    wanted = rng.randint(1, beams)
    words: list[Any] = [
        rng.choice([[50], [51, 52], [53, 54, 55]]),
        rng.choice([[[60], [61, 62]], [[63, 64, 65], [63, 64, 66], [63, 67]], [70]]),
    ][: rng.randint(1, 2)]
    ends = rng.choice([[2], [2, 5], list(range(10, 40))])
    penalty, early, limit = rng.choice([1.0, 0.0, -0.5]), rng.choice([True, False, "never"]), rng.randint(4, 9)
    prompt = prompts_of()[0][:1]
    found = model.generate(
        prompt, force_words_ids=words, num_beams=beams, num_return_sequences=wanted, length_penalty=penalty,
        early_stopping=early, max_new_tokens=limit, eos_token_id=ends, **FULL,
    )  # fmt: skip
    scores = beam_oracles.scores_of(model, prompt[0].tolist() if case.is_seq2seq else None)
    start = [3] if case.is_seq2seq else prompt[0].tolist()
    forms = [word if isinstance(word[0], list) else [word] for word in words]
    texts = beam_oracles.constrained(
        scores, start, limit, ends, forms, beams=beams, wanted=wanted, penalty=penalty, early=early
    )[:wanted]
    new = [row[len(start) :] for row in found.sequences.tolist()]
    assert [row[: len(own)] for row, (_, own) in zip(new, texts, strict=True)] == [own for _, own in texts]
    totals = torch.tensor([score for score, _ in texts])
    torch.testing.assert_close(found.sequences_scores, totals, rtol=1e-5, atol=1e-5)
    if limit >= sum(max(map(len, word)) for word in forms):
        assert all(any(holds([*start, *new[0]], form) for form in word) for word in forms)


def test_enough_beams_find_the_best_text_with_the_words() -> None:
    model = Case("llama", "ForCausalLM", 0).model(vocab_size=5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=2)
    every = beam_oracles.every_text(beam_oracles.scores_of(model), [1, 1], 4, 2, 5)
    for words, forms in (
        ([[3, 0]], [[[3, 0]]]),
        ([[[4, 3], [0, 0]]], [[[4, 3], [0, 0]]]),
        ([[4], [0]], [[[4]], [[0]]]),
    ):
        best = next(new for _, new in every if all(any(holds(new, form) for form in word) for word in forms))
        found = model.generate(
            torch.tensor([[1, 1]]), num_beams=300, force_words_ids=words, max_new_tokens=4, early_stopping="never"
        )
        assert found[0, 2:].tolist()[: len(best)] == best


@pytest.mark.parametrize("case", [DECODER, BOTH], ids=str)
def test_a_prompt_gives_in_a_batch_what_it_gives_alone(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of()
    start = 1 if case.is_seq2seq else ids.shape[1]
    settings = {
        "num_beams": 4,
        "constraints": [PhrasalConstraint([50, 51]), DisjunctiveConstraint([[60], [61, 62]])],
        "max_new_tokens": 9,
        "eos_token_id": list(range(10, 40)),
        "early_stopping": True,
    }
    together = model.generate(ids, attention_mask=mask, **settings)[:, start:].tolist()
    for row, found in enumerate(together):
        prompt = ids[row, mask[row].bool()][None]
        alone = model.generate(prompt, **settings)[0, 1 if case.is_seq2seq else prompt.shape[1] :].tolist()
        assert found[: len(alone)] == alone
        assert set(found[len(alone) :]) <= {PAD}
        text = alone if case.is_seq2seq else [*prompt[0].tolist(), *alone]  # what a prompt holds is not asked for again
        assert holds(text, [50, 51])
        assert holds(text, [60]) or holds(text, [61, 62])


def test_how_far_a_text_has_got() -> None:
    state = ConstraintListState([PhrasalConstraint([1, 2, 3]), DisjunctiveConstraint([[4, 5], [4, 6, 7]])])
    assert state.advance() == [1, 4]
    for token, bank, advance in ((9, 0, [1, 4]), (1, 1, [2]), (2, 2, [3]), (9, 0, [4, 1]), (4, 1, [5, 6]), (6, 2, [7])):
        state.add(token)
        assert (state.get_bank(), state.advance(), state.completed) == (bank, advance, False)
    begun = state.copy()
    assert state.add(7) == (True, True)
    assert state.get_bank() == 3
    for token in (1, 2, 3):
        state.add(token)
    assert state.completed
    assert state.advance() == []
    assert state.get_bank() == 6
    assert not begun.completed  # a copy goes its own way
    assert begun.advance() == [7]
    state.reset([1, 2, 3, 4, 5])
    assert state.completed
    assert not state.copy(stateful=False).completed


class Twice(Constraint):
    """A token of one's own, twice anywhere."""

    def __init__(self, token: int, honest: bool = True) -> None:
        self.token, self.honest, self.seqlen, self.seen = token, honest, 2, 0
        super().__init__()

    def advance(self) -> int | None:
        return None if self.completed else self.token

    def does_advance(self, token_id: int) -> bool:
        return self.honest and not self.completed and token_id == self.token

    def update(self, token_id: int) -> tuple[bool, bool, bool]:
        stepped = self.does_advance(token_id)
        self.seen += stepped
        self.completed = self.seen == 2
        return stepped, self.completed, False

    def reset(self) -> None:
        self.seen, self.completed = 0, False

    def remaining(self) -> int:
        return 2 - self.seen

    def copy(self, stateful: bool = False) -> Twice:
        made = Twice(self.token)
        if stateful:
            made.seen, made.completed = self.seen, self.completed
        return made


def test_a_constraint_of_ones_own() -> None:
    model = model_of(DECODER)
    found = model.generate(prompts_of()[0][:1], constraints=[Twice(77)], num_beams=3, max_new_tokens=8)
    assert found[0].tolist().count(77) >= 2


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: PhrasalConstraint([]), "at least one"),
        (lambda: PhrasalConstraint([3, -1]), "below 0"),
        (lambda: DisjunctiveConstraint([]), "list of lists"),
        (lambda: DisjunctiveConstraint([[1, 2], [1, 2, 3]]), "beginning of another"),
        (lambda: Twice(5, honest=False), "does_advance"),
    ],
)
def test_constraints_that_make_no_sense(make: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        make()


def test_settings_that_make_no_sense() -> None:
    model = model_of(DECODER)
    with pytest.raises(ConfigError, match="num_beams"):
        model.generate([[5, 6]], force_words_ids=[[7]], max_new_tokens=4)
    with pytest.raises(ConfigError, match="wanted a Constraint"):
        model.generate([[5, 6]], constraints=[[7]], num_beams=2, max_new_tokens=4)
