# SPDX-License-Identifier: Apache-2.0
"""Registration, sessions and revocation through a whole server, over real sockets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.devices import DEADLINE_S, Device, register_device, signed_request

from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.admin.registry import add_admin
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_cloud.delivery.serving.config import AdminListener, Listening
from pocketrec_cloud.delivery.testing import running_server
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment


@pytest.fixture
def listening(deployment: Deployment) -> Iterator[Listening]:
    """A server for devices and admins."""
    config = deployment.config(admin=AdminListener(), limits=Limits(calls_per_minute=5))
    with running_server(config, clock=deployment.clock, database=deployment.database) as listening:
        yield listening


@pytest.fixture
def channel(listening: Listening) -> Iterator[grpc.Channel]:
    """A device's connection."""
    with grpc.insecure_channel(listening.address) as channel:
        yield channel


@pytest.fixture
def admin(listening: Listening, deployment: Deployment) -> Iterator[AdminClient]:
    """An operator's connection."""
    now_s = int(deployment.clock())
    token = add_admin(deployment.database, "olga", AdminRole.OPERATOR, now_s=now_s)
    with AdminClient(AdminEndpoint(target=listening.admin_address, token=token)) as client:
        yield client


def answer_of(channel: grpc.Channel, device: Device) -> str:
    """Return "OK", or the status that asking for metadata ends with."""
    request = pb.GetMetadataRequest(filename="timestamp.json")
    try:
        DeviceServiceStub(channel).GetMetadata(
            request, metadata=device.metadata, timeout=DEADLINE_S
        )
    except grpc.RpcError as exc:
        return str(exc.code().name)
    return "OK"


def status_of_registering(channel: grpc.Channel, device: Device) -> str:
    """Return the status that registering again ends with."""
    with pytest.raises(grpc.RpcError) as refusal:
        register_device(channel, device.key)
    return str(refusal.value.code().name)


class TestServer:
    def test_a_revoked_device_is_out(self, channel: grpc.Channel, admin: AdminClient) -> None:
        """Its session ends at once where it was revoked, and its key opens nothing."""
        device, other = register_device(channel), register_device(channel)
        before = answer_of(channel, device)

        admin.call(
            admin.stub.RevokeDevice, admin_pb.RevokeDeviceRequest(device_id=device.device_id)
        )

        assert (before, answer_of(channel, device)) == ("OK", "UNAUTHENTICATED")
        assert status_of_registering(channel, device) == "PERMISSION_DENIED"
        assert answer_of(channel, other) == "OK"

    def test_a_session_in_memory_ends_too(
        self, channel: grpc.Channel, deployment: Deployment
    ) -> None:
        """What a server remembers of a token does not outlive it."""
        device = register_device(channel)
        before = answer_of(channel, device)
        deployment.clock.now_s += device.lifetime_s

        assert (before, answer_of(channel, device)) == ("OK", "UNAUTHENTICATED")

    def test_a_renewed_token_ends_the_old_one(self, channel: grpc.Channel) -> None:
        """A thief who holds the token of before is out, remembered or not."""
        old = register_device(channel)
        before = answer_of(channel, old)
        new = register_device(channel, old.key)

        assert before == answer_of(channel, new) == "OK"
        assert answer_of(channel, old) == "UNAUTHENTICATED"

    def test_calls_of_one_device_are_limited(self, channel: grpc.Channel) -> None:
        """Beyond its rate a device waits; others do not."""
        device, other = register_device(channel), register_device(channel)

        answers = [answer_of(channel, device) for _ in range(6)]

        assert answers == ["OK"] * 5 + ["RESOURCE_EXHAUSTED"]
        assert answer_of(channel, other) == "OK"

    def test_devices_are_listed_with_what_they_declare(
        self, channel: grpc.Channel, admin: AdminClient
    ) -> None:
        """What a device says when it registers is what an operator finds by it."""
        device = register_device(channel, os="Android", app_version="2.14", tags=["beta"])
        register_device(channel, os="iOS")
        request = admin_pb.ListDevicesRequest(cohort="tag = beta and app_version >= 2.9")

        (entry,) = admin.call(admin.stub.ListDevices, request).devices

        assert (entry.device_id, entry.os) == (device.device_id, "Android")


def test_any_server_of_a_deployment_takes_a_challenge(deployment: Deployment) -> None:
    """One gives it, another one takes it, and it is used up for both."""
    key = register_with(deployment)
    with ExitStack() as stack:
        first, second = (
            DeviceServiceStub(
                stack.enter_context(grpc.insecure_channel(stack.enter_context(deployment.serve())))
            )
            for _ in range(2)
        )
        asked = pb.GetChallengeRequest(public_key=key.key.public.raw)
        challenge = first.GetChallenge(asked, timeout=DEADLINE_S).challenge
        request = signed_request(key.key, challenge)

        answer = second.Register(request, timeout=DEADLINE_S)
        with pytest.raises(grpc.RpcError) as refusal:
            first.Register(request, timeout=DEADLINE_S)

    assert answer.device_id == key.device_id
    assert refusal.value.code() is grpc.StatusCode.UNAUTHENTICATED


def register_with(deployment: Deployment) -> Device:
    """Return a device that a deployment knows."""
    with deployment.serve() as target, grpc.insecure_channel(target) as channel:
        return register_device(channel)
