# SPDX-License-Identifier: Apache-2.0
"""How many plans a database takes in a second: what bounds a push once streams do not."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

from pocketrec.errors import BackendError
from pocketrec_cloud.delivery.records import PlanRecord
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["plan_writes_per_s"]

_BATCH = 256  # the most that one server process stores in one transaction
_BATCHES = 40
_CONTAINER_BYTES = 360


def plan_writes_per_s(store: DeliveryStore) -> float:
    """Return how many plans of different subjects one writer replaces in a second.

    Args:
        store: Where to; it gets some rows more.

    Raises:
        BackendError: A plan was not stored, although nobody else writes.
        StoreError: The database fails.
    """
    model = secrets.token_bytes(32)
    plans = [_plan(f"subject-{number}", model) for number in range(_BATCH)]
    _swap(store, plans, replaces=None)
    started = time.perf_counter()
    for version in range(1, _BATCHES + 1):
        _swap(store, [replace(plan, version=version + 1) for plan in plans], replaces=version)
    return _BATCH * _BATCHES / (time.perf_counter() - started)


def _swap(store: DeliveryStore, plans: list[PlanRecord], *, replaces: int | None) -> None:
    if not all(store.swap_plans([(plan, replaces) for plan in plans])):
        raise BackendError("a plan was not stored; does somebody else write to this database?")


def _plan(subject: str, model: bytes) -> PlanRecord:
    return PlanRecord(
        subject=subject,
        model_digest=model,
        version=1,
        planner="personal",
        budget_bytes=40_000,
        issued_at_s=0,
        expires_at_s=1,
        container=secrets.token_bytes(_CONTAINER_BYTES),
    )
