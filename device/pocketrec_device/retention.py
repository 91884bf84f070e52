# SPDX-License-Identifier: Apache-2.0
"""Decides which older pairs a store keeps for a return: as many as fit, the last used first.

A pair costs the bytes of its files that no pair before it needs: parts that two bundles
share are paid for once, and those of the current and the previous pair not at all.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import TypeAlias

__all__ = ["Files", "n_kept_within"]

Files: TypeAlias = Mapping[Hashable, int]
"""Bytes by file; two names of one file are one file."""


def n_kept_within(kept: Sequence[Files], free: Files, max_bytes: int) -> int:
    """Return how many pairs, the last used first, fit into a number of bytes.

    Args:
        kept: The files of each pair, the pair that was used last first.
        free: Files that are there anyhow.
        max_bytes: What the pairs may take together.
    """
    paid, n_bytes = set(free), 0
    for number, files in enumerate(kept):
        n_bytes += sum(size for file, size in files.items() if file not in paid)
        if n_bytes > max_bytes:
            return number
        paid.update(files)
    return len(kept)
