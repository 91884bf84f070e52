# SPDX-License-Identifier: Apache-2.0
"""Runs what ``benchmarks.coclustering`` measures, in turns, and puts the figures together."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from rich.progress import Progress

from benchmarks.environment import read_environment, version_of
from benchmarks.processes import start_worker
from pocketrec.errors import BackendError, ConfigError
from pocketrec_cloud.data.interactions import read_pairs, split_interactions

__all__ = [
    "LOUVAIN",
    "MULTILEVEL",
    "PROPAGATION",
    "CoclusteringSettings",
    "Coclusterings",
    "load_training_graph",
    "summarise",
]

Record = dict[str, Any]

LOUVAIN, PROPAGATION, MULTILEVEL = "louvain (scikit-network)", "propagation", "multilevel"
_WORKER = "benchmarks.coclustering_worker"
_TIMEOUT_S = 3600
_LIBRARIES = ("numba", "scipy", "scikit-network")
_LOUVAIN_EDGES = 20_000_000  # beyond, it would take many minutes
_ONE_ROUND_EDGES = 5_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class CoclusteringSettings:
    """What is measured.

    Attributes:
        data: Files of lines ``user item item ...``, or folders with ``train.txt`` and
            ``test.txt``, whose union is split by the seed: 80 % are clustered.
        edges: Sizes of generated graphs.
        rounds: Of each method; the median counts.
        resolution: Of Louvain, and where objectives are compared.
        seed: Of split, generated graphs and orders.

    Raises:
        ConfigError: A number is too small, or there is nothing to measure.
    """

    data: tuple[Path, ...] = ()
    edges: tuple[int, ...] = ()
    rounds: int = 5
    resolution: float = 200.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.data and not self.edges:
            raise ConfigError("expected a data set or a number of edges, got neither")
        if min(self.rounds, *self.edges, 10**9) < 1 or self.resolution <= 0:
            raise ConfigError(f"expected positive numbers, got {self}")


def load_training_graph(path: Path, *, seed: int) -> Any:
    """Return the interactions that are clustered, as a CSR matrix.

    Args:
        path: A file, which is taken whole, or a folder with ``train.txt`` and ``test.txt``,
            of whose union 80 % are taken.
        seed: Of the split.

    Raises:
        DataError: A file is none of interactions.
        OSError: A file cannot be read.
    """
    from scipy import sparse

    if path.is_dir():
        pairs = read_pairs(path / "train.txt", path / "test.txt")
        shape = tuple(int(n) for n in pairs.max(axis=0) + 1)
        pairs = split_interactions(pairs, seed)[0]
    else:
        pairs = read_pairs(path)
        shape = tuple(int(n) for n in pairs.max(axis=0) + 1)
    ones = np.ones(len(pairs), np.float32)
    return sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), shape=shape)


class Coclusterings:
    """One run.

    Args:
        settings: What is measured.
        progress: Shows how far it is.
        earlier: Records of a run that was broken off; their graphs are not measured again.
        keep: Called with all records after each graph.
    """

    def __init__(
        self,
        settings: CoclusteringSettings,
        progress: Progress,
        *,
        earlier: Sequence[Record] = (),
        keep: Callable[[dict[str, Any]], None] | None = None,
    ) -> None:
        self._settings = settings
        self._progress = progress
        self._records = list(earlier)
        self._keep = keep
        self._compilation: dict[str, float] = {}
        self._bar = progress.add_task("", total=None)

    def run(self) -> dict[str, Any]:
        """Measure everything.

        Raises:
            BackendError: A process failed.
            DataError: A file is none of interactions.
            OSError: A file cannot be read or written.
        """
        with tempfile.TemporaryDirectory() as cache:
            for name in ("first", "later"):
                self._compilation[name] = self._answer({"cache": cache})["seconds"]
        for path in self._settings.data:
            self._group(_name_of(path), partial(self._data_set, path))
        for n_edges in self._settings.edges:
            self._group(f"power law, {n_edges:,} edges", partial(self._generated, n_edges))
        return summarise(self._records, self._settings, self._compilation)

    def _group(self, name: str, measure: Callable[[], list[Record]]) -> None:
        """Measure one graph by every method, unless an earlier run did."""
        if any(record["dataset"] == name for record in self._records):
            return
        self._progress.update(self._bar, description=name)
        self._records += [{"dataset": name, **record} for record in measure()]
        if self._keep is not None:
            self._keep(summarise(self._records, self._settings, self._compilation))

    def _data_set(self, path: Path) -> list[Record]:
        from scipy import sparse

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "graph.npz"
            sparse.save_npz(file, load_training_graph(path, seed=self._settings.seed))
            return self._both_solvers({"file": str(file)})

    def _both_solvers(self, graph: Record) -> list[Record]:
        gamma = self._settings.resolution
        louvain = {"solver": "louvain", "options": {"resolution": gamma}}
        rows = self._measure(graph, louvain)["rows"]
        found = self._measure(graph, _ours(method=PROPAGATION, n_rows=rows, secondary="none"))
        single = {"method": PROPAGATION, "resolution": found["resolution"]}
        methods = {
            LOUVAIN: louvain,
            PROPAGATION: _ours(**single, secondary="none"),
            f"{PROPAGATION}, with second rows": _ours(**single),
            f"{PROPAGATION}, searching its resolution": _ours(
                method=PROPAGATION, n_rows=rows, secondary="none"
            ),
            MULTILEVEL: _ours(resolution=gamma, secondary="none"),
            f"{MULTILEVEL}, with second rows": _ours(resolution=gamma),
            f"{MULTILEVEL}, searching its resolution": _ours(n_rows=rows, secondary="none"),
            "as published, searching its resolution": _ours(preset="paper", n_rows=rows),
        }
        return self._rounds(graph, methods, self._settings.rounds)

    def _generated(self, n_edges: int) -> list[Record]:
        graph = {"edges": n_edges, "seed": self._settings.seed}
        gamma = max(1.0, n_edges / 64 / 256 / 2)  # half as many as there are groups
        methods = {
            MULTILEVEL: _ours(resolution=gamma),
            PROPAGATION: _ours(resolution=gamma, method=PROPAGATION, secondary="none"),
        }
        if n_edges <= _LOUVAIN_EDGES:
            methods[LOUVAIN] = {"solver": "louvain", "options": {"resolution": gamma}}
        rounds = 1 if n_edges > _ONE_ROUND_EDGES else self._settings.rounds
        return self._rounds({**graph, "compared_at": gamma}, methods, rounds)

    def _rounds(
        self, graph: Record, methods: dict[str, dict[str, Any]], rounds: int
    ) -> list[Record]:
        """Measure methods in turns; return what each found, with its median time."""
        answers: dict[str, list[Record]] = {name: [] for name in methods}
        for number in range(rounds):
            for name, method in methods.items():
                self._progress.update(self._bar, description=f"{name}, {number + 1}/{rounds}")
                answers[name].append(self._measure(graph, method))
        return [
            {
                "method": name,
                **found[0],
                "seconds": median(answer["seconds"] for answer in found),
                "all_seconds": [answer["seconds"] for answer in found],
                "cpu_seconds": median(answer["cpu_seconds"] for answer in found),
                "peak_bytes": max(answer["peak_bytes"] for answer in found),
            }
            for name, found in answers.items()
        ]

    def _measure(self, graph: Record, method: dict[str, Any]) -> Record:
        return self._answer({"compared_at": self._settings.resolution, **graph, **method})

    def _answer(self, job: dict[str, Any]) -> Record:
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer.json"
            words = start_worker(_WORKER, {**job, "answer": str(answer)}, timeout_s=_TIMEOUT_S)
            if not answer.exists():
                raise BackendError(f"{job}: {words}")
            found: Record = json.loads(answer.read_text())
            return found


def _ours(**options: Any) -> dict[str, Any]:
    return {"solver": "ours", "options": options}


def _name_of(path: Path) -> str:
    """Return a data set's name: its folder's, or of a file the folders that lead to it."""
    path = path.resolve()
    if path.is_dir():
        return path.name
    return "/".join(path.parts[-3:])


def summarise(
    records: list[Record], settings: CoclusteringSettings, compilation: dict[str, float]
) -> dict[str, Any]:
    """Return the whole result.

    Args:
        records: One per graph and method.
        settings: What was measured.
        compilation: Seconds until kernels could be called, the first and a later time.
    """
    speedups = _speedups(records)
    return {
        "command": _command(settings),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": {**asdict(settings), "data": [_name_of(path) for path in settings.data]},
        "environment": {
            **read_environment(),
            **{name: version_of(name) for name in _LIBRARIES},
        },
        "speedup_vs_louvain": next(iter(speedups.values()), {}).get(PROPAGATION),
        "speedups_vs_louvain": speedups,
        "compilation_seconds": compilation,
        "records": records,
    }


def _speedups(records: Sequence[Record]) -> dict[str, dict[str, float]]:
    """Return how much faster than Louvain each method was, by graph."""
    found: dict[str, dict[str, float]] = {}
    for louvain in (record for record in records if record["method"] == LOUVAIN):
        name = louvain["dataset"]
        found[name] = {
            record["method"]: louvain["seconds"] / record["seconds"]
            for record in records
            if record["dataset"] == name and record is not louvain
        }
    return found


def _command(settings: CoclusteringSettings) -> str:
    words = ["python -m benchmarks.coclustering"]
    words += [f"--data {_name_of(path)}" for path in settings.data]
    words += [f"--edges {number}" for number in settings.edges]
    words.append(f"--rounds {settings.rounds} --resolution {settings.resolution:g}")
    return " ".join([*words, f"--seed {settings.seed}"])
