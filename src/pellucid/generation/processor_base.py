"""What a logits processor is, and a list of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any, ClassVar

from torch import Tensor

from pellucid.errors import InputError


class LogitsProcessor:
    """Changes the scores of the next word before one is chosen. A plain function will do as well."""

    needs_ids: ClassVar[bool] = True
    """Whether the texts are looked at; without, all rows of a batch are handled at once, whatever their length."""
    needs_rows: ClassVar[bool] = False
    """Whether a third argument `rows` is taken: the number of the prompt that each row belongs to."""

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """New scores of the next word; this is what a processor of one's own defines.

        Args:
            input_ids: `[B, S]` what each row holds so far, prompt included, without padding.
            scores: `[B, V]`, not to be changed in place.
        """
        return self._apply(input_ids, scores)

    def _apply(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        raise InputError(f"{type(self).__name__}: a logits processor must define __call__(input_ids, scores)")


class LogitsProcessorList(list[Callable[..., Tensor]]):
    """Processors that are run one after another."""

    def __call__(
        self, input_ids: Tensor, scores: Tensor, *, rows: Sequence[int] | None = None, **values: Any
    ) -> Tensor:
        """New scores of the next word.

        Args:
            input_ids: `[B, S]` what each row holds so far, without padding.
            scores: `[B, V]`.
            rows: number of the prompt that each row belongs to; `None`: the rows of each prompt stand together.
            values: for processors that take more than these.

        Raises:
            InputError: a processor wants an argument that is not there.
        """
        for processor in self:
            if getattr(processor, "needs_rows", False):
                scores = processor(input_ids, scores, rows=rows)
            elif more := _further_arguments(processor):
                if missing := [name for name in more if name not in values]:
                    name = getattr(processor, "__name__", type(processor).__name__)
                    raise InputError(f"{name}: wants {', '.join(missing)} beside input_ids and scores; hand them over")
                scores = processor(input_ids, scores, **{name: values[name] for name in more})
            else:
                scores = processor(input_ids, scores)
        return scores

    @property
    def needs_ids(self) -> bool:
        """Whether one of the processors looks at the texts."""
        return any(getattr(processor, "needs_ids", True) for processor in self)


def _further_arguments(processor: Callable[..., Tensor]) -> tuple[str, ...]:
    """Names of the arguments that a processor must be given beside ids and scores."""
    if inspect.isroutine(processor):
        return _named(processor)[2:]
    return _named(type(processor).__call__)[3:]


@lru_cache(maxsize=256)
def _named(function: Callable[..., Tensor]) -> tuple[str, ...]:
    parameters = list(inspect.signature(function).parameters.values())
    given = [one for one in parameters if one.kind not in (one.VAR_KEYWORD, one.VAR_POSITIONAL)]
    return tuple(one.name for index, one in enumerate(given) if index < 2 or one.default is one.empty)
