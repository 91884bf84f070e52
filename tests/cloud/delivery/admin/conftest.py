# SPDX-License-Identifier: Apache-2.0
"""What admin handlers work on, in memory, with a clock that a test moves."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.admin.service import AdminIdentity, AdminService
from pocketrec_cloud.delivery.plans.models import ModelCatalogue
from pocketrec_cloud.delivery.publishing.acceptance import PublishingDesk
from pocketrec_cloud.delivery.publishing.artifacts import open_artifacts
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.push.desk import PushDesk
from pocketrec_cloud.delivery.push.order_keeper import OrderKeeper
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole, DeviceRecord
from pocketrec_cloud.delivery.rollouts.desk import make_desk
from pocketrec_cloud.delivery.stores.memory import MemoryStore


@dataclass
class AdminClock:
    """Unix seconds that move only when a test says so."""

    now_s: float = 1_800_000_000

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


@pytest.fixture
def clock() -> AdminClock:
    """The server's clock."""
    return AdminClock()


@pytest.fixture
def store() -> MemoryStore:
    """What the server remembers."""
    return MemoryStore()


@pytest.fixture
def service(store: MemoryStore, clock: AdminClock, tmp_path: Path) -> AdminService:
    """What the handlers work on; nothing is published."""
    artifacts = open_artifacts(tmp_path)
    return AdminService(
        store=store,
        clock=clock,
        publishing=PublishingDesk(
            storage=Storage(artifacts=artifacts, database=store), keys=tmp_path / "keys"
        ),
        pushes=PushDesk(
            models=ModelCatalogue(artifacts, store),
            orders=OrderKeeper(store, clock),
            count_watching=lambda _: 0,
        ),
        rollouts=make_desk(store, PublicationCache(artifacts), SigningKey(b"d" * 32), clock),
        model_lines=lambda: ("demo", "other"),
    )


@pytest.fixture
def admin() -> AdminIdentity:
    """Somebody who may do everything."""
    return AdminIdentity(name="olga", role=AdminRole.OPERATOR)


@pytest.fixture
def add_admin(store: MemoryStore) -> Callable[..., str]:
    """Adds an admin, and returns the token."""

    def add(name: str, role: AdminRole, *, expires_at_s: int = 0) -> str:
        token = f"token of {name}"
        digest = hashlib.sha256(token.encode()).digest()
        store.put_admin(
            AdminRecord(
                name=name,
                role=role,
                token_sha256=digest,
                created_at_s=1,
                expires_at_s=expires_at_s,
            )
        )
        return token

    return add


@pytest.fixture
def add_device(store: MemoryStore) -> Callable[..., DeviceRecord]:
    """Adds a device by its number, with facts as ``DeviceRecord``."""

    def add(number: int, **facts: object) -> DeviceRecord:
        fields: dict[str, object] = {
            "backend": "onnxruntime 1.31.1",
            "app_version": "2.0",
            "os": "Android",
            "ram_bytes": 0,
        }
        device = DeviceRecord(
            device_id=f"{number:032x}",
            public_key=number.to_bytes(32, "big"),
            token_sha256=number.to_bytes(32, "big"),
            token_expires_at_s=2_000_000_000,
            created_at_s=number,
            seen_at_s=number,
            **(fields | facts),
        )
        challenge = number.to_bytes(32, "big")
        assert store.put_device(device, challenge=challenge, challenge_expires_at_s=2_000_000_000)
        return device

    return add
