"""The same random numbers again."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

import pellucid


def test_all_random_numbers_start_anew() -> None:
    def numbers() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    pellucid.set_seed(7)
    first = numbers()
    assert numbers() != first
    pellucid.set_seed(7)
    assert numbers() == first
    with pytest.raises(pellucid.InputError, match="seed: got -1"):
        pellucid.set_seed(-1)
    with pytest.raises(pellucid.UnknownArgumentError, match="did you mean 'deterministic'"):
        pellucid.set_seed(1, determinstic=True)
