# SPDX-License-Identifier: Apache-2.0
"""The database behind a memory of what every request asks it, and what hardly changes.

A device's id never changes once it has a token. Which bundle carries a model changes with a
publication, and a publication is what replaces ``timestamp.json``.
"""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from pathlib import Path

import sqlalchemy as sa

from pocketrec_cloud.delivery.store import ModelRecord, SqlStore

__all__ = ["CachedStore"]

_MAX_DEVICES = 100_000
_MAX_MODELS = 64


class CachedStore(SqlStore):
    """A ``SqlStore`` that answers again from memory; safe to share between threads.

    Args:
        engine: Where to connect.
        timestamp: The file that decides what is published.

    Raises:
        StoreError: The database cannot be used.
    """

    def __init__(self, engine: sa.Engine, *, timestamp: Path) -> None:
        super().__init__(engine)
        self._timestamp = timestamp
        self._lock = threading.Lock()
        self._devices: OrderedDict[bytes, str] = OrderedDict()
        self._models: dict[bytes, ModelRecord] = {}
        self._publication: tuple[int, ...] = ()

    def recall_device(self, token_sha256: bytes) -> str | None:
        """Return what ``find_device`` would, if no storage has to be asked; None otherwise."""
        with self._lock:
            known = self._devices.get(token_sha256)
            if known is not None:
                self._devices.move_to_end(token_sha256)
        return known

    def find_device(self, token_sha256: bytes) -> str | None:
        """Return the id of the device that holds a token, or None."""
        known = self.recall_device(token_sha256)
        if known is not None:
            return known
        found = super().find_device(token_sha256)
        if found is not None:
            with self._lock:
                self._devices[token_sha256] = found
                if len(self._devices) > _MAX_DEVICES:
                    self._devices.popitem(last=False)
        return found

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""
        published = self._published()
        with self._lock:
            if published != self._publication or len(self._models) >= _MAX_MODELS:
                self._models, self._publication = {}, published
            known = self._models.get(model_digest) if published else None
        if known is not None:
            return known
        found = super().find_model(model_digest)
        with self._lock:
            if found is not None and published == self._publication:
                self._models[model_digest] = found
        return found

    def _published(self) -> tuple[int, ...]:
        """Return what changes with every publication; empty when that is not known."""
        try:
            status = os.stat(self._timestamp)  # noqa: PTH116  on the path of every request
        except OSError:
            return ()
        return (status.st_mtime_ns, status.st_ino, status.st_size)
