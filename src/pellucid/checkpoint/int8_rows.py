"""Weights kept in 8 bits: each row of a matrix as whole numbers from -127 to 127, and one scale for the row.

In a file the matrix `name` stands as int8 `[rows, columns]` beside `name.scale` (float32 or float16, `[rows]`), and
`config.json` says `"quantization_config": {"quant_method": "int8_rows"}`. It makes a small model four times smaller
on disk; when loaded it is made float again.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pellucid.errors import ConfigError, InputError, strict

QUANT_METHOD = "int8_rows"
SCALE = ".scale"
"""What the name of a matrix's scales ends with."""


@strict
def wants_int8_rows(quantization_config: Any) -> bool:
    """Whether `quantization_config` of a `config.json` announces 8-bit rows; `None` announces nothing.

    Raises:
        ConfigError: it announces something else, which cannot be read.
    """
    if quantization_config is None:
        return False
    method = quantization_config.get("quant_method") if isinstance(quantization_config, Mapping) else None
    if method != QUANT_METHOD:
        raise ConfigError(
            f"config.json: quantization_config: got quant_method {str(method)[:40]!r}, wanted {QUANT_METHOD!r}; "
            "other quantized checkpoints cannot be read, load the model's original weights"
        )
    return True


@strict
@torch.no_grad()
def quantize_rows(tensor: Tensor) -> tuple[Tensor, Tensor]:
    """A float matrix `[rows, columns]` as int8 `[rows, columns]` and float32 scales `[rows]`.

    The largest number of each row becomes 127, so the error is at most half a scale.

    Raises:
        InputError: not a matrix of finite floating-point numbers.
    """
    if tensor.dim() != 2 or not tensor.is_floating_point():
        raise InputError(f"quantize_rows: got {list(tensor.shape)} in {tensor.dtype}, wanted a matrix of floats")
    values = tensor.float()
    peaks = values.abs().amax(dim=1) if values.shape[1] else values.new_zeros(values.shape[0])  # [rows]
    if not bool(peaks.isfinite().all()):
        raise InputError("quantize_rows: got infinite numbers or NaN, wanted finite ones")
    scale = torch.where(peaks > 0, peaks / 127.0, torch.ones_like(peaks))
    return (values / scale[:, None]).round().clamp(-127, 127).to(torch.int8), scale


@strict
@torch.no_grad()
def dequantize_rows(quantized: Tensor, scale: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """The float matrix `[rows, columns]` that int8 rows and their scales `[rows]` stand for."""
    return (quantized.float() * scale.float()[:, None]).to(dtype)


@strict
def quantize_state(state: Mapping[str, Tensor], min_size: int = 4096) -> dict[str, Tensor]:
    """A state dict with its float matrices of at least `min_size` numbers as 8-bit rows and scales; the rest as it is.

    Write it with `save_state` and add `quantization_config` to `config.json` (see this module's first lines).
    """
    made: dict[str, Tensor] = {}
    for name, tensor in state.items():
        if tensor.dim() == 2 and tensor.is_floating_point() and tensor.numel() >= min_size:
            made[name], made[name + SCALE] = quantize_rows(tensor)
        else:
            made[name] = tensor
    return made
