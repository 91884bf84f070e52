# SPDX-License-Identifier: Apache-2.0
"""Rollouts in the records of a deployment, as a server would have put them there."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pocketrec_cloud.delivery.records import Outcome, RolloutRecord, RolloutState

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.device.conftest import Deployment

    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["Rollouts"]


@dataclass(frozen=True)
class Rollouts:
    """Starts and changes rollouts of a deployment's model line."""

    deployment: Deployment
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def start(self, bundle: BundleFolder | None, **changes: Any) -> RolloutRecord:
        """Start a rollout of a candidate to every device, unless changed."""
        now_s, number = int(time.time()), next(self.numbers)
        rollout = RolloutRecord(
            rollout_id=f"r-{number}",
            request_id=str(number),
            model_name="demo",
            bundle_digest=b"" if bundle is None else bundle.digest,
            planner="",
            average_bits=0.0,
            codes=b"",
            cohort="",
            stages_percent=(100.0,),
            success_threshold=0.9,
            error_threshold=0.5,
            min_reports=1,
            min_stage_s=0,
            state=RolloutState.RUNNING,
            stage=0,
            stages_started_at_s=(now_s,),
            created_at_s=now_s,
            changed_at_s=now_s + number,
            admin="ada",
        )
        with self.deployment.storage() as storage:
            stored = storage.database.add_rollout(replace(rollout, **changes))
        assert stored is not None
        return stored

    def end(self, rollout: RolloutRecord, state: RolloutState) -> RolloutRecord:
        """Let a rollout end in a state."""
        ended = replace(
            rollout,
            state=state,
            changed_at_s=rollout.changed_at_s + 1,
            revision=rollout.revision + 1,
        )
        with self.deployment.storage() as storage:
            assert storage.database.swap_rollout(ended, replaces=rollout.revision)
        return ended

    def outcomes(self, rollout: RolloutRecord) -> Mapping[int, Mapping[Outcome, int]]:
        """Return what devices said."""
        with self.deployment.storage() as storage:
            return storage.database.count_outcomes(rollout.rollout_id)

    def now(self, rollout: RolloutRecord) -> RolloutRecord:
        """Return the rollout as it is stored."""
        with self.deployment.storage() as storage:
            found = storage.database.find_rollout(rollout.rollout_id)
        assert found is not None
        return found
