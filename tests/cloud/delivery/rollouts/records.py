# SPDX-License-Identifier: Apache-2.0
"""Rollouts and devices to test with."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from pocketrec_cloud.delivery.records import DeviceRecord, RolloutRecord, RolloutState

NOW_S = 1_800_000_000
GOOD, BAD = bytes([1]) * 32, bytes([2]) * 32


def make_rollout(**changes: Any) -> RolloutRecord:
    """A running rollout of ``BAD`` in three stages, unless changed."""
    rollout = RolloutRecord(
        rollout_id="r-1",
        request_id="request-1",
        model_name="demo",
        bundle_digest=BAD,
        planner="",
        average_bits=0.0,
        codes=b"",
        cohort="",
        stages_percent=(1.0, 10.0, 100.0),
        success_threshold=0.9,
        error_threshold=0.2,
        min_reports=5,
        min_stage_s=60,
        state=RolloutState.RUNNING,
        stage=0,
        stages_started_at_s=(NOW_S,),
        created_at_s=NOW_S,
        changed_at_s=NOW_S,
        admin="ada",
    )
    return replace(rollout, **changes)


def make_device(**changes: Any) -> DeviceRecord:
    """A device that has told nothing of itself, unless changed."""
    device = DeviceRecord(
        device_id="device-1",
        public_key=bytes(32),
        token_sha256=bytes(32),
        token_expires_at_s=NOW_S + 3600,
        backend="",
        app_version="",
        os="",
        ram_bytes=0,
        created_at_s=NOW_S,
        seen_at_s=NOW_S,
    )
    return replace(device, **changes)
