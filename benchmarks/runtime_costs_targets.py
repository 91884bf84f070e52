# SPDX-License-Identifier: Apache-2.0
"""How what ``runtime_costs`` measured stands to its targets, and what bounds what missed them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

__all__ = ["resident_bits", "targets"]

MAX_RSS_BYTES = 90_000_000
MAX_START_S = 1.0
MAX_SWAP_US = 1000.0
MAX_SLATE_RATIO = 12.0
MAX_BITS_RATIO = 1.1
_HELD = {"resident_bits": "rss_bytes", "trimmed_bits": "trimmed_bytes", "peak_bits": "peak_bytes"}
_SLATE_STEPS = 9  # the last of ten picks is not taken in


def targets(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return one entry per target and model.

    Args:
        records: Of a run.

    Returns:
        ``what`` and ``wanted``, in words; ``config``; ``measured`` and ``limit``, in ``unit``;
        ``is_met``; ``bound_by``, empty where it is met.
    """
    good = [record for record in records if "error" not in record]
    found = []
    for entries in (_memory(good), _start(good), _swap(good), _slate(good), _weights(good)):
        for entry in entries:
            is_met = entry["measured"] <= entry["limit"]
            found.append(
                {**entry, "is_met": is_met, "bound_by": "" if is_met else entry["bound_by"]}
            )
    return found


def resident_bits(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return, per kernel and way of swapping, the memory that a weight takes.

    The difference between two models of as many layers, over the difference of their
    weights; so the process and its libraries fall out.

    Args:
        records: Of a run.

    Returns:
        ``compute``, ``swap``, ``kernels``; ``effective_bits``, what the plan asks for;
        ``given_bits``, what one session is given, None where kernels differ by layer; and
        measured: ``resident_bits``, ``trimmed_bits`` (freed memory given back to the system),
        ``peak_bits``.
    """
    good = [record for record in records if "error" not in record]
    builds = {record["config"]: record for record in good if record["task"] == "build"}
    counts = {record["config"]: record for record in good if record["task"] == "count"}
    weights = [record for record in good if record["task"] == "weights"]
    found = []
    for large in weights:
        key = (large["compute"], large["swap"])
        small = next((w for w in weights if (w["compute"], w["swap"]) == key), large)
        pair = (small["config"], large["config"])
        if small is large or not set(pair) <= builds.keys() & counts.keys():
            continue
        n_small, n_large = (builds[name]["n_weights"] for name in pair)
        given = counts[large["config"]]["given_bytes"].get(large["compute"])
        found.append(
            {
                "compute": large["compute"],
                "swap": large["swap"],
                "config": large["config"],
                "kernels": large["kernels"],
                "effective_bits": builds[large["config"]]["effective_bits"],
                "given_bits": None if given is None else 8 * given / n_large,
                **{
                    name: 8 * (large[key] - small[key]) / (n_large - n_small)
                    for name, key in _HELD.items()
                },
            }
        )
    return found


def _of(records: Sequence[Mapping[str, Any]], task: str) -> Iterator[Mapping[str, Any]]:
    return (record for record in records if record["task"] == task)


def _memory(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in _of(records, "memory"):
        yield {
            "what": "peak RSS of a device process",
            "wanted": "<= 90 MB",
            "config": record["config"],
            "measured": record["peak_bytes"] / 1e6,
            "limit": MAX_RSS_BYTES / 1e6,
            "unit": "MB",
            "bound_by": f"added by each step, MB: {_listed(_added(record['peak_after']), 1e6)}",
        }


def _start(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in _of(records, "start"):
        for what, key in (
            ("import to first ranking", "first_ranking_s"),
            ("the same, Python's own start included", "first_ranking_with_python_s"),
        ):
            yield {
                "what": what,
                "wanted": "<= 1 s",
                "config": record["config"],
                "measured": record[key],
                "limit": MAX_START_S,
                "unit": "s",
                "bound_by": f"parts, s: {_listed(record['parts_s'], 1)}",
            }


def _swap(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in _of(records, "swap"):
        if record["swap"] != "adapter":
            continue
        for percentile in ("p50", "p90"):
            yield {
                "what": f"plan swap with adapter, {percentile}",
                "wanted": "<= 1 ms",
                "config": record["config"],
                "measured": record["swap_us"][percentile] / 1e3,
                "limit": MAX_SWAP_US / 1e3,
                "unit": "ms",
                "bound_by": f"parts, p50 ms: {_listed(record['parts_us'], 1e3)}",
            }


def _slate(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for record in _of(records, "slate"):
        times = record["p50_us"]
        steps_us = _SLATE_STEPS * times["observe"]
        yield {
            "what": "slate of 10 from 100, sequential",
            "wanted": "<= 12 x one pointwise call",
            "config": record["config"],
            "measured": record["slate_per_rerank"],
            "limit": MAX_SLATE_RATIO,
            "unit": "x one pointwise call",
            "bound_by": (
                f"{_SLATE_STEPS} steps of the model: {steps_us:.0f} of {times['slate']:.0f} us; a "
                f"pointwise call makes none and takes {times['rerank']:.0f} us"
            ),
        }


def _weights(records: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    for entry in resident_bits(records):
        if entry["compute"] == "packed":
            yield {
                "what": f"resident weights, packed, swap={entry['swap']}",
                "wanted": "within 10 % of the plan's effective bits",
                "config": entry["config"],
                "measured": entry["resident_bits"] / entry["effective_bits"],
                "limit": MAX_BITS_RATIO,
                "unit": "x the plan's effective bits",
                "bound_by": _held(entry),
            }


def _held(entry: Mapping[str, Any]) -> str:
    bits, given, trimmed = entry["resident_bits"], entry["given_bits"], entry["trimmed_bits"]
    return (
        f"bits per weight: {given:.2f} are what a session is given (a 2-bit kernel wants a scale "
        f"for every 128 weights, a plan has one per channel), {trimmed - given:.2f} are sums "
        f"that ONNX Runtime keeps beside them and everything else that grows with the model, "
        f"{bits - trimmed:.2f} are memory that was freed"
    )


def _listed(parts: Mapping[str, float], unit: float) -> str:
    """Return parts and their values, the largest first."""
    order = sorted(parts, key=lambda part: -parts[part])
    return ", ".join(f"{part} {parts[part] / unit:.2f}" for part in order)


def _added(levels: Mapping[str, float]) -> dict[str, float]:
    """Return what each step adds to a level that only rises."""
    before = [0.0, *levels.values()]
    return {step: level - old for (step, level), old in zip(levels.items(), before, strict=False)}
