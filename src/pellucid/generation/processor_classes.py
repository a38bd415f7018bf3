"""The logits processors under the names that users know: settings, checked, around the functions of `processors`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from pellucid.errors import InputError, strict
from pellucid.files import quoted
from pellucid.generation import processors
from pellucid.generation.processor_base import LogitsProcessor

if TYPE_CHECKING:
    pass

Ids = int | Sequence[int] | Tensor
Device = torch.device | str


def _require(met: bool, name: str, value: Any, wanted: str) -> None:
    if not met:
        raise InputError(f"{name}: got {quoted(value)}, wanted {wanted}")


def _number(name: str, value: Any, low: float, high: float, wanted: str) -> float:
    """A number between two others, both included."""
    fits = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
    _require(fits, name, value, wanted)
    return float(value)


def _count(name: str, value: Any, least: int) -> int:
    _require(isinstance(value, int) and not isinstance(value, bool) and value >= least, name, value, f"{least} or more")
    return int(value)


def _tokens(name: str, value: Ids, device: Device) -> Tensor:
    """Ids of tokens as a tensor `[N]`."""
    if isinstance(value, Tensor):
        listed = value.reshape(-1).tolist()
    else:
        listed = [value] if isinstance(value, int) else list(value)
    fits = all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in listed)
    _require(fits, name, value, "ids of tokens, whole numbers from 0")
    return torch.tensor(listed, dtype=torch.long, device=device)


_ABOVE_0 = torch.finfo(torch.float64).tiny


# ---------------------------------------------------------------------- cutting off the tail


class TemperatureLogitsWarper(LogitsProcessor):
    """Divides scores by `temperature`: below 1 likely words become likelier."""

    needs_ids = False

    @strict
    def __init__(self, temperature: float) -> None:
        wanted = "a number above 0; for the most probable word set do_sample=False"
        self.temperature = _number("temperature", temperature, _ABOVE_0, float("inf"), wanted)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.temperature(scores, self.temperature)


class _TailCut(LogitsProcessor):
    """Keeps the words that `cut` finds likely enough, `min_tokens_to_keep` at least; others get `filter_value`."""

    needs_ids = False
    cut: ClassVar[Callable[..., Tensor]]

    def _set(self, value: float, filter_value: float, min_tokens_to_keep: int) -> None:
        self.filter_value = filter_value
        self.min_tokens_to_keep = _count("min_tokens_to_keep", min_tokens_to_keep, 1)
        self._value = value

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return type(self).cut(scores, self._value, keep=self.min_tokens_to_keep, fill=self.filter_value)


class TopKLogitsWarper(_TailCut):
    """Keeps the `top_k` best words."""

    cut = staticmethod(processors.top_k)

    @strict
    def __init__(self, top_k: int, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1) -> None:
        self._set(_count("top_k", top_k, 1), filter_value, min_tokens_to_keep)
        self.top_k = max(top_k, min_tokens_to_keep)


class TopPLogitsWarper(_TailCut):
    """Keeps the fewest best words whose probabilities add up to `top_p`."""

    cut = staticmethod(processors.top_p)

    @strict
    def __init__(self, top_p: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1) -> None:
        self.top_p = _number("top_p", top_p, 0.0, 1.0, "a number from 0 to 1")
        self._set(self.top_p, filter_value, min_tokens_to_keep)


class MinPLogitsWarper(_TailCut):
    """Keeps words that have at least `min_p` times the probability of the best one."""

    cut = staticmethod(processors.min_p)

    @strict
    def __init__(self, min_p: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1) -> None:
        self.min_p = _number("min_p", min_p, 0.0, 1.0, "a number from 0 to 1")
        self._set(self.min_p, filter_value, min_tokens_to_keep)


class TopHLogitsWarper(LogitsProcessor):
    """Keeps best words up to the share `top_h` of the distribution's entropy."""

    needs_ids = False

    @strict
    def __init__(self, top_h: float, filter_value: float = -float("inf")) -> None:
        self.top_h = _number("top_h", top_h, _ABOVE_0, 1.0, "a number above 0 up to 1")
        self.filter_value = filter_value

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.top_h(scores, self.top_h, fill=self.filter_value)


class TypicalLogitsWarper(_TailCut):
    """Keeps words that surprise about as much as is to be expected, up to the probability `mass`."""

    cut = staticmethod(processors.typical)

    @strict
    def __init__(self, mass: float = 0.9, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1) -> None:
        _require(0 < _number("mass", mass, 0.0, 1.0, "a number between 0 and 1") < 1, "mass", mass, "between 0 and 1")
        self.mass = float(mass)
        self._set(self.mass, filter_value, min_tokens_to_keep)


class EpsilonLogitsWarper(_TailCut):
    """Keeps words of at least the probability `epsilon`."""

    cut = staticmethod(processors.epsilon)

    @strict
    def __init__(self, epsilon: float, filter_value: float = -float("inf"), min_tokens_to_keep: int = 1) -> None:
        self.epsilon = _number("epsilon", epsilon, 0.0, 1.0, "a number between 0 and 1")
        _require(0 < epsilon < 1, "epsilon", epsilon, "a number between 0 and 1")
        self._set(self.epsilon, filter_value, min_tokens_to_keep)


class EtaLogitsWarper(EpsilonLogitsWarper):
    """Keeps words of at least the probability `epsilon`, or less where the model hesitates between many words."""

    cut = staticmethod(processors.eta)

    @strict
    def __init__(
        self,
        epsilon: float,
        filter_value: float = -float("inf"),
        min_tokens_to_keep: int = 1,
        device: Device = "cpu",
    ) -> None:
        super().__init__(epsilon, filter_value, min_tokens_to_keep)


# ---------------------------------------------------------------------- against repetition


class RepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Words that are there already lose (`penalty` above 1) or gain (below 1).

    Args:
        penalty: the factor.
        prompt_ignore_length: how many tokens at the beginning do not count, for all rows or one number a row.
    """

    @strict
    def __init__(self, penalty: float, prompt_ignore_length: int | Tensor | None = None) -> None:
        self.penalty = _number("penalty", penalty, _ABOVE_0, float("inf"), "a number above 0")
        if isinstance(prompt_ignore_length, Tensor):
            _require(prompt_ignore_length.dim() == 1, "prompt_ignore_length", prompt_ignore_length, "one number a row")
        elif prompt_ignore_length is not None:
            _count("prompt_ignore_length", prompt_ignore_length, 0)
        self.prompt_ignore_length = prompt_ignore_length

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ignored = self.prompt_ignore_length
        if isinstance(ignored, Tensor):
            places = torch.arange(input_ids.shape[1], device=input_ids.device)
            input_ids = input_ids.masked_fill(places < ignored.to(input_ids.device)[:, None], scores.shape[-1])
        elif ignored is not None:
            input_ids = input_ids[:, ignored:]
        return processors.repetition(input_ids, scores, self.penalty)


class NoRepeatNGramLogitsProcessor(LogitsProcessor):
    """Every run of `ngram_size` tokens occurs once only."""

    @strict
    def __init__(self, ngram_size: int) -> None:
        self.ngram_size = _count("ngram_size", ngram_size, 1)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.no_repeat_ngrams(input_ids, scores, self.ngram_size)


Texts = Tensor | Sequence[Sequence[int]]


def _texts(value: Texts) -> list[list[int]]:
    """Texts as lists of ids."""
    if isinstance(value, Tensor):
        value = (value if value.dim() == 2 else value[None]).tolist()
    return [list(text) for text in value]


def _prompts(count: int, texts: int, rows: Sequence[int] | None) -> Sequence[int]:
    """For each of `count` rows the number of its prompt, of `texts`; the rows of a prompt stand together."""
    return [row * texts // count for row in range(count)] if rows is None else rows


class EncoderRepetitionPenaltyLogitsProcessor(LogitsProcessor):
    """Words of the text that the encoder has read gain (`penalty` above 1).

    Args:
        penalty: the factor.
        encoder_input_ids: what the encoder read for each prompt, `[B, S]`, or lists without padding.
    """

    needs_ids = False
    needs_rows = True

    @strict
    def __init__(self, penalty: float, encoder_input_ids: Texts) -> None:
        self.penalty = 1 / _number("penalty", penalty, _ABOVE_0, float("inf"), "a number above 0")
        self.texts = [torch.tensor(text, dtype=torch.long) for text in _texts(encoder_input_ids)]

    def __call__(self, input_ids: Tensor, scores: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """New scores; `rows`: number of the prompt that each row belongs to, by default in order."""
        read = [self.texts[prompt] for prompt in _prompts(len(scores), len(self.texts), rows)]
        ids = torch.nn.utils.rnn.pad_sequence(read, batch_first=True, padding_value=scores.shape[-1])
        return processors.repetition(ids.to(scores.device), scores, self.penalty)


class EncoderNoRepeatNGramLogitsProcessor(LogitsProcessor):
    """No run of `encoder_ngram_size` tokens of the text that the encoder has read is written.

    Args:
        encoder_ngram_size: length of the runs.
        encoder_input_ids: what the encoder read for each prompt, `[B, S]`, or lists without padding.
    """

    needs_rows = True

    @strict
    def __init__(self, encoder_ngram_size: int, encoder_input_ids: Texts) -> None:
        self.ngram_size = _count("encoder_ngram_size", encoder_ngram_size, 1)
        self.ngrams = [processors.ngrams_of(text, encoder_ngram_size) for text in _texts(encoder_input_ids)]

    def __call__(self, input_ids: Tensor, scores: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """New scores; `rows`: number of the prompt that each row belongs to, by default in order."""
        known = [self.ngrams[prompt] for prompt in _prompts(len(scores), len(self.ngrams), rows)]
        return processors.no_ngrams_of(input_ids, scores, self.ngram_size, known)


class HammingDiversityLogitsProcessor(LogitsProcessor):
    """Beams of a group are led away from what earlier groups have chosen for the same place.

    Args:
        diversity_penalty: what a word loses for each beam that has chosen it.
        num_beams: beams of a text, all groups together.
        num_beam_groups: how many groups.
    """

    needs_ids = False

    @strict
    def __init__(self, diversity_penalty: float, num_beams: int, num_beam_groups: int) -> None:
        wanted = "a number above 0"
        self.diversity_penalty = _number("diversity_penalty", diversity_penalty, _ABOVE_0, float("inf"), wanted)
        self.num_beams = _count("num_beams", num_beams, 2)
        _require(_count("num_beam_groups", num_beam_groups, 2) <= num_beams, "num_beam_groups", num_beam_groups, "less")
        self.group_size = num_beams // num_beam_groups

    def __call__(
        self, input_ids: Tensor, scores: Tensor, current_tokens: Tensor | None = None, beam_group_idx: int = 0
    ) -> Tensor:
        """New scores of one group's beams.

        Args:
            input_ids: not looked at.
            scores: `[B * group size, V]`.
            current_tokens: `[B * num_beams]`, what the beams of earlier groups have chosen at this step.
            beam_group_idx: number of the group.
        """
        if current_tokens is None or beam_group_idx == 0:
            return scores
        chosen = current_tokens.view(-1, self.num_beams)[:, : beam_group_idx * self.group_size]
        return processors.hamming_diversity(scores, chosen, self.diversity_penalty)


# ---------------------------------------------------------------------- forbidding, forcing, favouring


class MinLengthLogitsProcessor(LogitsProcessor):
    """A text does not end before it has `min_length` tokens, prompt included."""

    @strict
    def __init__(self, min_length: int, eos_token_id: Ids, device: Device = "cpu") -> None:
        self.min_length = _count("min_length", min_length, 0)
        self.eos_token_id = _tokens("eos_token_id", eos_token_id, device)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.forbid(scores, self.eos_token_id) if input_ids.shape[-1] < self.min_length else scores


class MinNewTokensLengthLogitsProcessor(MinLengthLogitsProcessor):
    """A text does not end before `min_new_tokens` have been written behind the prompt."""

    @strict
    def __init__(
        self, prompt_length_to_skip: int, min_new_tokens: int, eos_token_id: Ids, device: Device = "cpu"
    ) -> None:
        self.prompt_length_to_skip = _count("prompt_length_to_skip", prompt_length_to_skip, 0)
        self.min_new_tokens = _count("min_new_tokens", min_new_tokens, 0)
        super().__init__(prompt_length_to_skip + min_new_tokens, eos_token_id, device)


class SequenceBiasLogitsProcessor(LogitsProcessor):
    """Adds to the scores of words that complete one of some sequences.

    Args:
        sequence_bias: pairs of ids and what to add, or a dictionary from tuples of ids.
    """

    @strict
    def __init__(self, sequence_bias: Sequence[Sequence[Any]] | Mapping[tuple[int, ...], float]) -> None:
        pairs = list(sequence_bias.items() if isinstance(sequence_bias, Mapping) else sequence_bias)
        _require(bool(pairs), "sequence_bias", sequence_bias, "at least one sequence of ids with its bias")
        for pair in pairs:
            fits = len(pair) == 2 and not isinstance(pair[0], int) and len(pair[0]) > 0
            _require(fits, "sequence_bias", pair, "a list of ids and a number")
            _tokens("sequence_bias", pair[0], "cpu")
            _number("sequence_bias", pair[1], -float("inf"), float("inf"), "a number")
        self._prepare([(tuple(pair[0]), float(pair[1])) for pair in pairs])

    def _prepare(self, pairs: list[tuple[tuple[int, ...], float]]) -> None:
        self.sequence_bias = dict(pairs)
        self._tables: dict[tuple[int, str], processors.Biases] = {}  # by size of the vocabulary and device

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        key = (scores.shape[-1], str(scores.device))
        if key not in self._tables:
            self.check(key[0])
            self._tables[key] = processors.biases_of(list(self.sequence_bias.items()), scores.device)
        return processors.sequence_bias(input_ids, scores, self._tables[key])

    @strict
    def check(self, vocab_size: int) -> None:
        """Raise `InputError` for a token that a vocabulary of that size does not have."""
        beyond = [token for ids in self.sequence_bias for token in ids if token >= vocab_size]
        _require(not beyond, type(self).__name__, beyond, f"ids below {vocab_size}, the size of the vocabulary")


class NoBadWordsLogitsProcessor(SequenceBiasLogitsProcessor):
    """Some sequences are never written; an end token alone among them is passed over.

    Args:
        bad_words_ids: ids of each.
        eos_token_id: the end tokens.
    """

    @strict
    def __init__(self, bad_words_ids: Sequence[Sequence[int]], eos_token_id: Ids | None = None) -> None:
        ends = [] if eos_token_id is None else _tokens("eos_token_id", eos_token_id, "cpu").tolist()
        wanted = "lists of ids, none of them empty"
        _require(
            isinstance(bad_words_ids, list | tuple) and bool(bad_words_ids), "bad_words_ids", bad_words_ids, wanted
        )
        for ids in bad_words_ids:
            _require(isinstance(ids, list | tuple) and bool(ids), "bad_words_ids", ids, wanted)
            _tokens("bad_words_ids", ids, "cpu")
        kept = [ids for ids in bad_words_ids if len(ids) > 1 or ids[0] not in ends]
        self._prepare([(tuple(ids), -float("inf")) for ids in kept])


class PrefixConstrainedLogitsProcessor(LogitsProcessor):
    """Only words that a function allows.

    Args:
        prefix_allowed_tokens_fn: number of the prompt and its text so far `[S]` → ids that may follow.
        num_beams: rows of each prompt.
    """

    needs_rows = True

    @strict
    def __init__(self, prefix_allowed_tokens_fn: Callable[[int, Tensor], Sequence[int]], num_beams: int = 1) -> None:
        self.prefix_allowed_tokens_fn = prefix_allowed_tokens_fn
        self.num_beams = _count("num_beams", num_beams, 1)

    def __call__(self, input_ids: Tensor, scores: Tensor, rows: Sequence[int] | None = None) -> Tensor:
        """New scores; `rows`: number of the prompt that each row belongs to, by default in order."""
        prompts = [row // self.num_beams for row in range(len(scores))] if rows is None else rows
        allowed = []
        for prompt, text in zip(prompts, input_ids, strict=True):
            tokens = self.prefix_allowed_tokens_fn(prompt, text)
            _require(len(tokens) > 0, "prefix_allowed_tokens_fn", tokens, f"at least one token for prompt {prompt}")
            allowed.append(tokens)
        return processors.allow(scores, allowed)


class ForcedBOSTokenLogitsProcessor(LogitsProcessor):
    """The first token written behind a single start token is `bos_token_id`."""

    @strict
    def __init__(self, bos_token_id: int) -> None:
        self.bos_token_id = _count("bos_token_id", bos_token_id, 0)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] != 1:
            return scores
        return processors.force(scores, _tokens("bos_token_id", self.bos_token_id, scores.device))


class ForcedEOSTokenLogitsProcessor(LogitsProcessor):
    """The token with which a text has `max_length` is an end token."""

    @strict
    def __init__(self, max_length: int, eos_token_id: Ids, device: Device = "cpu") -> None:
        self.max_length = _count("max_length", max_length, 1)
        self.eos_token_id = _tokens("eos_token_id", eos_token_id, device)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.force(scores, self.eos_token_id) if input_ids.shape[-1] == self.max_length - 1 else scores


class InfNanRemoveLogitsProcessor(LogitsProcessor):
    """NaN becomes 0, infinite scores the largest or smallest number."""

    needs_ids = False

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.finite(scores)


class ExponentialDecayLengthPenalty(LogitsProcessor):
    """End tokens gain, exponentially, once a text is long.

    Args:
        exponential_decay_length_penalty: how many new tokens are free of it, and the growth a token.
        eos_token_id: the end tokens.
        input_ids_seq_length: length of the prompt.
    """

    @strict
    def __init__(
        self, exponential_decay_length_penalty: Sequence[float], eos_token_id: Ids, input_ids_seq_length: int
    ) -> None:
        start, self.regulation_factor = exponential_decay_length_penalty
        self.regulation_start = int(start) + _count("input_ids_seq_length", input_ids_seq_length, 0)
        self.eos_token_id = _tokens("eos_token_id", eos_token_id, "cpu")

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        ends = self.eos_token_id = self.eos_token_id.to(scores.device)
        return processors.favour_end(scores, ends, self.regulation_factor, input_ids.shape[-1] - self.regulation_start)


class LogitNormalization(LogitsProcessor):
    """Scores become log-probabilities."""

    needs_ids = False

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.normalize(scores)


class SuppressTokensLogitsProcessor(LogitsProcessor):
    """Some words are never written."""

    needs_ids = False

    @strict
    def __init__(self, suppress_tokens: Ids, device: Device = "cpu") -> None:
        self.suppress_tokens = _tokens("suppress_tokens", suppress_tokens, device)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        return processors.forbid(scores, self.suppress_tokens.to(scores.device))


class SuppressTokensAtBeginLogitsProcessor(LogitsProcessor):
    """Some words are not written when a text has `begin_index` tokens."""

    @strict
    def __init__(self, begin_suppress_tokens: Ids, begin_index: int, device: Device = "cpu") -> None:
        self.begin_suppress_tokens = _tokens("begin_suppress_tokens", begin_suppress_tokens, device)
        self.begin_index = begin_index

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        if input_ids.shape[-1] != self.begin_index:
            return scores
        return processors.forbid(scores, self.begin_suppress_tokens.to(scores.device))


class ClassifierFreeGuidanceLogitsProcessor(LogitsProcessor):
    """Joins scores with and without the prompt, which stand below each other: `[2 * B, V]` → `[B, V]`.

    Args:
        guidance_scale: above 1; how much the prompt counts.
    """

    @strict
    def __init__(self, guidance_scale: float) -> None:
        self.guidance_scale = _number("guidance_scale", guidance_scale, 1.0, float("inf"), "a number above 1")
        _require(guidance_scale > 1, "guidance_scale", guidance_scale, "a number above 1")

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        wanted = f"twice as many as the {len(input_ids)} texts"
        _require(len(scores) == 2 * len(input_ids), "scores", f"{len(scores)} rows", wanted)
        plain, empty = scores.chunk(2)
        return empty + (plain - empty) * self.guidance_scale
