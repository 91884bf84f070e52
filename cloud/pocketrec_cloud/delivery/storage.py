# SPDX-License-Identifier: Apache-2.0
"""Where a deployment keeps what it publishes and what it remembers, as one value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from pocketrec_cloud.delivery.artifacts import ArtifactStore
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["LOCK_TIMEOUT_S", "Storage"]

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Files and records of one deployment; safe to share between threads.

    Args:
        artifacts: Published files and their metadata.
        database: Records, and the lock that writers of metadata hold.
        lock_timeout_s: Seconds to wait for another writer.
    """

    artifacts: ArtifactStore
    database: DeliveryStore
    lock_timeout_s: float = LOCK_TIMEOUT_S

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one, on any machine, to write metadata while the block runs.

        Raises:
            StoreLockedError: Another process writes for longer than ``lock_timeout_s``.
            StoreError: The database fails.
        """
        with self.database.lock("publish", timeout_s=self.lock_timeout_s):
            yield
