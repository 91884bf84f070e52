# SPDX-License-Identifier: Apache-2.0
"""Oversized, truncated and random messages: each is answered with a status that we thought of.

Continuous integration sends some thousands; with ``POCKETREC_NIGHTLY=1`` in the environment it is
100,000 and more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import islice
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.cloud.delivery.devices import Device, register_device
from tests.faults.conftest import prepare_database
from tests.faults.fuzzing import ADMIN, DEVICE, Method, messages_of
from tests.faults.servers import DEADLINE_S, Site, bearer

from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment

    from pocketrec_quantization.bundle import BundleFolder

pytestmark = pytest.mark.faults

IS_NIGHTLY = os.environ.get("POCKETREC_NIGHTLY") == "1"
METHODS = (*DEVICE, *ADMIN)
N_MESSAGES = 110_000 if IS_NIGHTLY else 2_200
PER_METHOD = -(-N_MESSAGES // (2 * len(METHODS)))  # on each of two databases
FULL = settings(
    max_examples=PER_METHOD,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
)
# Of a caller's mistake. What is OK is looked at where it matters: nobody gets in.
ANSWERS = {
    grpc.StatusCode.OK,
    grpc.StatusCode.ABORTED,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.PERMISSION_DENIED,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
    grpc.StatusCode.UNAUTHENTICATED,
}
OPEN = {"GetChallenge", "Register"}  # the two calls that need no token


@dataclass
class Target:
    """A server, and what has been said to it."""

    site: Site
    channel: grpc.Channel
    admin_channel: grpc.Channel
    device: Device
    samples: dict[str, Message] = field(default_factory=dict)
    answers: Counter[str] = field(default_factory=Counter)

    def send(
        self, method: Method, messages: Sequence[bytes], metadata: Sequence[tuple[str, str]]
    ) -> grpc.StatusCode:
        """Make one call with these bytes, and return how it ended."""
        channel = self.admin_channel if method in ADMIN else self.channel
        try:
            if method.takes_stream:
                channel.stream_unary(method.path)(
                    iter(messages), metadata=metadata, timeout=DEADLINE_S
                )
            elif method.gives_stream:
                stream: Any = channel.unary_stream(method.path)(
                    messages[0], metadata=metadata, timeout=DEADLINE_S
                )
                list(islice(stream, 1))
                stream.cancel()
            else:
                channel.unary_unary(method.path)(messages[0], metadata=metadata, timeout=DEADLINE_S)
        except grpc.RpcError as exc:
            status: grpc.StatusCode = exc.code()  # type: ignore[attr-defined]
        else:
            status = grpc.StatusCode.OK
        self.answers[status.name] += len(messages)
        return status

    def check(self) -> None:
        """Fail if the server is not as well as before."""
        self.site.check()
        stub = DeviceServiceStub(self.channel)
        device = register_device(stub)
        plan = stub.GetPlan(
            self.site.plan_request("ann"), metadata=device.metadata, timeout=DEADLINE_S
        )
        assert plan.plan


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def target(
    request: pytest.FixtureRequest,
    published: Deployment,
    bundle: BundleFolder,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Target]:
    """A server that everything is sent to; its log is looked at once more in the end."""
    folder = shutil.copytree(published.folder, tmp_path_factory.mktemp("messages") / "deployment")
    database = ""
    if request.param == "postgres":
        database = request.getfixturevalue("postgres").create_database()
    token = prepare_database(folder, database, bundle)
    site = Site(folder, bundle.model_digest, token, database)
    with ExitStack() as stack:
        stack.callback(site.close)
        site.start()
        channel = stack.enter_context(grpc.insecure_channel(site.target))
        admin_channel = stack.enter_context(grpc.insecure_channel(site.admin_target))
        device = register_device(channel)
        target = Target(site, channel, admin_channel, device)
        target.samples = samples(site, bundle, folder)
        yield target
        target.check()


def samples(site: Site, bundle: BundleFolder, folder: Path) -> dict[str, Message]:
    """Return a message that is accepted, or nearly, by the name of a call."""
    plan = site.plan_request("ann")
    everybody = admin_pb.Audience(everybody=admin_pb.Everybody())
    uniform = admin_pb.PlanSettings(planner="uniform-4")
    targets = max((folder / "store" / "metadata").glob("*.targets.json")).read_bytes()
    piece = admin_pb.FilePiece(sha256=hashlib.sha256(b"piece").digest(), content=b"piece")
    return {
        "GetChallenge": pb.GetChallengeRequest(public_key=bytes(range(32))),
        "Register": pb.RegisterRequest(
            profile=pb.DeviceProfile(backend="numpy", os="Linux", ram_bytes=1, tags=["beta"]),
            public_key=bytes(range(32)),
            challenge=bytes(56),
            signature=bytes(64),
        ),
        "GetMetadata": pb.GetMetadataRequest(filename="timestamp.json"),
        "GetTargets": pb.GetTargetsRequest(model_name="demo", bundle_digest=bundle.digest),
        "FetchChunk": pb.FetchChunkRequest(target_path="demo/manifest.pb"),
        "GetPlan": plan,
        "WatchPlans": pb.WatchPlansRequest(plan=plan, model_name="demo"),
        "ReportStatus": pb.ReportStatusRequest(
            model_name="demo",
            bundle_digest=bundle.digest,
            attempted_bundle_digest=bundle.digest,
            outcome=pb.UPDATE_OUTCOME_INSTALLED,
            rerank_latency=pb.LatencyHistogram(bounds_us=[1, 2], counts=[1, 2, 3]),
        ),
        "PublishBundle": admin_pb.PublishBundleRequest(
            piece=piece,
            order=admin_pb.PublicationOrder(
                targets=targets,
                model_name="demo",
                bundle_digest=bundle.digest,
                sensitivity_sha256=piece.sha256,
            ),
        ),
        "PushPlan": admin_pb.PushPlanRequest(
            audience=everybody, settings=uniform, request_id="sample"
        ),
        "CancelPush": admin_pb.CancelPushRequest(sequence=1),
        "StartRollout": admin_pb.StartRolloutRequest(
            model_name="demo",
            bundle_digest=bundle.digest,
            stages_percent=[1, 10, 100],
            success_threshold=0.9,
            error_threshold=0.1,
            min_reports=1,
            min_stage_s=1,
            request_id="sample",
        ),
        "PauseRollout": admin_pb.ChangeRolloutRequest(rollout_id="r", reason="why"),
        "ListDevices": admin_pb.ListDevicesRequest(cohort="os = Linux", page_size=2),
        "RevokeDevice": admin_pb.RevokeDeviceRequest(device_id="0" * 32, reason="why"),
        "ListAuditLog": admin_pb.ListAuditLogRequest(after=1, page_size=2),
    }


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
class TestAnyMessage:
    def test_is_answered_with_a_status_of_the_catalogue(
        self, target: Target, method: Method
    ) -> None:
        """Whoever may call gets an answer or a refusal, whatever the bytes, and no traceback."""
        token = target.site.token if method in ADMIN else target.device.token
        n_most = 3 if method.takes_stream else 1
        messages = st.lists(messages_of(method, target.samples), min_size=1, max_size=n_most)

        @FULL
        @given(messages)
        def send(sent: list[bytes]) -> None:
            status = target.send(method, sent, bearer(token))
            assert status in ANSWERS, status

        send()
        target.site.check()
