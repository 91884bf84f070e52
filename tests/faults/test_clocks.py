# SPDX-License-Identifier: Apache-2.0
"""Clocks that are wrong: of devices by years, of servers on one database by minutes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from tests.faults.servers import Site
from tests.faults.watchers import next_plan, planner_of, until, watch

from pocketrec.errors import ExpiredArtifactError
from pocketrec_device import Runtime

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

pytestmark = [pytest.mark.faults, pytest.mark.slow]

YEAR_S = 365 * 24 * 3600.0
MINUTES_S = 600.0


class TestDevice:
    def test_clock_years_behind_changes_nothing(
        self, site: Site, make_device: Callable[..., Runtime]
    ) -> None:
        """It registers, syncs and installs what is pushed."""
        device = make_device(clock=lambda: time.time() - 3 * YEAR_S)

        device.sync(site.target, subject="ann")
        with device.watch(site.target, subject="ann") as watcher:
            until(lambda: watcher.status().is_connected)
            site.push(planner="uniform-4")
            until(lambda: planner_of(device) == "uniform-4")

        site.check()

    def test_clock_years_ahead_refuses_what_looks_expired_and_comes_back(
        self, site: Site, make_device: Callable[..., Runtime]
    ) -> None:
        """Signatures look too old then: nothing is installed, and all is well once it is right."""
        ahead_s = 3 * YEAR_S
        device = make_device(clock=lambda: time.time() + ahead_s)

        with pytest.raises(ExpiredArtifactError):
            device.sync(site.target, subject="ann")
        ahead_s = 0.0
        device.sync(site.target, subject="ann")

        assert device.is_ready
        site.check()


class TestServers:
    def test_two_servers_with_different_clocks_agree(
        self, make_site: Callable[..., Site], postgres: PostgresServer
    ) -> None:
        """Tokens count at both, versions only go up, and orders are heard of by both."""
        database = postgres.create_database()
        ahead = make_site(database, name="ahead", skew_s=MINUTES_S)
        behind = make_site(database, name="behind", skew_s=-MINUTES_S)
        ahead.start()
        behind.start()
        device = behind.register()
        versions: list[int] = []
        sequences: list[int] = []

        for number in range(6):
            site = (ahead, behind)[number % 2]
            sequences.append(site.push(planner=("uniform-4", "uniform-8")[number % 2]).sequence)
            other = (behind, ahead)[number % 2]
            with other.channel() as stub:
                last = versions[-1] if versions else 0
                stream = watch(other, stub, device, "ann", installed_version=last)
                sequence, plan = next_plan(stream)
                while sequence < sequences[-1]:
                    sequence, plan = next_plan(stream)
                versions.append(plan.version)
                stream.cancel()  # type: ignore[attr-defined]

        assert sequences == [1, 2, 3, 4, 5, 6]
        assert versions == sorted(set(versions))
        ahead.check()
        behind.check()
