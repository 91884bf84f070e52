# SPDX-License-Identifier: Apache-2.0
"""Rounds rows of a float table to few bits after training, with one scale per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["round_rows"]

_SHRINKS = np.linspace(0.5, 1.0, 26)


def round_rows(rows: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Return the values that symmetric codes with a scale per row stand for.

    Of 26 scales up to the one that clips nothing, each row takes that of least squared
    error; with few bits, clipping its largest values pays.

    Args:
        rows: (K, W) float32.
        bits: Of a code, 2 to 8; codes are within ±(2^(bits - 1) - 1).

    Returns:
        (K, W) float32.

    Raises:
        ConfigError: ``bits`` is out of range.
    """
    if not 2 <= bits <= 8:
        raise ConfigError(f"expected 2 to 8 bits, found {bits}")
    limit = 2 ** (bits - 1) - 1
    widest = np.abs(rows).max(axis=1, keepdims=True) / limit
    widest[widest == 0] = 1.0
    best = np.zeros_like(rows)
    least = np.full((rows.shape[0], 1), np.inf, np.float32)
    for shrink in _SHRINKS:
        scale = (widest * shrink).astype(np.float32)
        values = np.clip(np.rint(rows / scale), -limit, limit) * scale
        error = np.square(values - rows).sum(axis=1, keepdims=True)
        better = error < least
        best, least = np.where(better, values, best), np.where(better, error, least)
    rounded: NDArray[np.float32] = best.astype(np.float32)
    return rounded
