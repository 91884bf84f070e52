# SPDX-License-Identifier: Apache-2.0
"""The command ``bench compare``."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import click

from pocketrec.cli import ExitCode
from pocketrec.console import emit, json_option, json_text, stderr_console
from pocketrec.errors import ConfigError
from pocketrec.files import write_atomically
from pocketrec_device.bench.cells import Grid
from pocketrec_device.bench.compare import Comparison, compare_results
from pocketrec_device.bench.comparison_page import draw_comparison, markdown_of
from pocketrec_device.bench.config import BenchConfig
from pocketrec_device.bench.decision import Rule, Verdict
from pocketrec_device.bench.processes import Interpreter
from pocketrec_device.bench.result import BenchResult, read_result
from pocketrec_device.bench.run import Side, run_sides
from pocketrec_device.bench_cli import FILE, Files, check_folders, effort_options, side_of

__all__ = ["PERCENT", "compare"]

_PATH = click.Path(exists=True, path_type=Path)
_OUT = click.Path(dir_okay=False, path_type=Path)
_ENOUGH = 10  # processes per cell, with which both error rates were measured


class _Percent(click.ParamType[float]):
    """A share, as ``5%`` or ``0.05``."""

    name = "percent"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return the share."""
        text = str(value).strip()
        try:
            return float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
        except ValueError:
            return self.fail(f"{value!r}: expected a share such as 5% or 0.05", param, ctx)


PERCENT = _Percent()


@dataclass(frozen=True, slots=True, kw_only=True)
class _SideOptions:
    """What ``--base-…`` or ``--head-…`` said."""

    plans: tuple[Path, ...]
    python: str | None
    source: Path | None


def _side_options(command: Any) -> Any:
    for side in ("head", "base"):
        for option in (
            click.option(
                f"--{side}-source",
                type=click.Path(exists=True, file_okay=False, path_type=Path),
                help=f"A checkout that measures the {side}; with --interleave.",
            ),
            click.option(
                f"--{side}-python", help=f"A Python that measures the {side}; with --interleave."
            ),
            click.option(
                f"--{side}-plan",
                f"{side}_plans",
                type=FILE,
                multiple=True,
                help=f"A plan of the {side}; plans of one name are compared.",
            ),
        ):
            command = option(command)
    return command


@click.command(context_settings={"show_default": True})
@click.argument("base", type=_PATH)
@click.argument("head", type=_PATH)
@click.option(
    "--threshold",
    type=PERCENT,
    default="5%",
    help="Smallest change that counts.",
)
@click.option(
    "--interleave", is_flag=True, help="BASE and HEAD are bundles: measure both in turns."
)
@click.option("--other-machine", is_flag=True, help="Compare bytes and quality of two machines.")
@click.option("--markdown", type=_OUT, help="Write a comment for a pull request.")
@click.option(
    "--results",
    type=click.Path(file_okay=False, path_type=Path),
    help="With --interleave: keep base.json and head.json in this folder.",
)
@_side_options
@effort_options(repeat=_ENOUGH)
@json_option
def compare(
    *,
    base: Path,
    head: Path,
    threshold: float,
    interleave: bool,
    other_machine: bool,
    markdown: Path | None,
    results: Path | None,
    base_plans: tuple[Path, ...],
    head_plans: tuple[Path, ...],
    base_python: str | None,
    head_python: str | None,
    base_source: Path | None,
    head_source: Path | None,
    json_path: str | None,
    **effort: Any,
) -> None:
    """Say whether HEAD is worse than BASE: two files of 'bench run', or two bundles.

    How to measure, from --candidates to --keep-samples, is for --interleave.

    The exit code is 1 when a number got worse by more than the threshold, beyond the noise,
    and 0 when none did; 2 when the two cannot be compared.
    """
    rule = Rule(threshold=threshold)
    check_folders(markdown, json_path)
    options = (
        _SideOptions(plans=base_plans, python=base_python, source=base_source),
        _SideOptions(plans=head_plans, python=head_python, source=head_source),
    )
    if interleave:
        sides = [
            _side(path, label, each)
            for path, label, each in zip((base, head), ("base", "head"), options, strict=True)
        ]
        first, second = _measured(sides, BenchConfig(**effort), results)
    else:
        _refuse_unread(options, results)
        first, second = read_result(base), read_result(head)
    found = compare_results(first, second, rule, is_other_machine_allowed=other_machine)
    if markdown is not None:
        write_atomically(markdown, markdown_of(found).encode())
    emit(_json(found), render=lambda console: draw_comparison(console, found), json_path=json_path)
    _end(found)


def _end(comparison: Comparison) -> None:
    """End the process with 1 if something got worse."""
    if comparison.verdict is Verdict.REGRESSION:
        raise click.exceptions.Exit(ExitCode.CHECK_FAILED)


def _side(folder: Path, label: str, options: _SideOptions) -> Side:
    if not folder.is_dir():
        raise ConfigError(f"{folder}: --interleave expected the folder of a bundle")
    files = Files(bundle=folder, plans=options.plans, float_twin=None, cases=None)
    side = side_of(files, (), None, label)
    # The default plans of two bundles are compared whatever made them.
    *plans, default = side.grid.variants
    grid = Grid(variants=(*plans, replace(default, name="default")))
    interpreter = Interpreter(sources=options.source)
    if options.python is not None:
        interpreter = replace(interpreter, python=options.python)
    return replace(side, grid=grid, interpreter=interpreter)


def _measured(
    sides: list[Side], config: BenchConfig, folder: Path | None
) -> tuple[BenchResult, BenchResult]:
    with stderr_console().status("measuring") as status:
        base, head = run_sides(sides, config, progress=status.update)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        for name, result in (("base", base), ("head", head)):
            write_atomically(folder / f"{name}.json", f"{json_text(result)}\n".encode())
    return BenchResult.from_json(base), BenchResult.from_json(head)


def _refuse_unread(options: tuple[_SideOptions, ...], results: Path | None) -> None:
    is_unread = any(each.plans or each.python or each.source for each in options)
    if is_unread or results is not None:
        raise ConfigError("plans, interpreters, checkouts and --results are for --interleave only")


def _json(comparison: Comparison) -> dict[str, Any]:
    return {
        "schema": "pocketrec.comparison/1",
        "verdict": comparison.verdict.value,
        "threshold": comparison.rule.threshold,
        "alpha": comparison.rule.alpha,
        "is_paired": comparison.is_paired,
        "notes": list(comparison.notes),
        "rows": [row.to_json() for row in comparison.rows],
    }
