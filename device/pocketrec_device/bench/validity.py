# SPDX-License-Identifier: Apache-2.0
"""What makes a cell's numbers doubtful, by rules that a reader can check.

A flag is no error: the numbers are what was measured. It says why they may not hold the
next time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

__all__ = ["LIMITS", "Flag", "flags_of"]

LIMITS: Mapping[str, float] = {
    "few_runs": 100,
    "few_processes": 3,
    "noisy": 1.1,
    "speed_changed": 1.15,
    "throttled": 1.15,
    "kept_waiting": 0.9,
    "background_load": 0.5,
}
"""Limit of every rule.

* ``few_runs``: fewer calls of an operation than this, over all processes: p99 is the worst
  of them.
* ``few_processes``: fewer processes than this: their spread is unknown.
* ``noisy``: the largest of the processes' medians is more than this many times the smallest.
* ``speed_changed``: so is the yardstick's: the machine was faster or slower between processes.
* ``throttled``: in most processes the last quarter of the yardstick's readings is this many
  times the first quarter, or the system counted cores slowed down by heat.
* ``kept_waiting``: a process got less processor time than this per second.
* ``background_load``: others kept more cores busy than this, on average.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Flag:
    """One thing that is doubtful.

    Args:
        flag: Name of the rule.
        found: What was measured.
        limit: What the rule allows.
        text: For people.
        operation: Which operation it is about; empty if all.
    """

    flag: str
    found: float
    limit: float
    text: str
    operation: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return it as part of a result."""
        return {
            "flag": self.flag,
            "operation": self.operation or None,
            "found": self.found,
            "limit": self.limit,
            "text": self.text,
        }


def flags_of(processes: Sequence[Mapping[str, Any]]) -> list[Flag]:
    """Return what is doubtful about a cell.

    Args:
        processes: ``processes`` of its record.
    """
    return [*_few(processes), *_unsteady(processes), *_disturbed(processes)]


def _few(processes: Sequence[Mapping[str, Any]]) -> list[Flag]:
    flags = []
    if len(processes) < LIMITS["few_processes"]:
        text = f"{len(processes)} process(es): repeat 3 times or more"
        flags.append(_flag("few_processes", len(processes), text))
    for name in processes[0]["n"]:
        n_calls = sum(one["n"][name] for one in processes)
        if n_calls < LIMITS["few_runs"]:
            text = f"{name}: {n_calls} calls, so p99 is no more than the worst of them"
            flags.append(_flag("few_runs", n_calls, text, name))
    return flags


def _unsteady(processes: Sequence[Mapping[str, Any]]) -> list[Flag]:
    flags = []
    for name in processes[0]["p50_us"]:
        ratio = _spread([one["p50_us"][name] for one in processes])
        if ratio > LIMITS["noisy"]:
            text = f"{name}: the medians of its processes differ by {ratio - 1:.0%}"
            flags.append(_flag("noisy", ratio, text, name))
    ratio = _spread([one["yardstick_us"] for one in processes])
    if ratio > LIMITS["speed_changed"]:
        text = f"the machine itself was {ratio - 1:.0%} slower in one process than in another"
        flags.append(_flag("speed_changed", ratio, text))
    return flags


def _disturbed(processes: Sequence[Mapping[str, Any]]) -> list[Flag]:
    flags = []
    drift = median(_drift(one["yardsticks_us"]) for one in processes)
    n_events = sum(one["n_throttled"] for one in processes)
    if drift > LIMITS["throttled"] or n_events:
        text = f"{drift - 1:.0%} slower at the end of a process, {n_events} thermal event(s)"
        flags.append(_flag("throttled", drift, text))
    share = min(one["cpu_share"] for one in processes)
    if share < LIMITS["kept_waiting"]:
        text = f"a process got {share:.0%} of a core: others were let in"
        flags.append(_flag("kept_waiting", share, text))
    others = [one["n_other_cores"] for one in processes if one["n_other_cores"] is not None]
    if others and max(others) > LIMITS["background_load"]:
        text = f"others kept {max(others):.1f} core(s) busy meanwhile"
        flags.append(_flag("background_load", max(others), text))
    return flags


def _drift(readings: Sequence[float]) -> float:
    n = max(1, len(readings) // 4)
    return median(readings[-n:]) / median(readings[:n]) if readings else 1.0


def _spread(values: Sequence[float]) -> float:
    return max(values) / min(values)


def _flag(name: str, found: float, text: str, operation: str = "") -> Flag:
    return Flag(flag=name, found=found, limit=LIMITS[name], text=text, operation=operation)
