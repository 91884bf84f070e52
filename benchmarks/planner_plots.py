# SPDX-License-Identifier: Apache-2.0
"""Draws what ``planner`` measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.planner_run import summary
from benchmarks.reports import prepare_plots

__all__ = ["draw_all"]

_STYLES = {
    "uniform": ("o", "#4c72b0"),
    "qat": ("s", "#55a868"),
    "rtn": ("^", "#8172b2"),
    "gptq": ("v", "#937860"),
    "global": ("D", "#da8bc3"),
    "personal": ("*", "#c44e52"),
    "personal-standardised": ("P", "#dd8452"),
    "personal-pruning": ("h", "#8c564b"),
    "myqasr": ("X", "#64b5cd"),
}


def draw_all(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every plot there is data for.

    Args:
        result: What ``planner_run.run`` returned.
        folder: Where to.

    Returns:
        File names, in order.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    prepare_plots()
    names = []
    if result["records"]:
        names.append(_quality_against_bytes(result["records"], folder))
    drawn = sorted((s for s in result["spread"] if "mean_width" in s), key=_title)
    if drawn:
        names += [_widths(drawn, folder), _distances(drawn, folder)]
    return names


def _keys(records: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    return sorted({(r["dataset"], r["backbone"], r["init"]) for r in records})


def _panels(n_panels: int, n_columns: int, size: tuple[float, float]) -> Any:
    import matplotlib.pyplot as plt

    columns = min(n_columns, n_panels)
    rows = -(-n_panels // columns)
    figsize = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained")
    for axis in axes.flat[n_panels:]:
        axis.set_visible(False)
    return figure, axes


def _quality_against_bytes(records: Sequence[Mapping[str, Any]], folder: Path) -> str:
    keys = _keys(records)
    figure, axes = _panels(len(keys), 2, (6, 3.4))
    for axis, key in zip(axes.flat, keys, strict=False):
        own = [r for r in records if (r["dataset"], r["backbone"], r["init"]) == key]
        for kind, (marker, colour) in _STYLES.items():
            methods = sorted({r["method"] for r in own if _is_kind(r["method"], kind)})
            points = [[r for r in own if r["method"] == method] for method in methods]
            if not points:
                continue
            bits = [summary(point, "effective_bits")[0] for point in points]
            ndcg = [summary(point, "ndcg@10") for point in points]
            axis.errorbar(
                bits,
                [value for value, _, _ in ndcg],
                [spread / max(1, n) ** 0.5 for _, spread, n in ndcg],
                fmt=marker,
                color=colour,
                markersize=9 if kind.startswith("personal") else 6,
                capsize=2,
                label=kind,
            )
        reference = [r for r in own if r["method"] == "fp32"]
        if reference:
            axis.axhline(summary(reference, "ndcg@10")[0], color="black", lw=0.8, label="fp32")
        axis.set(title=", ".join(key), xlabel="effective bits", ylabel="NDCG@10")
    axes.flat[0].legend(fontsize=7, ncols=2)
    return _save(figure, folder, "planner-quality-against-bits.png")


def _is_kind(method: str, kind: str) -> bool:
    stem, _, bits = method.rpartition("-")
    return method == kind or (stem == kind and bits.isdigit())


def _widths(spreads: Sequence[Mapping[str, Any]], folder: Path) -> str:
    figure, axes = _panels(len(spreads), 3, (4, 1.9))
    for axis, spread in zip(axes.flat, spreads, strict=False):
        mean, std = spread["mean_width"], spread["std_width"]
        channels = range(len(mean))
        low = [m - s for m, s in zip(mean, std, strict=True)]
        high = [m + s for m, s in zip(mean, std, strict=True)]
        axis.fill_between(channels, low, high, color="#c44e52", alpha=0.25, lw=0)
        axis.plot(channels, mean, color="#c44e52", lw=0.7)
        axis.set(title=_title(spread), xlabel="channel, in plan order", ylabel="bits", ylim=(0, 9))
        axis.title.set_fontsize(6)
    return _save(figure, folder, "planner-width-of-channels.png")


def _distances(spreads: Sequence[Mapping[str, Any]], folder: Path) -> str:
    figure, axes = _panels(len(spreads), 3, (4, 2.1))
    for axis, spread in zip(axes.flat, spreads, strict=False):
        axis.scatter(
            spread["interest_distance"], spread["plan_distance"], s=4, alpha=0.5, color="#4c72b0"
        )
        title = f"{_title(spread)}: r = {spread['correlation']:.2f}"
        axis.set(title=title, xlabel="distance of interests", ylabel="channels that differ")
        axis.set_ylim(bottom=0)
        axis.title.set_fontsize(6)
    return _save(figure, folder, "planner-distance-of-plans.png")


def _title(spread: Mapping[str, Any]) -> str:
    return ", ".join(spread[key] for key in ("dataset", "backbone", "init", "method"))


def _save(figure: Any, folder: Path, name: str) -> str:
    import matplotlib.pyplot as plt

    figure.savefig(folder / name, dpi=80)
    plt.close(figure)
    return name
