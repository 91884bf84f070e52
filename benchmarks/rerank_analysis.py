# SPDX-License-Identifier: Apache-2.0
"""What follows from the times: ratios to the best peer, and distances to the machine's bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.shapes import Shape

__all__ = ["OURS", "TARGETS", "TOLERANCE", "Work", "bounds", "merge", "ratios", "work_of"]

OURS = ("pocketrec-step", "pocketrec-cold")

TARGETS: Mapping[tuple[str, str], float] = {
    ("64x50x2", "pocketrec-step"): 4.0,
    ("64x200x2", "pocketrec-step"): 10.0,
    ("128x200x2", "pocketrec-step"): 10.0,
    ("256x200x4", "pocketrec-step"): 15.0,
    **{
        (config, "pocketrec-cold"): 1.3
        for config in ("64x50x2", "64x200x2", "128x200x2", "256x200x4")
    },
}
"""How many times faster than the best peer, by configuration and method."""

TOLERANCE = 1e-5
"""Of float32 peers' scores, as a share of the largest score."""

_TIMES = ("p50_us", "p90_us", "p99_us")


def merge(rounds: Sequence[Mapping[str, Any]], *, is_exact: bool) -> dict[str, Any]:
    """Return the record of one method and configuration from its processes.

    Args:
        rounds: What each process measured, or ``{"error": ...}``, in order.
        is_exact: Whether its scores must be the reference's.

    Returns:
        Medians over processes of times and peak memory, the sum of ``n``, the worst error,
        and ``rounds``, the times of each; with ``error`` when something is wrong, and then
        possibly nothing else.
    """
    failed = [one["error"] for one in rounds if "error" in one]
    if failed:
        return {"error": failed[0]}
    record: dict[str, Any] = {
        **{key: float(np.median([one[key] for one in rounds])) for key in (*_TIMES, "cpu_share")},
        "rss_bytes": int(np.median([one["rss_bytes"] for one in rounds])),
        "n": sum(one["n"] for one in rounds),
        "max_abs_error": max(one["max_abs_error"] for one in rounds),
        "max_abs_score": rounds[0]["max_abs_score"],
        "top10_overlap": min(one["top10_overlap"] for one in rounds),
        **{key: rounds[0][key] for key in ("computed", "stored_bits") if key in rounds[0]},
        "rounds": [{key: one[key] for key in (*_TIMES, "n", "cpu_share")} for one in rounds],
    }
    allowed = TOLERANCE * record["max_abs_score"]
    if is_exact and not record["max_abs_error"] <= allowed:
        record["error"] = {
            "task": "compare",
            "type": "Disagreement",
            "message": f"scores differ from the reference's by {record['max_abs_error']:.2g}, "
            f"expected at most {allowed:.2g}",
        }
    return record


def ratios(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Compare ours with the best peer, round by round.

    The best peer of a round is the one with the smallest p50 in it, of all that have no
    error, quantized ones included.

    Args:
        records: What the run measured, all methods and configurations.

    Returns:
        Per configuration and method of ours: ``ratio``, the median over rounds of best peer
        p50 / our p50, with ``min`` and ``max``; ``best_peer``, by the median over rounds;
        ``target`` and ``is_met``, None where there is none.
    """
    found = []
    measured = [record for record in records if "rounds" in record and "error" not in record]
    for own in (record for record in measured if record["method"] in OURS):
        peers = [r for r in measured if r["config"] == own["config"] and r["method"] not in OURS]
        if not peers:
            continue
        by_round = [
            min(peer["rounds"][number]["p50_us"] for peer in peers) / one["p50_us"]
            for number, one in enumerate(own["rounds"])
        ]
        ratio = float(np.median(by_round))
        target = TARGETS.get((own["config"], own["method"]))
        found.append(
            {
                "config": own["config"],
                "method": own["method"],
                "best_peer": min(peers, key=lambda peer: float(peer["p50_us"]))["method"],
                "ratio": ratio,
                "min": min(by_round),
                "max": max(by_round),
                "target": target,
                "is_met": None if target is None else ratio >= target,
            }
        )
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What a computation cannot do without.

    Attributes:
        flops: Multiplications and additions of matrix products.
        n_bytes: Weights, cached keys and values and candidates, each read once.
    """

    flops: int
    n_bytes: int


def work_of(shape: Shape, *, weight_bits: float = 32.0) -> dict[str, Work]:
    """Count by method: ``pocketrec-step``, ``pocketrec-cold``, and ``peer``.

    Six matrices of (D, D) a block, for the feed-forward layer is D wide. A cold start
    needs queries, feed-forward and output of the last block for one row only, and half of
    each square of attention; a peer computes all of it, as exported.

    Args:
        shape: The shape of the model.
        weight_bits: Stored per weight.
    """
    d, window, blocks = shape.d, shape.window, shape.blocks
    scoring = 2 * shape.n_candidates * d
    weights = int(blocks * 6 * d * d * weight_bits / 8)
    cache = blocks * 2 * window * d * 4
    candidates = shape.n_candidates * d * 4
    one_row = 12 * d * d + 4 * window * d
    whole = window * 12 * d * d
    causal = 2 * window * (window + 1) * d
    last = window * 4 * d * d + 8 * d * d + 4 * window * d
    histories = window * d * 4
    return {
        "pocketrec-step": Work(
            flops=blocks * one_row + scoring, n_bytes=weights + cache + candidates
        ),
        "pocketrec-cold": Work(
            flops=(blocks - 1) * (whole + causal) + last + scoring,
            n_bytes=weights + cache + candidates + histories,
        ),
        "peer": Work(
            flops=blocks * (whole + 4 * window * window * d) + scoring,
            n_bytes=blocks * 6 * d * d * 4 + candidates + histories,
        ),
    }


def bounds(
    records: Sequence[Mapping[str, Any]], shapes: Sequence[Shape], machine: Mapping[str, Any]
) -> list[dict[str, Any]]:
    """Say how far each time is from what the machine could do.

    The bound is the larger of two times: the arithmetic at the rate of a large float32
    product, and the bytes at the reading rate of the smallest level of memory that holds
    them. It is one for float32: int8 arithmetic could be below it.

    Args:
        records: What the run measured.
        shapes: The configurations.
        machine: What ``measure_machine`` returned.

    Returns:
        One entry per configuration for ours and for the best peer.
    """
    found = []
    for shape in shapes:
        here = [r for r in records if r["config"] == shape.name and "p50_us" in r]
        peers = [r for r in here if r["method"] not in OURS and "error" not in r]
        chosen = [r for r in here if r["method"] in OURS]
        chosen += [min(peers, key=lambda peer: float(peer["p50_us"]))] if peers else []
        for record in chosen:
            work = work_of(shape, weight_bits=record.get("stored_bits", 32.0))
            need = work[record["method"] if record["method"] in OURS else "peer"]
            level = _level(need.n_bytes, machine)
            flops_us = need.flops / machine["gflops_best"] / 1e3
            bytes_us = need.n_bytes / level["read_gb_s"] / 1e3
            bound_us = max(flops_us, bytes_us)
            found.append(
                {
                    "config": shape.name,
                    "method": record["method"],
                    "flops": need.flops,
                    "bytes": need.n_bytes,
                    "level": level["level"],
                    "flops_us": flops_us,
                    "bytes_us": bytes_us,
                    "bound_us": bound_us,
                    "p50_us": record["p50_us"],
                    "distance": record["p50_us"] / bound_us,
                }
            )
    return found


def _level(n_bytes: int, machine: Mapping[str, Any]) -> Mapping[str, Any]:
    levels: list[Mapping[str, Any]] = list(machine["bandwidth"])
    for level in levels[:-1]:
        if n_bytes <= machine["caches"][level["level"]]:
            return level
    return levels[-1]
