"""The same random numbers again."""

from __future__ import annotations

import os
import random

from pellucid.errors import InputError, strict


@strict
def set_seed(seed: int, deterministic: bool = False) -> None:
    """Start the random numbers of Python, NumPy and torch anew, so that a script gives the same again.

    Args:
        seed: a whole number from 0.
        deterministic: also make torch use only algorithms that give the same bits each time; slower on GPUs.

    Raises:
        InputError: the seed is no whole number from 0.
    """
    if not isinstance(seed, int) or isinstance(seed, bool) or not 0 <= seed < 2**32:
        raise InputError(f"seed: got {seed!r}, wanted a whole number from 0 to {2**32 - 1}")
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    if deterministic:
        torch.use_deterministic_algorithms(True)


@strict
def enable_full_determinism(seed: int, warn_only: bool = False) -> None:
    """As `set_seed(seed, deterministic=True)`, and the libraries of GPUs too do everything in the same order.

    Args:
        seed: a whole number from 0.
        warn_only: warn where an operation has no form that gives the same bits, in place of an error.
    """
    import torch

    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a GPU is first used
    set_seed(seed)
    torch.use_deterministic_algorithms(True, warn_only=warn_only)
    torch.backends.cudnn.benchmark = False
