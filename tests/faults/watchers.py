# SPDX-License-Identifier: Apache-2.0
"""Streams of plans, and what devices make of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

from tests.cloud.delivery.devices import Device
from tests.faults.servers import DEADLINE_S, Site

from pocketrec_device import Runtime
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.plan import Plan, decode_plan

__all__ = ["next_plan", "plan_version_of", "planner_of", "until", "watch"]


def watch(
    site: Site,
    stub: DeviceServiceStub,
    device: Device,
    subject: str = "",
    *,
    last_sequence: int = 0,
    installed_version: int = 0,
) -> Iterator[pb.WatchPlansResponse]:
    """Open a stream."""
    request = pb.WatchPlansRequest(
        plan=site.plan_request(subject, installed_version), last_sequence=last_sequence
    )
    return stub.WatchPlans(request, metadata=device.metadata, timeout=2 * DEADLINE_S)


def next_plan(stream: Iterator[pb.WatchPlansResponse]) -> tuple[int, Plan]:
    """Return the next plan and its sequence, heartbeats passed over."""
    for message in stream:
        if message.WhichOneof("event") == "plan":
            return message.sequence, decode_plan(message.plan)
    raise AssertionError("the stream ended without a plan")


def planner_of(device: Runtime) -> str:
    """Return what made the plan that is installed."""
    current = device.status().current
    assert current is not None
    return current.planner


def plan_version_of(device: Runtime) -> int:
    """Return the version of the plan that is installed."""
    current = device.status().current
    assert current is not None
    return current.plan_version


def until(is_reached: Callable[[], bool], patience_s: float = 2 * DEADLINE_S) -> None:
    """Return once it is so."""
    deadline_s = time.monotonic() + patience_s
    while not is_reached():
        assert time.monotonic() < deadline_s, "it never came to that"
        threading.Event().wait(0.02)
