# SPDX-License-Identifier: Apache-2.0
"""Simulated devices of ``benchmarks.fleet``: real keys, registrations and streams, no inference.

Each has a connection of its own unless told otherwise, because that is what devices have.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ArtifactError, BackendError
from pocketrec.registration import registration_message
from pocketrec.signing import PublicKey, SigningKey
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub
from pocketrec_quantization.plan import SIGNATURE_BYTES, decode_plan

__all__ = ["FleetDevice", "make_fleet", "percentiles"]

_CALL_TIMEOUT_S = 60.0
_PASSING = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)  # of a server that is gone
_OPTIONS = (("grpc.use_local_subchannel_pool", 1), ("grpc.enable_retries", 0))
# How soon a device dials again: at most this long, doubled from one failure to the next.
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 8.0


@dataclass(eq=False)
class FleetDevice:
    """One device.

    Attributes:
        number: Which one.
        stub: Its connection.
        request: What it watches for.
        director: Who must have signed its plans.
        last_sequence: Of the last message.
        version: Of the plan it has.
        received: When it had verified the plan of each sequence, ``time.perf_counter``.
        is_up: Set while its stream has said something.
        n_refused: Plans that did not verify.
        n_dials: Streams it opened.
        endings: How often streams ended, by the name of their status.
    """

    number: int
    stub: Any
    request: pb.GetPlanRequest
    director: PublicKey
    last_sequence: int = 0
    version: int = 0
    received: dict[int, float] = field(default_factory=dict)
    is_up: asyncio.Event = field(default_factory=asyncio.Event)
    n_refused: int = 0
    n_dials: int = 0
    endings: Counter[str] = field(default_factory=Counter)
    metadata: tuple[tuple[str, str], ...] = ()

    async def register(self, gate: asyncio.Semaphore) -> None:
        """Prove that it holds a key, and get a token."""
        key = SigningKey.generate()
        public = key.public.raw
        async with gate:
            asked = pb.GetChallengeRequest(public_key=public)
            given = await self.stub.GetChallenge(asked, timeout=_CALL_TIMEOUT_S)
            request = pb.RegisterRequest(
                profile=pb.DeviceProfile(backend="onnxruntime 1.31.1", os="Linux"),
                public_key=public,
                challenge=given.challenge,
                signature=key.sign(registration_message(public, given.challenge)),
            )
            answer = await self.stub.Register(request, timeout=_CALL_TIMEOUT_S)
        self.metadata = (("authorization", f"Bearer {answer.token}"),)

    async def watch(self) -> None:
        """Watch until cancelled, dialling again whenever the stream ends."""
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                await self._watch_once()
            except grpc.aio.AioRpcError as exc:
                if exc.code() not in _PASSING:
                    raise BackendError(f"device {self.number}: {exc.code()}") from exc
                self.endings[exc.code().name] += 1
            pause_s = _FIRST_PAUSE_S if self.is_up.is_set() else min(2 * pause_s, _LONGEST_PAUSE_S)
            self.is_up.clear()
            await asyncio.sleep(random.uniform(0, pause_s))  # noqa: S311  spreads load

    async def _watch_once(self) -> None:
        self.request.installed_version = self.version
        request = pb.WatchPlansRequest(
            plan=self.request, model_name="demo", last_sequence=self.last_sequence
        )
        self.n_dials += 1
        async for message in self.stub.WatchPlans(request, metadata=self.metadata):
            if message.WhichOneof("event") == "plan":
                self._accept(message.plan)
            self.last_sequence = message.sequence
            self.received.setdefault(message.sequence, time.perf_counter())
            self.is_up.set()

    def _accept(self, container: bytes) -> None:
        """Verify a plan as a device does."""
        try:
            self.director.verify(container[:-SIGNATURE_BYTES], container[-SIGNATURE_BYTES:])
            plan = decode_plan(container)
        except ArtifactError:
            self.n_refused += 1
            return
        if plan.subject != self.request.subject or plan.version <= self.version:
            self.n_refused += 1
            return
        self.version = plan.version


def make_fleet(
    target: str,
    n_devices: int,
    *,
    devices_per_channel: int,
    model_digest: bytes,
    bundle_digest: bytes,
    users: NDArray[np.float32],
    director: PublicKey,
) -> list[FleetDevice]:
    """Return devices that are not known to the server yet.

    Args:
        target: What they dial.
        n_devices: How many.
        devices_per_channel: Devices that share a connection.
        model_digest: 32 bytes, of the frozen model they run.
        bundle_digest: 32 bytes, of the bundle they run.
        users: (n_devices, D) float32, what their extractors say of their users.
        director: Who must have signed their plans.
    """
    n_channels = -(-n_devices // devices_per_channel)
    channels = [grpc.aio.insecure_channel(target, _OPTIONS) for _ in range(n_channels)]
    stubs = [DeviceServiceStub(channel) for channel in channels]
    devices = []
    for number in range(n_devices):
        scale = float(np.abs(users[number]).max()) / 127
        codes = np.rint(users[number] / scale).astype(np.int8)
        request = pb.GetPlanRequest(
            model_digest=model_digest,
            bundle_digest=bundle_digest,
            subject=f"user-{number}",
            user_embedding=pb.UserEmbedding(codes=codes.tobytes(), scale=scale),
        )
        stub = stubs[number // devices_per_channel]
        devices.append(FleetDevice(number=number, stub=stub, request=request, director=director))
    return devices


def percentiles(seconds: Sequence[float]) -> dict[str, float]:
    """Return the median, the 99th percentile and the maximum, in seconds."""
    p50, p99 = np.percentile(seconds, (50, 99))
    return {"p50_s": float(p50), "p99_s": float(p99), "max_s": max(seconds)}
