# SPDX-License-Identifier: Apache-2.0
"""A store that breaks down at one write, numbered over files and records together."""

from __future__ import annotations

from dataclasses import dataclass, field

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.publishing.artifacts import ArtifactStore, Stamp
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_cloud.delivery.stores.memory import MemoryStore

__all__ = ["Fault", "faulty"]


@dataclass
class Fault:
    """Which write fails, and what was written before it.

    Args:
        at: Number of the write; None = none fails.
        lands: Whether the write that fails takes effect: the answer is lost, not the write.
    """

    at: int | None
    lands: bool = False
    written: list[str] = field(default_factory=list)

    def strikes(self, name: str) -> bool:
        """Whether this write fails."""
        if len(self.written) == self.at:
            return True
        self.written.append(name)
        return False


class FaultyArtifacts:
    """Files whose writes fail when it is their turn."""

    def __init__(self, inner: ArtifactStore, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault
        self.url = inner.url

    def write(self, name: str, content: bytes) -> None:
        """Write, or fail."""
        if self._fault.strikes(name):
            if self._fault.lands:
                self._inner.write(name, content)
            raise OSError("disk full")
        self._inner.write(name, content)

    def read(self, name: str) -> bytes:
        """Read."""
        return self._inner.read(name)

    def read_range(self, name: str, offset_bytes: int, length_bytes: int) -> bytes:
        """Read a piece."""
        return self._inner.read_range(name, offset_bytes, length_bytes)

    def size_bytes(self, name: str) -> int | None:
        """Measure."""
        return self._inner.size_bytes(name)

    def names(self, folder: str) -> list[str]:
        """List."""
        return self._inner.names(folder)

    def stamp(self, name: str) -> Stamp:
        """Stamp."""
        return self._inner.stamp(name)


class FaultyRecords(MemoryStore):
    """Records of bundles that cannot be stored when it is their turn."""

    def __init__(self, fault: Fault) -> None:
        super().__init__()
        self._fault = fault

    def record_model(self, model: ModelRecord) -> None:
        """Record, or fail."""
        if self._fault.strikes("record"):
            if self._fault.lands:
                super().record_model(model)
            raise StoreError("disk full")
        super().record_model(model)


def faulty(artifacts: ArtifactStore, fault: Fault) -> Storage:
    """Return a store that fails where the fault says."""
    return Storage(artifacts=FaultyArtifacts(artifacts, fault), database=FaultyRecords(fault))
