"""Assisted decoding, contrastive search, guidance, and contrasted layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from architectures import Case
from pellucid import InputError
from pellucid.generation.assisted import LookupDrafter
from pellucid.generation.dola import contrast, layers_of
from test_generate import NEW, WRITERS, model_of, prompts_of

STEMS = ["gpt2", "llama", "mistral", "bart", "opt", "gemma2"]
SOME = [case for case in WRITERS if case.stem in STEMS]
DECODERS = [case for case in SOME if not case.is_seq2seq]


def smaller(case: Case) -> Any:
    """Another model with the same vocabulary, which often guesses right: the same weights, slightly changed."""
    model = model_of(case)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.01 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    return model


@pytest.mark.parametrize(
    "settings", [{}, {"do_sample": True, "seed": 3, "num_return_sequences": 2}], ids=["greedy", "drawn"]
)
@pytest.mark.parametrize("case", SOME, ids=str)
def test_assisted_writes_what_the_plain_loop_writes(case: Case, settings: dict[str, Any]) -> None:
    model, assistant = model_of(case), smaller(case)
    ids, mask = prompts_of()
    settings = {**settings, "attention_mask": mask, "max_new_tokens": 2 * NEW, "repetition_penalty": 1.1}
    wanted = model.generate(ids, **settings).tolist()
    calls: list[int] = []
    model.register_forward_hook(lambda *_: calls.append(1))
    for schedule in ("constant", "heuristic"):
        given = {"num_assistant_tokens": 4, "num_assistant_tokens_schedule": schedule}
        assert model.generate(ids, assistant_model=assistant, **given, **settings).tolist() == wanted
    assert "seed" in settings or len(calls) < 2 * 2 * NEW
    assert model.generate(ids, prompt_lookup_num_tokens=3, **settings).tolist() == wanted
    steps = list(model.stream(ids, assistant_model=assistant, **settings))
    assert max(len(tokens) for step in steps for tokens in step.tokens.values()) > 1


def test_drafts() -> None:
    drafter = LookupDrafter(3, 2)
    assert drafter.draft([[1, 2, 3, 4, 1, 2], [5, 6], [7, 7]], [9, 9, 9]) == [[3, 4, 1], [], [7]]
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    other = Case("gpt2", "ForCausalLM", 0).model(vocab_size=101)
    with pytest.raises(InputError, match="a vocabulary of 101, wanted the model's own, 99"):
        model.generate([[5, 6]], assistant_model=other, max_new_tokens=3)


def to_end(text: list[int]) -> list[int]:
    """Up to the token that is the end here."""
    return text[: text.index(98) + 1] if 98 in text else text


def by_hand(model: Any, prompt: list[int], alpha: float, count: int, steps: int) -> list[int]:
    """Contrastive search by its definition, reading everything anew each time."""
    text = list(prompt)
    for _ in range(steps):
        whole = model(torch.tensor([text]), output_hidden_states=True, use_cache=False)
        chances, candidates = whole.logits[0, -1].softmax(-1).topk(count)
        said = whole.hidden_states[-1][0]
        values = []
        for chance, token in zip(chances, candidates.tolist(), strict=True):
            state = model(torch.tensor([[*text, token]]), output_hidden_states=True, use_cache=False).hidden_states[-1][
                0, -1
            ]
            likeness = torch.cosine_similarity(said, state[None], dim=-1).max()
            values.append((1 - alpha) * chance - alpha * likeness)
        text.append(candidates[torch.stack(values).argmax()].item())
    return text


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_contrastive_search_follows_its_definition(case: Case) -> None:
    model = model_of(case)
    ids, mask = prompts_of(rows=2)
    with torch.no_grad():
        wanted = [by_hand(model, ids[row, mask[row].bool()].tolist(), 0.6, 4, 6) for row in range(2)]
    found = model.generate(
        ids, attention_mask=mask, penalty_alpha=0.6, top_k=4, max_new_tokens=6, min_new_tokens=0, eos_token_id=[98]
    )
    for row in range(2):
        real = ids[row, mask[row].bool()].tolist()
        assert to_end([*real, *found[row, ids.shape[1] :].tolist()]) == to_end(wanted[row])


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_guidance_follows_its_definition(case: Case) -> None:
    model = model_of(case)
    prompt, negative = torch.tensor([[5, 6, 7, 8]]), torch.tensor([[9, 10]])
    found = model.generate(
        prompt, guidance_scale=1.5, negative_prompt_ids=negative, max_new_tokens=6, eos_token_id=[98]
    )[0].tolist()
    for with_negative in (True, False):
        text, other = prompt, negative if with_negative else prompt[:, -1:]
        for _ in range(6):
            plain = model(text, use_cache=False).logits[:, -1].log_softmax(-1)
            empty = model(other, use_cache=False).logits[:, -1].log_softmax(-1)
            token = (empty + 1.5 * (plain - empty)).argmax(-1, keepdim=True)
            text, other = torch.cat([text, token], 1), torch.cat([other, token], 1)
        if with_negative:
            assert found == to_end(text[0].tolist())
        else:
            alone = model.generate(prompt, guidance_scale=1.5, max_new_tokens=6, eos_token_id=[98])
            assert alone[0].tolist() == to_end(text[0].tolist())


def test_contrasted_layers() -> None:
    assert layers_of("low", 6, tied=False) == [0, 2]
    assert layers_of("low", 6, tied=True) == [2]
    assert layers_of("high", 6, tied=False) == [3, 5]
    with pytest.raises(InputError, match="dola_layers: got 'middle'"):
        layers_of("middle", 6, tied=False)
    last, before = torch.randn(2, 7), torch.randn(3, 2, 7)
    both = contrast(last, before)
    alone = torch.cat([contrast(last[:1], before[:, :1]), contrast(last[1:], before[:, 1:])])
    torch.testing.assert_close(both, alone)
    kept = last.log_softmax(-1) >= last.log_softmax(-1).max(-1, keepdim=True).values + torch.tensor(0.1).log()
    assert (both.isneginf() == ~kept).all()


@pytest.mark.parametrize("case", [case for case in DECODERS if case.stem in ("gpt2", "llama")], ids=str)
def test_contrasted_layers_follow_their_definition(case: Case) -> None:
    model = model_of(case)
    text = torch.tensor([[5, 6, 7, 8]])
    found = model.generate(text, dola_layers=[1], max_new_tokens=5, eos_token_id=[98])
    for _ in range(5):
        answer = model(text, output_hidden_states=True, use_cache=False)
        final = answer.logits[:, -1].log_softmax(-1)
        earlier = model.lm_head(answer.hidden_states[1][:, -1]).log_softmax(-1)
        floor = final.max(-1, keepdim=True).values + torch.tensor(0.1).log()
        scores = (final - earlier).masked_fill(final < floor, float("-inf"))
        text = torch.cat([text, scores.argmax(-1, keepdim=True)], 1)
    assert found[0].tolist() == to_end(text[0].tolist())
