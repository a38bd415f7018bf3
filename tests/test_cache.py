"""Caches: a text read in pieces gives what it gives in one piece, for every decoder and every kind of memory."""

from __future__ import annotations

import pytest
import torch

from architectures import LENGTHS, WIDTH, Case, cases, inputs_of, mask_of
from pellucid import InputError
from pellucid.cache import Cache, DynamicCache, FixedMemory, GrowingMemory, SlidingMemory, StaticCache
from pellucid.layout import Layout, PackedTokens

DECODERS = [
    case
    for case in cases()
    if case.remembers
    and not case.is_seq2seq
    and case.head in ("Model", "ForCausalLM")
    and not case.turns_by_length
    and not case.counts_real_words
    and not case.settings().get("use_bidirectional_attention")
]
PIECES = [(7, 8, 12), (1, 2, 3, 4, 12), (11, 12), tuple(range(1, 13))]


def in_pieces(
    model: torch.nn.Module, ids: torch.Tensor, mask: torch.Tensor, ends: tuple[int, ...], cache: Cache | None
):
    """First values of the calls, side by side, and the cache."""
    found, start = [], 0
    for end in ends:
        output = model(ids[:, start:end], attention_mask=mask[:, :end], past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, end
        found.append(output.to_tuple()[0])
    return torch.cat(found, dim=1), cache


@pytest.mark.parametrize("padding", ["full", "left", "right"])
@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_in_pieces_as_in_one(case: Case, padding: str) -> None:
    model = case.model()
    inputs = inputs_of(case, padding)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, use_cache=False).to_tuple()[0]
        for ends in PIECES:
            found, cache = in_pieces(model, ids, mask, ends, None)
            torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
            assert cache.get_seq_length() == WIDTH
            assert cache.lengths == mask.sum(dim=1).tolist()


@pytest.mark.parametrize("case", [case for case in DECODERS if case.variant == 0], ids=str)
def test_in_space_set_aside_and_with_gradients(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "left")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    whole = model(ids, attention_mask=mask, use_cache=False).to_tuple()[0]
    found, _ = in_pieces(model, ids, mask, (5, 6, 12), StaticCache(model.config, max_cache_len=WIDTH))
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-5)
    grown, _ = in_pieces(model, ids, mask, (5, 6, 12), DynamicCache(model.config))
    parameter = next(model.parameters())
    wanted = torch.autograd.grad(whole.square().sum(), parameter)[0]
    found, size = torch.autograd.grad(grown.square().sum(), parameter)[0], wanted.abs().max()
    torch.testing.assert_close(found / size, wanted / size, rtol=1e-4, atol=1e-5)
    small = StaticCache(model.config, max_cache_len=8)
    if any(isinstance(memory, FixedMemory) for memory in small.layers):  # windows need no more room
        with pytest.raises(InputError, match="got 12 tokens, room for 8"):
            model(ids, attention_mask=mask, past_key_values=small)


@pytest.mark.parametrize("case", [case for case in DECODERS if case.variant == 0], ids=str)
def test_rows_are_reordered_repeated_and_cropped(case: Case) -> None:
    model = case.model()
    inputs = inputs_of(case, "full")
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    with torch.no_grad():
        whole = model(ids, attention_mask=mask, use_cache=False).to_tuple()[0]
        order = torch.tensor([3, 0, 4, 4, 1])
        _, cache = in_pieces(model, ids, mask, (8,), None)
        cache.reorder_cache(order)
        found = model(ids[order, 8:], past_key_values=cache).to_tuple()[0]
        torch.testing.assert_close(found, whole[order, 8:], rtol=1e-5, atol=1e-5)
        _, cache = in_pieces(model, ids, mask, (4,), None)
        cache.batch_repeat_interleave(2)
        assert cache.lengths == [4] * 10
        found = model(ids.repeat_interleave(2, 0)[:, 4:], past_key_values=cache).to_tuple()[0]
        torch.testing.assert_close(found, whole.repeat_interleave(2, 0)[:, 4:], rtol=1e-5, atol=1e-5)
        _, cache = in_pieces(model, ids, mask, (9,), DynamicCache())
        cache.crop(6)
        found = model(ids[:, 6:], past_key_values=cache).to_tuple()[0]
        torch.testing.assert_close(found, whole[:, 6:], rtol=1e-5, atol=1e-5)
        cache.crop(-2)
        found = model(ids[:, 10:], past_key_values=cache).to_tuple()[0]
        torch.testing.assert_close(found, whole[:, 10:], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", [case for case in DECODERS if case.variant == 0], ids=str)
def test_packed_prompts_and_steps(case: Case) -> None:
    model = case.model()
    ids = inputs_of(case, "full")["input_ids"]
    with torch.no_grad():
        whole = model(ids, use_cache=False).to_tuple()[0]
        cache = DynamicCache(model.config)
        before = [0] * len(LENGTHS)
        for ends in ([3, 3, 5, 2, 1], [4, 4, 6, 3, 2], LENGTHS[:1] * 5):
            rows = [ids[row, start:end].tolist() for row, (start, end) in enumerate(zip(before, ends, strict=True))]
            found = model(packed=PackedTokens.from_lists(rows), past_key_values=cache).to_tuple()[0]
            wanted = [whole[row, start:end] for row, (start, end) in enumerate(zip(before, ends, strict=True))]
            torch.testing.assert_close(found, torch.cat(wanted), rtol=1e-5, atol=1e-5)
            before = ends


SHORT = [case for case in DECODERS if "logits_to_keep" in case.model_class.forward.__annotations__]


@pytest.mark.parametrize("case", SHORT, ids=str)
def test_logits_of_the_last_tokens_only(case: Case) -> None:
    model = case.model()
    for padding in ("left", "right", "full", "none"):
        inputs = inputs_of(case, padding)
        every = model(**inputs).logits
        last = model(**inputs, logits_to_keep=2).logits
        mask = mask_of(padding)
        for row in range(mask.shape[0]):
            columns = mask[row].nonzero().flatten()[-2:]
            torch.testing.assert_close(last[row, -len(columns) :], every[row, columns], rtol=1e-5, atol=1e-5)


def test_a_batch_that_cannot_be_remembered_says_so() -> None:
    case = next(case for case in DECODERS if case.stem == "llama" and case.head == "Model")
    model = case.model()
    inputs = inputs_of(case, "holes")
    assert model(**inputs).past_key_values is None
    with pytest.raises(InputError, match="use_cache=False"):
        model(**inputs, use_cache=True)
    with pytest.raises(InputError, match="got a tuple, wanted a cache"):
        model(inputs["input_ids"], past_key_values=((),))
    _, cache = in_pieces(model, inputs["input_ids"], mask_of("full"), (4,), None)
    with pytest.raises(InputError, match="got 5 rows for a batch of 2"):
        model(inputs["input_ids"][:2], past_key_values=cache)
    with pytest.raises(InputError, match=r"wanted \[5, 16\] like 4 cached columns and the tokens"):
        model(inputs["input_ids"], attention_mask=mask_of("full"), past_key_values=cache)


@pytest.mark.parametrize("stem", ["gemma", "gemma2", "gemma3_text"])
def test_a_model_whose_tokens_look_ahead_remembers_nothing(stem: str) -> None:
    model = Case(stem, "ForCausalLM", 0).model(use_bidirectional_attention=True)
    inputs = inputs_of(Case(stem, "ForCausalLM", 0), "full")
    assert model(**inputs).past_key_values is None
    with pytest.raises(InputError, match="nothing can be remembered"):
        model(**inputs, use_cache=True)
    with pytest.raises(InputError, match="nothing can be remembered"):
        model(**inputs, past_key_values=DynamicCache())


def test_memory_is_what_was_asked_for() -> None:
    key = torch.zeros(2 * 20, 3, 8)
    layout = Layout.full(2, 20)
    sizes = {"growing": GrowingMemory(), "fixed": FixedMemory(64), "sliding": SlidingMemory(5)}
    for memory in sizes.values():
        memory.store(key, key, layout)
    places = {name: memory.bytes // (2 * 2 * 3 * 8 * 4) for name, memory in sizes.items()}
    assert places == {"growing": 20, "fixed": 64, "sliding": 4}
    with pytest.raises(InputError, match="overwritten its older tokens"):
        sizes["sliding"].crop(3)
