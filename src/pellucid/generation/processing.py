"""Which logits processors the settings ask for, in the order in which they are run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.generation import processor_classes as classes
from pellucid.generation.config import GenerationConfig
from pellucid.generation.processor_base import LogitsProcessor, LogitsProcessorList
from pellucid.generation.watermark import WatermarkLogitsProcessor


@strict
def build_processors(
    config: GenerationConfig,
    *,
    prompt_length: int,
    encoder_input_ids: Tensor | Sequence[Sequence[int]] | None = None,
    device: torch.device | str = "cpu",
    custom: Sequence[Callable[..., Tensor]] | None = None,
    prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]] | None = None,
    num_beams: int | None = None,
    max_length: int | None = None,
    vocab_size: int | None = None,
) -> LogitsProcessorList:
    """The processors for texts whose prompts have a certain length.

    Classifier-free guidance comes before all of them and is not among them, as it calls the model.

    Args:
        config: the settings.
        prompt_length: tokens of the prompt.
        encoder_input_ids: what an encoder has read for each prompt, `[B, S]` or lists without padding.
        device: where the scores are.
        custom: the caller's own; one of the same class as one of these takes its place, others come before those
            that are for sampling.
        prefix_allowed_tokens_fn: number of the prompt and its text so far → ids that may follow.
        num_beams: rows of each prompt; default `config.num_beams`.
        max_length: tokens of prompt and answer at most; default what `config` says.
        vocab_size: size of the vocabulary, to refuse ids that are not in it, and for watermarks.

    Raises:
        InputError: a setting names a token that there is none of, or needs something that is missing.
    """
    beams = num_beams or config.num_beams or 1
    listed = LogitsProcessorList(_shaping(config, prompt_length, encoder_input_ids, device))
    if prefix_allowed_tokens_fn is not None:
        listed.append(classes.PrefixConstrainedLogitsProcessor(prefix_allowed_tokens_fn, beams))
    listed += _forcing(config, prompt_length, max_length, device)
    listed = _with_custom(listed, custom or ())
    if config.do_sample:
        listed += _sampling(config, beams)
    if config.watermarking_config is not None:
        if vocab_size is None:
            raise InputError("watermarking_config: the size of the vocabulary is not known; hand over vocab_size")
        listed.append(WatermarkLogitsProcessor(vocab_size, device, **config.watermarking_config.to_dict()))
    if config.renormalize_logits:
        listed.append(classes.LogitNormalization())
    if vocab_size is not None:
        for processor in listed:
            if isinstance(processor, classes.SequenceBiasLogitsProcessor):
                processor.check(vocab_size)
    return listed


def _ends(config: GenerationConfig) -> list[int]:
    """The end tokens."""
    ends = config.eos_token_id
    return [] if ends is None else [token for token in ([ends] if isinstance(ends, int) else ends) if token >= 0]


def _shaping(
    config: GenerationConfig,
    prompt_length: int,
    read: Tensor | Sequence[Sequence[int]] | None,
    device: torch.device | str,
) -> list[LogitsProcessor]:
    """Biases, penalties, and what must not end yet."""
    found: list[LogitsProcessor] = []
    ends = _ends(config)
    if config.sequence_bias is not None:
        found.append(classes.SequenceBiasLogitsProcessor(config.sequence_bias))
    if (penalty := config.encoder_repetition_penalty or 1.0) != 1.0:
        if read is None:
            raise InputError("encoder_repetition_penalty: got one without a text that an encoder reads; leave it out")
        found.append(classes.EncoderRepetitionPenaltyLogitsProcessor(penalty, read))
    if (penalty := config.repetition_penalty or 1.0) != 1.0:
        found.append(classes.RepetitionPenaltyLogitsProcessor(penalty))
    if config.no_repeat_ngram_size:
        found.append(classes.NoRepeatNGramLogitsProcessor(config.no_repeat_ngram_size))
    if config.encoder_no_repeat_ngram_size:
        if read is None:
            raise InputError("encoder_no_repeat_ngram_size: got one without a text that an encoder reads; leave it out")
        found.append(classes.EncoderNoRepeatNGramLogitsProcessor(config.encoder_no_repeat_ngram_size, read))
    if config.bad_words_ids is not None:
        found.append(classes.NoBadWordsLogitsProcessor(config.bad_words_ids, ends))
    if ends and config.min_length:
        found.append(classes.MinLengthLogitsProcessor(config.min_length, ends, device))
    if ends and config.min_new_tokens:
        found.append(classes.MinNewTokensLengthLogitsProcessor(prompt_length, config.min_new_tokens, ends, device))
    return found


def _forcing(
    config: GenerationConfig, prompt_length: int, max_length: int | None, device: torch.device | str
) -> list[LogitsProcessor]:
    """First and last tokens, and tokens that are not to be written."""
    found: list[LogitsProcessor] = []
    first, last = config.forced_bos_token_id, config.forced_eos_token_id
    if first is not None:
        found.append(classes.ForcedBOSTokenLogitsProcessor(first))
    if last is not None:
        longest = max_length
        if longest is None:
            new = config.max_new_tokens
            longest = config.max_length if new is None else prompt_length + new
        if longest is None:
            raise InputError("forced_eos_token_id: got one without a longest length; set max_new_tokens")
        found.append(classes.ForcedEOSTokenLogitsProcessor(longest, last, device))
    if config.remove_invalid_values:
        found.append(classes.InfNanRemoveLogitsProcessor())
    if config.exponential_decay_length_penalty is not None and (ends := _ends(config)):
        pair = config.exponential_decay_length_penalty
        found.append(classes.ExponentialDecayLengthPenalty(pair, ends, prompt_length))
    if config.suppress_tokens:
        found.append(classes.SuppressTokensLogitsProcessor(config.suppress_tokens, device))
    if config.begin_suppress_tokens:
        free = prompt_length + (prompt_length <= 1 and first is not None)  # the token that is forced comes first
        found.append(classes.SuppressTokensAtBeginLogitsProcessor(config.begin_suppress_tokens, free, device))
    return found


def _sampling(config: GenerationConfig, beams: int) -> list[LogitsProcessor]:
    """Temperature, and what cuts off the tail; beams keep a word that does not end the text beside those that do."""
    keep = max(len(_ends(config)), 1) + 1 if beams > 1 else 1
    found: list[LogitsProcessor] = []
    if config.temperature is not None and config.temperature != 1.0:
        found.append(classes.TemperatureLogitsWarper(config.temperature))
    if config.top_h is not None:
        found.append(classes.TopHLogitsWarper(config.top_h))
    if config.top_k:
        found.append(classes.TopKLogitsWarper(config.top_k, min_tokens_to_keep=keep))
    if config.top_p is not None and config.top_p < 1.0:
        found.append(classes.TopPLogitsWarper(config.top_p, min_tokens_to_keep=keep))
    if config.min_p is not None:
        found.append(classes.MinPLogitsWarper(config.min_p, min_tokens_to_keep=keep))
    if config.typical_p is not None and config.typical_p < 1.0:
        found.append(classes.TypicalLogitsWarper(config.typical_p, min_tokens_to_keep=keep))
    if config.epsilon_cutoff:
        found.append(classes.EpsilonLogitsWarper(config.epsilon_cutoff, min_tokens_to_keep=keep))
    if config.eta_cutoff:
        found.append(classes.EtaLogitsWarper(config.eta_cutoff, min_tokens_to_keep=keep))
    return found


def _with_custom(listed: LogitsProcessorList, custom: Sequence[Any]) -> LogitsProcessorList:
    """The caller's processors behind the others, or in the place of one of the same class."""
    for own in custom:
        if not callable(own):
            raise InputError(f"logits_processor: got a {type(own).__name__}, wanted a function or a LogitsProcessor")
    merged = LogitsProcessorList()
    replacing = []
    for processor in listed:
        same = [own for own in custom if type(own) is type(processor)]
        merged.append(same[0] if same else processor)
        replacing += [id(own) for own in same[:1]]
    merged += [own for own in custom if id(own) not in replacing]
    return merged
