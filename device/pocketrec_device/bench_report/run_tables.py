# SPDX-License-Identifier: Apache-2.0
"""Tables of how it was measured: what is doubtful or was left out, runs, machine, options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pocketrec_device.bench_report.tables import Column, Table

if TYPE_CHECKING:
    from pocketrec_device.bench_report.content import Content

__all__ = ["environment_table", "flags_table", "runs_table", "skipped_table"]


def flags_table(content: Content) -> Table | None:
    """Return what is doubtful; None where nothing is."""
    rows = tuple(
        (cell.name, str(flag["flag"]), str(flag["operation"] or "–"), str(flag["text"]))
        for cell in content.cells
        for flag in cell.record["validity"]["flags"]
    )
    names = ("cell", "flag", "operation", "why")
    columns = tuple(Column(name, is_number=False) for name in names)
    return Table(title="What is doubtful", columns=columns, rows=rows) if rows else None


def skipped_table(content: Content) -> Table | None:
    """Return what was not measured, and why; None where everything was."""
    rows = tuple(
        (str(each["cell"]), str(each["reason"]))
        for result in content.results
        for each in result["skipped"]
    )
    columns = tuple(Column(name, is_number=False) for name in ("cell", "reason"))
    return Table(title="Not measured", columns=columns, rows=rows) if rows else None


def runs_table(content: Content) -> Table:
    """Return which run is which."""
    names = ("run", "label", "began", "seconds", "model", "version", "bundle", "id")
    rows = []
    for name, result in zip(content.runs, content.results, strict=True):
        run, bundle = result["run"], result["bundle"]
        rows.append(
            (
                name or "–",
                str(run["label"] or "–"),
                str(run["started_at"]),
                f"{run['seconds']:.0f}",
                str(bundle["model_name"]),
                str(bundle["version"]),
                str(bundle["digest"])[:16],
                str(run["id"]),
            )
        )
    columns = tuple(Column(name, is_number=False) for name in names)
    return Table(title="Runs", columns=columns, rows=tuple(rows))


def environment_table(content: Content) -> Table:
    """Return machine, versions and options, one column per run."""
    found = [_environment(result) for result in content.results]
    keys = dict.fromkeys(key for each in found for key in each)
    heads = [f"run {name}" if name else "value" for name in content.runs]
    return Table(
        title="Environment",
        columns=(
            Column("fact", is_number=False),
            *(Column(head, is_number=False) for head in heads),
        ),
        rows=tuple((key, *(each.get(key, "–") for each in found)) for key in keys),
    )


def _environment(result: Mapping[str, Any]) -> dict[str, str]:
    environment = result["environment"]
    hardware, versions = environment["hardware"], environment["versions"]
    facts = {**hardware, **{f"{name} version": value for name, value in versions.items()}}
    facts |= {"load": environment.get("load"), **result["config"]}
    return {key.replace("_", " "): _plain(value) for key, value in facts.items()}


def _plain(value: object) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "–"}[value]
    if isinstance(value, list | tuple):
        return ", ".join(_plain(each) for each in value)
    if isinstance(value, float):
        return f"{value:,.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)
