"""What building and placing a model needs: memory that is not filled, and number formats and devices by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from pellucid.errors import InputError, PellucidError, did_you_mean


class Unfilled(TorchFunctionMode):
    """While a model is built on meta, its modules' own random numbers are passed over.

    There is no memory to fill, and torch would import a second's worth of modules to find that out.
    """

    fills = frozenset({"normal_", "uniform_", "kaiming_uniform_", "zeros_", "ones_", "fill_", "zero_"})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Give a tensor that should be filled back as it is; run everything else."""
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") in self.fills:
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def dtype_of(value: torch.dtype | str | None) -> torch.dtype | None:
    """A torch dtype from its name; `None` and `"auto"` mean to keep the file's."""
    if value is None or value == "auto" or isinstance(value, torch.dtype):
        return None if isinstance(value, str) else value
    found = getattr(torch, value.removeprefix("torch."), None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        names = ["float32", "bfloat16", "float16", "float64", "auto"]
        raise InputError(f"dtype: got {value!r}, wanted one of {names}{did_you_mean(value, names)}")
    return found


def device_of(value: str | int | torch.device | dict[str, Any]) -> torch.device:
    """One device from what `device_map` may hold."""
    if isinstance(value, dict):
        if len(set(map(str, value.values()))) != 1:
            raise InputError(f"device_map: got {value!r}, wanted one device for the whole model")
        value = next(iter(value.values()))
    if value == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.device(value)  # type: ignore[arg-type]
    except RuntimeError as error:
        raise PellucidError(f"device_map: got {value!r}, wanted a device such as 'cpu' or 'cuda:0'") from error
