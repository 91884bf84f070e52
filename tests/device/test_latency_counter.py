# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from pocketrec_device.latency_counter import LATENCY_BOUNDS_US, LatencyCounter, counted


class Ranker:
    """Something whose calls are counted."""

    def __init__(self, latencies: LatencyCounter | None) -> None:
        self.latencies = latencies

    @counted
    def rank(self, item: str, *, k: int) -> str:
        """Return the item k times."""
        return item * k

    @counted
    def fail(self) -> None:
        """Always fails."""
        raise ValueError


class TestLatencyCounter:
    def test_buckets(self) -> None:
        """A bound belongs to its bucket; what is above them all has one of its own."""
        counter = LatencyCounter()
        for duration_us in (0, 50, 50.001, 100, 10**6):
            counter.add(int(1000 * duration_us))

        counts = counter.take()
        assert (counts[0], counts[1], counts[-1]) == (2, 2, 1)
        assert len(counts) == len(LATENCY_BOUNDS_US) + 1

    def test_take_and_put_back(self) -> None:
        """Counts are told once, unless nobody heard them."""
        counter = LatencyCounter()
        counter.add(1)
        counts = counter.take()
        assert sum(counter.take()) == 0
        counter.add(10**12)
        counter.put_back(counts)

        assert (sum(after := counter.take()), after[0], after[-1]) == (2, 1, 1)

    def test_threads(self) -> None:
        """No count is lost between threads."""
        counter = LatencyCounter()
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(counter.add, range(4000)))

        assert sum(counter.take()) == 4000


class TestCounted:
    def test_counts(self) -> None:
        """Calls that succeed are counted, and give what they gave before."""
        ranker = Ranker(LatencyCounter())

        assert ranker.rank("a", k=3) == "aaa"
        with pytest.raises(ValueError, match=r"^$"):
            ranker.fail()
        assert ranker.latencies is not None
        assert sum(ranker.latencies.take()) == 1

    def test_off(self) -> None:
        """Without a counter nothing is counted."""
        assert Ranker(None).rank("a", k=2) == "aa"
