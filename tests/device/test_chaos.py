# SPDX-License-Identifier: Apache-2.0
"""A real device against a server that misbehaves on purpose."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.device.unharmed import CANDIDATES, HISTORY, ranking_after_restart, ranking_of

from pocketrec.errors import PocketRecError, RollbackError
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.faults import parse_chaos
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from tests.device.conftest import Deployment

    from pocketrec_device import Runtime

N_SYNCS = 15


def serve(deployment: Deployment, chaos: str) -> AbstractContextManager[str]:
    """Serve with faults."""
    operations = OperationsConfig(chaos=parse_chaos(chaos))
    limits = Limits(registrations_per_minute=1000, plans_per_minute=1000)
    return serve_in_thread(replace(deployment.config, operations=operations, limits=limits))


@pytest.fixture
def device(make_device: Callable[..., Runtime], target: str) -> Runtime:
    """A device with version 1, a plan and a history, as an honest server gave them."""
    device = make_device()
    device.sync(target)
    device.observe_many(HISTORY)
    return device


def scores_of(device: Runtime) -> tuple[float, ...]:
    """Return what everything scores."""
    return tuple(ranking_of(device).scores)


class TestChaos:
    @pytest.mark.parametrize(
        "chaos",
        [
            "drop=0.3,seed=1",
            "corrupt=0.3,seed=2",
            "delay=0ms..2ms,drop=0.1,corrupt=0.1,stale=0.5,seed=3",
        ],
    )
    def test_device_ranks_right_whatever_comes(
        self,
        deployment: Deployment,
        device: Runtime,
        make_device: Callable[..., Runtime],
        make_bundle: Callable[..., BundleFolder],
        chaos: str,
    ) -> None:
        """Sync by sync, it runs the pair of before or the whole new one, never anything else."""
        old = scores_of(device)
        deployment.publish(make_bundle(version=2, seed=1))
        fresh = make_device("fresh")
        with deployment.serve() as honest:
            fresh.sync(honest)
        fresh.observe_many(HISTORY)
        right = {old, scores_of(fresh)}
        errors = set()

        with serve(deployment, chaos) as target:
            for _ in range(N_SYNCS):
                try:
                    device.sync(target)
                except PocketRecError as error:
                    errors.add(type(error))
                assert scores_of(device) in right

        assert errors
        assert tuple(ranking_after_restart(device).scores) == scores_of(device)
        with deployment.serve() as honest:
            device.sync(honest)
        assert scores_of(device) == scores_of(fresh)

    def test_stale_publication_is_refused(
        self,
        deployment: Deployment,
        device: Runtime,
        make_bundle: Callable[..., BundleFolder],
        make_device: Callable[..., Runtime],
    ) -> None:
        """Who has seen the newer publication does not go back to the older one."""
        with serve(deployment, "stale=on") as stale:
            make_device("other").sync(stale)
            deployment.publish(make_bundle(version=2, seed=1))
            with deployment.serve() as honest:
                device.sync(honest)
            new = device.rerank(CANDIDATES, len(CANDIDATES))

            with pytest.raises(RollbackError):
                device.sync(stale)

        assert ranking_of(device) == new
