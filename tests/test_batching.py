"""Continuous batching: each request gets what it gets alone, whoever else comes, goes, or takes its memory."""

from __future__ import annotations

import random
import threading
from itertools import pairwise
from typing import Any

import pytest
import torch

import pellucid
from architectures import MODULES, Case
from pellucid import ConfigError, InputError, UnknownArgumentError
from pellucid.cache_pool import BLOCK, PoolCache, Room
from pellucid.generation.batching import Answer, Engine, Event, Request, generate_many
from pellucid.generation.config import GenerationConfig
from small_tokenizers import byte_level
from test_generate import NEW, WRITERS, model_of

DECODERS = [case for case in WRITERS if not case.is_seq2seq]
LLAMA = Case("llama", "ForCausalLM", 0)
SETTINGS: list[dict[str, Any]] = [
    {},
    {"do_sample": True, "seed": 3, "top_k": 20},
    {"repetition_penalty": 1.3, "min_new_tokens": 3},
    {"no_repeat_ngram_size": 2, "do_sample": True, "temperature": 2.0, "seed": 8},
]
TIGHT: list[dict[str, Any]] = [{}, {"max_rows": 3, "step_tokens": 7}, {"max_tokens": 48, "step_tokens": 9}]


def prompts_of(count: int, longest: int = 12, seed: int = 1) -> list[list[int]]:
    rnd = random.Random(seed)
    return [[rnd.randrange(4, 99) for _ in range(rnd.randrange(1, longest))] for _ in range(count)]


def alone(model: Any, prompt: list[int], **settings: Any) -> list[int]:
    written: list[int] = model.generate([prompt], **settings)[0, len(prompt) :].tolist()
    return written


def answers(events: Any) -> dict[Any, Answer]:
    return {event.id: event.answer for event in events if event.answer is not None}


def check_books(engine: Engine) -> None:
    """Every place is free, or belongs to one text that ended."""
    cache = engine.cache
    assert cache is not None
    taken = sorted((row.start, row.size) for row in cache._kept)
    assert sum(size for _, size in taken) + cache.room.free == cache.places
    for (start, size), (after, _) in pairwise(taken):
        assert start + size <= after
    assert {row for rows in cache._found.values() for row in rows} <= set(cache._kept)


# ---------------------------------------------------------------------- the same text


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_as_alone_whoever_else_is_there(case: Case) -> None:
    model = model_of(case)
    prompts = prompts_of(10)
    rnd = random.Random(2)
    kinds = [rnd.choice(SETTINGS) for _ in prompts]
    lengths = [rnd.randrange(1, NEW + 1) + settings.get("min_new_tokens", 0) for settings in kinds]
    wanted = [
        alone(model, prompt, max_new_tokens=length, **settings)
        for prompt, length, settings in zip(prompts, lengths, kinds, strict=True)
    ]
    for limits in TIGHT:
        engine = Engine(model, **limits)
        events: list[Event] = []
        waiting = list(range(len(prompts)))
        while waiting or engine.pending:  # they arrive while others are being written
            for _ in range(rnd.randrange(4)):
                if waiting:
                    number = waiting.pop(0)
                    engine.submit(prompts[number], max_new_tokens=lengths[number], **kinds[number])
            events += engine.step()
        found = answers(events)
        assert [found[number].tokens for number in range(len(prompts))] == wanted
        for number, row in enumerate(wanted):
            assert [token for event in events if event.id == number for token in event.tokens] == row
            assert found[number].reason == ("stop" if row[-1] == 2 else "length")
            assert found[number].usage.prompt_tokens == len(prompts[number])
            assert found[number].usage.new_tokens == len(row)
        if engine.cache is not None:
            check_books(engine)


@pytest.mark.parametrize("stem", ["llama", "mistral", "gemma3_text", "gemma2", "phi3"])
def test_every_variant_with_long_prompts(stem: str) -> None:
    for variant in range(len(MODULES[stem].VARIANTS) + 1):
        case = Case(stem, "ForCausalLM", variant)
        model = case.model()
        if getattr(model.config, "use_bidirectional_attention", False):
            continue
        model.generation_config = GenerationConfig()
        most = 26 if "dynamic" in str(model.config.rope_parameters) else min(26, model.config.max_position_embeddings)
        prompts = prompts_of(8, most, seed=variant)
        wanted = [alone(model, prompt, max_new_tokens=NEW) for prompt in prompts]
        for limits in ({}, {"step_tokens": 6}, {"max_tokens": 64}):
            found = answers(generate_many(model, prompts, max_new_tokens=NEW, **limits))
            assert [found[number].tokens for number in range(len(prompts))] == wanted, variant


def test_alone_by_itself_and_in_numbers_of_sixteen_bits() -> None:
    model = model_of(LLAMA).to(torch.bfloat16)
    found = answers(generate_many(model, [[5, 6, 7]], max_new_tokens=NEW))
    assert found[0].tokens == alone(model, [5, 6, 7], max_new_tokens=NEW)


# ---------------------------------------------------------------------- memory


def test_texts_that_begin_alike_are_read_once() -> None:
    model = model_of(LLAMA)
    start = list(range(10, 30))
    prompts = [[*start, 40 + number] for number in range(6)]
    wanted = [alone(model, prompt, max_new_tokens=5) for prompt in prompts]
    for share in (True, False):
        engine = Engine(model, share_prefixes=share)
        for prompt in prompts:
            engine.submit(prompt, max_new_tokens=5)
        found = answers(engine)
        assert [found[number].tokens for number in range(6)] == wanted
        assert engine.statistics.shared == sum(found[number].usage.shared_tokens for number in range(6))
        assert engine.statistics.shared == (5 * 20 if share else 0)
        written = sum(len(row) for row in wanted)
        assert engine.statistics.read == 6 * 21 + written - 6 - engine.statistics.shared
        again = engine.submit([*prompts[2], *wanted[2], 7], max_new_tokens=2)  # a chat goes on
        answer = answers(engine)[again]
        assert answer.usage.shared_tokens == (21 + len(wanted[2]) - 1 if share else 0)
        assert answer.tokens == alone(model, [*prompts[2], *wanted[2], 7], max_new_tokens=2)
        check_books(engine)


def test_memory_is_bounded_and_those_who_came_last_give_way() -> None:
    model = model_of(LLAMA)
    prompts = prompts_of(9, 14, seed=3)
    wanted = [alone(model, prompt, max_new_tokens=24, min_new_tokens=24) for prompt in prompts]
    engine = Engine(model, max_tokens=96, share_prefixes=False)
    for prompt in prompts:
        engine.submit(prompt, max_new_tokens=24, min_new_tokens=24)
    found = answers(engine)
    assert [found[number].tokens for number in range(9)] == wanted
    assert engine.statistics.preempted == sum(answer.usage.preempted for answer in found.values()) > 0
    assert found[0].usage.preempted == 0
    assert engine.cache is not None
    assert engine.cache.bytes == 2 * 2 * 2 * 8 * 96 * 4  # 2 layers, keys and values, 2 heads of 8 numbers
    assert engine.cache.room.holes == [(0, 96)]


def test_memory_in_bytes_is_memory_in_tokens() -> None:
    model = model_of(LLAMA)
    token = 2 * 2 * 2 * 8 * 4
    engine = Engine(model, max_bytes=100 * token)
    engine.submit([5, 6, 7], max_new_tokens=3)
    list(engine)
    assert engine.cache is not None
    assert engine.cache.places == 96
    assert engine.cache.bytes == 96 * token <= 100 * token
    with pytest.raises(InputError, match=f"wanted at least {16 * token}, {token} for each token"):
        Engine(model, max_bytes=token)


def test_nobody_is_copied_when_others_come_and_go() -> None:
    model = model_of(LLAMA)
    engine = Engine(model, share_prefixes=False)
    first = engine.submit(list(range(4, 24)), max_new_tokens=12, min_new_tokens=12)
    engine.step()
    assert engine.cache is not None
    memory, row = engine.cache[0], engine.cache.rows[0]
    assert memory.keys is not None
    pointer, start = memory.keys.data_ptr(), row.start
    before = memory.keys[:, start : start + 20].clone()
    others = [engine.submit(prompt, max_new_tokens=3) for prompt in prompts_of(5)]
    while engine.pending > 1:
        engine.step()
    assert first in engine._ids
    assert others
    assert (memory.keys.data_ptr(), row.start) == (pointer, start)
    assert torch.equal(memory.keys[:, start : start + 20], before)


def test_stretches_are_never_handed_out_twice() -> None:
    rnd, room = random.Random(0), Room(64 * BLOCK)
    held: list[tuple[int, int]] = []
    for _ in range(3000):
        if held and rnd.random() < 0.5:
            room.give(*held.pop(rnd.randrange(len(held))))
        elif held and rnd.random() < 0.3:
            start, size = held.pop()
            size += BLOCK if room.take_at(start + size, BLOCK) else 0
            held.append((start, size))
        else:
            size = rnd.randrange(1, 9) * BLOCK
            if (start := room.take(size)) is not None:
                held.append((start, size))
        taken = sorted(held)
        assert all(a + size <= b for (a, size), (b, _) in pairwise(taken))
        assert room.free + sum(size for _, size in held) == 64 * BLOCK
        assert all(sum(one) < other[0] for one, other in pairwise(room.holes))
    for stretch in held:
        room.give(*stretch)
    assert room.holes == [(0, 64 * BLOCK)]


def test_what_is_shared_stays_until_its_places_are_needed() -> None:
    pool = PoolCache(8 * BLOCK)
    first = pool.enter(list(range(40)), 60)
    assert first is not None
    first.length = 40
    pool.leave(first)
    assert (first.size, pool.room.free) == (3 * BLOCK, 5 * BLOCK)
    second = pool.enter([*range(35), 99], 40)
    assert second is not None
    assert (second.length, pool.shared) == (35, 35)
    third = pool.enter(list(range(100, 148)), 48)  # needs what the first one still held
    assert third is not None
    assert first.size == 0
    other = list(range(200, 240))
    assert pool.enter(other, 40) is None
    pool.leave(second, keep=False)
    assert pool.enter(other, 40) is not None


# ---------------------------------------------------------------------- coming and going


def test_cancelled_requests_leave_at_once() -> None:
    model = model_of(LLAMA)
    wanted = alone(model, [5, 6, 7], max_new_tokens=NEW, min_new_tokens=NEW)
    engine = Engine(model, max_rows=2)
    for name in ("kept", "left", "waiting"):
        engine.submit(Request([5, 6, 7], {"max_new_tokens": NEW, "min_new_tokens": NEW}, id=name))
    events = engine.step() + engine.step()
    assert engine.cancel("left")
    assert engine.cancel("waiting")
    assert not engine.cancel("nobody")
    events += list(engine)
    found = answers(events)
    assert {name: answer.reason for name, answer in found.items()} == {
        "kept": "length", "left": "cancelled", "waiting": "cancelled",
    }  # fmt: skip
    assert found["kept"].tokens == wanted
    assert found["left"].tokens == wanted[:2]
    assert found["waiting"].tokens == []
    assert not engine.cancel("left")
    check_books(engine)


def test_requests_of_higher_priority_go_first() -> None:
    engine = Engine(model_of(LLAMA), max_rows=1)
    for name, priority in (("a", 0), ("b", 0), ("c", 5)):
        engine.submit([5, 6], id=name, priority=priority, max_new_tokens=2)
    assert list(answers(engine)) == ["c", "a", "b"]


def test_requests_from_several_threads() -> None:
    model = model_of(LLAMA)
    prompts = prompts_of(24, seed=5)
    wanted = [alone(model, prompt, max_new_tokens=6) for prompt in prompts]
    engine = Engine(model, max_rows=5)

    def hand_in(part: int) -> None:
        for number in range(part, 24, 4):
            engine.submit(Request(prompts[number], {"max_new_tokens": 6}, id=number))

    threads = [threading.Thread(target=hand_in, args=(part,)) for part in range(4)]
    found: dict[Any, Answer] = {}
    for thread in threads:
        thread.start()
    while len(found) < 24:
        assert engine.wait(timeout=20)
        found |= answers(engine.step())
    for thread in threads:
        thread.join()
    assert [found[number].tokens for number in range(24)] == wanted
    assert not engine.wait(timeout=0)


def test_requests_are_taken_as_they_are_needed() -> None:
    taken: list[int] = []

    def endless() -> Any:
        while True:
            taken.append(1)
            yield [5, 6, 7]

    events = generate_many(model_of(LLAMA), endless(), max_rows=3, max_new_tokens=4)
    assert not taken
    for _ in range(20):
        next(events)
    events.close()
    assert len(taken) < 20


# ---------------------------------------------------------------------- text


def test_texts_stop_strings_and_choices() -> None:
    tokenizer = byte_level()
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    model.resize_token_embeddings(len(tokenizer))
    prompts = ["the quick", "brown", "a dog and the lazy fox"]
    ends: dict[str, Any] = {"max_new_tokens": 12, "min_new_tokens": 0}
    wanted = [alone(model, tokenizer(prompt)["input_ids"], **ends) for prompt in prompts]
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in wanted]
    events = list(generate_many(model, prompts, tokenizer, **ends))
    found = answers(events)
    assert [found[number].text for number in range(3)] == texts
    for number, text in enumerate(texts):
        assert "".join(event.text for event in events if event.id == number) == text
    stop = texts[0][3:6]
    wanted = [
        alone(model, tokenizer(p)["input_ids"], stop_strings=[stop], tokenizer=tokenizer, **ends) for p in prompts
    ]
    found = answers(generate_many(model, prompts, tokenizer, stop_strings=[stop], **ends))
    assert [found[number].tokens for number in range(3)] == wanted
    assert found[0].reason == "stop"
    chosen = Request(
        "the", {"choices": ["fox", "lazy dog"], "max_new_tokens": 30, "eos_token_id": tokenizer.eos_token_id}
    )
    plain = Request("the quick", ends)
    found = answers(generate_many(model, [chosen, plain], tokenizer))
    assert found[0].text in ("fox", "lazy dog")
    assert found[1].text == texts[0]


# ---------------------------------------------------------------------- what goes wrong


def test_what_one_request_does_wrong_leaves_others_alone() -> None:
    model = model_of(LLAMA)
    wanted = alone(model, [5, 6, 7], max_new_tokens=NEW)

    def fails(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if ids.shape[1] > 5:
            raise ValueError("no more")
        return scores

    broken = Request([5, 6, 7], id="broken", logits_processor=[fails])
    engine = Engine(model, settings={"max_new_tokens": NEW, "min_new_tokens": NEW if len(wanted) == NEW else 0})
    engine.submit(broken)
    engine.submit([5, 6, 7], id="sound")
    found = answers(engine)
    assert found["broken"].reason == "error"
    assert isinstance(found["broken"].error, ValueError)
    assert found["broken"].tokens == wanted[:3]
    assert found["sound"].tokens == wanted


def test_numbers_that_are_none_end_one_text_only() -> None:
    model = model_of(LLAMA)
    wanted = alone(model, [5, 6, 7], max_new_tokens=NEW)
    with torch.no_grad():
        model.model.embed_tokens.weight[98] = float("nan")
    engine = Engine(model)
    engine.submit([98, 6], id="damaged", max_new_tokens=NEW)
    engine.submit([5, 6, 7], id="sound", max_new_tokens=NEW)
    found = answers(engine)
    assert found["damaged"].reason == "error"
    assert "NaN" in str(found["damaged"].error)
    assert found["sound"].tokens == wanted
    assert engine.cache is not None
    assert not any(layer.keys.isnan().any() for layer in engine.cache.layers)
    later = engine.submit([5, 6, 7], max_new_tokens=NEW)
    assert answers(engine)[later].tokens == wanted


def test_what_cannot_be_written_is_refused_before_any_work() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    model.register_forward_hook(lambda *_: pytest.fail("the model was run"))
    engine = Engine(model, max_tokens=32, max_rows=2)
    for prompt, settings, match in (
        ([], {}, "at least one token"),
        ([5, 200], {}, "got token 200, wanted 0 to 98"),
        ([5] * 39, {"max_new_tokens": 5}, "39 tokens and 5 new ones, the model reads at most 40"),
        ([5] * 20, {"max_new_tokens": 15}, "20 tokens and 15 new ones, there is room for 32"),
        ("a text", {}, "without a tokenizer"),
        ([5], {"stop_strings": ["a"]}, "without a tokenizer"),
        ([5], {"choices": ["a"]}, "without a tokenizer"),
        ([5], {"num_beams": 2}, "use model.generate for other methods"),
        ([5], {"num_return_sequences": 2, "do_sample": True}, "submit the prompt so many times"),
        ([5, 6, 7], {"max_length": 3}, "max_new_tokens instead"),
        ([5], {"seed": [1, 2], "do_sample": True}, "wanted one"),
    ):
        with pytest.raises(InputError, match=match):
            engine.submit(prompt, **settings)
    with pytest.raises(UnknownArgumentError, match="did you mean 'max_new_tokens'"):
        engine.submit([5], max_new_token=5)
    with pytest.raises(UnknownArgumentError, match="did you mean 'max_new_tokens'"):
        generate_many(model, [[5]], max_new_token=5)
    with pytest.raises(ConfigError, match="temperature"):
        engine.submit([5], temperature=0.5)
    assert engine.pending == 0
    engine.submit([5], id="a")
    with pytest.raises(InputError, match="another request has"):
        engine.submit([5], id="a")
    for arguments in ({"max_rows": 0}, {"step_tokens": 0}, {"max_tokens": 5, "max_bytes": 5}):
        with pytest.raises(InputError):
            Engine(model, **arguments)
    with pytest.raises(InputError, match="for an encoder-decoder use"):
        Engine(model_of(Case("t5", "ForSeq2SeqLM", 0)))
    assert pellucid.generate_many is generate_many
