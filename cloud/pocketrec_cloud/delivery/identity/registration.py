# SPDX-License-Identifier: Apache-2.0
"""Answers ``GetChallenge`` and ``Register``, the two calls that need no token."""

from __future__ import annotations

import hashlib
import secrets

from pocketrec.errors import IntegrityError, RejectedError
from pocketrec.registration import check_facts, device_id_of, registration_message
from pocketrec.signing import PUBLIC_KEY_BYTES, SIGNATURE_BYTES, PublicKey
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.boundary.refusals import blaming_the_caller
from pocketrec_cloud.delivery.identity.challenges import CHALLENGE_BYTES
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.records import DeviceRecord
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.checks import check_integer

__all__ = ["get_challenge", "register"]

_TOKEN_BYTES = 32


def get_challenge(
    service: IdentityService, request: pb.GetChallengeRequest, caller: str
) -> pb.GetChallengeResponse:
    """Return something to sign; nothing is remembered of it.

    Args:
        service: What to work on.
        request: For which key.
        caller: Whose rate counts, see ``rate_limit.peer_key``.

    Raises:
        RejectedError: Too many challenges for this caller, or the key is none.
    """
    if not service.challenges.allow(caller):
        raise RejectedError(
            "too many challenges asked for; try again in a minute", code="RESOURCE_EXHAUSTED"
        )
    _check_length(request.public_key, PUBLIC_KEY_BYTES, field="public_key")
    return pb.GetChallengeResponse(
        challenge=service.challenger.make(request.public_key, service.clock())
    )


def register(
    service: IdentityService, request: pb.RegisterRequest, caller: str
) -> pb.RegisterResponse:
    """Make a device known and hand out its token, which is stored as a digest only.

    Args:
        service: What to work on.
        request: The device's proof and its description of itself.
        caller: Whose rate counts, see ``rate_limit.peer_key``.

    Raises:
        RejectedError: Too many registrations from this caller, a field is out of bounds, the
            device does not prove that it holds its key, the challenge was used before, or the
            device was revoked.
        StoreError: The database fails.
    """
    if not service.registrations.allow(caller):
        raise RejectedError(
            "too many registrations; try again in a minute", code="RESOURCE_EXHAUSTED"
        )
    _check_request(request)
    now_s = service.clock()
    challenge = service.challenger.check(request.challenge, request.public_key, now_s)
    _check_signature(request)
    device_id = device_id_of(request.public_key)
    known = service.store.find_device(device_id)
    if known is not None and known.revoked_at_s:
        raise RejectedError("this device was revoked", code="PERMISSION_DENIED")
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    device = _device(request, device_id, token, int(now_s), service.limits)
    if not service.store.put_device(
        device, challenge=challenge.identity, challenge_expires_at_s=challenge.expires_at_s
    ):
        raise RejectedError(
            "this challenge was used before; ask for another one", code="UNAUTHENTICATED"
        )
    return pb.RegisterResponse(
        device_id=device_id, token=token, lifetime_s=service.limits.token_lifetime_s
    )


def _device(
    request: pb.RegisterRequest, device_id: str, token: str, now_s: int, limits: Limits
) -> DeviceRecord:
    profile = request.profile
    return DeviceRecord(
        device_id=device_id,
        public_key=request.public_key,
        token_sha256=hashlib.sha256(token.encode()).digest(),
        token_expires_at_s=now_s + limits.token_lifetime_s,
        backend=profile.backend,
        app_version=profile.app_version,
        os=profile.os,
        ram_bytes=profile.ram_bytes,
        locale=profile.locale,
        tags=tuple(profile.tags),
        created_at_s=now_s,
        seen_at_s=now_s,
    )


def _check_request(request: pb.RegisterRequest) -> None:
    _check_length(request.public_key, PUBLIC_KEY_BYTES, field="public_key")
    _check_length(request.challenge, CHALLENGE_BYTES, field="challenge")
    _check_length(request.signature, SIGNATURE_BYTES, field="signature")
    profile = request.profile
    with blaming_the_caller():
        check_integer(profile.ram_bytes, field="ram_bytes")
        check_facts(
            backend=profile.backend,
            app_version=profile.app_version,
            os=profile.os,
            locale=profile.locale,
            tags=profile.tags,
        )


def _check_length(value: bytes, n_bytes: int, *, field: str) -> None:
    if len(value) != n_bytes:
        raise RejectedError(
            f"{field}: expected {n_bytes} bytes, got {len(value)}", code="INVALID_ARGUMENT"
        )


def _check_signature(request: pb.RegisterRequest) -> None:
    message = registration_message(request.public_key, request.challenge)
    try:
        PublicKey(request.public_key).verify(message, request.signature)
    except IntegrityError as exc:
        raise RejectedError(
            "the signature is not this key's over this challenge", code="UNAUTHENTICATED"
        ) from exc
