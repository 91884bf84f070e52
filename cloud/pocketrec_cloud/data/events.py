# SPDX-License-Identifier: Apache-2.0
"""Single interactions as parallel arrays, and how they become sequences."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.report import ReadReport

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["EventTable", "Source", "group_events", "sort_ids"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """Where events came from.

    Attributes:
        path: The file, as the caller named it.
        format: How it was read.
        n_lines: Lines of the file; rows for Parquet.
        n_blank_lines: Lines without any content.
    """

    path: str
    format: str
    n_lines: int
    n_blank_lines: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EventTable:
    """Interactions in the order of their file.

    Attributes:
        user_ids: External ids of users, in order of first appearance.
        item_ids: External ids of items, in order of first appearance.
        users: (n_events,) int64, positions in ``user_ids``.
        items: (n_events,) int64, positions in ``item_ids``.
        times: (n_events,) int64 or float64, any unit; None where the file's order is the order.
    """

    user_ids: tuple[str, ...]
    item_ids: tuple[str, ...]
    users: NDArray[np.int64]
    items: NDArray[np.int64]
    times: NDArray[np.int64] | NDArray[np.float64] | None = None


def group_events(
    events: EventTable, source: Source, *, min_events_per_user: int
) -> tuple[SequenceDataset, ReadReport]:
    """Put every user's events in order, drop short histories, and count both.

    The sort is stable: events of one user at one time keep their order in the file, and so do
    users. Item indices follow the sorted ids, so they do not depend on the file's order.

    Args:
        events: What was read.
        source: Where from, for the report.
        min_events_per_user: Users with fewer events are dropped.

    Returns:
        The kept events, and the counts.

    Raises:
        ConfigError: ``min_events_per_user`` is below 1.
        DataError: No user has that many events.
    """
    if min_events_per_user < 1:
        raise ConfigError(f"expected min_events_per_user of at least 1, got {min_events_per_user}")
    lengths = np.bincount(events.users, minlength=len(events.user_ids))
    is_kept_user = lengths >= min_events_per_user
    if not is_kept_user.any():
        raise DataError(
            f"expected a user with at least {min_events_per_user} events, the longest history"
            f" has {int(lengths.max(initial=0))}: give more data, or lower min_events_per_user",
            path=source.path,
        )
    order = _order(events)
    order = order[is_kept_user[events.users[order]]]
    item_ids, items = _index_items(events, order)
    dataset = SequenceDataset(
        item_ids=item_ids,
        user_ids=tuple(np.array(events.user_ids, dtype=object)[is_kept_user]),
        offsets=np.concatenate([[0], np.cumsum(lengths[is_kept_user])]).astype(np.int64),
        items=items,
    )
    return dataset, _report(events, source, dataset, order, min_events_per_user)


def sort_ids(ids: tuple[str, ...]) -> list[int]:
    """Return positions that sort ids: by value if all are whole numbers, else as text.

    Args:
        ids: External ids, each once.
    """
    are_numbers = all(i.isascii() and i.isdigit() and (i == "0" or i[0] != "0") for i in ids)
    if are_numbers:
        return sorted(range(len(ids)), key=lambda position: int(ids[position]))
    return sorted(range(len(ids)), key=lambda position: ids[position])


def _order(events: EventTable) -> NDArray[np.intp]:
    if events.times is None:
        return np.argsort(events.users, kind="stable")
    return np.lexsort((events.times, events.users))  # stable; the last key counts most


def _index_items(
    events: EventTable, order: NDArray[np.intp]
) -> tuple[tuple[str, ...], NDArray[np.int32]]:
    used = np.unique(events.items[order])
    names = tuple(events.item_ids[position] for position in used)
    ranking = sort_ids(names)
    index_of_position = np.zeros(len(events.item_ids), dtype=np.int32)
    index_of_position[used[ranking]] = np.arange(1, len(names) + 1, dtype=np.int32)
    return tuple(names[rank] for rank in ranking), index_of_position[events.items[order]]


def _report(
    events: EventTable,
    source: Source,
    dataset: SequenceDataset,
    order: NDArray[np.intp],
    min_events_per_user: int,
) -> ReadReport:
    users, items = events.users[order], events.items[order]
    n_pairs = np.unique(users * len(events.item_ids) + items).size
    n_tied = 0
    if events.times is not None:
        times = events.times[order]
        n_tied = int(np.count_nonzero((users[1:] == users[:-1]) & (times[1:] == times[:-1])))
    return ReadReport(
        path=source.path,
        format=source.format,
        ordered_by="file order" if events.times is None else "time, ties in file order",
        n_lines=source.n_lines,
        n_blank_lines=source.n_blank_lines,
        n_users_read=len(events.user_ids),
        n_items_read=len(events.item_ids),
        n_events_read=events.users.size,
        min_events_per_user=min_events_per_user,
        n_users_dropped=len(events.user_ids) - dataset.n_users,
        n_events_dropped=events.users.size - dataset.n_events,
        n_items_dropped=len(events.item_ids) - dataset.n_items,
        n_users=dataset.n_users,
        n_items=dataset.n_items,
        n_events=dataset.n_events,
        n_repeated_events=dataset.n_events - n_pairs,
        n_tied_events=n_tied,
    )
