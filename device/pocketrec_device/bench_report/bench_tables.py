# SPDX-License-Identifier: Apache-2.0
"""Tables of what was measured: sizes and quality, times, memory, operators, layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pocketrec_device.bench.cells import PEER
from pocketrec_device.bench_report.tables import Column, Table, bytes_text, time_text

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Cell, Content

__all__ = [
    "distinct_models",
    "latency_table",
    "layers_tables",
    "memory_table",
    "model_name",
    "operators_tables",
    "profile_name",
    "quality_table",
    "start_table",
    "summary_table",
]

_SUMMARY_OPERATIONS = ("observe_rerank", "user")
_PERCENTILES = ("p50", "p90", "p95", "p99", "min", "max", "mean", "std", "n")
_MIB = 2**20


def summary_table(content: Content) -> Table:
    """Return one row per cell: what it costs and what it is worth."""
    columns = (
        Column("cell", is_number=False),
        *(Column(name) for name in ("bits", "coded bytes", "NDCG@10", "same top 10")),
        *(Column(name) for name in ("end to end p50 μs", "p95 μs", "added MiB")),
        Column("valid", is_number=False),
    )
    rows = []
    for cell in content.cells:
        record, quality = cell.record, cell.record["quality"]
        latency = record["latency_us"]
        operation = next((name for name in _SUMMARY_OPERATIONS if name in latency), None)
        times = ["–", "–"]
        if operation is not None:
            times = [time_text(latency[operation][key]) for key in ("p50", "p95")]
        rows.append(
            (
                cell.name,
                *_weights(record),
                "–" if quality is None else f"{quality['ndcg@10']:.4f}",
                "–" if quality is None else f"{quality['top10_overlap']:.1%}",
                *times,
                f"{record['delta_rss_bytes'] / _MIB:.1f}",
                "yes" if cell.is_valid else "doubtful",
            )
        )
    return Table(
        title="All cells",
        columns=columns,
        rows=tuple(rows),
        note="End to end: one event taken in and the candidates ranked; in the scenario offline, "
        "a whole user. Memory is what a fresh process takes above its idle state.",
    )


def latency_table(cells: Sequence[Cell], operation: str, scenario: str) -> Table:
    """Return the summaries of one operation."""
    columns = (Column("cell", is_number=False), *(Column(name) for name in _PERCENTILES))
    rows = []
    for cell in cells:
        summary = cell.record["latency_us"][operation]
        numbers = (time_text(summary[key]) for key in _PERCENTILES[:-1])
        rows.append((cell.name_in_scenario, *numbers, f"{summary['n']:,}"))
    title = f"{operation}, {scenario}, μs per call"
    return Table(title=title, columns=columns, rows=tuple(rows))


def quality_table(content: Content) -> Table | None:
    """Return what rankings are worth, one row per variant and speed; None without cases."""
    names = ("bits", "coded bytes", "HR@10", "NDCG@10", "95 % interval")
    more = ("change", "95 % interval", "same top 10", "flips")
    rows = []
    for cell in distinct_models(content):
        quality = cell.record["quality"]
        rows.append(
            (
                model_name(cell),
                f"{cell.record['effective_bits']:.2f}",
                bytes_text(cell.record["coded_bytes"]),
                f"{quality['hr@10']:.4f}",
                f"{quality['ndcg@10']:.4f}",
                _interval(quality["ndcg@10_interval"], ""),
                f"{quality['ndcg@10_change']:+.4f}",
                _interval(quality["ndcg@10_change_interval"], "+"),
                f"{quality['top10_overlap']:.1%}",
                _flips(quality["rank_flips"]),
            )
        )
    if not rows:
        return None
    columns = (Column("variant", is_number=False), *(Column(name) for name in (*names, *more)))
    return Table(
        title="Quality and bytes",
        columns=columns,
        rows=tuple(rows),
        note="Change, the share of the top 10 that is the same, and the share of pairs of the top "
        "10 whose order flips: against the baseline.",
    )


def memory_table(content: Content) -> Table:
    """Return memory and sizes, one row per cell."""
    names = ("idle MiB", "peak MiB", "added MiB", "weights kept", "wire", "disk", "plan")
    rows = []
    for cell in content.cells:
        record = cell.record
        memory = (record[f"{key}_rss_bytes"] / _MIB for key in ("idle", "peak", "delta"))
        sizes = ("resident_weight_bytes", "wire_bytes", "disk_bytes", "plan_bytes")
        rows.append(
            (
                cell.name,
                *(f"{mib:.1f}" for mib in memory),
                *(bytes_text(record[key]) for key in sizes),
            )
        )
    return Table(
        title="Memory and bytes",
        columns=(Column("cell", is_number=False), *(Column(name) for name in names)),
        rows=tuple(rows),
        note="Weights kept, wire, disk and plan in bytes. Wire is what a device without anything "
        "fetches: bundle and plan.",
    )


def start_table(content: Content) -> Table:
    """Return what starting costs, one row per cell."""
    names = ("import ms", "load ms", "first ranking ms")
    return Table(
        title="Start",
        columns=(Column("cell", is_number=False), *(Column(name) for name in names)),
        rows=tuple(
            (
                cell.name,
                *(f"{cell.record[key]:.1f}" for key in ("import_ms", "load_ms", "first_run_ms")),
            )
            for cell in content.cells
        ),
    )


def operators_tables(content: Content) -> list[Table]:
    """Return the operators of every profiled function, slowest first."""
    return [
        Table(
            title=f"{profile_name(profile)}, {function['function']}",
            columns=(
                Column("operator", is_number=False),
                Column("of", is_number=False),
                *(Column(name) for name in ("μs per call", "share")),
            ),
            rows=tuple(
                (
                    each["operator"],
                    each["node"],
                    f"{each['trimmed_us']:.2f}",
                    f"{each['share']:.1%}",
                )
                for each in sorted(function["operators"], key=lambda each: -each["trimmed_us"])
            ),
            note="Mean over the middle 80 % of calls, with the tracer's own cost.",
        )
        for profile in content.profiles
        for function in profile["functions"]
    ]


def layers_tables(content: Content) -> list[Table]:
    """Return what became of every coded matrix, one table per cell that tells."""
    names = ("layer", "asked for", "kept", "computed", "kernel", "fallback")
    # Scenarios differ in what is called, not in how it is computed.
    cells = {cell.name_in_scenario: cell for cell in reversed(content.cells)}
    return [
        Table(
            title=name,
            columns=tuple(Column(head, is_number=False) for head in names),
            rows=tuple(
                (
                    layer["name"],
                    _widths(layer["requested"]),
                    _widths(layer["stored"]),
                    layer["computed"],
                    layer["kernel"],
                    "yes" if layer["is_fallback"] else "no",
                )
                for layer in cell.record["layers"]
            ),
        )
        for name, cell in reversed(cells.items())
        if cell.record["layers"]
    ]


def distinct_models(content: Content) -> list[Cell]:
    """Return one cell per run, variant and speed that has quality: backends rank alike."""
    found: dict[tuple[str, str, str], Cell] = {}
    for cell in content.cells:
        if cell.record["quality"] is not None:
            key = (cell.run, cell.series, str(cell.record["speed"]))
            found.setdefault(key, cell)
    return list(found.values())


def model_name(cell: Cell) -> str:
    """Return what a variant under a speed preset is called."""
    speed = str(cell.record["speed"])
    name = cell.series if speed in {"", "balanced"} else f"{cell.series}, {speed}"
    return f"{cell.run}: {name}" if cell.run else name


def profile_name(profile: Mapping[str, Any]) -> str:
    """Return what a profile is called."""
    planner = profile["plan"]["planner"]
    return f"{planner} on {profile['backend']} ({profile['options']['compute']})"


def _weights(record: Mapping[str, Any]) -> tuple[str, str]:
    """Return bits and bytes of coded weights; what another runtime does to them is not known."""
    if record["backend"] == PEER:
        return "–", "–"
    return f"{record['effective_bits']:.2f}", bytes_text(record["coded_bytes"])


def _interval(bounds: Sequence[float], sign: str) -> str:
    low, high = bounds
    return f"{low:{sign}.4f} to {high:{sign}.4f}"


def _flips(value: object) -> str:
    return f"{value:.1%}" if isinstance(value, float) else str(value)


def _widths(channels: Mapping[str, int]) -> str:
    return ", ".join(f"{n} × {bits} bit" for bits, n in channels.items())
