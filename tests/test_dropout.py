"""Dropout of the library's own: the right share, nothing else changed, and the same again from the same seed."""

from __future__ import annotations

import pytest
import torch

from pellucid import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.003])
def test_the_share_that_was_asked_for_is_dropped_and_the_rest_scaled(rate: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    x = torch.ones(999, 1001, dtype=dtype)
    found = ops.dropped(x, rate)
    kept = found != 0
    assert float(kept.logical_not().float().mean()) == pytest.approx(rate, rel=0.05)
    assert float(found[kept].float().mean()) == pytest.approx(1 / (1 - rate), rel=0.005)
    rows, columns = kept.float().mean(0).std(), kept.float().mean(1).std()
    expected = (rate * (1 - rate) / 1000) ** 0.5  # of independent draws
    assert float(rows) == pytest.approx(expected, rel=0.2)
    assert float(columns) == pytest.approx(expected, rel=0.2)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(1)
    kept = (ops.dropped(torch.ones(1_000_001), 0.5) != 0).float() - 0.5
    for apart in range(1, 9):
        assert abs(float((kept[apart:] * kept[:-apart]).mean())) < 0.002


def test_gradients_go_where_numbers_stayed() -> None:
    torch.manual_seed(2)
    x = torch.randn(7, 5, 3, requires_grad=True)
    found = ops.dropped(x, 0.4)
    found.sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(found, x * x.grad)
    assert ((x.grad == 0) == (found == 0)).all()


def test_a_seed_decides_and_nothing_is_dropped_outside_of_training() -> None:
    layer, x = ops.Dropout(0.3), torch.randn(11, 13)
    torch.manual_seed(3)
    first = layer(x)
    torch.manual_seed(3)
    assert torch.equal(layer(x), first)
    assert torch.equal(layer.eval()(x), x)
    assert torch.equal(ops.dropped(x, 0.0), x)
    assert not ops.dropped(x, 1.0).any()
    assert ops.dropped(x[:0], 0.5).shape == (0, 13)
