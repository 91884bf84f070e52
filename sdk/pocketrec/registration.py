# SPDX-License-Identifier: Apache-2.0
"""What a device signs to register, what it may tell of itself, and the name of its key.

Both sides use this; ``docs/protocol.md`` describes it for others.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from pocketrec.errors import ConfigError

__all__ = [
    "DEVICE_ID_CHARS",
    "MAX_FACT_CHARS",
    "MAX_TAGS",
    "check_facts",
    "device_id_of",
    "registration_message",
]

DEVICE_ID_CHARS = 32
MAX_FACT_CHARS = 128
MAX_TAGS = 16
_FACT = re.compile(rf"[^\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]{{0,{MAX_FACT_CHARS}}}")
_LOCALE = re.compile(r"(?:[A-Za-z0-9]{1,8}(?:-[A-Za-z0-9]{1,8})*)?")
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


def check_facts(*, locale: str, tags: Sequence[str], **texts: str) -> None:
    """Refuse facts that no server takes.

    Args:
        locale: BCP 47, or empty.
        tags: What an app calls a device.
        **texts: Other facts, by name.

    Raises:
        ConfigError: A text is longer than 128 characters or not of one line, the locale is
            no such tag, or there are more than 16 tags, or empty ones.
    """
    if len(tags) > MAX_TAGS:
        raise ConfigError(f"tags: expected at most {MAX_TAGS}, got {len(tags)}")
    named = [*texts.items(), ("locale", locale), *(("tags", tag) for tag in tags)]
    for name, text in named:
        if not _FACT.fullmatch(text):
            raise ConfigError(
                f"{name}: expected at most {MAX_FACT_CHARS} characters of one line, "
                f"got {text[:64]!r}"
            )
    if not _LOCALE.fullmatch(locale):
        raise ConfigError(f"locale: expected a tag such as 'de-AT', got {locale!r}")
    if "" in tags:
        raise ConfigError("tags: expected texts that are not empty")
