# SPDX-License-Identifier: Apache-2.0
"""Draws what ``pocketrec debug`` found for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

    from pocketrec.metrics import Interval
    from pocketrec_device.debugging.blame import BlameReport, LayerBlame
    from pocketrec_device.debugging.divergence import Divergence
    from pocketrec_device.debugging.profile import FunctionProfile, Profile

__all__ = ["draw_blame", "draw_divergence", "draw_profile"]

_SHOWN_OPERATORS = 15


def draw_blame(console: Console, report: BlameReport) -> None:
    """Draw layers by falling blame: what they suffer, and what 8 bits would bring."""
    console.print(_outputs_table(report))
    console.print(_gains_table(report))
    best = f"{report.ndcg_best.mean:.4f} at 8 bits everywhere"
    console.print(
        f"{report.n_users:,} held-out users, blame from {report.n_sampled:,} of them. "
        f"Under the plan: error of states {report.state_error:.3f}, "
        f"NDCG@10 {report.ndcg.mean:.4f} ({best}), "
        f"{report.overlap.mean:.1%} of the first 10 items as at 8 bits",
        soft_wrap=True,
    )
    console.print(_verdict(report), soft_wrap=True)


def _outputs_table(report: BlameReport) -> Table:
    table = Table(
        title=f"Layers, the one to blame first; outputs against {report.outputs_against}",
        title_justify="left",
        box=SIMPLE_HEAD,
    )
    table.add_column("layer", no_wrap=True)
    for column in ("bits", "SQNR dB", "cosine", "output error", "accumulated", "alone", "blame"):
        table.add_column(column, justify="right", no_wrap=True)
    for layer in report.layers:
        output = layer.output
        table.add_row(
            Text(layer.name),
            f"{layer.effective_bits:.2f}",
            "–" if output.sqnr_db is None else f"{output.sqnr_db:.1f}",
            "–" if output.cosine is None else f"{output.cosine:.4f}",
            f"{output.error:.4f}",
            f"{output.accumulated_error:.4f}",
            f"{layer.state_error:.4f}",
            f"{layer.blame:.1%}",
        )
    return table


def _gains_table(report: BlameReport) -> Table:
    is_measured = any(layer.measured is not None for layer in report.layers)
    table = Table(title="What if this layer had 8 bits", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("layer", no_wrap=True)
    table.add_column("bytes", justify="right")
    for kind in ("predicted", *(["measured"] if is_measured else [])):
        table.add_column(f"NDCG@10, {kind}", justify="right")
        table.add_column("first 10", justify="right")
    for layer in report.layers:
        if layer.predicted is not None:
            table.add_row(*_gains(layer, is_measured=is_measured))
    return table


def _gains(layer: LayerBlame, *, is_measured: bool) -> list[str | Text]:
    cells: list[str | Text] = [Text(layer.name), f"{layer.added_bytes:+,}"]
    for change in (layer.predicted, *([layer.measured] if is_measured else [])):
        if change is None:
            cells += ["–", "–"]
        else:
            cells += [_interval(change.ndcg), f"{change.overlap.mean:+.1%}"]
    return cells


def _interval(change: Interval) -> str:
    return f"{change.mean:+.4f} ({change.low:+.4f} to {change.high:+.4f})"


def _verdict(report: BlameReport) -> str:
    first = report.layers[0]
    if first.predicted is None or first.blame <= 0:
        return "No layer would do better with 8 bits."
    change = first.measured or first.predicted
    words = f"{first.name} is to blame for {first.blame:.0%} of the error of states"
    if change.ndcg.low <= 0 <= change.ndcg.high:
        return f"{words}; what 8 bits would bring in NDCG@10 cannot be told from nothing here."
    return f"{words}; 8 bits for it change NDCG@10 by {change.ndcg.mean:+.4f}."


def draw_divergence(console: Console, found: Divergence) -> None:
    """Draw every value that two backends show, and the first one that differs."""
    table = Table(title=f"{found.left} and {found.right}", title_justify="left", box=SIMPLE_HEAD)
    for column in ("function", "value", found.left, found.right):
        table.add_column(Text(column), no_wrap=True)
    for column in ("relative difference", "largest difference"):
        table.add_column(column, justify="right")
    table.add_column("")
    for each in found.comparisons:
        table.add_row(
            each.function,
            Text(each.value),
            each.left_operator,
            each.right_operator,
            _number(each.error),
            _number(each.worst),
            "← first" if each == found.first else ("beyond" if each.is_beyond else ""),
            style="bold red" if each == found.first else "",
        )
    console.print(table)
    histories = f"{found.n_histories} histories, tolerance {found.tolerance:g}"
    if found.first is None:
        console.print(f"No value differs by more than the tolerance ({histories}).")
    else:
        first = found.first
        console.print(
            f"First to differ: {first.value}, in {first.function}: {first.left_operator} against "
            f"{first.right_operator} ({histories}).",
            soft_wrap=True,
            markup=False,
        )


def draw_profile(console: Console, found: Profile) -> None:
    """Draw the operators that take most time, function by function."""
    for function in found.functions:
        console.print(_profile_table(found, function))
    console.print(
        "Tracing costs time of its own: shares tell where to look, bench run how long a call takes."
    )


def _profile_table(found: Profile, function: FunctionProfile) -> Table:
    call = "" if function.call_us is None else f", {function.call_us:.0f} μs per call"
    title = f"{function.function}: {found.tracer}, {function.n_calls:,} calls{call}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("operator", no_wrap=True)
    table.add_column("of")
    for column in ("p50 μs", "middle 80 % μs", "share"):
        table.add_column(column, justify="right")
    slowest = sorted(function.operators, key=lambda each: -each.trimmed_us)
    for each in slowest[:_SHOWN_OPERATORS]:
        numbers = (f"{each.p50_us:.1f}", f"{each.trimmed_us:.2f}", f"{each.share:.1%}")
        table.add_row(Text(each.operator), Text(each.node), *numbers)
    rest = slowest[_SHOWN_OPERATORS:]
    if rest:
        trimmed_us = sum(each.trimmed_us for each in rest)
        share = sum(each.share for each in rest)
        table.add_row(f"{len(rest)} others", "", "", f"{trimmed_us:.2f}", f"{share:.1%}")
    return table


def _number(value: float | None) -> str:
    return "not a number" if value is None else f"{value:.1e}"
