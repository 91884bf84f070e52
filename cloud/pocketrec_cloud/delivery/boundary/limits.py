# SPDX-License-Identifier: Apache-2.0
"""How much a device may send, how often, and for how long its token is good."""

from __future__ import annotations

from dataclasses import dataclass

from pocketrec.errors import ConfigError

__all__ = ["Limits"]

_MIN_CHUNK_BYTES = 256 * 1024
_MAX_CHUNK_BYTES = 1024 * 1024
_MAX_LIFETIME_S = 30 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what callers may do.

    Args:
        chunk_bytes: Of a download.
        challenges_per_minute: Of one address; never fewer than two for each registration.
        registrations_per_minute: Of one address.
        calls_per_minute: Of one device, those for plans included.
        plans_per_minute: Of one device.
        token_lifetime_s: Seconds from a registration until its token ends.

    Raises:
        ConfigError: A limit is not positive, a chunk is not 256 KiB to 1 MiB, or a token
            lives longer than 30 days.
    """

    chunk_bytes: int = 512 * 1024
    challenges_per_minute: int = 60
    registrations_per_minute: int = 30
    calls_per_minute: int = 1200
    plans_per_minute: int = 120
    token_lifetime_s: int = 3600

    def __post_init__(self) -> None:
        for name in self.__slots__:
            if getattr(self, name) < 1:
                raise ConfigError(f"expected {name} of at least 1, got {getattr(self, name)}")
        if not _MIN_CHUNK_BYTES <= self.chunk_bytes <= _MAX_CHUNK_BYTES:
            raise ConfigError(
                f"expected chunk_bytes between {_MIN_CHUNK_BYTES} and {_MAX_CHUNK_BYTES}, "
                f"got {self.chunk_bytes}"
            )
        if self.token_lifetime_s > _MAX_LIFETIME_S:
            raise ConfigError(
                f"expected token_lifetime_s of at most {_MAX_LIFETIME_S}, "
                f"got {self.token_lifetime_s}"
            )
