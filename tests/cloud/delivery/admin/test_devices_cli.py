# SPDX-License-Identifier: Apache-2.0
"""The commands ``devices ...`` and ``audit`` against a real admin service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner
from tests.cloud.delivery.admin.serving import serve_admins

from pocketrec.errors import RejectedError
from pocketrec_cloud.delivery.admin.devices_cli import audit, devices_list, devices_revoke
from pocketrec_cloud.delivery.admin.service import AdminService
from pocketrec_cloud.delivery.records import AdminRole, DeviceRecord

AddDevice = Callable[..., DeviceRecord]


@pytest.fixture
def words(
    service: AdminService, add_admin: Callable[..., str], tmp_path: Path
) -> Iterator[list[str]]:
    """The options that lead to a server as an operator."""
    token = tmp_path / "token"
    token.write_text(add_admin("olga", AdminRole.OPERATOR) + "\n")
    with serve_admins(service) as target:
        yield ["--server", target, "--token-file", str(token)]


def run(command: click.Command, *words: str) -> str:
    """Run a command and return what it printed."""
    result = CliRunner().invoke(command, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def run_json(command: click.Command, *words: str) -> dict[str, Any]:
    """Run a command and return its JSON."""
    printed: dict[str, Any] = json.loads(run(command, *words, "--json", "-"))
    return printed


class TestDevices:
    def test_facts_are_listed(self, words: list[str], add_device: AddDevice) -> None:
        """The JSON has every field, numbers as numbers."""
        device = add_device(7, ram_bytes=2**32, locale="de", tags=("beta",))

        assert run_json(devices_list, *words) == {
            "devices": [
                {
                    "device_id": device.device_id,
                    "backend": "onnxruntime 1.31.1",
                    "app_version": "2.0",
                    "os": "Android",
                    "ram_bytes": 2**32,
                    "locale": "de",
                    "tags": ["beta"],
                    "created_at_s": 7,
                    "seen_at_s": 7,
                    "is_revoked": False,
                    "bundle_digest": "",
                    "plan_version": 0,
                }
            ],
            "is_complete": True,
        }

    def test_ids_can_be_copied(self, words: list[str], add_device: AddDevice) -> None:
        """However narrow the terminal: `devices revoke` takes whole ids."""
        device = add_device(7, locale="de", tags=("beta", "a tag of some length"))

        assert device.device_id in run(devices_list, *words)

    def test_a_cohort_is_listed(self, words: list[str], add_device: AddDevice) -> None:
        """Only those that the rule holds for."""
        for number, name in enumerate(("iOS", "Android", "iOS")):
            add_device(number, os=name)

        found = run_json(devices_list, *words, "--cohort", "os = iOS")["devices"]

        assert [int(device["device_id"], 16) for device in found] == [0, 2]

    def test_what_is_left_out_is_said(self, words: list[str], add_device: AddDevice) -> None:
        """A limit does not look like the end."""
        for number in range(3):
            add_device(number)

        assert run_json(devices_list, *words, "--limit", "2")["is_complete"] is False
        assert "there are more" in run(devices_list, *words, "--limit", "2")
        assert "there are more" not in run(devices_list, *words, "--limit", "3")

    def test_what_a_device_tells_is_no_markup(
        self, words: list[str], add_device: AddDevice
    ) -> None:
        """A device cannot draw on an operator's screen."""
        add_device(1, os="[red]x", tags=("[/]",))

        printed = run(devices_list, *words)

        assert "[/]" in printed

    def test_a_rule_that_is_none_is_named(self, words: list[str]) -> None:
        """The server's words reach the terminal."""
        with pytest.raises(RejectedError, match="at character 5: expected a value"):
            run(devices_list, *words, "--cohort", "os =")


class TestRevoke:
    def test_shows_in_list_and_log(self, words: list[str], add_device: AddDevice) -> None:
        """Who did it and why is found later."""
        device = add_device(7)

        run(devices_revoke, device.device_id, "--reason", "stolen", *words)

        assert run_json(devices_list, *words)["devices"][0]["is_revoked"] is True
        (entry,) = run_json(audit, *words)["entries"]
        assert (entry["number"], entry["admin"], entry["action"]) == (1, "olga", "RevokeDevice")
        assert entry["subject"] == device.device_id
        assert "stolen" in run(audit, *words)

    def test_the_log_goes_on_after_an_entry(self, words: list[str], add_device: AddDevice) -> None:
        """``--after`` leaves out what was seen, ``--limit`` what is too much."""
        for number in range(3):
            run(devices_revoke, add_device(number).device_id, *words)

        entries = run_json(audit, *words, "--after", "1", "--limit", "1")["entries"]

        assert [entry["number"] for entry in entries] == [2]
