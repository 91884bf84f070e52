# SPDX-License-Identifier: Apache-2.0
"""Four 2-bit codes to a byte.

The first code lies in the two lowest bits of the first byte. What is left of the
last byte is zero, and a reader refuses anything else: equal codes are equal bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError, MalformedArtifactError

__all__ = ["pack_codes", "packed_size", "unpack_codes"]

_SHIFTS = np.array([0, 2, 4, 6], np.uint8)
_PER_BYTE = 4


def packed_size(n_codes: int) -> int:
    """Return ceil(n_codes / 4), the bytes that ``n_codes`` codes take."""
    return -(-n_codes // _PER_BYTE)


def pack_codes(codes: NDArray[np.uint8]) -> bytes:
    """Pack codes into ceil(C / 4) bytes.

    Args:
        codes: (C,) uint8, each 0..3.

    Returns:
        The packed bytes, first code in the lowest bits.

    Raises:
        ConfigError: ``codes`` is not one-dimensional uint8, or a code is above 3.

    Example:
        >>> pack_codes(np.array([1, 2, 3, 1, 2], np.uint8)).hex()
        '7902'
    """
    if codes.dtype != np.uint8 or codes.ndim != 1 or (codes >= _PER_BYTE).any():
        raise ConfigError(
            f"codes: expected (C,) uint8 of 0..3, got {codes.dtype} of shape {codes.shape}"
        )
    padded = np.zeros(packed_size(codes.size) * _PER_BYTE, np.uint8)
    padded[: codes.size] = codes
    quads = padded.reshape(-1, _PER_BYTE) << _SHIFTS
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(quads, axis=1)
    return packed.tobytes()


def unpack_codes(data: bytes, n_codes: int, *, offset: int = 0) -> NDArray[np.uint8]:
    """Unpack ``n_codes`` codes.

    Args:
        data: Exactly ceil(n_codes / 4) bytes.
        n_codes: How many codes to expect.
        offset: Where ``data`` starts in its artifact, for the error's sake.

    Returns:
        (n_codes,) uint8, each 0..3.

    Raises:
        MalformedArtifactError: ``data`` has another length, or bits after the last code are set.
    """
    if len(data) != packed_size(n_codes):
        raise MalformedArtifactError(
            f"expected {packed_size(n_codes)} bytes for {n_codes} codes, got {len(data)}",
            field="codes",
            offset=offset,
        )
    packed = np.frombuffer(data, np.uint8)
    codes = ((packed[:, None] >> _SHIFTS) & np.uint8(_PER_BYTE - 1)).reshape(-1)
    if codes[n_codes:].any():
        raise MalformedArtifactError(
            f"the bits after code {n_codes} must be zero, got 0x{packed[-1]:02x}",
            field="codes",
            offset=offset + len(data) - 1,
        )
    return codes[:n_codes]
