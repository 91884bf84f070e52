# SPDX-License-Identifier: Apache-2.0
"""A server with both listeners, an operator, and devices that watch."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.devices import Device, register_device

from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_cloud.delivery.records import AdminRecord, AdminRole, AudienceKind, OrderRecord
from pocketrec_cloud.delivery.serving.config import AdminListener, Listening, ServerConfig
from pocketrec_cloud.delivery.testing import running_server
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.admin_service_pb2_grpc import AdminServiceStub
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

    from pocketrec_quantization.bundle import BundleFolder

DEADLINE_S = 30.0
TOKEN = "an operator's token"


@dataclass
class Party:
    """A server, its operator, and what a test says to it."""

    listening: Listening
    model_digest: bytes
    channel: grpc.Channel
    admin_channel: grpc.Channel
    server: ExitStack
    streams: list[grpc.Call] = field(default_factory=list)

    def stop(self) -> None:
        """Stop the server."""
        self.server.close()

    @property
    def stub(self) -> DeviceServiceStub:
        """What devices call."""
        return DeviceServiceStub(self.channel)

    def device(self, **profile: object) -> Device:
        """Register a device."""
        return register_device(self.channel, **profile)

    def watch(
        self, device: Device, subject: str = "", *, last_sequence: int = 0, **request: object
    ) -> Iterator[pb.WatchPlansResponse]:
        """Open a stream of a device."""
        plan = pb.GetPlanRequest(
            model_digest=self.model_digest,
            subject=subject,
            installed_version=int(str(request.pop("installed_version", 0))),
        )
        stream = self.stub.WatchPlans(
            pb.WatchPlansRequest(plan=plan, last_sequence=last_sequence, **request),  # type: ignore[arg-type]
            metadata=device.metadata,
            timeout=DEADLINE_S,
        )
        self.streams.append(stream)  # type: ignore[arg-type]
        return stream

    def push(self, **request: object) -> admin_pb.PushPlanResponse:
        """Give an order, to everybody unless told otherwise."""
        everybody = admin_pb.Audience(everybody=admin_pb.Everybody())
        request = {"audience": everybody, "request_id": uuid.uuid4().hex} | request
        return self.admin.PushPlan(
            admin_pb.PushPlanRequest(**request),  # type: ignore[arg-type]
            metadata=self.admin_metadata,
            timeout=DEADLINE_S,
        )

    @property
    def admin(self) -> AdminServiceStub:
        """What the operator calls."""
        return AdminServiceStub(self.admin_channel)

    @property
    def admin_metadata(self) -> list[tuple[str, str]]:
        """What the operator sends along."""
        return [("authorization", f"Bearer {TOKEN}")]


@pytest.fixture
def make_party(deployment: Deployment, bundle: BundleFolder) -> Iterator[Callable[..., Party]]:
    """Starts a server; arguments as ``WatchSettings``."""
    with ExitStack() as stack:

        def make(**settings: float) -> Party:
            add_operator(deployment)
            config = ServerConfig(
                store=deployment.store,
                keys=deployment.keys,
                admin=AdminListener(),
                watch=WatchSettings(**settings),
                grace_s=5.0,
            )
            server = stack.enter_context(ExitStack())
            listening = server.enter_context(
                running_server(config, clock=deployment.clock, database=deployment.database)
            )
            channel = stack.enter_context(grpc.insecure_channel(listening.address))
            admin_channel = stack.enter_context(grpc.insecure_channel(listening.admin_address))
            party = Party(listening, bundle.model_digest, channel, admin_channel, server)
            stack.callback(lambda: [stream.cancel() for stream in party.streams])
            return party

        yield make


@pytest.fixture
def party(make_party: Callable[..., Party]) -> Party:
    """A server that says little by itself."""
    return make_party()


def add_operator(deployment: Deployment) -> None:
    """Let ``TOKEN`` be an operator's."""
    deployment.database.put_admin(
        AdminRecord(
            name="olga",
            role=AdminRole.OPERATOR,
            token_sha256=hashlib.sha256(TOKEN.encode()).digest(),
            created_at_s=1,
        )
    )


def make_order(sequence: int, **fields: object) -> OrderRecord:
    """Return an order for everybody, unless told otherwise."""
    values: dict[str, object] = {
        "sequence": sequence,
        "request_id": f"push:{sequence}",
        "audience": AudienceKind.EVERYBODY,
        "audience_value": "",
        "model_digest": b"",
        "planner": "uniform-4",
        "average_bits": 0.0,
        "codes": b"",
        "created_at_s": 1,
        "expires_at_s": 0,
        "admin": "olga",
    }
    return OrderRecord(**(values | fields))  # type: ignore[arg-type]
