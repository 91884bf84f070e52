# SPDX-License-Identifier: Apache-2.0
"""Runs what ``benchmarks.fleet`` measures: devices here, the server in processes of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import grpc

from benchmarks.environment import ROOT, read_environment, version_of
from benchmarks.fleet_devices import FleetDevice, make_fleet, percentiles
from benchmarks.plan_writes import plan_writes_per_s
from benchmarks.planning_samples import make_sensitivity, make_users, seeded_planner
from benchmarks.processes import cpu_seconds
from benchmarks.seeded_bundle import write_seeded_bundle
from benchmarks.shapes import Shape
from pocketrec.errors import BackendError, ConfigError, PocketRecError
from pocketrec_cloud.delivery.publishing.artifacts import FolderArtifacts
from pocketrec_cloud.delivery.publishing.bundles import publish_bundle
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole
from pocketrec_cloud.delivery.store_protocols import DeliveryStore
from pocketrec_cloud.delivery.stores.opening import open_store
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1.admin_service_pb2_grpc import AdminServiceStub
from pocketrec_quantization.bundle import BundleFolder

__all__ = ["TARGETS", "Fleet", "FleetSettings"]

TARGETS = {"p99_s": 2.0, "return_s": 30.0}
"""What has to be reached, with devices and server on the same cores."""

_SERVER = "benchmarks.fleet_server"
_TOKEN = "benchmark"  # noqa: S105  of a server that lives as long as this run
_TIMEOUT_S = 120.0
_AT_ONCE = 64
_BITS = (2.5, 3.5)  # what pushes ask for, in turns, so that every plan changes
_LIBRARIES = ("grpcio", "protobuf", "cryptography", "SQLAlchemy", "pg8000")


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetSettings:
    """How much is measured.

    Attributes:
        devices: How many watch.
        devices_per_channel: Of them that share one connection.
        pushes: To all of them, one after the other.
        steady_s: How long nothing but heartbeats happens; 0 = not measured.
        heartbeat_s: Of the server.
        workers: Server processes.
        database: URL; empty = SQLite.
        shape: D, L and blocks of the model.
        seed: Of weights and users.

    Raises:
        ConfigError: A number is too small.
    """

    devices: int = 2000
    devices_per_channel: int = 1
    pushes: int = 5
    steady_s: float = 60.0
    heartbeat_s: float = 30.0
    workers: int = 1
    database: str = ""
    shape: str = "64x50x2"
    seed: int = 0

    def __post_init__(self) -> None:
        least = min(self.devices, self.devices_per_channel, self.pushes, self.workers)
        if least < 1 or self.steady_s < 0 or self.heartbeat_s <= 0:
            raise ConfigError(f"expected positive numbers, got {self}")


class Fleet:
    """One run.

    Args:
        settings: How much is measured.
    """

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings

    def run(self) -> dict[str, Any]:
        """Measure everything.

        Raises:
            BackendError: The server did not start, or a device was refused.
            PocketRecError: A part of the bundle or the store cannot be made.
            OSError: A file cannot be read or written.
        """
        settings = self._settings
        with tempfile.TemporaryDirectory() as folder:
            work = Path(folder)
            bundle = self._prepare(work)
            figures = asyncio.run(self._measure(work, bundle))
            with closing(self._open_database(work)) as database:
                figures["plan_writes_per_s"] = plan_writes_per_s(database)
        versions = {name: version_of(name) for name in _LIBRARIES}
        shown = asdict(settings) | {"database": settings.database.partition(":")[0] or "sqlite"}
        return {
            "command": _command(settings),
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": shown,
            "environment": {**read_environment(), **versions, "threads": os.cpu_count()},
            **figures,
            "targets": {
                name: {
                    "wanted": wanted,
                    "measured": figures[name],
                    "is_met": figures[name] <= wanted,
                }
                for name, wanted in TARGETS.items()
            },
        }

    def _open_database(self, work: Path) -> DeliveryStore:
        return open_store(self._settings.database or work / "store" / DATABASE_FILE)

    def _prepare(self, work: Path) -> BundleFolder:
        """Write a bundle, a store that has it, its planner, and an admin."""
        settings, shape = self._settings, Shape.parse(self._settings.shape)
        bundle = write_seeded_bundle(work / "bundle", shape, seed=settings.seed, has_extractor=True)
        layers, keys = bundle.manifest.layers, work / "keys"
        planner = seeded_planner(
            layers, bundle.model_digest, embedding_dim=shape.d, seed=settings.seed
        ).to_bytes()
        KeyFolder(keys).create()
        (work / "store").mkdir()
        database = self._open_database(work)
        storage = Storage(artifacts=FolderArtifacts(work / "store"), database=database)
        create_repository(storage, keys)
        publish_bundle(storage, keys, bundle, make_sensitivity(layers), planner=planner)
        database.put_admin(
            AdminRecord(
                name="benchmark",
                role=AdminRole.OPERATOR,
                token_sha256=hashlib.sha256(_TOKEN.encode()).digest(),
                created_at_s=int(time.time()),
            )
        )
        database.close()
        return bundle

    async def _measure(self, work: Path, bundle: BundleFolder) -> dict[str, Any]:
        settings = self._settings
        server = _Server(work, settings)
        await server.start()
        try:
            devices = make_fleet(
                server.address,
                settings.devices,
                devices_per_channel=settings.devices_per_channel,
                model_digest=bundle.model_digest,
                bundle_digest=bundle.digest,
                users=make_users(
                    settings.devices, bundle.manifest.backbone.embedding_dim, seed=settings.seed
                ),
                director=KeyFolder(work / "keys").load(Role.DIRECTOR).public,
            )
            async with asyncio.TaskGroup() as group:
                return await self._stages(server, devices, group)
        except* PocketRecError as failures:
            raise BackendError(str(failures.exceptions[0])) from failures
        finally:
            server.kill()

    async def _stages(
        self, server: _Server, devices: list[FleetDevice], group: asyncio.TaskGroup
    ) -> dict[str, Any]:
        settings, gate = self._settings, asyncio.Semaphore(_AT_ONCE)
        started = time.perf_counter()
        await asyncio.gather(*(device.register(gate) for device in devices))
        register_s = time.perf_counter() - started
        rss_before, started = server.memory_bytes(), time.perf_counter()
        tasks = [group.create_task(device.watch()) for device in devices]
        await _all_up(devices)
        figures: dict[str, Any] = {
            "register_per_s": settings.devices / register_s,
            "connect_s": time.perf_counter() - started,
        }
        steady = await self._stay(server)
        pushes = [await self._push(server, devices, number) for number in range(settings.pushes)]
        rss = server.memory_bytes()
        delays = [delay for push in pushes for delay in push.pop("delays")]
        figures |= {
            "delivered": len(delays),
            "expected": settings.devices * settings.pushes,
            **percentiles(delays),
            "pushes": pushes,
            "server_bytes_per_device": (rss - rss_before) / settings.devices,
            "server_bytes": rss,
            **steady,
        }
        figures["n_dials"] = sum(device.n_dials for device in devices)
        figures |= await self._restart(server, devices)
        endings = Counter[str]()
        for device in devices:
            endings += device.endings
        figures["endings"] = dict(endings)
        figures["n_refused"] = sum(device.n_refused for device in devices)
        for task in tasks:
            task.cancel()
        return figures

    async def _stay(self, server: _Server) -> dict[str, Any]:
        """Measure what the server takes while nothing but heartbeats happens."""
        if not self._settings.steady_s:
            return {}
        before, own = server.cpu_seconds(), time.process_time()
        await asyncio.sleep(self._settings.steady_s)
        seconds = self._settings.steady_s
        return {
            "steady_server_cores": (server.cpu_seconds() - before) / seconds,
            "steady_devices_cores": (time.process_time() - own) / seconds,
        }

    async def _push(
        self, server: _Server, devices: list[FleetDevice], number: int
    ) -> dict[str, Any]:
        """Push to all, and return how long each device waited for its verified plan."""
        request = admin_pb.PushPlanRequest(
            audience=admin_pb.Audience(everybody=admin_pb.Everybody()),
            settings=admin_pb.PlanSettings(average_bits=_BITS[number % len(_BITS)]),
            request_id=uuid.uuid4().hex,
        )
        versions = [device.version for device in devices]
        server_s, own_s, started = server.cpu_seconds(), time.process_time(), time.perf_counter()
        async with grpc.aio.insecure_channel(server.admin_address) as channel:
            metadata = (("authorization", f"Bearer {_TOKEN}"),)
            response = await AdminServiceStub(channel).PushPlan(request, metadata=metadata)
        answered_s, deadline = time.perf_counter() - started, started + _TIMEOUT_S
        while time.perf_counter() < deadline:
            if all(response.sequence in device.received for device in devices):
                break
            await asyncio.sleep(0.05)
        delays = [
            device.received[response.sequence] - started
            for device, version in zip(devices, versions, strict=True)
            if response.sequence in device.received and device.version > version
        ]
        return {
            "answered_s": answered_s,
            **percentiles(delays or [_TIMEOUT_S]),
            "server_cpu_s": server.cpu_seconds() - server_s,
            "devices_cpu_s": time.process_time() - own_s,
            "delays": delays,
        }

    async def _restart(self, server: _Server, devices: list[FleetDevice]) -> dict[str, Any]:
        """Kill the server, start it again, and see when everybody is back."""
        started = time.perf_counter()
        server.kill()
        for device in devices:
            device.is_up.clear()
        await server.start()
        start_s = time.perf_counter() - started
        await _all_up(devices)
        return {"return_s": time.perf_counter() - started, "restart_s": start_s}


class _Server:
    """The server's processes.

    Args:
        work: Where store and keys are.
        settings: How it serves.
    """

    def __init__(self, work: Path, settings: FleetSettings) -> None:
        self._work, self._settings = work, settings
        self._process: subprocess.Popen[str] | None = None
        self.address = self.admin_address = ""

    async def start(self) -> None:
        """Start it, on the ports that it had before.

        Raises:
            BackendError: It did not start.
        """
        job = {
            "store": str(self._work / "store"),
            "keys": str(self._work / "keys"),
            "database": self._settings.database,
            "port": int(self.address.rpartition(":")[2] or 0),
            "admin_port": int(self.admin_address.rpartition(":")[2] or 0),
            "workers": self._settings.workers,
            "heartbeat_s": self._settings.heartbeat_s,
        }
        paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self._process = subprocess.Popen(  # noqa: ASYNC220  it is waited for on a thread
            [sys.executable, "-P", "-m", _SERVER, json.dumps(job)],
            stdout=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "OPENBLAS_NUM_THREADS": "1",
                "OMP_NUM_THREADS": "1",
                "PYTHONPATH": os.pathsep.join(paths),
            },
        )
        stdout = self._process.stdout
        line = await asyncio.to_thread(stdout.readline) if stdout else ""
        if not line:
            raise BackendError("the server did not start; see its messages above")
        addresses = json.loads(line)
        self.address, self.admin_address = addresses["address"], addresses["admin_address"]

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        if self._process is None:
            return
        for pid in reversed(self._pids()):
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def memory_bytes(self) -> int:
        """Return the resident memory of all its processes."""
        pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self._pids()]
        return sum(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """Return the CPU time that all its processes took so far."""
        return sum(cpu_seconds(pid) for pid in self._pids())

    def _pids(self) -> list[int]:
        """Return the process and its children, on Linux."""
        if self._process is None or self._process.poll() is not None:
            return []
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        return [pid, *map(int, children)]


async def _all_up(devices: list[FleetDevice]) -> None:
    """Wait until every stream has said something.

    Raises:
        BackendError: That takes too long.
    """
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            for device in devices:
                await device.is_up.wait()
    except TimeoutError as exc:
        n_up = sum(device.is_up.is_set() for device in devices)
        raise BackendError(f"only {n_up} of {len(devices)} devices are connected") from exc


def _command(settings: FleetSettings) -> str:
    default = FleetSettings()
    options = [
        f"--{name.replace('_', '-')} {value}"
        for name, value in asdict(settings).items()
        if value != getattr(default, name) and name != "database"
    ]
    if settings.database:
        options.append("--database URL")
    return " ".join(["python -m benchmarks.fleet", *options])
