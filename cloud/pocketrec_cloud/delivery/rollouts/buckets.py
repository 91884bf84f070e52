# SPDX-License-Identifier: Apache-2.0
"""Which stage of a rollout a device belongs to: a hash decides, so nothing is remembered.

A device that belongs to the first 1 % belongs to the first 10 % too, so stages only ever grow;
another rollout draws anew, so it is not always the same users who go first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

__all__ = ["N_BUCKETS", "bucket_of", "stage_of"]

N_BUCKETS = 10_000
"""Equal shares of all devices: a percentage counts in steps of 0.01."""

_SEPARATOR = b"\0"


def bucket_of(rollout_id: str, device_id: str) -> float:
    """Return a device's place in a rollout, a multiple of 0.01 in [0, 100).

    Args:
        rollout_id: Of the rollout.
        device_id: Of the device.

    Source:
        our choice; the first 8 bytes of the SHA-256 of both ids, big-endian, modulo the number
        of buckets, whose bias is below 1e-15.
    """
    content = _SEPARATOR.join((rollout_id.encode(), device_id.encode()))
    number = int.from_bytes(hashlib.sha256(content).digest()[:8], "big") % N_BUCKETS
    return number * 100 / N_BUCKETS


def stage_of(bucket: float, stages_percent: Sequence[float]) -> int | None:
    """Return the first stage that includes a bucket; None when none does.

    Args:
        bucket: Of ``bucket_of``.
        stages_percent: Rising percentages; a stage includes the buckets below its own.
    """
    return next((i for i, percent in enumerate(stages_percent) if bucket < percent), None)
