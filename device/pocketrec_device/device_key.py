# SPDX-License-Identifier: Apache-2.0
"""The key that is a device's identity: made once, kept in its store, never sent."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from pocketrec.errors import ConfigError
from pocketrec.signing import SigningKey

__all__ = ["obtain_device_key"]


def obtain_device_key(path: Path, write: Callable[[Path, bytes], None]) -> SigningKey:
    """Return the key in a file; one that is absent or damaged is made anew.

    With another key the device is another device to every server.

    Args:
        path: PKCS#8 PEM.
        write: Replaces the file whole, for its owner only.

    Raises:
        OSError: It cannot be read or written.
    """
    try:
        return SigningKey.load(path)
    except (FileNotFoundError, ConfigError):
        key = SigningKey.generate()
    write(path, key.to_pem())
    return key
