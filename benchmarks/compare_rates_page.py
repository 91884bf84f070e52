# SPDX-License-Identifier: Apache-2.0
"""Shows the error rates of ``bench compare``: on a terminal, and as a page."""

from __future__ import annotations

from statistics import mean, median
from typing import Any

from rich.console import Console

from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "sheets"]

_COMMAND = (
    "python -m benchmarks.compare_rates --json benchmarks/results/compare_rates.json "
    "--report docs/results/compare_rates.md"
)


def sheets(result: dict[str, Any]) -> list[Sheet]:
    """Return both tables.

    Args:
        result: What the benchmark measured.
    """
    return [_rates(result), _tries(result)]


def draw(console: Console, result: dict[str, Any]) -> None:
    """Draw both tables.

    Args:
        console: Where to.
        result: What the benchmark measured.
    """
    for sheet in sheets(result):
        sheet.draw(console)


def page(result: dict[str, Any]) -> str:
    """Return the page.

    Args:
        result: What the benchmark measured.
    """
    environment, settings = result["environment"], result["settings"]
    config, rule = settings["config"], settings["rule"]
    method = (
        f"Each try measures one build twice, and once more with {result['planted']:.0%} added to "
        "every timed call, by keeping the core busy for that share of the call before the clock "
        f"stops; as measured, calls were {_slowdown(result):.0%} slower, the median of operations "
        f"and tries. A run has {config['repeat']} processes of {config['runs']} calls or more "
        f"per operation; the threshold is {rule['threshold']:.0%}, the false alarm rate aimed at "
        f"{rule['alpha']:.0%} per comparison. [benchmarking.md](../benchmarking.md) has the rule."
    )
    machine = (
        f"{environment['cpu']}, {environment['cores']} cores, Python {environment['python']}, "
        f"onnxruntime {environment['onnxruntime']}, commit {environment['commit']}. Other jobs ran "
        "on the machine all the time, as the loads below say."
    )
    lines = ["# How often `bench compare` is wrong", "", f"    {_COMMAND}", "", method, "", machine]
    lines.append("")
    return "\n".join([*lines, *(line for each in sheets(result) for line in each.markdown())])


def _slowdown(result: dict[str, Any]) -> float:
    """Return what the planted slowdown came to."""
    changes: list[float] = [
        row["ratio"] - 1
        for one in result["tries"]
        for mode in result["rates"]
        for row in one[mode]["slowed"]["rows"]
        if row["metric"].startswith("p50 ")
    ]
    return median(changes)


def _rates(result: dict[str, Any]) -> Sheet:
    n_tries, planted = len(result["tries"]), result["planted"]
    exactly = {mode: _caught_exactly(result, mode) for mode in result["rates"]}
    return Sheet(
        title="Rates",
        columns=(
            "mode",
            "same build is equal",
            "slowdown is caught",
            f"exactly {planted:.0%} is caught",
            "operations equal",
            "operations caught",
            f"exactly {planted:.0%}",
        ),
        rows=tuple(
            (
                mode,
                f"{round(found['equal'] * n_tries)} of {n_tries}",
                f"{round(found['caught'] * n_tries)} of {n_tries}",
                f"{sum(map(any, exactly[mode]))} of {n_tries}",
                f"{found['numbers_equal']:.0%}",
                f"{found['numbers_caught']:.0%}",
                f"{mean(each for one in exactly[mode] for each in one):.0%}",
            )
            for mode, found in result["rates"].items()
        ),
        n_text=1,
        note="A comparison is equal when no number of it is a regression or an improvement. The "
        "operations on the right are single numbers, seven per comparison; those of one build "
        "that are not equal were unsure. *Exactly* is worked out, not measured: the rule looks at "
        "ratios, so the second run of the same build with every time longer by the planted share "
        "has the same intervals, moved by it.",
    )


def _caught_exactly(result: dict[str, Any], mode: str) -> list[list[bool]]:
    """Return for every try and operation whether the planted share alone would be caught."""
    rule, config = result["settings"]["rule"], result["settings"]["config"]
    slower, worse = 1 + result["planted"], 1 + rule["threshold"]
    is_enough = config["repeat"] >= rule["min_processes"]
    return [
        [
            # Where the machine changed its speed between two runs, no time is judged.
            is_enough and not one[mode]["same"]["notes"] and row["low"] * slower > worse
            for row in one[mode]["same"]["rows"]
            if row["metric"].startswith("p50 ")
        ]
        for one in result["tries"]
    ]


def _tries(result: dict[str, Any]) -> Sheet:
    return Sheet(
        title="Tries",
        columns=("try", "mode", "same build", "slowed build", "change", "slowed change", "load"),
        rows=tuple(
            (
                str(one["try"] + 1),
                mode,
                one[mode]["same"]["verdict"],
                one[mode]["slowed"]["verdict"],
                _change(one[mode]["same"]),
                _change(one[mode]["slowed"]),
                f"{one['load']:.1f}",
            )
            for one in result["tries"]
            for mode in result["rates"]
        ),
        n_text=4,
        note="Changes are those of `observe_rerank`; load is the system's average over a minute, "
        "when the try began.",
    )


def _change(judged: dict[str, Any]) -> str:
    rows = [row for row in judged["rows"] if row["metric"] == "p50 observe_rerank"]
    return f"{rows[0]['ratio'] - 1:+.1%}" if rows else "–"
