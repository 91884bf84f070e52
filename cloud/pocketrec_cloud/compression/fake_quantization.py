# SPDX-License-Identifier: Apache-2.0
"""Rows of a codebook as a device will have them, with gradients as if they were not rounded."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["as_quantized", "quantize"]

_MIN_SCALE = 2.0**-126


def quantize(rows: Tensor, bits: int, *, has_row_scales: bool) -> tuple[Tensor, Tensor]:
    """Return codes and scales: the largest magnitude of a row, or of all, has the last code.

    Args:
        rows: (K, W) float32.
        bits: 8 or 4.
        has_row_scales: One scale per row; otherwise one for all.

    Returns:
        Codes (K, W) float32, whole numbers, and scales (K,) or (1,) float32.
    """
    largest_code = 2.0 ** (bits - 1) - 1
    magnitudes = rows.detach().abs()
    largest = magnitudes.amax(dim=1) if has_row_scales else magnitudes.amax().reshape(1)
    scales = largest / largest_code
    scales = torch.where(scales < _MIN_SCALE, 0.0, scales)
    steps = torch.where(scales > 0, scales, 1.0)[:, None]
    codes = (rows.detach() / steps).round().clamp(-largest_code, largest_code)
    return torch.where(scales[:, None] > 0, codes, 0.0), scales


def as_quantized(rows: Tensor, bits: int, *, has_row_scales: bool) -> Tensor:
    """Return codes times scales, (K, W) float32; gradients pass through unchanged.

    Args:
        rows: (K, W) float32.
        bits: 8 or 4.
        has_row_scales: One scale per row; otherwise one for all.

    Source:
        Bengio et al. 2013 (straight-through estimator).
    """
    quantized: Tensor = _StraightThrough.apply(rows, bits, has_row_scales)  # type: ignore[no-untyped-call]
    return quantized


class _StraightThrough(torch.autograd.Function):
    """Rounds on the way forward, exactly; does nothing on the way back."""

    @staticmethod
    def forward(_: Any, rows: Tensor, bits: int, has_row_scales: bool) -> Tensor:  # noqa: FBT001
        codes, scales = quantize(rows, bits, has_row_scales=has_row_scales)
        return codes * scales[:, None]

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        return gradients[0], None, None
