# SPDX-License-Identifier: Apache-2.0
"""What the server depends on: its database, its files, and a timestamp that devices accept."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from datetime import UTC, datetime

from tuf.api.metadata import Metadata, Timestamp
from tuf.api.serialization import DeserializationError

from pocketrec.errors import ExpiredArtifactError, MalformedArtifactError
from pocketrec_cloud.delivery.operations.metrics import Metrics
from pocketrec_cloud.delivery.publishing.keys import Role
from pocketrec_cloud.delivery.publishing.tuf_editor import LIFETIMES
from pocketrec_cloud.delivery.records import RolloutState
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["dependency_checks"]


def dependency_checks(
    *,
    store: DeliveryStore,
    read_timestamp: Callable[[], bytes],
    read_files: Callable[[], object],
    metrics: Metrics,
    clock: Callable[[], float],
) -> Mapping[str, Callable[[], None]]:
    """Return what has to pass for the server to be ready, by the dependency's name.

    Args:
        store: What the server remembers; its rollouts are counted on the way.
        read_timestamp: Returns the TUF timestamp as devices get it.
        read_files: Reads something of what is published.
        metrics: Learns the timestamp's life, and how many rollouts there are.
        clock: Unix seconds.
    """

    def database() -> None:
        store.check()
        n_by_state = Counter(rollout.state for rollout in store.list_rollouts())
        metrics.rollouts_counted({state.value: n_by_state[state] for state in RolloutState})

    def timestamp() -> None:
        expires_at_s = timestamp_expiry(read_timestamp())
        lifetime_s = LIFETIMES[Role.TIMESTAMP].total_seconds()
        metrics.timestamp_read(issued_at_s=expires_at_s - lifetime_s, expires_at_s=expires_at_s)
        if expires_at_s <= clock():
            at = datetime.fromtimestamp(expires_at_s, UTC).isoformat()
            raise ExpiredArtifactError(
                f"the TUF timestamp expired at {at}, and devices refuse it; the server signs it "
                "anew by itself: its log says why it did not"
            )

    def files() -> None:
        read_files()

    return {"store": database, "files": files, "timestamp": timestamp}


def timestamp_expiry(content: bytes) -> float:
    """Return when a TUF timestamp expires, Unix seconds.

    Raises:
        MalformedArtifactError: It is none.
    """
    try:
        return Metadata[Timestamp].from_bytes(content).signed.expires.timestamp()
    except DeserializationError as exc:
        raise MalformedArtifactError("expected a TUF timestamp", field="timestamp") from exc
