"""Classifier-free guidance: away from what the model would write anyway, towards what the prompt asks for.

The model reads two prompts, with and without what is to count, and the difference between the two answers is made
larger (Sanchez et al. 2023, "Stay on topic with Classifier-Free Guidance", arXiv:2306.17806).
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from pellucid.generation.processors import guide
from pellucid.generation.reader import Reader


class GuidedReader(Reader):
    """Reads every row twice, after its prompt and after a negative one, and gives the guided scores.

    Args:
        reader: of the prompts.
        negative: of the negative prompts.
        prompts: ids of the negative prompt of each row; a row without one is led by its last token alone.
        scale: `guidance_scale`, above 1.
    """

    def __init__(self, reader: Reader, negative: Reader, prompts: Sequence[Sequence[int]] | None, scale: float) -> None:
        self.__dict__.update(reader.__dict__)
        self.negative, self.prompts, self.scale = negative, prompts, scale

    def read(self, new: Sequence[Sequence[int]], keep: int = 1) -> Tensor:
        """Read the new tokens behind both prompts; scores as in `Reader.read`."""
        started = bool(self.negative.texts)
        usual = self.prompts or [row[-1:] for row in new]
        without = self.negative.read(new if started else usual, keep)
        return guide(super().read(new, keep), without, self.scale)

    def select(self, rows: Sequence[int]) -> None:
        """Go on with the given rows, in that order, of both."""
        super().select(rows)
        self.negative.select(rows)
