# SPDX-License-Identifier: Apache-2.0
"""Makes one record of what the processes of a cell measured."""

from __future__ import annotations

from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_device.bench.quality import quality_of
from pocketrec_device.bench.result import ONCE
from pocketrec_device.bench.samples import encode_samples, summarise, thin
from pocketrec_device.bench.sizes import resident_weight_bytes
from pocketrec_device.bench.validity import flags_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pocketrec_device.bench.cells import Cell
    from pocketrec_quantization.layers import LayerTable

__all__ = ["record_of"]

_AS_MEASURED = (
    "turn",
    "started_at",
    "import_ms",
    "load_ms",
    "first_run_ms",
    "idle_rss_bytes",
    "loaded_rss_bytes",
    "peak_rss_bytes",
    "yardsticks_us",
    "cpu_share",
    "n_other_cores",
    "n_throttled",
    "throughput_per_s",
)


def record_of(
    cell: Cell,
    measured: Sequence[Mapping[str, Any]],
    *,
    sizes: Mapping[str, float],
    layers: LayerTable,
    kept_samples: int,
    ranking: Mapping[str, Any] | None,
    baseline: Sequence[int] | None,
) -> dict[str, Any]:
    """Return a cell's record, as docs/benchmarking.md has it.

    Args:
        cell: What was measured.
        measured: What ``worker.measure`` returned, one per process, with ``turn``.
        sizes: What ``sizes_of`` returned.
        layers: The model's layers.
        kept_samples: Single calls to keep, per operation and process.
        ranking: What ``rank_cases`` returned, or None.
        baseline: Ranks of the baseline, or None.
    """
    processes = [_process(one, kept_samples) for one in measured]
    first = measured[0]
    rates = [one["throughput_per_s"] for one in measured if one["throughput_per_s"] is not None]
    flags = flags_of(processes)
    return {
        "cell": cell.name,
        "variant": cell.variant.name,
        "backend": cell.backend,
        "speed": cell.speed,
        "threads": cell.threads,
        "scenario": cell.scenario,
        "backend_version": first["backend_version"],
        **sizes,
        "resident_weight_bytes": (
            None if cell.is_peer else resident_weight_bytes(layers, first["layers"])
        ),
        **{key: float(median(one[key] for one in processes)) for key in ONCE},
        "throughput_per_s": median(rates) if rates else None,
        "latency_us": {
            name: summarise(np.concatenate([one["samples_ns"][name] for one in measured]))
            for name in first["samples_ns"]
        },
        "computed": sorted({f"{one['computed']} ({one['kernel']})" for one in first["layers"]}),
        "layers": [{**one, "is_fallback": _is_fallback(one)} for one in first["layers"]],
        "quality": quality_of(ranking, baseline),
        "processes": processes,
        "validity": {"is_valid": not flags, "flags": [flag.to_json() for flag in flags]},
    }


def _process(one: Mapping[str, Any], kept_samples: int) -> dict[str, Any]:
    samples = {name: np.array(found, np.int64) for name, found in one["samples_ns"].items()}
    return {
        **{key: one[key] for key in _AS_MEASURED},
        "delta_rss_bytes": one["peak_rss_bytes"] - one["idle_rss_bytes"],
        "yardstick_us": median(one["yardsticks_us"]),
        "n": {name: len(found) for name, found in samples.items()},
        "p50_us": {name: float(np.median(found)) / 1e3 for name, found in samples.items()},
        "samples_ns": {
            name: encode_samples(thin(found, kept_samples)) for name, found in samples.items()
        },
    }


def _is_fallback(report: Mapping[str, Any]) -> bool:
    """Whether a layer is not kept and computed in the widths its plan asks for."""
    is_kept = {k: v for k, v in report["stored"].items() if v} == {
        k: v for k, v in report["requested"].items() if v
    }
    return not is_kept or report["computed"] == "float32"
