# SPDX-License-Identifier: Apache-2.0
"""Shows what ``codebook_sequence`` measured: tables on a terminal, a page with a plot."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.codebook_sequence_methods import METHODS
from benchmarks.reports import prepare_plots
from benchmarks.sheets import Sheet

__all__ = ["STYLES", "draw", "page", "plot"]

Record = Mapping[str, Any]

_TITLES = {method.name: method.title for method in METHODS}
_ALIKE = 1.05
_ALWAYS_TRIED = {"product", "product-int4", "residual", "residual-int4"}
_TRIED = _ALWAYS_TRIED | {"plain-int8", "plain-int4", "k-means-int4"}
_HEAD = """\
# Item tables of sequence models at a fraction of their bytes

NDCG@10 by full ranking of the test target among all items the user has not seen, ties broken at
random. *Bytes* are all that a device holds of the embeddings: packed codes, scales, and row
numbers; ids apart, as in every table. *Change* is that of test NDCG@10 against the same backbone
with its float32 table, in percent of that, with a 95 % interval from users resampled in pairs.
Everything was chosen on validation: epochs, and the winner of a budget, in bold. *Divergence* is
how far a table's scores are from the float table's: of the shares of a softmax over all unseen
items, in nats per user, for 2,000 validation users at most; their targets play no part. Among the
fitted layouts that are within 5 % of the least, what validates best is what `pocketrec compress`
takes by itself (†), where all that it tries was measured.

* `a row each`: every row rounded to 8 or 4 bits with a scale of its own.
* `product`: codebooks side by side, an item has one row number in each; k-means, items weighted by
  their training events. `by faiss` is the same idea by faiss, which keeps float32 rows and knows
  no weights.
* `shared`: items of a group share a whole row. Groups are drawn by chance (`hash`), by k-means of
  the trained embeddings, or are co-clusters of the interaction graph.
* `shared rows + product`: 256 whole rows, and a product of what they leave.
* `trained`: the table alone is trained on, taught by the float model, the backbone frozen: every
  plan stays valid. `float32, trained on` is the control: the float table with as many epochs more.

One backbone and one seed per data set. They trained on two shared cores under a limit of time,
so that those of CDs and ML-1M had not converged."""


def _percent(share: float) -> str:
    return f"{100 * share:+.1f}"


def sheets(result: Mapping[str, Any]) -> Iterator[Sheet]:
    """Yield a table for each data set.

    Args:
        result: What ``codebook_sequence_run.run`` returned.
    """
    for (suite, dataset), records in _groups(result["records"]).items():
        winners = _winners(records)
        defaults = _defaults(records)
        rows = [
            _row(
                record,
                is_winner=_place(record) in winners,
                is_default=_place(record) in defaults,
            )
            for record in _sorted(records)
        ]
        yield Sheet(
            title=f"{dataset}, {suite}: {records[0]['n_items']:,} items",
            columns=(
                "table",
                "budget",
                "bytes",
                "an item",
                "smaller",
                "NDCG@10",
                "HR@10",
                "change, %",
                "95 % interval",
                "on validation, %",
                "divergence",
            ),
            rows=tuple(rows),
        )


def _trials(result: Mapping[str, Any]) -> Sheet:
    """Return what was tried in other ways than the methods."""
    return Sheet(
        title="Tried besides, at 1/16",
        columns=("data", "what", "on validation, %", "change, %", "95 % interval"),
        rows=tuple(
            (
                trial["dataset"],
                trial["what"],
                _percent(trial["validation_change"]),
                _percent(trial["ndcg@10_change"]) if trial["interval"] else "",
                " to ".join(_percent(end) for end in trial["interval"]),
            )
            for trial in result.get("trials", ())
        ),
        n_text=2,
        note="Trials for a better table to be trained; none became a method.",
    )


def _place(record: Record) -> tuple[str, float | None]:
    return record["method"], record["budget_ratio"]


def _groups(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    groups: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        groups.setdefault((record["suite"], record["dataset"]), []).append(record)
    return groups


def _sorted(records: Sequence[Record]) -> list[Record]:
    order = list(_TITLES)
    return sorted(records, key=lambda r: (r["budget_ratio"] or 0, order.index(r["method"])))


def _winners(records: Sequence[Record]) -> set[tuple[str, float | None]]:
    """Return the best on validation of each budget, among all that fit it."""
    winners = set()
    for ratio in {record["budget_ratio"] for record in records} - {None}:
        fitting = [r for r in records if r["ratio"] >= ratio]
        best = max(fitting, key=lambda r: float(r["validation_ndcg@10"]))
        if best["budget_ratio"] == ratio:
            winners.add(_place(best))
    return winners


def _defaults(records: Sequence[Record]) -> set[tuple[str, float | None]]:
    """Return what the command would take at each budget, where all that it tries is known."""
    found = set()
    for ratio in {record["budget_ratio"] for record in records} - {None}:
        fitting = [
            record
            for record in records
            if record["method"] in _TRIED
            and record["ratio"] >= ratio
            and record["budget_ratio"] in {None, ratio}
            and record.get("divergence") is not None
        ]
        if {record["method"] for record in fitting if record["budget_ratio"]} >= _ALWAYS_TRIED:
            limit = _ALIKE * min(record["divergence"] for record in fitting)
            near = [record for record in fitting if record["divergence"] <= limit]
            found.add(_place(max(near, key=lambda record: float(record["validation_ndcg@10"]))))
    return found


def _row(record: Record, *, is_winner: bool, is_default: bool) -> tuple[str, ...]:
    low, high = record["interval"]
    ratio = record["budget_ratio"]
    title = _TITLES[record["method"]] + (" †" if is_default else "")
    divergence = record.get("divergence")
    return (
        f"**{title}**" if is_winner else title,
        "" if ratio is None else f"1/{ratio:g}",
        f"{record['bytes']:,}",
        f"{record['bytes_per_item']:.1f}",
        f"{record['ratio']:.1f} x",
        f"{record['ndcg@10']:.4f}",
        f"{record['hr@10']:.4f}",
        _percent(record["ndcg@10_change"]),
        f"{_percent(low)} to {_percent(high)}",
        _percent(record["validation_change"]),
        "" if divergence is None else f"{divergence:.4f}",
    )


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``codebook_sequence_run.run`` returned.
    """
    for sheet in (*sheets(result), _trials(result)):
        if sheet.rows:
            sheet.draw(console)


def page(result: Mapping[str, Any], picture: str) -> str:
    """Return the page, in Markdown.

    Args:
        result: What ``codebook_sequence_run.run`` returned.
        picture: Name of the plot beside it.
    """
    machine = result["environment"]
    lines = [_HEAD, "", f"![NDCG@10 against bytes]({picture})", ""]
    for sheet in (*sheets(result), _trials(result)):
        lines += sheet.markdown() if sheet.rows else []
    versions = ", ".join(f"{name} {machine[name]}" for name in ("pocketrec", "torch", "numpy"))
    return "\n".join(
        [
            *lines,
            "`python -m benchmarks.codebook_sequence` measures this and writes the page.",
            f"Versions: {versions}; {machine['machine']}, {machine['cores']} cores.",
            "",
        ]
    )


STYLES = {
    "float": ("*", "#000000", True),
    "float-tuned": ("*", "#888888", True),
    "plain-int8": ("s", "#000000", True),
    "plain-int4": ("D", "#000000", True),
    "product-tuned": ("o", "#0072B2", True),
    "product": ("o", "#0072B2", False),
    "product-int4-tuned": ("h", "#E69F00", True),
    "product-int4": ("h", "#E69F00", False),
    "faiss-pq": ("X", "#56B4E9", True),
    "residual-tuned": ("P", "#009E73", True),
    "residual": ("P", "#009E73", False),
    "residual-int4-tuned": ("p", "#F0E442", True),
    "residual-int4": ("p", "#F0E442", False),
    "k-means-int8": ("<", "#D55E00", False),
    "k-means-int4": ("^", "#D55E00", False),
    "k-means-int4-tuned": ("^", "#D55E00", True),
    "co-clusters-int8": (">", "#CC79A7", False),
    "co-clusters-int4": ("v", "#CC79A7", False),
    "co-clusters-int4-tuned": ("v", "#CC79A7", True),
    "hash-int8": ("x", "#888888", True),
}
"""Method to its marker, colour and whether it is filled, as only the trained and plain ones are.

The colours are Okabe and Ito's, told apart by everybody.
"""


def plot(result: Mapping[str, Any], folder: Path) -> str:
    """Draw NDCG@10 against bytes, a panel for each data set.

    Args:
        result: What ``codebook_sequence_run.run`` returned.
        folder: Where to.

    Returns:
        The name of the picture.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    prepare_plots()
    import matplotlib.pyplot as plt

    groups = _groups(result["records"])
    figure, axes = plt.subplots(
        1, len(groups), figsize=(4.2 * len(groups), 4.6), squeeze=False, layout="constrained"
    )
    for axis, ((suite, dataset), records) in zip(axes.flat, groups.items(), strict=True):
        _draw_panel(axis, records)
        axis.set_title(f"{dataset}, {suite}")
        axis.set_xlabel("bytes an item (log)")
    axes.flat[0].set_ylabel("test NDCG@10, of the float table's")
    handles = {
        label: handle
        for axis in axes.flat
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(handles.values(), handles, loc="outside lower center", ncols=4, frameon=False)
    name = "codebook_sequence.png"
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / name, dpi=120)
    plt.close(figure)
    return name


def _draw_panel(axis: Any, records: Sequence[Record]) -> None:
    from matplotlib.ticker import NullFormatter, PercentFormatter

    axis.axhline(1.0, color="#bbbbbb", linewidth=1)
    axis.axvline(16, color="#bbbbbb", linewidth=1, linestyle=":")
    for method, (marker, colour, is_filled) in STYLES.items():
        own = sorted((r for r in records if r["method"] == method), key=lambda r: r["bytes"])
        if own:
            axis.plot(
                [record["bytes_per_item"] for record in own],
                [1 + record["ndcg@10_change"] for record in own],
                marker=marker,
                color=colour,
                markerfacecolor=colour if is_filled else "white",
                linestyle="-" if is_filled else "--",
                linewidth=1.2,
                label=_TITLES[method],
            )
    axis.set_xscale("log", base=2)
    ticks = [4, 8, 16, 32, 64, 128, 256]
    axis.set_xticks(ticks, [str(tick) for tick in ticks])
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    axis.set_ylim(bottom=max(0.0, min(0.7, *(1 + r["ndcg@10_change"] - 0.03 for r in records))))
