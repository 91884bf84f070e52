# SPDX-License-Identifier: Apache-2.0
"""Measures how often ``bench compare`` is wrong: false alarms, and slowdowns that it misses.

usage: python -m benchmarks.compare_rates --json benchmarks/results/compare_rates.json \
           --report docs/results/compare_rates.md

Every try measures the same build twice, and a third time with 15 % added to each timed call,
then asks ``bench compare``'s own rule whether the second is worse than the first, and whether
the third is. That is done with processes that take turns (``interleaved``), and with three
runs one after the other (``separate``). Whatever else the machine does meanwhile belongs to it.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import click

from benchmarks.compare_rates_page import draw, page
from benchmarks.environment import read_environment
from benchmarks.reports import source_option, write_page
from benchmarks.seeded_bundle import write_seeded_bundle
from benchmarks.shapes import Shape
from benchmarks.slow_worker import SHARE
from pocketrec.console import emit, json_option, json_text, stderr_console
from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically
from pocketrec_device.bench.cells import Grid, Variant
from pocketrec_device.bench.compare import compare_results
from pocketrec_device.bench.config import BenchConfig
from pocketrec_device.bench.decision import Rule, Verdict
from pocketrec_device.bench.processes import Interpreter
from pocketrec_device.bench.result import BenchResult
from pocketrec_device.bench.run import Side, run_sides

__all__ = ["MODES", "Settings", "earlier_tries", "main", "rates", "run_tries"]

MODES = ("interleaved", "separate")
_PATH = click.Path(path_type=Path)
_SLOW_WORKER = Path(__file__).with_name("slow_worker.py")
_DEFAULT_SHAPE = Shape(d=64, window=50, blocks=2, n_items=1200)
_DEFAULT_CONFIG = BenchConfig(runs=60, min_seconds=0.1, warmup=10, repeat=10, kept_samples=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How often to try, and how.

    Args:
        tries: Per mode.
        rule: Of the comparison.
        config: Of every run.
        shape: Of the model.

    Raises:
        ConfigError: There are no tries.
    """

    tries: int = 10
    rule: Rule = field(default_factory=Rule)
    config: BenchConfig = _DEFAULT_CONFIG
    shape: Shape = _DEFAULT_SHAPE

    def __post_init__(self) -> None:
        if self.tries < 1:
            raise ConfigError(f"tries: expected at least 1, got {self.tries}")


def run_tries(settings: Settings, bundle: Path, done: int = 0) -> Iterator[dict[str, Any]]:
    """Yield what came of each try.

    Args:
        settings: How often, and how.
        bundle: What to measure.
        done: How many tries an earlier run made; those are not made again.

    Raises:
        BackendError: A measuring process failed.
    """
    for number in range(done, settings.tries):
        found: dict[str, Any] = {"try": number, "load": read_environment()["load"]}
        for mode in MODES:
            first, again, slow = _measured(mode, bundle, settings.config)
            found[mode] = {
                "same": _judged(first, again, settings.rule),
                "slowed": _judged(first, slow, settings.rule),
                "others": [side["records"][0]["validity"]["flags"] for side in (first, slow)],
            }
        yield found


def rates(tries: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Return per mode how often a build equals itself, and how often a slowdown is caught.

    Args:
        tries: What ``run_tries`` yielded, one at least.
    """
    return {
        mode: {
            "equal": sum(one[mode]["same"]["verdict"] == "equal" for one in tries) / len(tries),
            "caught": sum(one[mode]["slowed"]["verdict"] == "regression" for one in tries)
            / len(tries),
            "numbers_equal": _share(tries, mode, "same", "equal"),
            "numbers_caught": _share(tries, mode, "slowed", "regression"),
        }
        for mode in MODES
    }


def _share(tries: list[dict[str, Any]], mode: str, which: str, verdict: str) -> float:
    """Return the share of operations that got a verdict."""
    found: list[bool] = [
        row["verdict"] == verdict
        for one in tries
        for row in one[mode][which]["rows"]
        if row["metric"].startswith("p50 ")
    ]
    return sum(found) / len(found)


def _measured(mode: str, bundle: Path, config: BenchConfig) -> list[dict[str, Any]]:
    grid = Grid(variants=(Variant(name="default"),))
    slow = Interpreter(worker=_SLOW_WORKER)
    sides = [
        Side(folder=bundle, grid=grid, label="first"),
        Side(folder=bundle, grid=grid, label="again"),
        Side(folder=bundle, grid=grid, label="slowed", interpreter=slow),
    ]
    if mode == "interleaved":
        return run_sides(sides, config)
    return [result for side in sides for result in run_sides([side], config)]


def _judged(base: dict[str, Any], head: dict[str, Any], rule: Rule) -> dict[str, Any]:
    found = compare_results(BenchResult.from_json(base), BenchResult.from_json(head), rule)
    keys = ("metric", "base", "head", "ratio", "low", "high", "verdict")
    rows = [row.to_json() for row in found.rows if row.unit in ("us", "ms")]
    # That a busy machine makes every cell doubtful is known, and says nothing of the verdict.
    notes = [note for note in found.notes if "no time is judged" in note]
    return {
        "verdict": found.verdict.value,
        "n_unsure": len(found.of(Verdict.UNSURE)),
        "notes": notes,
        "rows": [{key: row[key] for key in keys} for row in rows],
    }


@click.command()
@click.option("--tries", type=click.IntRange(1), default=10, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=10, show_default=True)
@click.option("--resume", is_flag=True, help="Go on with the tries in the file of --json.")
@click.option("--report", type=_PATH, help="Write the page, such as docs/results/compare_rates.md.")
@source_option
@json_option
def main(
    *,
    tries: int,
    repeat: int,
    resume: bool,
    report: Path | None,
    source: Path | None,
    json_path: str | None,
) -> None:
    """Measure both error rates of 'bench compare'."""
    if source is not None:
        result = json.loads(source.read_text())
    else:
        config = BenchConfig(**{**asdict(_DEFAULT_CONFIG), "repeat": repeat})
        kept = None if json_path in (None, "-") else Path(str(json_path))
        settings = Settings(tries=tries, config=config)
        earlier = earlier_tries(settings, kept) if resume else []
        result = _measure(settings, kept, earlier)
    if report is not None:
        write_page(report, page(result))
    emit(result, render=lambda console: draw(console, result), json_path=json_path)


def earlier_tries(settings: Settings, kept: Path | None) -> list[dict[str, Any]]:
    """Return the tries that a file holds; none where there is no file.

    Args:
        settings: How tries are made now.
        kept: The file, or None.

    Raises:
        ConfigError: They were made in another way or place: rates would be of neither.
    """
    if kept is None or not kept.exists():
        return []
    found = json.loads(kept.read_text())
    for what, now in (("settings", asdict(settings)), ("environment", read_environment())):
        for key in now.keys() - {"tries", "load"}:
            if found[what].get(key) != json.loads(json_text({key: now[key]}))[key]:
                raise ConfigError(
                    f"{kept}: expected tries of the same {key}, found {found[what].get(key)}; "
                    "start anew without --resume"
                )
    tries: list[dict[str, Any]] = found["tries"]
    return tries


def _measure(settings: Settings, kept: Path | None, tries: list[dict[str, Any]]) -> dict[str, Any]:
    """Make all tries that there are not yet, and keep each at once."""
    with tempfile.TemporaryDirectory() as folder, stderr_console().status("measuring") as status:
        bundle = write_seeded_bundle(Path(folder) / "bundle", settings.shape).path
        for found in run_tries(settings, bundle, done=len(tries)):
            tries.append(found)
            status.update(f"try {len(tries)} of {settings.tries}")
            if kept is not None:
                write_atomically(kept, json_text(_result(settings, tries)).encode())
    return _result(settings, tries)


def _result(settings: Settings, tries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "planted": SHARE,
        "settings": asdict(settings),
        "rates": rates(tries),
        "tries": tries,
        "environment": read_environment(),
    }


if __name__ == "__main__":
    main()
