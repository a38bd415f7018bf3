"""Collators that draw: the same draws whatever the batch, and what they hide."""

from __future__ import annotations

import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from collator_cases import Rows, Tokenizers, bert, labelled, make_rows, make_tokenizers, seq2seq_model
from pellucid import InputError
from pellucid.tokenizer import PreTrainedTokenizerFast
from pellucid.training.collators import DataCollatorWithPadding
from pellucid.training.denoising import DataCollatorForDenoising, DataCollatorForSpanCorruption
from pellucid.training.masking import (
    DataCollatorForLanguageModeling,
    DataCollatorForNextSentencePrediction,
    DataCollatorForReplacedTokenDetection,
)
from small_tokenizers import pieces
from token_cases import make_tokenizer


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory: pytest.TempPathFactory) -> Tokenizers:
    return make_tokenizers(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def rows(tokenizers: Tokenizers) -> Rows:
    return make_rows(tokenizers[0])


# ---------------------------------------------------------------------- draws


def drawn(collator: Any, features: list[Any], step: int, numbers: list[int] | None = None) -> list[Any]:
    """Ids and labels of each row after a step, packed."""
    batch = collator.at_step(step, numbers).pack(features)
    tokens = batch.get("packed_source", batch["packed"])
    ids = [row.tolist() for row in tokens.layout.split(tokens.input_ids)]
    labels = [row.tolist() for row in batch["packed"].layout.split(batch["labels"])]
    return list(zip(ids, labels, strict=True))


def every_drawing_collator(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    model, span_tokenizer = seq2seq_model(tokenizer), pieces()
    return {
        "mlm": DataCollatorForLanguageModeling(tokenizer, seed=1),
        "any word": DataCollatorForLanguageModeling(tokenizer, mask_replace_prob=0.2, random_replace_prob=0.8, seed=1),
        "replaced": DataCollatorForReplacedTokenDetection(tokenizer, generator=bert(tokenizer, "MaskedLM"), seed=1),
        "denoising": DataCollatorForDenoising(tokenizer, model, seed=1),
        "spans": DataCollatorForSpanCorruption(span_tokenizer, model, noise_density=0.3, seed=1),
    }


@pytest.mark.parametrize("name", ["mlm", "any word", "replaced", "denoising", "spans"])
def test_draws_depend_on_seed_step_and_number_of_the_row_alone(tokenizers: Tokenizers, rows: Rows, name: str) -> None:
    collator = every_drawing_collator(tokenizers[0])[name]
    features = [{"input_ids": row["input_ids"]} for row in rows]
    if name == "spans":
        features = [{"input_ids": list(range(4, 8 + at * 3))} for at in range(6)]
    first = drawn(collator, features, 3)
    collator.at_step(4)(features)
    assert drawn(collator, features, 3) == first  # whatever was drawn in between
    assert drawn(collator, features, 4) != first
    parts = drawn(collator, features[:2], 3) + drawn(collator, features[2:], 3, [2, 3, 4, 5])
    assert parts == first  # in two parts, whose widths are others
    assert drawn(collator, features[::-1], 3, [5, 4, 3, 2, 1, 0]) == first[::-1]
    collator.set_seed(2)
    assert drawn(collator, features, 3) != first
    collator.set_seed(1)
    assert drawn(collator, features, 3) == first
    padded = collator.at_step(3)(features, return_tensors="np")
    for at, (ids, labels) in enumerate(first):
        assert padded["input_ids"][at, : len(ids)].tolist() == ids
        assert padded["labels"][at][: len(labels)].tolist() == labels
        assert (padded["labels"][at][len(labels) :] == -100).all()


def test_running_draws_start_anew_with_the_seed(tokenizers: Tokenizers, rows: Rows) -> None:
    for collator in every_drawing_collator(tokenizers[0]).values():
        features = [{"input_ids": [*range(5, 29)]}] * 4
        first, second = collator(features), collator(features)
        assert not torch.equal(first["input_ids"], second["input_ids"])
        collator.set_seed(1)
        assert torch.equal(collator(features)["input_ids"], first["input_ids"])
        collator.set_seed(None)
        torch.manual_seed(8)
        free = collator(features)["input_ids"]
        torch.manual_seed(8)
        assert torch.equal(collator(features)["input_ids"], free)
        with pytest.raises(InputError, match="at_step: this collator has no seed"):
            collator.at_step(0)


@pytest.mark.parametrize("at_step", [False, True])
def test_shares_of_hidden_words_are_those_asked_for(tokenizers: Tokenizers, at_step: bool) -> None:
    tokenizer = tokenizers[0]
    ids = [[tokenizer.cls_token_id, *[20] * 400, tokenizer.sep_token_id]] * 50
    collator = DataCollatorForLanguageModeling(
        tokenizer, mlm_probability=0.2, mask_replace_prob=0.6, random_replace_prob=0.3, seed=1
    )
    batch = (collator.at_step(0) if at_step else collator)(ids)
    chosen = batch["labels"] != -100
    assert not chosen[:, [0, -1]].any() and (batch["labels"][chosen] == 20).all()
    assert chosen.float().sum() / 20000 == pytest.approx(0.2, abs=0.012)
    read = batch["input_ids"][chosen]
    assert (read == tokenizer.mask_token_id).float().mean() == pytest.approx(0.6, abs=0.03)
    assert (read == 20).float().mean() == pytest.approx(0.1, abs=0.02)
    others = read[(read != 20) & (read != tokenizer.mask_token_id)]
    assert others.min() < 20 and others.max() > len(tokenizer) - 20
    assert (batch["input_ids"][~chosen] == torch.tensor(ids)[~chosen]).all()


# ---------------------------------------------------------------------- what is hidden, and where


def test_spans_and_what_is_left_make_the_text() -> None:
    tokenizer = PreTrainedTokenizerFast.from_pretrained(_with_sentinels())
    sentinels = [tokenizer.convert_tokens_to_ids(f"<extra_id_{number}>") for number in range(60)]
    collator = DataCollatorForSpanCorruption(tokenizer, seed=3)
    sizes: list[int] = []
    for length in (2, 3, 7, 50, 333):
        text = [10 + i % 80 for i in range(length)]
        batch = collator([{"input_ids": [*text, tokenizer.eos_token_id]}])
        read, write = batch["input_ids"][0].tolist(), batch["labels"][0].tolist()
        assert read[-1] == write[-1] == tokenizer.eos_token_id
        spans: dict[int, list[int]] = {}
        for token in write[:-1]:
            if token in sentinels:
                spans[token] = []
            else:
                spans[[*spans][-1]].append(token)
        assert [*spans] == sentinels[: len(spans)] and spans.pop([*spans][-1]) == []
        rebuilt = [word for token in read[:-1] for word in spans.get(token, [token])]
        assert rebuilt == text and all(spans.values())
        hidden = sum(map(len, spans.values()))
        assert hidden == max(1, round(0.15 * length))
        assert len(spans) == max(1, round(hidden / 3))
        sizes += [len(span) for span in spans.values()]
    assert len(set(sizes)) > 3
    places = set()
    for _ in range(100):
        read = collator([{"input_ids": list(range(10, 20))}])["input_ids"][0].tolist()
        places.add(read.index(sentinels[0]))
    assert places == set(range(9))  # one span of two, anywhere


def _with_sentinels() -> Path:
    folder = Path(tempfile.mkdtemp())
    tokenizer = make_tokenizer("cased", limit=512)
    tokenizer.add_special_tokens({"eos_token": "[SEP]", "extra_special_tokens": [f"<extra_id_{i}>" for i in range(60)]})
    tokenizer.save_pretrained(folder)
    return folder


def test_gaps_hold_the_share_that_was_asked_for(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[0]
    mask = tokenizer.mask_token_id
    collator = DataCollatorForDenoising(tokenizer, permute_sentence_ratio=0.0, seed=2)
    gaps, lengths = 0, []
    for length in (1, 2, 10, 100, 100, 100):
        text = [tokenizer.cls_token_id, *range(5, 5 + length), tokenizer.sep_token_id]
        batch = collator([{"input_ids": text}])
        assert batch["labels"][0].tolist() == text
        read = batch["input_ids"][0].tolist()
        kept = [token for token in read if token != mask]
        assert kept == [token for token in text if token in kept] and [kept[0], kept[-1]] == [text[0], text[-1]]
        assert len(kept) == len(text) - int(np.ceil(0.3 * length))
        assert not any(left == right == mask for left, right in pairwise(read))
        gaps += read.count(mask)
        lengths += np.diff([text.index(token) for token in kept]).tolist()
    assert 60 / 3 < gaps < 60  # spans of 3 on average, some of none
    assert max(lengths) > 4


def test_sentences_are_permuted_whole(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[0]
    stop = tokenizer.convert_tokens_to_ids(".")
    assert stop != tokenizer.unk_token_id
    sentences = [[20 + 3 * n, 21 + 3 * n, stop] for n in range(6)]
    sentences[2].append(stop)
    text = [tokenizer.cls_token_id, *[token for part in sentences for token in part], 90, tokenizer.sep_token_id]
    collator = DataCollatorForDenoising(tokenizer, mask_ratio=0.0, seed=1)
    read = collator([{"input_ids": text}])["input_ids"][0].tolist()
    assert read != text and sorted(read) == sorted(text)
    assert [read[0], read[-1]] == [text[0], text[-1]]
    found = ",".join(map(str, read))
    for part in sentences:
        assert ",".join(map(str, part)) in found
    half = DataCollatorForDenoising(tokenizer, mask_ratio=0.0, permute_sentence_ratio=0.5, seed=1)
    batch = half([{"input_ids": text}] * 200)
    untouched = (batch["input_ids"] == batch["labels"]).all(dim=1).float().mean()
    assert 0.4 < untouched < 0.6


def test_replaced_words_are_the_generators_and_labels_say_where(tokenizers: Tokenizers, rows: Rows) -> None:
    tokenizer = tokenizers[0]
    generator = bert(tokenizer, "MaskedLM")
    with torch.no_grad():  # which proposes one word, or another one
        for parameter in generator.parameters():
            parameter.zero_()
        generator.cls.predictions.bias[[30, 31]] = 50.0
    collator = DataCollatorForReplacedTokenDetection(tokenizer, generator=generator, mlm_probability=0.5, seed=1)
    for features in (rows, labelled(rows, "special_tokens_mask", lambda _, length: [1] + [0] * (length - 2) + [1])):
        batch = collator(features)
        ids = DataCollatorWithPadding(tokenizer)(rows)
        changed = batch["input_ids"] != ids["input_ids"]
        assert set(batch["input_ids"][changed].tolist()) == {30, 31}
        assert torch.equal(batch["labels"], torch.where(ids["attention_mask"] == 1, changed.long(), -100))
        assert not changed[:, 0].any()
        assert generator.training
    twins = [{"input_ids": [30] * 200}]
    batch = collator(twins)
    assert 0.15 < (batch["labels"] == 1).float().mean() < 0.35  # half are chosen, and half of these stay by chance


def test_half_of_the_second_passages_follow(tokenizers: Tokenizers) -> None:
    tokenizer = tokenizers[0]
    documents = [{"sentences": [[10 + 6 * at + part] * 3 for part in range(6)]} for at in range(8)]
    collator = DataCollatorForNextSentencePrediction(tokenizer, mlm=False, max_length=15, seed=1)
    follows, starts = [], set()
    for step in range(60):
        batch = collator.at_step(step)(documents)
        assert batch["input_ids"].shape[1] <= 15
        for at in range(8):
            types, ids = batch["token_type_ids"][at], batch["input_ids"][at]
            real = (batch["attention_mask"][at] == 1) & (ids > 9)
            first, second = ids[real & (types == 0)], ids[real & (types == 1)]
            assert len(first) and len(second)
            own = (first.unique() >= 10 + 6 * at).all() and (first.unique() < 16 + 6 * at).all()
            assert own
            same_document = bool(10 + 6 * at <= int(second[0]) < 16 + 6 * at)
            assert same_document == (batch["labels"][at] == 0)
            if same_document:
                assert int(second[0]) == int(first[-1]) + 1
            follows.append(same_document)
            starts.add(int(first[0]) - 10 - 6 * at)
    assert 0.42 < np.mean(follows) < 0.58
    assert starts == {0, 1, 2, 3, 4}
    both = DataCollatorForNextSentencePrediction(tokenizer, max_length=15, seed=1).at_step(0)(documents)
    assert set(both["next_sentence_label"].tolist()) <= {0, 1} and (both["labels"] != -100).any()
    never = DataCollatorForNextSentencePrediction(tokenizer, mlm=False, max_length=15, random_next_prob=0.0)
    assert never([documents[0]])["labels"].tolist() == [0]
