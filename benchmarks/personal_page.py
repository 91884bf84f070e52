# SPDX-License-Identifier: Apache-2.0
"""Shows what ``personal`` measured: tables on a terminal, a page with plots."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from benchmarks.personal_attempts import FINDINGS
from benchmarks.personal_plots import draw_all
from benchmarks.personal_targets import attempts_sheet, targets_sheet, title_of
from benchmarks.planner_run import summary
from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "plots", "sheets"]

_HEAD = """\
# Personal plans: does a plan of one's own beat a shared one?

A SASRec (D = 64, two blocks) whose feed-forward layers hold a **pool** of 256 channels each. A
plan switches on a **slice** of 64; the others have tier 0: they compute nothing and need not be
resident. The rivals of a slice are generated **vectors**, added to what each block's feed-forward
layer says, and rank-1 adapters. All of them are made by a small network from up to 200 events, as
three decayed means of item embeddings (half-lives of 8, 32 and 128 events); scores of slices are
standardised per channel against the population.

The re-ranker reads the last 20 events, or the last 5 (`-w5`): then a plan is all that a device
knows of the rest. A Caser has no pool; its user's vector is added to its state, where its authors
add what they learned of a user.

NDCG@10 by full ranking of the test target among all items the user has not seen, ties broken at
random. The epoch of every training was chosen on validation. A first round on MovieLens-100K, one
seed, was thrown away: without averaged weights the chosen epoch was luck. No number was tuned after
that. Every training starts from a float backbone (a SASRec's is trained at 20 events, and cut to 5)
and goes on under the same recipe: the same batches, epochs at most, and rule to stop. On Amazon and
Yelp backbones have 20 to 40 epochs and methods 8 to 16, which is short of convergence for all.

*Resident* is what a device multiplies by while it ranks, scales included: with the rows of channels
that are off, the columns that would read them are away too, since what such a channel leaves is
a constant that goes into the next bias. All methods of a SASRec but the float ones hold 15,360
bytes of coded weights, which is what the backbone without a pool (`narrow`) holds at 2 bits: 2.5
bits per resident weight; a Caser has 2.1. Embeddings and norms come on top, the same for all. Keys
and values of 20 events are another 20,480 bytes in float32, those of 5 events 5,120.

| name | what it is |
| --- | --- |
| `narrow-float` | float32 without a pool, trained on like all others; `-start`: before that |
| `wide-float` | float32 with the whole pool, which no method can hold in its bytes |
| `narrow-2` | uniform 2 bits without a pool, coded matrices frozen, all else trained |
| `narrow-qat-2` | the same, trained under quantization, coded matrices too |
| `global`, `global-trained` | the best slice for everybody: learned, matrices frozen or trained |
| `personal`... | a slice for each user, see the attempts |
| `offset`... | a vector for each user; with `-slice` or `-after` beside the best shared slice |
| `codes`... | that vector in 2 bits per number: a plan for bias rows |
| `adapter-trained` | a rank-1 adapter for each user |
| `shared-after` | `offset-after` that is told nothing of the user: one learned vector |
| `:shuffled` | the same trained model with a stranger's slice or vector |
| `:random` | with a random slice of the same size, or a vector mixed from those of all users |
| `:mean` | with the channels used most, or the vector of the average user |
| `+window` | a rival that reads 20 events where a plan's device reads 5 |

A plan is personal only if it beats `:shuffled`; it is worth its bytes only if it beats the best
shared one."""
_PAIRED_NOTE = """\
Differences of NDCG@10, user by user, means over the seeds that both have; 95 % intervals and p of a
two-sided test over users, not corrected for how many tests there are. Above zero: the plan of one's
own is better."""
_SPREAD_NOTE = """\
`channels that differ`: share of pool channels in which two users' slices differ. `sd`: of a
channel being on, over users. `correlation`: of the distance of two users' slices with the distance
(1 - cosine) of what their slices were made from."""
_SHOWN_BY_HISTORY = ("offset-trained", "personal-batch-trained")
_HISTORY_NOTE = """\
NDCG@10 of `narrow-qat-2` for users with so many events before the target, and what one's own plan
gains on it."""
_DEVICE_NOTE = """\
ONNX Runtime, one thread, 20 events, 100 candidates, random weights; medians. `needed` is what the
tables above call resident. A device leaves out the rows of channels that are off and the columns
that read them: a slice holds, and takes, what no pool does. `fp32` kernels hold what is on in 32
bits."""

_REGIME_NOTE = """\
SASRec, pretrained, one seed: NDCG@10 of float32, and what is lost when its coded matrices are
rounded to 8, 4 or 2 bits and nothing is trained afterwards; W2A8 also rounds what they read to 8
bits. More, with Caser, neural-compressor and training under quantization: [planner](planner.md)."""


def sheets(result: Mapping[str, Any]) -> Iterator[Sheet]:
    """Yield the tables of a result.

    Args:
        result: What ``personal_run.run`` returned.
    """
    if result["paired"]:
        yield attempts_sheet(result["paired"])
        yield targets_sheet(result)
    keys = [(r["dataset"], r["window"], r["backbone"]) for r in result["records"]]
    for key in sorted(set(keys)):
        pairs = zip(result["records"], keys, strict=True)
        yield _quality([record for record, own in pairs if own == key])
    if result["paired"]:
        yield _paired(result["paired"])
    if result.get("by_history"):
        yield _by_history(result["by_history"])
    if result.get("device"):
        yield _device(result["device"])
    if result.get("regimes"):
        yield _regimes(result["regimes"])
    if result["spread"]:
        yield _spread(result["spread"])


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``personal_run.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)


def plots(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw the plots beside the page.

    Args:
        result: What ``personal_run.run`` returned.
        folder: Where to.

    Returns:
        Names of the pictures, in order.
    """
    return draw_all(result, folder)


def page(result: Mapping[str, Any], pictures: Sequence[str]) -> str:
    """Return the page, in Markdown.

    Args:
        result: What ``personal_run.run`` returned.
        pictures: Names of the plots beside it.
    """
    lines = [_HEAD, "", "## What was found", "", FINDINGS, "", "## How to repeat it", ""]
    lines += ["```sh", *result["command"].split(" && "), "```", ""]
    for name in pictures:
        title = name.removesuffix(".png").removeprefix("personal-").replace("-", " ")
        lines += [f"![{title}]({name})", ""]
    for sheet in sheets(result):
        lines += sheet.markdown()
    environment = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    hours = result["training_seconds"] / 3600
    lines += [f"{hours:.1f} hours on one core. Collected {result['date']} with {environment}.", ""]
    return "\n".join(lines)


def _quality(records: Sequence[Mapping[str, Any]]) -> Sheet:
    dataset, backbone, window = (records[0][key] for key in ("dataset", "backbone", "window"))
    rows = []
    for method in sorted({record["method"] for record in records}):
        own = [record for record in records if record["method"] == method]
        ndcg, spread, n_seeds = summary(own, "ndcg@10")
        rows.append(
            (
                method,
                f"{summary(own, 'effective_bits')[0]:.2f}",
                f"{ndcg:.4f} ± {spread:.4f}" if n_seeds > 1 else f"{ndcg:.4f}",
                f"{summary(own, 'hr@10')[0]:.4f}",
                f"{summary(own, 'ndcg@10_1:99')[0]:.4f}",
                f"{own[0]['plan_bytes']:,}",
                f"{own[0]['resident_bytes']:,}",
                f"{own[0]['model_bytes'] / 1e3:,.0f}",
                str(n_seeds),
            )
        )
    columns = ("method", "effective bits", "NDCG@10", "HR@10", "NDCG@10, 1:99", "plan, B")
    return Sheet(
        title=f"{dataset}, {backbone}, window {window}",
        columns=(*columns, "resident, B", "model, kB", "seeds"),
        rows=tuple(rows),
        n_text=1,
    )


def _paired(tests: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        (
            title_of(test),
            test["method"],
            test["rival"],
            f"{test['difference']:+.4f}",
            f"{test['low']:+.4f} to {test['high']:+.4f}",
            f"{test['p']:.2g}",
            str(test["n_seeds"]),
        )
        for test in tests
    )
    return Sheet(
        title="Plans of one's own against each rival",
        columns=("dataset", "method", "against", "difference", "95 % interval", "p", "seeds"),
        rows=rows,
        n_text=3,
        note=_PAIRED_NOTE,
    )


def _by_history(tests: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        (
            title_of(test),
            test["method"],
            f"{test['from']}–{test['to']}" if test["to"] else f"{test['from']}+",
            f"{test['n_users']:,}",
            f"{test['other']:.4f}",
            f"{test['difference'] / test['other']:+.1%}" if test["other"] else "–",
            f"{test['p']:.2g}",
            str(test["n_seeds"]),
        )
        for test in tests
        if test["method"] in _SHOWN_BY_HISTORY
    )
    columns = ("dataset", "method", "events", "users", "narrow-qat-2", "own", "p", "seeds")
    return Sheet(title="Who gains", columns=columns, rows=rows, n_text=2, note=_HISTORY_NOTE)


def _device(costs: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = tuple(
        (
            cost["case"],
            cost["compute"],
            f"{cost['folded_bytes']:,}",
            f"{cost['resident_bytes']:,}",
            f"{cost['rerank_us']:.0f}",
            f"{cost['observe_us']:.0f}",
        )
        for cost in costs
    )
    columns = ("case", "kernels", "needed, B", "resident, B", "rerank, us", "observe, us")
    return Sheet(
        title="What a slice costs on a device",
        columns=columns,
        rows=rows,
        note=_DEVICE_NOTE,
    )


def _regimes(found: Sequence[Mapping[str, Any]]) -> Sheet:
    widths = ("w8", "w4", "w2", "w2a8")
    sizes = ("embedding_dim", "n_blocks", "window", "ffn_multiplier")
    rows = tuple(
        (
            row["dataset"],
            *(str(row[size]) for size in sizes),
            f"{row['fp32']:.4f}",
            *(f"{row[width] / row['fp32'] - 1:+.1%}" for width in widths),
        )
        for row in sorted(found, key=lambda row: (row["dataset"], *(row[size] for size in sizes)))
    )
    return Sheet(
        title="Where precision binds",
        columns=("dataset", "D", "blocks", "window", "FFN / D", "float32", *map(str.upper, widths)),
        rows=rows,
        n_text=1,
        note=_REGIME_NOTE,
    )


def _spread(spreads: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = []
    named = [(title_of(spread), spread["method"]) for spread in spreads]
    for key in sorted(set(named)):
        own = [spread for spread, name in zip(spreads, named, strict=True) if name == key]
        rows.append(
            (
                *key,
                f"{summary(own, 'channels_that_differ')[0]:.1%}",
                f"{summary(own, 'width_std')[0]:.2f}",
                f"{summary(own, 'distinct_plans')[0]:.1%}",
                f"{summary(own, 'correlation')[0]:.2f}",
            )
        )
    return Sheet(
        title="How slices differ between users",
        columns=("dataset", "method", "channels that differ", "sd", "distinct", "correlation"),
        rows=tuple(rows),
        note=_SPREAD_NOTE,
    )
