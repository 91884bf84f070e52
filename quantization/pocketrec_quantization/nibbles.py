# SPDX-License-Identifier: Apache-2.0
"""Two 4-bit codes to a byte, row by row, as ONNX packs ``INT4``.

The first code of a row lies in the lower half of its first byte, in two's complement.
Every row starts a byte of its own, so that one row is read without its neighbours; what
an odd row leaves of its last byte is zero.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError

__all__ = ["LARGEST_NIBBLE", "pack_nibbles", "packed_width", "unpack_nibbles"]

LARGEST_NIBBLE = 7
"""Codes are symmetric: -7..7."""


def packed_width(width: int) -> int:
    """Return ceil(width / 2), the bytes of a row of ``width`` codes."""
    return -(-width // 2)


def pack_nibbles(codes: NDArray[np.int8]) -> NDArray[np.uint8]:
    """Pack rows of codes.

    Args:
        codes: (K, W) int8, each -7..7.

    Returns:
        (K, ceil(W / 2)) uint8.

    Raises:
        ConfigError: ``codes`` is no matrix of int8, or a code lies outside.

    Example:
        >>> pack_nibbles(np.array([[1, -2, 7]], np.int8)).tobytes().hex()
        'e107'
    """
    if codes.dtype != np.int8 or codes.ndim != 2:
        raise ConfigError(f"codes: expected (K, W) int8, got {codes.dtype} of {codes.shape}")
    if codes.size and (codes.max() > LARGEST_NIBBLE or codes.min() < -LARGEST_NIBBLE):
        raise ConfigError(f"codes: expected -{LARGEST_NIBBLE}..{LARGEST_NIBBLE} at 4 bits")
    halves = codes.view(np.uint8) & np.uint8(15)
    packed = halves[:, ::2].copy()
    packed[:, : codes.shape[1] // 2] |= halves[:, 1::2] << np.uint8(4)
    return packed


def unpack_nibbles(packed: NDArray[np.uint8], width: int) -> NDArray[np.int8]:
    """Unpack rows along the last axis.

    Args:
        packed: (..., ceil(W / 2)) uint8.
        width: W.

    Returns:
        (..., W) int8, each -8..7.
    """
    codes = np.empty((*packed.shape[:-1], 2 * packed.shape[-1]), np.int8)
    np.left_shift(packed, np.uint8(4), out=codes[..., ::2].view(np.uint8))
    codes[..., ::2] >>= np.int8(4)
    np.right_shift(packed.view(np.int8), np.int8(4), out=codes[..., 1::2])
    return codes[..., :width]
