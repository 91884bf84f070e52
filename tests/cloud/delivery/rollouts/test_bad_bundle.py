# SPDX-License-Identifier: Apache-2.0
"""A bad bundle on its way to fifty devices: it stops by itself, and everybody is well again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cloud.delivery.rollouts.fleet import Fleet, fleet_of

from pocketrec_cloud.delivery.rollouts.buckets import bucket_of
from pocketrec_proto.v1 import admin_service_pb2 as pb

N_DEVICES = 50

pytestmark = pytest.mark.slow


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Fifty devices with version 1."""
    with fleet_of(N_DEVICES, tmp_path) as fleet:
        assert fleet.versions() == [1] * N_DEVICES
        yield fleet


def first_stage(fleet: Fleet, rollout: pb.Rollout) -> set[str]:
    """The ids of the devices that a rollout's first stage is for."""
    ids = [device.status().device_id for device in fleet.devices]
    percent = rollout.request.stages_percent[0]
    return {device for device in ids if bucket_of(rollout.rollout_id, device) < percent}


def test_a_bundle_that_no_device_accepts(fleet: Fleet) -> None:
    """The rollout stops before its second stage, and nobody ever ran the bad bundle."""
    bad = fleet.bundle(2, is_broken=True)
    rollout = fleet.operator.start(bad)

    n_unhealthy = fleet.sync()
    fleet.judge()
    stopped = fleet.operator.look(rollout)
    assert stopped.state == pb.ROLLOUT_STATE_STOPPED
    assert stopped.stage == 0
    assert [stage.started_at_s > 0 for stage in stopped.stages] == [True, False]
    assert 1 <= n_unhealthy <= len(first_stage(fleet, rollout))
    assert stopped.stages[0].n_succeeded == 0
    assert "say failure" in stopped.reason
    assert fleet.versions() == [1] * N_DEVICES

    assert fleet.sync() == 0  # it is offered to nobody any more
    assert fleet.versions() == [1] * N_DEVICES
    assert ("server", "rollout stopped") in fleet.operator.actions()


def test_a_bundle_that_turns_out_bad(fleet: Fleet) -> None:
    """Apps go back from a bundle that was installed well: it is taken from all who have it."""
    candidate = fleet.bundle(2)
    rollout = fleet.operator.start(
        candidate, stages_percent=(30.0, 100.0), min_reports=2, min_stage_s=3600
    )
    fleet.sync()
    have_it = [
        device
        for device, version in zip(fleet.devices, fleet.versions(), strict=True)
        if version == 2
    ]
    assert {device.status().device_id for device in have_it} == first_stage(fleet, rollout)
    assert fleet.operator.look(rollout).stages[0].n_succeeded == len(have_it)

    n_back = 0
    while fleet.operator.look(rollout).state == pb.ROLLOUT_STATE_RUNNING:
        have_it[n_back].rollback()
        fleet.sync([have_it[n_back]])
        n_back += 1
    assert 2 * n_back >= len(have_it) > n_back

    taken_back = have_it[n_back:]
    reports = [device.sync(fleet.target) for device in taken_back]
    assert all(report.bundle_version == 1 for report in reports)
    assert all(report.parts_downloaded == 0 for report in reports)
    fleet.sync()
    assert fleet.versions() == [1] * N_DEVICES


def test_a_good_bundle(fleet: Fleet) -> None:
    """A bundle that is well everywhere goes through both stages, and everybody has it."""
    rollout = fleet.operator.start(fleet.bundle(2))
    for _ in range(2):
        fleet.sync()
        fleet.judge()  # the server may have come first
    fleet.sync()

    finished = fleet.operator.look(rollout)
    assert (finished.state, finished.stage) == (pb.ROLLOUT_STATE_FINISHED, 1)
    assert all(stage.n_succeeded and not stage.n_failed for stage in finished.stages)
    assert fleet.versions() == [2] * N_DEVICES
