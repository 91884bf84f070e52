# SPDX-License-Identifier: Apache-2.0
"""Shows what ``planner`` measured: tables on a terminal, a page with plots."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.planner_plots import draw_all
from benchmarks.planner_run import summary
from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "plots", "sheets"]

_ORDER = (
    *("fp32", "fp32-continued"),
    *(f"{kind}-{bits}" for kind in ("uniform", "qat", "rtn", "gptq") for bits in (8, 4, 2)),
    *(f"{kind}-{bits}-mse" for kind in ("rtn", "gptq") for bits in (8, 4, 2)),
    *("myqasr", "myqasr-channel", "global"),
    *("random", "mean", "shuffled", "personal"),
    *(f"{name}-standardised" for name in ("random", "mean", "shuffled", "personal")),
    *(f"{name}-pruning" for name in ("random", "mean", "shuffled", "personal")),
)
_HEAD = """\
# Planners: personal plans beside everything they must beat

NDCG@10 and HR@10 by full ranking of the test target among all items the user has not seen, ties
broken at random; beside them NDCG@10 among 99 sampled items. Everything was chosen on validation.
Figures are means over seeds with their standard deviation. *Effective bits* count the scales.
`plan` is what one user's codes weigh; `model` is coded weights with scales, the other weights in
float32, and item rows in int8 (float32 for `fp32`).

* `pretrained_frozen`: the coded matrices of a trained backbone stay as they are. `fp32` is that
  backbone, `fp32-continued` the same with embeddings, norms and biases trained on, as planners
  train them.
* `random_frozen`: the coded matrices are never trained, as in the paper; `fp32` trains all else.
* `uniform`, `rtn`, `gptq` quantize `fp32` after training: with our quantizer, and with
  neural-compressor (`-mse`: with its own search for scales). `qat` trains under one width:
  everything when pretrained, all but the coded matrices when random.
* `myqasr` plans from activations alone, by layer as published or by channel.
* `global` is one learned plan for everybody with the same trainable set. `personal` plans for each
  user; `shuffled` gives the same trained model a stranger's plan, `random` a random one of the same
  mix, `mean` the average plan. `-standardised` ranks a user's channels by their deviation from
  the population. `-pruning` does so too, with tiers of 0, 4 and 8 bits at the same bytes: what
  matters least to a user is left out.

A plan is personal only if `personal` beats `shuffled`."""
_PAIRED_NOTE = """\
Differences of NDCG@10, user by user, means over seeds first; 95 % intervals and p of a two-sided
test over users. Above zero: the personal plan is better."""
_SWEEP_NOTE = """\
One trained planner, nothing trained again: other budgets (bits per weight, scales apart), speed
presets that read the 3-bit plan by another level table, and `slots`, which fix how many channels
of each layer have each width."""
_SPREAD_NOTE = """\
`channels that differ`: share of channels in which two users' plans differ. `width, sd`: of a
channel's width over users, mean over channels. `correlation`: of the distance of two users' plans
with the distance (1 - cosine) of their embeddings."""


def sheets(result: Mapping[str, Any]) -> Iterator[Sheet]:
    """Yield the tables of a result.

    Args:
        result: What ``planner_run.run`` returned.
    """
    for key, records in _groups(result["records"]):
        yield _quality(key, records)
    if result["paired"]:
        yield _paired(result["paired"])
    if result["sweeps"]:
        yield _sweeps(result["sweeps"])
    if result["spread"]:
        yield _spread(result["spread"])


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``planner_run.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)
    for failure in result.get("failed", ()):
        console.print(f"{failure['unit']}: {failure['error']}", markup=False)
    if result.get("skipped"):
        console.print(result["skipped"])


def plots(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw the plots beside the page.

    Args:
        result: What ``planner_run.run`` returned.
        folder: Where to.

    Returns:
        Names of the pictures, in order.
    """
    return draw_all(result, folder)


def page(result: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the page, in Markdown.

    Args:
        result: What ``planner_run.run`` returned.
        pictures: Names of the plots beside it.
    """
    lines = [_HEAD, "", "```sh", result["command"], "```", ""]
    for name in pictures:
        title = name.removesuffix(".png").removeprefix("planner-").replace("-", " ")
        lines += [f"![{title}]({name})", ""]
    for sheet in sheets(result):
        lines += sheet.markdown()
    environment = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    devices = sorted({f"{r['device']} (torch {r['torch']})" for r in result["records"]})
    lines += [
        f"Trained on: {', '.join(devices)}. Collected {result['date']} with {environment}.",
        "",
    ]
    return "\n".join(lines)


def _groups(
    records: Iterable[Mapping[str, Any]],
) -> Iterator[tuple[tuple[str, str, str], list[Mapping[str, Any]]]]:
    found: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for record in records:
        key = (record["dataset"], record["backbone"], record["init"])
        found.setdefault(key, []).append(record)
    yield from sorted(found.items())


def _quality(key: tuple[str, str, str], records: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = []
    known = {record["method"] for record in records}
    for method in (*(m for m in _ORDER if m in known), *sorted(known - set(_ORDER))):
        own = [record for record in records if record["method"] == method]
        ndcg, spread, n_seeds = summary(own, "ndcg@10")
        hits, sampled = summary(own, "hr@10")[0], summary(own, "ndcg@10_1:99")[0]
        rows.append(
            (
                method,
                f"{summary(own, 'effective_bits')[0]:.2f}",
                f"{ndcg:.4f} ± {spread:.4f}",
                f"{hits:.4f}",
                f"{sampled:.4f}",
                f"{own[0]['plan_bytes']:,}",
                f"{own[0]['model_bytes'] / 1e3:,.0f}",
                str(n_seeds),
            )
        )
    columns = ("method", "effective bits", "NDCG@10", "HR@10", "NDCG@10, 1:99")
    return Sheet(
        title=", ".join(key),
        columns=(*columns, "plan, B", "model, kB", "seeds"),
        rows=tuple(rows),
        n_text=1,
    )


def _paired(tests: Iterable[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        (
            f"{test['dataset']}, {test['backbone']}, {test['init']}",
            test["method"],
            test["rival"],
            f"{test['difference']:+.4f}",
            f"{test['low']:+.4f} to {test['high']:+.4f}",
            f"{test['p']:.2g}",
        )
        for test in tests
    )
    return Sheet(
        title="Personal plans against each rival",
        columns=("model", "method", "against", "difference", "95 % interval", "p"),
        rows=rows,
        n_text=3,
        note=_PAIRED_NOTE,
    )


def _sweeps(sweeps: Sequence[Mapping[str, Any]]) -> Sheet:
    variants = list(dict.fromkeys(sweep["variant"] for sweep in sweeps))
    rows = []
    keys = dict.fromkeys((s["dataset"], s["backbone"], s["init"], s["method"]) for s in sweeps)
    for key in sorted(keys):
        own = [s for s in sweeps if (s["dataset"], s["backbone"], s["init"], s["method"]) == key]
        cells = []
        for variant in variants:
            found = [sweep for sweep in own if sweep["variant"] == variant]
            cells.append(f"{summary(found, 'ndcg@10')[0]:.4f}" if found else "–")
        rows.append((", ".join(key[:3]), key[3], *cells))
    return Sheet(
        title="NDCG@10 under other budgets, presets and slots",
        columns=("model", "method", *variants),
        rows=tuple(rows),
        note=_SWEEP_NOTE,
    )


def _spread(spreads: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = []
    keys = dict.fromkeys((s["dataset"], s["backbone"], s["init"], s["method"]) for s in spreads)
    for key in sorted(keys):
        own = [s for s in spreads if (s["dataset"], s["backbone"], s["init"], s["method"]) == key]
        rows.append(
            (
                ", ".join(key[:3]),
                key[3],
                f"{summary(own, 'channels_that_differ')[0]:.1%}",
                f"{summary(own, 'width_std')[0]:.2f}",
                f"{summary(own, 'distinct_plans')[0]:.1%}",
                f"{summary(own, 'correlation')[0]:.2f}",
            )
        )
    columns = ("channels that differ", "width, sd", "distinct plans", "correlation")
    return Sheet(
        title="How plans differ between users",
        columns=("model", "method", *columns),
        rows=tuple(rows),
        note=_SPREAD_NOTE,
    )
