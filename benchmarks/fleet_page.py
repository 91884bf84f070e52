# SPDX-License-Identifier: Apache-2.0
"""How runs of ``benchmarks.fleet`` are shown, and what ten million devices would take by them."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from benchmarks.sheets import Sheet

__all__ = ["draw", "page"]

FLEET = 10_000_000
_SHARES = (0.05, 1.0)  # of the fleet that watch at a time
_STREAMS = 10_000  # of one process, `serve --max-streams`
_CORES = 16  # of one machine
_CORE_HOUR_DOLLARS = 0.05  # memory included
_CONNECTIONS = 17  # to PostgreSQL, of one process at most
_MAX_CONNECTIONS = 500  # of one PostgreSQL
_TOKEN_S, _RENEWAL_S, _SESSIONS_A_DAY = 3600, 3.5 * 86_400, 2
_BUNDLE_BYTES = 2_000_000
_LINK_BYTES_PER_S = 10e9 / 8
_ROW_BYTES = 700  # a plan with its index entries
_WHAT = {
    "p99_s": "from a push to its verified plan, 99th percentile, s",
    "return_s": "from a killed server to every device watching again, s",
}

_INTRODUCTION = """\
# How far one server goes, and what ten million devices take

The first part was measured by `python -m benchmarks.fleet`: simulated devices with real keys,
registrations, connections and streams, all on the machine that the server runs on, so that both
share its cores. Every device checks the signature of every plan. The second part is arithmetic on
the first: nobody has run it.
"""

_ASSUMPTIONS = """\
From the first run: memory and CPU per stream, CPU per pushed plan. From the last: plans stored per
second. The rest is assumed, and yours to replace. An app watches while it is in the foreground:
{share:.0%} of a fleet at a time, or, the worst case, all of them. {sessions} sessions a day,
each with a sync and a registration; tokens of an hour; plans renewed after {renewal:.1f} days;
{streams:,} streams per process and one process per core; machines of {cores} cores at
${dollars:.2f} per core and hour."""

_BREAKS = (
    """**Connections to PostgreSQL.** A process keeps one to listen and up to 16 to work:
{connections}. A server with `max_connections = {max_connections}` is full at {full_processes}
processes, or {full_streams:,} streams. `LISTEN` and advisory locks need sessions, so a pooler
that lends connections by transaction does not help. What does: fewer and
larger processes (`--max-streams`), then a fan-out tree, where one process of a machine listens
and tells the others.""",
    """**Plans stored.** Every pushed plan replaces a row, since no version may come twice. One
writer stores {writes:,.0f} in a second here ({database}), so an order for all {fleet:,} devices
takes {all_s:,.0f} s of writing, whatever the number of servers. Plans are only ever looked up by
subject and model: `PlanStore` can be split over databases by a hash of the subject, while orders
and rollouts stay in one.""",
    """**Bundles.** {bundle_tb:.0f} TB leave for a bundle of {bundle_mb:.0f} MB of which every part
is new: {bundle_hours:.0f} hours of a 10 Gb/s link. The stages of a [rollout](rollouts.md) spread
them over days. Parts are named by their digest and verified by the device, so any cache may hold
them, but the runtime fetches by gRPC: the cache has to speak it.""",
    """**Registrations.** {registrations:,.0f} a second at {share:.0%} watching, each of them a row.
Tokens that live a day (`serve --token-lifetime-s 86400`) leave {day_registrations:,.0f}.""",
    """**Reports.** A device has one row per model line, which each report replaces: {syncs:,.0f} a
second with one report per sync. Apps may leave them out.""",
)
_HARMLESS = """\
Not among them: heartbeats; orders, of which each is one message per process, and all of which fit
in memory; and plans that are renewed, {renewals:,.0f} writes a second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Costs:
    """What one stream and one plan take, by a run.

    Attributes:
        bytes_per_stream: Resident memory of the server.
        cores_per_stream: Of a core, while nothing but heartbeats happens.
        cpu_s_per_plan: Of the server, from the order to the plan on its way.
    """

    bytes_per_stream: float
    cores_per_stream: float
    cpu_s_per_plan: float

    @classmethod
    def of(cls, result: Mapping[str, Any]) -> _Costs:
        devices, pushes = result["settings"]["devices"], result["pushes"]
        cpu_s = sum(push["server_cpu_s"] for push in pushes) / len(pushes)
        return cls(
            bytes_per_stream=result["server_bytes_per_device"],
            cores_per_stream=result["steady_server_cores"] / devices,
            cpu_s_per_plan=cpu_s / devices,
        )


def draw(console: Console, result: Mapping[str, Any]) -> None:
    """Draw a run against its targets on a terminal."""
    _targets(result).draw(console)
    console.print(f"delivered {result['delivered']} of {result['expected']} plans")


def page(results: Sequence[Mapping[str, Any]]) -> str:
    """Return docs/scaling.md.

    Args:
        results: Of runs; arithmetic is done with the first, and with the plans per second of
            the last.
    """
    commands = [f"    {result['command']}" for result in results]
    sections = [_targets(results[0]), _measured(results), _paper(results)]
    lines = [*_INTRODUCTION.splitlines(), "", *commands, ""]
    lines += [line for section in sections for line in section.markdown()]
    return "\n".join([*lines, *_first(results)]) + "\n"


def _targets(result: Mapping[str, Any]) -> Sheet:
    rows = tuple(
        (
            _WHAT[name],
            "yes" if entry["is_met"] else "MISSED",
            f"{entry['wanted']:g}",
            f"{entry['measured']:.2f}",
        )
        for name, entry in result["targets"].items()
    )
    return Sheet(title="Targets", columns=("what", "met", "at most", "measured"), rows=rows)


def _measured(results: Sequence[Mapping[str, Any]]) -> Sheet:
    heads = tuple(
        f"{r['settings']['database']}, {_count(r['settings']['workers'], 'process', 'processes')}"
        for r in results
    )
    rows = [
        ("devices watching", *(f"{r['settings']['devices']:,}" for r in results)),
        ("plans delivered", *(f"{r['delivered']:,} of {r['expected']:,}" for r in results)),
        *(
            (f"{label}, s", *(f"{r[name]:.2f}" for r in results))
            for label, name in (
                ("50 % have their plan after", "p50_s"),
                ("99 % have it after", "p99_s"),
                ("all have it after", "max_s"),
                ("killed server to all watching again", "return_s"),
            )
        ),
        (
            "server memory per device, kB",
            *(f"{_Costs.of(r).bytes_per_stream / 1e3:.0f}" for r in results),
        ),
        (
            "server CPU per pushed plan, ms",
            *(f"{_Costs.of(r).cpu_s_per_plan * 1e3:.2f}" for r in results),
        ),
        (
            f"server CPU with a heartbeat every {results[0]['settings']['heartbeat_s']:g} s, cores",
            *(f"{r['steady_server_cores']:.3f}" for r in results),
        ),
        ("registrations per second", *(f"{r['register_per_s']:,.0f}" for r in results)),
        (
            "plans stored per second, one writer",
            *(f"{r['plan_writes_per_s']:,.0f}" for r in results),
        ),
    ]
    environment = results[0]["environment"]
    return Sheet(
        title="Measured",
        columns=("what", *heads),
        rows=tuple(rows),
        n_text=1,
        note=f"{environment['cores']} cores, {environment['cpu']}, Python {environment['python']}, "
        f"grpcio {environment['grpcio']}, load {environment['load']:.1f} at the start.",
    )


def _paper(results: Sequence[Mapping[str, Any]]) -> Sheet:
    costs, writes = _Costs.of(results[0]), results[-1]["plan_writes_per_s"]
    columns = [_column(costs, writes, share) for share in _SHARES]
    return Sheet(
        title="Ten million devices, on paper",
        columns=(f"of {FLEET:,} devices", *(f"{share:.0%} watch" for share in _SHARES)),
        rows=tuple((name, *(column[name] for column in columns)) for name in columns[0]),
        n_text=1,
        note=_filled(
            _ASSUMPTIONS,
            share=_SHARES[0],
            sessions=_SESSIONS_A_DAY,
            renewal=_RENEWAL_S / 86_400,
            streams=_STREAMS,
            cores=_CORES,
            dollars=_CORE_HOUR_DOLLARS,
        ),
    )


def _column(costs: _Costs, writes_per_s: float, share: float) -> dict[str, str]:
    streams = round(FLEET * share)
    processes = math.ceil(streams / _STREAMS)
    machines = math.ceil(processes / _CORES)
    return {
        "streams": f"{streams:,}",
        "memory of streams, GB": f"{streams * costs.bytes_per_stream / 1e9:,.0f}",
        "server processes": f"{processes:,}",
        "machines": f"{machines:,}",
        "connections to PostgreSQL, at most": f"{processes * _CONNECTIONS:,}",
        "CPU of heartbeats, cores": f"{streams * costs.cores_per_stream:,.0f}",
        "CPU of a push to all who watch, core-seconds": f"{streams * costs.cpu_s_per_plan:,.0f}",
        "the same push, by servers alone, s": f"{_STREAMS * costs.cpu_s_per_plan:,.1f}",
        "the same push, by one database alone, s": f"{streams / writes_per_s:,.0f}",
        "plans in the database, GB": f"{FLEET * _ROW_BYTES / 1e9:,.0f}",
        "registrations, per second": f"{_registrations_per_s(share):,.0f}",
        "servers, dollars a month": f"{machines * _CORES * _CORE_HOUR_DOLLARS * 730:,.0f}",
    }


def _registrations_per_s(share: float) -> float:
    return FLEET * share / _TOKEN_S + _syncs_per_s()


def _syncs_per_s() -> float:
    return FLEET * _SESSIONS_A_DAY / 86_400


def _first(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the section about what breaks first, line by line."""
    writes, full = results[-1]["plan_writes_per_s"], _MAX_CONNECTIONS // _CONNECTIONS
    figures = {
        "connections": _CONNECTIONS,
        "max_connections": _MAX_CONNECTIONS,
        "full_processes": full,
        "full_streams": full * _STREAMS,
        "writes": writes,
        "database": results[-1]["settings"]["database"],
        "fleet": FLEET,
        "all_s": FLEET / writes,
        "bundle_mb": _BUNDLE_BYTES / 1e6,
        "bundle_tb": FLEET * _BUNDLE_BYTES / 1e12,
        "bundle_hours": FLEET * _BUNDLE_BYTES / _LINK_BYTES_PER_S / 3600,
        "registrations": _registrations_per_s(_SHARES[0]),
        "day_registrations": _syncs_per_s() + FLEET * _SHARES[0] / 86_400,
        "share": _SHARES[0],
        "syncs": _syncs_per_s(),
        "renewals": FLEET / _RENEWAL_S,
    }
    breaks = [
        _filled(f"{number}. {text}", indent="   ", **figures)
        for number, text in enumerate(_BREAKS, start=1)
    ]
    return ["## What breaks first", "", *breaks, "", _filled(_HARMLESS, **figures)]


def _filled(text: str, *, indent: str = "", **figures: object) -> str:
    """Put figures into a paragraph, and break its lines anew."""
    return textwrap.fill(
        text.format(**figures),
        100,
        subsequent_indent=indent,
        break_on_hyphens=False,
        break_long_words=False,
    )


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
