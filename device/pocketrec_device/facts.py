# SPDX-License-Identifier: Apache-2.0
"""What a device tells of itself when it registers, so that operators can tell devices apart."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
from dataclasses import dataclass

from pocketrec.registration import check_facts
from pocketrec_device.memory import system_ram_bytes
from pocketrec_proto.v1.device_service_pb2 import DeviceProfile

__all__ = ["DeviceFacts", "device_profile", "profile_sha256"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFacts:
    """What the app declares beyond backend and operating system; nothing unless it says so.

    Cohort rules of pushes and rollouts may ask for it (``docs/cohorts.md``).

    Args:
        app_version: e.g. "2.14.1".
        locale: BCP 47, e.g. "de-AT".
        tags: What the app calls this device, e.g. "beta"; at most 16.
        is_memory_told: Whether to tell how much memory the system has.

    Raises:
        ConfigError: A text is longer than 128 characters or not of one line, the locale is
            no such tag, or there are too many tags, or empty ones.
    """

    app_version: str = ""
    locale: str = ""
    tags: tuple[str, ...] = ()
    is_memory_told: bool = False

    def __post_init__(self) -> None:
        check_facts(app_version=self.app_version, locale=self.locale, tags=self.tags)


def device_profile(backend: str, facts: DeviceFacts) -> DeviceProfile:
    """Describe this device: what computes, on which system, and what the app declares.

    Args:
        backend: Name of the library that computes.
        facts: What the app declares.
    """
    try:
        version = importlib.metadata.version(backend)
    except importlib.metadata.PackageNotFoundError:
        version = "unknown"
    return DeviceProfile(
        backend=f"{backend} {version}",
        app_version=facts.app_version,
        os=platform.system(),
        ram_bytes=system_ram_bytes() if facts.is_memory_told else 0,
        locale=facts.locale,
        tags=facts.tags,
    )


def profile_sha256(profile: DeviceProfile) -> str:
    """Return what changes with a profile, in hex; good on this device only."""
    return hashlib.sha256(profile.SerializeToString(deterministic=True)).hexdigest()
