# SPDX-License-Identifier: Apache-2.0
"""Draws bars: memory, what starting costs, and operators."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketrec_device.bench_report.bench_tables import profile_name
from pocketrec_device.bench_report.drawing import (
    N_SERIES,
    chart,
    clipped,
    label,
    marker,
    series_class,
    x_axis,
)
from pocketrec_device.bench_report.markup import Markup, element, join
from pocketrec_device.bench_report.scales import linear_scale
from pocketrec_device.bench_report.tables import time_text

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Content

__all__ = ["draw_memory", "draw_operators", "draw_start"]

_LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 270.0, 850.0, 40.0, 30.0, 52.0
_SHOWN_OPERATORS = 16
_MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class _Bar:
    """One row: a name, and its parts from left to right as (series, value).

    Parts of the series ``hatched`` differ from their neighbours by more than colour.
    """

    name: str
    parts: tuple[tuple[int, float], ...]
    value: str
    hatched: int | None = None


def draw_memory(content: Content) -> Markup:
    """Draw what a fresh process holds: before it began, and what it added."""
    bars = []
    for cell in content.cells:
        idle, added = (cell.record[f"{key}_rss_bytes"] / _MIB for key in ("idle", "delta"))
        parts = ((5, idle), (0, added))
        bars.append(_Bar(name=cell.name, parts=parts, value=f"+{added:.1f}", hatched=5))
    most = max(content.cells, key=lambda cell: float(cell.record["peak_rss_bytes"]))
    return _bars(
        "Memory of a process",
        f"Cells: {len(bars)}. Most: {most.name}, {most.record['peak_rss_bytes'] / _MIB:.1f} MiB.",
        bars,
        {5: "before pocketrec is imported", 0: "added until it ends"},
        "MiB resident",
    )


def draw_start(content: Content) -> Markup:
    """Draw import, loading and the first ranking of every cell."""
    keys = {0: "import_ms", 1: "load_ms", 2: "first_run_ms"}
    bars = []
    for cell in content.cells:
        parts = tuple((series, float(cell.record[key])) for series, key in keys.items())
        total = sum(value for _, value in parts)
        bars.append(_Bar(name=cell.name, parts=parts, value=f"{total:.0f}", hatched=1))
    return _bars(
        "From nothing to the first ranking",
        f"Cells: {len(bars)}. Each bar is import, load and first ranking.",
        bars,
        {0: "import", 1: "load", 2: "first ranking"},
        "ms",
    )


def draw_operators(profile: Mapping[str, Any], function: Mapping[str, Any]) -> Markup:
    """Draw the operators of one function that take most time."""
    operators = sorted(function["operators"], key=lambda each: -each["trimmed_us"])
    by_kind = _time_by_kind([function])
    # Colours are those of the whole profile, so that an operator has one in all functions.
    everywhere = _time_by_kind(profile["functions"])
    kinds = sorted(everywhere, key=lambda kind: -everywhere[kind])
    named = {kind: number for number, kind in enumerate(kinds[: N_SERIES - 1])}
    bars = [
        _Bar(
            name=f"{each['operator']} {each['node']}".strip(),
            parts=((named.get(str(each["operator"]), N_SERIES - 1), float(each["trimmed_us"])),),
            value=f"{time_text(each['trimmed_us'])} μs, {each['share']:.0%}",
        )
        for each in operators[:_SHOWN_OPERATORS]
    ]
    total = max(sum(by_kind.values()), 1e-9)
    legend = {n: f"{kind} {by_kind[kind] / total:.0%}" for kind, n in named.items()}
    others = sum(us for kind, us in by_kind.items() if kind not in named)
    if others:
        legend[N_SERIES - 1] = f"others {others / total:.0%}"
    hidden = len(operators) - len(bars)
    return _bars(
        f"Operators of {function['function']}, {profile_name(profile)}",
        f"Slowest: {bars[0].name}, {bars[0].value}." if bars else "No operators.",
        bars,
        legend,
        "μs per call" + (f"; {hidden} faster operators are in the table" if hidden > 0 else ""),
    )


def _time_by_kind(functions: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    by_kind: dict[str, float] = defaultdict(float)
    for function in functions:
        for each in function["operators"]:
            by_kind[str(each["operator"])] += each["trimmed_us"]
    return by_kind


def _bars(
    title: str,
    description: str,
    bars: Sequence[_Bar],
    legend: Mapping[int, str],
    axis_name: str,
) -> Markup:
    longest = max((sum(value for _, value in bar.parts) for bar in bars), default=1.0)
    scale = linear_scale(0, longest, _LEFT, _RIGHT)
    bottom = _TOP + _ROW * len(bars)
    drawn = [_row(bar, _TOP + _ROW * (number + 0.5), scale.at) for number, bar in enumerate(bars)]
    axis = x_axis(scale, _TOP, bottom, axis_name, lambda value: f"{value:,.10g}")
    return chart(title, description, bottom + _BOTTOM, _legend(legend), axis, *drawn)


def _row(bar: _Bar, middle: float, at: Callable[[float], float]) -> Markup:
    rectangles, start = [], 0.0
    for series, value in bar.parts:
        size = {"x": at(start), "y": middle - 9, "height": 18}
        size["width"] = max(at(start + value) - at(start) - 1, 0.5)
        rectangles.append(element("rect", **size, class_=f"bar {series_class(series)}"))
        if series == bar.hatched:
            rectangles.append(element("rect", **size, class_="hatch"))
        start += value
    numbers = " + ".join(f"{value:,.1f}" for _, value in bar.parts)
    return element(
        "g",
        element("title", f"{bar.name}: {numbers}"),
        label(8, middle + 4, clipped(bar.name, 37), class_="name"),
        join(rectangles),
        label(at(start) + 8, middle + 4, bar.value, class_="value halo"),
        class_="row",
    )


def _legend(names: Mapping[int, str]) -> Markup:
    parts, x = [], 14.0
    for number, name in names.items():
        parts += [marker(number, x, 14), label(x + 12, 19, name, class_="legend")]
        x += 44 + 8.0 * len(name)
    return join(parts)
