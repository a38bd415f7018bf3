"""How much may be written behind a prompt: what the settings allow, and what the model can read."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pellucid import ops
from pellucid.errors import InputError

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig
    from pellucid.model import PreTrainedModel

logger = logging.getLogger("pellucid")


def new_tokens(config: GenerationConfig, prompt: int) -> int:
    """How many tokens may be written behind a prompt of that length.

    Raises:
        InputError: the prompt alone is as long as `max_length`.
    """
    if config.max_new_tokens is not None:
        return config.max_new_tokens
    assert config.max_length is not None  # one of the two is always set
    if config.max_length <= prompt:
        raise InputError(
            f"max_length: got {config.max_length} for a prompt of {prompt} tokens; set max_new_tokens instead"
        )
    return config.max_length - prompt


def window_of(model: PreTrainedModel) -> int | None:
    """How many tokens a model can read, when its positions end; rotary and relative ones do not."""
    return None if _rotary_kinds(model) else made_for(model)


def made_for(model: PreTrainedModel) -> int | None:
    """How many tokens a model was made to read, if its configuration says so."""
    places = getattr(model.config, "max_position_embeddings", None)
    return places if isinstance(places, int) and places > 0 else None


def _rotary_kinds(model: PreTrainedModel) -> set[str]:
    return {module.settings["rope_type"] for module in model.modules() if isinstance(module, ops.Rotary)}


def check_room(model: PreTrainedModel, prompt: int, limit: int, name: str = "prompt") -> None:
    """Refuse, before any work, a prompt longer than the model reads, and a text that would outgrow its positions.

    Rotary positions do not end, so a text may become longer than the model was made to read: a warning says it. Those
    of `rope_type` `"dynamic"` are for any length.

    Args:
        model: what is going to write.
        prompt: tokens of the prompt.
        limit: how many may be written.
        name: of the prompt, for the message.

    Raises:
        InputError: naming both lengths.
    """
    window = made_for(model)
    if window is None or prompt + limit <= window or "dynamic" in (kinds := _rotary_kinds(model)):
        return
    if prompt > window or not kinds:
        raise InputError(
            f"{name}: {prompt} tokens and {limit} new ones, the model reads at most {window}; shorten the prompt "
            f"(truncation=True), or set max_new_tokens to at most {max(window - prompt, 0)}"
        )
    logger.warning(
        "%s: %d tokens and up to %d new ones, the model was made to read %d; what it writes after that is worth little",
        name, prompt, limit, window,
    )  # fmt: skip
