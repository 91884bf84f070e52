# SPDX-License-Identifier: Apache-2.0
"""How to encrypt the connection to a server; a plain value that needs no gRPC."""

from __future__ import annotations

from dataclasses import dataclass, field

from pocketrec.errors import ConfigError

__all__ = ["Tls"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """Settings of the connection's encryption; the defaults suit a public server.

    Args:
        enabled: False sends the device's token in plain text: for closed networks only.
        root_certificates: PEM of the authorities to trust; None = the system's.
        private_key: PEM of the device's key, when the server asks for one (mTLS).
        certificate_chain: PEM that belongs to ``private_key``.

    Raises:
        ConfigError: Only one of key and chain is given, or certificates come with
            ``enabled=False``.
    """

    enabled: bool = True
    root_certificates: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)
    certificate_chain: bytes | None = None

    def __post_init__(self) -> None:
        if (self.private_key is None) != (self.certificate_chain is None):
            raise ConfigError("private_key and certificate_chain belong together; pass both")
        if not self.enabled and (self.root_certificates or self.private_key):
            raise ConfigError("certificates were given, but enabled=False; drop one of them")
