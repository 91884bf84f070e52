# SPDX-License-Identifier: Apache-2.0
"""Results of ``bench run`` and ``debug profile`` as their files hold them, with made numbers."""

from __future__ import annotations

from typing import Any

import numpy as np

OPERATIONS = {"single": ("step", "observe_rerank"), "offline": ("user",)}
CODED_BYTES = {"float32": 196_608, "uniform-8": 52_224, "uniform-4": 27_648, "uniform-2": 15_360}
LAYER = {
    "name": "blocks.0.q",
    "requested": {"2": 20, "8": 44},
    "stored": {"32": 64},
    "computed": "float32",
    "kernel": "Gemm",
    "is_fallback": True,
}
NDCG = {"float32": 0.39, "uniform-8": 0.385, "uniform-4": 0.386, "uniform-2": 0.31}


def sample_result(
    variants: tuple[str, ...] = tuple(CODED_BYTES), **changes: object
) -> dict[str, Any]:
    """Return a result: each variant in two scenarios, and the last one doubtful."""
    records = [
        sample_record(variant, scenario, is_valid=variant != variants[-1])
        for variant in variants
        for scenario in OPERATIONS
    ]
    hardware = {"system": "Linux", "machine": "x86_64", "cpu": "a processor", "cores": 2}
    return {
        "schema": "pocketrec.bench/1",
        "run": {"id": "1f", "label": "made", "started_at": "2026-01-01T00:00:00Z", "seconds": 9.0},
        "bundle": {"model_name": "demo", "version": 3, "digest": "ab" * 32, "kind": "sasrec"},
        "config": {"n_candidates": 100, "warmup": 20, "repeat": 3, "min_seconds": 0.5},
        "n_cases": 100,
        "baseline": variants[0],
        "records": records,
        "skipped": [{"cell": "uniform-2/executorch/balanced/1/single", "reason": "other plan"}],
        "environment": {
            "hardware": {**hardware, "governor": None},
            "versions": {"numpy": "2.4.6"},
            "load": [0.5, 0.25, 0.125],
            "n_other_cores": 0.3,
        },
    } | changes


def sample_record(
    variant: str, scenario: str = "single", *, is_valid: bool = True, **changes: object
) -> dict[str, Any]:
    """Return one record; equal names give equal numbers."""
    rng = np.random.default_rng(sum(map(ord, variant + scenario)))
    operations = OPERATIONS[scenario]
    processes = [_process(rng, operations, turn) for turn in range(3)]
    flag = {"flag": "noisy", "operation": operations[-1], "found": 0.3, "limit": 0.1}
    return {
        "cell": f"{variant}/onnxruntime/balanced/1/{scenario}",
        "variant": variant,
        "backend": "onnxruntime",
        "speed": "balanced",
        "threads": 1,
        "scenario": scenario,
        "backend_version": "1.32.0",
        "effective_bits": 4.5,
        "coded_bytes": CODED_BYTES.get(variant, 20_000),
        "plan_payload_bytes": 192,
        "plan_bytes": 343,
        "bundle_bytes": 180_000,
        "wire_bytes": 180_343,
        "disk_bytes": 190_000,
        "resident_weight_bytes": None,
        "import_ms": 150.0,
        "load_ms": 20.0,
        "first_run_ms": 3.0,
        "idle_rss_bytes": 12 * 2**20,
        "peak_rss_bytes": 70 * 2**20,
        "delta_rss_bytes": 58 * 2**20,
        "throughput_per_s": None,
        "latency_us": {name: _summary(processes, name) for name in operations},
        "computed": ["float32 (Gemm)"],
        "layers": [LAYER],
        "quality": _quality(NDCG.get(variant, 0.37)),
        "processes": processes,
        "validity": {
            "is_valid": is_valid,
            "flags": [] if is_valid else [{**flag, "text": "processes differ by 30 %"}],
        },
    } | changes


def sample_profile() -> dict[str, Any]:
    """Return a profile of two functions."""
    times = {"Gemm": 6.0, "Attention": 3.0, "Add": 1.0}
    operators = [
        {"operator": name, "node": "blocks.0.q", "p50_us": us, "trimmed_us": us, "share": us / 10}
        for name, us in times.items()
    ]
    functions = [
        {"function": name, "n_calls": 10, "call_us": 12.0, "operators": operators}
        for name in ("history", "step")
    ]
    return {
        "schema": "pocketrec.profile/1",
        "bundle": {"model_name": "demo", "version": 3},
        "plan": {"planner": "global", "subject": "", "version": 0},
        "options": {"compute": "auto", "n_warmup": 1, "n_runs": 10},
        "backend": "onnxruntime",
        "version": "1.32.0",
        "tracer": "a tracer",
        "threads": 1,
        "functions": functions,
    }


def _quality(ndcg: float) -> dict[str, Any]:
    return {
        "hr@5": 0.4,
        "hr@10": 0.5,
        "ndcg@5": 0.35,
        "ndcg@10": ndcg,
        "ndcg@10_interval": [ndcg - 0.01, ndcg + 0.01],
        "ndcg@10_change": ndcg - 0.39,
        "ndcg@10_change_interval": [ndcg - 0.394, ndcg - 0.386],
        "top10_overlap": 0.9,
        "rank_flips": 0.05,
    }


def _process(rng: np.random.Generator, operations: tuple[str, ...], turn: int) -> dict[str, Any]:
    samples = {name: (1e5 * np.exp(rng.normal(0, 0.1, 60))).astype(np.int64) for name in operations}
    return {
        "turn": turn,
        "n": dict.fromkeys(operations, 60),
        "p50_us": {name: float(np.median(each)) / 1e3 for name, each in samples.items()},
        "samples_ns": {name: " ".join(map(str, each.tolist())) for name, each in samples.items()},
    }


def _summary(processes: list[dict[str, Any]], operation: str) -> dict[str, float]:
    words = " ".join(process["samples_ns"][operation] for process in processes).split()
    times = np.array([int(word) for word in words]) / 1e3
    percentiles = {f"p{p}": float(np.percentile(times, p)) for p in (50, 90, 95, 99)}
    spread = {"min": times.min(), "max": times.max(), "mean": times.mean(), "std": times.std()}
    return {**percentiles, **{key: float(value) for key, value in spread.items()}, "n": times.size}
