"""Writing: the reference's tokens, the same alone and in any batch, streamed or not, remembered or not."""

from __future__ import annotations

import copy
import logging
from typing import Any

import pytest
import torch
import transformers

import test_parity
from architectures import MODULES, PAD, Case
from pellucid import InputError, LlamaConfig, LlamaForCausalLM, UnknownArgumentError
from pellucid.generation.config import GenerationConfig

transformers.logging.set_verbosity_error()
NEW = 10


def writers() -> list[Case]:
    """A class that writes for each architecture: as a decoder, or as an encoder-decoder."""
    found = []
    for stem, module in MODULES.items():
        for head in ("ForCausalLM", "ForSeq2SeqLM"):
            if head in module.HEADS and module.HEADS[head].can_generate() and hasattr(module, "TINY"):
                found.append(Case(stem, head, 0))
    return found


WRITERS = writers()


def model_of(case: Case) -> Any:
    changes: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": 3, "eos_token_id": 2}
    if case.is_seq2seq:
        changes |= {"decoder_start_token_id": 3, "forced_eos_token_id": None}
    known = case.model_class.config_class.keywords()
    model = case.model(**{name: value for name, value in changes.items() if name in known})
    model.generation_config = GenerationConfig.from_dict({**changes, "forced_eos_token_id": None})
    return model


def reference_of(case: Case, model: Any) -> Any:
    reference = test_parity.reference_of(case, model)
    reference.generation_config = transformers.GenerationConfig(pad_token_id=PAD, bos_token_id=3, eos_token_id=2)
    if case.is_seq2seq:
        reference.generation_config.decoder_start_token_id = 3
    return reference


def prompts_of(rows: int = 4, width: int = 7) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask `[B, S]`, padded on the left."""
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(4, 99, (rows, width), generator=generator)
    mask = torch.ones_like(ids)
    for row in range(1, rows):
        mask[row, : row + 1] = 0
    return ids.masked_fill(mask == 0, PAD), mask


def own_tokens(case: Case, answer: torch.Tensor, prompt: int) -> list[int]:
    """What was written behind a prompt of that many tokens, up to the end token."""
    row: list[int] = answer[1 if case.is_seq2seq else prompt :].tolist()
    return row[: row.index(2) + 1] if 2 in row else row


@pytest.mark.parametrize("case", WRITERS, ids=str)
def test_greedy_equals_the_reference(case: Case) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    ids, mask = prompts_of()
    together = model.generate(ids, attention_mask=mask, max_new_tokens=NEW)
    counted = hasattr(model.config, "readable_tokens")  # the reference numbers positions otherwise when it writes
    for row in range(len(ids)):
        prompt = ids[row, mask[row].bool()][None]
        if counted:
            wanted = prompt
            for _ in range(NEW):
                wanted = torch.cat([wanted, reference(wanted, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        else:
            wanted = reference.generate(prompt, max_new_tokens=NEW, do_sample=False)
        found = own_tokens(case, together[row], ids.shape[1])
        assert found == own_tokens(case, wanted[0], prompt.shape[1])
    if not counted:
        settings = {"max_new_tokens": NEW, "min_new_tokens": NEW, "repetition_penalty": 1.3}
        wanted = reference.generate(ids[:1], do_sample=False, **settings)
        assert model.generate(ids[:1], **settings).tolist() == wanted.tolist()


@pytest.mark.parametrize("case", WRITERS, ids=str)
def test_alone_as_in_a_batch_and_without_a_cache(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of()
    settings = {"max_new_tokens": NEW, "no_repeat_ngram_size": 2, "repetition_penalty": 1.2}
    together = model.generate(ids, attention_mask=mask, **settings)
    sampled = model.generate(ids, attention_mask=mask, do_sample=True, seed=11, **settings)
    start = 1 if case.is_seq2seq else ids.shape[1]
    for row in range(len(ids)):
        prompt = ids[row, mask[row].bool()][None]
        begin = 1 if case.is_seq2seq else prompt.shape[1]
        for batch, extra in ((together, {}), (sampled, {"do_sample": True, "seed": 11})):
            alone = model.generate(prompt, **settings, **extra)[0, begin:].tolist()
            in_batch = batch[row, start:].tolist()
            assert in_batch[: len(alone)] == alone
            assert set(in_batch[len(alone) :]) <= {PAD}
    if not case.is_seq2seq:
        assert model.generate(ids, attention_mask=mask, use_cache=False, **settings).tolist() == together.tolist()


@pytest.mark.parametrize("case", WRITERS, ids=str)
def test_step_by_step_as_at_once(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of()
    whole = model.generate(
        ids, attention_mask=mask, max_new_tokens=NEW, return_dict_in_generate=True, output_scores=True,
        output_logits=True, num_return_sequences=2, do_sample=True, seed=[1, 2, 3, 4],
    )  # fmt: skip
    rows: dict[int, list[int]] = {}
    for step in model.stream(
        ids, attention_mask=mask, max_new_tokens=NEW, num_return_sequences=2, do_sample=True, seed=[1, 2, 3, 4]
    ):
        for row, tokens in step.tokens.items():
            rows.setdefault(row, []).extend(tokens)
    new = whole.sequences[:, 1 if case.is_seq2seq else ids.shape[1] :].tolist()
    assert [row[: len(rows[number])] for number, row in enumerate(new)] == [rows[number] for number in range(8)]
    assert len(whole.scores) == len(whole.logits) == max(map(len, rows.values()))
    assert whole.scores[0].shape == (8, whole.logits[0].shape[-1])


def test_stopping_the_reader_stops_the_work() -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    calls = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for number, _ in enumerate(model.stream([[5, 6, 7]], max_new_tokens=30, min_new_tokens=30)):
        if number == 3:
            break
    assert len(calls) == 4


def test_prompts_in_every_form() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    wanted = model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4)
    assert model.generate([[5, 6, 7]], max_new_tokens=4).tolist() == wanted.tolist()
    assert model.generate([5, 6, 7], max_new_tokens=4).tolist() == wanted.tolist()
    assert model.generate(input_ids=torch.tensor([[5, 6, 7]]), max_length=7).tolist() == wanted.tolist()
    mixed = model.generate([[5, 6, 7], [9]], max_new_tokens=4)
    assert mixed[0].tolist() == wanted[0].tolist()
    assert mixed[1, :3].tolist() == [PAD, PAD, 9]
    guessed = model.generate(torch.tensor([[PAD, PAD, 9]]), max_new_tokens=4)
    assert guessed[0].tolist() == mixed[1].tolist()
    vectors = model.get_input_embeddings()(torch.tensor([[5, 6, 7]]))
    assert model.generate(inputs_embeds=vectors, max_new_tokens=4).tolist() == wanted[:, 3:].tolist()
    started = model.generate(max_new_tokens=3)
    assert started[0, 0].item() == 3
    cache = model(torch.tensor([[5, 6]]), use_cache=True).past_key_values
    assert model.generate([[5, 6, 7]], past_key_values=cache, max_new_tokens=4).tolist() == wanted.tolist()


def test_states_and_weights_of_each_step() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    reference = reference_of(Case("gpt2", "ForCausalLM", 0), model)
    reference.set_attn_implementation("eager")
    settings = {"max_new_tokens": 3, "min_new_tokens": 3, "return_dict_in_generate": True}
    asked = {"output_hidden_states": True, "output_attentions": True}
    ours = model.generate(torch.tensor([[5, 6, 7]]), **settings, **asked)
    theirs = reference.generate(torch.tensor([[5, 6, 7]]), do_sample=False, **settings, **asked)
    for name in ("hidden_states", "attentions"):
        assert len(ours[name]) == len(theirs[name])
        for mine, other in zip(ours[name], theirs[name], strict=True):
            for layer, wanted in zip(mine, other, strict=True):
                torch.testing.assert_close(layer, wanted, rtol=1e-5, atol=1e-5)


def test_what_cannot_be_written_is_refused_before_any_work() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    model.register_forward_hook(lambda *_: pytest.fail("the model was run"))
    with pytest.raises(InputError, match="prompt 0: 39 tokens and 5 new ones, the model reads at most 40"):
        model.generate([[5] * 39], max_new_tokens=5)
    with pytest.raises(InputError, match="row 1 holds no token"):
        model.generate(torch.tensor([[5, 6], [5, 6]]), attention_mask=torch.tensor([[1, 1], [0, 0]]))
    with pytest.raises(UnknownArgumentError, match="'max_new_token'; did you mean 'max_new_tokens'"):
        model.generate([[5]], max_new_token=5)
    with pytest.raises(InputError, match="got 2 numbers for 1 prompts"):
        model.generate([[5]], max_new_tokens=5, do_sample=True, seed=[1, 2])
    with pytest.raises(InputError, match="max_new_tokens instead"):
        model.generate([[5, 6, 7]], max_length=3)
    with pytest.raises(InputError, match="AutoModelForCausalLM"):
        model.transformer.generate([[5]])


def test_damaged_weights_are_named() -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    broken = copy.deepcopy(model)
    with torch.no_grad():
        broken.model.norm.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="its scores are NaN"):
        broken.generate([[5, 6]], max_new_tokens=3)


def test_draws_follow_the_probabilities(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)
    model = model_of(Case("llama", "ForCausalLM", 0))
    ids = torch.tensor([[5, 6, 7]])
    exact = (model(ids).logits[0, -1] / 2.0).softmax(-1)
    count = 4000
    drawn = model.generate(
        ids, max_new_tokens=1, do_sample=True, temperature=2.0, top_k=0, num_return_sequences=count, seed=0
    )[:, -1]
    found = torch.bincount(drawn, minlength=len(exact)) / count
    spread = (exact * (1 - exact) / count).sqrt()
    assert ((found - exact).abs() <= 5 * spread + 1e-3).all()


def test_processors_know_whose_row_they_change() -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    ids, mask = prompts_of()

    def only(prompt: int, text: torch.Tensor) -> list[int]:
        return [2] if len(text) > 9 + prompt % 2 else [20 + prompt, 30 + prompt]

    for settings in ({}, {"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True, "seed": 1}):
        copies = settings.get("num_return_sequences", 1)
        answer = model.generate(
            ids, attention_mask=mask, prefix_allowed_tokens_fn=only, max_new_tokens=8, eos_token_id=[2], **settings
        )
        for row, new in enumerate(answer[:, ids.shape[1] :].tolist()):
            assert set(new) <= {20 + row // copies, 30 + row // copies, 2, PAD}


def test_a_prompt_longer_than_the_model_reads_is_refused_and_a_long_answer_announced(caplog: Any) -> None:
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=60, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=8, eos_token_id=None,
        )
    )  # fmt: skip
    with pytest.raises(InputError, match="prompt 1: 9 tokens and 2 new ones, the model reads at most 8"):
        model.generate([[3], [5] * 9], max_new_tokens=2)
    assert not caplog.records
    model.generate([[5] * 8], max_new_tokens=2)
    assert "made to read 8" in caplog.text
