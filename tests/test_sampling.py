"""Which rows make which batch: budgets of tokens, rows sorted by length, steps cut evenly, going on in the middle."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pellucid import TrainingArguments
from pellucid.errors import InputError
from pellucid.training.sampling import Order

DRAWN = random.Random(0)
LENGTHS = [DRAWN.randint(1, 40) for _ in range(1003)]


def order(tmp_path: Path, lengths: list[int] = LENGTHS, **settings: Any) -> Order:
    return Order(len(lengths), TrainingArguments(str(tmp_path), use_cpu=True, **settings), lambda: lengths)


def spread(batch: list[int]) -> int:
    lengths = [LENGTHS[row] for row in batch]
    return max(lengths) - min(lengths)


@pytest.mark.parametrize("strategy", ["random", "sequential", "group_by_length", "batch_rebalance"])
@pytest.mark.parametrize("budget", [None, 100])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_every_row_is_read_once_and_a_run_can_go_on_after_any_step(
    tmp_path: Path, strategy: str, budget: int | None, accumulation: int
) -> None:
    if budget and strategy == "batch_rebalance":
        return
    settings = {"train_sampling_strategy": strategy, "gradient_accumulation_steps": accumulation}
    made = order(tmp_path, **settings, **({"tokens_per_batch": budget} if budget else {}))
    for epoch in (0, 3):
        batches = made.batches(epoch)
        assert sorted(row for batch in batches for row in batch) == list(range(1003))
        for steps in (1, 7, len(batches) // accumulation):
            done = steps * accumulation
            assert made.batches(epoch, sum(map(len, batches[:done]))) == batches[done:]
        if budget:
            assert all(sum(LENGTHS[row] for row in batch) <= budget for batch in batches)
    assert (made.batches(0) == made.batches(1)) == (strategy == "sequential")


def test_a_budget_with_similar_lengths_comes_shuffled(tmp_path: Path) -> None:
    batches = order(tmp_path, tokens_per_batch=100, train_sampling_strategy="group_by_length").batches(0)
    loose = order(tmp_path, tokens_per_batch=100).batches(0)
    assert sum(map(spread, batches)) * 5 < sum(map(spread, loose))
    longest = [max(LENGTHS[row] for row in batch) for batch in batches]
    falls = sum(first > second for first, second in pairwise(longest))
    assert 0.3 < falls / len(longest) < 0.7  # neither from long to short nor the other way


def test_rows_that_are_grouped_by_length_come_longest_first_in_at_least_four_windows(tmp_path: Path) -> None:
    batches = order(tmp_path, train_sampling_strategy="group_by_length", per_device_train_batch_size=8).batches(0)
    longest = [max(LENGTHS[row] for row in batch) for batch in batches]
    assert longest[0] == 40 and LENGTHS[batches[0][0]] == 40
    rises = sum(second > first for first, second in pairwise(longest))
    assert 3 <= rises <= 5


def test_the_batches_of_a_step_are_rebalanced(tmp_path: Path) -> None:
    settings = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}
    plain = order(tmp_path, **settings).batches(2)
    even = order(tmp_path, **settings, train_sampling_strategy="batch_rebalance").batches(2)
    assert -(-len(even) // 4) == -(-len(plain) // 4)  # as many steps
    for start in range(0, len(plain), 4):
        before, after = plain[start : start + 4], even[start : start + 4]
        assert sorted(row for batch in before for row in batch) == sorted(row for batch in after for row in batch)
        assert all(after)
        tokens = [sum(LENGTHS[row] for row in batch) for batch in after]
        if len(before) == 4 and len(before[-1]) == 8:
            assert max(tokens) - min(tokens) <= 40  # one row more or less


@pytest.mark.parametrize("lengths", [[5], [0, 0, 0], [100, 1, 1, 1], [1, 1, 1, 100], [7] * 9])
def test_rebalancing_leaves_no_batch_empty(tmp_path: Path, lengths: list[int]) -> None:
    settings = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    batches = order(tmp_path, lengths, **settings, train_sampling_strategy="batch_rebalance").batches(0)
    assert all(batches) and sorted(row for batch in batches for row in batch) == list(range(len(lengths)))
    plain = order(tmp_path, lengths, **settings).batches(0)
    assert -(-len(batches) // 4) == -(-len(plain) // 4)


def test_rebalancing_and_a_budget_exclude_each_other(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="tokens_per_batch: got 100 and train_sampling_strategy='batch_rebalance'"):
        TrainingArguments(str(tmp_path), tokens_per_batch=100, train_sampling_strategy="batch_rebalance")
