# SPDX-License-Identifier: Apache-2.0
"""How a run of ``benchmarks.item_tables`` is shown: the same table for a terminal and a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "sheet"]

_INTRODUCTION = """\
How long it takes to score {n_candidates} candidates from an item table of {embedding_dim} columns,
one thread, by what looks the rows up. Codes are drawn from a seed. NumPy is what the runtime does:
look up rows, then one inner product per candidate. The others have the table inside a graph of ONNX
Runtime, which looks rows up, dequantizes and multiplies, with inputs and outputs bound to memory
that stays. The ways take turns. Tables: a row per item at 8 or 4 bits; four items to a row; a
product of 16 codebooks of 256 rows."""

_NOTE = """\
Ratio: time beside NumPy on the same table; above 1 NumPy is faster. Packed: codes, scales and row
numbers, ids apart. Cached: dequantized rows of small codebooks, which NumPy keeps besides. A way
that is missing cannot express the table: `Gather` has no 4-bit integers there, and blocks of
`GatherBlockQuantized` have 16 columns at least."""


def sheet(result: Mapping[str, Any]) -> Sheet:
    """Return the table of a run.

    Args:
        result: What ``measure`` returned.
    """
    return Sheet(
        title="Scoring",
        columns=(
            "items",
            "table",
            "way",
            "p50 us",
            "p90 us",
            "ratio",
            "packed bytes",
            "cached bytes",
        ),
        rows=tuple(
            (
                f"{record['n_items']:,}",
                record["kind"],
                record["method"],
                f"{record['p50_us']:.1f}",
                f"{record['p90_us']:.1f}",
                f"{record['ratio']:.2f}",
                f"{record['packed_bytes']:,}",
                f"{record['cached_bytes']:,}",
            )
            for record in result["records"]
        ),
        n_text=3,
        note=_NOTE,
    )


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the table on a terminal.

    Args:
        console: Where to.
        result: What ``measure`` returned.
    """
    sheet(result).draw(console)
    console.print(_surroundings(result), markup=False)


def page(result: Mapping[str, Any]) -> str:
    """Return the run as a page of Markdown.

    Args:
        result: What ``measure`` returned.
    """
    lines = ["# Item tables: scoring candidates", ""]
    lines += [_INTRODUCTION.format(**result["settings"]), "", "```sh", result["command"], "```", ""]
    lines += [_verdict(result), "", *sheet(result).markdown()]
    return "\n".join([*lines, f"{result['date']}. {_surroundings(result)}", ""])


def _verdict(result: Mapping[str, Any]) -> str:
    others = [record for record in result["records"] if record["ratio"] != 1]
    if not others:
        return ""
    best = min(others, key=lambda record: float(record["ratio"]))
    place = f"{best['kind']}, {best['n_items']:,} items"
    if best["ratio"] > 1:
        return (
            f"**NumPy is the fastest on every table**; {best['method']} comes nearest, "
            f"{best['ratio']:.2f} times its time ({place})."
        )
    return f"**{best['method']} is faster in one case at least**: {best['ratio']:.2f} ({place})."


def _surroundings(result: Mapping[str, Any]) -> str:
    found = result["environment"]
    return (
        f"pocketrec {found['pocketrec']} ({found['commit']}), Python {found['python']}, NumPy "
        f"{found['numpy']}, ONNX Runtime {found['onnxruntime']}; {found['cpu']}, {found['cores']} "
        f"cores, load {found['load']:.2f} at the end."
    )
