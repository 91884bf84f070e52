# SPDX-License-Identifier: Apache-2.0
"""Shows a comparison: as a table on a terminal, and as Markdown for a pull request."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from pocketrec_device.bench.decision import Verdict
from pocketrec_device.bench_report.markdown import escaped

if TYPE_CHECKING:
    from rich.console import Console

    from pocketrec_device.bench.compare import Comparison, Row

__all__ = ["draw_comparison", "markdown_of", "sentence_of"]

_COLUMNS = ("cell", "number", "base", "head", "change", "interval", "verdict")
_MIB = 2**20
_MARKS = {
    Verdict.REGRESSION: "▲ regression",
    Verdict.IMPROVEMENT: "▼ improvement",
    Verdict.EQUAL: "equal",
    Verdict.UNSURE: "unsure",
}


def sentence_of(comparison: Comparison) -> str:
    """Return what came of it in one sentence, which calls nothing equal that is unsure.

    Args:
        comparison: What was compared.
    """
    counts = ", ".join(f"{len(comparison.of(verdict))} {verdict.value}" for verdict in Verdict)
    found = comparison.verdict.value
    if comparison.verdict is Verdict.EQUAL and comparison.of(Verdict.UNSURE):
        found = "no change found"
    how = "processes took turns" if comparison.is_paired else "one run after the other"
    rule = comparison.rule
    return (
        f"{found}: of {len(comparison.rows)} numbers {counts} "
        f"(threshold {rule.threshold:.0%}, false alarms {rule.alpha:.0%}, {how})"
    )


def draw_comparison(console: Console, comparison: Comparison) -> None:
    """Draw one table per cell, the worst numbers first.

    Args:
        console: Where to.
        comparison: What was compared.
    """
    rows = _ordered(comparison)
    for cell in dict.fromkeys(row.cell for row in rows):
        table = Table(title=Text(cell), box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for column in _COLUMNS[1:]:
            is_text = column in ("number", "verdict")
            table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
        for row in rows:
            if row.cell == cell:
                table.add_row(*map(Text, _cells(row)[1:]))
        console.print(table)
    for note in comparison.notes:
        console.print(f"note: {note}", markup=False)
    console.print(sentence_of(comparison), markup=False)


def markdown_of(comparison: Comparison) -> str:
    """Return a comment for a pull request: a sentence, what changed, and all else folded away.

    Args:
        comparison: What was compared.
    """
    changed = [
        row
        for row in _ordered(comparison)
        if row.change.verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT)
    ]
    lines = ["### Benchmark", "", sentence_of(comparison), ""]
    if changed:
        lines += [*_table(changed), ""]
    lines += [f"* {escaped(note)}" for note in comparison.notes]
    lines += ["", "<details><summary>All numbers</summary>", "", *_table(_ordered(comparison))]
    return "\n".join([*lines, "", "</details>", ""])


def _ordered(comparison: Comparison) -> list[Row]:
    order = list(Verdict)
    return sorted(comparison.rows, key=lambda row: order.index(row.change.verdict))


def _table(rows: list[Row]) -> list[str]:
    rules = ("---", "---", "---:", "---:", "---:", "---:", "---")
    shown = [map(escaped, _cells(row)) for row in rows]
    return [f"| {' | '.join(cells)} |" for cells in (_COLUMNS, rules, *shown)]


def _cells(row: Row) -> tuple[str, ...]:
    change = row.change
    interval = (
        "–" if change.low == change.high else f"{change.low - 1:+.1%} to {change.high - 1:+.1%}"
    )
    return (
        row.cell,
        row.metric.replace("_", " "),
        _number(change.base, row.unit),
        _number(change.head, row.unit),
        f"{change.ratio - 1:+.1%}" if math.isfinite(change.ratio) else "from 0",
        interval,
        _MARKS[change.verdict],
    )


def _number(value: float, unit: str) -> str:
    if unit == "bytes":
        return f"{value:,.0f} B" if value < _MIB else f"{value / _MIB:.2f} MiB"
    return f"{value:.4f}" if not unit else f"{value:.1f} {'μs' if unit == 'us' else unit}"
