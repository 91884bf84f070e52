# SPDX-License-Identifier: Apache-2.0
"""Which client certificates stand for admins, by common name or by public key."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.service import AdminIdentity
from pocketrec_cloud.delivery.records import AdminRole

__all__ = ["AdminCertificates", "spki_sha256"]

_SPKI = re.compile(r"sha256:[0-9a-f]{64}")
_PREFIX = "sha256:"


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminCertificates:
    """Roles of those who show a certificate that the server's client authority signed.

    A common name is as good as the authority that wrote it: one that certifies devices too
    should not be used here, unless certificates are named by public key.

    Args:
        roles: By the common name, or by ``"sha256:"`` and the digest, in hex, of the
            certificate's SubjectPublicKeyInfo, which wins.

    Raises:
        ConfigError: A name is empty or looks like half a digest, or a role is none.
    """

    roles: Mapping[str, AdminRole] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, role in self.roles.items():
            if not name or (name.startswith(_PREFIX) and not _SPKI.fullmatch(name)):
                raise ConfigError(
                    "admin_certificates: expected a common name, or 'sha256:' and 64 lower-case "
                    f"hex characters, got {name!r}"
                )
            if not isinstance(role, AdminRole):
                raise ConfigError(f"admin_certificates: expected an AdminRole, got {role!r}")

    def find(self, certificate: bytes) -> AdminIdentity | None:
        """Return whom a certificate stands for, or None.

        Args:
            certificate: PEM of a certificate that TLS has verified.
        """
        try:
            parsed = x509.load_pem_x509_certificate(certificate)
            names = [spki_sha256(parsed), *_common_names(parsed)]
        except ValueError:
            return None
        for name in names:
            role = self.roles.get(name)
            if role is not None:
                return AdminIdentity(name=name, role=role)
        return None


def spki_sha256(certificate: x509.Certificate) -> str:
    """Return the name that a certificate has by its public key, such as ``"sha256:0f3a…"``."""
    spki = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return _PREFIX + hashlib.sha256(spki).hexdigest()


def _common_names(certificate: x509.Certificate) -> list[str]:
    """Return the common name, unless there are several, or it looks like a digest."""
    found = certificate.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
    names = [str(attribute.value) for attribute in found]
    return [name for name in names if not name.startswith(_PREFIX)] if len(names) == 1 else []
