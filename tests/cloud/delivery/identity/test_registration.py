# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.devices import signed_request

from pocketrec.errors import RejectedError
from pocketrec.registration import device_id_of, registration_message
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.identity.registration import get_challenge, register
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.identity.sessions import find_session
from pocketrec_proto.v1 import device_service_pb2 as pb

if TYPE_CHECKING:
    from tests.cloud.delivery.identity.conftest import MovedClock

    from pocketrec_cloud.delivery.stores.memory import MemoryStore

KEY = SigningKey(b"k" * 32)
OTHER = SigningKey(b"o" * 32)


def challenge_for(identity: IdentityService, key: SigningKey = KEY) -> bytes:
    """Return a fresh challenge for a key."""
    request = pb.GetChallengeRequest(public_key=key.public.raw)
    return get_challenge(identity, request, "peer").challenge


def request_for(
    identity: IdentityService, key: SigningKey = KEY, **profile: object
) -> pb.RegisterRequest:
    """Return a registration that will be accepted, once."""
    return signed_request(key, challenge_for(identity, key), **profile)


def refusal_of(identity: IdentityService, request: pb.RegisterRequest) -> tuple[str, str]:
    """Return code and message of the refusal that a registration ends with."""
    with pytest.raises(RejectedError) as refusal:
        register(identity, request, "peer")
    return refusal.value.code, str(refusal.value)


class TestGetChallenge:
    @pytest.mark.parametrize("n_bytes", [0, 31, 33, 1000])
    def test_a_key_has_32_bytes(self, identity: IdentityService, n_bytes: int) -> None:
        """Anything else is no Ed25519 key."""
        with pytest.raises(RejectedError, match="public_key: expected 32 bytes") as refusal:
            get_challenge(identity, pb.GetChallengeRequest(public_key=bytes(n_bytes)), "peer")

        assert refusal.value.code == "INVALID_ARGUMENT"

    def test_there_are_enough_for_every_registration(self, store: MemoryStore) -> None:
        """Who allows more registrations need not think of challenges."""
        service = IdentityService.of(
            store,
            SigningKey.generate(),
            recall_session=lambda _: None,
            limits=Limits(challenges_per_minute=1, registrations_per_minute=100),
            clock=lambda: 0.0,
        )

        assert all(challenge_for(service) for _ in range(100))

    def test_flood_from_one_address_is_refused(self, identity: IdentityService) -> None:
        """One address asks for so many a minute; others are not affected."""
        slow = replace(identity, challenges=RateLimiter(1, lambda: 0.0))
        request = pb.GetChallengeRequest(public_key=KEY.public.raw)
        get_challenge(slow, request, "peer")

        with pytest.raises(RejectedError) as refusal:
            get_challenge(slow, request, "peer")

        assert refusal.value.code == "RESOURCE_EXHAUSTED"
        assert get_challenge(slow, request, "other").challenge


class TestRegister:
    def test_who_holds_the_key_gets_a_token(self, identity: IdentityService) -> None:
        """The token leads back to the device, whose name follows from its key."""
        response = register(identity, request_for(identity), "peer")

        session = find_session(identity, f"Bearer {response.token}")

        assert session.device_id == response.device_id == device_id_of(KEY.public.raw)
        assert response.device_id == hashlib.sha256(KEY.public.raw).hexdigest()[:32]
        assert response.lifetime_s == 3600
        assert session.expires_at_s == identity.clock() + 3600

    def test_facts_are_kept(self, identity: IdentityService, store: MemoryStore) -> None:
        """What a device says of itself is what its record says."""
        facts = {
            "backend": "onnxruntime 1.31.1",
            "app_version": "2.14.1",
            "os": "Android",
            "ram_bytes": 4 * 2**30,
            "locale": "de-AT",
            "tags": ["beta", "kiosk"],
        }

        response = register(identity, request_for(identity, **facts), "peer")

        device = store.find_device(response.device_id)
        assert device is not None
        assert {name: getattr(device, name) for name in facts} == facts | {
            "tags": ("beta", "kiosk")
        }
        assert device.public_key == KEY.public.raw

    def test_token_is_not_stored(self, identity: IdentityService, store: MemoryStore) -> None:
        """Whoever reads the store cannot act as a device."""
        response = register(identity, request_for(identity), "peer")

        device = store.find_device(response.device_id)

        assert device is not None
        assert device.token_sha256 == hashlib.sha256(response.token.encode()).digest()
        assert response.token not in repr(device)

    def test_a_new_token_ends_the_one_before_it(self, identity: IdentityService) -> None:
        """Whoever stole the old token has it until the device asks for the next."""
        stolen = register(identity, request_for(identity), "peer").token
        register(identity, request_for(identity), "peer")

        with pytest.raises(RejectedError):
            find_session(identity, f"Bearer {stolen}")

    def test_a_known_device_keeps_its_age(
        self, identity: IdentityService, store: MemoryStore, clock: MovedClock
    ) -> None:
        """Registering again is the same device, seen again."""
        register(identity, request_for(identity), "peer")
        clock.now_s += 100
        register(identity, request_for(identity), "peer")

        device = store.find_device(device_id_of(KEY.public.raw))

        assert device is not None
        assert device.seen_at_s - device.created_at_s == 100

    def test_the_lifetime_is_configured(self, identity: IdentityService) -> None:
        """The device learns how long its token lives, not until when."""
        brief = replace(identity, limits=Limits(token_lifetime_s=60))

        response = register(brief, request_for(brief), "peer")

        assert response.lifetime_s == 60


class TestForgery:
    def test_replay_of_a_registration(self, identity: IdentityService) -> None:
        """The same signed message is good once, whoever sends it again."""
        request = request_for(identity)
        token = register(identity, request, "peer").token

        code, message = refusal_of(identity, request)

        assert code == "UNAUTHENTICATED"
        assert "used before" in message
        assert find_session(identity, f"Bearer {token}").device_id == device_id_of(KEY.public.raw)

    def test_challenge_for_another_key(self, identity: IdentityService) -> None:
        """A challenge that was given to somebody else proves nothing."""
        request = signed_request(KEY, challenge_for(identity, OTHER))

        assert refusal_of(identity, request)[0] == "UNAUTHENTICATED"

    def test_expired_challenge(self, identity: IdentityService, clock: MovedClock) -> None:
        """A registration that was held back for a minute is refused."""
        request = request_for(identity)
        clock.now_s += 61

        assert refusal_of(identity, request)[0] == "UNAUTHENTICATED"

    def test_signature_of_another_key(self, identity: IdentityService) -> None:
        """Nobody registers as a device whose key they do not hold."""
        challenge = challenge_for(identity)
        request = signed_request(KEY, challenge)
        request.signature = OTHER.sign(registration_message(KEY.public.raw, challenge))

        code, message = refusal_of(identity, request)

        assert code == "UNAUTHENTICATED"
        assert "signature" in message

    def test_signature_over_the_challenge_alone(self, identity: IdentityService) -> None:
        """What a key signed for another purpose does not register it."""
        request = request_for(identity)
        request.signature = KEY.sign(request.challenge)

        assert refusal_of(identity, request)[0] == "UNAUTHENTICATED"

    def test_refused_attempt_does_not_use_the_challenge_up(self, identity: IdentityService) -> None:
        """A forger who saw a challenge cannot keep its owner from using it."""
        good = request_for(identity)
        forged = pb.RegisterRequest()
        forged.CopyFrom(good)
        forged.signature = bytes(64)
        refusal_of(identity, forged)

        assert register(identity, good, "peer").token

    def test_revoked_key(
        self, identity: IdentityService, store: MemoryStore, clock: MovedClock
    ) -> None:
        """A revoked device loses its token and gets no other."""
        token = register(identity, request_for(identity), "peer").token
        store.revoke_device(device_id_of(KEY.public.raw), int(clock()))

        assert refusal_of(identity, request_for(identity)) == (
            "PERMISSION_DENIED",
            "this device was revoked",
        )
        with pytest.raises(RejectedError):
            find_session(identity, f"Bearer {token}")


class TestBounds:
    @pytest.mark.parametrize(
        ("field", "value", "message"),
        [
            ("public_key", b"x", "public_key: expected 32 bytes, got 1"),
            ("challenge", b"x" * 57, "challenge: expected 56 bytes, got 57"),
            ("signature", b"", "signature: expected 64 bytes, got 0"),
        ],
    )
    def test_proofs_have_their_length(
        self, identity: IdentityService, field: str, value: bytes, message: str
    ) -> None:
        """What is too short or too long is not looked at."""
        request = request_for(identity)
        setattr(request, field, value)

        assert refusal_of(identity, request) == ("INVALID_ARGUMENT", message)

    @pytest.mark.parametrize(
        ("profile", "message"),
        [
            ({"backend": "x" * 129}, "backend: expected at most 128"),
            ({"app_version": "x" * 129}, "app_version: expected at most 128"),
            ({"os": "a\nb"}, "os: expected at most 128"),
            ({"locale": "x-" * 100}, "locale: expected at most 128"),
            ({"locale": "de_AT"}, "locale: expected a tag such as"),
            ({"locale": "de-"}, "locale: expected a tag such as"),
            ({"ram_bytes": 2**64 - 1}, "ram_bytes: expected"),
            ({"tags": ["t"] * 17}, "tags: expected at most 16, got 17"),
            ({"tags": ["x" * 129]}, "tags: expected at most 128"),
            ({"tags": [""]}, "tags: expected texts that are not empty"),
        ],
    )
    def test_facts_have_bounds(
        self, identity: IdentityService, profile: dict[str, object], message: str
    ) -> None:
        """No record is larger than the limits."""
        code, text = refusal_of(identity, request_for(identity, **profile))

        assert code == "INVALID_ARGUMENT"
        assert text.startswith(message)

    def test_flood_from_one_address_is_refused(self, identity: IdentityService) -> None:
        """One address registers a few devices a minute; others are not affected."""
        slow = replace(identity, registrations=RateLimiter(1, lambda: 0.0))
        register(slow, request_for(slow), "peer")

        code, _ = refusal_of(slow, request_for(slow))

        assert code == "RESOURCE_EXHAUSTED"
        assert register(slow, request_for(slow), "other").token
