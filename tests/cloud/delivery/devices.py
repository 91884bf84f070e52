# SPDX-License-Identifier: Apache-2.0
"""Devices that register with a real server, without the device's own code."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc

from pocketrec.registration import registration_message
from pocketrec.signing import SigningKey
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

__all__ = ["Device", "register_device", "signed_request"]

DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """A device that has a token."""

    key: SigningKey
    device_id: str
    token: str = field(repr=False)
    lifetime_s: int

    @property
    def metadata(self) -> list[tuple[str, str]]:
        """What to send with a call."""
        return [("authorization", f"Bearer {self.token}")]


def register_device(
    channel: grpc.Channel | DeviceServiceStub, key: SigningKey | None = None, **profile: object
) -> Device:
    """Register a device, a new one unless its key is given, with facts as ``DeviceProfile``."""
    stub = channel if isinstance(channel, DeviceServiceStub) else DeviceServiceStub(channel)
    key = key or SigningKey.generate()
    request = pb.GetChallengeRequest(public_key=key.public.raw)
    challenge = stub.GetChallenge(request, timeout=DEADLINE_S).challenge
    response = stub.Register(signed_request(key, challenge, **profile), timeout=DEADLINE_S)
    return Device(
        key=key,
        device_id=response.device_id,
        token=response.token,
        lifetime_s=response.lifetime_s,
    )


def signed_request(key: SigningKey, challenge: bytes, **profile: object) -> pb.RegisterRequest:
    """Return a registration as a device signs it."""
    public_key = key.public.raw
    return pb.RegisterRequest(
        profile=pb.DeviceProfile(**profile),  # type: ignore[arg-type]  # tests choose the facts
        public_key=public_key,
        challenge=challenge,
        signature=key.sign(registration_message(public_key, challenge)),
    )
