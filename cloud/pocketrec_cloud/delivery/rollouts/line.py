# SPDX-License-Identifier: Apache-2.0
"""What the rollouts of one model line mean for one device: which bundle, and which not any more.

1. A device runs the newest of the line's current bundle and the bundles of finished rollouts
   that were for it.
2. If a rollout is running or paused, and the device belongs to a stage that has begun, it runs
   the bundle of that rollout, unless the one above is newer: somebody published it since.
3. Bundles of rollouts that stopped or were aborted are withdrawn.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TypeAlias

from pocketrec_cloud.delivery.cohorts import Cohort
from pocketrec_cloud.delivery.records import DeviceRecord, RolloutRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.buckets import bucket_of, stage_of
from pocketrec_cloud.delivery.rollouts.engine import is_active
from pocketrec_quantization.limits import MAX_WITHDRAWN

__all__ = ["Choice", "FindDevice", "ModelLine", "begun_stage", "choose", "is_for"]

FindDevice: TypeAlias = Callable[[], DeviceRecord | None]
"""Returns the device that is asked about; called only where a cohort has to be decided."""

_TAKEN_BACK = frozenset((RolloutState.STOPPED, RolloutState.ABORTED))
_cohort = functools.lru_cache(maxsize=1024)(Cohort.parse)


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelLine:
    """What is published of a model line, and its rollouts.

    Args:
        current: Digest of the current bundle, 32 bytes.
        candidates: Digests of the other bundles that TUF vouches for.
        versions: Of the bundles that are known, by digest.
        rollouts: Of bundles and of plan settings, the oldest first.
        publication_version: Goes up with every publication.
    """

    current: bytes
    candidates: frozenset[bytes] = frozenset()
    versions: Mapping[bytes, int] = field(default_factory=lambda: MappingProxyType({}))
    rollouts: tuple[RolloutRecord, ...] = ()
    publication_version: int = 0

    @property
    def version(self) -> int:
        """A number that goes up with every publication and every change of a rollout.

        ``changed_at_s`` only goes up within a line, and follows the clock: should the database
        be lost, later rollouts have higher numbers all the same.
        """
        changed_at_s = max((rollout.changed_at_s for rollout in self.rollouts), default=0)
        return max(changed_at_s + self.publication_version, 1)

    @property
    def of_bundles(self) -> tuple[RolloutRecord, ...]:
        """The rollouts of bundles."""
        return tuple(rollout for rollout in self.rollouts if rollout.bundle_digest)

    @property
    def active(self) -> RolloutRecord | None:
        """The rollout that is running or paused, if one is."""
        return next((rollout for rollout in self.rollouts if is_active(rollout)), None)

    def version_of(self, bundle_digest: bytes) -> int:
        """Return a bundle's version; 0 = not known."""
        return self.versions.get(bundle_digest, 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """What a device should run, and which bundles it should not count any more; rising digests."""

    bundle_digest: bytes
    withdrawn: tuple[bytes, ...]


def choose(line: ModelLine, device_id: str, device: FindDevice) -> Choice:
    """Return what a device should run.

    Args:
        line: Its model line.
        device_id: Whose assignment it is.
        device: Gives the facts that cohorts are about; None = it is in no cohort.

    Raises:
        StoreError: ``device`` says so.
    """
    chosen = line.current
    for rollout in _offers(line.of_bundles):
        offered = rollout.bundle_digest
        if (
            offered in line.candidates
            and line.version_of(offered) > line.version_of(chosen)
            and begun_stage(rollout, device_id, device) is not None
        ):
            chosen = offered
    return Choice(bundle_digest=chosen, withdrawn=_withdrawn(line, chosen))


def begun_stage(rollout: RolloutRecord, device_id: str, device: FindDevice) -> int | None:
    """Return the stage that a device belongs to, if it has begun; else None.

    Args:
        rollout: In any state.
        device_id: Which device.
        device: As for ``choose``.

    Raises:
        StoreError: ``device`` says so.
    """
    stage = stage_of(bucket_of(rollout.rollout_id, device_id), rollout.stages_percent)
    has_begun = stage is not None and stage <= rollout.stage
    return stage if has_begun and is_for(rollout, device) else None


def is_for(rollout: RolloutRecord, device: FindDevice) -> bool:
    """Whether a device is in the cohort of a rollout.

    Raises:
        StoreError: ``device`` says so.
    """
    if not rollout.cohort:
        return True
    facts = device()
    return facts is not None and _cohort(rollout.cohort).matches(facts)


def _offers(rollouts: Sequence[RolloutRecord]) -> list[RolloutRecord]:
    """Return the rollouts that offer their bundle: of each bundle, the last one counts."""
    last = {rollout.bundle_digest: rollout for rollout in rollouts}
    return [rollout for rollout in last.values() if rollout.state not in _TAKEN_BACK]


def _withdrawn(line: ModelLine, chosen: bytes) -> tuple[bytes, ...]:
    """Return the bundles that were taken back, as far as a device may still have them.

    Only those that are not older than what it gets can be in its way.
    """
    rollouts = line.of_bundles
    last = {rollout.bundle_digest: rollout for rollout in rollouts}
    taken_back = {rollout.bundle_digest for rollout in rollouts if rollout.state in _TAKEN_BACK}
    in_the_way = [
        digest
        for digest in taken_back - {chosen, line.current}
        if last[digest].state is not RolloutState.FINISHED
        and line.version_of(digest) >= line.version_of(chosen)
    ]
    newest = sorted(in_the_way, key=line.version_of, reverse=True)[:MAX_WITHDRAWN]
    return tuple(sorted(newest))
