# SPDX-License-Identifier: Apache-2.0
"""Measures bundles, plans and other runtimes on this machine, and compares what was measured.

    grid = Grid(variants=(Variant(name="default"),))
    result = run_bench(Side(folder=Path("bundle"), grid=grid), BenchConfig())
    result["records"][0]["latency_us"]["observe_rerank"]["p50"]

``docs/benchmarking.md`` has the result file and the rules. Every module is one concept:
``config``, ``cells`` and ``demo_files`` say what to measure; ``run`` and ``processes`` take
turns; ``worker`` is one process, ``scenarios`` what it times, ``yardstick`` how fast the
machine was meanwhile; ``sizes``, ``quality``, ``samples`` and ``validity`` make records of
it; ``result`` reads them, ``decision`` and ``compare`` judge two; ``peers`` finds other
runtimes.

Measuring processes import parts of this package, so it imports nothing before it is asked.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pocketrec_device.bench.cells import Grid, Variant
    from pocketrec_device.bench.config import BenchConfig
    from pocketrec_device.bench.result import BenchResult, read_result
    from pocketrec_device.bench.run import Side, run_bench, run_sides

__all__ = [
    "BenchConfig",
    "BenchResult",
    "Grid",
    "Side",
    "Variant",
    "read_result",
    "run_bench",
    "run_sides",
]

_HOMES = {
    "BenchConfig": "config",
    "BenchResult": "result",
    "Grid": "cells",
    "Side": "run",
    "Variant": "cells",
    "read_result": "result",
    "run_bench": "run",
    "run_sides": "run",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
