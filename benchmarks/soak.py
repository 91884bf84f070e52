# SPDX-License-Identifier: Apache-2.0
"""Calls one runtime from several threads while its plan is swapped, and checks every answer.

usage: python -m benchmarks.soak --calls 1000000 --threads 4 --swap-every 1000 \
           --json benchmarks/results/soak.json

*What is checked.* Every ranking, to the last bit, against all that one thread alone would have
got: under a plan that was live during the call, after a number of events that was true during
the call. Half of the calls are events; the others rank pointwise, with or without seen items,
or build a slate.

*Why nothing torn passes.* Events come in a fixed cycle and every event changes the scores, so a
ranking shows how many events the state holds. Weights of one plan on keys and values of the
other, two events written at once, half a copy, a set of seen items from another moment, an
event that a swap lost: each gives scores that no legal state has. An error that stays in the
state, such as a lost event, is found even by a call that ran alone. What a swap rebuilds
depends on when it came, which nobody knows exactly; so all answers of one session must agree
on one such moment, too.

*How the legal states stay few.* Events on the same item may overtake each other, which changes
nothing; the next item's turn comes when they are all in. So up to four events are in flight at
once, and rankings and swaps never wait for anything but the runtime itself. Counts of events
and swaps are read before and after each call; ``answers_with_known_state`` says how often these
left one state only.

*Memory.* The resident size after the warm-up and a garbage collection, and again at the end.

Ends with 1 after any wrong answer or error, or when memory grew by more than 5 MB. Needs
``/proc``, as Linux has it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.environment import read_environment
from benchmarks.sheets import Sheet
from benchmarks.soak_run import N_TRAJECTORIES, Soak, SoakSettings, make_bench
from pocketrec.console import emit, json_option, stderr_console
from pocketrec.errors import PocketRecError
from pocketrec_device.settings import COMPUTE_CHOICES, SWAP_CHOICES

__all__ = ["draw", "main", "run_soak"]


@click.command()
@click.option("--calls", type=click.IntRange(1), default=1_000_000, show_default=True)
@click.option("--threads", type=click.IntRange(1), default=4, show_default=True)
@click.option("--swap-every", type=click.IntRange(1), default=1000, show_default=True)
@click.option("--warm-up", type=click.IntRange(0), default=50_000, show_default=True)
@click.option("--swap", type=click.Choice(SWAP_CHOICES), default="adapter", show_default=True)
@click.option("--compute", type=click.Choice(COMPUTE_CHOICES), default="auto", show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@json_option
def main(
    *,
    calls: int,
    threads: int,
    swap_every: int,
    warm_up: int,
    swap: str,
    compute: str,
    seed: int,
    json_path: str | None,
) -> None:
    """Soak one runtime in calls from several threads, and check every answer."""
    try:
        settings = SoakSettings(
            calls=calls,
            threads=threads,
            swap_every=swap_every,
            warm_up=warm_up,
            swap=swap,
            compute=compute,
            seed=seed,
        )
        result = run_soak(settings)
    except PocketRecError as error:
        raise click.ClickException(str(error)) from error
    emit(result, render=lambda console: draw(console, result), json_path=json_path)
    if not result["is_met"]:
        sys.exit(1)


def run_soak(settings: SoakSettings) -> dict[str, Any]:
    """Run one soak with a progress bar, and return everything about it.

    Args:
        settings: How long, and in what.
    """
    columns = (BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn())
    with (
        tempfile.TemporaryDirectory() as folder,
        Progress(
            *columns,
            TextColumn("{task.description}"),
            console=stderr_console(),
            transient=True,
            refresh_per_second=2,
        ) as progress,
    ):
        legal = progress.add_task("legal answers", total=N_TRAJECTORIES)
        bench = make_bench(Path(folder), settings, lambda: progress.advance(legal))
        calls = progress.add_task("calls", total=settings.calls)
        found = Soak(settings, bench).run(lambda n: progress.update(calls, completed=n))
    return {
        "command": _command(settings),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": asdict(settings),
        "environment": read_environment(),
        **found,
    }


def draw(console: Console, result: dict[str, Any]) -> None:
    """Draw the result on a terminal.

    Args:
        console: Where to.
        result: What ``run_soak`` returned.
    """
    memory, calls = result["memory"], result["calls"]
    growth, limit = memory["growth_bytes"] / 1e6, memory["limit_bytes"] / 1e6
    sheet = Sheet(
        title=f"Soak, swap={result['settings']['swap']}",
        columns=("what", "found", "allowed"),
        rows=(
            ("answers checked", f"{result['answers_checked']:,}", ""),
            ("... in a state that is known exactly", f"{result['answers_with_known_state']:,}", ""),
            ("wrong answers", f"{result['violations']:,}", "0"),
            ("errors", f"{len(result['errors'])}", "0"),
            ("growth of memory, MB", f"{growth:.2f}", f"{limit:g}"),
            *((f"calls: {kind}", f"{n:,}", "") for kind, n in calls.items()),
            ("seconds", f"{result['seconds']:.0f}", ""),
        ),
        n_text=1,
    )
    sheet.draw(console)
    for line in (*result["violations_shown"], *result["errors"]):
        console.print(line, markup=False)
    console.print("passed" if result["is_met"] else "FAILED")


def _command(settings: SoakSettings) -> str:
    shown = ("calls", "threads", "swap_every", "warm_up", "swap", "compute", "seed")
    words = [f"--{name.replace('_', '-')} {getattr(settings, name)}" for name in shown]
    return " ".join(["python -m benchmarks.soak", *words])


if __name__ == "__main__":
    main()
