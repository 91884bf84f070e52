# SPDX-License-Identifier: Apache-2.0
"""Pushes that come twice, late or in another order, and devices that do not read them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import pytest
from tests.device.man_in_the_middle import ManInTheMiddle
from tests.faults.servers import Site
from tests.faults.watchers import next_plan, plan_version_of, planner_of, until, watch

from pocketrec_device import Runtime
from pocketrec_proto.v1 import device_service_pb2 as pb

pytestmark = [pytest.mark.faults, pytest.mark.slow]

PUSHES = ("uniform-4", "uniform-8", "uniform-4", "uniform-8")
# What a stream that nobody reads may cost the server.
MEMORY_BYTES = 32 * 2**20


def repeat(answers: Iterator[pb.WatchPlansResponse]) -> Iterator[pb.WatchPlansResponse]:
    """Say everything twice, and after every plan all the older ones again."""
    plans: list[pb.WatchPlansResponse] = []
    for answer in answers:
        yield answer
        yield answer
        if answer.WhichOneof("event") == "plan":
            yield from plans
            plans.append(answer)


def swap(answers: Iterator[pb.WatchPlansResponse]) -> Iterator[pb.WatchPlansResponse]:
    """Hold every other plan back until the next one has passed."""
    held: list[pb.WatchPlansResponse] = []
    for answer in answers:
        if answer.WhichOneof("event") != "plan":
            yield answer
        elif held:
            yield answer
            yield held.pop()
        else:
            held.append(answer)


class TestReordering:
    @pytest.mark.parametrize("reorder", [repeat, swap])
    def test_device_ends_at_the_newest_plan(
        self,
        reorder: Callable[[Iterator[pb.WatchPlansResponse]], Iterator[pb.WatchPlansResponse]],
        site: Site,
        make_device: Callable[..., Runtime],
    ) -> None:
        """What comes again or late is known or refused; the plan's version only goes up."""
        device, versions = make_device(), [0]
        device.sync(site.target, subject="ann")

        def has_newer(planner: str) -> bool:
            return planner_of(device) == planner and plan_version_of(device) > versions[-1]

        with ManInTheMiddle(site.target) as middle:
            middle.reorder["WatchPlans"] = reorder
            with device.watch(middle.target, subject="ann") as watcher:
                until(lambda: watcher.status().is_connected)
                for number, planner in enumerate(PUSHES, 1):
                    site.push(planner=planner)
                    if reorder is repeat or number % 2 == 0:
                        until(partial(has_newer, planner))
                        versions.append(plan_version_of(device))
                until(lambda: watcher.status().n_known + watcher.status().n_refused > 0)
                status = watcher.status()

        assert versions == sorted(set(versions))
        assert planner_of(device) == PUSHES[-1]
        assert status.n_refused + status.n_known > 0
        site.check()


class TestSlowReader:
    def test_costs_no_memory_and_nobody_else_and_ends(self, make_site: Callable[..., Site]) -> None:
        """A device that reads nothing gets no queue; others get every push; its stream ends."""
        site = make_site(watch={"write_timeout_s": 2.0, "heartbeat_s": 0.002})
        site.start()
        sleeper, reader = site.register(), site.register()
        window = (("grpc.http2.lookahead_bytes", 1024), ("grpc.http2.bdp_probe", 0))

        with site.channel(window) as stub, site.channel() as other:
            silent = watch(site, stub, sleeper, "sleeper")
            stream = watch(site, other, reader, "reader")
            next(stream)
            before = site.memory_bytes()
            for number in range(5):
                planner = ("uniform-4", "uniform-8")[number % 2]
                sequence = site.push(planner=planner).sequence
                received, plan = next_plan(stream)
                assert (received, plan.planner) == (sequence, planner)
            until(lambda: "read nothing" in site.log.read_text(encoding="utf-8"))
            after = site.memory_bytes()
            del silent

        assert after - before < MEMORY_BYTES
        site.check()
