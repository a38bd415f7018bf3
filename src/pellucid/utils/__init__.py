"""What scripts import from `transformers.utils`, under the same names: `logging`, versions, what is installed."""

from __future__ import annotations

from importlib.util import find_spec

from pellucid.errors import InputError, strict
from pellucid.utils import logging

__all__ = [
    "FOLLOWS", "check_min_version", "is_accelerate_available", "is_datasets_available", "is_peft_available",
    "is_torch_available", "is_torch_cuda_available", "is_torch_xla_available", "logging",
]  # fmt: skip

FOLLOWS = "5.23.0"
"""The version of Transformers whose names and behaviour pellucid has."""


@strict
def check_min_version(min_version: str) -> None:
    """Stop a script that was written for a later interface than the one that is followed here.

    Args:
        min_version: of Transformers, such as `"5.0.0"` or `"5.24.0.dev0"`.

    Raises:
        InputError: it is later than `FOLLOWS`, or no version.
    """
    from packaging.version import InvalidVersion, Version

    try:
        wanted = Version(min_version)
    except InvalidVersion as error:
        raise InputError(f"min_version: got {min_version!r}, wanted a version such as '5.0.0'") from error
    if wanted.release > Version(FOLLOWS).release:
        raise InputError(
            f"min_version: the script asks for Transformers {min_version}, and pellucid follows {FOLLOWS}; take the "
            "script of an earlier release, or a later pellucid"
        )


# ---------------------------------------------------------------------- what is installed


def is_torch_available() -> bool:
    """Whether torch is installed, which it is."""
    return True


def is_torch_cuda_available() -> bool:
    """Whether torch has a GPU of NVIDIA to compute on."""
    import torch

    return torch.cuda.is_available()


def is_torch_xla_available() -> bool:
    """Whether the package for TPUs is installed."""
    return find_spec("torch_xla") is not None


def is_datasets_available() -> bool:
    """Whether the package `datasets` is installed."""
    return find_spec("datasets") is not None


def is_peft_available() -> bool:
    """Whether the package `peft` is installed; adapters need it not."""
    return find_spec("peft") is not None


def is_accelerate_available() -> bool:
    """Whether the package `accelerate` is installed; nothing here needs it."""
    return find_spec("accelerate") is not None
