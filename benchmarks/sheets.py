# SPDX-License-Identifier: Apache-2.0
"""Tables that a terminal and a page show alike."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

__all__ = ["Sheet"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """One table.

    Attributes:
        title: What it shows.
        columns: Heads; the first ``n_text`` hold words, the others numbers.
        rows: Cells, as they are shown.
        n_text: How many columns hold words.
        note: A sentence below it, if any.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    n_text: int = 2
    note: str = ""

    def draw(self, console: Console) -> None:
        """Draw it on a terminal.

        Args:
            console: Where to.
        """
        table = Table(title=self.title, box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
        for number, column in enumerate(self.columns):
            is_text = number < self.n_text
            table.add_column(column, justify="left" if is_text else "right", no_wrap=True)
        for row in self.rows:
            table.add_row(*row)
        console.print(table)
        if self.note:
            console.print(self.note)

    def markdown(self) -> list[str]:
        """Return it as a section of a page, line by line."""
        rules = ["---" if number < self.n_text else "---:" for number in range(len(self.columns))]
        rows = (self.columns, rules, *self.rows)
        lines = [f"## {self.title}", "", *(_line(row) for row in rows), ""]
        return [*lines, self.note, ""] if self.note else lines


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |".replace("\n", " ")
