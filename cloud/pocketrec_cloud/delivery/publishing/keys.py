# SPDX-License-Identifier: Apache-2.0
"""The five keys of a deployment, in two folders that belong on different machines.

::

    KEYS/offline/   root.pem  targets.pem    vouch for bundles; the server never sees them
    KEYS/online/    snapshot.pem  timestamp.pem  director.pem    the server needs these
    KEYS/retired/   <role>-<key id>.pem    keys that were replaced; they sign nothing any more

Publishing takes the first two, or the first alone and a server that holds the second. Whoever
takes the server gets the online keys: they can sign plans and hide newer bundles until the keys
are replaced, but cannot make a device accept a bundle that was never published.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from securesystemslib.signer import CryptoSigner

from pocketrec.errors import ConfigError, StoreError
from pocketrec.files import SYSTEM_DISK
from pocketrec.signing import SigningKey

__all__ = ["KeyFolder", "Role"]


class Role(StrEnum):
    """What a key may sign."""

    ROOT = "root"
    TARGETS = "targets"
    SNAPSHOT = "snapshot"
    TIMESTAMP = "timestamp"
    DIRECTOR = "director"

    @property
    def is_offline(self) -> bool:
        """Whether the key is needed only where bundles are published."""
        return self in (Role.ROOT, Role.TARGETS)


@dataclass(frozen=True, slots=True)
class KeyFolder:
    """The folder that holds ``offline/`` and ``online/``.

    Args:
        root: The folder.
        incoming: A role whose next key counts, which lies beside the present one until
            ``complete_replacement``; None = the present keys count.
    """

    root: Path
    incoming: Role | None = None

    def path(self, role: Role) -> Path:
        """Where the key of a role lies."""
        name = f"{role}.next.pem" if role is self.incoming else f"{role}.pem"
        return self.root / ("offline" if role.is_offline else "online") / name

    def replacing(self, role: Role) -> KeyFolder:
        """Return the same folder with a new key for a role, made unless one waits already.

        Raises:
            ConfigError: The present key is absent, or is not an Ed25519 key.
            OSError: It cannot be read, or the new one not written.
        """
        self.load(role)
        folder = KeyFolder(self.root, incoming=role)
        if not folder.path(role).exists():
            SigningKey.generate().save(folder.path(role))
        return folder

    def complete_replacement(self) -> Path:
        """Put the incoming key in the present one's place, and that one among the retired.

        Returns:
            Where the retired key lies.

        Raises:
            ConfigError: No key is incoming, or a key is absent or none.
            OSError: A file cannot be written; the call may be repeated.
        """
        if self.incoming is None:
            raise ConfigError("expected a folder with an incoming key; see KeyFolder.replacing")
        present = KeyFolder(self.root)
        old = present.load(self.incoming)
        retired = self.root / "retired" / f"{self.incoming}-{old.public.key_id.hex()}.pem"
        retired.parent.mkdir(exist_ok=True)
        retired.parent.chmod(0o700)
        if not retired.exists():
            old.save(retired)
        SYSTEM_DISK.flush(retired.parent)
        self.path(self.incoming).replace(present.path(self.incoming))
        SYSTEM_DISK.flush(present.path(self.incoming).parent)
        return retired

    def is_complete(self) -> bool:
        """Whether all five keys are there."""
        return all(self.path(role).exists() for role in Role)

    def create(self) -> None:
        """Make all five keys, readable by their owner only.

        Raises:
            StoreError: One of them exists already; keys are never overwritten.
            OSError: They cannot be written.
        """
        present = [str(self.path(role)) for role in Role if self.path(role).exists()]
        if present:
            raise StoreError(
                f"keys exist already: {', '.join(present)}; name another folder, or move them away"
            )
        for role in Role:
            path = self.path(role)
            path.parent.mkdir(parents=True, exist_ok=True)
            Path(path.parent).chmod(0o700)
            SigningKey.generate().save(path)

    def load(self, role: Role) -> SigningKey:
        """Return the key of a role.

        Raises:
            ConfigError: The key is absent, or is not an Ed25519 key.
            OSError: It cannot be read.
        """
        path = self.path(role)
        try:
            return SigningKey.load(path)
        except FileNotFoundError as exc:
            raise ConfigError(
                f"expected the {role} key at {str(path)!r}; "
                "make keys with `pocketrec keys init`, or name the folder with --keys"
            ) from exc

    def signer(self, role: Role) -> CryptoSigner:
        """Return the key of a role as a signer of TUF metadata.

        Raises:
            ConfigError: The key is absent, or is not an Ed25519 key.
            OSError: It cannot be read.
        """
        return CryptoSigner(load_pem_private_key(self.load(role).to_pem(), None))
