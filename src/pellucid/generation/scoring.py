"""What texts score: log-probabilities of tokens that were written, and of texts that are given."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from pellucid.cache import DynamicCache
from pellucid.cache_pool import common_length
from pellucid.errors import InputError, strict
from pellucid.generation.reader import Reader
from pellucid.generation.room import window_of
from pellucid.layout import PackedTokens

if TYPE_CHECKING:
    from pellucid.model import PreTrainedModel


def transition_scores(
    sequences: Tensor, scores: Sequence[Tensor], beam_indices: Tensor | None = None, normalize: bool = False
) -> Tensor:
    """The score of each written token at the step that wrote it.

    Args:
        sequences: `[B, S]` prompts and what was written, as `generate` returns them.
        scores: `[R, V]` a step, what `output_scores=True` adds; `R` rows of the answer, or beams.
        beam_indices: `[B, steps]`, the row of `scores` that each token was chosen from, -1 behind the end; needed with
            beams, `None` without.
        normalize: take the log-softmax of the scores first; those of beams are log-probabilities already.

    Returns:
        `[B, steps]`, 0 behind the end of a text written by beams. Their sum, divided by the length to the power of
        `length_penalty`, is what `sequences_scores` holds.
    """
    stacked = torch.stack(list(scores))  # [steps, R, V]
    if normalize:
        stacked = stacked.log_softmax(dim=-1)
    if beam_indices is None:
        beam_indices = torch.arange(stacked.shape[1], device=sequences.device)[:, None].expand(-1, len(stacked))
    ended = beam_indices < 0
    longest = int((~ended).sum(dim=1).max()) if len(ended) else 0
    ended, rows = ended[:, :longest], beam_indices[:, :longest].clamp(min=0)
    tokens = sequences[:, sequences.shape[1] - longest :]  # [B, steps]
    steps = torch.arange(longest, device=stacked.device)
    return stacked[steps, rows.to(stacked.device), tokens.to(stacked.device)].masked_fill(ended.to(stacked.device), 0.0)


# ---------------------------------------------------------------------- texts that are given


@dataclass(frozen=True)
class Score:
    """How probable a model finds a text.

    Attributes:
        tokens: ids of the tokens that were scored. The first token of a text has none before it and no score.
        logprobs: the logarithm of each one's probability, given all before it.
    """

    tokens: list[int]
    logprobs: list[float]

    @property
    def sum(self) -> float:
        """The logarithm of the text's probability."""
        return math.fsum(self.logprobs)

    @property
    def mean(self) -> float:
        """The average of a token; NaN when none was scored."""
        return self.sum / len(self.logprobs) if self.logprobs else math.nan

    @property
    def perplexity(self) -> float:
        """Among how many words the model wavers on average: `exp(-mean)`."""
        try:
            return math.exp(-self.mean)
        except OverflowError:
            return math.inf


class Part(NamedTuple):
    """What the model reads at once of a text.

    Attributes:
        ids: the tokens.
        first: the first of them that this part scores; those before are its context.
    """

    ids: list[int]
    first: int


Text = str | Sequence[int]


@strict
def score(
    model: PreTrainedModel,
    texts: Text | Sequence[Text],
    tokenizer: Any = None,
    *,
    prompt: Text | None = None,
    window: int | None = None,
    stride: int | None = None,
) -> list[Score]:
    """Log-probabilities of texts, token by token.

    A text longer than the model's window is read in several, each of which scores its last `stride` tokens: every token
    is scored once, with at least `window - stride` tokens before it.

    Args:
        model: with a head that scores words.
        texts: texts, or ids of each; one text alone is a list of one.
        tokenizer: of the model, for texts.
        prompt: what stands before each of the texts and is not scored itself; it is read once for all of them. For an
            encoder-decoder, which needs one, it is what the encoder reads.
        window: tokens that are read at once; default as many as the model was made for.
        stride: tokens that each further window scores; default half a window.

    Raises:
        InputError: a text is empty, or is no text and no ids; a window that the model does not have.
    """
    window, stride = _windows(model, window, stride)
    alone = isinstance(texts, str) or (len(texts) > 0 and isinstance(texts[0], int))
    rows: list[Any] = [texts] if alone else list(texts)
    if "packed_source" in type(model).forward.__annotations__:
        if prompt is None:
            raise InputError("score: an encoder-decoder needs a prompt, the text that its encoder reads")
        answers = [_ids(row, tokenizer, "texts", target=True) for row in rows]
        return _score_answers(model, answers, _ids(prompt, tokenizer, "prompt"))
    if prompt is None:
        whole = [_ids(row, tokenizer, "texts") for row in rows]
        firsts = [1] * len(whole)
    else:
        whole, firsts = _behind(prompt, rows, tokenizer)
        shared = min([*firsts, *(common_length(whole[0], ids) for ids in whole)], default=0)
        if len(whole) > 1 and shared and max(map(len, whole)) <= window:
            reader = Reader(model, cache=DynamicCache())
            found = _behind_one(reader, whole[0][:shared], [ids[shared:] for ids in whole])
            return [Score(ids[f:], own[f - shared :]) for ids, f, own in zip(whole, firsts, found, strict=True)]
    parts = [cut_windows(ids, first, window, stride) for ids, first in zip(whole, firsts, strict=True)]
    values = iter(score_parts(model, [part for row in parts for part in row]))
    return [
        Score(ids[first:], [value for _ in row for value in next(values)])
        for ids, first, row in zip(whole, firsts, parts, strict=True)
    ]


@strict
def perplexity(
    model: PreTrainedModel,
    texts: Text | Sequence[Text],
    tokenizer: Any = None,
    *,
    window: int | None = None,
    stride: int | None = None,
) -> float:
    """Perplexity of all tokens of some texts together; arguments as in `score`."""
    scores = score(model, texts, tokenizer, window=window, stride=stride)
    return Score([], [value for one in scores for value in one.logprobs]).perplexity


def _windows(model: PreTrainedModel, window: int | None, stride: int | None) -> tuple[int, int]:
    """Tokens that are read at once, and how many of them each further window scores."""
    config = model.config
    made_for = getattr(config, "readable_tokens", None) or getattr(config, "max_position_embeddings", None)
    longest = made_for if isinstance(made_for, int) and made_for > 0 else sys.maxsize
    if window is not None and window > longest and window_of(model) is not None:
        raise InputError(f"window: got {window}, the model reads at most {longest}")
    window = longest if window is None else window
    stride = max(window // 2, 1) if stride is None else stride
    if window < 2 or not 1 <= stride < window:
        raise InputError(
            f"stride: got {stride} with window {window}, wanted 1 to {window - 1}, and a window of 2 or more"
        )
    return window, stride


def _ids(text: Any, tokenizer: Any, what: str, target: bool = False) -> list[int]:
    """Ids of a text; `target`: of one that an encoder-decoder is to write."""
    if isinstance(text, str):
        if tokenizer is None:
            raise InputError(f"{what}: got a text without a tokenizer; pass score(tokenizer=…), or ids")
        text = (tokenizer(text_target=text) if target else tokenizer(text))["input_ids"]
    found = text.tolist() if isinstance(text, Tensor) else list(text)
    if not found or not all(isinstance(one, int) for one in found):
        raise InputError(f"{what}: got {str(text)[:40]!r}, wanted at least one token, a whole number each")
    return found


def _behind(prompt: Text, rows: Sequence[Text], tokenizer: Any) -> tuple[list[list[int]], list[int]]:
    """Ids of prompt and text together, and where the text begins. Texts are joined before they become ids."""
    before = _ids(prompt, tokenizer, "prompt")
    whole, firsts = [], []
    for row in rows:
        if isinstance(row, str) != isinstance(prompt, str):
            raise InputError("prompt: got a text and ids, wanted prompt and texts to be both texts or both ids")
        joined = _ids(prompt + row, tokenizer, "texts") if isinstance(row, str) else before + _ids(row, None, "texts")  # type: ignore[operator]
        first = common_length(before, joined)
        if first == len(joined):
            raise InputError(f"texts: got {str(row)[:40]!r}, which adds no token to the prompt")
        whole.append(joined)
        firsts.append(max(first, 1))
    return whole, firsts


def cut_windows(ids: list[int], first: int, window: int, stride: int) -> list[Part]:
    """The windows of a text: the first as long as it may be, each further one moved on by `stride`."""
    if len(ids) <= window:
        return [Part(ids, first)]
    parts, done, end = [], first, max(window, min(first + stride, len(ids)))
    while done < len(ids):
        start = max(end - window, 0)
        parts.append(Part(ids[start:end], done - start))
        done, end = end, min(end + stride, len(ids))
    return parts


@torch.no_grad()
def score_parts(model: PreTrainedModel, parts: Sequence[Part]) -> list[list[float]]:
    """Log-probabilities of the tokens that each part scores; parts are packed as pipelines pack theirs."""
    from pellucid.pipelines.budget import TOKENS_PER_BATCH
    from pellucid.pipelines.engine import cut_batches

    found: list[list[float]] = [[] for _ in parts]
    budget = min(TOKENS_PER_BATCH.get(model.device.type, TOKENS_PER_BATCH["cuda"]), rows_at_once(model))
    remembers = "use_cache" in type(model).forward.__annotations__
    for batch in cut_batches([len(part.ids) for part in parts], budget=budget):
        tokens = PackedTokens.from_lists([parts[number].ids for number in batch], device=model.device)
        logits = model(packed=tokens, **({"use_cache": False} if remembers else {})).logits  # [T, V]
        for number, rows in zip(batch, tokens.layout.split(logits), strict=True):
            ids, first = parts[number]
            found[number] = logprobs_of(rows[first - 1 : -1], ids[first:])
    return found


@torch.no_grad()
def _behind_one(reader: Reader, prompt: list[int], rows: Sequence[Sequence[int]]) -> list[list[float]]:
    """Log-probabilities of rows of tokens that all stand behind one prompt, which is read once."""
    opening = reader.read([prompt])  # [1, V]
    found = [logprobs_of(opening, row[:1]) for row in rows]
    order = sorted((number for number, row in enumerate(rows) if len(row) > 1), key=lambda number: len(rows[number]))
    budget = rows_at_once(reader.model)
    while order:
        longest = len(rows[order[-1]]) - 1
        batch = order[-max(budget // longest, 1) :]
        del order[-len(batch) :]
        reader.forget([len(prompt)] * len(reader.texts))
        reader.select([0] * len(batch))
        logits = reader.read([rows[number][:-1] for number in batch], keep=longest).view(len(batch), longest, -1)
        for number, row in zip(batch, logits, strict=True):
            found[number] += logprobs_of(row[longest + 1 - len(rows[number]) :], rows[number][1:])
    return found


def _score_answers(model: PreTrainedModel, answers: Sequence[list[int]], source: list[int]) -> list[Score]:
    """What a decoder gives for answers to one text that its encoder has read."""
    start = start_of_answers(model)
    reader = Reader(model, source=PackedTokens.from_lists([source], device=model.device))
    found = _behind_one(reader, [start], answers)
    return [Score(ids, values) for ids, values in zip(answers, found, strict=True)]


def start_of_answers(model: PreTrainedModel) -> int:
    """The token that a decoder reads first, before it writes."""
    config = model.generation_config
    first = config.decoder_start_token_id
    start = first[0] if isinstance(first, list) else config.bos_token_id if first is None else first
    if start is None:
        raise InputError("score: the configuration has no decoder_start_token_id; set it in generation_config")
    return int(start)


def rows_at_once(model: PreTrainedModel) -> int:
    """Tokens whose scores of all words may be in memory at once: 256 MB of them."""
    return max(2**26 // int(model.config.vocab_size), 1)


def logprobs_of(logits: Tensor, tokens: Sequence[int]) -> list[float]:
    """Log-probabilities of tokens: scores `[L, V]` of the words at their places → `L` numbers."""
    logits = logits.float()
    chosen = logits.gather(1, torch.tensor(tokens, device=logits.device, dtype=torch.long)[:, None])[:, 0]
    values: list[float] = (chosen - logits.logsumexp(dim=-1)).tolist()
    if any(math.isnan(value) for value in values):
        raise InputError("score: the model's scores are NaN; the checkpoint is damaged, or needs another dtype")
    return values
