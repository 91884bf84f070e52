# SPDX-License-Identifier: Apache-2.0
"""Draws how long the calls of one operation took: all of them, not their average."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.bench_report.drawing import (
    chart,
    clipped,
    label,
    line,
    marker,
    series_class,
    x_axis,
)
from pocketrec_device.bench_report.markup import Markup, element, join
from pocketrec_device.bench_report.scales import Scale, log_scale
from pocketrec_device.bench_report.tables import time_text

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.bench_report.content import Cell

__all__ = ["draw_latency"]

_LEFT, _RIGHT, _TOP, _ROW, _BOTTOM = 270.0, 800.0, 14.0, 46.0, 52.0
_HALF_HEIGHT = 14.0
_BINS = 120
_LOWEST, _HIGHEST = 0.5, 97.0  # percentiles that the axis reaches


def draw_latency(cells: Sequence[Cell], operation: str, series: Sequence[str]) -> Markup | None:
    """Draw one row per cell: a silhouette of all samples, quantiles, medians of processes.

    Args:
        cells: Those that timed the operation.
        operation: Which one.
        series: All variants of the report, in the order of their colours.

    Returns:
        The picture; None when no samples were kept.
    """
    rows = [(cell, cell.samples_us(operation)) for cell in cells]
    rows = [(cell, samples) for cell, samples in rows if samples.size]
    if not rows:
        return None
    # Single calls of any length would leave no room for the others: those are at the border.
    low = min(float(np.percentile(samples, _LOWEST)) for _, samples in rows)
    high = max(float(np.percentile(samples, _HIGHEST)) for _, samples in rows)
    scale = log_scale(low, high, _LEFT, _RIGHT)
    bottom = _TOP + _ROW * len(rows)
    drawn = [
        _row(
            cell,
            samples,
            operation,
            scale,
            place=(series.index(cell.series), _TOP + _ROW * (number + 0.5)),
        )
        for number, (cell, samples) in enumerate(rows)
    ]
    fastest, median = min(
        ((cell, float(cell.record["latency_us"][operation]["p50"])) for cell, _ in rows),
        key=lambda each: each[1],
    )
    description = (
        f"Cells: {len(rows)}. Lowest median: {fastest.name_in_scenario}, "
        f"{time_text(median)} microseconds. The table below has all numbers."
    )
    axis = x_axis(scale, _TOP, bottom, "μs per call, equal ratios take equal room", _tick)
    return chart(f"Time of {operation}", description, bottom + _BOTTOM, axis, *drawn)


def _row(
    cell: Cell,
    samples: NDArray[np.float64],
    operation: str,
    scale: Scale,
    *,
    place: tuple[int, float],
) -> Markup:
    """Draw one cell; ``place`` is the number of its series and where its middle lies."""
    number, middle = place
    low, quarter, three_quarters = (float(each) for each in np.percentile(samples, [5, 25, 75]))
    # A file keeps some samples only, but its percentiles count all.
    summary = cell.record["latency_us"][operation]
    p50, p95, p99 = (float(summary[key]) for key in ("p50", "p95", "p99"))
    tip = (
        f"{cell.record['cell']}: p5 {time_text(low)}, p25 {time_text(quarter)}, "
        f"p50 {time_text(p50)}, p75 {time_text(three_quarters)}, p95 {time_text(p95)}, "
        f"p99 {time_text(p99)} μs, {samples.size:,} samples"
    )
    at = scale.at
    medians = cell.medians_us(operation)
    name = cell.name_in_scenario if cell.is_valid else f"⚠ {cell.name_in_scenario}"
    color = series_class(number)
    return element(
        "g",
        element("title", tip),
        marker(number, 14, middle - 4),
        label(30, middle, clipped(name, 34), class_="name"),
        label(_RIGHT + 12, middle - 3, f"p50 {time_text(p50)}", class_="value"),
        label(_RIGHT + 12, middle + 13, f"p99 {time_text(p99)}", class_="tick"),
        element("path", d=_silhouette(samples, scale, middle), class_=f"area {color}"),
        line(at(low), middle, at(p95), middle, f"whisker {color}"),
        _box(at(quarter), at(three_quarters), middle, color),
        line(at(p50), middle - 10, at(p50), middle + 10, "median"),
        _p99(p99, scale, middle, color),
        join(
            element("circle", cx=at(each), cy=middle + _HALF_HEIGHT + 4, r=2.5, class_="process")
            for each in (medians if len(medians) > 1 else [])
        ),
        class_="row",
    )


def _box(left: float, right: float, middle: float, color: str) -> Markup:
    size = {"x": left, "y": middle - 4, "width": max(right - left, 1.0), "height": 8}
    return element("rect", **size, class_=f"box {color}")


def _p99(p99: float, scale: Scale, middle: float, color: str) -> Markup:
    """Draw a tick, or beyond the axis an arrow."""
    if p99 <= scale.high:
        at = scale.at(p99)
        return line(at, middle - 6, at, middle + 6, f"whisker {color}")
    return element(
        "path", d=f"M{_RIGHT - 7:.1f},{middle - 6:.1f} l7,6 l-7,6 Z", class_=f"box {color}"
    )


def _silhouette(samples: NDArray[np.float64], scale: Scale, middle: float) -> str:
    """Return a path: the higher, the more samples; above and below alike."""
    edges = np.geomspace(scale.low, scale.high, _BINS + 1)
    counts, _ = np.histogram(samples, edges)
    smooth = np.convolve(counts, np.hanning(7)[1:-1], mode="same")
    heights = smooth / max(float(smooth.max()), 1.0) * _HALF_HEIGHT
    x = [scale.at(float(edge)) for edge in np.sqrt(edges[1:] * edges[:-1])]
    shown = np.flatnonzero(heights > 0.05)
    if not shown.size:
        return ""
    bins = range(int(shown[0]), int(shown[-1]) + 1)
    above = [f"{x[i]:.1f},{middle - heights[i]:.1f}" for i in bins]
    below = [f"{x[i]:.1f},{middle + heights[i]:.1f}" for i in reversed(bins)]
    return f"M{' L'.join([*above, *below])} Z"


def _tick(value: float) -> str:
    return f"{value:,.10g}"
