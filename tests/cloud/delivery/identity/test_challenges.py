# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.identity.challenges import (
    CHALLENGE_BYTES,
    CHALLENGE_LIFETIME_S,
    Challenger,
)

NOW_S = 1_800_000_000
DIRECTOR = SigningKey(b"d" * 32)
KEY = b"k" * 32


def refuses(
    challenger: Challenger, challenge: bytes, key: bytes = KEY, now_s: float = NOW_S
) -> bool:
    """Whether a challenge is refused, as what needs another one."""
    with pytest.raises(RejectedError, match="ask for another one") as refusal:
        challenger.check(challenge, key, now_s)
    return refusal.value.code == "UNAUTHENTICATED"


class TestChallenger:
    def test_any_process_with_the_key_can_check(self) -> None:
        """A challenge of one server process is good at another one of the same deployment."""
        challenge = Challenger(DIRECTOR).make(KEY, NOW_S)

        checked = Challenger(DIRECTOR).check(challenge, KEY, NOW_S + CHALLENGE_LIFETIME_S)

        assert len(challenge) == CHALLENGE_BYTES
        assert checked.expires_at_s == NOW_S + CHALLENGE_LIFETIME_S

    def test_two_are_never_the_same(self) -> None:
        """Challenges made in one second for one key are told apart."""
        challenger = Challenger(DIRECTOR)
        identities = {
            challenger.check(challenger.make(KEY, NOW_S), KEY, NOW_S).identity for _ in range(9)
        }

        assert len(identities) == 9
        assert {len(identity) for identity in identities} == {32}

    def test_it_is_for_one_key(self) -> None:
        """Somebody else's challenge is none."""
        challenger = Challenger(DIRECTOR)

        assert refuses(challenger, challenger.make(KEY, NOW_S), b"x" * 32)

    def test_it_expires(self) -> None:
        """After a minute it is worth nothing."""
        challenger = Challenger(DIRECTOR)

        assert refuses(challenger, challenger.make(KEY, NOW_S), KEY, NOW_S + 61)

    def test_it_is_of_one_deployment(self) -> None:
        """A server with another director key did not make it."""
        challenge = Challenger(SigningKey(b"e" * 32)).make(KEY, NOW_S)

        assert refuses(Challenger(DIRECTOR), challenge)

    @given(bit=st.integers(0, CHALLENGE_BYTES * 8 - 1))
    def test_no_bit_can_be_changed(self, bit: int) -> None:
        """Expiry, nonce and proof hold each other."""
        challenge = bytearray(Challenger(DIRECTOR).make(KEY, NOW_S))
        challenge[bit // 8] ^= 1 << bit % 8

        assert refuses(Challenger(DIRECTOR), bytes(challenge))

    @given(challenge=st.binary(max_size=80))
    def test_other_bytes_are_none(self, challenge: bytes) -> None:
        """Whatever comes is refused, not misread."""
        assert refuses(Challenger(DIRECTOR), challenge)
