# SPDX-License-Identifier: Apache-2.0
"""Gives memory that was freed back to the system, where the C library can."""

from __future__ import annotations

import ctypes
import sys

__all__ = ["release_freed_memory"]


def release_freed_memory() -> bool:
    """Ask the C library to return what it keeps for later allocations.

    Making packed weights takes several times the memory that they are kept in; without
    this, much of it stays with the process for good.

    Returns:
        Whether it did: only the GNU C library can, so far as we know.

    Source:
        Our choice; malloc_trim(3).
    """
    if not sys.platform.startswith("linux"):
        return False
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim is not None and bool(trim(0))
