# SPDX-License-Identifier: Apache-2.0
"""A table as data, which both the page and Markdown show."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Column", "Table", "bytes_text", "time_text"]


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        name: Its head.
        is_number: Whether its cells line up at the right.
    """

    name: str
    is_number: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table.

    Args:
        title: What it shows.
        columns: Heads; the first one names the row.
        rows: Cells, as text.
        note: What a reader must know, if anything.
    """

    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def time_text(us: float) -> str:
    """Return microseconds as people read them: three digits that mean something."""
    if us < 100:
        return f"{us:.3g}"
    return f"{us:,.0f}"


def bytes_text(n_bytes: float | None) -> str:
    """Return bytes, or a dash where there are none to tell."""
    return "–" if n_bytes is None else f"{n_bytes:,.0f}"
