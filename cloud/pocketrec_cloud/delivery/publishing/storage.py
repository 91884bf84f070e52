# SPDX-License-Identifier: Apache-2.0
"""Where a deployment keeps what it publishes and what it remembers, as one value."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from pocketrec.errors import ConfigError, StoreError
from pocketrec.files import make_folders
from pocketrec_cloud.delivery.publishing.artifacts import (
    ArtifactStore,
    is_bucket_url,
    open_artifacts,
)
from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.opening import open_store

__all__ = ["LOCK_TIMEOUT_S", "Storage", "open_storage"]

LOCK_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Storage:
    """Files and records of one deployment; safe to share between threads.

    Close it, or use it in ``with``::

        with open_storage("STORE") as storage:
            publish_bundle(storage, keys, bundle, sensitivity)

    Args:
        artifacts: Published files and their metadata.
        database: Records, and the lock that writers of metadata hold.
        lock_timeout_s: Seconds to wait for another writer.
    """

    artifacts: ArtifactStore
    database: DeliveryStore
    lock_timeout_s: float = LOCK_TIMEOUT_S

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the database's connections back."""
        self.database.close()

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Be the only one, on any machine, to write metadata while the block runs.

        Raises:
            StoreLockedError: Another process writes for longer than ``lock_timeout_s``.
            StoreError: The database fails.
        """
        with self.database.lock("publish", timeout_s=self.lock_timeout_s):
            yield


def open_storage(
    store: str | Path,
    database: str = "",
    *,
    is_new: bool = False,
) -> Storage:
    """Open files and records.

    Args:
        store: A folder, or the URL of a bucket.
        database: URL of the database (``stores.opening.open_store``); empty = a SQLite file in
            the store's folder.
        is_new: Whether to make the folder when it is absent.

    Raises:
        ConfigError: A URL cannot be understood, or a bucket comes without a database.
        StoreError: There is no such folder, or the database cannot be used.
        MissingExtraError: Buckets need a library that is not installed.
        OSError: The folder cannot be made.
    """
    artifacts = open_artifacts(store)
    if is_bucket_url(store):
        if not database:
            raise ConfigError("a store in a bucket needs a database: name one with --database URL")
        return Storage(artifacts=artifacts, database=open_store(database))
    folder = Path(store)
    if is_new:
        make_folders(folder)
    if not folder.is_dir():
        raise StoreError(
            f"expected a repository in {str(folder)!r}; make one with `pocketrec keys init`"
        )
    return Storage(artifacts=artifacts, database=open_store(database or folder / DATABASE_FILE))
