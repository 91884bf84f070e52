# SPDX-License-Identifier: Apache-2.0
"""A fleet of real devices, a real server, and an operator who rolls bundles out to them."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from tests.device.conftest import Deployment, write_tiny_bundle

from pocketrec.errors import HealthCheckError
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole
from pocketrec_cloud.delivery.rollouts.judge import judge_all
from pocketrec_cloud.delivery.serving.server import AdminListener, ServerConfig
from pocketrec_cloud.delivery.testing import running_server
from pocketrec_device import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.bundle import VECTORS, BundleFolder
from pocketrec_quantization.vectors import TestVectors, VectorCase

__all__ = ["TOKEN", "Fleet", "Operator", "admin_record", "fleet_of", "with_broken_vectors"]

TOKEN = "token of olga"


@dataclass(frozen=True)
class Operator:
    """Somebody at the admin service."""

    client: AdminClient

    def start(self, bundle: BundleFolder, **fields: object) -> pb.Rollout:
        """Start a rollout; thresholds are those of a test unless given."""
        request = pb.StartRolloutRequest(
            **{
                "model_name": "demo",
                "bundle_digest": bundle.digest,
                "stages_percent": (20.0, 100.0),
                "success_threshold": 0.9,
                "error_threshold": 0.5,
                "min_reports": 1,
                "request_id": f"{time.monotonic_ns()}",
            }
            | fields
        )
        return self.client.call(self.client.stub.StartRollout, request)

    def look(self, rollout: pb.Rollout) -> pb.Rollout:
        """Return a rollout as it is now."""
        request = pb.GetRolloutRequest(rollout_id=rollout.rollout_id)
        return self.client.call(self.client.stub.GetRollout, request)

    def actions(self) -> list[tuple[str, str]]:
        """Return who did what."""
        request = pb.ListAuditLogRequest(page_size=1000)
        log = self.client.call(self.client.stub.ListAuditLog, request)
        return [(entry.admin, entry.action) for entry in log.entries]


@dataclass(frozen=True)
class Fleet:
    """Devices with version 1, and the server they follow."""

    deployment: Deployment
    folder: Path
    target: str
    operator: Operator
    devices: list[Runtime] = field(default_factory=list)

    def bundle(self, version: int, *, is_broken: bool = False) -> BundleFolder:
        """Publish a candidate; a broken one does not prove itself on any device."""
        bundle = write_tiny_bundle(self.folder / f"bundle-{version}", version=version, seed=1)
        if is_broken:
            parts = {VECTORS: with_broken_vectors(bundle)}
            folder = self.folder / f"broken-{version}"
            bundle = write_tiny_bundle(folder, version=version, seed=1, parts=parts)
        self.deployment.publish(bundle, is_candidate=True)
        return bundle

    def sync(self, devices: list[Runtime] | None = None) -> int:
        """Let devices sync, some at a time; returns how many found a bundle unhealthy."""

        def sync(device: Runtime) -> bool:
            try:
                device.sync(self.target)
            except HealthCheckError:
                return True
            return False

        with ThreadPoolExecutor(4) as pool:
            return sum(pool.map(sync, self.devices if devices is None else devices))

    def judge(self) -> None:
        """Let rollouts go on or stop, as every server does every few seconds."""
        with self.deployment.storage() as storage:
            judge_all(storage.database, time.time)

    def versions(self) -> list[int]:
        """Return the bundle version that each device runs."""
        current = [device.status().current for device in self.devices]
        return [0 if status is None else status.bundle_version for status in current]


@contextmanager
def fleet_of(n_devices: int, folder: Path) -> Iterator[Fleet]:
    """Serve while the block runs; every device has version 1 and reports."""
    deployment = Deployment(folder / "deployment")
    KeyFolder(deployment.config.keys).create()
    with deployment.storage() as storage:
        create_repository(storage, deployment.config.keys)
        storage.database.put_admin(admin_record())
    deployment.publish(write_tiny_bundle(folder / "bundle-1"))
    limits = Limits(registrations_per_minute=10_000, challenges_per_minute=10_000)
    config: ServerConfig = replace(deployment.config, admin=AdminListener(), limits=limits)
    with running_server(config) as listening:
        endpoint = AdminEndpoint(target=listening.admin_address, token=TOKEN)
        with AdminClient(endpoint) as client:
            fleet = Fleet(deployment, folder, listening.address, Operator(client))
            make = _device_maker(deployment, folder)
            fleet.devices.extend(make(number) for number in range(n_devices))
            fleet.sync()
            yield fleet


def admin_record() -> AdminRecord:
    """The operator whose token is ``TOKEN``."""
    return AdminRecord(
        name="olga",
        role=AdminRole.OPERATOR,
        token_sha256=hashlib.sha256(TOKEN.encode()).digest(),
        created_at_s=1,
    )


def with_broken_vectors(bundle: BundleFolder) -> bytes:
    """Return a bundle's test vectors with scores that no device computes."""
    vectors = TestVectors.from_bytes(bundle.read(VECTORS))
    cases = tuple(
        VectorCase(history=case.history, candidates=case.candidates, scores=case.scores + 1)
        for case in vectors.cases
    )
    return TestVectors(cases=cases, tolerance=vectors.tolerance).to_bytes()


def _device_maker(deployment: Deployment, folder: Path) -> Callable[[int], Runtime]:
    def make(number: int) -> Runtime:
        store = Store(folder / f"device-{number}")
        store.create("demo", deployment.root)
        return Runtime(store, EngineSettings(backend="numpy"), report_status=True)

    return make
