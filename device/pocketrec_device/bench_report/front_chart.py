# SPDX-License-Identifier: Apache-2.0
"""Draws quality against bytes, and which variants no other one beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from pocketrec_device.bench_report.bench_tables import distinct_models, model_name
from pocketrec_device.bench_report.drawing import (
    WIDTH,
    chart,
    clipped,
    label,
    line,
    marker,
    series_class,
    x_axis,
    y_axis,
)
from pocketrec_device.bench_report.markup import Markup, element
from pocketrec_device.bench_report.scales import linear_scale, log_scale

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Content
    from pocketrec_device.bench_report.scales import Scale

__all__ = ["Point", "draw_front", "front_of"]

_LEFT, _RIGHT, _TOP, _BOTTOM, _HEIGHT = 74.0, WIDTH - 30, 40.0, 330.0, 384.0
_CHARACTER = 7.4  # of a name, on average
_OFFSETS = (4.0, -12.0, 20.0, -28.0, 36.0)  # of a name above or below its mark

_Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One variant.

    Attributes:
        name: What it is called.
        series: Its colour and shape.
        n_bytes: Of coded weights.
        value: NDCG@10.
        low: Lower end of the 95 % interval.
        high: Upper end.
    """

    name: str
    series: int
    n_bytes: float
    value: float
    low: float
    high: float


def front_of(points: Sequence[Point]) -> list[Point]:
    """Return the points that none with as few bytes or fewer beats, by rising bytes."""
    front: list[Point] = []
    for point in sorted(points, key=lambda each: (each.n_bytes, -each.value)):
        if not front or point.value > front[-1].value:
            front.append(point)
    return front


def draw_front(content: Content) -> Markup | None:
    """Draw NDCG@10 against bytes of coded weights; None without quality."""
    points = [
        Point(
            name=model_name(cell),
            series=content.series.index(cell.series),
            n_bytes=float(cell.record["coded_bytes"]),
            value=float(cell.record["quality"]["ndcg@10"]),
            low=float(cell.record["quality"]["ndcg@10_interval"][0]),
            high=float(cell.record["quality"]["ndcg@10_interval"][1]),
        )
        for cell in distinct_models(content)
        if cell.record["coded_bytes"]
    ]
    if not points:
        return None
    sizes = [point.n_bytes for point in points]
    x = log_scale(min(sizes) * 0.9, max(sizes) * 1.1, _LEFT, _RIGHT)
    low, high = min(point.low for point in points), max(point.high for point in points)
    y = linear_scale(low, high, _BOTTOM, _TOP)
    front = front_of(points)
    names = ", ".join(point.name for point in front)
    steps = [f"M{x.at(front[0].n_bytes):.1f},{y.at(front[0].value):.1f}"]
    steps += [f"H{x.at(point.n_bytes):.1f} V{y.at(point.value):.1f}" for point in front[1:]]
    drawn = [
        element("path", d=" ".join([*steps, f"H{_RIGHT:.1f}"]), class_="front"),
        *(
            _error_bar(point, x.at(point.n_bytes), y.at(point.low), y.at(point.high))
            for point in points
        ),
        *_named_points(points, x, y),
    ]
    return chart(
        "Quality against bytes",
        f"Variants: {len(points)}; on the front, by rising bytes: {names}. "
        "The table below has all numbers.",
        _HEIGHT,
        x_axis(x, _TOP, _BOTTOM, "bytes of coded weights", lambda value: f"{value:,.0f}"),
        y_axis(y, _LEFT, _RIGHT, "NDCG@10", lambda value: f"{value:.3g}"),
        *drawn,
    )


def _error_bar(point: Point, x: float, low: float, high: float) -> Markup:
    class_ = f"whisker {series_class(point.series)}"
    return element(
        "g",
        line(x, low, x, high, class_),
        line(x - 4, low, x + 4, low, class_),
        line(x - 4, high, x + 4, high, class_),
    )


def _named_points(points: Sequence[Point], x: Scale, y: Scale) -> list[Markup]:
    """Draw marks with their names beside them, where no other name or bar is if possible."""
    at = [(x.at(point.n_bytes), y.at(point.value)) for point in points]
    taken = [(px - 8, py - 8, px + 8, py + 8) for px, py in at]
    taken += [
        (px - 4, y.at(point.high), px + 4, y.at(point.low))
        for point, (px, _) in zip(points, at, strict=True)
    ]
    drawn = []
    for point, (px, py) in zip(points, at, strict=True):
        width = _CHARACTER * len(point.name)
        sides = [(px + 11, "start"), (px - 11, "end")]
        places = [(lx, py + dy, anchor) for dy in _OFFSETS for lx, anchor in sides]
        boxes = [
            (
                lx - (width if anchor == "end" else 0),
                ly - 11,
                lx + (width if anchor == "start" else 0),
                ly + 4,
            )
            for lx, ly, anchor in places
        ]
        free = [number for number, box in enumerate(boxes) if _is_free(box, taken)]
        chosen = free[0] if free else 0
        taken.append(boxes[chosen])
        lx, ly, anchor = places[chosen]
        tip = (
            f"{point.name}: {point.n_bytes:,.0f} bytes, NDCG@10 {point.value:.4f} "
            f"({point.low:.4f} to {point.high:.4f})"
        )
        name = label(lx, ly, clipped(point.name, 40), anchor=anchor, class_="name halo")
        drawn.append(element("g", marker(point.series, px, py, tip), name))
    return drawn


def _is_free(box: _Box, taken: Sequence[_Box]) -> bool:
    left, top, right, bottom = box
    if left < 0 or right > WIDTH:
        return False
    return all(
        right < other[0] or other[2] < left or bottom < other[1] or other[3] < top
        for other in taken
    )
