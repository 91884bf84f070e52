# SPDX-License-Identifier: Apache-2.0
"""How a run of ``benchmarks.coclustering`` is shown: the same tables for a terminal and a page."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.coclustering_run import LOUVAIN, MULTILEVEL, PROPAGATION
from benchmarks.sheets import Sheet

__all__ = ["TARGETS", "draw", "page", "sheets"]

Record = Mapping[str, Any]

TARGETS = {"speedup": 4.0, "minutes": 10.0, "gib": 16.0, "edges": 100_000_000}
"""What has to be reached on two cores: see the first table of the page."""

_MIB, _GIB = 2**20, 2**30
_GENERATED = "power law"

_INTRODUCTION = """\
Co-clusters of users and items by `pocketrec_quantization.coclustering`
([what it does](../coclustering.md)), beside the Louvain of scikit-network without the outputs that
nobody reads. Every method runs in a process of its own, on one thread, on the same graph; methods
take turns, and the median of their times counts. Times begin with the sparse matrix and end with
the labels: seconds of the clock, during which other programs ran too, and seconds of the
processor. Compilation is apart, with the import of numba: {first:.1f} s where no code is kept
yet, {later:.1f} s later.

A target that is missed stays as it was written."""

_GRAPH_NOTE = """\
Rows are those of both tables. The objective is the same function for all: edges inside co-clusters
minus {resolution:g} times the products of their volumes, with degrees as weights; a method that
climbs at another resolution, or with other weights, does not aim at it. Gini is that of cluster
sizes, 0 where all are equal. Largest is the share of the largest cluster. Memory is the peak
of the whole process, libraries and graph included."""

_SCALE_NOTE = """\
Generated interactions in groups, with degrees that fall as a power law (`power_law_graph`).
Multilevel includes second rows for both sides. Louvain was not run beyond 20 million. From the
smallest to the largest graph, {growth}: more than in step where labels and volumes outgrow the
caches. The picture shows seconds of the processor."""

_SCALE_TITLE = "Generated graphs"


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """Return the tables of a run.

    Args:
        result: What ``Coclusterings.run`` returned.
    """
    records: list[Record] = result["records"]
    names = dict.fromkeys(record["dataset"] for record in records)
    real = [name for name in names if not name.startswith(_GENERATED)]
    drawn = [record for record in records if record["dataset"].startswith(_GENERATED)]
    return [
        *([_targets(result)] if _met(result) else []),
        *(_graph(result, name) for name in real),
        *([_scale(drawn)] if drawn else []),
    ]


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``Coclusterings.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)
    console.print(_surroundings(result), markup=False)


def page(result: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the run as a page of Markdown.

    Args:
        result: What ``Coclusterings.run`` returned.
        pictures: Names of files beside the page.
    """
    lines = [
        "# Co-clustering",
        "",
        _INTRODUCTION.format(**result["compilation_seconds"]),
        "",
        "```sh",
        result["command"],
        "```",
        "",
    ]
    for sheet in sheets(result):
        lines += sheet.markdown()
    lines += [line for name in pictures for line in (f"![{_alt(name)}]({name})", "")]
    return "\n".join([*lines, f"{result['date']}. {_surroundings(result)}", ""])


def _alt(name: str) -> str:
    return name.removesuffix(".png").replace("-", " ")


def _of(records: Sequence[Record], dataset: str, method: str) -> Record | None:
    return next(
        (r for r in records if r["dataset"] == dataset and r["method"] == method),
        None,
    )


def _met(result: Mapping[str, Any]) -> list[tuple[str, bool, str, str]]:
    """Return each target: what, whether it is met, what was wanted and what was measured."""
    records: list[Record] = result["records"]
    found = []
    for name, speedups in result["speedups_vs_louvain"].items():
        louvain, levels = _of(records, name, LOUVAIN), _of(records, name, MULTILEVEL)
        if louvain is None or levels is None or name.startswith(_GENERATED):
            continue
        speedup = speedups[PROPAGATION]
        what = f"{name}: propagation at equal rows, times as fast as Louvain"
        wanted = f"{TARGETS['speedup']:.0f}"
        found.append((what, speedup >= TARGETS["speedup"], wanted, f"{speedup:.1f}"))
        for key, unit in (("objective", "objective"), ("seconds", "seconds")):
            ours, theirs = levels[key], louvain[key]
            is_met = ours >= theirs if key == "objective" else ours < theirs
            what = f"{name}: multilevel against Louvain, {unit}"
            found.append((what, is_met, _number(theirs), _number(ours)))
    for record in records:
        if record["n_edges"] >= TARGETS["edges"]:
            what = f"{record['n_edges']:,} edges, {record['method']}"
            minutes, gib = record["seconds"] / 60, record["peak_bytes"] / _GIB
            is_quick, is_small = minutes <= TARGETS["minutes"], gib <= TARGETS["gib"]
            limit_minutes, limit_gib = f"{TARGETS['minutes']:.0f}", f"{TARGETS['gib']:.0f}"
            found.append((f"{what}: minutes", is_quick, limit_minutes, f"{minutes:.1f}"))
            found.append((f"{what}: GiB", is_small, limit_gib, f"{gib:.1f}"))
    return found


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.2f}"


def _targets(result: Mapping[str, Any]) -> Sheet:
    return Sheet(
        title="Targets",
        columns=("what", "met", "target", "measured"),
        rows=tuple(
            (what, "yes" if is_met else "MISSED", wanted, measured)
            for what, is_met, wanted, measured in _met(result)
        ),
    )


def _graph(result: Mapping[str, Any], name: str) -> Sheet:
    own = [record for record in result["records"] if record["dataset"] == name]
    first = own[0]
    return Sheet(
        title=(
            f"{name}: {first['n_users']:,} users, {first['n_items']:,} items, "
            f"{first['n_edges']:,} interactions"
        ),
        columns=(
            "method",
            "resolution",
            "rows",
            "objective",
            "Gini users",
            "Gini items",
            "largest users, %",
            "largest items, %",
            "seconds",
            "CPU seconds",
            "MiB",
        ),
        rows=tuple(
            (
                record["method"],
                f"{record['resolution']:.4g}",
                f"{record['rows']:,}",
                f"{record['objective']:,.0f}",
                f"{record['user_gini']:.2f}",
                f"{record['item_gini']:.2f}",
                f"{100 * record['user_largest_share']:.2f}",
                f"{100 * record['item_largest_share']:.2f}",
                f"{record['seconds']:.3f}",
                f"{record['cpu_seconds']:.3f}",
                f"{record['peak_bytes'] / _MIB:,.0f}",
            )
            for record in own
        ),
        n_text=1,
        note=_GRAPH_NOTE.format(resolution=result["settings"]["resolution"]),
    )


def _scale(records: Sequence[Record]) -> Sheet:
    return Sheet(
        title=_SCALE_TITLE,
        columns=(
            "method",
            "edges",
            "users",
            "items",
            "rows",
            "seconds",
            "CPU seconds",
            "CPU ns per edge",
            "GiB",
            "GiB beyond the graph",
        ),
        rows=tuple(
            (
                record["method"],
                f"{record['n_edges']:,}",
                f"{record['n_users']:,}",
                f"{record['n_items']:,}",
                f"{record['rows']:,}",
                f"{record['seconds']:.3f}",
                f"{record['cpu_seconds']:.3f}",
                f"{1e9 * record['cpu_seconds'] / record['n_edges']:,.0f}",
                f"{record['peak_bytes'] / _GIB:.2f}",
                f"{record['peak_bytes_beyond_graph'] / _GIB:.2f}",
            )
            for record in records
        ),
        n_text=1,
        note=_SCALE_NOTE.format(growth=_growth(records)),
    )


def _growth(records: Sequence[Record]) -> str:
    """Return how seconds of the processor grow with edges, for each method."""
    words = []
    for method in dict.fromkeys(record["method"] for record in records):
        own = [record for record in records if record["method"] == method]
        ends = [f(own, key=lambda record: int(record["n_edges"])) for f in (min, max)]
        times, edges = (math.log(ends[1][key] / ends[0][key]) for key in ("cpu_seconds", "n_edges"))
        if edges:
            words.append(f"{method} takes E^{times / edges:.2f}")
    return ", ".join(words) or "one size was measured"


def _surroundings(result: Mapping[str, Any]) -> str:
    found = result["environment"]
    return (
        f"pocketrec {found['pocketrec']} ({found['commit']}), Python {found['python']}, NumPy "
        f"{found['numpy']}, numba {found['numba']}, scikit-network {found['scikit-network']}; "
        f"{found['cpu']}, {found['cores']} cores, load {found['load']:.2f} at the end."
    )
