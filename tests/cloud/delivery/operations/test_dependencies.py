# SPDX-License-Identifier: Apache-2.0
"""What the server asks of its store, files and timestamp."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from tuf.api.metadata import Metadata, Timestamp

from pocketrec.errors import ExpiredArtifactError, MalformedArtifactError, StoreError
from pocketrec_cloud.delivery.operations.dependencies import dependency_checks
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.operations.stores import watch_store

EXPIRY_S = 1_800_000_000


@dataclass
class SmallStore:
    """A store that knows how it is, and nothing else."""

    error: StoreError | None = None

    def check(self) -> None:
        """Answer, or fail."""
        if self.error is not None:
            raise self.error

    def list_rollouts(self, model_name: str = "") -> list[object]:
        """There are none."""
        return []


def checks(
    metrics: Metrics, store: SmallStore | None = None, **changes: object
) -> dict[str, Callable[[], None]]:
    """Return the checks of a deployment that is well, unless changed."""
    timestamp = Metadata(Timestamp(expires=datetime.fromtimestamp(EXPIRY_S, UTC))).to_bytes()
    arguments = {
        "store": store or SmallStore(),
        "read_timestamp": lambda: timestamp,
        "read_files": lambda: None,
        "metrics": metrics,
        "clock": lambda: EXPIRY_S - 1,
    }
    return dict(dependency_checks(**arguments | changes))


class TestDependencyChecks:
    def test_all_is_well(self) -> None:
        """Nothing is raised; the timestamp's life and the rollouts are in the metrics."""
        metrics = Metrics()

        for check in checks(metrics).values():
            check()

        get = metrics.registry.get_sample_value
        assert get("pocketrec_tuf_timestamp_expires_seconds") == EXPIRY_S
        assert get("pocketrec_tuf_timestamp_issued_seconds") == EXPIRY_S - 86_400
        assert get("pocketrec_rollouts", {"state": "running"}) == 0

    def test_store_fails(self) -> None:
        """The store's own error names the cause."""
        store = SmallStore(StoreError("no connection"))

        with pytest.raises(StoreError, match="no connection"):
            checks(Metrics(), store)["store"]()

    def test_timestamp_expired(self) -> None:
        """From the second of its expiry on, devices refuse it."""
        with pytest.raises(ExpiredArtifactError, match="2027-01-15T08:00:00"):
            checks(Metrics(), clock=lambda: EXPIRY_S)["timestamp"]()

    def test_timestamp_is_damaged(self) -> None:
        """What is no timestamp is said to be none."""
        with pytest.raises(MalformedArtifactError, match="expected a TUF timestamp"):
            checks(Metrics(), read_timestamp=lambda: b"{}")["timestamp"]()


class TestWatchStore:
    def test_operations_are_timed_and_failures_counted(self) -> None:
        """Each operation is counted under its name."""
        metrics, store = Metrics(), SmallStore()
        watched = watch_store(store, metrics.storing)

        assert watched.list_rollouts("demo") == []
        store.error = StoreError("gone")
        with pytest.raises(StoreError):
            watched.check()

        get = metrics.registry.get_sample_value
        assert get("pocketrec_store_seconds_count", {"operation": "list_rollouts"}) == 1
        assert get("pocketrec_store_errors_total", {"operation": "check"}) == 1
