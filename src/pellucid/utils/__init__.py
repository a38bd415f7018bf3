"""What scripts import from `transformers.utils`, under the same names: `logging`, `check_min_version`."""

from __future__ import annotations

from pellucid.errors import InputError, strict
from pellucid.utils import logging

__all__ = ["FOLLOWS", "check_min_version", "logging"]

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
