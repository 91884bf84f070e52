# SPDX-License-Identifier: Apache-2.0
"""A small fleet, with everything that a large one has."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from benchmarks.environment import ROOT
from benchmarks.fleet import main
from benchmarks.fleet_devices import percentiles
from benchmarks.fleet_run import Fleet, FleetSettings
from benchmarks.plan_writes import plan_writes_per_s
from click.testing import CliRunner

from pocketrec.errors import BackendError, ConfigError
from pocketrec_cloud.delivery.records import PlanSwap
from pocketrec_cloud.delivery.stores.memory import MemoryStore


class TestFleet:
    @pytest.mark.slow
    @pytest.mark.parametrize("workers", [1, 2])
    def test_every_device_gets_every_plan(self, workers: int) -> None:
        """Pushes arrive verified, and everybody is back after the server was killed."""
        settings = FleetSettings(devices=20, pushes=2, steady_s=0, workers=workers, shape="16x10x1")

        result = Fleet(settings).run()

        assert (result["delivered"], result["expected"], result["n_refused"]) == (40, 40, 0)
        assert set(result["targets"]) == {"p99_s", "return_s"}

    def test_settings_are_checked(self) -> None:
        """A fleet of nobody is no fleet."""
        with pytest.raises(ConfigError, match="positive"):
            FleetSettings(devices=0)

    def test_percentiles_are_those_of_the_delays(self) -> None:
        """Of a hundred even delays the median lies in the middle."""
        found = percentiles([float(number) for number in range(101)])

        assert found == {"p50_s": 50.0, "p99_s": 99.0, "max_s": 100.0}


class _BusyStore(MemoryStore):
    """Somebody else always comes first."""

    def swap_plans(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        return [False] * len(swaps)


class TestPlanWrites:
    def test_counts_plans_that_were_stored(self) -> None:
        """What is measured are rows that were replaced, not attempts."""
        assert plan_writes_per_s(MemoryStore()) > 0
        with pytest.raises(BackendError, match="not stored"):
            plan_writes_per_s(_BusyStore())


class TestPage:
    def test_page_says_what_the_committed_runs_say(self, tmp_path: Path) -> None:
        """docs/scaling.md is drawn from the result files, and from nothing else."""
        results = ROOT / "benchmarks" / "results"
        sources = [str(results / "fleet.json"), str(results / "fleet_postgres.json")]
        arguments = [word for source in sources for word in ("--from", source)]

        outcome = CliRunner().invoke(main, [*arguments, "--report", str(tmp_path / "page.md")])

        assert outcome.exit_code == 0, outcome.output
        committed = (ROOT / "docs" / "scaling.md").read_text("utf-8")
        assert (tmp_path / "page.md").read_text("utf-8") == committed
