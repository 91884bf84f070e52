# SPDX-License-Identifier: Apache-2.0
"""Means over seeds of what ``codebook`` measured, and which of them nothing smaller beats."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Row", "best_within", "front", "groups", "smallest_reaching", "summarise"]

METRICS = ("recall@10", "ndcg@10", "recall@20", "ndcg@20", "recall@50", "ndcg@50")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One method at one width of its rows.

    Attributes:
        method: Its name.
        bits: Of a code; 32 is float32.
        n_rows: Mean over seeds, as are the others.
        n_bytes: Of codes, scales, row numbers and weights.
        values: By metric, shares from 0 to 1.
        spreads: Standard deviation over seeds by metric; 0 with one seed.
        seeds: How many.
        epochs: Of training; 0 where there was none.
        seconds: Of training.
        largest: Share of all users that the row with most users has.
    """

    method: str
    bits: int
    n_rows: float
    n_bytes: float
    values: Mapping[str, float]
    spreads: Mapping[str, float]
    seeds: int
    epochs: float
    seconds: float
    largest: float


def groups(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Return data sets and suites that were measured, in order of appearance."""
    return list(dict.fromkeys((record["dataset"], record["suite"]) for record in records))


def summarise(records: Sequence[Mapping[str, Any]], group: tuple[str, str]) -> list[Row]:
    """Return what was measured of one group, in order of appearance.

    Args:
        records: Of a result file.
        group: Data set and suite.
    """
    found: dict[tuple[str, int], list[Mapping[str, Any]]] = {}
    for record in records:
        if (record["dataset"], record["suite"]) == group:
            found.setdefault((record["method"], record["row_bits"]), []).append(record)
    return [_row(method, bits, own) for (method, bits), own in found.items()]


def front(rows: Sequence[Row], metric: str) -> list[Row]:
    """Return rows that no other of at most as many bytes beats, smallest first.

    Args:
        rows: Of one group.
        metric: What counts.
    """
    kept: list[Row] = []
    for row in sorted(rows, key=lambda row: (row.n_bytes, -row.values[metric])):
        if not kept or row.values[metric] > kept[-1].values[metric]:
            kept.append(row)
    return kept


def best_within(rows: Sequence[Row], n_bytes: float, metric: str) -> Row | None:
    """Return the best row within a budget, None where nothing fits.

    Args:
        rows: Of one group.
        n_bytes: The budget.
        metric: What counts.
    """
    fitting = [row for row in rows if row.n_bytes <= n_bytes]
    return max(fitting, key=lambda row: row.values[metric], default=None)


def smallest_reaching(rows: Sequence[Row], value: float, metric: str) -> Row | None:
    """Return the row of fewest bytes that reaches a value, None where none does.

    Args:
        rows: Of one group.
        value: What to reach.
        metric: What counts.
    """
    reaching = [row for row in rows if row.values[metric] >= value]
    return min(reaching, key=lambda row: row.n_bytes, default=None)


def _row(method: str, bits: int, records: Sequence[Mapping[str, Any]]) -> Row:
    def mean(name: str) -> float:
        return statistics.fmean(record[name] for record in records)

    return Row(
        method=method,
        bits=bits,
        n_rows=mean("rows"),
        n_bytes=mean("bytes"),
        values={name: mean(name) for name in METRICS},
        spreads={name: _spread([record[name] for record in records]) for name in METRICS},
        seeds=len(records),
        epochs=mean("epochs"),
        seconds=mean("seconds"),
        largest=statistics.fmean(_largest(record["sizes"]["users"]) for record in records),
    )


def _spread(values: Sequence[float]) -> float:
    return statistics.stdev(values) if len(values) > 1 else 0.0


def _largest(sizes: Mapping[str, int]) -> float:
    total = sum(int(size) * count for size, count in sizes.items())
    return max(int(size) for size in sizes) / total
