# SPDX-License-Identifier: Apache-2.0
"""How a run of ``benchmarks.planning`` is shown: the same tables for a terminal and a page."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console

from benchmarks.sheets import Sheet

__all__ = ["draw", "page", "sheets"]

FULL_ROUNDS, FULL_SECONDS = 3, 2.0
_SIDES = ("server", "clients")

_INTRODUCTION = """\
Two cores for everything: planner, server and those who ask it. Bundle, users and the planner's
networks are drawn from a seed and were never trained: speed does not depend on their values.
Every figure is the median of rounds that take turns.

A target that is missed stays as it was written."""

_RPC_NOTE = """\
Every call is for another subject: the server plans, signs with Ed25519 and commits to SQLite
before it answers. Clients share the two cores with it: how much of a core each side takes is the
CPU time of its process. Bytes are those of the messages, without gRPC's framing and headers."""

_ENGINE_NOTE = """\
`pocketrec plan make --all-users` from a file of embeddings to files of plans, start of
processes included."""

_OTHER_NOTE = """\
What a user of pocketrec might do instead: fine-tune the coded matrices on each user's own history
and send them in int8, scales included. One epoch is one step of Adam over one window, without
reading data, evaluating, quantizing or writing."""

_BOUND_BY = {
    "users_per_s": "One process per core does nothing but plan: NumPy on these cores is the bound.",
    "rpc_per_s": (
        "At {clients:.0f} clients, where most calls are answered, the server takes {server:.2f} ms "
        "of CPU per call and the clients {own:.2f} ms. Either is one process of Python, which "
        "uses about one core however many there are; {bound} the bound."
    ),
}

_WHAT = {"users_per_s": "plans made offline, users/s", "rpc_per_s": "GetPlan, calls/s"}


def sheets(result: Mapping[str, Any]) -> list[Sheet]:
    """Return the tables of a run.

    Args:
        result: What ``Plannings.run`` returned.
    """
    return [
        Sheet(
            title="Targets",
            note=_bounds(result),
            columns=("what", "met", "target", "measured"),
            rows=tuple(
                (
                    _WHAT[name],
                    "yes" if entry["is_met"] else "MISSED",
                    f"{entry['wanted']:,.0f}",
                    f"{entry['measured']:,.0f}",
                )
                for name, entry in result["targets"].items()
            ),
        ),
        _calls(result),
        _engines(result),
        _other(result),
    ]


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw the tables on a terminal.

    Args:
        console: Where to.
        result: What ``Plannings.run`` returned.
    """
    for sheet in sheets(result):
        sheet.draw(console)
    for line in (_trial(result), _surroundings(result)):
        if line:
            console.print(line, markup=False)


def page(result: Mapping[str, Any]) -> str:
    """Return the run as a page of Markdown.

    Args:
        result: What ``Plannings.run`` returned.
    """
    lines = ["# Planning for a fleet", ""]
    if _trial(result):
        lines += [f"**{_trial(result)}**", ""]
    lines += [_INTRODUCTION, "", "```sh", result["command"], "```", ""]
    lines += [line for sheet in sheets(result) for line in sheet.markdown()]
    return "\n".join([*lines, f"{result['date']}. {_surroundings(result)}", ""])


def _calls(result: Mapping[str, Any]) -> Sheet:
    return Sheet(
        title="GetPlan over a socket",
        columns=(
            "clients at once",
            "calls/s",
            "p50 ms",
            "p99 ms",
            "server, cores",
            "clients, cores",
            "bytes up",
            "bytes down",
        ),
        rows=tuple(
            (
                f"{row['clients']:.0f}",
                f"{row['rpc_per_s']:,.0f}",
                f"{row['p50_ms']:.1f}",
                f"{row['p99_ms']:.1f}",
                f"{row['server_cores']:.2f}",
                f"{row['clients_cores']:.2f}",
                f"{row['up_bytes']:.0f}",
                f"{row['down_bytes']:.0f}",
            )
            for row in result["rpc"]
        ),
        n_text=1,
        note=_RPC_NOTE,
    )


def _bounds(result: Mapping[str, Any]) -> str:
    """Return what bounds the targets that were missed."""
    missed = [name for name, entry in result["targets"].items() if not entry["is_met"]]
    best = max(result["rpc"], key=lambda row: float(row["rpc_per_s"]))
    server, own = (1e3 * best[f"{side}_cores"] / best["rpc_per_s"] for side in _SIDES)
    values = {
        "clients": best["clients"],
        "server": server,
        "own": own,
        "bound": "the server is" if server > own else "those who ask are",
    }
    return "\n".join(_BOUND_BY[name].format(**values) for name in missed)


def _engines(result: Mapping[str, Any]) -> Sheet:
    def cells(row: Mapping[str, Any]) -> tuple[str, ...]:
        if "skipped" in row:
            return (row["engine"], row["skipped"], "", "", "")
        numbers = (f"{row['users_per_s']:,.0f}", f"{row['seconds']:.1f}")
        return (row["engine"], "", *numbers, f"{row['bytes_per_user']:.0f}")

    return Sheet(
        title=f"Plans for {result['settings']['users']:,} users",
        columns=("engine", "skipped", "users/s", "seconds", "bytes per user"),
        rows=tuple(cells(row) for row in result["engines"]),
        note=_ENGINE_NOTE,
    )


def _other(result: Mapping[str, Any]) -> Sheet:
    found = result["alternative"]
    return Sheet(
        title="Beside weights of one's own",
        columns=("what", "bytes per user", "users/s"),
        rows=(
            ("plan: its 2-bit codes", f"{found['plan_payload_bytes']:,}", ""),
            (
                "plan: as sent, signed",
                f"{found['plan_bytes']:,.0f}",
                f"{result['users_per_s']:,.0f}",
            ),
            (
                "fine-tuned weights, int8",
                f"{found['int8_bytes']:,}",
                f"{found['fine_tuned_users_per_s']:,.0f}",
            ),
            ("fine-tuned weights, float32", f"{found['float32_bytes']:,}", ""),
        ),
        n_text=1,
        note=_OTHER_NOTE,
    )


def _trial(result: Mapping[str, Any]) -> str:
    settings = result["settings"]
    if settings["rounds"] >= FULL_ROUNDS and settings["seconds"] >= FULL_SECONDS:
        return ""
    return "A trial run: fewer or shorter rounds than figures are to be quoted from."


def _surroundings(result: Mapping[str, Any]) -> str:
    found = result["environment"]
    return (
        f"pocketrec {found['pocketrec']} ({found['commit']}), Python {found['python']}, NumPy "
        f"{found['numpy']}, torch {found['torch']}; {found['cpu']}, {found['cores']} cores, load "
        f"{found['load']:.2f} at the end."
    )
