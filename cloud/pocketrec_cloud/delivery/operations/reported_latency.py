# SPDX-License-Identifier: Apache-2.0
"""How long devices say that their calls of rerank took, as one histogram per model line."""

from __future__ import annotations

import math
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

__all__ = ["LATENCY_BOUNDS_US", "ReportedLatency"]

LATENCY_BOUNDS_US = (50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000, 500_000)
"""Upper bounds in microseconds, those of a device of this release; the last bucket has none."""

_NAME = "pocketrec_reported_rerank_seconds"
_BOUNDS_S = (*(str(bound / 1e6) for bound in LATENCY_BOUNDS_US), "+Inf")


class ReportedLatency(Collector):
    """Adds up what is reported; safe to share between threads.

    Reports have counts per bucket and no durations, so the histogram has no sum.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[str, list[int]] = {}

    def add(self, model_name: str, bounds_us: Sequence[int], counts: Sequence[int]) -> None:
        """Add one report. What lies between other bounds than ours counts as the longer time.

        Args:
            model_name: Model line; one that is published, as it becomes a label.
            bounds_us: Upper bounds in microseconds, rising.
            counts: Calls per bound, and those above them all.
        """
        with self._lock:
            known = self._counts.setdefault(model_name, [0] * (len(LATENCY_BOUNDS_US) + 1))
            for bound_us, count in zip([*bounds_us, math.inf], counts, strict=True):
                known[bisect_left(LATENCY_BOUNDS_US, bound_us)] += count

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram."""
        family = HistogramMetricFamily(
            _NAME, "How long devices say that calls of rerank took.", labels=("model",)
        )
        with self._lock:
            by_model = {name: list(accumulate(counts)) for name, counts in self._counts.items()}
        for name, counts in by_model.items():
            family.add_metric((name,), list(zip(_BOUNDS_S, counts, strict=True)), None)
            family.add_sample(f"{_NAME}_count", {"model": name}, counts[-1])
        yield family
