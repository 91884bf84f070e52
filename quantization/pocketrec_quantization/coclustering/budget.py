# SPDX-License-Identifier: Apache-2.0
"""Finds the resolution whose rows fill a budget: bisection on its logarithm, interpolated."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from pocketrec.errors import InfeasibleBudgetError
from pocketrec_quantization.coclustering.options import Sides

__all__ = ["Budget", "search_resolution"]

Found = TypeVar("Found")

_FILLED = 0.995  # of the budget: nearer is not worth another solution
_MOST_TRIALS = 24
_STEP = math.log(8)
_LOWEST = math.log(1e-9)  # below the start; then 0 is tried, and nothing is lower
_SAME = 1e-5  # two logarithms that are one


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much the rows of the counted sides may take.

    Attributes:
        limit: Rows, or bytes.
        row_bytes: Bytes of one row; None where rows themselves are counted.
        counted: The sides whose tables count.
        numbers: How many row numbers a user, and an item, has: 1 or 2.
    """

    limit: int
    row_bytes: int | None
    counted: Sides
    numbers: tuple[int, int] = (1, 1)

    def size(self, n_rows: tuple[int, int], n_nodes: tuple[int, int]) -> int:
        """Return what tables take: rows, or bytes with their row numbers.

        A row number takes 2 bytes where there are at most 65,536 rows, and 4 beyond.

        Args:
            n_rows: Of users and items.
            n_nodes: U and V.
        """
        is_counted = self.counted.has_users, self.counted.has_items
        total = 0
        for counts, rows, nodes, numbers in zip(
            is_counted, n_rows, n_nodes, self.numbers, strict=True
        ):
            if counts and self.row_bytes is None:
                total += rows
            elif counts and self.row_bytes is not None:
                total += rows * self.row_bytes + nodes * numbers * (2 if rows <= 2**16 else 4)
        return total


@dataclass(slots=True, kw_only=True)
class _Bracket(Generic[Found]):
    """The best trial that fits, and the lowest resolution that does not."""

    low: float = -math.inf
    low_size: int = 0
    best: Found | None = None
    high: float = math.inf
    high_size: int = 0

    def next(self, limit: int) -> float:
        """Return the logarithm to try next: by a power law between both ends, but inside."""
        if self.high == math.inf:
            return self.low + _STEP
        if self.low == -math.inf:
            return self.high - _STEP
        share = math.log(limit / max(1, self.low_size)) / math.log(
            self.high_size / max(1, self.low_size)
        )
        return self.low + (self.high - self.low) * min(0.9, max(0.1, share))


def search_resolution(
    solve: Callable[[float], tuple[int, Found]], *, limit: int, start: float, highest: float
) -> Found:
    """Return the largest solution that fits a limit, and never one that does not.

    Sizes grow with the resolution, but not strictly: the search ends when a solution fills
    99.5 % of the limit, when the bracket is a point, or after 24 trials.

    Args:
        solve: From a resolution to the size of its solution, and the solution.
        limit: What the size may be.
        start: The resolution to try first, above 0.
        highest: A resolution beyond which solutions stay the same.

    Raises:
        InfeasibleBudgetError: Not even the resolution 0 fits.

    Source:
        Our choice; BACO (arXiv 2604.18351) stops in the middle of a solution instead.
    """
    ends: _Bracket[Found] = _Bracket()
    at = min(math.log(start), math.log(highest))
    for _ in range(_MOST_TRIALS):
        size, found = solve(math.exp(at))
        if size <= limit:
            if ends.best is None or size >= ends.low_size:
                ends.best, ends.low_size = found, size
            ends.low = at
            if size >= _FILLED * limit or at >= math.log(highest):
                break
        else:
            ends.high, ends.high_size = at, size
            if ends.best is None and at < math.log(start) + _LOWEST:
                break
        at = min(ends.next(limit), math.log(highest))
        if ends.high - ends.low < _SAME:
            break
    return _lowest(solve, limit) if ends.best is None else ends.best


def _lowest(solve: Callable[[float], tuple[int, Found]], limit: int) -> Found:
    """Return the solution without balance, or say that there is none."""
    size, found = solve(0.0)
    if size > limit:
        raise InfeasibleBudgetError(
            f"expected a budget of at least {size}, which co-clusters without balance take, got "
            f"{limit}: parts of the graph that share no interaction are never merged",
            requested_bytes=limit,
            minimum_bytes=size,
        )
    return found
