"""Kinds of caches: each writes what the usual one writes, and takes the memory that its formula says."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from architectures import Case
from pellucid import InputError
from pellucid.cache import DynamicCache, FixedMemory, GrowingMemory, Memory, SlidingMemory
from pellucid.cache_kinds import OffloadedMemory, QuantizedMemory
from pellucid.generation.caches import make_cache
from pellucid.generation.config import GenerationConfig
from pellucid.layout import Layout, PackedTokens
from test_generate import NEW, WRITERS, model_of, prompts_of

SAME = ("static", "offloaded", "offloaded_static")  # kinds that change nothing but where keys and values lie


@pytest.mark.parametrize("case", WRITERS, ids=str)
def test_kinds_write_what_the_usual_one_writes(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of()
    for settings in ({}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "seed": 3}):
        given = {"attention_mask": mask, "max_new_tokens": NEW, **settings}
        wanted = model.generate(ids, **given)
        for kind in SAME:
            assert model.generate(ids, cache_implementation=kind, **given).tolist() == wanted.tolist(), kind


@pytest.mark.parametrize("case", [case for case in WRITERS if not case.is_seq2seq], ids=str)
def test_eight_bits_change_the_scores_by_little(case: Case) -> None:
    model = model_of(case)
    if "past_key_values" not in type(model).forward.__annotations__:
        return
    ids, mask = prompts_of()
    ids = ids.masked_fill(mask == 0, 7)  # no padding
    settings = GenerationConfig(cache_implementation="quantized").resolved(model.generation_config)
    with torch.no_grad():
        exact = model(ids, use_cache=False).logits
        caches: list[Any] = [make_cache(model, settings, 20), DynamicCache(model.config)]
        for cache in caches:
            model(ids[:, :4], past_key_values=cache)
        rounded, usual = (model(ids[:, 4:], past_key_values=cache).logits for cache in caches)
    torch.testing.assert_close(usual, exact[:, 4:], rtol=1e-5, atol=1e-5)
    error = (rounded - usual).abs().max() / usual.std()
    assert 0 < error < 0.05


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_numbers_come_back_within_half_a_step(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    key = torch.randn(2 * 9, 3, 8).to(dtype) * torch.tensor([1e-3, 1.0, 50.0])[:, None].to(dtype)
    key[4] = 0
    memory, layout = QuantizedMemory(GrowingMemory()), Layout.full(2, 9)
    memory.store(key, 2 * key, layout)
    later = Layout.full(2, 1)
    later.past = [9, 9]
    keys, values = memory.look(key[:2], key[:2], later)
    assert keys.dtype == dtype
    kept = key.view(2, 9, 3, 8).transpose(1, 2).float()
    step = kept.abs().amax(dim=-1, keepdim=True) / 127
    slack = 1e-6 if dtype == torch.float32 else kept.abs() * 2**-8
    assert ((keys[:, :, :9].float() - kept).abs() <= step / 2 + slack).all()
    assert ((values[:, :, :9].float() - 2 * kept).abs() <= step + 2 * slack).all()


def stored(memory: Memory, places: int) -> int:
    """Bytes after two rows of `places` tokens, three heads of eight numbers."""
    key = torch.zeros(2 * places, 3, 8)
    memory.store(key, key, Layout.full(2, places))
    return memory.bytes


def test_memory_is_what_the_formula_says() -> None:
    usual, rounded = 8 * 4, 8 + 4
    assert stored(GrowingMemory(), 20) == 2 * 2 * 3 * 20 * usual
    assert stored(FixedMemory(64), 20) == 2 * 2 * 3 * 64 * usual
    assert stored(SlidingMemory(5), 20) == 2 * 2 * 3 * 4 * usual
    for inner, places in ((GrowingMemory, 20), (lambda: FixedMemory(64), 64), (lambda: SlidingMemory(5), 4)):
        assert stored(OffloadedMemory(inner()), 20) == 2 * 2 * 3 * places * usual
        assert stored(QuantizedMemory(inner()), 20) == 2 * 2 * 3 * places * rounded
        assert stored(OffloadedMemory(QuantizedMemory(inner())), 20) == 2 * 2 * 3 * places * rounded


@pytest.mark.parametrize(
    ("kind", "places", "head"), [(None, 22, 32), ("static", 22, 32), ("quantized", 22, 12), ("offloaded", 22, 32)]
)
def test_memory_of_a_whole_model(kind: str | None, places: int, head: int) -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))  # 2 layers, 2 key/value heads of 8 numbers
    config = GenerationConfig(**({} if kind is None else {"cache_implementation": kind}))
    cache = make_cache(model, config.resolved(model.generation_config), 22) or DynamicCache(model.config)
    with torch.no_grad():
        model(packed=PackedTokens.from_lists([[5] * 22, [6] * 22, [7] * 22]), past_key_values=cache)
    assert cache.bytes == 2 * 2 * 3 * 2 * places * head


def test_layers_with_windows_keep_windows() -> None:
    model = model_of(Case("gemma3_text", "ForCausalLM", 0))
    config = GenerationConfig(cache_implementation="quantized").resolved(model.generation_config)
    cache = make_cache(model, config, 40)
    assert cache is not None
    kinds = [type(layer.inner) for layer in cache.layers]
    windows = [kind == "sliding_attention" for kind in model.config.layer_types]
    assert kinds == [SlidingMemory if window else GrowingMemory for window in windows]


def test_what_cannot_be_had_is_refused() -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    with pytest.raises(InputError, match="generate_many"):
        model.generate([[5]], max_new_tokens=3, cache_implementation="paged")
    with pytest.raises(InputError, match="nbits 4, wanted 8"):
        model.generate([[5]], max_new_tokens=3, cache_implementation="quantized", cache_config={"nbits": 4})
    with pytest.raises(InputError, match="got 'group_size' for 'quantized', wanted no more than nbits"):
        model.generate([[5]], max_new_tokens=3, cache_implementation="quantized", cache_config={"group_size": 4})
    with pytest.raises(InputError, match="got 3, a text can have 4 tokens"):
        model.generate([[5]], max_new_tokens=3, cache_implementation="static", max_cache_len=3)
