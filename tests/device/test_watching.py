# SPDX-License-Identifier: Apache-2.0
"""A device that watches a real server: pushed plans, news, and all that may go wrong."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.device.unharmed import HISTORY

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_cloud.delivery.records import AudienceKind, OrderRecord
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_device.runtime import Runtime
from pocketrec_device.watch_mark import WatchMark
from pocketrec_device.watching import PlanWatcher, WatchStatus

if TYPE_CHECKING:
    from tests.device.conftest import Deployment

    from pocketrec_quantization.bundle import BundleFolder

PATIENCE_S = 30.0


@pytest.fixture
def watching(
    make_device: Callable[..., Runtime], target: str
) -> Iterator[tuple[Runtime, PlanWatcher]]:
    """A device that has synced, and its watcher, connected."""
    device = make_device()
    device.sync(target, subject="ann")
    with device.watch(target, subject="ann") as watcher:
        until(watcher, lambda status: status.is_connected)
        yield device, watcher


def until(watcher: PlanWatcher, is_reached: Callable[[WatchStatus], bool]) -> WatchStatus:
    """Return a status once it is as wanted."""
    deadline_s = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline_s:
        status = watcher.status()
        if is_reached(status):
            return status
        threading.Event().wait(0.005)
    raise AssertionError(f"it never came to that: {watcher.status()}")


def brisk_server(deployment: Deployment, *, port: int = 0) -> AbstractContextManager[str]:
    """Serve without long pauses."""
    watch = WatchSettings(targets_check_s=0.05, targets_spread_s=0.01, pause_s=0.01)
    return serve_in_thread(replace(deployment.config, port=port, watch=watch))


def push(deployment: Deployment, planner: str = "uniform-4", **fields: object) -> int:
    """Order plans for everybody, as an operator does, and return the sequence."""
    values: dict[str, object] = {
        "sequence": 0,
        "request_id": f"push:{time.perf_counter_ns()}",
        "audience": AudienceKind.EVERYBODY,
        "audience_value": "",
        "model_digest": b"",
        "planner": planner,
        "average_bits": 0.0,
        "codes": b"",
        "created_at_s": 1,
        "expires_at_s": 0,
        "admin": "olga",
    }
    with deployment.storage() as storage:
        order = OrderRecord(**(values | fields))  # type: ignore[arg-type]
        return storage.database.add_order(order).sequence


def planner_of(device: Runtime) -> str:
    """Return what made the plan that is installed."""
    current = device.status().current
    assert current is not None
    return current.planner


class TestPush:
    def test_pushed_plan_is_installed(
        self, deployment: Deployment, watching: tuple[Runtime, PlanWatcher]
    ) -> None:
        """It runs without a sync, in this runtime and after a restart."""
        device, watcher = watching

        push(deployment)
        status = until(watcher, lambda status: status.n_plans > 0)

        assert (status.n_plans, status.problem) == (1, "")
        assert planner_of(device) == "uniform-4"
        assert device._live.engine is not None
        assert device._live.engine.plan.planner == "uniform-4"

    def test_history_lives_on(
        self, deployment: Deployment, watching: tuple[Runtime, PlanWatcher]
    ) -> None:
        """A swap in the background changes numbers a little, and forgets nothing."""
        device, watcher = watching
        device.observe_many(HISTORY)

        push(deployment)
        until(watcher, lambda status: status.n_plans > 0)

        assert device.rerank(list(HISTORY), 2).items
        assert device._live.n_observed == len(HISTORY)

    def test_device_goes_on_where_it_stopped(
        self, deployment: Deployment, make_device: Callable[..., Runtime], target: str
    ) -> None:
        """What it has acted upon is remembered, and not installed twice."""
        device = make_device()
        device.sync(target, subject="ann")
        sequence = push(deployment)
        with device.watch(target, subject="ann") as watcher:
            until(watcher, lambda status: status.sequence == sequence)

        with make_device().watch(target, subject="ann") as watcher:
            status = until(watcher, lambda status: status.is_connected)

        assert (status.sequence, status.n_plans) == (sequence, 0)

    def test_sync_obeys_what_was_pushed(
        self, deployment: Deployment, make_device: Callable[..., Runtime]
    ) -> None:
        """Who does not watch gets the plan with the next sync, and keeps it."""
        device = make_device()
        push(deployment)
        with brisk_server(deployment) as target:
            first, second = (device.sync(target, subject="ann") for _ in range(2))

        assert planner_of(device) == "uniform-4"
        assert (first.is_plan_new, second.is_plan_new) == (True, False)

    def test_smaller_wish_of_the_device_counts(
        self, deployment: Deployment, make_device: Callable[..., Runtime]
    ) -> None:
        """Bits that an app asks for are a budget, which no order exceeds."""
        small, large = make_device("small"), make_device("large")
        push(deployment, planner="", average_bits=6.0)
        with brisk_server(deployment) as target:
            small.sync(target, subject="ann", average_bits=2.5)
            large.sync(target, subject="bob")

        sizes = [device.status().current for device in (small, large)]
        assert sizes[0] is not None
        assert sizes[1] is not None
        assert sizes[0].effective_bits < sizes[1].effective_bits


class TestTrouble:
    def test_server_that_is_away_is_dialled_again(
        self, deployment: Deployment, make_device: Callable[..., Runtime]
    ) -> None:
        """What was pushed meanwhile arrives once it is back."""
        device = make_device()
        with brisk_server(deployment) as target:
            device.sync(target, subject="ann")
            watcher = device.watch(target, subject="ann")
            until(watcher, lambda status: status.is_connected)
        push(deployment)
        with watcher, brisk_server(deployment, port=int(target.rpartition(":")[2])):
            status = until(watcher, lambda status: status.n_plans > 0)

        assert status.n_streams == 2
        assert planner_of(device) == "uniform-4"

    def test_nobody_there_is_no_error(self, runtime: Runtime) -> None:
        """A watcher of a server that does not answer waits, and can be closed at once."""
        with runtime.watch("127.0.0.1:9", deadline_s=0.2) as watcher:
            status = until(watcher, lambda status: status.n_failures > 0)

        assert not status.is_connected
        assert status.problem
        assert runtime.is_ready

    def test_new_bundle_is_fetched_when_the_server_says_so(
        self,
        deployment: Deployment,
        make_device: Callable[..., Runtime],
        make_bundle: Callable[..., BundleFolder],
    ) -> None:
        """Without a callback the watcher syncs, and goes on with the new bundle."""
        device = make_device()
        with brisk_server(deployment) as target:
            device.sync(target)
            with device.watch(target) as watcher:
                until(watcher, lambda status: status.is_connected)
                deployment.publish(make_bundle(version=2, seed=1))
                until(watcher, lambda status: status.n_streams == 2)

        current = device.status().current
        assert current is not None
        assert current.bundle_version == 2

    def test_unusable_options_are_refused_at_once(self, runtime: Runtime) -> None:
        """What cannot work is an error of the app's, not of its background."""
        with pytest.raises(ConfigError, match="target"):
            runtime.watch("nowhere")
        with pytest.raises(ConfigError, match="subject"):
            runtime.watch("127.0.0.1:9", subject="a\nb")
        with pytest.raises(TypeError, match="tls_ca"):
            runtime.watch("127.0.0.1:9", tls_ca="ca.crt")  # type: ignore[call-arg]


class TestWatchMark:
    def test_mark_counts_for_its_own_server_subject_and_bundle(self) -> None:
        """Another user, another server or another bundle starts from nothing."""
        mark = WatchMark(server="a:1", subject="ann", bundle="b", sequence=7)

        assert mark.sequence_for("a:1", "ann", "b") == 7
        assert mark.sequence_for("z:1", "ann", "b") == 0
        assert mark.sequence_for("a:1", "bob", "b") == 0
        assert mark.sequence_for("a:1", "ann", "c") == 0
