# SPDX-License-Identifier: Apache-2.0
"""A store behind a memory of what every request asks it, and what hardly changes.

Whom a token stands for is believed for a few seconds, so that a revocation by another process
takes effect soon. Which bundle carries a model changes with a publication, and a publication is
what replaces ``timestamp.json``.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from pocketrec_cloud.delivery.records import DeviceRecord, DeviceSession, ModelRecord
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["CachedStore"]

_SESSIONS_LIVE_S = 5.0
_MAX_SESSIONS = 100_000
_MAX_MODELS = 64


class CachedStore:
    """A ``DeliveryStore`` that answers again from memory; safe to share between threads.

    All that is not about sessions and models is the other store's.

    Args:
        store: What remembers for good; closed with this one.
        stamp: Returns what changes with every publication; something false = not known.
        clock: Seconds that never go back.
    """

    def __init__(
        self,
        store: DeliveryStore,
        *,
        stamp: Callable[[], object],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store, self._stamp, self._clock = store, stamp, clock
        self._turn = threading.Lock()
        self._sessions: OrderedDict[bytes, tuple[float, DeviceSession]] = OrderedDict()
        self._tokens: dict[str, bytes] = {}
        self._models: dict[bytes, ModelRecord] = {}
        self._models_stamp: object = None
        self.find_device = store.find_device
        self.list_devices = store.list_devices
        self.put_status = store.put_status
        self.find_statuses = store.find_statuses
        self.record_model = store.record_model
        self.find_bundle = store.find_bundle
        self.find_plans = store.find_plans
        self.swap_plans = store.swap_plans
        self.add_order = store.add_order
        self.list_orders = store.list_orders
        self.last_sequence = store.last_sequence
        self.add_rollout = store.add_rollout
        self.find_rollout = store.find_rollout
        self.list_rollouts = store.list_rollouts
        self.swap_rollout = store.swap_rollout
        self.count_outcomes = store.count_outcomes
        self.put_outcome = store.put_outcome
        self.put_admin = store.put_admin
        self.find_admin = store.find_admin
        self.list_admins = store.list_admins
        self.remove_admin = store.remove_admin
        self.add_audit = store.add_audit
        self.list_audit = store.list_audit
        self.listen = store.listen
        self.lock = store.lock
        self.check = store.check
        self.close = store.close

    def put_device(
        self, device: DeviceRecord, *, challenge: bytes, challenge_expires_at_s: int
    ) -> bool:
        """Store a registration, unless its challenge was used before; see ``DeviceStore``."""
        is_stored = self._store.put_device(
            device, challenge=challenge, challenge_expires_at_s=challenge_expires_at_s
        )
        self._forget(device.device_id)
        return is_stored

    def revoke_device(self, device_id: str, at_s: int) -> bool:
        """Revoke a device; False when it is unknown. Revoking twice changes nothing."""
        is_known = self._store.revoke_device(device_id, at_s)
        self._forget(device_id)
        return is_known

    def recall_session(self, token_sha256: bytes) -> DeviceSession | None:
        """Return what ``find_session`` would, if no storage has to be asked; None otherwise."""
        with self._turn:
            known = self._sessions.get(token_sha256)
        if known is None or known[0] < self._clock():
            return None
        return known[1]

    def find_session(self, token_sha256: bytes) -> DeviceSession | None:
        """Return whom a token stands for, expired or not; None if unknown or revoked."""
        known = self.recall_session(token_sha256)
        if known is not None:
            return known
        asked_at_s = self._clock()
        found = self._store.find_session(token_sha256)
        if found is not None:
            with self._turn:
                self._remember(token_sha256, found, asked_at_s + _SESSIONS_LIVE_S)
        return found

    def find_model(self, model_digest: bytes) -> ModelRecord | None:
        """Return the bundle of highest version that carries a frozen model, or None."""
        stamp = self._stamp()
        with self._turn:
            if stamp != self._models_stamp or len(self._models) >= _MAX_MODELS:
                self._models, self._models_stamp = {}, stamp
            known = self._models.get(model_digest) if stamp else None
        if known is not None:
            return known
        found = self._store.find_model(model_digest)
        with self._turn:
            if found is not None and stamp and stamp == self._models_stamp:
                self._models[model_digest] = found
        return found

    def _remember(self, token_sha256: bytes, session: DeviceSession, until_s: float) -> None:
        """Keep a session; the lock is held."""
        self._sessions.pop(token_sha256, None)
        self._sessions[token_sha256] = (until_s, session)
        self._tokens[session.device_id] = token_sha256
        if len(self._sessions) > _MAX_SESSIONS:
            oldest, (_, forgotten) = self._sessions.popitem(last=False)
            if self._tokens.get(forgotten.device_id) == oldest:
                del self._tokens[forgotten.device_id]

    def _forget(self, device_id: str) -> None:
        with self._turn:
            token_sha256 = self._tokens.pop(device_id, None)
            if token_sha256 is not None:
                self._sessions.pop(token_sha256, None)
