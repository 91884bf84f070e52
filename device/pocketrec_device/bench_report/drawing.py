# SPDX-License-Identifier: Apache-2.0
"""What all charts have in common: frame, axes, series, and words for those who do not see.

Colours come from the page's style sheet by class, so one drawing serves light and dark. A
series is told by colour and shape, and named in words beside it: never by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from pocketrec_device.bench_report.markup import Markup, element, join

if TYPE_CHECKING:
    from pocketrec_device.bench_report.scales import Scale

__all__ = [
    "N_SERIES",
    "WIDTH",
    "chart",
    "clipped",
    "label",
    "line",
    "marker",
    "series_class",
    "x_axis",
    "y_axis",
]

WIDTH = 960.0
"""Of every chart, in its own units; the page scales it."""

N_SERIES = 6
"""Colours and shapes there are; further series take them again."""

_SHAPES = (
    "M-5,0 A5,5 0 1,0 5,0 A5,5 0 1,0 -5,0 Z",  # circle
    "M-4.6,-4.6 H4.6 V4.6 H-4.6 Z",  # square
    "M0,-6 L5.8,4.6 H-5.8 Z",  # triangle
    "M0,-6.4 L6.4,0 L0,6.4 L-6.4,0 Z",  # diamond
    "M-1.9,-5.6 H1.9 V-1.9 H5.6 V1.9 H1.9 V5.6 H-1.9 V1.9 H-5.6 V-1.9 H-1.9 Z",  # plus
    "M0,6 L5.8,-4.6 H-5.8 Z",  # triangle, point down
)


def chart(title: str, description: str, height: float, *parts: object) -> Markup:
    """Return a picture with a name and a description for those who do not see it."""
    return element(
        "svg",
        element("title", title),
        element("desc", description),
        *parts,
        viewBox=f"0 0 {WIDTH:.0f} {height:.0f}",
        role="img",
        aria_label=f"{title}. {description}",
        class_="chart",
    )


def series_class(number: int) -> str:
    """Return the class that gives a series its colour."""
    return f"s{number % N_SERIES}"


def marker(number: int, x: float, y: float, tip: str = "") -> Markup:
    """Return the mark of a series at a place."""
    return element(
        "path",
        *([element("title", tip)] if tip else []),
        d=_SHAPES[number % N_SERIES],
        class_=f"mark {series_class(number)}",
        transform=f"translate({x:.1f},{y:.1f})",
    )


def label(
    x: float, y: float, words: object, *, anchor: str = "start", class_: str = "", tip: str = ""
) -> Markup:
    """Return words at a place."""
    title = [element("title", tip)] if tip else []
    return element("text", *title, words, x=x, y=y, text_anchor=anchor, class_=class_ or None)


def line(x1: float, y1: float, x2: float, y2: float, class_: str) -> Markup:
    """Return a straight line."""
    return element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def clipped(words: str, n_characters: int) -> str:
    """Return words that fit; what is left out in the middle is shown by an ellipsis."""
    if len(words) <= n_characters:
        return words
    kept = n_characters - 1
    return f"{words[: kept - kept // 2]}…{words[len(words) - kept // 2 :]}"


def x_axis(
    scale: Scale, top: float, bottom: float, name: str, write: Callable[[float], str]
) -> Markup:
    """Return vertical grid lines, their numbers below, and the name of the axis."""
    ticks = _spread(scale, 56)
    return join(
        [
            *(line(scale.at(tick), top, scale.at(tick), bottom, "grid") for tick in scale.ticks),
            *(
                label(scale.at(tick), bottom + 18, write(tick), anchor="middle", class_="tick")
                for tick in ticks
            ),
            label((scale.start + scale.end) / 2, bottom + 38, name, anchor="middle", class_="axis"),
        ]
    )


def y_axis(
    scale: Scale, left: float, right: float, name: str, write: Callable[[float], str]
) -> Markup:
    """Return horizontal grid lines, their numbers at the left, and the name of the axis."""
    return join(
        [
            *(line(left, scale.at(tick), right, scale.at(tick), "grid") for tick in scale.ticks),
            *(
                label(left - 8, scale.at(tick) + 4, write(tick), anchor="end", class_="tick")
                for tick in _spread(scale, 24)
            ),
            label(left, min(scale.start, scale.end) - 12, name, anchor="middle", class_="axis"),
        ]
    )


def _spread(scale: Scale, room: float) -> Sequence[float]:
    """Return ticks whose numbers do not run into each other, the first and others after it."""
    kept: list[float] = []
    for tick in scale.ticks:
        if not kept or abs(scale.at(tick) - scale.at(kept[-1])) >= room:
            kept.append(tick)
    return kept
