# SPDX-License-Identifier: Apache-2.0
"""A store that lives as long as its process, for tests and trials."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from heapq import heappop, heappush

from pocketrec.errors import StoreError, StoreLockedError
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
    RolloutState,
)
from pocketrec_cloud.delivery.store_protocols import Change

__all__ = ["MemoryListener", "MemoryStore"]


class MemoryStore:
    """A ``DeliveryStore`` in memory; safe to share between threads.

    Does what the SQL stores do, to the same contract, and forgets everything with the
    process::

        store = MemoryStore()
        store.record_model(model)
        assert store.find_bundle(model.bundle_digest) == model
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()  # guards every field
        self._counts: Counter[Change] = Counter()
        self._devices: dict[str, DeviceRecord] = {}
        self._tokens: dict[bytes, str] = {}
        self._challenges: set[bytes] = set()
        self._expiries: list[tuple[int, bytes]] = []
        self._statuses: dict[tuple[str, str], DeviceStatusRecord] = {}
        self._models: dict[bytes, ModelRecord] = {}
        self._plans: dict[tuple[str, bytes], PlanRecord] = {}
        self._orders: list[OrderRecord] = []
        self._rollouts: dict[str, RolloutRecord] = {}
        self._outcomes: dict[str, dict[str, tuple[int, Outcome]]] = {}
        self._admins: dict[str, AdminRecord] = {}
        self._audit: list[AuditRecord] = []
        self._locks: dict[str, threading.Lock] = {}

    def put_device(
        self, device: DeviceRecord, *, challenge: bytes, challenge_expires_at_s: int
    ) -> bool:
        """Store a registration, unless its challenge was used before; see ``DeviceStore``.

        Raises:
            StoreError: Another device has this token.
        """
        with self._changed:
            while self._expiries and self._expiries[0][0] < device.seen_at_s:
                self._challenges.discard(heappop(self._expiries)[1])
            if challenge in self._challenges:
                return False
            if self._tokens.get(device.token_sha256, device.device_id) != device.device_id:
                raise StoreError("another device has this token; make a new one")
            self._challenges.add(challenge)
            heappush(self._expiries, (challenge_expires_at_s, challenge))
            known = self._devices.get(device.device_id)
            if known is not None:
                self._tokens.pop(known.token_sha256, None)
                device = replace(
                    device, created_at_s=known.created_at_s, revoked_at_s=known.revoked_at_s
                )
            self._devices[device.device_id] = device
            self._tokens[device.token_sha256] = device.device_id
        return True

    def find_device(self, device_id: str) -> DeviceRecord | None:
        """Return a device, or None."""
        with self._changed:
            return self._devices.get(device_id)

    def find_session(self, token_sha256: bytes) -> DeviceSession | None:
        """Return whom a token stands for, expired or not; None if unknown or revoked."""
        with self._changed:
            device_id = self._tokens.get(token_sha256)
            device = None if device_id is None else self._devices[device_id]
        if device is None or device.revoked_at_s:
            return None
        return DeviceSession(device_id=device.device_id, expires_at_s=device.token_expires_at_s)

    def revoke_device(self, device_id: str, at_s: int) -> bool:
        """Revoke a device; False when it is unknown. Revoking twice changes nothing."""
        with self._changed:
            device = self._devices.get(device_id)
            if device is None:
                return False
            if not device.revoked_at_s:
                self._devices[device_id] = replace(device, revoked_at_s=at_s)
                self._tell(Change.DEVICES)
        return True

    def list_devices(self, *, after: str, limit: int) -> list[DeviceRecord]:
        """Return devices in the order of their ids, those after one of them."""
        with self._changed:
            ids = sorted(device_id for device_id in self._devices if device_id > after)
            return [self._devices[device_id] for device_id in ids[:limit]]

    def put_status(self, status: DeviceStatusRecord) -> None:
        """Remember what a device reported; the report before it is replaced."""
        with self._changed:
            self._statuses[status.device_id, status.model_name] = status

    def find_statuses(
        self, device_ids: Sequence[str], model_name: str
    ) -> dict[str, DeviceStatusRecord]:
        """Return the last reports about a model line, by device, where there are any."""
        with self._changed:
            found = {
                device_id: self._statuses.get((device_id, model_name)) for device_id in device_ids
            }
        return {device_id: status for device_id, status in found.items() if status is not None}

    def record_model(self, model: ModelRecord) -> None:
        """Remember a bundle; recording it twice changes nothing."""
        with self._changed:
            self._models.setdefault(model.bundle_digest, model)

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""
        with self._changed:
            found = [model for model in self._models.values() if model.model_digest == model_digest]
        return max(found, key=lambda model: model.version, default=None)

    def find_bundle(self, bundle_digest: bytes) -> ModelRecord | None:
        """Return a bundle that was published, or None."""
        with self._changed:
            return self._models.get(bundle_digest)

    def find_plans(self, rows: Sequence[tuple[str, bytes]]) -> list[PlanRecord | None]:
        """Return the newest plan, or None, for each pair of a subject and a model's digest."""
        with self._changed:
            return [self._plans.get(row) for row in rows]

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """Store each plan if the newest one still has the version that it replaces."""
        with self._changed:
            return [self._swap_plan(plan, replaces) for plan, replaces in swaps]

    def add_order(self, order: OrderRecord) -> OrderRecord:
        """Store an order under the next sequence, unless its ``request_id`` is known."""
        with self._changed:
            for known in self._orders:
                if known.request_id == order.request_id:
                    return known
            stored = replace(order, sequence=len(self._orders) + 1)
            self._orders.append(stored)
            self._tell(Change.ORDERS)
        return stored

    def list_orders(self, *, after: int) -> list[OrderRecord]:
        """Return all orders after a sequence, in order."""
        with self._changed:
            return self._orders[max(after, 0) :]

    def last_sequence(self) -> int:
        """Return the highest sequence; 0 = there is no order."""
        with self._changed:
            return len(self._orders)

    def add_rollout(self, rollout: RolloutRecord) -> RolloutRecord | None:
        """Store a rollout, unless its ``request_id`` is known or its model line is taken."""
        with self._changed:
            for known in self._rollouts.values():
                if known.request_id == rollout.request_id:
                    return known
            if any(
                known.model_name == rollout.model_name
                and known.state in (RolloutState.RUNNING, RolloutState.PAUSED)
                for known in self._rollouts.values()
            ):
                return None
            self._rollouts[rollout.rollout_id] = rollout
            self._tell(Change.ROLLOUTS)
        return rollout

    def find_rollout(self, rollout_id: str) -> RolloutRecord | None:
        """Return a rollout, or None."""
        with self._changed:
            return self._rollouts.get(rollout_id)

    def list_rollouts(self, model_name: str = "") -> list[RolloutRecord]:
        """Return the rollouts of a model line, or of all, the oldest first."""
        with self._changed:
            known = list(self._rollouts.values())
        return [rollout for rollout in known if model_name in ("", rollout.model_name)]

    def swap_rollout(self, rollout: RolloutRecord, *, replaces: int) -> bool:
        """Store a rollout if the stored one still has the revision ``replaces``."""
        with self._changed:
            known = self._rollouts.get(rollout.rollout_id)
            if known is None or known.revision != replaces:
                return False
            self._rollouts[rollout.rollout_id] = rollout
            self._tell(Change.ROLLOUTS)
        return True

    def count_outcomes(self, rollout_id: str) -> dict[int, Mapping[Outcome, int]]:
        """Return by stage how many devices said what last about a rollout."""
        counts: dict[int, Counter[Outcome]] = {}
        with self._changed:
            for stage, outcome in self._outcomes.get(rollout_id, {}).values():
                counts.setdefault(stage, Counter())[outcome] += 1
        return dict(counts)

    def put_outcome(self, rollout_id: str, device_id: str, *, stage: int, outcome: Outcome) -> None:
        """Remember what a device says of a rollout, in the stage in which it did so first."""
        with self._changed:
            of_devices = self._outcomes.setdefault(rollout_id, {})
            first_stage, _ = of_devices.get(device_id, (stage, outcome))
            of_devices[device_id] = (first_stage, outcome)

    def put_admin(self, admin: AdminRecord) -> None:
        """Store an admin; one of the same name is replaced.

        Raises:
            StoreError: Another admin has this token.
        """
        with self._changed:
            other = self._find_admin(admin.token_sha256)
            if other is not None and other.name != admin.name:
                raise StoreError("another admin has this token; make a new one")
            self._admins[admin.name] = admin

    def find_admin(self, token_sha256: bytes) -> AdminRecord | None:
        """Return the admin of a token, expired or not, or None."""
        with self._changed:
            return self._find_admin(token_sha256)

    def list_admins(self) -> list[AdminRecord]:
        """Return all admins, by name."""
        with self._changed:
            return sorted(self._admins.values(), key=lambda admin: admin.name)

    def remove_admin(self, name: str) -> bool:
        """Forget an admin; False when there is none of this name."""
        with self._changed:
            return self._admins.pop(name, None) is not None

    def add_audit(self, entry: AuditRecord) -> None:
        """Append an entry under the next number."""
        with self._changed:
            self._audit.append(replace(entry, number=len(self._audit) + 1))

    def list_audit(self, *, after: int, limit: int) -> list[AuditRecord]:
        """Return entries after a number, in order."""
        start = max(after, 0)
        with self._changed:
            return self._audit[start : start + limit]

    def listen(self) -> MemoryListener:
        """Return a listener of its own."""
        return MemoryListener(self._changed, self._counts)

    @contextmanager
    def lock(self, name: str, *, timeout_s: float) -> Iterator[None]:
        """Hold a lock that every user of this store knows.

        Raises:
            StoreLockedError: Somebody else has held it for ``timeout_s``.
        """
        with self._changed:
            lock = self._locks.setdefault(name, threading.Lock())
        if not lock.acquire(timeout=timeout_s):
            raise StoreLockedError(
                f"the lock {name!r} has been held for {timeout_s:g} s; wait, then try again"
            )
        try:
            yield
        finally:
            lock.release()

    def check(self) -> None:
        """Return quietly: memory always answers."""

    def close(self) -> None:
        """Do nothing: there is nothing to give back."""

    def _swap_plan(self, plan: PlanRecord, replaces: int | None) -> bool:
        key = (plan.subject, plan.model_digest)
        newest = self._plans.get(key)
        if (None if newest is None else newest.version) != replaces:
            return False
        self._plans[key] = plan
        return True

    def _find_admin(self, token_sha256: bytes) -> AdminRecord | None:
        known = self._admins.values()
        return next((admin for admin in known if admin.token_sha256 == token_sha256), None)

    def _tell(self, change: Change) -> None:
        """Wake whoever listens; the lock is held."""
        self._counts[change] += 1
        self._changed.notify_all()


class MemoryListener:
    """A ``ChangeListener`` of a ``MemoryStore``; made by ``MemoryStore.listen``."""

    def __init__(self, changed: threading.Condition, counts: Mapping[Change, int]) -> None:
        self._changed, self._counts = changed, counts
        self._seen: dict[Change, int] = {}  # nothing yet: the first call returns every change
        self._is_closed = False

    def wait(self, timeout_s: float) -> frozenset[Change]:
        """Return what may have changed since the last call, or nothing after ``timeout_s``."""
        with self._changed:
            self._changed.wait_for(lambda: self._is_closed or self._news(), timeout_s)
            news = frozenset() if self._is_closed else self._news()
            self._seen = {change: self._counts.get(change, 0) for change in Change}
        return news

    def close(self) -> None:
        """Stop listening; a ``wait`` under way returns soon."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()

    def _news(self) -> frozenset[Change]:
        return frozenset(
            change for change in Change if self._seen.get(change) != self._counts.get(change, 0)
        )
