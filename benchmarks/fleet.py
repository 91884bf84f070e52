# SPDX-License-Identifier: Apache-2.0
"""Measures a fleet that watches one server: pushes, heartbeats, memory, and a restart.

usage: python -m benchmarks.fleet --devices 2000 --json benchmarks/results/fleet.json

Needs the extra ``cloud``. Devices are simulated in this process, with real keys, registrations,
connections and streams; the server runs in processes of its own, on the same cores.
"""

from __future__ import annotations

import click
from rich.console import Console

from benchmarks.fleet_run import Fleet, FleetSettings
from benchmarks.sheets import Sheet
from pocketrec.console import emit, json_option
from pocketrec.errors import PocketRecError

__all__ = ["main"]

_DEFAULT = FleetSettings()
_WHAT = {
    "p99_s": "from a push to its verified plan, 99th percentile, s",
    "return_s": "from a killed server to every device watching again, s",
}


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
@click.option("--database", default="", metavar="URL", help="Default: SQLite.")
@click.option("--shape", default=_DEFAULT.shape, show_default=True, help="D x L x blocks.")
@click.option("--seed", type=int, default=_DEFAULT.seed, show_default=True)
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
    json_path: str | None,
) -> None:
    """Measure a fleet against its targets."""
    try:
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
        result = Fleet(settings).run()
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error

    def draw(console: Console) -> None:
        rows = tuple(
            (
                _WHAT[name],
                "yes" if entry["is_met"] else "MISSED",
                f"{entry['wanted']:g}",
                f"{entry['measured']:.3f}",
            )
            for name, entry in result["targets"].items()
        )
        columns = ("what", "met", "at most", "measured")
        Sheet(title="Targets", note="", columns=columns, rows=rows).draw(console)
        console.print(f"delivered {result['delivered']} of {result['expected']} plans")

    emit(result, render=draw, json_path=json_path)


if __name__ == "__main__":
    main()
