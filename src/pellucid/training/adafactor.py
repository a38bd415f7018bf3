"""Adafactor: adaptive rates for each weight, remembered as one row and one column of a matrix (arXiv:1804.04235).

Authors: Noam Shazeer, Mitchell Stern, 2018. A matrix `[R, C]` costs `R + C` numbers in place of Adam's `2 R C`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pellucid.errors import InputError, strict


class Adafactor(Optimizer):
    """Adafactor, with a rate of its own or one from outside.

    Args:
        params: parameters, or groups of them.
        lr: rate from outside; needs `relative_step=False`.
        eps: the smallest square of a gradient, and the smallest size of a parameter for `scale_parameter`.
        clip_threshold: largest root mean square of an update; larger ones are scaled down.
        decay_rate: power of the step with which old squares count less.
        beta1: how much of the last update is kept; `None` keeps none and needs no memory.
        weight_decay: pull to zero, times the rate.
        scale_parameter: multiply the rate by the root mean square of the parameter.
        relative_step: take the rate from the step: 0.01, later 1 / √step.
        warmup_init: begin `relative_step` at a millionth a step.

    Raises:
        InputError: settings that exclude each other.
    """

    @strict
    def __init__(
        self,
        params: Any,
        lr: float | None = None,
        eps: tuple[float, float] = (1e-30, 1e-3),
        clip_threshold: float = 1.0,
        decay_rate: float = -0.8,
        beta1: float | None = None,
        weight_decay: float = 0.0,
        scale_parameter: bool = True,
        relative_step: bool = True,
        warmup_init: bool = False,
    ) -> None:
        if lr is not None and relative_step:
            raise InputError(f"Adafactor: got lr={lr} and relative_step=True, wanted one; set relative_step=False")
        if lr is None and not relative_step:
            raise InputError("Adafactor: got neither lr nor relative_step=True, wanted one; set lr")
        if warmup_init and not relative_step:
            raise InputError("Adafactor: got warmup_init=True and relative_step=False; set relative_step=True")
        defaults = {
            "lr": lr, "eps": eps, "clip_threshold": clip_threshold, "decay_rate": decay_rate, "beta1": beta1,
            "weight_decay": weight_decay, "scale_parameter": scale_parameter, "relative_step": relative_step,
            "warmup_init": warmup_init,
        }  # fmt: skip
        super().__init__(params, defaults)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Change the parameters once, by their gradients.

        Args:
            closure: works out the loss and the gradients anew.

        Returns:
            What the closure returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._change(parameter, group)
        return loss

    def _change(self, parameter: Tensor, group: dict[str, Any]) -> None:
        """Change one parameter; in half precision it is computed in float32 and rounded once."""
        if parameter.grad is None or parameter.grad.is_sparse:
            raise InputError("Adafactor: got a sparse gradient, wanted a dense one; set sparse=False of the embedding")
        half = parameter.dtype in (torch.float16, torch.bfloat16)
        gradient = parameter.grad.float() if parameter.grad.dtype in (torch.float16, torch.bfloat16) else parameter.grad
        values = parameter.float() if half else parameter
        state = self.state[parameter]
        state["step"] = state.get("step", 0) + 1
        rate = _rate(values, state["step"], group)
        update = _adapted(gradient, state, group)
        update.div_((_rms(update) / group["clip_threshold"]).clamp_(min=1.0)).mul_(rate)
        if group["beta1"] is not None:
            mean = state.setdefault("exp_avg", torch.zeros_like(gradient))
            update = mean.mul_(group["beta1"]).add_(update, alpha=1 - group["beta1"])
        if group["weight_decay"] != 0:
            values.add_(values, alpha=float(-group["weight_decay"] * rate))
        values.sub_(update)
        if half:
            parameter.copy_(values)


def _rms(tensor: Tensor) -> Tensor:
    """The root mean square of all values."""
    return torch.div(torch.linalg.vector_norm(tensor), math.sqrt(tensor.numel()))


def _rate(values: Tensor, step: int, group: dict[str, Any]) -> Tensor | float:
    """The rate of one parameter at one step."""
    rate = group["lr"]
    if group["relative_step"]:
        rate = min(1e-6 * step if group["warmup_init"] else 1e-2, 1.0 / math.sqrt(step))
    if group["scale_parameter"]:
        return torch.mul(_rms(values).clamp(min=group["eps"][1]), rate)
    return float(rate)


def _adapted(gradient: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
    """The gradient divided by the root of the mean of its squares so far; means of rows and columns for matrices."""
    kept = 1.0 - math.pow(state["step"], group["decay_rate"])
    squares = gradient**2 + group["eps"][0]
    if gradient.dim() < 2:
        mean: Tensor = state.setdefault("exp_avg_sq", torch.zeros_like(gradient))
        mean.mul_(kept).add_(squares, alpha=1.0 - kept)
        return mean.rsqrt().mul_(gradient)
    rows: Tensor = state.setdefault("exp_avg_sq_row", gradient.new_zeros(gradient.shape[:-1]))
    columns: Tensor = state.setdefault("exp_avg_sq_col", gradient.new_zeros(gradient.shape[:-2] + gradient.shape[-1:]))
    rows.mul_(kept).add_(squares.mean(dim=-1), alpha=1.0 - kept)
    columns.mul_(kept).add_(squares.mean(dim=-2), alpha=1.0 - kept)
    by_row = (rows / rows.mean(dim=-1, keepdim=True)).rsqrt_().unsqueeze(-1)
    return torch.mul(by_row, columns.unsqueeze(-2).rsqrt()).mul_(gradient)
