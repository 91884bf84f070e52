# SPDX-License-Identifier: Apache-2.0
"""Draws what ``benchmarks.coclustering`` measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.reports import prepare_plots

__all__ = ["draw_all"]

# Okabe and Ito's colours, which differ for colour-blind eyes too; markers differ as well.
_STYLES = {
    "multilevel": ("o", "#0072b2"),
    "propagation": ("s", "#009e73"),
    "louvain (scikit-network)": ("^", "#d55e00"),
}
_SCALE = "coclustering-seconds-against-edges.png"


def draw_all(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every plot there is data for.

    Args:
        result: What ``Coclusterings.run`` returned.
        folder: Where to.

    Returns:
        File names, in order.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    prepare_plots()
    from matplotlib.figure import Figure

    drawn = [record for record in result["records"] if record["dataset"].startswith("power law")]
    if not drawn:
        return []
    figure = Figure(figsize=(6.4, 4.4), dpi=110, layout="constrained")
    axes = figure.subplots()
    for method, (marker, colour) in _STYLES.items():
        points = sorted((r["n_edges"], r["cpu_seconds"]) for r in drawn if r["method"] == method)
        if points:
            edges, seconds = zip(*points, strict=True)
            axes.plot(edges, seconds, marker=marker, color=colour, label=method)
    low, high = (f(record["n_edges"] for record in drawn) for f in (min, max))
    start = min(record["cpu_seconds"] for record in drawn)
    axes.plot((low, high), (start, start * high / low), ":", color="#555555", label="linear")
    axes.set(xscale="log", yscale="log", xlabel="edges", ylabel="CPU seconds, one thread")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(folder / _SCALE)
    return [_SCALE]
