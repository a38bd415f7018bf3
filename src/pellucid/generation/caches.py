"""Which cache the settings ask for."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from pellucid.cache import (
    Cache,
    EncoderDecoderCache,
    FixedMemory,
    GrowingMemory,
    Memory,
    SlidingMemory,
    StaticCache,
    windows_of,
)
from pellucid.cache_kinds import OffloadedMemory, QuantizedMemory
from pellucid.errors import InputError
from pellucid.files import quoted
from pellucid.generation.config_checks import FIXED_CACHES

if TYPE_CHECKING:
    from pellucid.config import PretrainedConfig
    from pellucid.generation.config import GenerationConfig
    from pellucid.model import PreTrainedModel


def make_cache(model: PreTrainedModel, config: GenerationConfig, max_length: int) -> Cache | None:
    """The cache that `cache_implementation` names; `None`: the usual one, which grows.

    Args:
        model: what is going to write.
        config: the settings.
        max_length: how many tokens a text can have in the end.

    Raises:
        InputError: a cache that is too small, of other than 8 bits, or not for one call.
    """
    kind = config.cache_implementation
    if kind == "paged":
        raise InputError("cache_implementation: got 'paged', which is for many texts that come and go: generate_many")
    if kind is None or kind == "dynamic":
        _check_settings(config, ())
        return None
    is_seq2seq = "packed_source" in type(model).forward.__annotations__
    fixed, offloaded, quantized = kind in FIXED_CACHES, kind.startswith("offloaded"), kind == "quantized"
    _check_settings(config, ("nbits", "backend") if quantized else ())
    places = config.max_cache_len or max_length
    if fixed and places < max_length:
        raise InputError(f"max_cache_len: got {places}, a text can have {max_length} tokens; set it to that or more")
    if fixed and not offloaded and not is_seq2seq:
        return StaticCache(model.config, max_cache_len=places)

    def inner(window: int | None) -> Memory:
        if window is not None and (not fixed or window <= places):
            return SlidingMemory(window)
        return FixedMemory(places) if fixed else GrowingMemory()

    wrap: Callable[[Memory], Memory] = OffloadedMemory if offloaded else QuantizedMemory if quantized else _as_it_is
    made = Cache(wrap(inner(window)) for window in windows_of(model.config) or [None] * _layers(model.config))
    return EncoderDecoderCache(self_attention_cache=made) if is_seq2seq else made


def _layers(config: PretrainedConfig) -> int:
    """How many layers remember, at most; a memory that no layer asks for takes no room."""
    return max(
        int(getattr(config, name, 0) or 0) for name in ("num_hidden_layers", "num_decoder_layers", "decoder_layers")
    )


def _as_it_is(memory: Memory) -> Memory:
    return memory


def _check_settings(config: GenerationConfig, known: tuple[str, ...]) -> None:
    """Refuse settings of a cache that nothing reads."""
    given: dict[str, Any] = config.cache_config or {}
    if unknown := [name for name in given if name not in known]:
        wanted = f"no more than {', '.join(known)}" if known else "none"
        raise InputError(f"cache_config: got {quoted(unknown[0])} for {config.cache_implementation!r}, wanted {wanted}")
    if given.get("nbits", 8) != 8:
        raise InputError(f"cache_config: got nbits {given['nbits']}, wanted 8")
