# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import os
import platform

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_device.facts import DeviceFacts, device_profile, profile_sha256
from pocketrec_device.memory import system_ram_bytes
from pocketrec_proto.v1.device_service_pb2 import DeviceProfile


class TestDeviceFacts:
    def test_nothing_is_told_unless_the_app_says_so(self) -> None:
        """Only what computes and on which system."""
        profile = device_profile("numpy", DeviceFacts())

        assert profile == DeviceProfile(backend=f"numpy {np.__version__}", os=platform.system())

    def test_what_the_app_declares_is_told(self) -> None:
        """Each fact arrives in its field."""
        facts = DeviceFacts(
            app_version="2.14.1", locale="de-AT", tags=("beta", "kiosk"), is_memory_told=True
        )

        profile = device_profile("numpy", facts)

        assert (profile.app_version, profile.locale) == ("2.14.1", "de-AT")
        assert list(profile.tags) == ["beta", "kiosk"]
        assert profile.ram_bytes == system_ram_bytes()

    @pytest.mark.parametrize(
        ("facts", "message"),
        [
            ({"app_version": "x" * 129}, "app_version: expected at most 128"),
            ({"app_version": "1\n2"}, "app_version: expected at most 128"),
            ({"locale": "de_AT"}, "locale: expected a tag such as"),
            ({"tags": ("x",) * 17}, "tags: expected at most 16, got 17"),
            ({"tags": ("x" * 129,)}, "tags: expected at most 128"),
            ({"tags": ("",)}, "tags: expected texts that are not empty"),
        ],
    )
    def test_what_no_server_takes_is_refused_here(
        self, facts: dict[str, object], message: str
    ) -> None:
        """The app's developer learns of it, not the user's device."""
        with pytest.raises(ConfigError, match=message):
            DeviceFacts(**facts)

    def test_an_unknown_library_is_told_as_such(self) -> None:
        """A backend that is no package has no version."""
        assert device_profile("no-such-library", DeviceFacts()).backend == "no-such-library unknown"


class TestProfileDigest:
    def test_changes_with_a_fact(self) -> None:
        """The same facts give the same digest, others another one."""
        plain, tagged = (
            device_profile("numpy", DeviceFacts(tags=tags)) for tags in ((), ("beta",))
        )

        assert profile_sha256(plain) == profile_sha256(device_profile("numpy", DeviceFacts()))
        assert profile_sha256(plain) != profile_sha256(tagged)


class TestSystemMemory:
    def test_is_a_plausible_number(self) -> None:
        """A machine that runs tests has between 64 MiB and 64 TiB, if it says."""
        assert 2**26 <= system_ram_bytes() <= 2**46

    @pytest.mark.parametrize("answer", [ValueError("unknown name"), OSError(), -1])
    def test_is_zero_where_it_is_unknown(
        self, monkeypatch: pytest.MonkeyPatch, answer: Exception | int
    ) -> None:
        """A system that does not say costs a fact, not the sync."""

        def sysconf(name: str) -> int:
            if isinstance(answer, Exception):
                raise answer
            return answer if name == "SC_PHYS_PAGES" else 4096

        monkeypatch.setattr(os, "sysconf", sysconf)

        assert system_ram_bytes() == 0
