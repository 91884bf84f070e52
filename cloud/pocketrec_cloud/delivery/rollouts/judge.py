# SPDX-License-Identifier: Apache-2.0
"""Lets rollouts go on or stop by what devices said; several processes may do so side by side.

What is to be done follows from the store and the clock alone, and is stored by compare-and-swap:
of two processes that come to the same end one wins, and writes it into the audit log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable

from pocketrec_cloud.delivery.records import AuditRecord, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.engine import counts_of, evaluate
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["SERVER", "judge", "judge_all"]

SERVER = "server"
"""Who did it, in the audit log, when a rollout goes on or stops by itself."""

_LOG = logging.getLogger(__name__)


def judge(store: DeliveryStore, rollout: RolloutRecord, clock: Callable[[], float]) -> None:
    """Store what follows from what devices said about a rollout, if anything does.

    Args:
        store: Where the rollout is.
        rollout: As it was read; if it has changed since, nothing happens.
        clock: Unix seconds.

    Raises:
        StoreError: The database fails.
    """
    if rollout.state is not RolloutState.RUNNING:
        return
    outcomes = store.count_outcomes(rollout.rollout_id)
    after = evaluate(rollout, outcomes, int(clock()))
    if after is rollout or not store.swap_rollout(after, replaces=rollout.revision):
        return
    n_succeeded, n_failed = counts_of(outcomes, rollout.stage)
    action = "rollout stage begun" if after.state is rollout.state else f"rollout {after.state}"
    details = {
        "stage": rollout.stage + 1,
        "percent": rollout.stages_percent[rollout.stage],
        "succeeded": n_succeeded,
        "failed": n_failed,
        "reason": after.reason,
    }
    _LOG.warning("%s: %s: %s", action, rollout.rollout_id, details)
    store.add_audit(
        AuditRecord(
            number=0,
            at_s=int(clock()),
            admin=SERVER,
            action=action,
            subject=rollout.rollout_id,
            details=json.dumps(details, sort_keys=True),
        )
    )


def judge_all(store: DeliveryStore, clock: Callable[[], float]) -> None:
    """Judge every rollout that is running.

    Raises:
        StoreError: The database fails.
    """
    for rollout in store.list_rollouts():
        judge(store, rollout, clock)
