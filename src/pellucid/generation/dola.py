"""DoLa: what the last layer knows and earlier ones do not.

Facts take shape in the later layers. Of some earlier layers, the one whose next-word probabilities differ most from
those of the last is taken, and its log-probabilities are subtracted (Chuang et al. 2023, "DoLa: Decoding by Contrasting
Layers Improves Factuality in Large Language Models", arXiv:2309.03883).

Axes: `R` rows, `L` earlier layers, `V` vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid.errors import InputError
from pellucid.generation.reader import Reader

RELATIVE_TOP = 0.1
"""Tokens less probable than this share of the most probable one are left out, as in the paper."""


class ContrastingReader(Reader):
    """Gives the scores of the last layer, less those of the earlier layer that differs most from it.

    Args:
        reader: of the prompts, not yet begun.
        layers: `"low"` or `"high"` for the earlier or the later half, or numbers of layers.
    """

    def __init__(self, reader: Reader, layers: str | Sequence[int]) -> None:
        self.__dict__.update(reader.__dict__)
        self.watch = {**self.watch, "output_hidden_states": True}
        count = int(self.model.config.num_hidden_layers)
        self.layers = layers_of(layers, count, self.model.config.tie_word_embeddings)

    def read(self, new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Read the new tokens; contrasted scores as in `Reader.read`."""
        last = super().read(new, keep)
        head = self.model.get_output_embeddings()
        assert head is not None
        before = [head(self._ends(self.extras.hidden_states[layer], new)).float() for layer in self.layers]
        return contrast(last, torch.stack(before))

    def _ends(self, states: Tensor, new: Sequence[Sequence[int]]) -> Tensor:
        """`[R, S, H]` → `[R, H]`: the state of each row's last token."""
        ends = torch.tensor([len(row) - 1 for row in new], device=states.device)
        return states[torch.arange(len(new), device=states.device), ends.clamp(max=states.shape[1] - 1)]


def layers_of(wanted: str | Sequence[int], count: int, tied: bool) -> list[int]:
    """Numbers of the earlier layers, 0 for the word vectors, in a model of `count` layers.

    Raises:
        InputError: a number that is no earlier layer, or a word other than `low` and `high`.
    """
    start = min(count - 1, 2) if tied and count > 1 else 0  # tied word vectors only say the word itself
    if wanted == "low":
        return list(range(start, min(count // 2, 20), 2)) if start < count // 2 else [start]
    if wanted == "high":
        return list(range(max(count // 2, count - 20), count, 2))
    if isinstance(wanted, str) or any(not 0 <= layer < count for layer in wanted):
        raise InputError(f"dola_layers: got {wanted!r}, wanted 'low', 'high' or numbers from 0 to {count - 1}")
    return list(wanted)


def contrast(last: Tensor, before: Tensor) -> Tensor:
    """Scores `[R, V]` of the last layer and `[L, R, V]` of earlier ones → contrasted scores `[R, V]`."""
    final = last.log_softmax(dim=-1)
    if len(before) == 1:
        earlier = before[0].log_softmax(dim=-1)
    else:
        chances, others = last.softmax(dim=-1), before.softmax(dim=-1)
        middle = (chances + others) / 2
        apart = F.kl_div(final.expand_as(before), middle, reduction="none").mean(-1)
        apart = apart + F.kl_div(before.log_softmax(dim=-1), middle, reduction="none").mean(-1)  # [L, R]
        rows = torch.arange(len(last), device=last.device)
        earlier = before[apart.argmax(dim=0), rows].log_softmax(dim=-1)  # each row by itself, whatever its batch
    floor = final.max(dim=-1, keepdim=True).values + math.log(RELATIVE_TOP)
    return (final - earlier).masked_fill(final < floor, float("-inf"))
