# SPDX-License-Identifier: Apache-2.0
"""Measures variants of a bundle side by side, each in fresh processes, taken in turns.

Taking turns matters: a shared machine is faster or slower by the minute, and that must
hit every variant alike. Ratios of medians within one run hold; absolute times do not
travel to another machine.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec import __version__
from pocketrec.errors import BackendError, ConfigError, IncompatibleArtifactError
from pocketrec.metrics import bootstrap_mean, hit_rate, ndcg, paired_bootstrap
from pocketrec_device.float_control import check_twin
from pocketrec_quantization.budget import coded_bytes, effective_bits
from pocketrec_quantization.bundle import DEFAULT_PLAN, MANIFEST_FILE, BundleFolder
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.plan import check_applies, decode_plan, plan_sizes

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = ["BenchConfig", "Variant", "run_bench"]

PERCENTILES = (50, 90, 95, 99)
_FLOAT_BITS = 32.0
_WORKER = Path(__file__).with_name("bench_worker.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """How to measure.

    Args:
        backend: Name of the backend.
        threads: Threads per call.
        n_candidates: Candidates per re-ranking.
        warmup: Calls before the clock starts, per operation and process.
        runs: Timed calls at least, per operation and process.
        min_seconds: Timed seconds at least, per operation and process.
        repeat: Processes per variant, taken in turns.
        seed: Seed of histories, candidates and tie-breaks.

    Raises:
        ConfigError: A count is too small.
    """

    backend: str = "onnxruntime"
    threads: int = 1
    n_candidates: int = 100
    warmup: int = 20
    runs: int = 200
    min_seconds: float = 0.5
    repeat: int = 3
    seed: int = 0

    def __post_init__(self) -> None:
        if min(self.threads, self.n_candidates, self.runs, self.repeat) < 1 or self.warmup < 0:
            raise ConfigError(f"expected every count to be at least 1, found {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One row of the table.

    Args:
        name: What the row is called; no two rows share a name.
        plan: A plan file; None is the bundle's default plan.
        float_twin: The float twin's file, to measure the float control instead.
    """

    name: str
    plan: Path | None = None
    float_twin: Path | None = None


def run_bench(
    folder: Path,
    variants: Sequence[Variant],
    config: BenchConfig,
    *,
    cases: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Measure every variant.

    Args:
        folder: The bundle's folder.
        variants: Rows, in order; the first is what the others' quality is compared with.
        config: How to measure.
        cases: Held-out users to rank; None leaves quality out.
        progress: Told what is about to run.

    Returns:
        ``records``, one per variant, and the facts of the run: command line options,
        versions, machine.

    Raises:
        ConfigError: There are no variants, or two of one name.
        ArtifactError: The bundle, a plan or the cases cannot be used.
        BackendError: A measuring process failed.
    """
    bundle = BundleFolder.open(folder)
    _refuse_equal_names(variants)
    sizes = [_sizes(bundle, variant) for variant in variants]
    if cases is not None:
        _check_cases(bundle, cases)
    measured = _measure_in_turns(folder, variants, config, cases=cases, progress=progress)
    baseline = measured[variants[0].name][0]["ranks"]
    records = [
        {"variant": variant.name, **size, **_record(measured[variant.name], baseline)}
        for variant, size in zip(variants, sizes, strict=True)
    ]
    first = measured[variants[0].name][0]
    return {
        "bundle": {
            "model_name": bundle.manifest.model_name,
            "version": bundle.manifest.version,
            "digest": bundle.digest.hex(),
        },
        "config": asdict(config),
        "n_cases": None if baseline is None else len(baseline),
        "records": records,
        "environment": _environment(first["backend"]),
    }


def _check_cases(bundle: BundleFolder, path: Path) -> None:
    cases = EvaluationCases.from_bytes(path.read_bytes())
    if cases.n_items != bundle.manifest.items.n_items:
        raise IncompatibleArtifactError(
            f"{path}: expected cases over the bundle's {bundle.manifest.items.n_items} items, "
            f"found {cases.n_items}; build both from the same data"
        )


def _refuse_equal_names(variants: Sequence[Variant]) -> None:
    names = [variant.name for variant in variants]
    if not names or len(set(names)) != len(names):
        raise ConfigError(
            f"expected one or more variants of different names, found {names}: "
            "rows are called as plan files are, the default plan's as its planner; rename a file"
        )


def _measure_in_turns(
    folder: Path,
    variants: Sequence[Variant],
    config: BenchConfig,
    *,
    cases: Path | None,
    progress: Callable[[str], None],
) -> dict[str, list[dict[str, Any]]]:
    """Return what each process of each variant measured; the first one also ranks."""
    measured: dict[str, list[dict[str, Any]]] = {variant.name: [] for variant in variants}
    for turn in range(config.repeat):
        for variant in variants:
            progress(f"{variant.name}, process {turn + 1} of {config.repeat}")
            job = _job(folder, variant, config, cases if turn == 0 else None)
            measured[variant.name].append(_measure_in_process(job))
    return measured


def _job(folder: Path, variant: Variant, config: BenchConfig, cases: Path | None) -> dict[str, Any]:
    files = {"plan": variant.plan, "float_twin": variant.float_twin, "cases": cases}
    return {
        "bundle": str(folder),
        **{key: None if path is None else str(path) for key, path in files.items()},
        **asdict(config),
    }


def _measure_in_process(job: Mapping[str, Any]) -> dict[str, Any]:
    # By path and without its folder on sys.path: "-m" would import the package, which is
    # one of the things to be timed.
    command = [sys.executable, "-P", str(_WORKER), json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  # ours
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise BackendError(f"the measuring process ended with {done.returncode}: {lines[-1]}")
    # The last line: a library may have printed something before it.
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


def _record(
    processes: Sequence[Mapping[str, Any]], baseline: Sequence[int] | None
) -> dict[str, Any]:
    operations = processes[0]["samples_us"]
    once = ("import_ms", "load_ms", "first_run_ms", "peak_rss_bytes", "idle_rss_bytes")
    return {
        **{key: float(np.median([process[key] for process in processes])) for key in once},
        "latency_us": {
            name: _summary(np.concatenate([process["samples_us"][name] for process in processes]))
            for name in operations
        },
        "computed": processes[0]["computed"],
        "quality": _quality(processes[0]["ranks"], baseline),
    }


def _sizes(bundle: BundleFolder, variant: Variant) -> dict[str, float | int]:
    """Wire and disk bytes; a float control has no plan, and its own arrays."""
    wire_bytes = sum(part.length_bytes for part in bundle.manifest.parts)
    wire_bytes += (bundle.path / MANIFEST_FILE).stat().st_size
    if variant.float_twin is not None:
        twin = FloatTwin.from_bytes(variant.float_twin.read_bytes())
        check_twin(twin, bundle, variant.float_twin)
        coded = sum(array.nbytes for array in twin.weights.values())
        size = variant.float_twin.stat().st_size
        return {
            "effective_bits": _FLOAT_BITS,
            "coded_bytes": coded,
            "plan_payload_bytes": 0,
            "plan_bytes": 0,
            "bundle_bytes": size,
        }
    content = bundle.read(DEFAULT_PLAN) if variant.plan is None else variant.plan.read_bytes()
    plan, sizes = decode_plan(content), plan_sizes(content)
    check_applies(plan, bundle.manifest.layers, bundle.model_digest)
    return {
        "effective_bits": effective_bits(plan.layers, plan.widths),
        "coded_bytes": coded_bytes(plan.layers, plan.widths),
        "plan_payload_bytes": sizes.payload_bytes,
        "plan_bytes": sizes.total_bytes,
        "bundle_bytes": wire_bytes,
    }


def _summary(samples: NDArray[np.float64]) -> dict[str, float]:
    return {
        **{f"p{p}": float(np.percentile(samples, p)) for p in PERCENTILES},
        "min": float(samples.min()),
        "max": float(samples.max()),
        "mean": float(samples.mean()),
        "std": float(samples.std()),
        "n": int(samples.size),
    }


def _quality(ranks: Sequence[int] | None, baseline: Sequence[int] | None) -> dict[str, Any] | None:
    if ranks is None or baseline is None:
        return None
    own, other = np.array(ranks), np.array(baseline)
    interval = bootstrap_mean(ndcg(own, 10))
    change = paired_bootstrap(ndcg(own, 10), ndcg(other, 10))
    return {
        "hr@5": float(hit_rate(own, 5).mean()),
        "hr@10": float(hit_rate(own, 10).mean()),
        "ndcg@5": float(ndcg(own, 5).mean()),
        "ndcg@10": interval.mean,
        "ndcg@10_interval": [interval.low, interval.high],
        "ndcg@10_change": change.mean,
        "ndcg@10_change_interval": [change.low, change.high],
    }


def _environment(backend: str) -> dict[str, object]:
    return {
        "backend": backend,
        "pocketrec": __version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }
