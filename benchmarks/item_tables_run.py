# SPDX-License-Identifier: Apache-2.0
"""Scores candidates from item tables of several kinds, in NumPy and in ONNX Runtime by turns."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.environment import read_environment
from benchmarks.item_table_graphs import OPERATORS, GraphScorer, can_express
from pocketrec.errors import ConfigError
from pocketrec_quantization.item_table import Codebook, ItemTable

__all__ = ["KINDS", "NUMPY", "TableSettings", "make_table", "measure"]

NUMPY = "pocketrec (NumPy)"
"""What the product does."""

KINDS = ("int8", "int4", "shared rows, int8", "product, int8")
"""Tables: a row per item at either width, four items to a row, codebooks side by side."""

_N_CODEBOOKS, _N_ROWS = 16, 256
_CALLS = 10  # in a row: a clock tick is not noticed
_CLOSE = 1e-4

_Score = Callable[[NDArray[np.intp], NDArray[np.float32]], NDArray[np.float32]]


@dataclass(frozen=True, slots=True, kw_only=True)
class TableSettings:
    """What to measure.

    Attributes:
        items: Catalogues, V.
        embedding_dim: D, a multiple of 16.
        n_candidates: Candidates per call.
        rounds: How often every way is timed.
        seed: Of codes, states and candidates.
    """

    items: tuple[int, ...] = (12_000, 100_000)
    embedding_dim: int = 64
    n_candidates: int = 100
    rounds: int = 500
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.items or min(*self.items, self.n_candidates, self.rounds) < 1:
            raise ConfigError("items, n_candidates and rounds: expected at least 1 of each")
        if self.embedding_dim < 1 or self.embedding_dim % _N_CODEBOOKS:
            raise ConfigError(f"embedding_dim: expected a multiple of {_N_CODEBOOKS}")


def make_table(kind: str, n_items: int, embedding_dim: int, seed: int) -> ItemTable:
    """Return a table with random codes and scales.

    Args:
        kind: One of ``KINDS``.
        n_items: V.
        embedding_dim: D.
        seed: Of the codes.
    """
    rng = np.random.default_rng(seed)
    is_product = kind.startswith("product")
    width = embedding_dim // _N_CODEBOOKS if is_product else embedding_dim
    n_rows = {"shared rows, int8": n_items // 4 + 2, "product, int8": _N_ROWS}.get(
        kind, n_items + 1
    )
    bits = 4 if kind == "int4" else 8
    codebooks = tuple(
        _codebook(rng, n_rows, width, bits, begin) for begin in range(0, embedding_dim, width)
    )
    numbers = [
        None if n_rows == n_items + 1 else np.r_[0, rng.integers(1, n_rows, n_items)]
        for _ in codebooks
    ]
    ids = tuple(str(index) for index in range(n_items))
    return ItemTable(codebooks=codebooks, row_of_item=numbers, item_ids=ids, version=1)


def measure(settings: TableSettings, progress: Callable[[str], None]) -> dict[str, Any]:
    """Time every way on every table.

    Args:
        settings: What to measure.
        progress: Told what is about to run.

    Returns:
        ``records`` of ``kind``, ``n_items``, ``method``, ``p50_us``, ``p90_us``, ``ratio`` to
        NumPy, ``packed_bytes`` and ``cached_bytes``, and the facts of the run.

    Raises:
        ConfigError: Two ways give different scores.
    """
    records = []
    for n_items in settings.items:
        for kind in KINDS:
            progress(f"{kind}, {n_items:,} items")
            records += _measure_table(kind, n_items, settings)
    return {
        "command": " ".join(["python -m benchmarks.item_tables", *sys.argv[1:]]),
        "date": datetime.now(UTC).date().isoformat(),
        "settings": asdict(settings),
        "records": records,
        "environment": read_environment(),
    }


def _codebook(rng: np.random.Generator, n_rows: int, width: int, bits: int, begin: int) -> Codebook:
    largest = 2 ** (bits - 1) - 1
    codes = rng.integers(-largest, largest + 1, (n_rows, width)).astype(np.int8)
    codes[0] = 0
    scales = rng.random(n_rows, np.float32)
    return Codebook(codes=codes, scales=scales, bits=bits, begin=begin)


def _measure_table(kind: str, n_items: int, settings: TableSettings) -> list[dict[str, Any]]:
    table = make_table(kind, n_items, settings.embedding_dim, settings.seed)
    ways: dict[str, _Score] = {NUMPY: lambda indices, h: table.gather(indices).scores(h)}
    for operator in OPERATORS:
        if can_express(table, operator):
            ways[operator] = GraphScorer(table, operator, settings.n_candidates).scores
    rng = np.random.default_rng(settings.seed + 1)
    _compare(ways, table, rng, settings)
    samples: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(settings.rounds):
        calls = [_draw(table, rng, settings) for _ in range(_CALLS)]
        for name, score in ways.items():
            started = time.perf_counter_ns()
            for indices, h in calls:
                score(indices, h)
            samples[name].append((time.perf_counter_ns() - started) / _CALLS / 1e3)
    baseline = float(np.median(samples[NUMPY]))
    return [
        {
            "kind": kind,
            "n_items": n_items,
            "method": name,
            "p50_us": float(np.median(found)),
            "p90_us": float(np.percentile(found, 90)),
            "ratio": float(np.median(found)) / baseline,
            "packed_bytes": table.embedding_bytes,
            "cached_bytes": table.cached_bytes,
        }
        for name, found in samples.items()
    ]


def _draw(
    table: ItemTable, rng: np.random.Generator, settings: TableSettings
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    indices = rng.integers(1, table.n_items + 1, settings.n_candidates)
    return indices, rng.standard_normal(table.embedding_dim, np.float32)


def _compare(
    ways: dict[str, _Score], table: ItemTable, rng: np.random.Generator, settings: TableSettings
) -> None:
    indices, h = _draw(table, rng, settings)
    expected = ways[NUMPY](indices, h)
    for name, score in ways.items():
        error = float(np.abs(score(indices, h) - expected).max() / np.abs(expected).max())
        if not error <= _CLOSE:
            raise ConfigError(f"{name}: expected the scores of {NUMPY}, found {error:.1e} off")
