# SPDX-License-Identifier: Apache-2.0
"""How a run of ``runtime_costs`` is shown: the same tables for a terminal and for a page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from benchmarks.runtime_costs_run import job_name
from benchmarks.runtime_costs_targets import resident_bits
from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "sheets"]

FULL_REPEAT, FULL_SECONDS = 3, 0.5

_INTRODUCTION = """\
One user, one thread, ONNX Runtime on the CPU, 100 candidates. Every figure is the median over
fresh processes, of a percentile where one is named. Weights are drawn from a seed and were
never trained: what is measured does not depend on their values. Models are named by
dimensions D, window L and blocks: D x L x blocks. MB are millions of bytes. Plans have 3 bits
per weight on average, and two plans that take turns have as many channels of each width in a
layer, which `compute=packed` needs to swap without new sessions.

A target that is missed stays as it was written, with what bounds it."""

_SWAP_NOTE = """\
From plan bytes in memory to the first moment the new plan ranks, the window full. It starts
from the engine that runs, as a change of preset does; a sync builds the bundle's graphs anew
for its test vectors, and takes longer. "auto" decides by measurement at the first start."""

_KERNEL_NOTE = """\
Kernels of every product, or per product the fastest ("auto"); swap=auto. Fewer bits are not
faster in general: they pay where one row meets a wide matrix, and cost time elsewhere."""

_WEIGHTS_NOTE = """\
Resident: memory of a process with a large model minus that of one with a small model of as
many layers, by the difference in weights, with one session that has seen a history and a step.
Trimmed: the same once freed memory was given back to the system. Given: what one such session
is given under the plan, scales included."""


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """Return the tables of a run that have rows.

    Args:
        result: What ``Costs.run`` returned.
    """
    records = [record for record in result["records"] if "error" not in record]
    found = [
        _targets(result["targets"]),
        _memory(records),
        _start(records),
        _swaps(records),
        _parts(records),
        _slates(records),
        _kernels(records),
        _weights(records),
    ]
    return [sheet for sheet in found if sheet.rows]


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``Costs.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)
    for line in (
        *_bounds(result["targets"]),
        *_troubles(result["records"]),
        _trial(result),
        _surroundings(result),
    ):
        if line:
            console.print(line, markup=False)


def page(result: Mapping[str, Any]) -> str:
    """Return the run as a page of Markdown.

    Args:
        result: What ``Costs.run`` returned.
    """
    lines = ["# The runtime: memory, start, swaps and slates", ""]
    if _trial(result):
        lines += [f"**{_trial(result)}**", ""]
    lines += [_INTRODUCTION, "", "```sh", result["command"], "```", ""]
    first, *others = [sheet.markdown() for sheet in sheets(result)] or [[]]
    bounds = [f"- {line}" for line in _bounds(result["targets"])]
    lines += first
    if bounds:
        lines += ["## What bounds the targets that were missed", "", *bounds, ""]
    lines += [line for other in others for line in other]
    troubles = list(_troubles(result["records"]))
    if troubles:
        lines += ["## Not measured", "", *(f"- {trouble}" for trouble in troubles), ""]
    return "\n".join([*lines, f"{result['date']}. {_surroundings(result)}", ""])


def _targets(found: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Targets",
        columns=("what", "model", "target", "measured", "met"),
        rows=tuple(
            (
                entry["what"],
                entry["config"],
                entry["wanted"],
                f"{entry['measured']:.2f} {entry['unit']}",
                "yes" if entry["is_met"] else "MISSED",
            )
            for entry in found
        ),
        n_text=5,
    )


def _bounds(found: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for entry in found:
        if not entry["is_met"]:
            yield f"{entry['what']}, {entry['config']}: {entry['bound_by']}."


def _memory(records: Sequence[Mapping[str, Any]]) -> Sheet:
    found = [record for record in records if record["task"] == "memory"]
    steps = list(found[0]["peak_after"]) if found else []
    return Sheet(
        title="Peak memory so far, MB",
        columns=("model", *steps),
        rows=tuple(
            (record["config"], *(f"{record['peak_after'][step] / 1e6:.1f}" for step in steps))
            for record in found
        ),
        n_text=1,
        note="In this order: Python itself, the import, the store opened, 200 events, 200 "
        "rankings, one slate, one change of preset.",
    )


def _start(records: Sequence[Mapping[str, Any]]) -> Sheet:
    found = [record for record in records if record["task"] == "start"]
    parts = list(found[0]["parts_s"]) if found else []
    return Sheet(
        title="From nothing to the first ranking, s",
        columns=("model", *parts, "without Python's start", "with it"),
        rows=tuple(
            (
                record["config"],
                *(f"{record['parts_s'][part]:.3f}" for part in parts),
                f"{record['first_ranking_s']:.3f}",
                f"{record['first_ranking_with_python_s']:.3f}",
            )
            for record in found
        ),
        n_text=1,
        note="The store was opened on this device before, so kernels are not measured again.",
    )


def _swaps(records: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Swapping the plan, and changing the preset, ms",
        columns=("model", "swap", "plan p50", "plan p90", "preset p50", "preset p90"),
        rows=tuple(
            (
                record["config"],
                record["swap"],
                *(f"{record['swap_us'][each] / 1e3:.2f}" for each in ("p50", "p90")),
                *(f"{record['preset_us'][each] / 1e3:.2f}" for each in ("p50", "p90")),
            )
            for record in records
            if record["task"] == "swap"
        ),
        note=_SWAP_NOTE,
    )


def _parts(records: Sequence[Mapping[str, Any]]) -> Sheet:
    found = [record for record in records if record["task"] == "swap"]
    parts = list(found[0]["parts_us"]) if found else []
    return Sheet(
        title="Where a plan swap's time goes, p50 ms",
        columns=("model", "swap", *parts),
        rows=tuple(
            (
                record["config"],
                record["swap"],
                *(f"{record['parts_us'][part] / 1e3:.2f}" for part in parts),
            )
            for record in found
        ),
        note="Decode and check the plan; make its weights, or sessions that hold them; allocate "
        "and bind a state; take in the last L events again.",
    )


def _slates(records: Sequence[Mapping[str, Any]]) -> Sheet:
    names = ("rerank", "observe", "observe + rerank", "slate")
    return Sheet(
        title="A slate of 10 from 100 candidates, p50 us",
        columns=("model", *names, "slate / rerank", "slate / (observe + rerank)"),
        rows=tuple(
            (
                record["config"],
                *(f"{record['p50_us'][name]:.0f}" for name in names),
                f"{record['slate_per_rerank']:.1f}",
                f"{record['slate_per_observe_rerank']:.1f}",
            )
            for record in records
            if record["task"] == "slate"
        ),
        n_text=1,
        note="A slate takes nine of its ten picks in, one step of the model each; a pointwise "
        "ranking takes no step, for its event was observed before. All four are timed in turns.",
    )


def _kernels(records: Sequence[Mapping[str, Any]]) -> Sheet:
    return Sheet(
        title="Time by kernel, us",
        columns=("model", "compute", "step p50", "step p90", "L events p50", "L events p90"),
        rows=tuple(
            (
                record["config"],
                record["compute"],
                *(f"{record['step_us'][each]:.0f}" for each in ("p50", "p90")),
                *(f"{record['prefill_us'][each]:.0f}" for each in ("p50", "p90")),
            )
            for record in records
            if record["task"] == "kernels"
        ),
        note=_KERNEL_NOTE,
    )


def _weights(records: Sequence[Mapping[str, Any]]) -> Sheet:
    rows = []
    for entry in resident_bits(records):
        given = "–" if entry["given_bits"] is None else f"{entry['given_bits']:.2f}"
        rows.append(
            (
                entry["compute"],
                entry["swap"],
                f"{entry['effective_bits']:.2f}",
                given,
                *(f"{entry[key]:.1f}" for key in ("resident_bits", "trimmed_bits", "peak_bits")),
                f"{entry['resident_bits'] / entry['effective_bits']:.1f}",
            )
        )
    return Sheet(
        title="Memory per weight, bits",
        columns=(
            *("compute", "swap", "plan", "given to a session"),
            *("resident", "trimmed", "peak", "resident / plan"),
        ),
        rows=tuple(rows),
        note=_WEIGHTS_NOTE,
    )


def _troubles(records: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    for record in records:
        if "error" in record:
            yield f"{job_name(dict(record))}: {record['error']}"


def _trial(result: Mapping[str, Any]) -> str:
    """Return a warning if the run was too short to be quoted."""
    settings = result["settings"]
    is_full = settings["repeat"] >= FULL_REPEAT and settings["min_seconds"] >= FULL_SECONDS
    return "" if is_full else "A trial run: too short to be quoted."


def _surroundings(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    facts = ", ".join(f"{key} {value}" for key, value in result["environment"].items() if value)
    return (
        f"{settings['repeat']} round(s), {settings['n_items']:,} items, at least "
        f"{settings['min_runs']} calls and {settings['min_seconds']:g} s per figure; {facts}."
    )
