# SPDX-License-Identifier: Apache-2.0
"""Parts that a report's page is made of: figures, tables, and what folds."""

from __future__ import annotations

from collections.abc import Sequence

from pocketrec_device.bench_report.markup import Markup, element, join
from pocketrec_device.bench_report.tables import Table

__all__ = ["fold", "show_figure", "show_table"]


def fold(heading: str, parts: Sequence[Markup]) -> Markup:
    """Return parts that are shown when their heading is chosen."""
    return element("details", element("summary", heading), *parts)


def show_figure(picture: Markup) -> Markup:
    """Return a chart, which scrolls where it does not fit."""
    # Wider than a phone: a region that scrolls must be reachable by keyboard.
    return element("figure", picture, class_="scroll", tabindex=0, role="group", aria_label="Chart")


def show_table(table: Table) -> Markup:
    """Return a table, which scrolls where it does not fit, and its note."""
    heads = [
        element("th", column.name, scope="col", class_="num" if column.is_number else None)
        for column in table.columns
    ]
    rows = [
        element(
            "tr",
            element("th", row[0], scope="row"),
            *(
                element("td", cell, class_="num" if column.is_number else None)
                for cell, column in zip(row[1:], table.columns[1:], strict=True)
            ),
        )
        for row in table.rows
    ]
    parts = [
        element("caption", table.title),
        element("thead", element("tr", *heads)),
        element("tbody", *rows),
    ]
    note = [element("p", table.note, class_="note")] if table.note else []
    region = element(
        "div",
        element("table", *parts),
        class_="scroll",
        tabindex=0,
        role="region",
        aria_label=table.title,
    )
    return join([region, *note])
