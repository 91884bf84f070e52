# SPDX-License-Identifier: Apache-2.0
"""What a device signs to become known to a server, and the name that follows from its key.

Both sides use this; ``docs/protocol.md`` describes it for others.
"""

from __future__ import annotations

import hashlib

__all__ = ["DEVICE_ID_CHARS", "device_id_of", "registration_message"]

DEVICE_ID_CHARS = 32
_DOMAIN = b"pocketrec.v1.DeviceService/Register\x00"


def device_id_of(public_key: bytes) -> str:
    """Return the name of the device that holds a key.

    Args:
        public_key: 32 bytes, Ed25519.

    Returns:
        The first 16 bytes of the key's SHA-256, in hex.
    """
    return hashlib.sha256(public_key).hexdigest()[:DEVICE_ID_CHARS]


def registration_message(public_key: bytes, challenge: bytes) -> bytes:
    """Return what a device signs; no other message of ours starts like this one.

    Args:
        public_key: 32 bytes, Ed25519; whose private half signs.
        challenge: What the server gave for this key.
    """
    return _DOMAIN + public_key + challenge
