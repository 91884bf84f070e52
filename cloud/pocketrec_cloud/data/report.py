# SPDX-License-Identifier: Apache-2.0
"""What reading an interaction file did: every line, event, user and item is accounted for."""

from __future__ import annotations

from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

__all__ = ["ReadReport", "render_report"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """Counts of everything that was read, kept and dropped.

    It always holds that ``n_events_read == n_events + n_events_dropped``, and the same for
    users and items.

    Attributes:
        path: The file, as the caller named it.
        format: How it was read, such as ``"csv"``.
        ordered_by: What puts a user's events in order.
        n_lines: Lines of the file, header and blank ones included; rows for Parquet.
        n_blank_lines: Lines without any content, which are skipped.
        n_users_read: Users named in the file.
        n_items_read: Items named in the file.
        n_events_read: Interactions in the file.
        min_events_per_user: Users with fewer events are dropped.
        n_users_dropped: Users with fewer events than that.
        n_events_dropped: The events of those users.
        n_items_dropped: Items that only those users met.
        n_users: Users kept.
        n_items: Items kept.
        n_events: Events kept.
        n_repeated_events: Events kept whose user had met the item before.
        n_tied_events: Events kept with the time of the event before; the file's order decides.
    """

    path: str
    format: str
    ordered_by: str
    n_lines: int
    n_blank_lines: int
    n_users_read: int
    n_items_read: int
    n_events_read: int
    min_events_per_user: int
    n_users_dropped: int
    n_events_dropped: int
    n_items_dropped: int
    n_users: int
    n_items: int
    n_events: int
    n_repeated_events: int
    n_tied_events: int


def render_report(report: ReadReport) -> Table:
    """Return a report as a table for people.

    Args:
        report: What reading did.
    """
    table = Table(title=Text(f"{report.path} ({report.format})"), title_justify="left")
    for column, justify in (("", "left"), ("users", "right"), ("items", "right")):
        table.add_column(column, justify=justify)  # type: ignore[arg-type]  # a literal above
    table.add_column("events", justify="right")

    def add(label: str, *counts: int | None, end_section: bool = False) -> None:
        cells = ("" if count is None else f"{count:,}" for count in counts)
        table.add_row(label, *cells, end_section=end_section)

    add("read", report.n_users_read, report.n_items_read, report.n_events_read)
    add(
        f"dropped: users with fewer than {report.min_events_per_user} events",
        report.n_users_dropped,
        report.n_items_dropped,
        report.n_events_dropped,
        end_section=True,
    )
    add("kept", report.n_users, report.n_items, report.n_events)
    add("  of these, repeated visits", None, None, report.n_repeated_events)
    add("  of these, ties in time, in file order", None, None, report.n_tied_events)
    table.caption = (
        f"{report.n_lines:,} lines, {report.n_blank_lines:,} blank · ordered by {report.ordered_by}"
    )
    return table
