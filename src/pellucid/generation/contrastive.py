"""Contrastive search: of the likeliest next tokens, the one that says something new.

A token whose state is close to that of an earlier one repeats what was said. Of the `top_k` likeliest tokens, the one
is taken whose probability, less its likeness to the text so far, is highest (Su et al. 2022, "A Contrastive Framework
for Neural Text Generation", arXiv:2202.06417).

Axes: `R` rows, `K` candidates of each, `H` hidden, `S` tokens so far, `V` vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.generation.loop import Call, Decoding, Rows, Step, Written, is_stopped, process


def write_contrastive(call: Call) -> Decoding:
    """Contrastive search with `config.penalty_alpha` (how much likeness counts) and `config.top_k`."""
    reader, config = call.reader, call.config
    assert config.penalty_alpha is not None
    assert config.top_k is not None
    alpha, count = config.penalty_alpha, config.top_k
    reader.watch["output_hidden_states"] = True
    made = Written([[] for _ in range(len(call.prompts) * call.copies)])
    limits = [limit for limit in call.limits for _ in range(call.copies)]
    numbers = call.numbers(call.copies)
    logits = reader.read([call.prompts[number] for number in numbers])
    said = [states[: len(text)] for states, text in zip(_states(reader.extras), reader.texts, strict=True)]
    rows = Rows(reader.texts, reader.device, numbers)
    alive = list(range(len(made.sequences)))
    while True:
        if call.watch:
            made.extras.append(reader.extras)
        scores = process(call.processing, rows, logits)
        chances, candidates = scores.softmax(dim=-1).topk(count, dim=-1)  # [R, K] each
        spread = [row for row in range(len(alive)) for _ in range(count)]
        reader.select(spread)
        answers = reader.read([[token] for token in candidates.flatten().tolist()])  # [R * K, V]
        states = _states(reader.extras)[:, -1].view(len(alive), count, -1)  # [R, K, H]
        likeness = torch.stack([_likeness(new, old) for new, old in zip(states, said, strict=True)])  # [R, K]
        best = ((1 - alpha) * chances - alpha * likeness).argmax(dim=-1)  # [R]
        tokens = candidates.gather(1, best[:, None])[:, 0]
        rows.append(tokens)
        stopped = is_stopped(call.stopping, rows, scores).tolist()
        step = Step({}, [], logits, scores, alive)
        kept: list[int] = []
        for place, (row, token) in enumerate(zip(alive, tokens.tolist(), strict=True)):
            made.sequences[row].append(token)
            step.tokens[row] = [token]
            over = stopped[place] or token in call.end_tokens or len(made.sequences[row]) >= limits[row]
            (step.ended if over else kept).append(row if over else place)
        yield step
        if not kept:
            return made
        chosen = [place * count + int(best[place]) for place in kept]
        reader.select(chosen)
        logits = answers[chosen]
        said = [torch.cat([said[place], states[place, best[place]][None]]) for place in kept]
        if step.ended:
            rows.select(kept)
            alive = [alive[place] for place in kept]


def _states(answer: object) -> Tensor:
    """`[R, S, H]`: the last layer's states, each row from its first token on."""
    name = "decoder_hidden_states" if "decoder_hidden_states" in answer else "hidden_states"  # type: ignore[operator]
    return answer[name][-1]  # type: ignore[index,no-any-return]


def _likeness(new: Tensor, said: Tensor) -> Tensor:
    """`[K]`: cosine of each candidate's state `[K, H]` with the most similar one of the text so far `[S, H]`."""
    return (F.normalize(new, dim=-1) @ F.normalize(said, dim=-1).T).max(dim=-1).values
