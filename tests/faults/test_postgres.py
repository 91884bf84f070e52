# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL goes away under load and comes back: calls fail honestly, then all heals by itself."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.devices import Device, register_device
from tests.faults.servers import DEADLINE_S, Site, bearer
from tests.faults.watchers import next_plan, until, watch

from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.plan import decode_plan

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.slow]

Break = Callable[["PostgresServer"], None]
N_WATCHERS = 5
OUTAGE_S = 1.0
# While the database is away; a device that is refused for another reason would give up.
PASSING = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED}


def restart(postgres: PostgresServer) -> None:
    """Stop it in good order, and start it a little later."""
    postgres.stop()
    threading.Event().wait(OUTAGE_S)
    postgres.start()


def crash(postgres: PostgresServer) -> None:
    """Kill it (kill -9), and start it a little later: it recovers what was acknowledged."""
    lock = postgres.folder / "data" / "postmaster.pid"
    os.kill(int(lock.read_text().split()[0]), signal.SIGKILL)
    until(lambda: not postgres.is_running)
    threading.Event().wait(OUTAGE_S)
    # Where nobody buries the dead, a process that was killed still seems to hold its locks.
    lock.unlink()
    (postgres.folder / f".s.PGSQL.{postgres.port}.lock").unlink()
    postgres.start()


def cut(postgres: PostgresServer) -> None:
    """Break off all its connections, and nothing else."""
    postgres.terminate_connections()


@dataclass
class Load:
    """What devices saw while they called.

    Attributes:
        statuses: How calls failed.
        versions: The version of every plan that was given out, by subject, in order.
        n_plans: Plans that were given out.
        device_ids: Devices whose registration was acknowledged.
    """

    statuses: Counter[grpc.StatusCode] = field(default_factory=Counter)
    versions: dict[str, list[int]] = field(default_factory=dict)
    n_plans: int = 0
    device_ids: list[str] = field(default_factory=list)

    @contextmanager
    def on(self, site: Site) -> Iterator[None]:
        """Let devices register and ask for plans while the block runs."""
        stopping = threading.Event()
        device = site.register()
        works = [
            self._register,
            lambda stub: self._ask(site, stub, device, "ann"),
            lambda stub: self._ask(site, stub, device, "bob"),
        ]
        threads = [threading.Thread(target=self._call, args=(site, w, stopping)) for w in works]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopping.set()
            for thread in threads:
                thread.join()

    def _call(
        self, site: Site, work: Callable[[DeviceServiceStub], None], stopping: threading.Event
    ) -> None:
        with site.channel() as stub:
            while not stopping.is_set():
                try:
                    work(stub)
                except grpc.RpcError as exc:
                    self.statuses[exc.code()] += 1  # type: ignore[attr-defined]
                stopping.wait(0.02)

    def _register(self, stub: DeviceServiceStub) -> None:
        self.device_ids.append(register_device(stub).device_id)

    def _ask(self, site: Site, stub: DeviceServiceStub, device: Device, subject: str) -> None:
        request = site.plan_request(subject)
        answer = stub.GetPlan(request, metadata=device.metadata, timeout=DEADLINE_S)
        self.versions.setdefault(subject, []).append(decode_plan(answer.plan).version)
        self.n_plans += 1


@pytest.fixture
def postgres_site(make_site: Callable[..., Site], breakable_postgres: PostgresServer) -> Site:
    """A server on a database of its own."""
    site = make_site(breakable_postgres.create_database())
    site.start()
    return site


@pytest.mark.parametrize("break_it", [restart, crash, cut])
class TestOutage:
    def test_heals_without_a_restart_and_nothing_acknowledged_is_lost(
        self, break_it: Break, postgres_site: Site, breakable_postgres: PostgresServer
    ) -> None:
        """Plans keep their versions, orders their numbers, devices their registrations."""
        site, load = postgres_site, Load()
        watchers = [site.register() for _ in range(N_WATCHERS)]

        with site.channel() as stub, load.on(site):
            streams = [watch(site, stub, d, f"w-{n}") for n, d in enumerate(watchers)]
            for stream in streams:
                next(stream)
            first = site.push("first", planner="uniform-4").sequence
            before = [next_plan(stream)[1] for stream in streams]
            until(lambda: load.n_plans > 10)
            break_it(breakable_postgres)
            second = push_until_it_works(site, "second")
            after = [next_plan(stream) for stream in streams]
            n_before = load.n_plans
            until(lambda: load.n_plans > n_before + 10)

        assert set(load.statuses) <= PASSING
        assert (first, second) == (1, 2)
        assert [sequence for sequence, _ in after] == [2] * N_WATCHERS
        assert all(new.version > old.version for old, (_, new) in zip(before, after, strict=True))
        assert all(versions == sorted(versions) for versions in load.versions.values())
        assert set(load.device_ids) <= device_ids_of(site)
        assert [push.sequence for push in list_pushes(site)] == [1, 2]
        site.check(is_storage_faulty=True)


def push_until_it_works(site: Site, request_id: str) -> int:
    """Push as an operator would who tries again, and return the order's number."""
    deadline_s = time.monotonic() + DEADLINE_S
    while True:
        try:
            return site.push(request_id, planner="uniform-8").sequence
        except grpc.RpcError as exc:
            if exc.code() not in PASSING or time.monotonic() > deadline_s:  # type: ignore[attr-defined]
                raise
            threading.Event().wait(0.1)


def device_ids_of(site: Site) -> set[str]:
    """Return all devices that the server knows."""
    ids: set[str] = set()
    request = admin_pb.ListDevicesRequest(page_size=1000)
    with site.admin() as stub:
        while True:
            answer = stub.ListDevices(request, metadata=bearer(site.token), timeout=DEADLINE_S)
            ids |= {entry.device_id for entry in answer.devices}
            if not answer.next_page_token:
                return ids
            request.page_token = answer.next_page_token


def list_pushes(site: Site) -> list[admin_pb.Push]:
    """Return the orders that hold."""
    with site.admin() as stub:
        answer = stub.ListPushes(
            admin_pb.ListPushesRequest(), metadata=bearer(site.token), timeout=DEADLINE_S
        )
    return list(answer.pushes)
