"""Beams: the reference's texts and scores for every setting, and what a search through all texts would find."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import transformers

import beam_oracles
from architectures import PAD, Case
from pellucid import ops
from pellucid.cache import CrossMemory
from pellucid.generation.config import GenerationConfig
from pellucid.generation.scoring import transition_scores
from pellucid.layout import Layout
from test_generate import model_of, prompts_of, reference_of

transformers.logging.set_verbosity_error()
CASES = [Case(stem, "ForCausalLM", 0) for stem in ("gpt2", "llama", "mistral", "gemma3_text")]
CASES += [Case(stem, "ForSeq2SeqLM", 0) for stem in ("bart", "t5")]
DECODER = Case("llama", "ForCausalLM", 0)
FULL = {"return_dict_in_generate": True, "output_scores": True}


def settings_of(seed: int) -> dict[str, Any]:
    """Any settings of beams."""
    rng = random.Random(seed)
    beams = rng.randint(2, 6)
    settings: dict[str, Any] = {
        "num_beams": beams,
        "num_return_sequences": rng.randint(1, beams),
        "length_penalty": rng.choice([1.0, 0.0, -1.0, 2.0, 0.6]),
        "early_stopping": rng.choice([True, False, "never"]),
        "max_new_tokens": rng.randint(1, 12),
        "eos_token_id": rng.choice([2, [2, 5], [2, 7, 9, 11], list(range(10, 40))]),
    }
    if rng.random() < 0.3:
        settings["repetition_penalty"] = 1.3
    if rng.random() < 0.3:
        settings["no_repeat_ngram_size"] = 2
    if rng.random() < 0.3:
        settings["min_new_tokens"] = rng.randint(1, settings["max_new_tokens"])
    return settings


def assert_same(found: Any, wanted: Any) -> None:
    """The same texts; their scores are the same unless two texts are equally good."""
    torch.testing.assert_close(found.sequences_scores, wanted.sequences_scores, rtol=1e-5, atol=1e-5)
    assert found.sequences.tolist() == wanted.sequences.tolist()
    assert found.beam_indices.tolist() == wanted.beam_indices.tolist()


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_beams_equal_the_reference(case: Case, seed: int) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    ids, _ = prompts_of(rows=6)
    prompt, settings = ids[:1], {**settings_of(seed), **FULL, "output_logits": True}
    found, wanted = model.generate(prompt, **settings), reference.generate(prompt, **settings)
    assert_same(found, wanted)
    assert len(found.scores) == len(wanted.scores)
    for own, theirs in zip([*found.scores, *found.logits], [*wanted.scores, *wanted.logits], strict=True):
        torch.testing.assert_close(own, theirs, rtol=1e-4, atol=1e-4)
    steps = transition_scores(found.sequences, found.scores, found.beam_indices)
    theirs = reference.compute_transition_scores(wanted.sequences, wanted.scores, wanted.beam_indices)
    torch.testing.assert_close(steps, theirs, rtol=1e-4, atol=1e-4)
    lengths = (found.beam_indices >= 0).sum(dim=1)
    again = steps.sum(dim=1) / lengths ** settings["length_penalty"]
    torch.testing.assert_close(again, found.sequences_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("case", CASES, ids=str)
def test_beams_drawn_by_chance_equal_the_reference(case: Case, seed: int) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    prompt = prompts_of()[0][:1]
    settings = {**settings_of(seed), **FULL, "do_sample": True, "temperature": 1.5, "top_k": 20 * (seed % 2)}
    torch.manual_seed(seed)
    wanted = reference.generate(prompt, **settings)
    torch.manual_seed(seed)
    assert_same(model.generate(prompt, **settings), wanted)


@pytest.mark.parametrize("changes", [{}, {"num_beam_groups": 2, "diversity_penalty": 0.7}, {"do_sample": True}])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_prompt_gives_in_a_batch_what_it_gives_alone(case: Case, changes: dict[str, Any]) -> None:
    model = model_of(case)
    ids, mask = prompts_of(rows=5)
    start = 1 if case.is_seq2seq else ids.shape[1]
    for early in (True, False, "never"):
        settings = {
            "num_beams": 4,
            "num_return_sequences": 2,
            "max_new_tokens": 9,
            "early_stopping": early,
            "eos_token_id": [2, *range(10, 40)],
            **FULL,
            **changes,
        }
        together = model.generate(ids, attention_mask=mask, seed=3, **settings)
        for row in range(len(ids)):
            prompt = ids[row, mask[row].bool()][None]
            alone = model.generate(prompt, seed=3, **settings)
            begin = 1 if case.is_seq2seq else prompt.shape[1]
            own = slice(2 * row, 2 * row + 2)
            wanted = alone.sequences[:, begin:]
            written = together.sequences[own, start:]
            assert written[:, : wanted.shape[1]].tolist() == wanted.tolist()
            assert set(written[:, wanted.shape[1] :].flatten().tolist()) <= {PAD}
            torch.testing.assert_close(together.sequences_scores[own], alone.sequences_scores, rtol=1e-5, atol=1e-5)
        steps = transition_scores(together.sequences, together.scores, together.beam_indices)
        again = steps.sum(dim=1) / (together.beam_indices >= 0).sum(dim=1)
        torch.testing.assert_close(again, together.sequences_scores, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("case", [case for case in CASES if not case.is_seq2seq], ids=str)
def test_beams_without_a_cache(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of()
    settings = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 8, "attention_mask": mask}
    assert model.generate(ids, **settings, use_cache=False).tolist() == model.generate(ids, **settings).tolist()


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("case", [CASES[0], CASES[4]], ids=str)
def test_diverse_beams(case: Case, seed: int) -> None:
    rng = random.Random(seed)
    model = model_of(case)
    groups = rng.randint(2, 3)
    beams = groups * rng.randint(1, 3)
    ends = rng.choice([[2], [2, 5], list(range(10, 40))])
    diversity, penalty = rng.choice([0.5, 2.0, 20.0]), rng.choice([1.0, 0.0, -0.5])
    early, limit, pad = rng.choice([True, False, "never"]), rng.randint(2, 8), rng.choice([PAD, ends[0]])
    prompt = prompts_of()[0][:1]
    found = model.generate(
        prompt, num_beams=beams, num_beam_groups=groups, num_return_sequences=beams, diversity_penalty=diversity,
        length_penalty=penalty, early_stopping=early, max_new_tokens=limit, eos_token_id=ends, pad_token_id=pad, **FULL,
    )  # fmt: skip
    scores = beam_oracles.scores_of(model, prompt[0].tolist() if case.is_seq2seq else None)
    start = [3] if case.is_seq2seq else prompt[0].tolist()
    wanted = beam_oracles.diverse(
        scores, start, limit, ends, pad, beams=beams, groups=groups, diversity=diversity, penalty=penalty, early=early
    )
    assert [row[len(start) :][: len(new)] for row, (_, new) in zip(found.sequences.tolist(), wanted, strict=True)] == [
        new for _, new in wanted
    ]
    totals = torch.tensor([score for score, _ in wanted])
    torch.testing.assert_close(found.sequences_scores, totals, rtol=1e-5, atol=1e-5)
    steps = transition_scores(found.sequences, found.scores, found.beam_indices)
    again = steps.sum(dim=1) / (found.beam_indices >= 0).sum(dim=1) ** penalty
    torch.testing.assert_close(again, totals, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
def test_enough_beams_find_the_best_of_all_texts(penalty: float) -> None:
    torch.manual_seed(1)
    model = DECODER.model(vocab_size=5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=2)
    every = beam_oracles.every_text(beam_oracles.scores_of(model), [1, 4], 4, 2, 5, penalty)
    found = model.generate(
        torch.tensor([[1, 4]]), num_beams=300, num_return_sequences=20, max_new_tokens=4, early_stopping="never",
        length_penalty=penalty, **FULL,
    )  # fmt: skip
    assert [row[2:][: len(new)] for row, (_, new) in zip(found.sequences.tolist(), every, strict=False)] == [
        new for _, new in every[:20]
    ]
    wanted = torch.tensor([score for score, _ in every[:20]])
    torch.testing.assert_close(found.sequences_scores, wanted, rtol=1e-5, atol=1e-5)


def test_the_source_is_kept_once_a_prompt_and_read_once() -> None:
    case = Case("bart", "ForSeq2SeqLM", 0)
    model, read = model_of(case), []
    model.get_encoder().register_forward_hook(lambda *_: read.append(1))
    ids, mask = prompts_of(rows=2)
    settings = {"num_beams": 4, "max_new_tokens": 5, "min_new_tokens": 5, "attention_mask": mask}
    cache = model.generate(ids, **settings, **FULL).past_key_values
    assert len(read) == 1
    assert [len(layer.keys) for layer in cache.cross_attention_cache.layers] == [2, 2]
    assert [len(layer.keys) for layer in cache.layers] == [8, 8]


@pytest.mark.parametrize("seed", range(20))
def test_rows_that_share_a_source_see_what_they_would_see_alone(seed: int) -> None:
    rng = random.Random(seed)
    torch.manual_seed(seed)
    sizes = [rng.randint(1, 5) for _ in range(rng.randint(1, 4))]
    keys, values = torch.randn(2, sum(sizes), 2, 3)
    alone = list(zip(keys.split(sizes), values.split(sizes), strict=True))
    memory = CrossMemory()
    memory.store(keys, values, Layout.from_lengths(sizes))
    for _ in range(3):
        held = range(len(alone))
        rows = rng.choice([sorted([*held, *held]), rng.choices(held, k=5), rng.sample(held, max(1, len(held) - 1))])
        memory.select(torch.tensor(rows))
        alone = [alone[row] for row in rows]
        lengths = rng.choice([[1] * len(rows), rng.choices([1, 2], k=len(rows))])
        query = torch.randn(sum(lengths), 2, 3)
        found, _ = ops.attend(ops.cross_blocks(query, Layout.from_lengths(lengths), memory), query)
        wanted = []
        for own, (key, value) in zip(query.split(lengths), alone, strict=True):
            mixed = F.scaled_dot_product_attention(*(part.transpose(0, 1) for part in (own, key, value)))
            wanted.append(mixed.transpose(0, 1).flatten(1))
        torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-5, atol=1e-5)


def test_processors_know_the_prompt_of_each_beam() -> None:
    model = model_of(DECODER)
    reference = reference_of(DECODER, model)
    ids, mask = prompts_of(rows=3)
    settings = {
        "num_beams": 3,
        "num_return_sequences": 3,
        "max_new_tokens": 7,
        "eos_token_id": [2, *range(10, 20)],
        **FULL,
        "prefix_allowed_tokens_fn": lambda number, text: [2, *range(10 * number + 10, 10 * number + 40)],
    }
    found = model.generate(ids, attention_mask=mask, **settings)
    assert_same(found, reference.generate(ids, attention_mask=mask, **settings))


def test_a_text_that_meets_a_criterion_is_finished() -> None:
    model = model_of(DECODER)
    prompt = prompts_of()[0][:1]
    free = model.generate(prompt, num_beams=3, max_new_tokens=8)
    stop = int(free[0, -4])
    ended = model.generate(
        prompt, num_beams=3, max_new_tokens=8, length_penalty=0.0,
        stopping_criteria=[lambda ids, scores: ids[:, -1] == stop],
    )  # fmt: skip
    reference = reference_of(DECODER, model)
    wanted = reference.generate(
        prompt, num_beams=3, max_new_tokens=8, length_penalty=0.0,
        stopping_criteria=[lambda ids, scores, **_: ids[:, -1] == stop],
    )  # fmt: skip
    assert ended.tolist() == wanted.tolist()


def test_steps_of_beams_bring_whole_texts() -> None:
    model = model_of(DECODER)
    ids, mask = prompts_of()
    settings = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6, "eos_token_id": list(range(10, 40))}
    whole = model.generate(ids, attention_mask=mask, **settings)[:, ids.shape[1] :].tolist()
    found = {
        row: new for step in model.stream(ids, attention_mask=mask, **settings) for row, new in step.tokens.items()
    }
    assert sorted(found) == list(range(2 * len(ids)))
    assert all(whole[row][: len(new)] == new for row, new in found.items())
