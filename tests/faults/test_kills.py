# SPDX-License-Identifier: Apache-2.0
"""The server, or who publishes, ends at once in the middle of something; nothing is lost."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from tests.device.man_in_the_middle import ManInTheMiddle
from tests.faults.servers import DEADLINE_S, Site, bearer
from tests.faults.watchers import next_plan, planner_of, until, watch

from pocketrec.errors import ServiceError, ServiceUnavailableError
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.publishing.remote import RemotePublisher
from pocketrec_device import Runtime
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.bundle import CARD, FROZEN, BundleFolder
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.planners import sensitivity_to_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment

pytestmark = [pytest.mark.faults, pytest.mark.slow]

MakeBundle = Callable[..., BundleFolder]
MakeDevice = Callable[..., Runtime]
COUNTS = "timestamp.json"  # a publication counts with this file, and not before
DEATHS = [
    ("", False),
    ("targets.json", True),
    (COUNTS, False),
    (COUNTS, True),
    ("", True),
    ("targets.json", False),
    ("snapshot.json", False),
    ("snapshot.json", True),
]
N_WATCHERS = 20


def sensitivity_of(bundle: BundleFolder) -> bytes:
    """Return what a planner needs."""
    n_channels = total_channels(bundle.manifest.layers)
    losses = np.sort(np.random.default_rng(0).random((n_channels, 3)), axis=1)[:, ::-1]
    return sensitivity_to_bytes(losses.copy())


def publish_locally(deployment: Deployment, bundle: BundleFolder, **death: object) -> int:
    """Publish in a process of its own, and return how it ended; ``death`` as for a server."""
    known = deployment.folder / "sensitivity"
    known.write_bytes(sensitivity_of(bundle))
    words = ["bundle", "publish", str(bundle.path), "--sensitivity", str(known)]
    for name in ("store", "keys"):
        words += [f"--{name}", str(deployment.folder / name)]
    done = subprocess.run(
        [sys.executable, "-P", "-m", "tests.faults.dying_command", json.dumps(death), *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def version_of(device: Runtime) -> int:
    """Return the version of the bundle that runs."""
    current = device.status().current
    assert current is not None
    return current.bundle_version


@pytest.mark.parametrize(("file", "lands"), DEATHS)
class TestPublishing:
    def test_killed_publisher_leaves_one_publication_or_the_other(
        self,
        file: str,
        lands: bool,
        deployment: Deployment,
        make_bundle: MakeBundle,
        make_device: MakeDevice,
        site: Site,
    ) -> None:
        """Devices get version 1 or version 2, whole, and version 2 once it is tried again."""
        newer, device = make_bundle(version=2, seed=1), make_device()
        is_published = lands and file == COUNTS

        code = publish_locally(deployment, newer, file=file, lands=lands)
        device.sync(site.target)
        after_kill = version_of(device)
        if not is_published:
            publish_locally(deployment, newer)
        device.sync(site.target)

        assert code == -signal.SIGKILL
        assert (after_kill, version_of(device)) == (1 + is_published, 2)
        site.check()

    def test_killed_server_leaves_one_publication_or_the_other(
        self,
        file: str,
        lands: bool,
        deployment: Deployment,
        make_bundle: MakeBundle,
        make_device: MakeDevice,
        make_site: Callable[..., Site],
    ) -> None:
        """The same when the server dies while it carries out PublishBundle."""
        newer, device, site = make_bundle(version=2, seed=1), make_device(), make_site()
        is_published = lands and file == COUNTS

        site.start(file=file, lands=lands)
        with pytest.raises(ServiceUnavailableError):
            publish_remotely(site, newer)
        code = site.wait()
        site.start()
        device.sync(site.target)
        after_kill = version_of(device)
        if not is_published:
            publish_remotely(site, newer)
        device.sync(site.target)

        assert code == -signal.SIGKILL
        assert (after_kill, version_of(device)) == (1 + is_published, 2)
        site.check()


def publish_remotely(site: Site, bundle: BundleFolder) -> None:
    """Publish through the server."""
    endpoint = AdminEndpoint(target=site.admin_target, token=site.token)
    with AdminClient(endpoint) as client:
        publisher = RemotePublisher(client, site.folder / "keys", deadline_s=DEADLINE_S)
        publisher.publish(bundle, sensitivity_of(bundle))


class TestPublishingInPieces:
    def test_server_killed_between_pieces_publishes_nothing(
        self, make_site: Callable[..., Site], make_bundle: MakeBundle, make_device: MakeDevice
    ) -> None:
        """What a publisher had sent is gone, and the next try sends it all."""
        site, newer, device = make_site(), make_bundle(version=2, seed=1), make_device()
        site.start()

        def pieces() -> Iterator[admin_pb.PublishBundleRequest]:
            content = newer.read(FROZEN)[:100]
            digest = hashlib.sha256(content).digest()
            piece = admin_pb.FilePiece(sha256=digest, content=content)
            yield admin_pb.PublishBundleRequest(piece=piece)
            site.kill()
            yield admin_pb.PublishBundleRequest(order=admin_pb.PublicationOrder())

        with site.admin() as stub, pytest.raises(grpc.RpcError) as failure:
            stub.PublishBundle(pieces(), metadata=bearer(site.token), timeout=DEADLINE_S)
        site.start()
        device.sync(site.target)
        before = version_of(device)
        publish_remotely(site, newer)
        device.sync(site.target)

        assert failure.value.code() is grpc.StatusCode.UNAVAILABLE  # type: ignore[attr-defined]
        assert (before, version_of(device)) == (1, 2)
        site.check()


class TestPush:
    def test_order_that_was_stored_reaches_everybody_after_a_restart(
        self, make_site: Callable[..., Site]
    ) -> None:
        """Killed between storing and telling: whoever dials again gets it, and nobody twice."""
        site = make_site()
        site.start(order=True)
        devices = [site.register() for _ in range(N_WATCHERS)]

        with site.channel() as stub:
            streams = [watch(site, stub, device, f"user-{n}") for n, device in enumerate(devices)]
            for stream in streams:
                assert next(stream).WhichOneof("event") == "heartbeat"
            with pytest.raises(grpc.RpcError):
                site.push("the push")
            code = site.wait()
            with pytest.raises(grpc.RpcError):
                next(streams[0])
        site.start()
        again = site.push("the push")
        with site.channel() as stub:
            received = [
                next_plan(watch(site, stub, device, f"user-{number}"))
                for number, device in enumerate(devices)
            ]

        assert code == -signal.SIGKILL
        assert again.sequence == 1
        assert [sequence for sequence, _ in received] == [1] * N_WATCHERS
        assert {plan.planner for _, plan in received} == {"uniform-4"}
        assert {plan.subject for _, plan in received} == {f"user-{n}" for n in range(N_WATCHERS)}
        site.check()

    def test_devices_install_what_was_pushed_while_the_server_was_down(
        self, make_site: Callable[..., Site], make_device: MakeDevice
    ) -> None:
        """A watching device comes back by itself and runs the plan; a second order adds up."""
        site, device = make_site(), make_device()
        site.start(order=True)
        device.sync(site.target, subject="ann")
        with device.watch(site.target, subject="ann") as watcher:
            until(lambda: watcher.status().is_connected)
            with pytest.raises(grpc.RpcError):
                site.push()
            site.wait()
            site.start()
            until(lambda: planner_of(device) == "uniform-4")
            site.push(planner="uniform-8")
            until(lambda: watcher.status().sequence == 2)
            status = watcher.status()

        assert (status.n_plans, status.n_refused) == (2, 0)
        assert planner_of(device) == "uniform-8"
        site.check()


class TestDownload:
    def test_device_goes_on_where_the_killed_server_stopped(
        self,
        site: Site,
        deployment: Deployment,
        make_bundle: MakeBundle,
        make_device: MakeDevice,
        tmp_path: Path,
    ) -> None:
        """Killed once a chunk of a part is stored: the next sync asks for the rest of it only."""
        content = np.random.default_rng(0).bytes(3 * 2**20)
        deployment.publish(make_bundle(version=2, parts={CARD: content}))
        device = make_device()
        part = tmp_path / "device" / "downloads" / f"{hashlib.sha256(content).hexdigest()}.part"

        def die(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if answer.offset_bytes and len(answer.content) >= 2**18:
                until(part.exists)
                site.kill()
                raise TimeoutError  # what the server had sent before does not arrive either

        with ManInTheMiddle(site.target) as middle:
            middle.meddle["FetchChunk"] = die
            with pytest.raises(ServiceError):
                device.sync(middle.target)
            middle.meddle.clear()
            site.start()
            n_before = len(middle.calls)
            device.sync(middle.target)
            offsets = [
                request.offset_bytes
                for method, request in middle.calls[n_before:]
                if method == "FetchChunk"
            ]

        assert any(0 < offset < len(content) for offset in offsets)
        assert version_of(device) == 2
        site.check()
