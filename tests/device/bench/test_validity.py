# SPDX-License-Identifier: Apache-2.0
"""Flags on chosen processes: each rule alone."""

from __future__ import annotations

from typing import Any

import pytest

from pocketrec_device.bench.validity import LIMITS, flags_of


def processes(n: int = 3, **changes: Any) -> list[dict[str, Any]]:
    """Return processes without a flaw, but for what is changed in the last."""
    good: dict[str, Any] = {
        "n": {"rerank": 100},
        "p50_us": {"rerank": 50.0},
        "yardstick_us": 40.0,
        "yardsticks_us": [40.0] * 8,
        "cpu_share": 1.0,
        "n_other_cores": 0.1,
        "n_throttled": 0,
    }
    return [*(good for _ in range(n - 1)), good | changes]


def flags(found: list[dict[str, Any]]) -> list[str]:
    """Return the names of the flags."""
    return [flag.flag for flag in flags_of(found)]


def test_nothing_is_said_of_a_quiet_run() -> None:
    """Three processes of 100 calls that agree."""
    assert flags(processes()) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"p50_us": {"rerank": 55.1}}, ["noisy"]),
        ({"p50_us": {"rerank": 54.9}}, []),
        ({"yardstick_us": 46.1}, ["speed_changed"]),
        ({"n_throttled": 2}, ["throttled"]),
        ({"cpu_share": 0.89}, ["kept_waiting"]),
        ({"n_other_cores": 0.6}, ["background_load"]),
        ({"n_other_cores": None}, []),
    ],
)
def test_one_bad_process_is_noticed(changes: dict[str, Any], expected: list[str]) -> None:
    """Each rule by itself, at both sides of its limit."""
    assert flags(processes(**changes)) == expected


def test_getting_slower_within_processes_is_throttling() -> None:
    """In two of three, the last readings are a fifth above the first."""
    slowing = {"yardsticks_us": [40.0, 40.0, 42.0, 44.0, 46.0, 48.0, 48.0, 48.0]}
    found = [*processes(2, **slowing)[1:], *processes(2, **slowing)]

    assert flags(found) == ["throttled"]


def test_few_of_anything_are_noticed() -> None:
    """Two processes, and 99 calls of an operation, which the flag names."""
    few = [one | {"n": {"rerank": 33}} for one in processes(3)]

    found = flags_of(few)

    assert [(flag.flag, flag.operation) for flag in found] == [("few_runs", "rerank")]
    assert flags(processes(2)) == ["few_processes"]


def test_every_rule_has_a_limit() -> None:
    """Readers find the limit beside what was found."""
    found = flags_of(processes(2, cpu_share=0.1, n_throttled=1))

    assert {flag.flag: flag.limit for flag in found}.items() <= LIMITS.items()
    assert all(flag.text for flag in found)
