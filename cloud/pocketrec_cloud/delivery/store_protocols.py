# SPDX-License-Identifier: Apache-2.0
"""Where the server's records are kept: one protocol per concern, and their union.

Every method is one transaction: what it stored survives a crash once it has returned, and a
call that failed stored nothing. Several processes may share one store.

Any method raises ``StoreError`` when the storage fails; the call may be repeated.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import Protocol

from pocketrec_cloud.delivery.records import (
    AdminRecord,
    AuditRecord,
    DeviceRecord,
    DeviceSession,
    DeviceStatusRecord,
    ModelRecord,
    OrderRecord,
    Outcome,
    PlanRecord,
    PlanSwap,
    RolloutRecord,
)

__all__ = [
    "AdminStore",
    "AuditStore",
    "Change",
    "ChangeListener",
    "DeliveryStore",
    "DeviceStore",
    "ModelStore",
    "OrderStore",
    "PlanStore",
    "RolloutStore",
]


class DeviceStore(Protocol):
    """Devices, their tokens, and what they reported."""

    def put_device(
        self, device: DeviceRecord, *, challenge: bytes, challenge_expires_at_s: int
    ) -> bool:
        """Store a registration, unless its challenge was used before.

        A device that is known keeps ``created_at_s`` and ``revoked_at_s``; all else is
        replaced. Challenges past their expiry may be forgotten.

        Args:
            device: What to store.
            challenge: What identifies the challenge, up to 32 bytes.
            challenge_expires_at_s: Unix seconds.

        Returns:
            False when the challenge was used before; nothing was stored.
        """

    def find_device(self, device_id: str) -> DeviceRecord | None:
        """Return a device, or None."""

    def find_session(self, token_sha256: bytes) -> DeviceSession | None:
        """Return whom a token stands for, expired or not; None if unknown or revoked."""

    def revoke_device(self, device_id: str, at_s: int) -> bool:
        """Revoke a device; False when it is unknown. Revoking twice changes nothing."""

    def list_devices(self, *, after: str, limit: int) -> list[DeviceRecord]:
        """Return devices in the order of their ids, those after one of them."""

    def put_status(self, status: DeviceStatusRecord) -> None:
        """Remember what a device reported; the report before it is replaced."""

    def find_statuses(
        self, device_ids: Sequence[str], model_name: str
    ) -> dict[str, DeviceStatusRecord]:
        """Return the last reports about a model line, by device, where there are any."""


class ModelStore(Protocol):
    """Bundles that were published."""

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""


class PlanStore(Protocol):
    """The newest plan of each subject and model."""

    def find_plans(self, rows: Sequence[tuple[str, bytes]]) -> list[PlanRecord | None]:
        """Return the newest plan, or None, for each pair of a subject and a model's digest."""

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """Store each plan if the newest one still has the version that it replaces.

        Args:
            swaps: Of different subjects or models. What is stored is on disk on return.

        Returns:
            False where another writer came first; nothing was stored there.
        """


class OrderStore(Protocol):
    """What plans should be like, in the order in which it was said."""

    def add_order(self, order: OrderRecord) -> OrderRecord:
        """Store an order under the next sequence, unless its ``request_id`` is known.

        Sequences become visible in order: who has seen one has seen all before it.

        Returns:
            The order as it is stored; with a known ``request_id``, the earlier one.
        """

    def list_orders(self, *, after: int) -> list[OrderRecord]:
        """Return all orders after a sequence, in order."""

    def last_sequence(self) -> int:
        """Return the highest sequence; 0 = there is no order."""


class RolloutStore(Protocol):
    """Rollouts, and what devices say of them."""

    def add_rollout(self, rollout: RolloutRecord) -> RolloutRecord | None:
        """Store a rollout, unless its ``request_id`` is known or its model line is taken.

        Returns:
            The rollout as it is stored; with a known ``request_id``, the earlier one; None
            when another rollout of this model line is running or paused.
        """

    def find_rollout(self, rollout_id: str) -> RolloutRecord | None:
        """Return a rollout, or None."""

    def list_rollouts(self, model_name: str = "") -> list[RolloutRecord]:
        """Return the rollouts of a model line, or of all, the oldest first."""

    def swap_rollout(self, rollout: RolloutRecord, *, replaces: int) -> bool:
        """Store a rollout if the stored one still has the revision ``replaces``."""

    def count_outcomes(self, rollout_id: str) -> dict[int, Mapping[Outcome, int]]:
        """Return by stage how many devices said what last about a rollout."""

    def put_outcome(self, rollout_id: str, device_id: str, *, stage: int, outcome: Outcome) -> None:
        """Remember what a device says of a rollout.

        A device counts once per rollout: in the stage in which it reported first, with what
        it said last.
        """


class AdminStore(Protocol):
    """Who may call the admin service."""

    def put_admin(self, admin: AdminRecord) -> None:
        """Store an admin; one of the same name is replaced."""

    def find_admin(self, token_sha256: bytes) -> AdminRecord | None:
        """Return the admin of a token, expired or not, or None."""

    def list_admins(self) -> list[AdminRecord]:
        """Return all admins, by name."""

    def remove_admin(self, name: str) -> bool:
        """Forget an admin; False when there is none of this name."""


class AuditStore(Protocol):
    """What was done, by whom; entries are never changed."""

    def add_audit(self, entry: AuditRecord) -> None:
        """Append an entry under the next number."""

    def list_audit(self, *, after: int, limit: int) -> list[AuditRecord]:
        """Return entries after a number, in order."""


class Change(StrEnum):
    """What may have changed in a store.

    Orders are there when one was added; rollouts when one was added or swapped, not when a
    device reported; devices when one was revoked, not when one registered. What is published
    is seen in its metadata.
    """

    ORDERS = "orders"
    ROLLOUTS = "rollouts"
    DEVICES = "devices"


class ChangeListener(Protocol):
    """Hears of changes that this or another process made; not to be shared between threads."""

    def wait(self, timeout_s: float) -> frozenset[Change]:
        """Return what may have changed since the last call, or nothing after ``timeout_s``.

        The first call, and the one after a lost connection, return every ``Change``. A
        listener that lost its connection finds it again by itself.
        """

    def close(self) -> None:
        """Stop listening; a ``wait`` under way returns soon."""


class DeliveryStore(
    DeviceStore, ModelStore, PlanStore, OrderStore, RolloutStore, AdminStore, AuditStore, Protocol
):
    """Everything the delivery service remembers; safe to share between threads."""

    def listen(self) -> ChangeListener:
        """Return a listener of its own."""

    def lock(self, name: str, *, timeout_s: float) -> AbstractContextManager[None]:
        """Hold a lock that every process with this store knows.

        Raises:
            StoreLockedError: Another process has held it for ``timeout_s``.
        """

    def check(self) -> None:
        """Return quietly when the storage answers."""

    def close(self) -> None:
        """Give all connections back."""
