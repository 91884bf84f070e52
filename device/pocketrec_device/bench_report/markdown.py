# SPDX-License-Identifier: Apache-2.0
"""Puts the tables of a report together as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

from pocketrec_device.bench_report import bench_tables, run_tables

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Content
    from pocketrec_device.bench_report.tables import Table

__all__ = ["escaped", "markdown_page"]

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>|#~!&])")


def markdown_page(content: Content) -> str:
    """Return the report's tables; what a file holds is text in them, never markup.

    Args:
        content: What they show.
    """
    bundle = content.results[0]["bundle"]
    parts = [f"# {escaped(bundle['model_name'])} {escaped(bundle['version'])}: benchmark"]
    for heading, tables in _sections(content):
        shown = [_table(table) for table in tables if table is not None]
        if shown:
            parts += [f"## {heading}", *shown]
    return "\n\n".join(parts) + "\n"


def _sections(content: Content) -> Iterable[tuple[str, list[Table | None]]]:
    yield "Summary", [bench_tables.summary_table(content)]
    latency = [
        bench_tables.latency_table(content.of_operation(scenario, operation), operation, scenario)
        for scenario, operation in content.operations
    ]
    yield "Latency", list(latency)
    yield "Quality and bytes", [bench_tables.quality_table(content)]
    yield "Where the time goes", list(bench_tables.operators_tables(content))
    yield (
        "Memory and start",
        [
            bench_tables.memory_table(content),
            bench_tables.start_table(content),
        ],
    )
    yield "Layers", list(bench_tables.layers_tables(content))
    yield (
        "Environment and validity",
        [
            run_tables.flags_table(content),
            run_tables.skipped_table(content),
            run_tables.runs_table(content),
            run_tables.environment_table(content),
        ],
    )


def _table(table: Table) -> str:
    heads = [escaped(column.name) for column in table.columns]
    rules = ["---:" if column.is_number else "---" for column in table.columns]
    rows = [[escaped(cell) for cell in row] for row in table.rows]
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, rules, *rows)]
    note = f"\n\n{escaped(table.note)}" if table.note else ""
    return f"### {escaped(table.title)}\n\n" + "\n".join(lines) + note


def escaped(value: object) -> str:
    """Return a value as text of one line that Markdown takes for nothing else."""
    return _SPECIAL.sub(r"\\\1", " ".join(str(value).split()))
