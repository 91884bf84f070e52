# SPDX-License-Identifier: Apache-2.0
"""The rates of wrong comparisons: the planted slowdown, and what is made of tries."""

from __future__ import annotations

import itertools
import json
import os
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.compare_rates import MODES, Settings, earlier_tries, main, rates
from benchmarks.compare_rates_page import sheets
from benchmarks.environment import read_environment
from benchmarks.slow_worker import SHARE, SlowStopwatch
from click.testing import CliRunner

from pocketrec.console import json_text
from pocketrec.errors import ConfigError


def judged(same: str, slowed: str) -> dict[str, Any]:
    """Return what one try found in one mode."""
    rows = {"metric": "p50 rerank", "verdict": slowed}, {"metric": "load_ms", "verdict": "unsure"}
    return {
        "same": {"verdict": same, "rows": [{"metric": "p50 rerank", "verdict": same}]},
        "slowed": {"verdict": slowed, "rows": list(rows)},
    }


def test_a_slowed_call_takes_its_share_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock that only moves when it is read: 100 reads of work become 115 or more."""
    clock = itertools.count()
    monkeypatch.setattr("time.perf_counter_ns", lambda: next(clock))
    stopwatch = SlowStopwatch()

    taken_ns = stopwatch.time("work", lambda: [next(clock) for _ in range(100)])

    assert stopwatch.samples_ns["work"] == [taken_ns]
    assert 100 * (1 + SHARE) <= taken_ns <= 100 * (1 + SHARE) + 10


def test_rates_count_tries_and_operations() -> None:
    """Two tries, one wrong each; numbers that are no operation do not count."""
    first, second = judged("equal", "equal"), judged("regression", "regression")
    tries = [{"try": n, **dict.fromkeys(MODES, one)} for n, one in enumerate((first, second))]

    found = rates(tries)

    half = {"equal": 0.5, "caught": 0.5, "numbers_equal": 0.5, "numbers_caught": 0.5}
    assert found == dict.fromkeys(MODES, half)


def test_no_tries_are_refused() -> None:
    """There would be no rate."""
    with pytest.raises(ConfigError, match="at least 1"):
        Settings(tries=0)


class TestExactly:
    """The planted share alone, worked out from runs of the same build."""

    def caught(self, low: float, **settings: Any) -> str:
        """Return the cell of one try of one operation whose interval begins there."""
        one = judged("equal", "regression")
        for row in (*one["same"]["rows"], *one["slowed"]["rows"]):
            row |= {"low": low, "ratio": 1.0}
        one["same"]["notes"] = settings.pop("notes", [])
        tries = [{"try": 0, "load": 1.0, **dict.fromkeys(MODES, one)}]
        defaults = Settings(config=replace(Settings().config, **settings))
        result = {"planted": 0.15, "settings": asdict(defaults), "tries": tries}
        table = sheets(result | {"rates": rates(tries)})[0]
        assert table.columns[3] == "exactly 15% is caught"
        return table.rows[0][3]

    @pytest.mark.parametrize(("low", "expected"), [(0.95, "1 of 1"), (0.9, "0 of 1")])
    def test_an_interval_moves_with_its_times(self, low: float, expected: str) -> None:
        """Times 15 % longer move its lower end from 0.95 to 1.0925: beyond 5 %."""
        assert self.caught(low) == expected

    def test_what_is_not_judged_is_not_caught(self) -> None:
        """Too few processes, or a machine of another speed."""
        assert self.caught(0.95, repeat=4) == "0 of 1"
        assert self.caught(0.95, notes=["no time is judged"]) == "0 of 1"


class TestResuming:
    def file(self, path: Path, **settings: Any) -> Path:
        """Write a file of one try."""
        one = judged("equal", "regression")
        config = {**asdict(Settings().config), **settings}
        result = {
            "settings": {**asdict(Settings()), "config": config},
            "environment": read_environment(),
            "tries": [{"try": 0, "load": 1.0, **dict.fromkeys(MODES, one)}],
        }
        path.write_text(json_text(result))
        return path

    def test_tries_made_in_another_way_are_not_gone_on_with(self, tmp_path: Path) -> None:
        """Rates over both would be of neither."""
        path = self.file(tmp_path / "rates.json", repeat=3)

        done = CliRunner().invoke(main, ["--resume", "--json", str(path)])

        assert isinstance(done.exception, ConfigError)
        assert "tries of the same config" in str(done.exception)

    def test_tries_made_in_the_same_way_are_kept(self, tmp_path: Path) -> None:
        """How many are wanted, and how busy the machine is, may differ."""
        path = self.file(tmp_path / "rates.json")

        assert len(earlier_tries(Settings(tries=3), path)) == 1


@pytest.mark.slow
def test_a_try_runs_and_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of one process per run, then a second one beside it, and the page."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    out, page = tmp_path / "rates.json", tmp_path / "rates.md"
    options = ["--repeat", "1", "--json", str(out), "--report", str(page)]

    first = CliRunner().invoke(main, ["--tries", "1", *options])
    kept = json.loads(out.read_text())["tries"]
    second = CliRunner().invoke(main, ["--tries", "2", "--resume", *options])

    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    tries = json.loads(out.read_text())["tries"]
    assert tries[:1] == kept
    assert len(tries) == 2
    assert {one[mode]["same"]["verdict"] for one in tries for mode in MODES} == {"equal"}
    assert "| interleaved | 2 of 2 |" in page.read_text()
