# SPDX-License-Identifier: Apache-2.0
"""The command ``bench run``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pocketrec.console import emit, json_option, stderr_console
from pocketrec_device.backends import BACKENDS
from pocketrec_device.bench import PERCENTILES, BenchConfig, Variant, run_bench
from pocketrec_quantization.bundle import BundleFolder

__all__ = ["draw_latency", "draw_summary", "run"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_DEFAULTS = BenchConfig()


@click.command()
@click.option(
    "--bundle", type=click.Path(exists=True, file_okay=False, path_type=Path), required=True
)
@click.option(
    "--plan",
    "plans",
    type=_FILE,
    multiple=True,
    help="A row beside the default plan's; may be repeated.",
)
@click.option("--float-twin", type=_FILE, help="The float control, as the first row.")
@click.option("--cases", type=_FILE, help="Held-out users: adds HR and NDCG.")
@click.option("--backend", type=click.Choice(sorted(BACKENDS)), default=_DEFAULTS.backend)
@click.option("--threads", type=click.IntRange(1), default=_DEFAULTS.threads, show_default=True)
@click.option("--candidates", type=click.IntRange(1), default=_DEFAULTS.n_candidates)
@click.option("--warmup", type=click.IntRange(0), default=_DEFAULTS.warmup, show_default=True)
@click.option("--runs", type=click.IntRange(1), default=_DEFAULTS.runs, show_default=True)
@click.option("--min-seconds", type=float, default=_DEFAULTS.min_seconds, show_default=True)
@click.option("--repeat", type=click.IntRange(1), default=_DEFAULTS.repeat, show_default=True)
@click.option("--seed", type=int, default=_DEFAULTS.seed, show_default=True)
@json_option
def run(
    *,
    bundle: Path,
    plans: tuple[Path, ...],
    float_twin: Path | None,
    cases: Path | None,
    backend: str,
    threads: int,
    candidates: int,
    warmup: int,
    runs: int,
    min_seconds: float,
    repeat: int,
    seed: int,
    json_path: str | None,
) -> None:
    """Time and size one bundle under its plans, and score its ranking."""
    config = BenchConfig(
        backend=backend,
        threads=threads,
        n_candidates=candidates,
        warmup=warmup,
        runs=runs,
        min_seconds=min_seconds,
        repeat=repeat,
        seed=seed,
    )
    control = [] if float_twin is None else [Variant(name="float32", float_twin=float_twin)]
    rows = [*control, *(Variant(name=path.stem, plan=path) for path in plans)]
    rows.append(Variant(name=BundleFolder.open(bundle).read_default_plan().planner))
    with stderr_console().status("measuring") as status:
        result = run_bench(bundle, rows, config, cases=cases, progress=status.update)
    emit(result, render=lambda console: _draw(console, result), json_path=json_path)


def _draw(console: Console, result: dict[str, Any]) -> None:
    draw_summary(console, result)
    draw_latency(console, result)
    environment = ", ".join(f"{key} {value}" for key, value in result["environment"].items())
    config = result["config"]
    console.print(
        f"{config['threads']} thread(s), {config['n_candidates']} candidates, "
        f"{config['repeat']} processes per row; {environment}"
    )


def draw_summary(console: Console, result: dict[str, Any]) -> None:
    """Draw what each row costs and what its ranking is worth.

    Args:
        console: Where to.
        result: What ``run_bench`` returned.
    """
    table = Table(title="Size and quality", box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("variant", no_wrap=True)
    for column in ("effective\nbits", "plan\nbytes", "bundle\nbytes", "HR@10", "NDCG@10"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("95 %\ninterval", no_wrap=True)
    table.add_column("rerank\np50 μs", justify="right")
    for record in result["records"]:
        quality = record["quality"]
        shown = ["", "", ""]
        if quality is not None:
            low, high = quality["ndcg@10_interval"]
            shown = [
                f"{quality['hr@10']:.4f}",
                f"{quality['ndcg@10']:.4f}",
                f"{low:.3f}–{high:.3f}",
            ]
        table.add_row(
            record["variant"],
            f"{record['effective_bits']:.2f}",
            f"{record['plan_bytes']:,}" if record["plan_bytes"] else "–",
            f"{record['bundle_bytes']:,}",
            *shown,
            f"{record['latency_us']['observe_rerank']['p50']:.0f}",
        )
    console.print(table)
    console.print("rerank: one new event taken in, then the candidates ranked")


def draw_latency(console: Console, result: dict[str, Any]) -> None:
    """Draw the percentiles of every operation, and what loading costs.

    Args:
        console: Where to.
        result: What ``run_bench`` returned.
    """
    table = Table(title="Time, μs per call", box=SIMPLE_HEAD)
    table.add_column("variant")
    table.add_column("operation")
    for percentile in PERCENTILES:
        table.add_column(f"p{percentile}", justify="right")
    for record in result["records"]:
        for name, summary in record["latency_us"].items():
            cells = [f"{summary[f'p{p}']:.0f}" for p in PERCENTILES]
            table.add_row(record["variant"], name.replace("_", " + "), *cells)
        table.add_section()
    console.print(table)
    start = Table(title="Start and memory", box=SIMPLE_HEAD)
    for column in ("variant", "import ms", "load ms", "first run ms", "peak MiB", "above idle MiB"):
        start.add_column(column, justify="left" if column == "variant" else "right")
    for record in result["records"]:
        peak, idle = record["peak_rss_bytes"], record["idle_rss_bytes"]
        start.add_row(
            record["variant"],
            *(f"{record[key]:.1f}" for key in ("import_ms", "load_ms", "first_run_ms")),
            f"{peak / 2**20:.1f}",
            f"{(peak - idle) / 2**20:.1f}",
        )
    console.print(start)
