# SPDX-License-Identifier: Apache-2.0
"""The result file of ``bench run``: its version, and a checked view of what it holds.

A result is plain JSON, and programs may read it as such; ``docs/benchmarking.md`` lists its
keys. This view holds what a comparison needs, so that a file of something else, or of a
release that means something else by the same keys, is refused with a reason.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["ONCE", "SCHEMA", "BenchResult", "CellRecord", "ProcessRecord", "read_result"]

SCHEMA = "pocketrec.bench/1"
"""What a result file declares to be; the number rises when a key changes its meaning."""

ONCE = (
    "import_ms",
    "load_ms",
    "first_run_ms",
    "idle_rss_bytes",
    "peak_rss_bytes",
    "delta_rss_bytes",
)
"""What every process measures once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessRecord:
    """What one process of a cell measured.

    Args:
        turn: From 0; processes of one turn ran right after each other.
        once: The values of ``ONCE``, each from 0.
        p50_us: Median time by operation, microseconds, above 0; over all samples.
        samples_ns: Samples by operation, as ``samples.encode_samples`` writes them.
        yardstick_us: What a fixed piece of work took meanwhile, microseconds, above 0.

    Raises:
        ConfigError: A number is out of its range.
    """

    turn: int
    once: Mapping[str, float]
    p50_us: Mapping[str, float]
    samples_ns: Mapping[str, str]
    yardstick_us: float

    def __post_init__(self) -> None:
        if self.turn < 0 or self.once.keys() != set(ONCE):
            raise ConfigError(f"expected a turn from 0 and {ONCE}, got {self.turn}, {self.once}")
        if not all(0 <= value < math.inf for value in self.once.values()):
            raise ConfigError(f"expected numbers from 0, got {self.once}")
        if not all(0 < value < math.inf for value in (*self.p50_us.values(), self.yardstick_us)):
            raise ConfigError(
                f"expected times above 0, got {self.p50_us} and yardstick {self.yardstick_us}"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class CellRecord:
    """One row: a variant under one backend, speed, number of threads and scenario.

    Args:
        cell: Its name, unique in a result and the same in every result.
        n_bytes: ``wire_bytes``, ``disk_bytes``, ``plan_bytes`` and the like, by name.
        quality: ``ndcg@10`` and ``hr@10``, 0..1; empty without cases.
        processes: In the order of their turns, at least one; all time the same operations.
        flags: Names of what is doubtful about it.

    Raises:
        ConfigError: There are no processes, or they differ in their operations; a number is
            out of its range.
    """

    cell: str
    n_bytes: Mapping[str, int]
    quality: Mapping[str, float]
    processes: tuple[ProcessRecord, ...]
    flags: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.processes:
            raise ConfigError(f"{self.cell}: expected at least one process, found none")
        if not all(0 <= value < math.inf for value in self.n_bytes.values()):
            raise ConfigError(f"{self.cell}: expected bytes from 0, got {self.n_bytes}")
        if not all(0 <= value <= 1 for value in self.quality.values()):
            raise ConfigError(f"{self.cell}: expected quality within 0..1, got {self.quality}")
        if any(one.p50_us.keys() != self.processes[0].p50_us.keys() for one in self.processes):
            raise ConfigError(f"{self.cell}: expected the same operations in every process")

    @property
    def operations(self) -> tuple[str, ...]:
        """What was timed."""
        return tuple(self.processes[0].p50_us)


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchResult:
    """What a comparison reads of a result file.

    Args:
        run_id: Of this run, unique.
        pair_id: The same in two results whose processes took turns with each other; else
            empty.
        config: How it was measured.
        machine: Where; times of two machines cannot be compared.
        versions: Of libraries, by name.
        cells: By name, in the order of the run.
    """

    run_id: str
    pair_id: str
    config: Mapping[str, Any]
    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    cells: Mapping[str, CellRecord]

    @classmethod
    def from_json(cls, result: object) -> BenchResult:
        """Read what ``run_bench`` returned.

        Args:
            result: The whole mapping, as JSON has it.

        Raises:
            ConfigError: It is something else, or of another version.
        """
        if not isinstance(result, Mapping) or result.get("schema") != SCHEMA:
            found = result.get("schema") if isinstance(result, Mapping) else type(result).__name__
            raise ConfigError(
                f"expected a result of {SCHEMA!r}, found {found!r}; measure again with 'bench run'"
            )
        try:
            records = [_cell(record) for record in result["records"]]
            return cls(
                run_id=result["run"]["id"],
                pair_id=result["run"]["pair_id"],
                config=dict(result["config"].items()),
                machine=dict(result["environment"]["hardware"].items()),
                versions=dict(result["environment"]["versions"].items()),
                cells={record.cell: record for record in records},
            )
        except (KeyError, TypeError, AttributeError, OverflowError) as exc:
            raise ConfigError(f"expected all keys of {SCHEMA!r}, found another: {exc!r}") from exc


def read_result(path: Path) -> BenchResult:
    """Read a result file.

    Args:
        path: What ``bench run --json`` wrote.

    Raises:
        ConfigError: It holds something else, or is of another version.
        OSError: It cannot be read.
    """
    try:
        return BenchResult.from_json(json.loads(path.read_bytes()))
    except ValueError as exc:  # of the JSON, the text or a field
        raise ConfigError(f"{path}: {exc}") from exc


def _cell(record: Mapping[str, Any]) -> CellRecord:
    return CellRecord(
        cell=record["cell"],
        n_bytes={key: int(record[key]) for key in _SIZES if record[key] is not None},
        quality={
            key: float((record["quality"] or {})[key]) for key in _QUALITY if record["quality"]
        },
        processes=tuple(_process(one) for one in record["processes"]),
        flags=tuple(flag["flag"] for flag in record["validity"]["flags"]),
    )


_SIZES = ("wire_bytes", "disk_bytes", "plan_bytes", "coded_bytes", "resident_weight_bytes")
_QUALITY = ("hr@10", "ndcg@10")


def _process(one: Mapping[str, Any]) -> ProcessRecord:
    return ProcessRecord(
        turn=one["turn"],
        once={key: one[key] for key in ONCE},
        p50_us=dict(one["p50_us"]),
        samples_ns=dict(one["samples_ns"]),
        yardstick_us=one["yardstick_us"],
    )
