"""What a watermark of written text is made with; the computation is in `watermark`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from pellucid.config_values import mismatch
from pellucid.errors import ConfigError, strict
from pellucid.files import quoted


class WatermarkingConfig:
    """A watermark that favours a random "green" part of the vocabulary, anew after each token (Kirchenbauer 2023).

    Args:
        greenlist_ratio: share of the vocabulary that is green.
        bias: what is added to the scores of green tokens.
        hashing_key: secret number from which, with the text so far, the green tokens follow.
        seeding_scheme: `"lefthash"` draws them from the last token, `"selfhash"` from `context_width` tokens, among
            them the one that is to be chosen.
        context_width: how many tokens `"selfhash"` looks at.

    Raises:
        ConfigError: for a value that cannot be used.
    """

    @strict
    def __init__(
        self,
        greenlist_ratio: float = 0.25,
        bias: float = 2.0,
        hashing_key: int = 15485863,
        seeding_scheme: str = "lefthash",
        context_width: int = 1,
    ) -> None:
        self.greenlist_ratio = greenlist_ratio
        self.bias = bias
        self.hashing_key = hashing_key
        self.seeding_scheme = seeding_scheme
        self.context_width = context_width
        self.validate()

    def validate(self) -> None:
        """Raise `ConfigError` for a value of the wrong kind or outside of its range."""
        wanted: dict[str, tuple[type, Callable[[Any], bool], str]] = {
            "greenlist_ratio": (float, lambda value: 0 < value < 1, "a number between 0 and 1"),
            "bias": (float, lambda value: abs(value) != float("inf"), "a number"),
            "hashing_key": (int, lambda value: True, "a whole number"),
            "seeding_scheme": (str, lambda value: value in ("lefthash", "selfhash"), "'lefthash' or 'selfhash'"),
            "context_width": (int, lambda value: value >= 1, "a whole number from 1"),
        }
        for name, (kind, fits, text) in wanted.items():
            value = getattr(self, name)
            if mismatch(value, kind) or not fits(value):
                raise ConfigError(f"WatermarkingConfig: {name}: got {quoted(value)}, wanted {text}")

    @classmethod
    @strict
    def from_dict(cls, config_dict: Mapping[str, Any]) -> Self:
        """Build from the names and values of a file."""
        known = cls().to_dict()
        if unknown := {str(key) for key in config_dict} - known.keys():
            raise ConfigError(f"{cls.__name__}: got {quoted(min(unknown))}, wanted only {', '.join(known)}")
        return cls(**config_dict)

    def to_dict(self) -> dict[str, Any]:
        """Names and values, ready for JSON."""
        return dict(vars(self))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WatermarkingConfig) and self.to_dict() == other.to_dict()

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __repr__(self) -> str:
        return f"WatermarkingConfig({', '.join(f'{name}={value!r}' for name, value in self.to_dict().items())})"
