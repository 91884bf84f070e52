# SPDX-License-Identifier: Apache-2.0
"""Oversized, truncated and random messages: each is answered with a status that we thought of.

Continuous integration sends some thousands; with ``POCKETREC_NIGHTLY=1`` in the environment it is
100,000 and more.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
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

pytestmark = [pytest.mark.faults, pytest.mark.slow]

IS_NIGHTLY = os.environ.get("POCKETREC_NIGHTLY") == "1"
METHODS = (*DEVICE, *ADMIN)
N_MESSAGES = 110_000 if IS_NIGHTLY else 2_200
AT_ONCE = 8
N_EXAMPLES = -(-N_MESSAGES // (2 * len(METHODS) * AT_ONCE))  # on each of two databases
FULL = settings(
    max_examples=N_EXAMPLES,
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
INVALID = grpc.StatusCode.INVALID_ARGUMENT
OPEN = {"GetChallenge", "Register"}  # the two calls that need no token


@dataclass
class Target:
    """A server, and what has been said to it."""

    site: Site
    channel: grpc.Channel
    admin_channel: grpc.Channel
    device: Device
    samples: dict[str, Message] = field(default_factory=dict)
    n_messages: int = 0

    def send(
        self, method: Method, messages: Sequence[bytes], metadata: Sequence[tuple[str, str]]
    ) -> set[grpc.StatusCode]:
        """Make calls with these bytes, all at once, and return how they ended."""
        channel = self.admin_channel if method in ADMIN else self.channel
        options: dict[str, Any] = {"metadata": metadata, "timeout": DEADLINE_S}
        calls: list[Any]
        if method.takes_stream:
            publish: Any = channel.stream_unary(method.path)
            calls = [publish.future(iter(pair), **options) for pair in batched(messages, 2)]
        elif method.gives_stream:
            watch: Any = channel.unary_stream(method.path)
            calls = [watch(message, **options) for message in messages]
        else:
            call: Any = channel.unary_unary(method.path)
            calls = [call.future(message, **options) for message in messages]
        self.n_messages += len(messages)
        return {_ending(call, is_stream=method.gives_stream) for call in calls}

    def check(self) -> None:
        """Fail if the server is not as well as before."""
        self.site.check()
        stub = DeviceServiceStub(self.channel)
        device = register_device(stub)
        plan = stub.GetPlan(
            self.site.plan_request("ann"), metadata=device.metadata, timeout=DEADLINE_S
        )
        assert plan.plan


def _ending(call: Any, *, is_stream: bool) -> grpc.StatusCode:
    """Return how a call ended; of a stream, how its first message came."""
    try:
        if is_stream:
            next(call, None)
            call.cancel()
        else:
            call.result()
    except grpc.RpcError as exc:
        status: grpc.StatusCode = exc.code()  # type: ignore[attr-defined]
        return status
    return grpc.StatusCode.OK


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


def batched(messages: Sequence[bytes], size: int) -> Iterator[Sequence[bytes]]:
    """Return pieces of a sequence."""
    return (messages[start : start + size] for start in range(0, len(messages), size))


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
        one = messages_of(method, target.samples)
        messages = st.lists(one, min_size=AT_ONCE, max_size=AT_ONCE)

        @FULL
        @given(messages)
        def send(sent: list[bytes]) -> None:
            endings = target.send(method, sent, bearer(token))
            assert endings <= ANSWERS
            assert method.name != "Register" or grpc.StatusCode.OK not in endings

        before = target.n_messages
        send()
        assert target.n_messages - before >= N_MESSAGES // (2 * len(METHODS))
        target.site.check()


class TestStranger:
    def test_gets_nothing_without_a_token(self, site: Site, bundle: BundleFolder) -> None:
        """Good messages and bad ones alike: whoever says nothing of themselves is refused."""
        known = samples(site, bundle, site.folder)
        allowed = {grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.RESOURCE_EXHAUSTED}

        with stranger(site) as target:
            for method in METHODS:
                if method.name in OPEN:
                    continue
                good = known.get(method.name, method.request()).SerializeToString()
                for metadata in (
                    [],
                    bearer(""),
                    bearer("x" * 2000),
                    [("authorization", "Basic x")],
                ):
                    assert target.send(method, [good], metadata) <= allowed, method.name
                assert target.send(method, [b"\xff"], []) <= {*allowed, INVALID}, method.name

        site.check()


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
class TestOversized:
    def test_is_refused_before_it_is_read(self, target: Target, method: Method) -> None:
        """More than the listener takes at once is nobody's message, token or not."""
        n_bytes = (6 * 2**20 if method in ADMIN else 2**16) + 1
        token = target.site.token if method in ADMIN else target.device.token

        endings = target.send(method, [bytes(n_bytes)], bearer(token))

        assert endings == {grpc.StatusCode.RESOURCE_EXHAUSTED}
        target.site.check()


@contextmanager
def stranger(site: Site) -> Iterator[Target]:
    """Lend connections to a server."""
    with (
        grpc.insecure_channel(site.target) as channel,
        grpc.insecure_channel(site.admin_target) as admin_channel,
    ):
        yield Target(site, channel, admin_channel, site.register())
