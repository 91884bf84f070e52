# SPDX-License-Identifier: Apache-2.0
"""Compares plans of one bundle by the ratio of their median times."""

from __future__ import annotations

import argparse
from pathlib import Path

from pocketrec_device.bench import BenchConfig, Grid, Side, Variant, run_bench


def main() -> None:
    """Measure the default plan and the plans given."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("bundle", type=Path, help="folder of a bundle")
    parser.add_argument("plan", type=Path, nargs="*", help="plan files to compare with its own")
    parser.add_argument("--runs", type=int, default=200, help="timed calls per process")
    arguments = parser.parse_args()
    run(arguments.bundle, arguments.plan, arguments.runs)


def run(bundle: Path, plans: list[Path], n_runs: int) -> None:
    """Print one line per plan; the default plan is the unit."""
    variants = (Variant(name="default"), *(Variant(name=p.stem, plan=p) for p in plans))
    config = BenchConfig(runs=n_runs, min_seconds=0.0, repeat=2)
    records = run_bench(Side(folder=bundle, grid=Grid(variants=variants)), config)["records"]
    unit_us = records[0]["latency_us"]["observe_rerank"]["p50"]
    for record in records:
        latency_us = record["latency_us"]["observe_rerank"]
        print(
            f"{record['variant']}: {record['effective_bits']:.2f} effective bits, "
            f"{record['coded_bytes']:,} bytes of coded weights, observe + rerank "
            f"{latency_us['p50'] / unit_us:.2f} times the default's"
        )


if __name__ == "__main__":
    main()
