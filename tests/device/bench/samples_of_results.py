# SPDX-License-Identifier: Apache-2.0
"""Results to compare: a real one, and ones whose numbers are chosen."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

EXAMPLE = Path(__file__).with_name("result.json")
"""A real result of five rows, three processes each, with few samples."""


def example() -> dict[str, Any]:
    """Return the real result."""
    result: dict[str, Any] = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    return result


def chosen(
    times_us: list[float],
    *,
    pair_id: str = "",
    yardstick_us: float = 40.0,
    run_id: str = "run",
    **record: Any,
) -> dict[str, Any]:
    """Return a result of one row whose processes took these times for one operation.

    Args:
        times_us: One median per process, microseconds.
        pair_id: Of the run.
        yardstick_us: Of every process.
        run_id: Of the run.
        record: Keys of the record to change.
    """
    result = copy.deepcopy(example())
    result["run"] |= {"id": run_id, "pair_id": pair_id}
    row = result["records"][-1]
    process = row["processes"][0]
    row["processes"] = [
        process
        | {
            "turn": turn,
            "p50_us": {"rerank": time},
            "samples_ns": {"rerank": "1"},
            "yardstick_us": yardstick_us,
        }
        for turn, time in enumerate(times_us)
    ]
    result["records"] = [row | record]
    return result
