# SPDX-License-Identifier: Apache-2.0
"""Draws bundles and plans for people."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pocketrec_quantization.levels import WIDTHS
from pocketrec_quantization.plan import Plan

__all__ = ["draw_bundle", "draw_difference", "draw_plan", "draw_verdict"]

_WIDTH_NAMES = tuple(f"{bits} bit" for bits in WIDTHS)
_EVERYBODY = "everybody"
_LAST_DATE_S = int(datetime(9999, 12, 31, tzinfo=UTC).timestamp())


def draw_bundle(console: Console, result: Mapping[str, Any]) -> None:
    """Draw what ``bundle inspect`` found."""
    backbone, items, extractor = result["backbone"], result["items"], result["extractor"] or {}
    item_bytes = result["item_bytes"]
    rows = [
        ("digest", result["digest"].hex()),
        ("model digest", result["model_digest"].hex()),
        ("created", _date(result["created_at_s"])),
        ("schema", f"{result['schema_major']}.{result['schema_minor']}"),
        ("backbone", ", ".join(f"{name} {value}" for name, value in backbone.items() if value)),
        ("items", f"{items['n_items']:,}, table version {items['version']}"),
        ("item rows", _item_rows(items, backbone["embedding_dim"])),
        ("item bytes", f"{item_bytes['embeddings']:,}, and {item_bytes['ids']:,} of ids"),
        ("extractor", ", ".join(f"{name} {value}" for name, value in extractor.items()) or "none"),
        ("coded weights", f"{result['n_weights']:,} in {result['n_channels']:,} channels"),
        ("license", result["license"]),
        ("producer", result["producer"]),
    ]
    console.print(_facts(rows, f"{result['model_name']} version {result['version']}"))
    table = _columns("parts", "name", "bytes", "sha256")
    for part in result["parts"]:
        table.add_row(part["name"], f"{part['length_bytes']:,}", part["sha256"].hex()[:16])
    table.add_section()
    table.add_row("total", f"{result['total_bytes']:,}", "")
    console.print(table)


def _item_rows(items: Mapping[str, Any], embedding_dim: int) -> str:
    """Return the rows of every codebook; neighbours alike but for their columns are counted."""
    codebooks = items["codebooks"] or [
        {"n_rows": items["n_rows"], "bits": items["row_bits"], "width": embedding_dim}
    ]
    shapes = [(each["n_rows"], each["bits"], each["width"]) for each in codebooks]
    alike = [(len(list(group)), shape) for shape, group in itertools.groupby(shapes)]
    return " + ".join(
        f"{f'{count} × ' if count > 1 else ''}{n_rows:,} of {width} columns at {bits} bits"
        for count, (n_rows, bits, width) in alike
    )


def draw_verdict(console: Console, result: Mapping[str, Any]) -> None:
    """Draw what ``bundle verify`` found."""
    console.print(
        f"{result['n_parts']} parts, {result['total_bytes']:,} bytes: digests and formats are right"
    )
    items = result["item_table"]
    console.print(
        f"item table version {items['version']}: {items['n_items']:,} items over "
        f"{items['n_rows']:,} rows in {items['n_codebooks']} codebooks, "
        f"{items['memory_bytes']:,} bytes in memory, ids apart"
    )
    console.print(
        f"default plan: {result['default_plan']['resident_bytes']:,} bytes of coded weights in "
        "memory, packed"
    )
    if result["vectors"] is None:
        console.print("no test vectors")
    for name, vectors in (("test", result["vectors"]), ("extract", result["extract_vectors"])):
        if vectors is None:
            continue
        worst = vectors["worst_error"]
        is_right = worst is not None and worst <= vectors["tolerance"]
        verdict = "come out" if is_right else "[red]do not come out[/red]"
        shown = "not finite" if worst is None else f"{worst:.2g}"
        console.print(
            f"{vectors['n_cases']} {name} vectors {verdict}: largest error {shown},"
            f" tolerance {vectors['tolerance']:.2g}"
        )


def draw_plan(console: Console, plan: Plan, result: Mapping[str, Any]) -> None:
    """Draw a plan and what ``plan show`` measured."""
    sizes = result["container"]
    rows: list[tuple[str, object]] = [
        ("subject", plan.subject or _EVERYBODY),
        ("planner", plan.planner),
        ("version", plan.version),
        ("issued", _date(plan.issued_at_s)),
        ("expires", _date(plan.expires_at_s)),
        ("signed by", plan.key_id.hex() or "nobody"),
        ("model", plan.model_id.hex()),
        ("budget", f"{plan.budget_bytes:,} bytes, {result['coded_bytes']:,} used"),
        ("effective bits", f"{result['effective_bits']:.3f}"),
    ]
    if sizes is not None:
        rows.append(("container", ", ".join(f"{k} {v:,}" for k, v in sizes.items())))
    console.print(_facts(rows, "plan"))
    table = _columns("layers", "layer", "shape", *_WIDTH_NAMES, "bytes", "effective bits")
    for row in result["layers"]:
        counts = (str(row["channels_by_bits"].get(bits, "")) for bits in WIDTHS)
        shape = f"{row['n_channels']}×{row['n_elements']}"
        cells = (f"{row['coded_bytes']:,}", f"{row['effective_bits']:.3f}")
        table.add_row(row["name"], shape, *counts, *cells)
    console.print(table)


def draw_difference(console: Console, result: Mapping[str, Any]) -> None:
    """Draw what ``plan diff`` found."""
    before, after = result["before"], result["after"]
    table = _columns("plans", "", "before", "after")
    for name in before:
        cells = (before[name], after[name])
        texts = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in cells)
        shown = (text or _EVERYBODY for text in texts) if name == "subject" else texts
        table.add_row(name.replace("_", " "), *map(Text, shown))
    console.print(table)
    if not result["is_same_model"]:
        console.print("[yellow]the plans are bound to different weights of one shape[/yellow]")
    console.print(f"{result['n_changed']} of {result['n_channels']} channels differ in width")
    if result["layers"]:
        table = _columns("layers", "layer", "changed", *_WIDTH_NAMES)
        for row in result["layers"]:
            changes = (f"{row['before'].get(b, 0)} → {row['after'].get(b, 0)}" for b in WIDTHS)
            table.add_row(row["name"], f"{row['n_changed']}/{row['n_channels']}", *changes)
        console.print(table)


def _date(seconds: int) -> str:
    if not seconds:
        return "never"
    if seconds > _LAST_DATE_S:
        return f"{seconds:,} s, beyond the calendar"
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S} UTC"


def _facts(rows: Sequence[tuple[str, object]], title: str) -> Table:
    # without a box a digest, to be copied, fits whole into 80 columns
    table = Table(title=title, title_justify="left", show_header=False, box=None, pad_edge=False)
    table.add_column()
    table.add_column(overflow="fold")
    for name, value in rows:
        table.add_row(name, Text(str(value)))  # free text is never taken for markup
    return table


def _columns(title: str, first: str, *numbers: str) -> Table:
    table = Table(title=title, title_justify="left")
    table.add_column(first)
    for name in numbers:
        table.add_column(name, justify="right")
    return table
