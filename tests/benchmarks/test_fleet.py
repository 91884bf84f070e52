# SPDX-License-Identifier: Apache-2.0
"""A small fleet, with everything that a large one has."""

from __future__ import annotations

import pytest
from benchmarks.fleet_devices import percentiles
from benchmarks.fleet_run import Fleet, FleetSettings

from pocketrec.errors import ConfigError


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
