# SPDX-License-Identifier: Apache-2.0
"""Runs ``rerank``: what to measure, in which order, each time in a fresh process.

Nothing heavy is imported here, and nothing is computed while something is measured.
"""

from __future__ import annotations

import json
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.progress import Progress

from benchmarks.environment import LIBRARIES, ROOT, digest_of, read_environment
from benchmarks.processes import start_worker
from benchmarks.rerank_analysis import OURS, bounds, merge, ratios
from benchmarks.rerank_models import FACTS
from benchmarks.shapes import Shape
from pocketrec.errors import ConfigError
from pocketrec_cloud.peers import PEERS

__all__ = ["CONFIGS", "METHODS", "Benchmark", "Settings"]

CONFIGS = ("64x50x2", "64x200x2", "128x200x2", "256x200x4")
METHODS = (*OURS, *PEERS)
_OWN_BUILDERS = ("rerank_models.py", "shapes.py")
_BUILDERS = ("pocketrec", "pocketrec_proto", "pocketrec_quantization", "pocketrec_cloud")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What to measure, and how long.

    Attributes:
        configs: ``"DxLxblocks"`` each.
        methods: Of ``METHODS``.
        repeat: Rounds; a round runs every method once, in a process of its own.
        min_seconds: Timed seconds per process, at least.
        min_runs: Timed calls per process, at least.
        n_items: V.
        seed: Of weights and of everything drawn.

    Raises:
        ConfigError: A method is unknown, a configuration is none, or a number too small.
    """

    configs: tuple[str, ...] = CONFIGS
    methods: tuple[str, ...] = METHODS
    repeat: int = 3
    min_seconds: float = 0.5
    min_runs: int = 200
    n_items: int = 5000
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown or not self.methods:
            raise ConfigError(f"methods: expected some of {', '.join(METHODS)}; got {unknown}")
        if min(self.repeat, self.min_runs) < 1 or self.min_seconds < 0 or not self.configs:
            raise ConfigError(f"expected something to measure and at least once, got {self}")
        _ = self.shapes

    @property
    def shapes(self) -> tuple[Shape, ...]:
        """The configurations, read."""
        return tuple(Shape.parse(text, n_items=self.n_items) for text in self.configs)

    @property
    def command(self) -> str:
        """The command line that gives these settings."""
        default, words = Settings(), ["python", "-m", "benchmarks.rerank"]
        for name, value in asdict(self).items():
            if value != getattr(default, name):
                text = ",".join(value) if isinstance(value, tuple) else str(value)
                words += [f"--{name.removeprefix('n_').replace('_', '-')}", text]
        return shlex.join(words)


class Benchmark:
    """One run: builds what is not cached, measures in turns, and draws conclusions.

    Args:
        settings: What to measure.
        work: Folder for built models; another run with the same sources finds them there.
        progress: Where to show how far it is.
    """

    def __init__(self, settings: Settings, work: Path, progress: Progress) -> None:
        self._settings = settings
        self._work = work
        self._progress = progress
        n_pairs = len(settings.configs) * len(settings.methods)
        n_steps = 1 + len(settings.configs) + n_pairs
        n_steps += settings.repeat * (n_pairs + len(settings.configs))
        self._bar = progress.add_task("", total=n_steps)
        self._errors: dict[tuple[str, str], dict[str, Any]] = {}
        self._models: dict[tuple[str, str], Path] = {}

    def run(self) -> dict[str, Any]:
        """Return everything that was measured and what follows from it."""
        settings = self._settings
        environment = read_environment()
        machine = self._job("this machine's rates", {"task": "machine"})
        for shape in settings.shapes:
            self._prepare(shape)
        measured: dict[tuple[str, str], list[dict[str, Any]]] = {}
        pieces: dict[str, list[dict[str, Any]]] = {}
        for turn in range(settings.repeat):
            for shape in settings.shapes:
                # Nobody always runs after the same neighbour.
                first = turn % len(settings.methods)
                for method in (*settings.methods[first:], *settings.methods[:first]):
                    one = self._measure(shape, method, turn)
                    measured.setdefault((shape.name, method), []).append(one)
                pieces.setdefault(shape.name, []).append(self._break_down(shape, turn))
        records = [
            self._record(shape, method, measured[shape.name, method])
            for shape in settings.shapes
            for method in settings.methods
        ]
        is_known = "error" not in machine
        return {
            "command": settings.command,
            "date": datetime.now(UTC).isoformat(timespec="seconds"),
            "settings": asdict(settings),
            "environment": environment,
            "records": records,
            "ratios": ratios(records),
            "machine": machine,
            "bounds": bounds(records, settings.shapes, machine) if is_known else [],
            "breakdown": {name: _medians(rounds) for name, rounds in pieces.items()},
        }

    @cached_property
    def _builders_digest(self) -> str:
        folders = [Path(_found(find_spec(name))) for name in _BUILDERS]
        files = [path for folder in folders for path in sorted(folder.rglob("*.py"))]
        return digest_of(
            [*files, *(ROOT / "benchmarks" / name for name in _OWN_BUILDERS)], LIBRARIES
        )

    def _prepare(self, shape: Shape) -> None:
        """Build the bundle, then each peer's file, unless they are there."""
        key = f"{shape.name}-{shape.n_items}-{self._settings.seed}-{self._builders_digest}"
        model = self._work / key
        self._models[shape.name, ""] = model
        error: dict[str, Any] | None = None
        if not (model / FACTS).exists():
            job = {"task": "build", "shape": asdict(shape), "model": str(model)}
            error = self._job(f"{shape.name}: build", job).get("error")
        else:
            self._progress.advance(self._bar)
        for method in self._settings.methods:
            if error is not None:
                self._errors[shape.name, method] = error
                self._progress.advance(self._bar)
            else:
                self._convert(shape, method, model)

    def _convert(self, shape: Shape, method: str, model: Path) -> None:
        if method in OURS or _absent(method):
            self._progress.advance(self._bar)
            return
        facts = json.loads((model / FACTS).read_text())
        sources = sorted(Path(_found(find_spec("pocketrec_cloud.peers"))).glob("*.py"))
        key = digest_of(sources, PEERS[method].requires) + facts["weights_digest"][:12]
        out = model / f"{method}-{key}.model"
        self._models[shape.name, method] = out
        if out.exists():
            self._progress.advance(self._bar)
            return
        job = {
            "task": "convert",
            "method": method,
            "shape": asdict(shape),
            "model": str(model),
            "out": str(out),
        }
        answer = self._job(f"{shape.name}: convert for {method}", job)
        if "error" in answer:
            self._errors[shape.name, method] = answer["error"]

    def _measure(self, shape: Shape, method: str, turn: int) -> dict[str, Any]:
        if _absent(method) or (shape.name, method) in self._errors:
            self._progress.advance(self._bar)
            return {"error": self._errors.get((shape.name, method), {})}
        job = {
            "task": "pocketrec" if method in OURS else "peer",
            "method": method,
            "shape": asdict(shape),
            "model": str(self._models[shape.name, ""]),
            "out": str(self._models.get((shape.name, method), "")),
        }
        return self._job(f"round {turn + 1}, {shape.name}: {method}", job)

    def _break_down(self, shape: Shape, turn: int) -> dict[str, Any]:
        job = {
            "task": "breakdown",
            "shape": asdict(shape),
            "model": str(self._models[shape.name, ""]),
        }
        return self._job(f"round {turn + 1}, {shape.name}: pieces", job)

    def _record(
        self, shape: Shape, method: str, rounds: Sequence[dict[str, Any]]
    ) -> dict[str, Any]:
        record: dict[str, Any] = {
            "method": method,
            "config": shape.name,
            "d": shape.d,
            "L": shape.window,
            "blocks": shape.blocks,
        }
        if _absent(method):
            modules = ", ".join(_absent(method))
            return {**record, "skipped": f"needs {modules}: {PEERS[method].install}"}
        record |= merge(rounds, is_exact=method in PEERS and PEERS[method].is_exact)
        model = self._models[shape.name, ""]
        path = self._models.get((shape.name, method))
        if path is None and (model / FACTS).exists():
            path = model / json.loads((model / FACTS).read_text())["bundle"]
        if path is not None and path.exists():
            record["bundle_or_model_bytes"] = _size(path)
        return record

    def _job(self, title: str, job: dict[str, Any]) -> dict[str, Any]:
        """Do a job in a fresh process; return its answer, or ``{"error": ...}``."""
        self._progress.update(self._bar, description=title)
        settings = self._settings
        with tempfile.TemporaryDirectory() as folder:
            answer = Path(folder) / "answer.json"
            job = {
                **job,
                "answer": str(answer),
                "seed": settings.seed,
                "min_seconds": settings.min_seconds,
                "min_runs": settings.min_runs,
            }
            done = start_worker("benchmarks.rerank_worker", job)
            self._progress.advance(self._bar)
            if answer.exists():
                found: dict[str, Any] = json.loads(answer.read_text())
                return found
        return {"error": {"task": job["task"], "type": "ProcessDied", "message": done}}


def _absent(method: str) -> list[str]:
    """Return the modules that a method needs and nobody installed."""
    peer = PEERS.get(method)
    return [] if peer is None else [name for name in peer.requires if find_spec(name) is None]


def _medians(rounds: Sequence[dict[str, Any]]) -> dict[str, Any]:
    failed = [one for one in rounds if "error" in one]
    if failed:
        return failed[0]
    return {key: sorted(one[key] for one in rounds)[len(rounds) // 2] for key in rounds[0]}


def _found(spec: Any) -> str:
    if spec is None:
        raise ConfigError("expected pocketrec with the extra: pip install 'pocketrec[cloud]'")
    return str(spec.submodule_search_locations[0])


def _size(path: Path) -> int:
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())
