# SPDX-License-Identifier: Apache-2.0
"""Every call over a real loopback socket, and the server as a process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tests.cloud.delivery.devices import register_device

from pocketrec.errors import ConfigError, StoreError
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.serving.server import ServerConfig
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.bundle import CARD, BundleFolder
from pocketrec_quantization.plan import decode_plan, model_id

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

DEADLINE_S = 20.0
MAX_POLLS = 10_000
LASTING = Limits(token_lifetime_s=30 * 24 * 3600)  # for clocks that jump by hours
Metadata = list[tuple[str, str]]


@pytest.fixture
def target(deployment: Deployment) -> Iterator[str]:
    """A server over a store with one bundle."""
    with deployment.serve() as target:
        yield target


@pytest.fixture
def channel(target: str) -> Iterator[grpc.Channel]:
    """A connection to it."""
    with grpc.insecure_channel(target) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> DeviceServiceStub:
    """A client of it."""
    return DeviceServiceStub(channel)


@pytest.fixture
def token(stub: DeviceServiceStub) -> Metadata:
    """The metadata of a registered device."""
    return register(stub)


def register(stub: DeviceServiceStub) -> Metadata:
    """Register a device and return the metadata of its later calls."""
    return register_device(stub).metadata


def status_of(call: Callable[[], object]) -> tuple[grpc.StatusCode, str]:
    """Return code and text that a call fails with."""
    with pytest.raises(grpc.RpcError) as failure:
        call()
    return failure.value.code(), failure.value.details() or ""


class TestCalls:
    def test_register_hands_out_a_token(self, stub: DeviceServiceStub) -> None:
        """Registering needs no token; each device gets its own."""
        first, second = register_device(stub), register_device(stub)

        assert first.device_id != second.device_id
        assert first.token != second.token

    def test_metadata_is_sent(
        self, deployment: Deployment, stub: DeviceServiceStub, token: Metadata
    ) -> None:
        """The timestamp comes as it lies on disk."""
        request = pb.GetMetadataRequest(filename="timestamp.json")

        response = stub.GetMetadata(request, metadata=token, timeout=DEADLINE_S)

        assert response.content == deployment.layout.timestamp.read_bytes()

    def test_part_is_streamed_from_an_offset(
        self, stub: DeviceServiceStub, token: Metadata, bundle: BundleFolder
    ) -> None:
        """An interrupted download goes on where it stopped."""
        path = f"parts/{bundle.manifest.part(CARD).sha256.hex()}"
        request = pb.FetchChunkRequest(target_path=path, offset_bytes=1000)

        chunks = list(stub.FetchChunk(request, metadata=token, timeout=DEADLINE_S))

        assert len(chunks) == 2
        assert chunks[0].offset_bytes == 1000
        assert b"".join(chunk.content for chunk in chunks) == bundle.read(CARD)[1000:]

    def test_cancelled_stream_leaves_the_server_well(
        self, stub: DeviceServiceStub, token: Metadata, bundle: BundleFolder
    ) -> None:
        """A device that hangs up in the middle costs the next one nothing."""
        path = f"parts/{bundle.manifest.part(CARD).sha256.hex()}"
        request = pb.FetchChunkRequest(target_path=path)
        stream = stub.FetchChunk(request, metadata=token, timeout=DEADLINE_S)
        next(stream)
        stream.cancel()

        chunks = list(stub.FetchChunk(request, metadata=token, timeout=DEADLINE_S))

        assert b"".join(chunk.content for chunk in chunks) == bundle.read(CARD)

    def test_plan_is_sent_once(
        self, stub: DeviceServiceStub, token: Metadata, bundle: BundleFolder
    ) -> None:
        """A plan comes signed; who holds it gets nothing more."""
        request = pb.GetPlanRequest(model_digest=bundle.model_digest, subject="alice")

        plan = stub.GetPlan(request, metadata=token, timeout=DEADLINE_S).plan
        request.installed_version = decode_plan(plan).version
        again = stub.GetPlan(request, metadata=token, timeout=DEADLINE_S).plan

        assert decode_plan(plan).subject == "alice"
        assert again == b""

    def test_plans_that_meet_are_each_ones_own(
        self, stub: DeviceServiceStub, token: Metadata, personal: BundleFolder
    ) -> None:
        """Of many calls in flight, one is refused and the others are answered."""
        calls = [
            stub.GetPlan.future(  # type: ignore[attr-defined]  # of sync stubs
                pb.GetPlanRequest(
                    model_digest=personal.model_digest,
                    bundle_digest=personal.digest,
                    subject=f"user-{number}",
                    average_bits=1.0 if number == 5 else 0.0,
                    user_embedding=pb.UserEmbedding(codes=bytes([number] * 4), scale=0.1),
                ),
                metadata=token,
                timeout=DEADLINE_S,
            )
            for number in range(20)
        ]

        code, _ = status_of(calls.pop(5).result)
        plans = [decode_plan(call.result().plan) for call in calls]

        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert [plan.subject for plan in plans] == [f"user-{n}" for n in range(20) if n != 5]
        assert {(plan.planner, plan.version) for plan in plans} == {("personal", 1)}
        assert len({plan.codes.tobytes() for plan in plans}) > 1


class TestRefusals:
    def test_huge_but_finite_embedding_is_the_callers_mistake(
        self, stub: DeviceServiceStub, token: Metadata, personal: BundleFolder
    ) -> None:
        """No extractor gives such numbers, and the planner refuses them."""
        request = pb.GetPlanRequest(
            model_digest=personal.model_digest,
            bundle_digest=personal.digest,
            user_embedding=pb.UserEmbedding(codes=bytes([127] * 4), scale=1e30),
        )

        code, details = status_of(lambda: consume(stub.GetPlan, request, token))

        assert code == grpc.StatusCode.INVALID_ARGUMENT
        assert "user_embedding: expected numbers of at most 1e+06" in details

    @pytest.mark.parametrize(
        "metadata",
        [
            pytest.param([], id="no token"),
            pytest.param([("authorization", "Bearer wrong")], id="wrong token"),
        ],
    )
    @pytest.mark.parametrize("call", ["GetMetadata", "FetchChunk", "GetPlan"])
    def test_call_without_a_good_token_is_refused(
        self, stub: DeviceServiceStub, call: str, metadata: Metadata
    ) -> None:
        """Everything but Register needs the token of a registered device."""
        request = getattr(pb, f"{call}Request")()

        code, _ = status_of(lambda: consume(getattr(stub, call), request, metadata))

        assert code == grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize(
        ("request_", "code"),
        [
            (pb.GetMetadataRequest(filename="../pocketrec.db"), "INVALID_ARGUMENT"),
            (pb.GetMetadataRequest(filename="2.root.json"), "NOT_FOUND"),
            (pb.FetchChunkRequest(target_path="../pocketrec.db"), "NOT_FOUND"),
            (
                pb.FetchChunkRequest(target_path="demo/manifest.pb", offset_bytes=2**40),
                "OUT_OF_RANGE",
            ),
            (pb.GetPlanRequest(model_digest=b"m" * 32, subject="x" * 129), "INVALID_ARGUMENT"),
            (pb.GetPlanRequest(model_digest=b"m" * 32), "NOT_FOUND"),
        ],
    )
    def test_refusal_arrives_as_its_status(
        self, stub: DeviceServiceStub, token: Metadata, request_: object, code: str
    ) -> None:
        """What a handler refuses, a client sees as the status the catalogue gives."""
        call = getattr(stub, type(request_).__name__.removesuffix("Request"))

        assert status_of(lambda: consume(call, request_, token))[0].name == code

    def test_oversize_message_is_refused(self, stub: DeviceServiceStub, token: Metadata) -> None:
        """A request is cut off by its size before anybody parses it."""
        request = pb.GetPlanRequest(subject="x" * 100_000)

        code, _ = status_of(lambda: consume(stub.GetPlan, request, token))

        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_registrations_are_limited(self, deployment: Deployment) -> None:
        """One address cannot fill the database."""
        limits = Limits(registrations_per_minute=1)
        with deployment.serve(limits=limits) as target, grpc.insecure_channel(target) as channel:
            stub = DeviceServiceStub(channel)
            register(stub)

            code, _ = status_of(lambda: register(stub))

        assert code == grpc.StatusCode.RESOURCE_EXHAUSTED

    def test_damage_is_reported_without_details(
        self,
        deployment: Deployment,
        stub: DeviceServiceStub,
        token: Metadata,
        bundle: BundleFolder,
    ) -> None:
        """A truncated file ends the stream with a status, and no path leaves the server."""
        part = bundle.manifest.part(CARD)
        deployment.layout.target(part.sha256.hex()).write_bytes(b"short")
        request = pb.FetchChunkRequest(target_path=f"parts/{part.sha256.hex()}")

        code, details = status_of(lambda: consume(stub.FetchChunk, request, token))

        assert code == grpc.StatusCode.DATA_LOSS
        assert details == "a published file is damaged on the server"


class TestPublishing:
    def test_server_without_a_bundle_answers(self, empty: Deployment) -> None:
        """Before the first publication, devices are told that there is nothing."""
        request = pb.FetchChunkRequest(target_path="demo/manifest.pb")
        with empty.serve() as target, grpc.insecure_channel(target) as channel:
            stub = DeviceServiceStub(channel)
            token = register(stub)

            code, details = status_of(lambda: consume(stub.FetchChunk, request, token))

        assert code == grpc.StatusCode.NOT_FOUND
        assert details == "nothing is published as 'demo/manifest.pb'"

    def test_new_bundle_is_served_without_a_restart(
        self, deployment: Deployment, stub: DeviceServiceStub, token: Metadata
    ) -> None:
        """What is published beside a running server is served by the next call."""
        newer = deployment.bundle(version=2, seed=1)
        deployment.publish(newer)

        request = pb.FetchChunkRequest(target_path="demo/manifest.pb")
        chunks = list(stub.FetchChunk(request, metadata=token, timeout=DEADLINE_S))
        plan = stub.GetPlan(
            pb.GetPlanRequest(model_digest=newer.model_digest), metadata=token, timeout=DEADLINE_S
        ).plan

        assert chunks[0].content == (newer.path / "manifest.pb").read_bytes()
        assert decode_plan(plan).model_id == model_id(newer.model_digest)

    def test_old_timestamp_is_refreshed_at_the_start(self, deployment: Deployment) -> None:
        """A server that was down for days serves metadata that devices accept."""
        shutil.rmtree(deployment.keys / "offline")
        deployment.clock.now_s += 3 * 24 * 3600

        with deployment.serve():
            pass

        deployment.tuf_client().refresh()

    def test_timestamp_is_refreshed_while_serving(self, deployment: Deployment) -> None:
        """A server that runs for long renews the timestamp before it expires."""
        request = pb.GetMetadataRequest(filename="timestamp.json")
        with (
            deployment.serve(refresh_every_s=0.01, limits=LASTING) as target,
            grpc.insecure_channel(target) as channel,
        ):
            stub = DeviceServiceStub(channel)
            token = register(stub)
            before = stub.GetMetadata(request, metadata=token, timeout=DEADLINE_S)
            deployment.clock.now_s += 20 * 3600

            answers = (
                stub.GetMetadata(request, metadata=token, timeout=DEADLINE_S)
                for _ in range(MAX_POLLS)
            )
            assert any(answer != before for answer in answers)

        deployment.tuf_client().refresh()

    def test_failed_refresh_is_logged_and_serving_goes_on(
        self, deployment: Deployment, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A key that vanished costs freshness, not the service."""
        with (
            deployment.serve(refresh_every_s=0.01, limits=LASTING) as target,
            grpc.insecure_channel(target) as channel,
        ):
            stub = DeviceServiceStub(channel)
            token = register(stub)
            (deployment.keys / "online" / "timestamp.pem").unlink()
            deployment.clock.now_s += 20 * 3600

            request = pb.GetMetadataRequest(filename="timestamp.json")
            for _ in range(MAX_POLLS):
                stub.GetMetadata(request, metadata=token, timeout=DEADLINE_S)
                if "the TUF timestamp stays as it is" in caplog.text:
                    break

        assert "the TUF timestamp stays as it is" in caplog.text


class TestStandardServices:
    def test_health_is_answered(self, channel: grpc.Channel) -> None:
        """Load balancers can ask for the service by name, without a token."""
        request = health_pb2.HealthCheckRequest(service="pocketrec.v1.DeviceService")

        stub = health_pb2_grpc.HealthStub(channel)
        response = stub.Check(request, timeout=DEADLINE_S)  # type: ignore[attr-defined]  # set in __init__

        assert response.status == health_pb2.HealthCheckResponse.SERVING

    def test_reflection_lists_the_services(self, channel: grpc.Channel) -> None:
        """Tools can find out what is offered."""
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)

        (response,) = stub.ServerReflectionInfo(  # type: ignore[operator]  # untyped attribute
            iter([request]), timeout=DEADLINE_S
        )

        assert {service.name for service in response.list_services_response.service} == {
            "pocketrec.v1.DeviceService",
            "grpc.health.v1.Health",
            "grpc.reflection.v1alpha.ServerReflection",
        }


class TestStarting:
    @pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "example.org"])
    def test_plaintext_beyond_this_machine_is_refused(
        self, deployment: Deployment, host: str
    ) -> None:
        """Serving others without TLS takes an explicit word."""
        with pytest.raises(ConfigError, match="--insecure"):
            deployment.config(host=host)
        assert deployment.config(host=host, is_plaintext_allowed=True).host == host

    @pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
    def test_plaintext_on_this_machine_is_allowed(self, deployment: Deployment, host: str) -> None:
        """Loopback needs no certificate."""
        assert deployment.config(host=host).tls is None

    def test_taken_port_is_named(self, deployment: Deployment, target: str) -> None:
        """A second server on the same port does not start, and says why."""
        port = int(target.rpartition(":")[2])

        with (
            pytest.raises(ConfigError, match=f"cannot listen on '127.0.0.1:{port}'"),
            deployment.serve(port=port),
        ):
            pass

    def test_store_without_a_repository_is_refused(self, tmp_path: Path) -> None:
        """Serving needs a repository first."""
        config = ServerConfig(store=tmp_path / "none", keys=tmp_path / "none", database="memory:")

        with pytest.raises(StoreError, match="pocketrec keys init"), serve_in_thread(config):
            pass

    @pytest.mark.parametrize("role", ["snapshot", "timestamp", "director"])
    def test_missing_online_key_is_found_at_once(self, deployment: Deployment, role: str) -> None:
        """A server that could not sign later does not start."""
        (deployment.keys / "online" / f"{role}.pem").unlink()

        with (
            pytest.raises(ConfigError, match=f"expected the {role} key"),
            deployment.serve(),
        ):
            pass


def test_process_announces_itself_and_stops_on_sigterm(deployment: Deployment) -> None:
    """The command says where it listens when ready, as JSON too, and ends when asked to."""
    code = "from pocketrec_cloud.delivery.serving.cli import serve; serve()"
    ready = deployment.folder / "ready.json"
    words = ["--store", str(deployment.store), "--keys", str(deployment.keys), "--port", "0"]
    with subprocess.Popen(
        [sys.executable, "-c", code, *words, "--json", str(ready)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        try:
            line = process.stdout.readline()
            with grpc.insecure_channel(line.removeprefix("listening on ").strip()) as channel:
                assert register(DeviceServiceStub(channel))
        finally:
            process.send_signal(signal.SIGTERM)
        rest = process.stdout.read()

    assert line.startswith("listening on 127.0.0.1:")
    address = line.removeprefix("listening on ").strip()
    assert json.loads(ready.read_text()) == {"address": address, "is_encrypted": False}
    assert (process.returncode, rest) == (0, "")


def consume(call: object, request: object, metadata: Metadata) -> list[object]:
    """Make a call and read its answer, streamed or not."""
    answer = call(request, metadata=metadata, timeout=DEADLINE_S)  # type: ignore[operator]
    return list(answer) if hasattr(answer, "__next__") else [answer]
