# SPDX-License-Identifier: Apache-2.0
"""What devices report of their speed, as Prometheus reads it."""

from __future__ import annotations

import math

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from pocketrec_cloud.delivery.operations.reported_latency import (
    LATENCY_BOUNDS_US,
    ReportedLatency,
)
from pocketrec_device.latency_counter import LATENCY_BOUNDS_US as BOUNDS_OF_DEVICES


def read(latency: ReportedLatency, model: str) -> dict[float, float]:
    """Return, as Prometheus would read it, how many calls took at most so many microseconds."""
    registry = CollectorRegistry()
    registry.register(latency)
    (family,) = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        round(1e6 * float(sample.labels["le"])) if sample.labels["le"] != "+Inf" else math.inf: (
            sample.value
        )
        for sample in family.samples
        if sample.name.endswith("_bucket") and sample.labels["model"] == model
    }


def test_reports_add_up_by_model() -> None:
    """Counts are those of all reports, from the bucket of the shortest calls on."""
    latency = ReportedLatency()
    counts = [1] + [0] * (len(LATENCY_BOUNDS_US) - 1) + [2]

    latency.add("demo", LATENCY_BOUNDS_US, counts)
    latency.add("demo", LATENCY_BOUNDS_US, counts)
    latency.add("other", LATENCY_BOUNDS_US, counts)

    assert read(latency, "demo") == dict.fromkeys(LATENCY_BOUNDS_US, 2) | {math.inf: 6}
    assert read(latency, "other")[math.inf] == 3


def test_bounds_are_those_of_devices() -> None:
    """So nothing is counted as longer than a device said."""
    assert LATENCY_BOUNDS_US == BOUNDS_OF_DEVICES


@pytest.mark.parametrize(
    ("bound_us", "at_most_us"), [(50, 50), (51, 100), (7000, 10_000), (900_000, math.inf)]
)
def test_other_bounds_count_as_the_longer_time(bound_us: int, at_most_us: float) -> None:
    """A device of another release may have others."""
    latency = ReportedLatency()

    latency.add("demo", [bound_us], [3, 0])

    counts = read(latency, "demo")
    assert {bound for bound, count in counts.items() if count} == {
        bound for bound in counts if bound >= at_most_us
    }
