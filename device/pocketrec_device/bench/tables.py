# SPDX-License-Identifier: Apache-2.0
"""Draws a result on a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from pocketrec_device.bench.cells import PEER
from pocketrec_device.bench.samples import PERCENTILES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

__all__ = ["END_TO_END", "draw_result", "labels_of"]

END_TO_END = ("observe_rerank", "user")
"""Operations that stand for a whole answer, the first that a scenario has."""

_PARTS = ("variant", "backend", "speed", "threads", "scenario")


def labels_of(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return what to call each record: its variant, and what else differs between records.

    Args:
        records: Of one result.
    """
    own = [one for one in records if one["backend"] != PEER] or records
    shown = [part for part in _PARTS if part == "variant" or len({one[part] for one in own}) > 1]
    return [", ".join(_part(part, record[part]) for part in shown) for record in records]


def _shown_labels(records: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the same for a table: rows are called as files are, which may look like markup."""
    return [escape(label) for label in labels_of(records)]


def draw_result(console: Console, result: Mapping[str, Any]) -> None:
    """Draw sizes, quality, times, start, memory, doubts and the machine.

    Args:
        console: Where to.
        result: What ``run_bench`` returned.
    """
    _draw_summary(console, result["records"])
    _draw_agreement(console, result["records"], result["baseline"])
    _draw_latency(console, result["records"])
    _draw_start(console, result["records"])
    _draw_doubts(console, result)
    hardware, config = result["environment"]["hardware"], result["config"]
    versions = ", ".join(
        f"{key} {value}" for key, value in result["environment"]["versions"].items()
    )
    console.print(
        f"{config['n_candidates']} candidates, {config['repeat']} processes per row, in turns; "
        f"{hardware['cpu']}, {hardware['cores']} cores, {hardware['system']} "
        f"{hardware['machine']}; {versions}",
        markup=False,
    )


def _draw_summary(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Size and quality", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("variant", no_wrap=True)
    for column in ("effective\nbits", "plan\nbytes", "bundle\nbytes", "HR@10", "NDCG@10"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("95 %\ninterval", no_wrap=True)
    table.add_column("rerank\np50 μs", justify="right")
    for label, record in zip(_shown_labels(records), records, strict=True):
        shown, quality = ["", "", ""], record["quality"]
        if quality is not None:
            low, high = quality["ndcg@10_interval"]
            shown = [f"{quality[key]:.4f}" for key in ("hr@10", "ndcg@10")]
            shown.append(f"{low:.3f}–{high:.3f}")
        table.add_row(
            label,
            "–" if record["backend"] == PEER else f"{record['effective_bits']:.2f}",
            f"{record['plan_bytes']:,}" if record["plan_bytes"] else "–",
            f"{record['bundle_bytes']:,}",
            *shown,
            f"{_end_to_end(record)['p50']:.0f}",
        )
    console.print(table)
    console.print("rerank: one new event taken in, then the candidates ranked")


def _draw_agreement(console: Console, records: Sequence[Mapping[str, Any]], baseline: str) -> None:
    title = f"Bytes, and agreement with {escape(baseline)}"
    table = Table(title=title, box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("variant", no_wrap=True)
    columns = ("wire", "on disk", "weights in\nmemory", "top-10\noverlap", "pairs\nflipped")
    for column in columns:
        table.add_column(column, justify="right", no_wrap=True)
    for label, record in zip(_shown_labels(records), records, strict=True):
        quality, resident = record["quality"], record["resident_weight_bytes"]
        shown = ["", ""]
        if quality is not None:
            shown = [f"{quality[key]:.1%}" for key in ("top10_overlap", "rank_flips")]
        table.add_row(
            label,
            *(f"{record[key]:,}" for key in ("wire_bytes", "disk_bytes")),
            "–" if resident is None else f"{resident:,}",
            *shown,
        )
    console.print(table)


def _draw_latency(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Time, μs per call", box=SIMPLE_HEAD)
    table.add_column("variant")
    table.add_column("operation")
    for column in (*(f"p{p}" for p in PERCENTILES), "mean", "std", "calls"):
        table.add_column(column, justify="right")
    for label, record in zip(_shown_labels(records), records, strict=True):
        for name, summary in record["latency_us"].items():
            cells = [f"{summary[f'p{p}']:.0f}" for p in PERCENTILES]
            cells += [f"{summary['mean']:.0f}", f"{summary['std']:.0f}", f"{summary['n']:,}"]
            table.add_row(label, escape(name.replace("_", " + ")), *cells)
        table.add_section()
    console.print(table)


def _draw_start(console: Console, records: Sequence[Mapping[str, Any]]) -> None:
    table = Table(title="Start and memory", box=SIMPLE_HEAD)
    for column in ("variant", "import ms", "load ms", "first run ms", "peak MiB", "above idle MiB"):
        table.add_column(column, justify="left" if column == "variant" else "right")
    for label, record in zip(_shown_labels(records), records, strict=True):
        table.add_row(
            label,
            *(f"{record[key]:.1f}" for key in ("import_ms", "load_ms", "first_run_ms")),
            f"{record['peak_rss_bytes'] / 2**20:.1f}",
            f"{record['delta_rss_bytes'] / 2**20:.1f}",
        )
    console.print(table)


def _draw_doubts(console: Console, result: Mapping[str, Any]) -> None:
    records = result["records"]
    rows = [
        (label, flag["flag"], flag["text"])
        for label, record in zip(labels_of(records), records, strict=True)
        for flag in record["validity"]["flags"]
    ]
    if rows:
        table = Table(title="What is doubtful", box=SIMPLE_HEAD)
        for column in ("variant", "flag", "why"):
            table.add_column(column)
        for row in rows:
            table.add_row(*map(escape, row))
        console.print(table)
    for skipped in result["skipped"]:
        console.print(f"not measured: {skipped['cell']}, {skipped['reason']}", markup=False)


def _end_to_end(record: Mapping[str, Any]) -> Mapping[str, float]:
    times: Mapping[str, Mapping[str, float]] = record["latency_us"]
    return next(times[name] for name in END_TO_END if name in times)


def _part(part: str, value: object) -> str:
    return f"{value} thread(s)" if part == "threads" else str(value)
