# SPDX-License-Identifier: Apache-2.0
"""The page of ``benchmarks.blame``: what was planted, found, predicted and measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["draw", "page"]

CLOSE = 0.2
"""Relative difference of a prediction that counts as right."""


_INTRODUCTION = """\
Every coded layer of a trained model in turn gets 2 bits, all others 8, then 4. `debug layers` must
name it, and predict from a sample what all held-out users gain when the layer that it blames gets 8
bits. What the columns mean is in [debugging](../debugging.md)."""

_READING = """\
*Found first*: the planted layer is the first of the list. Among others at 4 bits a larger layer at
4 may really cost more; then it is right to blame that one. *Within 20 %*: prediction against
measurement of the layer that is blamed. With all others at 8 bits the prediction is exact by
construction: with that layer at 8 bits the model is the one of 8 bits everywhere. *In the
interval*: the measured gain lies in the predicted 95 % interval."""

_SUMMARY = (
    "model",
    "others",
    "found first",
    "NDCG@10 within 20 %",
    "in the interval",
    "first 10 within 20 %",
)

_LIMITS = """\
What one layer of a good plan costs in NDCG@10 is below what some thousand users can tell: intervals
hold 0, and ratios of such numbers mean nothing. The first 10 items tell such layers apart."""


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw how often the planted layer was found, and how close predictions were."""
    table = Table(title="Planted layers", title_justify="left")
    for column in _SUMMARY:
        table.add_column(column)
    for row in _summary(result):
        table.add_row(*row)
    console.print(table)


def page(result: Mapping[str, Any]) -> str:
    """Return the page as Markdown."""
    parts = [
        "# Who is to blame: planted layers",
        _INTRODUCTION,
        _models(result),
        _table(_SUMMARY, _summary(result)),
        _READING,
    ]
    for name, model in result["models"].items():
        parts += [f"## {name}", "### One layer at 2 bits", _planted(model)]
        for plan in model["plans"]:
            parts += [f"### Plan: {plan['plan']}", _plan(plan)]
    parts += [_LIMITS, _environment(result)]
    return "\n\n".join(parts) + "\n"


def _summary(result: Mapping[str, Any]) -> list[tuple[str, ...]]:
    rows = []
    for name, model in result["models"].items():
        for others in dict.fromkeys(each["others"] for each in model["planted"]):
            chosen = [each for each in model["planted"] if each["others"] == others]
            found = sum(each["planted"] == each["first"]["name"] for each in chosen)
            close, same = (
                sum(_is_close(each["first"], what) for each in chosen)
                for what in ("ndcg", "overlap")
            )
            inside = sum(_is_inside(each["first"]) for each in chosen)
            counts = (f"{count} of {len(chosen)}" for count in (found, close, inside, same))
            rows.append((name, f"{others} bits", *counts))
    return rows


def _is_close(layer: Mapping[str, Any], what: str) -> bool:
    predicted, measured = (layer[key][what]["mean"] for key in ("predicted", "measured"))
    return bool(abs(predicted - measured) <= CLOSE * abs(measured))


def _is_inside(layer: Mapping[str, Any]) -> bool:
    predicted, measured = layer["predicted"]["ndcg"], layer["measured"]["ndcg"]["mean"]
    return bool(predicted["low"] <= measured + 1e-12 and measured - 1e-12 <= predicted["high"])


def _planted(model: Mapping[str, Any]) -> str:
    heads = ("planted", "others", "first in the list", "blame", *_GAINS)
    rows = [
        (
            each["planted"],
            f"{each['others']} bits",
            each["first"]["name"],
            f"{each['first']['blame']:.0%}",
            *_gains(each["first"]),
        )
        for each in model["planted"]
    ]
    return _table(heads, rows)


def _plan(plan: Mapping[str, Any]) -> str:
    rows = [
        (layer["name"], f"{layer['blame']:.1%}", _decibels(layer), *_gains(layer))
        for layer in plan["layers"]
        if layer["predicted"] is not None
    ]
    words = (
        f"NDCG@10 {plan['ndcg']:.4f}, at 8 bits everywhere {plan['ndcg_best']:.4f}; "
        f"{plan['overlap']:.1%} of the first 10 items are those of 8 bits."
    )
    return f"{words}\n\n{_table(('layer', 'blame', 'SQNR dB', *_GAINS), rows)}"


_GAINS = ("NDCG@10 predicted", "measured", "first 10 predicted", "measured")


def _gains(layer: Mapping[str, Any]) -> tuple[str, ...]:
    predicted, measured = layer["predicted"], layer["measured"]
    return (
        _interval(predicted["ndcg"]),
        _interval(measured["ndcg"]),
        f"{predicted['overlap']['mean']:+.2%}",
        f"{measured['overlap']['mean']:+.2%}",
    )


def _interval(change: Mapping[str, float]) -> str:
    return f"{change['mean']:+.4f} ({change['low']:+.4f} to {change['high']:+.4f})"


def _decibels(layer: Mapping[str, Any]) -> str:
    return "–" if layer["sqnr_db"] is None else f"{layer['sqnr_db']:.1f}"


def _models(result: Mapping[str, Any]) -> str:
    heads = ("model", "kind", "D", "L", "held-out users", "items")
    rows = [
        (
            name,
            model["kind"],
            str(model["embedding_dim"]),
            str(model["window"]),
            f"{model['n_users']:,}",
            f"{model['n_items']:,}",
        )
        for name, model in result["models"].items()
    ]
    return _table(heads, rows)


def _environment(result: Mapping[str, Any]) -> str:
    options = result["options"]
    versions = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    return (
        f"Sample of {options['n_sampled']} users, seed {options['seed']}. `python -m "
        f"benchmarks.blame`; {versions}."
    )


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [f"| {' | '.join(cells)} |" for cells in (heads, ["---"] * len(heads), *rows)]
    return "\n".join(lines)
