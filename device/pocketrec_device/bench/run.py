# SPDX-License-Identifier: Apache-2.0
"""Measures cells side by side, each in fresh processes, taken in turns.

Taking turns matters: a shared machine is faster or slower by the minute, and that must
hit every cell alike. Ratios of medians within one run hold; absolute times do not travel
to another machine. Two *sides*, such as two builds, take turns in the same way.
"""

from __future__ import annotations

import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_device.bench.environment import read_environment
from pocketrec_device.bench.peers import convert_peer
from pocketrec_device.bench.processes import Interpreter
from pocketrec_device.bench.records import record_of
from pocketrec_device.bench.result import SCHEMA
from pocketrec_device.bench.sessions import read_sessions
from pocketrec_device.bench.sizes import sizes_of
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.cases import EvaluationCases

if TYPE_CHECKING:
    from pocketrec_device.bench.cells import Cell, Grid
    from pocketrec_device.bench.config import BenchConfig

__all__ = ["Side", "run_bench", "run_sides"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One bundle and what to measure of it.

    Args:
        folder: The bundle's folder.
        grid: The cells.
        cases: Held-out users to rank; None leaves quality out.
        sessions: Sessions for the scenarios that replay some; None takes the cases.
        label: Free text for the result.
        interpreter: What measures.
    """

    folder: Path
    grid: Grid
    cases: Path | None = None
    sessions: Path | None = None
    label: str = ""
    interpreter: Interpreter = field(default_factory=Interpreter)


def run_bench(
    side: Side, config: BenchConfig, *, progress: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Measure every cell of one side.

    Args:
        side: What to measure.
        config: How to measure.
        progress: Told what is about to run.

    Returns:
        The result, as docs/benchmarking.md has it.

    Raises:
        ConfigError: A scenario lacks its sessions.
        ArtifactError: The bundle, a plan or the cases cannot be used.
        BackendError: A measuring process failed.
    """
    return run_sides([side], config, progress=progress)[0]


def run_sides(
    sides: Sequence[Side],
    config: BenchConfig,
    *,
    progress: Callable[[str], None] = lambda _: None,
) -> list[dict[str, Any]]:
    """Measure several sides whose processes take turns, cell by cell.

    Args:
        sides: What to measure; their order is reversed in every other turn.
        config: How to measure.
        progress: Told what is about to run.

    Returns:
        One result per side; they share their ``pair_id``.

    Raises:
        ConfigError: A scenario lacks its sessions.
        ArtifactError: A bundle, a plan or cases cannot be used.
        BackendError: A measuring process failed.
    """
    pair_id = uuid.uuid4().hex if len(sides) > 1 else ""
    started_at, started = datetime.now(UTC), time.monotonic()
    environment = read_environment()
    with tempfile.TemporaryDirectory() as folder:
        works = [_Work(side, config, Path(folder) / str(n)) for n, side in enumerate(sides)]
        _measure_in_turns(works, config, progress)
    return [
        {
            "schema": SCHEMA,
            "run": {
                "id": uuid.uuid4().hex,
                "pair_id": pair_id,
                "label": work.side.label,
                "started_at": started_at.isoformat(timespec="seconds"),
                "seconds": time.monotonic() - started,
            },
            **work.result(),
            "environment": environment,
        }
        for work in works
    ]


def _measure_in_turns(
    works: Sequence[_Work], config: BenchConfig, progress: Callable[[str], None]
) -> None:
    n_rows = max(len(work.cells) for work in works)
    for turn in range(config.repeat):
        in_order = works if turn % 2 == 0 else works[::-1]
        for row in range(n_rows):
            for work in in_order:
                if row < len(work.cells):
                    label = f"{work.side.label}: " if work.side.label else ""
                    name = work.cells[row].name
                    progress(f"{label}{name}, process {turn + 1} of {config.repeat}")
                    work.measure(work.cells[row], turn)


class _Work:
    """One side on its way from cells to records."""

    def __init__(self, side: Side, config: BenchConfig, scratch: Path) -> None:
        self.side = side
        self._config = config
        self._bundle = BundleFolder.open(side.folder)
        cells = side.grid.cells()
        self.cells = [cell for cell in cells if not cell.impossible]
        self._skipped = [cell for cell in cells if cell.impossible]
        self._check()
        scratch.mkdir()
        self._baseline = scratch / "baseline.npy"
        self._peer_files = {
            cell.variant.name: convert_peer(self._bundle, cell.variant, scratch, config)
            for cell in self.cells
            if cell.is_peer
        }
        self._sizes = {cell.name: self._sizes_of(cell) for cell in self.cells}
        self._measured: dict[str, list[dict[str, Any]]] = {cell.name: [] for cell in self.cells}
        self._rankings: dict[tuple[str, str, str], dict[str, Any]] = {}

    def measure(self, cell: Cell, turn: int) -> None:
        """Run one process."""
        is_ranking = self.side.cases is not None and _rank_key(cell) not in self._rankings
        job = self._job(cell, is_ranking=is_ranking and not cell.is_peer)
        found = self.side.interpreter.measure(job) | {"turn": turn}
        ranking = found.pop("ranking")
        if ranking is not None:
            if not self._rankings:
                np.save(self._baseline, np.array(ranking.pop("best"), np.int64))
            self._rankings[_rank_key(cell)] = ranking
        self._measured[cell.name].append(found)

    def result(self) -> dict[str, Any]:
        """Return what the result holds of this side."""
        manifest = self._bundle.manifest
        rankings = iter(self._rankings.values())
        baseline = next(rankings)["ranks"] if self._rankings else None
        return {
            "bundle": {
                "model_name": manifest.model_name,
                "version": manifest.version,
                "digest": self._bundle.digest.hex(),
                "kind": manifest.backbone.kind,
            },
            "config": asdict(self._config),
            "n_cases": None if baseline is None else len(baseline),
            "baseline": self.cells[0].variant.name,
            "records": [self._record(cell, baseline) for cell in self.cells],
            "skipped": [{"cell": cell.name, "reason": cell.impossible} for cell in self._skipped],
        }

    def _sizes_of(self, cell: Cell) -> dict[str, float | int]:
        peer_file = self._peer_files.get(cell.variant.name)
        return sizes_of(self._bundle, cell.variant, cell.speed, peer_file=peer_file)

    def _record(self, cell: Cell, baseline: list[int] | None) -> dict[str, Any]:
        return record_of(
            cell,
            self._measured[cell.name],
            sizes=self._sizes[cell.name],
            layers=self._bundle.manifest.layers,
            kept_samples=self._config.kept_samples,
            ranking=self._rankings.get(_rank_key(cell)),
            baseline=baseline,
        )

    def _job(self, cell: Cell, *, is_ranking: bool) -> dict[str, Any]:
        side, variant = self.side, cell.variant
        files = {
            "plan": variant.plan,
            "float_twin": variant.float_twin,
            "peer_file": self._peer_files.get(variant.name),
            "sessions": None if cell.scenario == "single" else side.sessions or side.cases,
            "cases": side.cases if is_ranking else None,
            "baseline": self._baseline if self._baseline.exists() else None,
        }
        return {
            "bundle": str(side.folder.resolve()),
            **{key: None if path is None else str(path.resolve()) for key, path in files.items()},
            "peer": variant.peer,
            "backend": cell.backend,
            "speed": cell.speed,
            "threads": cell.threads,
            "scenario": cell.scenario,
            **asdict(self._config),
        }

    def _check(self) -> None:
        if not self.cells:
            raise ConfigError(f"nothing can be measured: {self._skipped[0].impossible}")
        if self.side.cases is not None:
            cases = EvaluationCases.from_bytes(self.side.cases.read_bytes())
            cases.check_catalogue(self._bundle.manifest.items.n_items, self.side.cases)
        if any(cell.scenario != "single" for cell in self.cells):
            sessions = self.side.sessions or self.side.cases
            if sessions is None:
                raise ConfigError("expected real users to replay: add --cases or --sessions")
            read_sessions(sessions, self._bundle.read_items().item_ids)


def _rank_key(cell: Cell) -> tuple[str, str, str]:
    """What decides about a ranking: threads and scenarios do not."""
    return cell.variant.name, cell.backend, cell.speed
