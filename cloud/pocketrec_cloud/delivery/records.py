# SPDX-License-Identifier: Apache-2.0
"""What the server remembers: devices, published models, the last plan of each subject.

``DeliveryStore`` is the seam to where it is kept. Tokens are known by their digests only, and no
item or event is ever stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

__all__ = ["DeliveryStore", "DeviceRecord", "ModelRecord", "PlanRecord", "PlanSwap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceRecord:
    """A device that registered."""

    device_id: str
    token_sha256: bytes
    backend: str
    app_version: str
    os: str
    ram_bytes: int
    created_at_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRecord:
    """A bundle that was published, and the frozen model inside it."""

    bundle_digest: bytes
    model_digest: bytes
    model_name: str
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """The newest plan of one subject for one model; ``container`` is what was sent."""

    subject: str
    model_digest: bytes
    version: int
    planner: str
    budget_bytes: int
    issued_at_s: int
    expires_at_s: int
    container: bytes


PlanSwap: TypeAlias = tuple[PlanRecord, int | None]
"""A plan to store, and the version that the newest one must still have; None = there is none."""


class DeliveryStore(Protocol):
    """Storage of the delivery service; every method is one transaction.

    Raises:
        StoreError: From any method, when the storage fails; the call may be repeated.
    """

    def add_device(self, device: DeviceRecord) -> None:
        """Remember a device; its id and token are new."""

    def find_device(self, token_sha256: bytes) -> str | None:
        """Return the id of the device that holds a token, or None."""

    def recall_device(self, token_sha256: bytes) -> str | None:
        """Return what ``find_device`` would, if no storage has to be asked; None otherwise."""

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""

    def find_plans(self, rows: Sequence[tuple[str, bytes]]) -> list[PlanRecord | None]:
        """Return the newest plan, or None, for each pair of a subject and a model's digest."""

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """Store each plan if the newest one still has the version that it replaces.

        Args:
            swaps: Of different subjects or models. What is stored is on disk on return.

        Returns:
            False where another writer came first; nothing was stored there.
        """
