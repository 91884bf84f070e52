# SPDX-License-Identifier: Apache-2.0
"""Compares two results, cell by cell and number by number; ``decision`` has the rule.

What cannot be compared is refused: another machine, other candidates, no cell in common. In
two runs that did not take turns, the machine may have changed its speed between them; the
yardstick tells, and then no time is called better or worse. Import, load and first ranking
are never judged there: each is one long reading per process, which doubles when others want
the core, while medians of short calls stay.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from pocketrec.errors import ConfigError
from pocketrec_device.bench.decision import Change, Rule, Verdict, judge, judge_counts

if TYPE_CHECKING:
    from pocketrec_device.bench.result import BenchResult, CellRecord, ProcessRecord

__all__ = ["Comparison", "Row", "compare_results"]

_START = ("import_ms", "load_ms", "first_run_ms")
_MEMORY = ("peak_rss_bytes",)
_SAME_CONFIG = ("n_candidates", "seed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One number of one cell on both sides.

    Args:
        cell: Name of the cell.
        metric: ``p50 <operation>``, or the key of the result file.
        unit: ``us``, ``ms``, ``bytes`` or empty.
        change: Between the sides.
    """

    cell: str
    metric: str
    unit: str
    change: Change

    def to_json(self) -> dict[str, Any]:
        """Return it for programs; a change from 0 has no ratio: null."""
        change = self.change
        ratios = {"ratio": change.ratio, "low": change.low, "high": change.high}
        return {
            "cell": self.cell,
            "metric": self.metric,
            "unit": self.unit,
            "base": change.base,
            "head": change.head,
            **{key: ratio if math.isfinite(ratio) else None for key, ratio in ratios.items()},
            "verdict": change.verdict.value,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """What came of two results.

    Args:
        rows: Every number that both have.
        notes: What a reader should know: cells that only one has, other versions, doubts.
        is_paired: Whether their processes took turns.
        rule: What counted as a change.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    is_paired: bool
    rule: Rule

    def of(self, verdict: Verdict) -> tuple[Row, ...]:
        """Return the rows of a verdict."""
        return tuple(row for row in self.rows if row.change.verdict is verdict)

    @property
    def verdict(self) -> Verdict:
        """What its rows come to: ``EQUAL`` where no number is known to have changed.

        Numbers that are unsure do not count; ``of`` tells how many there are.
        """
        for verdict in (Verdict.REGRESSION, Verdict.IMPROVEMENT):
            if self.of(verdict):
                return verdict
        return Verdict.EQUAL


def compare_results(
    base: BenchResult, head: BenchResult, rule: Rule, *, is_other_machine_allowed: bool = False
) -> Comparison:
    """Return how ``head`` differs from ``base``.

    Args:
        base: What was.
        head: What is.
        rule: What counts as a change.
        is_other_machine_allowed: Whether to compare bytes and quality all the same when
            they are of different machines; times and memory are left out then.

    Raises:
        ConfigError: They cannot be compared.
    """
    is_same_machine = base.machine == head.machine
    if not is_same_machine and not is_other_machine_allowed:
        raise ConfigError(
            f"expected two results of one machine, found {_other_facts(base, head)}: times would "
            "not compare; --other-machine compares bytes and quality only"
        )
    common = [name for name in base.cells if name in head.cells]
    _check(base, head, common)
    is_paired = bool(base.pair_id) and base.pair_id == head.pair_id
    n_judged = sum(map(_n_timed, (base.cells[name] for name in common)))
    rows: list[Row] = []
    for name in common:
        first, second = base.cells[name], head.cells[name]
        if is_same_machine:
            rows += _timed(first, second, rule, n_judged=n_judged, is_paired=is_paired)
        rows += _counted(first, second, rule)
    notes = [*_notes(base, head, rule)]
    if is_same_machine and not is_paired:
        drift = _yardstick(head, common) / _yardstick(base, common)
        if not 1 / (1 + rule.threshold) <= drift <= 1 + rule.threshold:
            rows = [_doubted(row) for row in rows]
            notes.append(
                f"the machine itself took {drift:.2f} times as long for the same work in the "
                "second run: no time is judged; let both take turns with --interleave"
            )
    return Comparison(rows=tuple(rows), notes=tuple(notes), is_paired=is_paired, rule=rule)


def _other_facts(base: BenchResult, head: BenchResult) -> str:
    facts = [
        f"{key} {first!r} and {second!r}"
        for key in dict.fromkeys([*base.machine, *head.machine])
        if (first := base.machine.get(key)) != (second := head.machine.get(key))
    ]
    return ", ".join(facts)


def _check(base: BenchResult, head: BenchResult, common: list[str]) -> None:
    for key in _SAME_CONFIG:
        if base.config.get(key) != head.config.get(key):
            raise ConfigError(
                f"expected the same {key}, found {base.config.get(key)} and {head.config.get(key)}"
            )
    if not common:
        raise ConfigError(
            f"expected cells of the same names, found {list(base.cells)} and {list(head.cells)}"
        )


def _timed(
    base: CellRecord, head: CellRecord, rule: Rule, *, n_judged: int, is_paired: bool
) -> Iterator[Row]:
    """Compare what varies from process to process."""
    firsts, seconds = base.processes, head.processes
    if is_paired:
        turns = {one.turn for one in firsts} & {one.turn for one in seconds}
        firsts, seconds = (
            tuple(sorted((p for p in side if p.turn in turns), key=lambda p: p.turn))
            for side in (firsts, seconds)
        )
    for metric, unit, first, second in _series(firsts, seconds):
        change = judge(first, second, rule, n_judged=n_judged, is_paired=is_paired)
        row = Row(cell=base.cell, metric=metric, unit=unit, change=change)
        yield row if is_paired or metric not in _START else _doubted(row)


def _series(
    firsts: tuple[ProcessRecord, ...], seconds: tuple[ProcessRecord, ...]
) -> Iterator[tuple[str, str, list[float], list[float]]]:
    """Yield the values of both sides, number by number."""
    if not firsts or not seconds:
        return
    for name in firsts[0].p50_us:
        if name in seconds[0].p50_us:
            both = ([one.p50_us[name] for one in side] for side in (firsts, seconds))
            yield (f"p50 {name}", "us", *both)  # type: ignore[misc]  # two of them
    for key in (*_START, *_MEMORY):
        first, second = ([one.once[key] for one in side] for side in (firsts, seconds))
        if min(*first, *second) > 0:
            yield key, "bytes" if key in _MEMORY else "ms", first, second


def _n_timed(record: CellRecord) -> int:
    return len(record.operations) + len(_START) + len(_MEMORY)


def _counted(base: CellRecord, head: CellRecord, rule: Rule) -> Iterator[Row]:
    """Compare what does not vary: bytes, and quality, of which more is better."""
    for key, value in base.n_bytes.items():
        if key in head.n_bytes:
            change = judge_counts(value, head.n_bytes[key], rule)
            yield Row(cell=base.cell, metric=key, unit="bytes", change=change)
    for key, quality in base.quality.items():
        if key in head.quality:
            change = judge_counts(head.quality[key], quality, rule)
            ratio = 1 / change.ratio if change.ratio else math.inf
            shown = replace(
                change, base=quality, head=head.quality[key], ratio=ratio, low=ratio, high=ratio
            )
            yield Row(cell=base.cell, metric=key, unit="", change=shown)


def _notes(base: BenchResult, head: BenchResult, rule: Rule) -> Iterator[str]:
    for name in sorted(base.cells.keys() ^ head.cells.keys()):
        yield f"only one result has {name}"
    for which, side in (("first", base), ("second", head)):
        doubtful = [cell.flags for cell in side.cells.values() if cell.flags]
        if doubtful:
            flags = ", ".join(sorted({flag for flags in doubtful for flag in flags}))
            yield (
                f"{len(doubtful)} of {len(side.cells)} cells of the {which} result are doubtful: "
                f"{flags}"
            )
    for library in sorted({*base.versions, *head.versions}):
        first, second = (side.versions.get(library, "none") for side in (base, head))
        if first != second:
            yield f"{library}: {first} in the first result, {second} in the second"
    fewest = min(len(cell.processes) for side in (base, head) for cell in side.cells.values())
    if fewest < rule.min_processes:
        yield (
            f"{fewest} processes of a cell: fewer than {rule.min_processes} decide nothing; "
            "measure with --repeat 10"
        )


def _yardstick(result: BenchResult, cells: list[str]) -> float:
    return median(one.yardstick_us for name in cells for one in result.cells[name].processes)


def _doubted(row: Row) -> Row:
    is_time = row.unit in ("us", "ms")
    return replace(row, change=replace(row.change, verdict=Verdict.UNSURE)) if is_time else row
