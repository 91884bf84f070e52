# SPDX-License-Identifier: Apache-2.0
"""Challenges: something to sign that any process of a deployment can make and check.

Nothing is stored when one is made, so asking for many costs no memory. Layout::

    expires_at_s   8 bytes, big-endian, Unix seconds
    nonce         16 bytes, random
    mac           32 bytes, HMAC-SHA256 over a domain, the public key and the above

Source: our choice. The key of the MAC follows from the director key, which every server of a
deployment holds.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from dataclasses import dataclass

from pocketrec.errors import RejectedError
from pocketrec.signing import SigningKey

__all__ = ["CHALLENGE_BYTES", "CHALLENGE_LIFETIME_S", "Challenge", "Challenger"]

CHALLENGE_LIFETIME_S = 60
CHALLENGE_BYTES = 56
_HEAD_BYTES = 24
_NONCE_BYTES = 16
_KEY_DOMAIN = b"pocketrec challenge key 1"
_DOMAIN = b"pocketrec challenge 1\x00"


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A challenge that was checked.

    Args:
        identity: 32 bytes that name it; a second use is noticed by them.
        expires_at_s: Unix seconds.
    """

    identity: bytes
    expires_at_s: int


class Challenger:
    """Makes challenges and checks them; safe to share between threads.

    Args:
        key: The director key; its seed is the secret.
    """

    def __init__(self, key: SigningKey) -> None:
        self._secret = hmac.digest(key.seed, _KEY_DOMAIN, hashlib.sha256)

    def make(self, public_key: bytes, now_s: float) -> bytes:
        """Return a challenge for a key.

        Args:
            public_key: 32 bytes.
            now_s: Unix seconds.
        """
        expires_at_s = int(now_s) + CHALLENGE_LIFETIME_S
        head = expires_at_s.to_bytes(8, "big") + secrets.token_bytes(_NONCE_BYTES)
        return head + self._mac(public_key, head)

    def check(self, challenge: bytes, public_key: bytes, now_s: float) -> Challenge:
        """Return what a challenge is, if it was made here for this key and has not expired.

        Args:
            challenge: What a device sent back.
            public_key: 32 bytes; whose challenge it must be.
            now_s: Unix seconds.

        Raises:
            RejectedError: It is no such challenge.
        """
        head, mac = challenge[:_HEAD_BYTES], challenge[_HEAD_BYTES:]
        expires_at_s = int.from_bytes(head[:8], "big")
        is_ours = hmac.compare_digest(mac, self._mac(public_key, head))
        if not is_ours or expires_at_s < now_s:
            raise RejectedError(
                "expected a challenge that this server gave for this key in the last "
                f"{CHALLENGE_LIFETIME_S} s; ask for another one",
                code="UNAUTHENTICATED",
            )
        return Challenge(identity=mac, expires_at_s=expires_at_s)

    def _mac(self, public_key: bytes, head: bytes) -> bytes:
        return hmac.digest(self._secret, _DOMAIN + public_key + head, hashlib.sha256)
