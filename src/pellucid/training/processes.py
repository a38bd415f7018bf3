"""The processes that train one model together: what they add up, tell each other, and do at the same time.

    torchrun --nproc-per-node 2 train.py        starts them; each runs the same script

    together = Processes.of(args)               count 2; index 0 and 1
    together.sum(loss)                          the same number in each
    with together.first_before_others(0): …     what the first has done when the others begin

A process by itself is `count == 1`, where all of this costs nothing. What processes tell each other are tensors and
texts, never pickled objects.
"""

from __future__ import annotations

import atexit
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from pellucid.errors import InputError, PellucidError

if TYPE_CHECKING:
    from pellucid.training.arguments import TrainingArguments


@dataclass(frozen=True)
class Processes:
    """How many processes train together, and which of them this is.

    Attributes:
        count: of all.
        index: of this one, from 0.
        device: where its tensors are.
    """

    count: int = 1
    index: int = 0
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def of(cls, args: TrainingArguments) -> Processes:
        """Those that `torchrun` has started, brought together; this process alone where it has not.

        Raises:
            InputError: they cannot reach each other.
        """
        if args.world_size == 1:
            return cls(device=args.device)
        if not dist.is_initialized():
            backend = args.ddp_backend or ("nccl" if args.device.type == "cuda" else "gloo")
            if args.device.type == "cuda":
                torch.cuda.set_device(args.device)
            try:
                dist.init_process_group(backend, timeout=args.ddp_timeout_delta)
            except (RuntimeError, ValueError) as error:
                raise InputError(
                    f"torchrun: {args.world_size} processes could not be brought together with {backend}: {error}"
                ) from error
            atexit.register(_part)
        return cls(dist.get_world_size(), dist.get_rank(), args.device)

    @property
    def is_first(self) -> bool:
        """Whether this is the one that writes and reports."""
        return self.index == 0

    def sum(self, *values: float | Tensor) -> list[float]:
        """Each value added up over all processes."""
        if self.count == 1:
            return [float(value) for value in values]
        kind = torch.float32 if self.device.type == "mps" else torch.float64
        total = torch.stack([torch.as_tensor(value, dtype=kind, device=self.device) for value in values])
        dist.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def wait(self) -> None:
        """Until all processes are here."""
        if self.count > 1:
            self.sum(0)

    @contextmanager
    def first_before_others(self, index: int) -> Iterator[None]:
        """The block is done by the processes with number 0 before the others begin it, who find what these have left.

        Args:
            index: number of this process, among all or on its machine.
        """
        if index:
            self.wait()
        try:
            yield
        finally:
            if not index:
                self.wait()

    def tell(self, text: str) -> list[str]:
        """A text of each process, in their order, known to all."""
        if self.count == 1:
            return [text]
        return [bytes(part.astype(np.uint8)).decode() for part in self.gather(np.frombuffer(text.encode(), np.uint8))]

    def gather(self, rows: np.ndarray[Any, Any]) -> list[np.ndarray[Any, Any]]:
        """An array of each process, in their order, known to all; they may have different lengths, widths and no rows.

        Args:
            rows: of numbers; the processes' arrays have the same number of axes.
        """
        if self.count == 1:
            return [rows]
        shape = torch.tensor(rows.shape, device=self.device)
        shapes = [torch.empty_like(shape) for _ in range(self.count)]
        dist.all_gather(shapes, shape)
        mine = torch.from_numpy(np.ascontiguousarray(rows).reshape(-1).copy()).to(self.device)
        sizes = [int(one.prod()) for one in shapes]
        padded = torch.zeros(max(sizes), dtype=mine.dtype, device=self.device)
        padded[: len(mine)] = mine
        found = [torch.empty_like(padded) for _ in range(self.count)]
        dist.all_gather(found, padded)
        return [
            part[:size].cpu().numpy().reshape(one.tolist())
            for part, size, one in zip(found, sizes, shapes, strict=True)
        ]

    def gather_all(self, value: Any) -> list[Any]:
        """What each process has, in their order: an array, a tuple of such, or `None` in all of them."""
        if self.count == 1 or value is None:
            return [value] * self.count
        if isinstance(value, tuple):
            return list(zip(*map(self.gather_all, value), strict=True))
        return self.gather(value)

    def share(self, tensors: Sequence[Tensor]) -> None:
        """Give every process the first one's numbers, in place."""
        if self.count > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    @contextmanager
    def in_agreement(self) -> Iterator[None]:
        """What fails in one process fails in all of them, at the end of the block, so that none waits in vain.

        Raises:
            PellucidError: of this process, or with the words of another one's.
        """
        problem: Exception | None = None
        try:
            yield
        except (PellucidError, OSError) as error:
            problem = error
        said = self.tell("" if problem is None else str(problem))
        if problem is not None:
            raise problem
        for number, words in enumerate(said):
            if words:
                raise InputError(f"process {number}: {words}")


def _part() -> None:
    """Leave the group in order, when the program ends."""
    if dist.is_initialized():
        dist.destroy_process_group()
