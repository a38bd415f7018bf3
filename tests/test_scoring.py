"""Scores of texts: the reference's log-probabilities, whatever is packed with what, and read at once or in windows."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

import pellucid
from architectures import Case
from pellucid import InputError, perplexity, score
from small_tokenizers import byte_level
from test_generate import WRITERS, model_of, reference_of

DECODERS = [case for case in WRITERS if not case.is_seq2seq]


def texts_of(count: int, longest: int = 12, seed: int = 0) -> list[list[int]]:
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(2, longest + 1, (count,), generator=generator).tolist()
    return [torch.randint(4, 99, (size,), generator=generator).tolist() for size in sizes]


def exact(model: Any, ids: list[int]) -> torch.Tensor:
    """`[S, V]` log-probabilities of the next word after each token."""
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0].log_softmax(-1)


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_each_token_as_in_the_reference(case: Case) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    texts = texts_of(9)
    for text, found in zip(texts, score(model, texts), strict=True):
        wanted = exact(reference, text)[range(len(text) - 1), text[1:]]
        assert found.tokens == text[1:]
        torch.testing.assert_close(torch.tensor(found.logprobs), wanted, rtol=1e-5, atol=1e-5)
        assert found.sum == pytest.approx(wanted.sum().item(), rel=1e-5)
        assert found.perplexity == pytest.approx(math.exp(-wanted.mean().item()), rel=1e-5)
    loss = [-value for found in score(model, texts) for value in found.logprobs]
    assert perplexity(model, texts) == pytest.approx(math.exp(sum(loss) / len(loss)))


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_continuations_of_one_prompt(case: Case) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    prompt, rows = [5, 6, 7, 8], [*texts_of(5, 9), [11]]
    for row, found in zip(rows, score(model, rows, prompt=prompt), strict=True):
        wanted = exact(reference, prompt + row)[range(3, 3 + len(row)), row]
        assert found.tokens == row
        torch.testing.assert_close(torch.tensor(found.logprobs), wanted, rtol=1e-5, atol=1e-5)
    alone = score(model, rows[:1], prompt=prompt)[0]
    assert alone.sum == pytest.approx(score(model, rows, prompt=prompt)[0].sum, abs=1e-4)


@pytest.mark.parametrize("case", [case for case in WRITERS if case.is_seq2seq], ids=str)
def test_answers_of_an_encoder_decoder(case: Case) -> None:
    model = model_of(case)
    reference = reference_of(case, model)
    source, rows = [5, 6, 7, 8, 9], [*texts_of(5, 9), [11]]
    for row, found in zip(rows, score(model, rows, prompt=source), strict=True):
        start = torch.tensor([[3, *row[:-1]]])
        with torch.no_grad():
            logits = reference(torch.tensor([source]), decoder_input_ids=start).logits[0].log_softmax(-1)
        torch.testing.assert_close(torch.tensor(found.logprobs), logits[range(len(row)), row], rtol=1e-5, atol=1e-5)
    with pytest.raises(InputError, match="needs a prompt"):
        score(model, rows)


def test_a_prompt_is_read_once() -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, args, given: read.append(given["packed"].input_ids.numel()), with_kwargs=True
    )
    score(model, [[5, 6], [7, 8, 9], [10]], prompt=list(range(20, 40)))
    assert sum(read) == 20 + 1 + 2  # the last token of each text is scored and not read


@pytest.mark.parametrize(("window", "stride"), [(8, None), (8, 1), (8, 7), (5, 3), (2, 1), (30, 4), (31, 4)])
def test_windows_score_each_token_once_with_what_fits_before_it(window: int, stride: int | None) -> None:
    model = model_of(Case("llama", "ForCausalLM", 0))
    text = texts_of(1, 30, seed=4)[0] + list(range(4, 30))
    text = text[:30]
    found = score(model, [text, text[:3]], window=window, stride=stride)[0]
    step = max(window // 2, 1) if stride is None else stride
    wanted, end = [], window
    for place in range(1, len(text)):
        while place >= end:
            end = min(end + step, len(text))
        start = max(end - window, 0)
        wanted.append(exact(model, text[start:place])[-1, text[place]].item())
    assert found.tokens == text[1:]
    assert found.logprobs == pytest.approx(wanted, abs=1e-5)


def test_a_continuation_behind_a_prompt_longer_than_the_window() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))  # which has 40 positions
    prompt, rows = [7, 8, 9] * 15, [[11, 12], [13]]
    for row, found in zip(rows, score(model, rows, prompt=prompt), strict=True):
        whole = (prompt + row)[-40:]
        wanted = exact(model, whole)[range(39 - len(row), 39), row].tolist()
        assert found.logprobs == pytest.approx(wanted, abs=1e-5)


def test_texts_are_joined_before_they_become_ids() -> None:
    tokenizer = byte_level()
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    model.resize_token_embeddings(len(tokenizer))
    prompt, rows = "the quick", [" brown fox", "er dog", " lazy"]
    for row, found in zip(rows, score(model, rows, tokenizer, prompt=prompt), strict=True):
        whole, before = tokenizer(prompt + row)["input_ids"], tokenizer(prompt)["input_ids"]
        same = next((n for n, pair in enumerate(zip(whole, before, strict=False)) if pair[0] != pair[1]), len(before))
        assert found.tokens == whole[same:]
    alone = score(model, "the quick brown", tokenizer)
    assert len(alone) == 1
    assert pellucid.score is score


def test_what_cannot_be_scored_is_refused() -> None:
    model = model_of(Case("gpt2", "ForCausalLM", 0))
    with pytest.raises(InputError, match="wanted at least one token"):
        score(model, [[5, 6], []])
    with pytest.raises(InputError, match="without a tokenizer"):
        score(model, ["a text"])
    with pytest.raises(InputError, match="both texts or both ids"):
        score(model, ["a text"], prompt=[5])
    with pytest.raises(InputError, match="the model reads at most 40"):
        score(model, [[5, 6]], window=41)
    with pytest.raises(InputError, match="wanted 1 to 7"):
        score(model, [[5, 6]], window=8, stride=8)
    assert math.isnan(score(model, [[5]])[0].mean)
    with torch.no_grad():
        model.transformer.ln_f.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="scores are NaN"):
        score(model, [[5, 6]])
