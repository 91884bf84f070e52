# SPDX-License-Identifier: Apache-2.0
"""Ed25519 keys: who signs plans, how a device checks them, and who a device is.

A public key travels as its 32 raw bytes and is named by its **key id**, the first 8
bytes of the SHA-256 of those bytes. A private key rests on disk as unencrypted PKCS#8
PEM, readable by its owner only. ``cryptography`` is imported when a key is first used,
so that importing this module stays cheap.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError, IntegrityError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import ModuleType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["KEY_ID_BYTES", "PUBLIC_KEY_BYTES", "SIGNATURE_BYTES", "PublicKey", "SigningKey"]

PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64
KEY_ID_BYTES = 8


@dataclass(frozen=True, slots=True)
class PublicKey:
    """The half of a key pair that checks signatures.

    Args:
        raw: 32 bytes, the Ed25519 public key.

    Raises:
        ConfigError: ``raw`` is not 32 bytes long.
    """

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != PUBLIC_KEY_BYTES:
            raise ConfigError(
                f"expected an Ed25519 public key of {PUBLIC_KEY_BYTES} bytes, "
                f"got {len(self.raw)} bytes"
            )

    @property
    def key_id(self) -> bytes:
        """8 bytes that name this key."""
        return hashlib.sha256(self.raw).digest()[:KEY_ID_BYTES]

    def verify(self, message: bytes, signature: bytes) -> None:
        """Return quietly when this key's owner signed exactly these bytes.

        Raises:
            IntegrityError: The signature is not this key's over ``message``.
        """
        ed25519 = _ed25519()
        from cryptography.exceptions import InvalidSignature

        try:
            ed25519.Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except (InvalidSignature, ValueError) as exc:
            raise IntegrityError(
                f"the signature does not match key {self.key_id.hex()} over these "
                f"{len(message)} bytes; fetch the artifact again"
            ) from exc


@dataclass(frozen=True, slots=True)
class SigningKey:
    """The half of a key pair that signs; a device holds none but its own.

    Args:
        seed: 32 bytes, the Ed25519 private key; never shown by ``repr``.

    Raises:
        ConfigError: ``seed`` is not 32 bytes long.
    """

    seed: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if len(self.seed) != PUBLIC_KEY_BYTES:
            raise ConfigError(
                f"expected an Ed25519 private key of {PUBLIC_KEY_BYTES} bytes, "
                f"got {len(self.seed)} bytes"
            )

    @classmethod
    def generate(cls) -> SigningKey:
        """Return a new random key."""
        private: Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.generate()
        return cls(private.private_bytes_raw())

    @classmethod
    def from_pem(cls, data: bytes) -> SigningKey:
        """Return the key in an unencrypted PKCS#8 PEM file's content.

        Raises:
            ConfigError: The bytes hold no unencrypted Ed25519 private key.
        """
        ed25519 = _ed25519()
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.serialization import load_pem_private_key

        try:
            private = load_pem_private_key(data, password=None)
        except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
            raise ConfigError(
                "expected an unencrypted PKCS#8 PEM private key; "
                "make one with `pocketrec keys init`"
            ) from exc
        if not isinstance(private, ed25519.Ed25519PrivateKey):
            raise ConfigError(f"expected an Ed25519 private key, got {type(private).__name__}")
        return cls(private.private_bytes_raw())

    @classmethod
    def load(cls, path: Path) -> SigningKey:
        """Return the key stored at ``path``.

        Raises:
            ConfigError: The file holds no unencrypted Ed25519 private key.
            OSError: The file cannot be read.
        """
        return cls.from_pem(path.read_bytes())

    def save(self, path: Path) -> None:
        """Write the key to a new file with mode 0600.

        Raises:
            OSError: The file exists already (keys are never overwritten), or cannot be
                written.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(self.to_pem())
            file.flush()
            os.fsync(file.fileno())

    def to_pem(self) -> bytes:
        """Return the key as unencrypted PKCS#8 PEM."""
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
        )

        return self._private().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())

    @property
    def public(self) -> PublicKey:
        """The key that checks what this one signs."""
        return PublicKey(self._private().public_key().public_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature over ``message``."""
        return self._private().sign(message)

    def signer(self) -> Callable[[bytes], bytes]:
        """Return what signs like :meth:`sign` in half the time: the key is set up once.

        Source:
            Our choice. Whoever holds what is returned holds the key.
        """
        return self._private().sign

    def _private(self) -> Ed25519PrivateKey:
        private: Ed25519PrivateKey = _ed25519().Ed25519PrivateKey.from_private_bytes(self.seed)
        return private


def _ed25519() -> ModuleType:
    """Import on first use: a device that never verifies a plan never loads it."""
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as exc:
        raise MissingExtraError(
            "signatures need the package 'cryptography'; run `pip install pocketrec[device]`"
        ) from exc
    return ed25519
