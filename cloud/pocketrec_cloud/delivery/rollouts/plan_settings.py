# SPDX-License-Identifier: Apache-2.0
"""Rollouts of plan settings, as the rules that the drafter asks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from pocketrec_cloud.delivery.plans.rules import PlanSettings
from pocketrec_cloud.delivery.records import DeviceRecord, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.line import begun_stage
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["RolloutRules"]

_HOLDING = (RolloutState.RUNNING, RolloutState.PAUSED, RolloutState.FINISHED)


class RolloutRules:
    """Says what rollouts want plans to be like, as ``PlanRules``.

    The newest rollout that a device belongs to holds, also after it is finished, until another
    one takes its place; one that stopped or was aborted does not hold any more.

    Args:
        store: Where rollouts, devices and models are.
        max_age_s: How late a change of a rollout may be seen: plans are asked for far more
            often than rollouts change.
        timer: Seconds that only go up.
    """

    def __init__(
        self,
        store: DeliveryStore,
        *,
        max_age_s: float = 1.0,
        timer: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._max_age_s = max_age_s
        self._timer = timer
        self._seen: tuple[float, tuple[RolloutRecord, ...]] | None = None

    def settings_for(
        self,
        subject: str,  # noqa: ARG002  devices are drawn, not users
        device_id: str,
        model_digest: bytes,
    ) -> PlanSettings | None:
        """Return what holds for a device; see ``PlanRules``.

        Raises:
            StoreError: The database fails.
        """
        rollouts = self._holding()
        model = self._store.find_model(model_digest) if rollouts and device_id else None
        if model is None:
            return None

        def device() -> DeviceRecord | None:
            return self._store.find_device(device_id)

        for rollout in reversed(rollouts):
            if rollout.model_name != model.model_name:
                continue
            if begun_stage(rollout, device_id, device) is not None:
                return PlanSettings(planner=rollout.planner, average_bits=rollout.average_bits)
        return None

    def _holding(self) -> Sequence[RolloutRecord]:
        """Return the rollouts that hold, the oldest first."""
        now, seen = self._timer(), self._seen
        if seen is None or now - seen[0] >= self._max_age_s:
            seen = (now, tuple(r for r in self._store.list_rollouts() if _is_holding(r)))
            self._seen = seen
        return seen[1]


def _is_holding(rollout: RolloutRecord) -> bool:
    return not rollout.bundle_digest and rollout.state in _HOLDING
