# SPDX-License-Identifier: Apache-2.0
"""What a device may ask of plans, and what it gets, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import grpc
import numpy as np
import pytest
from tests.cloud.delivery.devices import Device, register_device

from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.plan import decode_plan

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

DEADLINE_S = 20.0


class Asker:
    """A device that asks for plans."""

    def __init__(self, stub: DeviceServiceStub, device: Device) -> None:
        self._stub = stub
        self._device = device

    def plan(self, request: pb.GetPlanRequest) -> bytes:
        """Return the plan that is sent."""
        metadata = self._device.metadata
        return self._stub.GetPlan(request, metadata=metadata, timeout=DEADLINE_S).plan

    def refusal(self, request: pb.GetPlanRequest) -> tuple[grpc.StatusCode, str]:
        """Return code and message that a request is refused with."""
        with pytest.raises(grpc.RpcError) as failure:
            self.plan(request)
        return failure.value.code(), failure.value.details() or ""  # type: ignore[attr-defined]


@contextmanager
def asking(deployment: Deployment, **settings: object) -> Iterator[Asker]:
    """Start a server and register a device with it."""
    with deployment.serve(**settings) as target, grpc.insecure_channel(target) as channel:
        stub = DeviceServiceStub(channel)
        yield Asker(stub, register_device(stub))


@pytest.fixture
def asker(deployment: Deployment) -> Iterator[Asker]:
    """A device of a server with one bundle."""
    with asking(deployment) as asker:
        yield asker


def test_plan_is_for_who_asked(asker: Asker, bundle: BundleFolder) -> None:
    """The fields of the request end up in the plan."""
    request = pb.GetPlanRequest(
        model_digest=bundle.model_digest, subject="alice", average_bits=8, planner="uniform-4"
    )

    plan = decode_plan(asker.plan(request))

    assert (plan.subject, plan.planner, plan.version) == ("alice", "uniform-4", 1)


def test_installed_plan_is_answered_with_nothing(asker: Asker, bundle: BundleFolder) -> None:
    """An empty plan means: keep what you have."""
    request = pb.GetPlanRequest(model_digest=bundle.model_digest)
    asker.plan(request)
    request.installed_version = 1

    assert asker.plan(request) == b""


def test_user_embedding_is_taken(asker: Asker, bundle: BundleFolder) -> None:
    """An int8 embedding of the model's size is understood."""
    embedding = pb.UserEmbedding(codes=np.arange(-2, 2, dtype=np.int8).tobytes(), scale=0.5)
    request = pb.GetPlanRequest(
        model_digest=bundle.model_digest, bundle_digest=bundle.digest, user_embedding=embedding
    )

    assert asker.plan(request)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"subject": "x" * 129}, "subject: expected at most 128"),
        ({"subject": "a\nb"}, "subject: expected at most 128"),
        ({"planner": "x" * 65}, "planner: expected"),
        ({"model_digest": b"short"}, "model_digest of 32 bytes, got 5"),
        ({"average_bits": float("nan")}, "average_bits between"),
        ({"bundle_digest": b"short"}, "bundle_digest: expected 32 bytes"),
        ({"bundle_digest": b"?" * 32}, "bundle_digest: expected a published bundle"),
        (
            {"bundle_digest": b"", "user_embedding": pb.UserEmbedding(codes=b"four", scale=1)},
            "needed with a user_embedding",
        ),
        ({"user_embedding": pb.UserEmbedding(codes=b"x")}, "user_embedding.scale above 0"),
        ({"user_embedding": pb.UserEmbedding(codes=b"x", scale=3e38)}, "scale above 0"),
        ({"user_embedding": pb.UserEmbedding(scale=1)}, "of 4 dimensions"),
        ({"user_embedding": pb.UserEmbedding(codes=b"x", scale=1)}, "of 4 dimensions"),
    ],
)
def test_field_out_of_bounds_is_refused(
    asker: Asker, bundle: BundleFolder, changes: dict[str, object], message: str
) -> None:
    """Whatever a device sends is bounded before it is used."""
    fields: dict[str, object] = {
        "model_digest": bundle.model_digest,
        "bundle_digest": bundle.digest,
    } | changes
    request = pb.GetPlanRequest(**fields)  # type: ignore[arg-type]

    code, text = asker.refusal(request)

    assert code is grpc.StatusCode.INVALID_ARGUMENT
    assert message in text


def test_device_that_asks_too_often_is_refused(
    deployment: Deployment, bundle: BundleFolder
) -> None:
    """Planning costs; one device may ask so many times a minute."""
    request = pb.GetPlanRequest(model_digest=bundle.model_digest)
    with asking(deployment, limits=Limits(plans_per_minute=1)) as asker:
        asker.plan(request)

        code, _ = asker.refusal(request)

    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED


def test_unknown_model_is_not_found(asker: Asker) -> None:
    """A model that was never published cannot be planned for."""
    code, _ = asker.refusal(pb.GetPlanRequest(model_digest=b"m" * 32))

    assert code is grpc.StatusCode.NOT_FOUND
