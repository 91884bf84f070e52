# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import io
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from pocketrec.errors import DataError
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.readers import read_interactions
from pocketrec_cloud.data.report import render_report

ids = st.text(st.characters(codec="utf-8", exclude_characters="\x00\r"), min_size=1, max_size=4)
events = st.lists(st.tuples(st.integers(0, 4), st.integers(0, 6), st.integers(-3, 3)), max_size=40)


def quoted(text: str) -> str:
    """Return a text as a quoted CSV field."""
    return '"' + text.replace('"', '""') + '"'


def histories(dataset: SequenceDataset) -> dict[str, list[str]]:
    """Return every user's history as external ids."""
    return {
        name: [dataset.item_ids[index - 1] for index in dataset.sequence(user)]
        for user, name in enumerate(dataset.user_ids)
    }


@given(
    events=events,
    names=st.lists(ids, min_size=7, max_size=7, unique=True),
    minimum=st.integers(1, 4),
)
def test_reading_keeps_order_and_ids_and_counts_the_rest(
    events: list[tuple[int, int, int]],
    names: list[str],
    minimum: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """Python's own stable sort gives the same histories, and every event is accounted for."""
    path = tmp_path_factory.mktemp("events") / "e.csv"
    rows = [f"{quoted(names[u])},{quoted(names[i])},{t}\n" for u, i, t in events]
    path.write_text("user_id,item_id,timestamp\n" + "".join(rows), encoding="utf-8", newline="")
    lengths = Counter(user for user, _, _ in events)
    kept = [event for event in events if lengths[event[0]] >= minimum]
    expected: dict[str, list[str]] = {names[user]: [] for user, _, _ in kept}
    for user, item, _ in sorted(kept, key=lambda event: event[2]):
        expected[names[user]].append(names[item])
    if not kept:
        with pytest.raises(DataError):
            read_interactions(path, min_events_per_user=minimum)
        return

    dataset, report = read_interactions(path, min_events_per_user=minimum)

    assert histories(dataset) == expected
    assert set(dataset.item_ids) == {names[item] for _, item, _ in kept}
    assert report.n_events_read == len(events) == report.n_events + report.n_events_dropped
    assert report.n_users_read == len(lengths) == report.n_users + report.n_users_dropped
    assert report.n_items_read == len({e[1] for e in events})
    assert report.n_items_read == report.n_items + report.n_items_dropped
    assert report.n_repeated_events == len(kept) - len({event[:2] for event in kept})
    assert report.n_tied_events == len(kept) - len({(u, t) for u, _, t in kept})


class TestReport:
    def test_every_filter_is_counted(self, tmp_path: Path) -> None:
        """A small file, counted by hand."""
        path = tmp_path / "s.txt"
        path.write_text("u a b a\n\nv c\nw\n", encoding="utf-8")

        _, report = read_interactions(path)

        assert asdict(report) == {
            "path": str(path),
            "format": "sequences",
            "ordered_by": "file order",
            "n_lines": 4,
            "n_blank_lines": 1,
            "n_users_read": 3,
            "n_items_read": 3,
            "n_events_read": 4,
            "min_events_per_user": 3,
            "n_users_dropped": 2,
            "n_events_dropped": 1,
            "n_items_dropped": 1,
            "n_users": 1,
            "n_items": 2,
            "n_events": 3,
            "n_repeated_events": 1,
            "n_tied_events": 0,
        }

    def test_blank_lines_of_a_table_are_counted(self, tmp_path: Path) -> None:
        """Empty lines between records are skipped and counted."""
        path = tmp_path / "ratings.dat"
        path.write_text("u::a::5::1\n\nu::b::5::2\n\nu::c::5::3\n", encoding="utf-8")

        _, report = read_interactions(path)

        assert (report.n_lines, report.n_blank_lines, report.n_events) == (5, 2, 3)

    def test_it_is_drawn_as_a_table(self, tmp_path: Path) -> None:
        """The table names the file, the filters and the order."""
        path = tmp_path / "[red]s.txt"
        path.write_text("u a b a\nv c\n", encoding="utf-8")
        console = Console(file=io.StringIO(), width=200)

        console.print(render_report(read_interactions(path)[1]))

        text = console.file.getvalue()  # type: ignore[attr-defined]
        assert "[red]s.txt" in "".join(text.split())  # the title wraps
        assert "dropped: users with fewer than 3 events" in text
        assert "ordered by file order" in text
