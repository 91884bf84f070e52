# SPDX-License-Identifier: Apache-2.0
"""The cloud that apps test against, as an app's tests use it."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.device.conftest import write_tiny_bundle
from tests.device.unharmed import CANDIDATES
from tests.integration.builds import write_build

from pocketrec.errors import ConfigError, ServiceUnavailableError
from pocketrec.testing import CloudSimulator
from pocketrec_device import Runtime
from pocketrec_quantization.bundle import BundleFolder

DEADLINE_S = 20.0


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> list[BundleFolder]:
    """Versions 1 and 2."""
    return [
        write_build(tmp_path_factory.mktemp(f"build-{version}"), version=version)
        for version in (1, 2)
    ]


@pytest.fixture(scope="module")
def cloud(bundles: list[BundleFolder]) -> Iterator[CloudSimulator]:
    """A cloud with version 1, which breaks off no calls yet."""
    with CloudSimulator(bundles[0].path, chaos="delay=1ms") as cloud:
        yield cloud


@pytest.fixture
def device(cloud: CloudSimulator, tmp_path: Path) -> Iterator[Runtime]:
    """A new device that trusts it."""
    with Runtime.create(
        tmp_path / "device", model="demo", root=cloud.root, backend="numpy"
    ) as device:
        yield device


class TestCloudSimulator:
    def test_an_apps_day(
        self, cloud: CloudSimulator, device: Runtime, bundles: list[BundleFolder]
    ) -> None:
        """Sync, publish, stop, restart with faults, restart without: all under one address."""
        device.sync(cloud.target, deadline_s=DEADLINE_S)
        first = device.rerank(CANDIDATES, 3)
        cloud.publish(bundles[1].path)
        cloud.stop()
        with pytest.raises(ServiceUnavailableError):
            device.sync(cloud.target, deadline_s=DEADLINE_S)
        cloud.restart(chaos="drop=1")
        with pytest.raises(ServiceUnavailableError):
            device.sync(cloud.target, deadline_s=DEADLINE_S)
        assert device.rerank(CANDIDATES, 3) == first

        cloud.restart(chaos="")
        report = device.sync(cloud.target, deadline_s=DEADLINE_S)

        assert report.bundle_version == 2
        assert "CHAOS IS ON (drop=1" in cloud.log

    def test_push(self, cloud: CloudSimulator, device: Runtime) -> None:
        """A pushed plan comes with the next sync, and only for whom it was pushed."""
        device.sync(cloud.target, subject="ann", deadline_s=DEADLINE_S)

        cloud.push("--user", "ann", "--planner", "uniform-8")
        report = device.sync(cloud.target, subject="ann", deadline_s=DEADLINE_S)
        other = device.sync(cloud.target, subject="bob", deadline_s=DEADLINE_S)

        assert report.is_plan_new
        assert other.is_plan_new
        current = device.status().current
        assert current is not None
        assert current.planner == "global"

    def test_log_holds_no_secret(
        self, cloud: CloudSimulator, device: Runtime, tmp_path: Path
    ) -> None:
        """Neither the subject nor the device's token gets into the server's log."""
        device.sync(cloud.target, subject="pseudonym-of-ann", deadline_s=DEADLINE_S)

        token = device._store.load().token
        assert "GetPlan: OK" in cloud.log
        assert token not in cloud.log
        assert "pseudonym-of-ann" not in cloud.log

    def test_crash(self, cloud: CloudSimulator, device: Runtime) -> None:
        """A killed server is down, and back with all that it stored after a restart."""
        device.sync(cloud.target, deadline_s=DEADLINE_S)
        cloud.kill()
        is_up = cloud.is_running

        cloud.restart(chaos="")

        assert not is_up
        device.sync(cloud.target, deadline_s=DEADLINE_S)

    def test_everything_is_thrown_away(self, bundles: list[BundleFolder]) -> None:
        """After the block neither process nor folder is left."""
        with CloudSimulator() as cloud:
            folder, process = cloud.folder, cloud._server
            assert process is not None
            assert folder.is_dir()

        assert not folder.exists()
        with pytest.raises(ProcessLookupError):
            os.kill(process.pid, signal.SIGCONT)

    def test_unknown_fault(self) -> None:
        """A fault that there is none of is named, and nothing is left behind."""
        cloud = CloudSimulator(chaos="flood=1")

        with pytest.raises(ConfigError, match="'flood=1'"):
            cloud.start()

        assert not cloud.folder.exists()

    def test_bundle_without_sensitivities(self, tmp_path: Path) -> None:
        """What is absent beside the bundle is named."""
        bundle = write_tiny_bundle(tmp_path / "lone" / "bundle")

        with pytest.raises(ConfigError, match=r"sensitivity\.safetensors"):
            CloudSimulator(bundle.path).start()

    def test_use_before_start(self) -> None:
        """There is no address before there is a server."""
        with pytest.raises(ConfigError, match="has not been started"):
            _ = CloudSimulator().target
