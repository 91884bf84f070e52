# SPDX-License-Identifier: Apache-2.0
"""The worker of ``bench run`` with every timed call made slower by a share of its own time.

The slowdown is real: before the clock stops, the process keeps its core busy for that share
of what the call took. ``compare_rates`` plants it, to see whether a comparison notices.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from pocketrec_device.bench.stopwatch import Stopwatch
from pocketrec_device.bench.worker import main

__all__ = ["SHARE", "SlowStopwatch"]

SHARE = 0.15


class SlowStopwatch(Stopwatch):
    """Times calls that take ``SHARE`` longer than they would."""

    def time(self, name: str, call: Callable[[], object]) -> int:
        """See ``Stopwatch.time``."""
        started = time.perf_counter_ns()
        call()
        now = time.perf_counter_ns()
        end = now + int(SHARE * (now - started))
        while now < end:
            now = time.perf_counter_ns()
        self.samples_ns[name].append(now - started)
        return now - started


if __name__ == "__main__":
    main(SlowStopwatch())
