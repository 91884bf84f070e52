# SPDX-License-Identifier: Apache-2.0
"""Memory: how much the system has, and giving back what was freed."""

from __future__ import annotations

import ctypes
import os
import sys

__all__ = ["release_freed_memory", "system_ram_bytes"]


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


def system_ram_bytes() -> int:
    """Return how much memory this system has, or 0 where it does not say."""
    try:
        n_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0
    return max(n_bytes, 0)
