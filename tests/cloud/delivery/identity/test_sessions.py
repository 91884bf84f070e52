# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.devices import signed_request

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.identity.registration import get_challenge, register
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.identity.sessions import admit, find_session, recall_session
from pocketrec_cloud.delivery.records import DeviceSession
from pocketrec_proto.v1 import device_service_pb2 as pb

if TYPE_CHECKING:
    from tests.cloud.delivery.identity.conftest import MovedClock


@pytest.fixture
def token(identity: IdentityService) -> str:
    """The token of a device."""
    key = SigningKey(b"k" * 32)
    request = pb.GetChallengeRequest(public_key=key.public.raw)
    challenge = get_challenge(identity, request, "peer").challenge
    return register(identity, signed_request(key, challenge), "peer").token


class TestFindSession:
    @pytest.mark.parametrize(
        "value", ["", "Bearer", "Bearer ", "Bearer wrong", "Basic abc", "wrong", "Bearer \udcff"]
    )
    def test_anything_but_a_token_is_refused(self, identity: IdentityService, value: str) -> None:
        """Without a token of ours there is no device."""
        with pytest.raises(RejectedError, match="Bearer <token>") as refusal:
            find_session(identity, value)

        assert refusal.value.code == "UNAUTHENTICATED"

    def test_bare_token_is_refused(self, identity: IdentityService, token: str) -> None:
        """A good token still needs its scheme."""
        with pytest.raises(RejectedError):
            find_session(identity, token)

    def test_digest_is_not_the_token(self, identity: IdentityService, token: str) -> None:
        """What lies in the store opens nothing."""
        digest = hashlib.sha256(token.encode()).hexdigest()

        with pytest.raises(RejectedError):
            find_session(identity, f"Bearer {digest}")


class TestRecallSession:
    def test_memory_is_asked_by_digest(self, identity: IdentityService) -> None:
        """Only what memory knows comes back, and the store is not asked."""
        session = DeviceSession(device_id="d", expires_at_s=1)
        known = {hashlib.sha256(b"token").digest(): session}
        remembering = replace(identity, recall_session=known.get)

        assert recall_session(remembering, "Bearer token") is session
        assert recall_session(remembering, "Bearer other") is None
        assert recall_session(remembering, "token") is None


class TestAdmit:
    def test_a_token_ends(self, identity: IdentityService, token: str, clock: MovedClock) -> None:
        """From its last second on it is refused, also where it is remembered."""
        session = find_session(identity, f"Bearer {token}")
        clock.now_s += 3599
        assert admit(identity, session) is session
        clock.now_s += 1

        with pytest.raises(RejectedError, match="register") as refusal:
            admit(identity, session)

        assert refusal.value.code == "UNAUTHENTICATED"

    def test_a_device_that_calls_too_often_is_refused(
        self, identity: IdentityService, token: str
    ) -> None:
        """One device makes so many calls a minute; others are not affected."""
        slow = replace(identity, calls=RateLimiter(1, lambda: 0.0))
        session = find_session(slow, f"Bearer {token}")
        admit(slow, session)

        with pytest.raises(RejectedError) as refusal:
            admit(slow, session)

        assert refusal.value.code == "RESOURCE_EXHAUSTED"
        assert admit(slow, replace(session, device_id="other")).device_id == "other"
