"""What may happen to the scores of the next word before one is chosen: plain functions from scores to scores.

Each takes `scores` `[B, V]`, log-probabilities or logits, and returns new ones; nothing is changed in place. A word
that is ruled out gets `-inf`. Functions that look at the texts so far take `ids` `[B, S]`, real tokens and no padding.

Those that cut off the tail of the distribution, for sampling, are `top_k` … `eta`: each keeps what is likely in its own
sense, and at least `keep` words. The others forbid, force, favour or penalise words.

Axes: `B` rows, `S` tokens so far, `V` vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

INFINITY = float("inf")
Ngrams = Mapping[tuple[int, ...], Sequence[int]]

# ---------------------------------------------------------------------- cutting off the tail


def temperature(scores: Tensor, value: float) -> Tensor:
    """Below 1 the likely words become likelier, above 1 all words become more alike."""
    return scores / value


def top_k(scores: Tensor, count: int, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """Keep the `count` best words, and those that are as good as the last of them."""
    return scores.masked_fill(scores < _kth_best(scores, max(count, keep)), fill)


def top_p(scores: Tensor, mass: float, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """Keep the fewest best words that have at least `mass` of the probability (nucleus sampling, Holtzman 2019)."""
    ranked, order = scores.sort(dim=-1)  # the worst first, so that small probabilities are added to small sums
    beyond = ranked.softmax(dim=-1).cumsum(dim=-1) <= 1 - mass
    beyond[:, -keep:] = False
    return scores.masked_fill(_unsorted(beyond, order), fill)


def min_p(scores: Tensor, share: float, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """Keep words that have at least `share` of the probability of the best one (Nguyen et al. 2024)."""
    chances = scores.softmax(dim=-1)
    dropped = chances < share * chances.amax(dim=-1, keepdim=True)
    best = chances.topk(min(keep, scores.shape[-1]), dim=-1).indices
    return scores.masked_fill(dropped.scatter(-1, best, False), fill)


def top_h(scores: Tensor, share: float, *, candidates: int = 100, fill: float = -INFINITY) -> Tensor:
    """Keep best words as long as their part of the entropy is at most `share` of it (Top-H sampling, 2025).

    Args:
        scores: `[B, V]`.
        share: how much of the entropy of the best `candidates` may be kept.
        candidates: how many words are looked at; the best one is always kept.
        fill: score of words that are dropped.
    """
    best, order = scores.topk(min(candidates, scores.shape[-1]), dim=-1)
    logs = best - best.logsumexp(dim=-1, keepdim=True)
    chances = logs.softmax(dim=-1)
    total = -(logs.clamp(min=torch.finfo(logs.dtype).min) * chances).sum(dim=-1, keepdim=True)
    parts = (-chances * chances.log()).cumsum(dim=-1)  # NaN, which is not kept, from the first probability of 0 on
    kept = parts <= total * share
    kept[:, 0] = True
    dropped = torch.ones_like(scores, dtype=torch.bool).scatter(-1, order, ~kept)
    return scores.masked_fill(dropped, fill)


def typical(scores: Tensor, mass: float, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """Keep words that surprise about as much as is to be expected, up to `mass` of probability (Meister 2022)."""
    logs = scores.log_softmax(dim=-1)
    distance = (-logs - _entropy(logs)).abs()
    ranked, order = distance.sort(dim=-1)
    covered = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
    last = (covered < mass).sum(dim=-1, keepdim=True).clamp(max=scores.shape[-1] - 1)
    beyond = ranked > ranked.gather(-1, last)
    beyond[:, :keep] = False
    return scores.masked_fill(_unsorted(beyond, order), fill)


def epsilon(scores: Tensor, cutoff: float, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """Keep words of at least the probability `cutoff` (Hewitt 2022)."""
    dropped = (scores.softmax(dim=-1) < cutoff) & (scores < _kth_best(scores, keep))
    return scores.masked_fill(dropped, fill)


def eta(scores: Tensor, cutoff: float, *, keep: int = 1, fill: float = -INFINITY) -> Tensor:
    """As `epsilon`, but where the model hesitates between many words, less probable ones stay (Hewitt 2022)."""
    logs = scores.log_softmax(dim=-1)
    limit = torch.exp(-_entropy(logs)) * cutoff**0.5
    dropped = (scores.softmax(dim=-1) < limit.clamp(max=cutoff)) & (scores < _kth_best(scores, keep))
    return scores.masked_fill(dropped, fill)


def _kth_best(scores: Tensor, count: int) -> Tensor:
    """The lowest of the `count` highest scores: `[B, 1]`."""
    return scores.topk(min(count, scores.shape[-1]), dim=-1).values[:, -1:]


def _unsorted(values: Tensor, order: Tensor) -> Tensor:
    """Values in the order of the vocabulary again."""
    return values.scatter(-1, order, values)


def _entropy(logs: Tensor) -> Tensor:
    """How undecided a distribution is, from log-probabilities: `[B, 1]`; a word that is ruled out adds nothing."""
    return -(logs * logs.exp()).nansum(dim=-1, keepdim=True)


# ---------------------------------------------------------------------- against repetition


def repetition(ids: Tensor, scores: Tensor, penalty: float) -> Tensor:
    """Words that are there already lose (`penalty` above 1) or gain (below 1): scores divided, or if negative times it.

    Args:
        ids: `[B, S]`; ids that the scores do not reach are passed over.
        scores: `[B, V]`.
        penalty: the factor (Keskar et al. 2019).
    """
    there = _seen(ids, scores.shape[-1])
    return torch.where(there, torch.where(scores < 0, scores * penalty, scores / penalty), scores)


def _seen(ids: Tensor, size: int) -> Tensor:
    """`[B, V]`: which words are among a row's ids; ids from `size` on go to a column that is dropped."""
    seen = torch.zeros(ids.shape[0], size + 1, dtype=torch.bool, device=ids.device)
    return seen.scatter_(1, ids.clamp(max=size), True)[:, :size]


def no_repeat_ngrams(ids: Tensor, scores: Tensor, size: int) -> Tensor:
    """Rule out words with which the last `size` tokens would be a run that the row has already."""
    if ids.shape[1] < size:
        return scores
    runs = ids.unfold(1, size, 1)  # [B, S - size + 1, size]
    repeated = (runs[..., :-1] == ids[:, None, ids.shape[1] - size + 1 :]).all(dim=-1)
    nowhere = scores.shape[-1]  # stands for the last tokens of runs that are not repeated
    return scores.masked_fill(_seen(torch.where(repeated, runs[..., -1], nowhere), nowhere), -INFINITY)


def ngrams_of(ids: Sequence[int], size: int) -> dict[tuple[int, ...], list[int]]:
    """The runs of `size` tokens in a text: their beginning → what follows it."""
    found: dict[tuple[int, ...], list[int]] = {}
    for start in range(len(ids) - size + 1):
        *beginning, last = ids[start : start + size]
        found.setdefault(tuple(beginning), []).append(last)
    return found


def no_ngrams_of(ids: Tensor, scores: Tensor, size: int, ngrams: Sequence[Ngrams]) -> Tensor:
    """Rule out words with which the last `size` tokens would be a run of another text.

    Args:
        ids: `[B, S]`.
        scores: `[B, V]`.
        size: length of the runs.
        ngrams: of the text that each row must not repeat, made by `ngrams_of`.
    """
    if ids.shape[1] < size - 1:
        return scores
    scores = scores.clone()
    ends: list[list[int]] = ids[:, ids.shape[1] - size + 1 :].tolist()
    for row, (end, known) in enumerate(zip(ends, ngrams, strict=True)):
        if banned := known.get(tuple(end)):
            scores[row, torch.tensor(banned, device=scores.device)] = -INFINITY
    return scores


def hamming_diversity(scores: Tensor, chosen: Tensor, penalty: float) -> Tensor:
    """Words lose `penalty` for each beam of earlier groups that has just chosen them (Vijayakumar et al. 2016).

    Args:
        scores: `[B * G, V]`, the `G` beams of one group for each text.
        chosen: `[B, E]`, what the `E` beams of the groups before it have chosen for the same place.
        penalty: what is taken off for each.
    """
    counts = scores.new_zeros(chosen.shape[0], scores.shape[-1])
    counts.scatter_add_(1, chosen, torch.ones_like(chosen, dtype=scores.dtype))
    return scores - penalty * counts.repeat_interleave(scores.shape[0] // max(chosen.shape[0], 1), dim=0)


# ---------------------------------------------------------------------- forbidding, forcing, favouring


def forbid(scores: Tensor, tokens: Tensor) -> Tensor:
    """Rule out some words: `tokens` `[N]`; those that the scores do not reach are passed over."""
    return scores.masked_fill(_seen(tokens[None], scores.shape[-1]), -INFINITY)


def force(scores: Tensor, tokens: Tensor) -> Tensor:
    """Rule out all words but some, which become equally likely: `tokens` `[N]`."""
    return torch.full_like(scores, -INFINITY).index_fill(1, tokens, 0.0)


def allow(scores: Tensor, allowed: Sequence[Sequence[int]]) -> Tensor:
    """Rule out all words but each row's `allowed` ones; where those have all been ruled out, they become possible."""
    mask = torch.full_like(scores, -INFINITY)
    for row, tokens in enumerate(allowed):
        mask[row, torch.as_tensor(tokens, dtype=torch.long, device=scores.device)] = 0.0
    left = scores + mask
    return torch.where(left.amax(dim=-1, keepdim=True).isneginf(), mask, left)


Biases = Sequence[tuple[Tensor, Tensor, Tensor]]


def biases_of(pairs: Sequence[tuple[Sequence[int], float]], device: torch.device | str) -> Biases:
    """Tables for `sequence_bias`: for each length of beginnings, those `[N, L]`, the last tokens, and the biases.

    Args:
        pairs: ids and what to add to the score of the last one when the others have been written.
        device: where the tables are to be.
    """
    kinds: dict[int, list[tuple[Sequence[int], float]]] = {}
    for ids, bias in pairs:
        kinds.setdefault(len(ids) - 1, []).append((ids, bias))
    tables = []
    for length in sorted(kinds):
        words = torch.tensor([list(ids) for ids, _ in kinds[length]], device=device)
        values = torch.tensor([bias for _, bias in kinds[length]], dtype=torch.float, device=device)
        tables.append((words[:, :-1], words[:, -1], values))
    return tables


def sequence_bias(ids: Tensor, scores: Tensor, tables: Biases) -> Tensor:
    """Add to the scores of words that complete one of the sequences.

    Args:
        ids: `[B, S]`.
        scores: `[B, V]`.
        tables: from `biases_of`.
    """
    added = torch.zeros_like(scores)
    for beginnings, words, values in tables:
        length = beginnings.shape[1]
        if length > ids.shape[1]:
            continue
        fits = (ids[:, None, ids.shape[1] - length :] == beginnings).all(dim=-1)  # [B, N]
        added.index_add_(1, words, torch.where(fits, values, 0.0).to(added.dtype))
    return scores + added


def favour_end(scores: Tensor, tokens: Tensor, factor: float, beyond: int) -> Tensor:
    """End tokens gain, the more the longer a text goes on: their score's size times `factor ** beyond - 1`.

    Args:
        scores: `[B, V]`.
        tokens: `[N]` the end tokens.
        factor: growth a token.
        beyond: how many tokens the text is longer than what is free of this.
    """
    if beyond <= 0:
        return scores
    own = scores[:, tokens]
    ruled_out = own.abs() >= torch.finfo(scores.dtype).max  # by `-inf`, or by what `finite` makes of it
    gain = (own.abs() * (factor**beyond - 1)).masked_fill(ruled_out, 0.0)
    return scores.index_copy(1, tokens, own + gain)


def finite(scores: Tensor) -> Tensor:
    """NaN becomes 0, infinite scores the largest and smallest that the number format has."""
    return scores.nan_to_num(nan=0.0)


def normalize(scores: Tensor) -> Tensor:
    """Scores become log-probabilities: their exponentials add up to 1."""
    return scores.log_softmax(dim=-1)


def guide(scores: Tensor, without: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance (Sanchez et al. 2023): away from what the model says without the prompt.

    Args:
        scores: `[B, V]` with the prompt.
        without: `[B, V]` without it, or with a negative one.
        scale: 1 changes nothing, above it the prompt counts more.
    """
    plain, empty = scores.log_softmax(dim=-1), without.log_softmax(dim=-1)
    impossible = plain.isneginf() | empty.isneginf()  # there is nothing to compare
    return torch.where(impossible, plain, scale * (plain - empty) + empty)
