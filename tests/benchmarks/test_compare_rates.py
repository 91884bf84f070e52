# SPDX-License-Identifier: Apache-2.0
"""The rates of wrong comparisons: the planted slowdown, and what is made of tries."""

from __future__ import annotations

import itertools
import json
import os
import sys
from pathlib import Path
from typing import Any

import pytest
from benchmarks.compare_rates import MODES, Settings, main, rates
from benchmarks.slow_worker import SHARE, SlowStopwatch
from click.testing import CliRunner

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


@pytest.mark.slow
def test_a_try_runs_and_is_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One try of one process per run, then a second one beside it, and the page."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    out, page = tmp_path / "rates.json", tmp_path / "rates.md"
    options = ["--repeat", "1", "--json", str(out), "--report", str(page)]

    first = CliRunner().invoke(main, ["--tries", "1", *options])
    kept = json.loads(out.read_text())["tries"]
    second = CliRunner().invoke(main, ["--tries", "2", *options])

    assert (first.exit_code, second.exit_code) == (0, 0), second.output
    tries = json.loads(out.read_text())["tries"]
    assert tries[:1] == kept
    assert len(tries) == 2
    assert {one[mode]["same"]["verdict"] for one in tries for mode in MODES} == {"equal"}
    assert "| interleaved | 2 of 2 |" in page.read_text()
