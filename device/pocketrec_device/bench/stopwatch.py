# SPDX-License-Identifier: Apache-2.0
"""Times calls by name."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable

__all__ = ["Stopwatch"]


class Stopwatch:
    """Collects samples.

    Attributes:
        samples_ns: By name, nanoseconds per call, in order.
    """

    def __init__(self) -> None:
        self.samples_ns: defaultdict[str, list[int]] = defaultdict(list)

    def time(self, name: str, call: Callable[[], object]) -> int:
        """Call, keep how long it took, and return that in nanoseconds."""
        started = time.perf_counter_ns()
        call()
        taken_ns = time.perf_counter_ns() - started
        self.samples_ns[name].append(taken_ns)
        return taken_ns

    def add(self, name: str, taken_ns: int) -> None:
        """Keep a time that is made up of others."""
        self.samples_ns[name].append(taken_ns)

    @property
    def fewest(self) -> int:
        """Samples of the name that has fewest; 0 without a name."""
        return min(map(len, self.samples_ns.values()), default=0)

    def clear(self) -> None:
        """Forget all samples, and remember the names."""
        for samples in self.samples_ns.values():
            samples.clear()
