"""What the settings of `generate` may be: single values, and settings that contradict each other."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.generation.watermark_config import WatermarkingConfig

if TYPE_CHECKING:
    from pellucid.generation.config import GenerationConfig

DEFAULTS: dict[str, Any] = {
    "min_length": 0, "early_stopping": False, "do_sample": False, "num_beams": 1, "use_cache": True,
    "num_beam_groups": 1, "diversity_penalty": 0.0, "length_penalty": 1.0, "num_return_sequences": 1,
    "temperature": 1.0, "top_k": 50, "top_p": 1.0, "typical_p": 1.0, "epsilon_cutoff": 0.0, "eta_cutoff": 0.0,
    "repetition_penalty": 1.0, "encoder_repetition_penalty": 1.0, "remove_invalid_values": False,
    "no_repeat_ngram_size": 0, "encoder_no_repeat_ngram_size": 0, "renormalize_logits": False,
    "output_scores": False, "output_logits": False, "return_dict_in_generate": False,
    "num_assistant_tokens": 20, "num_assistant_tokens_schedule": "constant", "assistant_lookbehind": 10,
    "assistant_confidence_threshold": 0.4, "target_lookbehind": 10,
}  # fmt: skip
"""What fields mean that nobody set, besides twenty new tokens where no length is given."""
SAMPLING: dict[str, tuple[Any, ...]] = {
    "temperature": (1.0,), "top_k": (0, 50), "top_p": (1.0,), "min_p": (0.0,), "top_h": (), "typical_p": (1.0,),
    "epsilon_cutoff": (0.0,), "eta_cutoff": (0.0,),
}  # fmt: skip
"""Fields that only sampling reads, and the values with which they change nothing."""
BEAMS: dict[str, tuple[Any, ...]] = {
    "early_stopping": (False,), "length_penalty": (1.0,), "num_beam_groups": (1,), "diversity_penalty": (0.0,),
    "constraints": (), "force_words_ids": (),
}  # fmt: skip
"""Fields that only beams read, and the values with which they change nothing."""
CONSTRAINTS = ("constraints", "force_words_ids")
EXTRA_OUTPUTS = ("output_attentions", "output_hidden_states", "output_scores", "output_logits")
FIXED_CACHES = (
    *("static", "offloaded_static", "sliding_window", "hybrid", "hybrid_chunked"),
    *("offloaded_hybrid", "offloaded_hybrid_chunked"),
)
UNSUPPORTED = {
    "use_mtp": "prediction of several tokens at once is not built in; use assistant_model or prompt_lookup_num_tokens",
    "speculation_type": "it is not built in; use assistant_model or prompt_lookup_num_tokens",
    "continuous_batching_config": "generate_many takes its settings as arguments",
}
"""Settings of the reference that nothing here reads, and what to use in their place."""


class Conflict(NamedTuple):
    """A setting that contradicts others.

    Attributes:
        field: the setting.
        others: the settings that it contradicts.
        advice: what the contradiction is, and what to do, as the end of a sentence that begins with the value.
        fatal: whether there is no sense in going on without the setting.
    """

    field: str
    others: tuple[str, ...]
    advice: str
    fatal: bool = False


# ---------------------------------------------------------------------- single values


def plain(name: str, value: Any) -> Any:
    """Bring a value into the form it has in JSON: lists in place of tuples, arrays and tensors."""
    if name == "sequence_bias" and isinstance(value, Mapping):
        return [[plain("", ids), bias] for ids, bias in value.items()]
    if name == "watermarking_config" and isinstance(value, Mapping):
        return WatermarkingConfig.from_dict(value)
    if isinstance(value, list | tuple):
        return [plain("", item) for item in value]
    return value.tolist() if hasattr(value, "tolist") else value


def problem_of(name: str, value: Any) -> str | None:
    """What is wanted of a value that its annotation lets pass, if it is not that."""
    if name in _WANTED:
        fits, wanted = _WANTED[name]
        return None if fits(value) else wanted
    return None


def _is_ids(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(type(one) is int and one >= 0 for one in value)


def _is_words(value: Any) -> bool:
    """Lists of ids, or lists of such lists; none of them empty."""
    nested = [one if one and isinstance(one[0], list) else [one] for one in value]
    return bool(value) and all(_is_ids(word) for words in nested for word in words)


def _is_bias(value: Any) -> bool:
    pairs = all(isinstance(one, list) and len(one) == 2 and _is_ids(one[0]) for one in value)
    numbers = pairs and all(isinstance(one[1], int | float) and not isinstance(one[1], bool) for one in value)
    return bool(value) and numbers and all(one[1] == one[1] for one in value)  # not NaN


def _is_texts(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return bool(texts) and all(texts)


_IDS = "a list of lists of token ids, none of them empty"
_WANTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "bad_words_ids": (lambda value: bool(value) and all(map(_is_ids, value)), _IDS),
    "force_words_ids": (_is_words, f"{_IDS}, or lists of alternatives"),
    "sequence_bias": (_is_bias, "pairs of token ids and a number"),
    "stop_strings": (_is_texts, "a text or a list of texts, none of them empty"),
    "choices": (_is_texts, "a list of texts, none of them empty"),
    "regex": (bool, "a regular expression that is not empty"),
    "constraints": (bool, "at least one constraint"),
    "repetition_penalty": (lambda value: 0 < value < float("inf"), "a number above 0"),
    "encoder_repetition_penalty": (lambda value: 0 < value < float("inf"), "a number above 0"),
    "temperature": (lambda value: value < float("inf"), "a number from 0"),
    "typical_p": (lambda value: value > 0, "a number above 0 up to 1"),
    "top_h": (lambda value: value > 0, "a number above 0 up to 1"),
    "epsilon_cutoff": (lambda value: value < 1, "a number from 0, below 1"),
    "eta_cutoff": (lambda value: value < 1, "a number from 0, below 1"),
    "assistant_ensemble_weight": (lambda value: 0 < value < 1, "a number between 0 and 1; None checks drafts exactly"),
    "length_penalty": (lambda value: abs(value) < float("inf"), "a number"),
    "diversity_penalty": (lambda value: 0 <= value < float("inf"), "a number from 0"),
    "guidance_scale": (lambda value: value < float("inf"), "a number from 0"),
    "exponential_decay_length_penalty": (
        lambda value: len(value) == 2 and type(value[0]) is int and value[0] >= 0 and value[1] > 0,
        "a pair: how many new tokens are free of it, and a factor above 0",
    ),
    "seed": (
        lambda value: bool(value) and all(-(2**63) <= one < 2**64 for one in value) if isinstance(value, list) else
        -(2**63) <= value < 2**64,
        "a whole number of 64 bits, or a list of them, one a row",
    ),
}  # fmt: skip


# ---------------------------------------------------------------------- contradictions


def conflicts(config: GenerationConfig, complete: bool) -> Iterator[Conflict]:
    """The settings that contradict others.

    Args:
        config: the settings.
        complete: whether fields that are unset have their defaults; otherwise they may still be set.
    """

    def known(name: str) -> Any:
        value = getattr(config, name)
        return DEFAULTS.get(name) if value is None and complete else value

    yield from _without_effect(config, known)
    yield from _impossible(config, known)
    yield from _methods(config, known)
    yield from _lengths(config)
    if known("return_dict_in_generate") is False:
        for name in EXTRA_OUTPUTS:
            if getattr(config, name):
                advice = "with return_dict_in_generate False; set it to True, what is returned has no place for it"
                yield Conflict(name, ("return_dict_in_generate",), advice)
    for name, advice in UNSUPPORTED.items():
        if getattr(config, name):
            yield Conflict(name, (), f"wanted None: {advice}")


def _changes(config: GenerationConfig, fields: Mapping[str, tuple[Any, ...]]) -> Iterator[str]:
    """Those of the fields that are set, and to more than a value that changes nothing."""
    for name, neutral in fields.items():
        value = getattr(config, name)
        if value is not None and value not in neutral:
            yield name


def _without_effect(config: GenerationConfig, known: Callable[[str], Any]) -> Iterator[Conflict]:
    """Settings that the chosen method does not read."""
    if known("do_sample") is False:
        for name in _changes(config, SAMPLING):
            if name != "top_k" or config.penalty_alpha is None:  # contrastive search reads it too
                advice = f"with do_sample False; set do_sample=True, or leave {name} out"
                yield Conflict(name, ("do_sample",), advice)
    if known("num_beams") == 1:
        for name in _changes(config, BEAMS):
            advice = f"with num_beams 1; set num_beams to 2 or more, or leave {name} out"
            yield Conflict(name, ("num_beams",), advice, fatal=name in CONSTRAINTS)
    if config.use_cache is False:
        for name in ("cache_implementation", "cache_config", "max_cache_len"):
            if getattr(config, name) is not None:
                yield Conflict(name, ("use_cache",), f"with use_cache False; leave {name} out, there is no cache")
    elif config.max_cache_len and known("use_cache") and config.cache_implementation not in FIXED_CACHES:
        advice = f"with cache_implementation {config.cache_implementation!r}; set it to 'static'"
        yield Conflict("max_cache_len", ("cache_implementation",), advice)
    for name in ("pad_token_id", "bos_token_id"):
        value = getattr(config, name)
        if value is not None and value < 0:
            yield Conflict(name, (), "wanted the id of a token, from 0")


def _impossible(config: GenerationConfig, known: Callable[[str], Any]) -> Iterator[Conflict]:
    """Settings that no method can follow together."""
    wanted, beams, sample = config.num_return_sequences or 1, known("num_beams"), known("do_sample")
    if beams is not None and 1 < beams < wanted:
        advice = f"with num_beams {beams}, wanted at most as many as there are beams"
        yield Conflict("num_return_sequences", ("num_beams",), advice, fatal=True)
    if wanted > 1 and beams == 1 and sample is False and not any(getattr(config, name) for name in CONSTRAINTS):
        advice = "in greedy search, which has one answer; set do_sample=True, or num_beams to at least as many"
        yield Conflict("num_return_sequences", ("num_beams", "do_sample"), advice, fatal=True)
    if sample and config.temperature == 0:
        advice = "with do_sample True, wanted a number above 0; for the most probable tokens set do_sample=False"
        yield Conflict("temperature", ("do_sample",), advice, fatal=True)
    groups = config.num_beam_groups or 1
    if groups > 1:
        if beams is not None and beams > 1 and beams % groups:
            advice = f"with num_beams {beams}, wanted a divisor of it"
            yield Conflict("num_beam_groups", ("num_beams",), advice, fatal=True)
        if sample:
            advice = "with do_sample True; groups of beams are not sampled, set do_sample=False"
            yield Conflict("num_beam_groups", ("do_sample",), advice, fatal=True)
        if known("diversity_penalty") == 0 and (beams or 2) > 1:
            advice = "with diversity_penalty 0, which makes all groups equal; set it above 0, to 1.0 for example"
            yield Conflict("num_beam_groups", ("diversity_penalty",), advice)
    elif config.diversity_penalty and known("num_beam_groups") == 1 and beams != 1:
        advice = "with num_beam_groups 1; set num_beam_groups to 2 or more"
        yield Conflict("diversity_penalty", ("num_beam_groups",), advice)
    texts = [name for name in ("regex", "json_schema", "choices") if getattr(config, name) is not None]
    if len(texts) > 1:
        yield Conflict(texts[1], (texts[0],), f"beside {texts[0]}, wanted one of regex, json_schema, choices", True)
    suppressed = set(config.suppress_tokens or ())
    for name in ("forced_bos_token_id", "forced_eos_token_id"):
        forced = getattr(config, name)
        forced = set(forced) if isinstance(forced, list) else {forced} - {None}
        if forced and forced <= suppressed:
            advice = "which suppress_tokens forbids; take it out there"
            yield Conflict(name, ("suppress_tokens",), advice, fatal=True)


def _methods(config: GenerationConfig, known: Callable[[str], Any]) -> Iterator[Conflict]:
    """Two decoding methods at once."""
    beams, sample = known("num_beams"), known("do_sample")
    several = (("num_beams", beams is not None and beams > 1), ("do_sample", bool(sample)))
    reasons = {
        "penalty_alpha": ("contrastive search", several),
        "dola_layers": ("DoLa", several[:1]),
        "prompt_lookup_num_tokens": ("drafting from the prompt", several[:1]),
        "assistant_early_exit": ("drafting from an early layer", several[:1]),
        "constraints": ("constrained search", several[1:]),
        "force_words_ids": ("constrained search", several[1:]),
    }
    for name, (method, excluded) in reasons.items():
        if not getattr(config, name):
            continue
        for other, there in excluded:
            if there:
                advice = f"with {other} {getattr(config, other)}; {method} has no use for it, leave one of them out"
                yield Conflict(name, (other,), advice, fatal=name in CONSTRAINTS)
        if name in CONSTRAINTS and (config.num_beam_groups or 1) > 1:
            advice = f"with num_beam_groups {config.num_beam_groups}; constrained search has no groups"
            yield Conflict(name, ("num_beam_groups",), advice, fatal=True)
    if config.penalty_alpha and known("top_k") in (0, 1) and not sample:
        advice = f"with top_k {config.top_k}; contrastive search chooses among the top_k tokens, wanted 2 or more"
        yield Conflict("penalty_alpha", ("top_k",), advice)
    if config.penalty_alpha and config.dola_layers:
        yield Conflict("dola_layers", ("penalty_alpha",), "beside penalty_alpha; they are two methods, choose one")
    if config.assistant_ensemble_weight and config.prompt_lookup_num_tokens:
        advice = "beside prompt_lookup_num_tokens; what is looked up has no probabilities to mix in"
        yield Conflict("assistant_ensemble_weight", ("prompt_lookup_num_tokens",), advice)


def _lengths(config: GenerationConfig) -> Iterator[Conflict]:
    """Lengths that exclude each other, or say the same thing twice."""
    for total, new in (("max_length", "max_new_tokens"), ("min_length", "min_new_tokens")):
        if config.is_given(total) and config.is_given(new):
            yield Conflict(total, (new,), f"beside {new} {getattr(config, new)}, wanted one of them")
    limits = [("min_new_tokens", "max_new_tokens")]
    if config.max_new_tokens is None and config.min_new_tokens is None:
        limits.append(("min_length", "max_length"))
    for low, high in limits:
        least, most = getattr(config, low), getattr(config, high)
        if least is not None and most is not None and least > most:
            yield Conflict(low, (high,), f"with {high} {most}, wanted at most that")
