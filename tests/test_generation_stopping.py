"""Stopping criteria: strings that begin and end within tokens, against a check of the whole text after each token."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers

import small_tokenizers
from pellucid import InputError
from pellucid.generation.config import GenerationConfig
from pellucid.generation.stopping import (
    ConfidenceCriteria,
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StoppingCriteria,
    StoppingCriteriaList,
    StopStringCriteria,
    build_stopping,
)

TOKENIZERS = [
    small_tokenizers.byte_level,
    small_tokenizers.byte_fallback_bpe,
    small_tokenizers.byte_fallback_unigram,
    small_tokenizers.pieces,
    small_tokenizers.word_pieces,
    small_tokenizers.word_ends,
    small_tokenizers.characters,
]


def completes(tokenizer: Any, ids: list[int], strings: list[str]) -> bool:
    """Whether the whole text holds a string that reaches beyond what was there before the last token."""
    before, text = tokenizer.decode(ids[:-1]), tokenizer.decode(ids)
    same = 0
    while same < min(len(before), len(text)) and before[same] == text[same]:
        same += 1
    for string in strings:
        place = text.find(string)
        while place >= 0:
            if place + len(string) > same:
                return True
            place = text.find(string, place + 1)
    return False


@pytest.mark.parametrize("make", TOKENIZERS, ids=lambda make: make.__name__)
def test_stop_strings_against_the_whole_text(make: Callable[[], Any]) -> None:
    tokenizer, chance = make(), random.Random(make.__name__)
    size, stopped, steps = len(tokenizer), 0, 0
    sentences = [tokenizer.encode(text, add_special_tokens=False) for text in small_tokenizers.SENTENCES]
    for _ in range(40):
        ids: list[int] = []
        while len(ids) < 50:  # random tokens, and parts of real texts
            ids += (
                [chance.randrange(size)] if chance.random() < 0.5 else chance.choice(sentences)[chance.randrange(5) :]
            )
        text = tokenizer.decode(ids)
        strings = []
        for _ in range(chance.randint(1, 3)):  # parts of the text, so that something is found
            begin = chance.randrange(max(len(text) - 12, 1))
            strings.append(text[begin : begin + chance.randint(1, 12)])
        try:
            criterion = StopStringCriteria(tokenizer, strings)
        except InputError:  # what random tokens say need not be what a text reads as
            continue
        if any("\N{REPLACEMENT CHARACTER}" in one for one in strings):
            continue
        for length in range(1, len(ids) + 1):
            found = bool(criterion(torch.tensor([ids[:length]]), None))
            assert found == completes(tokenizer, ids[:length], strings), (strings, ids[:length])
            stopped, steps = stopped + found, steps + 1
    assert stopped > 30 and steps > 600


def test_rows_stop_each_on_its_own() -> None:
    tokenizer = small_tokenizers.byte_level()
    texts = ["Hello world. The end", "Hello world, go on and on", "The end, The", "and so on: The ending"]
    rows = [tokenizer.encode(text) for text in texts]
    criterion = StopStringCriteria(tokenizer, ["The end"])
    assert [bool(criterion(torch.tensor([row]), None)) for row in rows] == [True, False, False, False]
    width = min(map(len, rows))
    together = criterion(torch.tensor([row[-width:] for row in rows]), None)
    assert together.tolist() == [True, False, False, False] and together.dtype == torch.bool


def test_what_stood_in_the_prompt_does_not_count() -> None:
    tokenizer = small_tokenizers.byte_level()
    prompt = tokenizer.encode("User: hello\nUser: again\nUs")
    criterion = StopStringCriteria(tokenizer, "\nUser:")
    assert not criterion(torch.tensor([prompt]), None).any()
    for text, wanted in (("er:", True), ("er", False), ("a", False)):
        ids = prompt + tokenizer.encode(text)
        found = [bool(criterion(torch.tensor([ids[:end]]), None)) for end in range(len(prompt) + 1, len(ids) + 1)]
        assert found == [False] * (len(found) - 1) + [wanted]


def test_each_step_costs_the_same_in_a_long_text() -> None:
    class Counting:
        def __init__(self) -> None:
            self.tokenizer, self.read = small_tokenizers.byte_level(), 0

        def __getattr__(self, name: str) -> Any:
            return getattr(self.tokenizer, name)

        def decode(self, ids: list[int], skip_special_tokens: bool = False) -> str:
            self.read += len(ids)
            return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special_tokens))

    tokenizer = Counting()
    criterion = StopStringCriteria(tokenizer, ["</tool>", "\n\n"])
    costs = []
    for length in (100, 5000):
        ids = (tokenizer.encode("The quick brown fox jumps over the lazy dog. ") * 600)[:length]
        tokenizer.read = 0
        assert not criterion(torch.tensor([ids]), None).any()
        costs.append(tokenizer.read)
    assert costs[1] <= costs[0] < 80


@pytest.mark.parametrize(
    ("strings", "wanted"),
    [
        ("", "none of them empty"),
        ([], "none of them empty"),
        (["a", ""], "none of them empty"),
        (["a", 3], "none of them empty"),
        (["STOP"], "got 'STOP', which this tokenizer never writes: it reads it as 'stop'"),
        (["end", "\n"], "never writes"),
    ],
)
def test_strings_that_can_never_be_written_are_refused(strings: Any, wanted: str) -> None:
    from pellucid import BertTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefghijklmnopqrstuvwxyz", "stop", "end", "."]
    words += [f"##{letter}" for letter in "abcdefghijklmnopqrstuvwxyz"]
    tokenizer = BertTokenizer(vocab={word: number for number, word in enumerate(words)})
    with pytest.raises(InputError, match=wanted) as caught:
        StopStringCriteria(tokenizer, strings)
    assert "\n" not in str(caught.value)
    for fine in ("stop", "[SEP]", "op. e", "d"):
        StopStringCriteria(tokenizer, fine)


def test_the_other_criteria_are_the_reference_s() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    for ours, theirs in (
        (MaxLengthCriteria(3), transformers.MaxLengthCriteria(3)),
        (MaxLengthCriteria(4), transformers.MaxLengthCriteria(4)),
        (MaxTimeCriteria(1.0, time.time() - 2), transformers.MaxTimeCriteria(1.0, time.time() - 2)),
        (MaxTimeCriteria(100.0), transformers.MaxTimeCriteria(100.0)),
        (EosTokenCriteria(6), transformers.EosTokenCriteria(6)),
        (EosTokenCriteria([3, 9]), transformers.EosTokenCriteria([3, 9])),
    ):
        assert torch.equal(ours(ids, None), theirs(ids, None))
    scores = torch.zeros(2, 8)
    scores[0, 3] = 5.0
    assert ConfidenceCriteria(0.5)(ids, scores).tolist() == [False, True]
    with pytest.raises(InputError, match="got no scores"):
        ConfidenceCriteria(0.5)(ids, None)
    assert MaxLengthCriteria(9, max_position_embeddings=3)(ids, None).all()


def test_a_list_of_criteria() -> None:
    ids = torch.tensor([[1, 2, 3], [4, 5, 6]])
    listed = StoppingCriteriaList([EosTokenCriteria(6), lambda ids, scores: False, MaxLengthCriteria(7)])
    assert listed(ids).tolist() == [False, True]
    assert listed.max_length == 7
    listed.append(lambda ids, scores: True)
    assert listed(ids, None).tolist() == [True, True]
    with pytest.raises(InputError, match="must define __call__"):
        type("Own", (StoppingCriteria,), {})()(ids, None)


def test_building_from_settings() -> None:
    tokenizer = small_tokenizers.byte_level()
    config = GenerationConfig(max_time=5.0, stop_strings=["world"], max_new_tokens=3, eos_token_id=1)
    listed = build_stopping(config, tokenizer, custom=[EosTokenCriteria(3)])
    assert [type(one).__name__ for one in listed] == ["MaxTimeCriteria", "StopStringCriteria", "EosTokenCriteria"]
    with pytest.raises(InputError, match="without a tokenizer"):
        build_stopping(config)
    with pytest.raises(InputError, match="got a str"):
        build_stopping(GenerationConfig(), custom=["stop"])  # type: ignore[list-item]
