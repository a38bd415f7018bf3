"""A count that all workers of a Ray cluster share, in a file of its own so that its process loads no torch."""

from __future__ import annotations


class Starts:
    """Counts how often each block has been begun; one actor for all workers."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}

    def begin(self, number: int) -> int:
        """Count one more start of a block; how many there were."""
        self.counts[number] = self.counts.get(number, 0) + 1
        return self.counts[number]
