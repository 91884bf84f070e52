# SPDX-License-Identifier: Apache-2.0
"""How a run of ``rerank`` is shown: the same tables for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "sheets"]

FULL_REPEAT, FULL_SECONDS, FULL_RUNS = 3, 0.5, 200

_INTRODUCTION = """\
One user, one thread, 100 candidates, the best 10. `pocketrec-step` takes in one new event and
ranks, on a full window. `pocketrec-cold` starts from nothing: reset, the whole window, rank.
A peer runs the whole window through the same network as an engineer would export it: one
graph with static sizes, all blocks in full, the last position against the candidates. All
compute with the same weights, those of the bundle's default plan dequantized, over the same
dequantized item embeddings. The weights are random: only time is measured, and answers are
compared with the reference executor's.

In the clock, for all alike: looking up the new event and the 100 candidates by their ids, the
inference, and the ids of the best 10. A peer's app keeps its window as indices and shifts it by
one event; only `pocketrec-cold` looks up the whole window. Peers get buffers allocated once,
bound inputs and outputs where that is faster (ONNX Runtime), masks and position biases folded
into constants, and the fastest of their own settings that was found.

Within the first L events all of these are the same function. After that, `pocketrec-step`
still knows what its deeper blocks took from events that have left the window; a peer forgets
them. Agreement is checked on L events.

Models are named by dimensions D, window L and blocks: D x L x blocks.

Times are medians over rounds of each process's percentile; memory is the peak of the
process, of which ExecuTorch's and torch's rows carry torch itself. Ratios are taken within a
round, so that they hold on a shared machine; absolute times do not travel."""


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """Return the tables of a run.

    Args:
        result: What ``Benchmark.run`` returned.
    """
    found = [
        _targets(result["ratios"]),
        *(_times(str(config), result["records"]) for config in result["settings"]["configs"]),
        _breakdown(result["breakdown"]),
        _bounds(result["bounds"]),
        *_machine(result["machine"]),
    ]
    return [sheet for sheet in found if sheet.rows]


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``Benchmark.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)
    for line in (*_troubles(result["records"]), _trial(result), _surroundings(result)):
        if line:
            console.print(line)


def page(result: Mapping[str, Any]) -> str:
    """Return the run as a page of Markdown.

    Args:
        result: What ``Benchmark.run`` returned.
    """
    lines = ["# Re-ranking: time against other runtimes", ""]
    if _trial(result):
        lines += [f"**{_trial(result)}**", ""]
    lines += [_INTRODUCTION, "", "```sh", result["command"], "```", ""]
    for sheet in sheets(result):
        lines += sheet.markdown()
    troubles = list(_troubles(result["records"]))
    if troubles:
        lines += ["## Not measured", "", *(f"- {trouble}" for trouble in troubles), ""]
    return "\n".join([*lines, f"{result['date']}. {_surroundings(result)}", ""])


def _short(microseconds: float) -> str:
    return f"{microseconds:.1f}" if microseconds < 100 else f"{microseconds:.0f}"


def _targets(found: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = []
    for one in found:
        target = "–" if one["target"] is None else f"{one['target']:g}"
        verdict = {True: "yes", False: "no", None: "–"}[one["is_met"]]
        span = f"{one['min']:.2f}–{one['max']:.2f}"
        rows.append(
            (
                one["config"],
                one["method"],
                one["best_peer"],
                f"{one['ratio']:.2f}",
                span,
                target,
                verdict,
            )
        )
    return Sheet(
        title="Times faster than the best peer",
        columns=("model", "method", "best peer", "ratio", "min–max", "target", "met"),
        rows=tuple(rows),
        n_text=3,
        note="p50 of the best peer / ours, per round; the median of rounds.",
    )


def _times(config: str, records: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = [
        (
            record["method"],
            *(_short(record[key]) for key in ("p50_us", "p90_us", "p99_us")),
            f"{record['cpu_share']:.2f}",
            f"{record['rss_bytes'] / 2**20:.0f}",
            f"{record['bundle_or_model_bytes'] / 1e6:.2f}",
            f"{record['max_abs_error']:.0e}",
            f"{record['top10_overlap']:.2f}",
            str(record["n"]),
        )
        for record in records
        if record["config"] == config and "p50_us" in record
    ]
    columns = (
        *("method", "p50\nμs", "p90\nμs", "p99\nμs", "CPU\nshare", "peak\nMiB", "model\nMB"),
        *("max\nerror", "top-10\nkept", "calls"),
    )
    scores = [r["max_abs_score"] for r in records if r["config"] == config and "p50_us" in r]
    computed = {text for r in records if r["config"] == config for text in r.get("computed", ())}
    note = f"The largest score is {max(scores):.2f}." if scores else ""
    if computed:
        note += f" pocketrec computes in {', '.join(sorted(computed))}."
    return Sheet(title=f"Model {config}", columns=columns, rows=tuple(rows), n_text=1, note=note)


def _breakdown(found: Mapping[str, Mapping[str, Any]]) -> Sheet:
    rows = []
    for config, pieces in found.items():
        if "error" in pieces:
            continue
        rows.append((config, *(f"{pieces[key]:.1f}" for key in _PIECES)))
    return Sheet(
        title="Where a step's time goes, p50 μs",
        columns=("model", *_PIECES.values()),
        rows=tuple(rows),
        n_text=1,
        note="For scale: looking up 100 ids with one dictionary, choosing 10 of 100 scores, and "
        "one call of ONNX Runtime on an empty graph with bound arrays.",
    )


_PIECES = {
    "observe_rerank_us": "observe +\nrerank",
    "observe_us": "observe",
    "rerank_us": "rerank",
    "look_up_us": "100\nlook-ups",
    "best_us": "best\n10",
    "empty_ort_call_us": "empty\nORT call",
}


def _bounds(found: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Distance to the machine's bounds",
        columns=(
            *("model", "method", "level", "MFLOP", "kB", "FLOPs\nμs", "bytes\nμs", "p50\nμs"),
            "p50 /\nbound",
        ),
        rows=tuple(
            (
                one["config"],
                one["method"],
                one["level"],
                f"{one['flops'] / 1e6:.2f}",
                f"{one['bytes'] / 1e3:,.0f}",
                _short(one["flops_us"]),
                f"{one['bytes_us']:.1f}",
                _short(one["p50_us"]),
                f"{one['distance']:.1f}",
            )
            for one in found
        ),
        n_text=3,
        note="The bound is the larger of both times, at the rates below: float32 arithmetic, and "
        "every weight, cached key and value, and candidate row read once from the level that "
        "holds them.",
    )


def _machine(machine: Mapping[str, Any]) -> Iterator[Sheet]:
    if "error" in machine:
        return
    yield Sheet(
        title="One thread of this machine: arithmetic",
        columns=("float32 product", "GFLOP/s"),
        rows=tuple((name, f"{rate:.0f}") for name, rate in machine["gflops"].items()),
        n_text=1,
        note=f"The bounds use {machine['gflops_best_of']}.",
    )
    yield Sheet(
        title="One thread of this machine: memory",
        columns=("level", "working set kB", "read GB/s", "copy GB/s"),
        rows=tuple(
            (
                one["level"],
                f"{one['bytes'] / 1e3:,.0f}",
                f"{one['read_gb_s']:.1f}",
                f"{one['copy_gb_s']:.1f}",
            )
            for one in machine["bandwidth"]
        ),
        n_text=1,
        note="Read is an inner product; copy counts what is read and what is written.",
    )


def _troubles(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record in records:
        name = f"{record['method']} at {record['config']}"
        if "skipped" in record:
            yield f"{name}: {record['skipped']}"
        elif "error" in record:
            error = record["error"]
            yield f"{name}: {error['task']} failed with {error['type']}: {error['message']}"


def _trial(result: Mapping[str, Any]) -> str:
    """Return a warning if the run was too short to be quoted."""
    settings = result["settings"]
    is_full = (
        settings["repeat"] >= FULL_REPEAT
        and settings["min_seconds"] >= FULL_SECONDS
        and settings["min_runs"] >= FULL_RUNS
    )
    return "" if is_full else "A trial run: too short to be quoted."


def _surroundings(result: Mapping[str, Any]) -> str:
    settings, facts = result["settings"], result["environment"]
    environment = ", ".join(f"{key} {value}" for key, value in facts.items() if value != "")
    return (
        f"{settings['repeat']} round(s), {settings['n_items']:,} items, at least "
        f"{settings['min_runs']} calls and {settings['min_seconds']:g} s per "
        f"process; {environment}."
    )
