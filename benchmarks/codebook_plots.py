# SPDX-License-Identifier: Apache-2.0
"""Draws what ``codebook`` measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.codebook_methods import METHODS
from benchmarks.codebook_summary import Row, front, groups, summarise
from benchmarks.reports import prepare_plots

__all__ = ["draw_all"]

# Colours that the colour-blind tell apart (Okabe and Ito), each with a marker of its own.
_FAMILIES = {
    "full": ("full table", "o", "#000000"),
    "narrow": ("full table, 16 columns", "x", "#000000"),
    "pq": ("PQ", "s", "#0072b2"),
    "k-means": ("k-means of trained vectors", "^", "#d55e00"),
    "residual": ("two-step k-means", "v", "#e69f00"),
    "ours": ("co-clusters", "*", "#009e73"),
    "graphhash": ("GraphHash", "D", "#cc79a7"),
    "paper": ("paper preset", "P", "#56b4e9"),
    "spectral": ("spectral", "X", "#56b4e9"),
    "hash": ("hashing", "+", "#999999"),
    "frequency": ("hashing", "+", "#999999"),
    "double": ("hashing", "+", "#999999"),
}
_SIZED = ("ours-ui", "graphhash", "k-means-trained", "paper-u", "hash")
_DASHES = ("-", "--", "-.", ":", (0, (1, 3)))


def draw_all(result: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Draw every plot there is data for.

    Args:
        result: What ``codebook_run.run`` returned.
        folder: Where to.

    Returns:
        File names and what they show, in order.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    prepare_plots()
    if not result["records"]:
        return []
    return [
        (_recall_against_bytes(result, folder), "Recall@20 against bytes of both tables"),
        (_cluster_sizes(result, folder), "How many users and items share a row"),
    ]


def _recall_against_bytes(result: Mapping[str, Any], folder: Path) -> str:
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator

    found = groups(result["records"])
    figure, axes = plt.subplots(
        1, len(found), figsize=(7 * len(found), 5), squeeze=False, layout="constrained"
    )
    for axis, group in zip(axes.flat, found, strict=True):
        rows = summarise(result["records"], group)
        best = front(rows, "recall@20")
        axis.plot(
            [row.n_bytes / 1e6 for row in best],
            [100 * row.values["recall@20"] for row in best],
            color="#bbbbbb",
            lw=3,
            zorder=0,
            label="best within these bytes",
        )
        drawn = set()
        for row in rows:
            text, marker, colour = _FAMILIES[_family(row)]
            axis.errorbar(
                row.n_bytes / 1e6,
                100 * row.values["recall@20"],
                100 * row.spreads["recall@20"],
                fmt=marker,
                color=colour,
                markersize=9 if marker == "*" else 6,
                capsize=2,
                label=None if text in drawn else text,
            )
            drawn.add(text)
        axis.set(
            xscale="log",
            xlabel="MB of both tables, row numbers included",
            ylabel="Recall@20, %",
            title=f"{group[0]}, {group[1]}",
        )
        axis.xaxis.set_major_formatter("{x:g}")
        axis.xaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.xaxis.set_minor_formatter("{x:g}")
        axis.tick_params(axis="x", which="minor", labelsize=7)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return _save(figure, folder, "codebook-recall-against-bytes.png")


def _family(row: Row) -> str:
    return next(name for name in _FAMILIES if row.method.startswith(name))


def _cluster_sizes(result: Mapping[str, Any], folder: Path) -> str:
    import matplotlib.pyplot as plt

    dataset, suite = groups(result["records"])[0]
    own = {
        record["method"]: record["sizes"]
        for record in result["records"]
        if (record["dataset"], record["suite"], record["seed"]) == (dataset, suite, 0)
    }
    figure, axes = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for axis, side in zip(axes, ("users", "items"), strict=True):
        for method, dash in zip(_SIZED, _DASHES, strict=True):
            if method in own:
                sizes, shares = _shares(own[method][side])
                colour = _FAMILIES[next(n for n in _FAMILIES if method.startswith(n))][2]
                title = METHODS[method].title
                axis.step(sizes, shares, where="pre", color=colour, ls=dash, label=title)
        axis.set(
            xscale="log",
            xlabel=f"{side} that share a row",
            ylabel=f"% of {side} in rows of at least so many",
            title=f"{dataset}, seed 0",
        )
        axis.xaxis.set_major_formatter("{x:g}")
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    return _save(figure, folder, "codebook-cluster-sizes.png")


def _shares(counts: Mapping[str, int]) -> tuple[list[int], list[float]]:
    """Return sizes in ascending order, and the percentage in rows of at least each."""
    sizes = sorted(int(size) for size in counts)
    members = np.array([size * counts[str(size)] for size in sizes], np.float64)
    shares = 100 * members[::-1].cumsum()[::-1] / members.sum()
    return sizes, shares.tolist()


def _save(figure: Any, folder: Path, name: str) -> str:
    import matplotlib.pyplot as plt

    figure.savefig(folder / name, dpi=90)
    plt.close(figure)
    return name
