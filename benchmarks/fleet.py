# SPDX-License-Identifier: Apache-2.0
"""Measures a fleet that watches one server: pushes, heartbeats, memory, and a restart.

usage: python -m benchmarks.fleet --devices 2000 --json benchmarks/results/fleet.json

Needs the extra ``cloud``. Devices are simulated in this process, with real keys, registrations,
connections and streams; the server runs in processes of its own, on the same cores.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from benchmarks.fleet_page import draw, page
from benchmarks.fleet_run import Fleet, FleetSettings
from benchmarks.reports import write_page
from pocketrec.console import emit, json_option
from pocketrec.errors import PocketRecError

__all__ = ["main"]

_DEFAULT = FleetSettings()


@click.command()
@click.option("--devices", type=click.IntRange(1), default=_DEFAULT.devices, show_default=True)
@click.option(
    "--devices-per-channel",
    type=click.IntRange(1),
    default=_DEFAULT.devices_per_channel,
    show_default=True,
    help="Devices that share a connection.",
)
@click.option("--pushes", type=click.IntRange(1), default=_DEFAULT.pushes, show_default=True)
@click.option(
    "--steady-s",
    type=click.FloatRange(0),
    default=_DEFAULT.steady_s,
    show_default=True,
    help="How long nothing but heartbeats happens.",
)
@click.option(
    "--heartbeat-s",
    type=click.FloatRange(0, min_open=True),
    default=_DEFAULT.heartbeat_s,
    show_default=True,
)
@click.option("--workers", type=click.IntRange(1), default=_DEFAULT.workers, show_default=True)
@click.option("--database", default="", metavar="URL", help="An empty one; default: SQLite.")
@click.option("--shape", default=_DEFAULT.shape, show_default=True, help="D x L x blocks.")
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
@click.option(
    "--report",
    type=click.Path(path_type=Path),
    help="Write the page there, such as docs/scaling.md.",
)
@click.option(
    "--from",
    "sources",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    multiple=True,
    help="Measure nothing: draw what was written with --json before; several stand side by side.",
)
@json_option
def main(
    *,
    devices: int,
    devices_per_channel: int,
    pushes: int,
    steady_s: float,
    heartbeat_s: float,
    workers: int,
    database: str,
    shape: str,
    seed: int,
    report: Path | None,
    sources: tuple[Path, ...],
    json_path: str | None,
) -> None:
    """Measure a fleet against its targets."""
    try:
        results = [json.loads(path.read_text()) for path in sources]
        settings = FleetSettings(
            devices=devices,
            devices_per_channel=devices_per_channel,
            pushes=pushes,
            steady_s=steady_s,
            heartbeat_s=heartbeat_s,
            workers=workers,
            database=database,
            shape=shape,
            seed=seed,
        )
        results = results or [Fleet(settings).run()]
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    if report is not None:
        write_page(report, page(results))
    emit(results[0], render=lambda console: draw(console, results[0]), json_path=json_path)


if __name__ == "__main__":
    main()
