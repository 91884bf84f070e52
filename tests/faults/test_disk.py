# SPDX-License-Identifier: Apache-2.0
"""The server's disk is full: what cannot be stored is said, and nothing is half published."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.faults.servers import DEADLINE_S, Site
from tests.faults.test_kills import publish_remotely, version_of

from pocketrec.errors import ServiceError

if TYPE_CHECKING:
    from tests.cloud.delivery.devices import Device
    from tests.device.conftest import Deployment

    from pocketrec_device import Runtime
    from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
    from pocketrec_quantization.bundle import BundleFolder

pytestmark = [pytest.mark.faults, pytest.mark.slow]

SIZE = "8m"


@pytest.fixture
def small_disk(deployment: Deployment) -> Iterator[Path]:
    """The store, moved to a file system of its own."""
    if os.getuid() != 0 or sys.platform != "linux":
        pytest.skip("only root may mount a small file system")
    store = deployment.folder / "store"
    aside = store.rename(deployment.folder / "aside")
    store.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(store)],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        shutil.copytree(aside, store, dirs_exist_ok=True)
        yield store
    finally:
        subprocess.run(["umount", "-l", str(store)], check=True)


def fill(store: Path) -> Path:
    """Leave no byte free, and return what takes them."""
    ballast = store / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (2**16, 512, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                pass
    return ballast


def ask_for_plans(site: Site, stub: DeviceServiceStub, device: Device) -> None:
    """Ask for more new plans than SQLite has room left for."""
    for number in range(100):
        request = site.plan_request(f"user-{number}")
        stub.GetPlan(request, metadata=device.metadata, timeout=DEADLINE_S)


class TestFullDisk:
    def test_errors_are_honest_and_nothing_is_half_published(
        self,
        small_disk: Path,
        make_site: Callable[..., Site],
        make_bundle: Callable[..., BundleFolder],
        make_device: Callable[..., Runtime],
    ) -> None:
        """Plans and publications fail as UNAVAILABLE, and both work once there is room."""
        site, newer, device = make_site(), make_bundle(version=2, seed=1), make_device()
        site.start()
        known = site.register()
        ballast = fill(small_disk)

        with site.channel() as stub:
            with pytest.raises(grpc.RpcError) as failure:
                ask_for_plans(site, stub, known)
            with pytest.raises(ServiceError) as refused:
                publish_remotely(site, newer)
            ballast.unlink()
            device.sync(site.target)
            before = version_of(device)
            publish_remotely(site, newer)
            device.sync(site.target)

        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert refused.value.code == "UNAVAILABLE"
        assert (before, version_of(device)) == (1, 2)
        site.check(is_storage_faulty=True)
