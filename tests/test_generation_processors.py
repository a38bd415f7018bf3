"""Logits processors: each against the reference's, on random scores and texts; watermarks; the order they run in."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor
from transformers import generation as reference

from pellucid import ConfigError, GPT2Config, InputError, UnknownArgumentError
from pellucid.generation import processor_base, processor_classes, processors, stopping, watermark
from pellucid.generation.config import GenerationConfig
from pellucid.generation.processing import build_processors
from pellucid.generation.watermark_config import WatermarkingConfig

VOCAB = 60


def scores_of(seed: int, rows: int = 5) -> Tensor:
    """Scores as models and earlier processors give them: flat, steep, with ties, with words ruled out."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(rows, VOCAB, generator=generator) * (1 + seed % 4 * 3)
    if seed % 3 == 1:
        scores = scores.log_softmax(-1)
    if seed % 5 == 2:
        scores[:, torch.randperm(VOCAB, generator=generator)[:45]] = -math.inf
    return scores


def ids_of(seed: int, length: int, rows: int = 5) -> Tensor:
    return torch.randint(0, 7 if seed % 2 else VOCAB, (rows, length), generator=torch.Generator().manual_seed(seed))


def compare(
    ours: Callable[..., Tensor], theirs: Callable[..., Tensor], masking: bool, lengths: Any = (1, 2, 5, 30)
) -> None:
    for seed in range(24):
        for length in lengths:
            ids, scores = ids_of(seed, length), scores_of(seed)
            before = scores.clone()
            found, wanted = ours(ids, scores), theirs(ids, scores.clone())
            assert torch.equal(scores, before), "the argument was changed in place"
            if masking:
                assert torch.equal(found, wanted)
            else:
                torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-5, equal_nan=True)


SAME = [
    *[("TemperatureLogitsWarper", (value,), True) for value in (0.3, 1.7)],
    *[("TopKLogitsWarper", (value,), True) for value in (1, 7, 1000)],
    ("TopKLogitsWarper", (2, -99.0, 5), True),
    *[("TopPLogitsWarper", (value,), True) for value in (0.0, 0.1, 0.5, 0.95, 1.0)],
    ("TopPLogitsWarper", (0.3, -99.0, 4), True),
    *[("MinPLogitsWarper", (value,), True) for value in (0.0, 0.05, 0.4, 1.0)],
    ("MinPLogitsWarper", (0.9, -99.0, 3), True),
    *[("TopHLogitsWarper", (value,), True) for value in (0.1, 0.4, 0.8, 1.0)],
    *[("TypicalLogitsWarper", (value,), True) for value in (0.1, 0.5, 0.9)],
    ("TypicalLogitsWarper", (0.3, -99.0, 3), True),
    *[("EpsilonLogitsWarper", (value,), True) for value in (1e-4, 0.01, 0.3)],
    ("EpsilonLogitsWarper", (0.2, -99.0, 3), True),
    *[("EtaLogitsWarper", (value,), True) for value in (1e-4, 0.01, 0.3)],
    ("EtaLogitsWarper", (0.2, -99.0, 3), True),
    *[("RepetitionPenaltyLogitsProcessor", (value,), True) for value in (0.5, 1.3)],
    ("RepetitionPenaltyLogitsProcessor", (1.5, 3), True),
    *[("NoRepeatNGramLogitsProcessor", (value,), True) for value in (1, 2, 3, 6)],
    *[("MinLengthLogitsProcessor", (4, end), True) for end in (3, [3, 9])],
    ("MinNewTokensLengthLogitsProcessor", (2, 4, [3, 9]), True),
    ("SequenceBiasLogitsProcessor", ([[[3], -2.0], [[1, 2], 1.5], [[4, 1, 2], 0.5], [[0, 1, 2], 9.0]],), True),
    ("NoBadWordsLogitsProcessor", ([[5], [1, 2], [3, 1, 2], [9]], 9), True),
    ("ForcedBOSTokenLogitsProcessor", (7,), True),
    *[("ForcedEOSTokenLogitsProcessor", (6, end), True) for end in (3, [3, 9])],
    ("InfNanRemoveLogitsProcessor", (), True),
    ("LogitNormalization", (), False),
    ("SuppressTokensLogitsProcessor", ([1, 5, 59],), True),
    ("SuppressTokensAtBeginLogitsProcessor", ([1, 5], 2), True),
    *[("ExponentialDecayLengthPenalty", ((2, 1.3), end, 1), False) for end in (3, [3, 9])],
]  # fmt: skip


@pytest.mark.parametrize(("name", "arguments", "masking"), SAME, ids=lambda value: str(value))
def test_scores_are_those_of_the_reference(name: str, arguments: tuple[Any, ...], masking: bool) -> None:
    ours, theirs = getattr(processor_classes, name), getattr(reference, name)
    compare(ours(*arguments), theirs(*arguments), masking)


@pytest.mark.parametrize("beams", [1, 3])
def test_what_an_encoder_has_read_counts(beams: int) -> None:
    read = ids_of(1, 9, rows=2)
    for name, value in (
        ("EncoderRepetitionPenaltyLogitsProcessor", 1.4),
        ("EncoderNoRepeatNGramLogitsProcessor", 1),
        ("EncoderNoRepeatNGramLogitsProcessor", 2),
        ("EncoderNoRepeatNGramLogitsProcessor", 4),
    ):
        ours, theirs = getattr(processor_classes, name)(value, read), getattr(reference, name)(value, read)
        for seed in range(20):
            ids, scores = ids_of(1 + 2 * seed, 6, rows=2 * beams), scores_of(seed, rows=2 * beams)
            assert torch.allclose(ours(ids, scores), theirs(ids, scores), atol=1e-5)
            # rows that have left the batch, and others in any order
            chosen = torch.tensor([2 * beams - 1, 0])
            some = ours(ids[chosen], scores[chosen], rows=[int(row) // beams for row in chosen])
            assert torch.equal(some, ours(ids, scores)[chosen])


def test_padding_of_what_an_encoder_has_read_does_not_count() -> None:
    read, scores = [[4, 5, 6], [7]], scores_of(0, rows=2)
    changed = processor_classes.EncoderRepetitionPenaltyLogitsProcessor(2.0, read)(ids_of(0, 3, rows=2), scores)
    assert (changed != scores).nonzero().tolist() == [[0, 4], [0, 5], [0, 6], [1, 7]]


def test_ignored_prompts_differ_by_row() -> None:
    ignored = torch.tensor([0, 3, 5, 2, 9])
    ours = processor_classes.RepetitionPenaltyLogitsProcessor(1.5, ignored)
    theirs = reference.RepetitionPenaltyLogitsProcessor(1.5, ignored)
    compare(ours, theirs, masking=True, lengths=(9, 12))


def test_ids_beyond_the_scores_are_passed_over() -> None:
    ids, scores = torch.tensor([[1, VOCAB, VOCAB + 5, 1, VOCAB]]), scores_of(0, rows=1)
    changed = processors.repetition(ids, scores, 2.0)
    assert (changed != scores).nonzero().tolist() == [[0, 1]]
    assert processors.no_repeat_ngrams(ids, scores, 1)[0].isneginf().nonzero().tolist() == [[1]]
    assert torch.equal(processors.forbid(scores, torch.tensor([VOCAB + 1])), scores)


@pytest.mark.parametrize("beams", [1, 2])
def test_a_function_says_what_is_allowed(beams: int) -> None:
    def allowed(prompt: int, text: Tensor) -> list[int]:
        return [prompt, 10 + int(text[-1]) % 5]

    ours = processor_classes.PrefixConstrainedLogitsProcessor(allowed, beams)
    theirs = reference.PrefixConstrainedLogitsProcessor(allowed, beams)
    for seed in range(20):
        ids, scores = ids_of(seed, 4, rows=4), scores_of(seed, rows=4)
        if seed % 5 != 2:  # with several beams the reference leaves a beam without words while another has one
            assert torch.equal(ours(ids, scores), theirs(ids, scores))
        some = ours(ids[2:], scores[2:], rows=[2 // beams, 3 // beams])
        assert torch.equal(some, ours(ids, scores)[2:])
    nothing = processor_classes.PrefixConstrainedLogitsProcessor(lambda prompt, text: [], 1)
    with pytest.raises(InputError, match="at least one token for prompt 0"):
        nothing(ids_of(0, 2), scores_of(0))


def test_words_that_were_ruled_out_are_possible_when_nothing_else_is_allowed() -> None:
    scores = torch.zeros(2, 5)
    scores[0, 3] = -math.inf
    assert processors.allow(scores, [[3], [3, 4]])[:, 3:].tolist() == [[0.0, -math.inf], [0.0, 0.0]]


def test_groups_of_beams_are_led_away_from_each_other() -> None:
    batch, beams, groups, penalty = 3, 6, 3, 0.7
    processor = processor_classes.HammingDiversityLogitsProcessor(penalty, beams, groups)
    chosen = torch.randint(0, 4, (batch * beams,), generator=torch.Generator().manual_seed(0))
    for group in range(groups):
        scores = scores_of(group * 3, rows=batch * 2)
        found = processor(ids_of(0, 3, rows=batch * 2), scores, current_tokens=chosen, beam_group_idx=group)
        for row in range(batch * 2):
            earlier = chosen[row // 2 * beams : row // 2 * beams + group * 2].tolist()
            for word in range(VOCAB):
                wanted = scores[row, word] - penalty * earlier.count(word)
                assert abs(float(found[row, word] - wanted)) < 1e-6


def test_guidance() -> None:
    for seed in range(10):
        scores, without = scores_of(3 * seed), scores_of(3 * seed + 15)
        theirs = reference.UnbatchedClassifierFreeGuidanceLogitsProcessor(1.5, None)
        theirs.get_unconditional_logits = lambda ids, without=without: without[:, None]
        wanted = theirs(ids_of(0, 3), scores)  # NaN or infinite for words that one of the two rules out
        wanted = torch.where(wanted.isfinite(), wanted, scores.log_softmax(-1))
        assert torch.equal(processors.guide(scores, without, 1.5), wanted)
        both = torch.cat([scores, without])
        joined = processor_classes.ClassifierFreeGuidanceLogitsProcessor(2.5)(ids_of(0, 3), both)
        wanted = reference.ClassifierFreeGuidanceLogitsProcessor(2.5)(ids_of(0, 3), both)
        torch.testing.assert_close(joined, wanted, atol=0, rtol=0, equal_nan=True)
    with pytest.raises(InputError, match="twice as many"):
        processor_classes.ClassifierFreeGuidanceLogitsProcessor(2.5)(ids_of(0, 3), scores_of(0))


# ---------------------------------------------------------------------- watermarks

MARKS = [
    {},
    {"greenlist_ratio": 0.5, "bias": 3.5, "hashing_key": 77},
    {"seeding_scheme": "selfhash", "context_width": 1},
    {"seeding_scheme": "selfhash", "context_width": 3, "bias": 2.5},
]


@pytest.mark.parametrize("settings", MARKS, ids=str)
def test_watermarks_are_those_of_the_reference(settings: dict[str, Any]) -> None:
    ours = watermark.WatermarkLogitsProcessor(VOCAB, "cpu", **settings)
    theirs = reference.WatermarkLogitsProcessor(VOCAB, "cpu", **settings)
    for seed in range(6):
        ids, scores = ids_of(seed, 2 + seed, rows=3), scores_of(3 * seed, rows=3)
        assert torch.equal(ours(ids, scores), theirs(ids, scores))


@pytest.mark.parametrize("settings", MARKS, ids=str)
@pytest.mark.parametrize("once", [False, True])
def test_watermarks_are_found(settings: dict[str, Any], once: bool) -> None:
    marker = watermark.WatermarkLogitsProcessor(VOCAB, "cpu", **settings)
    texts = torch.randint(1, VOCAB, (2, 1), generator=torch.Generator().manual_seed(3))
    generator = torch.Generator().manual_seed(4)
    for _ in range(60):
        scores = marker(texts, torch.randn(2, VOCAB, generator=generator))
        texts = torch.cat([texts, scores.softmax(-1).multinomial(1, generator=generator)], dim=1)
    plain = torch.randint(1, VOCAB, (1, 61), generator=generator)
    config = GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0)
    ours = watermark.WatermarkDetector(config, "cpu", WatermarkingConfig(**settings), ignore_repeated_ngrams=once)
    theirs = reference.WatermarkDetector(
        transformers.GPT2Config(vocab_size=VOCAB, bos_token_id=0, eos_token_id=0),
        "cpu",
        transformers.WatermarkingConfig(**settings),
        ignore_repeated_ngrams=once,
    )
    with_start = torch.cat([torch.zeros(1, 1, dtype=torch.long), plain], dim=1)
    for given in (texts, plain, with_start):
        found, wanted = ours(given, return_dict=True), theirs(given, return_dict=True)
        for name in vars(wanted):
            assert torch.equal(getattr(found, name), torch.as_tensor(getattr(wanted, name))), name
    if not once:
        assert ours(texts).tolist() == [True, True]
    assert ours(plain).tolist() == [False]
    with pytest.raises(InputError, match="wanted more than"):
        ours(plain[:, :1])
    with pytest.raises(InputError, match="wanted all or none"):
        ours(torch.cat([plain, with_start[:, 1:].flip(1) * 0 + plain * (torch.arange(61) > 0)]))


# ---------------------------------------------------------------------- which ones, and in which order

EVERYTHING: dict[str, Any] = {
    "sequence_bias": [[[3], -2.0]], "repetition_penalty": 1.2, "no_repeat_ngram_size": 3, "min_length": 4,
    "encoder_repetition_penalty": 1.1, "encoder_no_repeat_ngram_size": 3, "bad_words_ids": [[5], [1, 2]],
    "min_new_tokens": 2, "forced_bos_token_id": 7, "forced_eos_token_id": 9, "remove_invalid_values": True,
    "exponential_decay_length_penalty": (2, 1.3), "suppress_tokens": [4], "begin_suppress_tokens": [6],
    "temperature": 0.7, "top_h": 0.9, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "typical_p": 0.95,
    "epsilon_cutoff": 1e-4, "eta_cutoff": 1e-4, "watermarking_config": {"bias": 1.0}, "renormalize_logits": True,
    "eos_token_id": [9, 2], "max_length": 12, "do_sample": True,
}  # fmt: skip


def their_processors(settings: dict[str, Any], length: int, **more: Any) -> Any:
    """The list that the reference makes of some settings."""
    config = transformers.GPT2Config(vocab_size=VOCAB, n_embd=4, n_head=1, n_layer=1, n_positions=16)
    model = transformers.GPT2LMHeadModel(config)
    settings = settings | {"num_beams": settings.get("num_beams", 1)}
    wanted = transformers.GenerationConfig(**settings)
    ends = settings.get("eos_token_id")
    wanted._eos_token_tensor = None if ends is None else torch.tensor([ends] if isinstance(ends, int) else ends)
    return model._get_logits_processor(wanted, input_ids_seq_length=length, device="cpu", **more)


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("prompt", [1, 3])
def test_the_order_is_the_reference_s(beams: int, prompt: int) -> None:
    read = ids_of(0, 6, rows=2)

    def allowed(number: int, text: Tensor) -> range:
        return range(VOCAB - 1)

    settings = EVERYTHING | {"num_beams": beams}
    config = GenerationConfig.from_dict(settings)  # from a file, both lengths are tolerated
    options: dict[str, Any] = {"encoder_input_ids": read, "prefix_allowed_tokens_fn": allowed}
    ours = build_processors(config, prompt_length=prompt, device="cpu", vocab_size=VOCAB, **options)
    theirs = their_processors(settings, prompt, **options)
    assert [type(one).__name__ for one in ours] == [type(one).__name__ for one in theirs]
    ours = build_processors(
        config.with_settings({"remove_invalid_values": False}),
        **{"prompt_length": prompt, "device": "cpu", "vocab_size": VOCAB, **options},
    )
    theirs = their_processors({**settings, "remove_invalid_values": False}, prompt, **options)
    for seed in range(10):
        for length in range(max(prompt, 2), 11):  # at both ends a token is forced, see below
            ids, scores = ids_of(seed, length, rows=2 * beams), scores_of(3 * seed, rows=2 * beams)
            torch.testing.assert_close(ours(ids, scores), theirs(ids, scores), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", sorted(EVERYTHING))
def test_each_setting_alone(name: str) -> None:
    read = ids_of(0, 6, rows=2)
    settings = {"eos_token_id": [9, 2], "max_length": 12, "do_sample": True, name: EVERYTHING[name]}
    options: dict[str, Any] = {"encoder_input_ids": read}
    config = GenerationConfig(**settings).with_settings({})
    ours = build_processors(config, prompt_length=3, device="cpu", vocab_size=VOCAB, **options)
    theirs = their_processors({**config.to_dict(), **settings}, 3, **options)
    assert [type(one).__name__ for one in ours] == [type(one).__name__ for one in theirs]
    for length in (3, 4, 11):
        ids, scores = ids_of(1, length, rows=2), scores_of(0, rows=2)
        torch.testing.assert_close(ours(ids, scores), theirs(ids, scores), atol=1e-5, rtol=1e-5)


def test_the_caller_s_own_processors() -> None:
    def own(ids: Tensor, scores: Tensor) -> Tensor:
        return scores + 1

    config = GenerationConfig(do_sample=True, repetition_penalty=1.5, top_k=3).with_settings({})
    other = processor_classes.RepetitionPenaltyLogitsProcessor(9.0)
    listed = build_processors(config, prompt_length=1, custom=[own, other])
    names = [getattr(one, "__name__", type(one).__name__) for one in listed]
    assert names == ["RepetitionPenaltyLogitsProcessor", "own", "TopKLogitsWarper"]
    assert listed[0] is other
    with pytest.raises(InputError, match="got a int"):
        build_processors(config, prompt_length=1, custom=[3])  # type: ignore[list-item]

    def wants_more(ids: Tensor, scores: Tensor, step: int) -> Tensor:
        return scores + step

    more = processor_base.LogitsProcessorList([own, wants_more])
    assert more(ids_of(0, 1), torch.zeros(5, VOCAB), step=3)[0, 0] == 4
    with pytest.raises(InputError, match="wants_more: wants step"):
        more(ids_of(0, 1), torch.zeros(5, VOCAB))


def test_processors_that_do_not_read_the_texts_say_so() -> None:
    sampling = GenerationConfig(do_sample=True, temperature=0.5, top_p=0.9, top_k=5, min_p=0.1, renormalize_logits=True)
    listed = build_processors(sampling.with_settings({}), prompt_length=4)
    assert len(listed) == 5 and not listed.needs_ids
    nothing = torch.empty(5, 0, dtype=torch.long)
    assert torch.equal(listed(nothing, scores_of(0)), listed(ids_of(0, 4), scores_of(0)))
    assert build_processors(GenerationConfig(no_repeat_ngram_size=2).with_settings({}), prompt_length=4).needs_ids


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"sequence_bias": [[[VOCAB], 1.0]]}, "ids below 60"),
        ({"bad_words_ids": [[1, VOCAB]]}, "ids below 60"),
        ({"encoder_repetition_penalty": 2.0}, "without a text that an encoder reads"),
        ({"encoder_no_repeat_ngram_size": 2}, "without a text that an encoder reads"),
    ],
)
def test_settings_that_cannot_be_used_are_refused_before_any_work(settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted):
        build_processors(GenerationConfig(**settings).with_settings({}), prompt_length=1, vocab_size=VOCAB)


@pytest.mark.parametrize(
    ("name", "arguments", "wanted"),
    [
        ("TemperatureLogitsWarper", (0.0,), "temperature: got 0.0, wanted a number above 0"),
        ("TopKLogitsWarper", (0,), "top_k: got 0, wanted 1 or more"),
        ("TopPLogitsWarper", (1.5,), "top_p: got 1.5"),
        ("TypicalLogitsWarper", (1.0,), "mass: got 1.0"),
        ("EpsilonLogitsWarper", (0.0,), "epsilon: got 0.0"),
        ("MinPLogitsWarper", (0.5, 0.0, 0), "min_tokens_to_keep: got 0"),
        ("NoRepeatNGramLogitsProcessor", (0,), "ngram_size: got 0"),
        ("MinLengthLogitsProcessor", (3, -1), "eos_token_id: got -1"),
        ("SequenceBiasLogitsProcessor", ([],), "sequence_bias"),
        ("SequenceBiasLogitsProcessor", ([[[1], "x"]],), "sequence_bias: got 'x'"),
        ("NoBadWordsLogitsProcessor", ([[]],), "bad_words_ids"),
        ("RepetitionPenaltyLogitsProcessor", (-1.0,), "penalty: got -1.0"),
        ("HammingDiversityLogitsProcessor", (1.0, 2, 3), "num_beam_groups: got 3"),
    ],
)
def test_wrong_values_are_named(name: str, arguments: tuple[Any, ...], wanted: str) -> None:
    with pytest.raises(InputError, match=wanted) as caught:
        getattr(processor_classes, name)(*arguments)
    assert "\n" not in str(caught.value)


def test_one_letter_dropped_from_any_argument_is_refused_by_name() -> None:
    calls: list[Any] = [build_processors, stopping.build_stopping, WatermarkingConfig, watermark.WatermarkDetector]
    kinds = (processor_base.LogitsProcessor, stopping.StoppingCriteria)
    for module in (processor_classes, stopping, watermark):
        for value in vars(module).values():
            if inspect.isclass(value) and issubclass(value, kinds) and inspect.signature(value).parameters:
                calls.append(value)
    assert len(calls) > 30
    for call in calls:
        names = set(inspect.signature(call).parameters)
        for name in names:
            for at in range(len(name)):
                if (misspelt := name[:at] + name[at + 1 :]) not in names:
                    with pytest.raises(UnknownArgumentError, match=f"{misspelt!r}"):
                        call(**{misspelt: 1})


def test_an_end_token_that_is_ruled_out_stays_so() -> None:
    scores = processors.finite(torch.tensor([[0.0, -math.inf, 1.0]]))
    assert torch.equal(processors.favour_end(scores, torch.tensor([1]), 1.5, beyond=9), scores)


def test_a_processor_must_define_its_call() -> None:
    with pytest.raises(InputError, match="must define __call__"):
        type("Own", (processor_base.LogitsProcessor,), {})()(ids_of(0, 1), scores_of(0))
    with pytest.raises(ConfigError, match="greenlist_ratio: got 1"):
        WatermarkingConfig(greenlist_ratio=1.0)
