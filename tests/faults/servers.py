# SPDX-License-Identifier: Apache-2.0
"""Delivery servers in processes of their own, to be killed and started again on the same ports."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
from tests.cloud.delivery.devices import Device, register_device
from tests.faults.server_log import check_log

from pocketrec.signing import SigningKey
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.admin_service_pb2_grpc import AdminServiceStub
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

__all__ = ["DEADLINE_S", "Site", "bearer"]

DEADLINE_S = 30.0
_OPTIONS = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


@dataclass(eq=False)
class Site:
    """One server over a deployment's folders; start it, and close it in the end.

    Args:
        folder: Holds ``store`` and ``keys``; the log goes there.
        model_digest: Of the published bundle's frozen part, 32 bytes.
        token: An operator's.
        database: URL; empty = SQLite in the store.
        name: Tells servers over the same folders apart.
        limits: As ``Limits``, where rates have none by default.
        watch: As ``WatchSettings``.
        skew_s: How far its clock is ahead.
    """

    folder: Path
    model_digest: bytes
    token: str
    database: str = ""
    name: str = "server"
    limits: dict[str, int] = field(default_factory=dict)
    watch: dict[str, float] = field(default_factory=dict)
    skew_s: float = 0.0
    target: str = ""
    admin_target: str = ""
    process: subprocess.Popen[str] | None = None
    n_checked_bytes: int = 0

    @property
    def log(self) -> Path:
        """Where it writes what happens, over all its lives."""
        return self.folder / f"{self.name}.log"

    def start(self, **death: object) -> None:
        """Serve, on the ports of before; ``death`` says at which step to end."""
        job = {
            "store": str(self.folder / "store"),
            "keys": str(self.folder / "keys"),
            "database": self.database,
            "port": int(self.target.rpartition(":")[2] or 0),
            "admin_port": int(self.admin_target.rpartition(":")[2] or 0),
            "limits": self.limits,
            "watch": self.watch,
            "skew_s": self.skew_s,
            "death": death,
        }
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "tests.faults.serving_process", json.dumps(job)],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text(encoding="utf-8")
        self.target, self.admin_target = json.loads(line).values()

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does; fit for any thread."""
        process = self.process
        assert process is not None
        process.kill()
        _bury(process)

    def wait(self) -> int:
        """Wait for its end, and return how it ended."""
        assert self.process is not None
        return _bury(self.process)

    def stop(self) -> None:
        """End it in good order."""
        assert self.process is not None
        self.process.terminate()
        self.wait()

    def memory_bytes(self) -> int:
        """Return its resident memory."""
        assert self.process is not None
        words = ["ps", "-o", "rss=", "-p", str(self.process.pid)]
        return 1024 * int(subprocess.check_output(words))

    def close(self) -> None:
        """End it if it still runs."""
        if self.process is not None and self.process.poll() is None:
            self.kill()

    def check(self, *, is_storage_faulty: bool = False) -> None:
        """Fail if it met anything unexpected since the last look, or ended by itself."""
        assert self.process is not None
        assert self.process.poll() is None, "the server is gone"
        start, self.n_checked_bytes = self.n_checked_bytes, self.log.stat().st_size
        check_log(self.log, start=start, is_storage_faulty=is_storage_faulty)

    @contextmanager
    def channel(self, options: tuple[tuple[str, int], ...] = ()) -> Iterator[DeviceServiceStub]:
        """Lend a connection of a device's."""
        with grpc.insecure_channel(self.target, [*_OPTIONS, *options]) as channel:
            yield DeviceServiceStub(channel)

    @contextmanager
    def admin(self) -> Iterator[AdminServiceStub]:
        """Lend a connection of an admin's."""
        with grpc.insecure_channel(self.admin_target, _OPTIONS) as channel:
            yield AdminServiceStub(channel)

    def register(self, key: SigningKey | None = None, **profile: object) -> Device:
        """Make a device known."""
        with self.channel() as stub:
            return register_device(stub, key, **profile)

    def plan_request(self, subject: str = "", installed_version: int = 0) -> pb.GetPlanRequest:
        """Return what asks for a plan."""
        return pb.GetPlanRequest(
            model_digest=self.model_digest, subject=subject, installed_version=installed_version
        )

    def push(self, request_id: str = "", **settings: Any) -> admin_pb.PushPlanResponse:
        """Order plans for everybody."""
        request = admin_pb.PushPlanRequest(
            audience=admin_pb.Audience(everybody=admin_pb.Everybody()),
            settings=admin_pb.PlanSettings(**(settings or {"planner": "uniform-4"})),
            request_id=request_id or uuid.uuid4().hex,
        )
        with self.admin() as stub:
            return stub.PushPlan(request, metadata=bearer(self.token), timeout=DEADLINE_S)


def _bury(process: subprocess.Popen[str]) -> int:
    """Wait for a process's end, and return how it ended."""
    assert process.stdout is not None
    code = process.wait(DEADLINE_S)
    process.stdout.close()
    return code


def bearer(token: str) -> list[tuple[str, str]]:
    """Return what says who calls."""
    return [("authorization", f"Bearer {token}")]
