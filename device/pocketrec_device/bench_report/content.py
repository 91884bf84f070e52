# SPDX-License-Identifier: Apache-2.0
"""What a report is made from: results of ``bench run``, and profiles of ``debug profile``."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_device.bench.result import SCHEMA
from pocketrec_device.debugging.profile import PROFILE_SCHEMA

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

__all__ = ["Cell", "Content", "read_files"]

_PARTS = ("backend", "speed", "threads", "scenario")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One record of one result.

    Attributes:
        run: Which result it is of, a letter; empty where there is only one.
        record: As the file has it.
        varying: What differs between cells of the report, of ``_PARTS``.
    """

    run: str
    record: Mapping[str, Any]
    varying: frozenset[str]

    @property
    def name(self) -> str:
        """Its variant and what else tells it from the other cells of the report."""
        return self._name(self.varying)

    @property
    def name_in_scenario(self) -> str:
        """The same among cells of one scenario."""
        return self._name(self.varying - {"scenario"})

    def _name(self, varying: frozenset[str]) -> str:
        words = [str(self.record["variant"])]
        words += [
            f"{self.record[part]} threads" if part == "threads" else str(self.record[part])
            for part in _PARTS
            if part in varying
        ]
        name = " · ".join(words)
        return f"{self.run}: {name}" if self.run else name

    @property
    def series(self) -> str:
        """What it shares colour and shape with: the variant."""
        return str(self.record["variant"])

    @property
    def is_valid(self) -> bool:
        """Whether nothing is doubtful about it."""
        return bool(self.record["validity"]["is_valid"])

    def samples_us(self, operation: str) -> NDArray[np.float64]:
        """Return the kept samples of all processes, (n,) float64 microseconds."""
        texts = [process["samples_ns"].get(operation, "") for process in self.record["processes"]]
        return np.array([int(word) for text in texts for word in text.split()], np.float64) / 1e3

    def medians_us(self, operation: str) -> list[float]:
        """Return the median of each process, in the order of their turns."""
        processes = self.record["processes"]
        return [float(one["p50_us"][operation]) for one in processes if operation in one["p50_us"]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Content:
    """All that a report shows.

    Attributes:
        results: As their files have them.
        profiles: Likewise.
        cells: Records of all results.
    """

    results: tuple[Mapping[str, Any], ...]
    profiles: tuple[Mapping[str, Any], ...]
    cells: tuple[Cell, ...]

    @classmethod
    def of(
        cls,
        results: Iterable[Mapping[str, Any]],
        profiles: Iterable[Mapping[str, Any]] = (),
    ) -> Content:
        """Take results and profiles, checked as far as a report needs them.

        Raises:
            ConfigError: There is no result, or one lacks what a result has.
        """
        results = tuple(results)
        if not results:
            raise ConfigError("expected at least one result of bench run, found none")
        for result in results:
            _check(result)
        records = [
            (run, record)
            for run, result in zip(_letters(len(results)), results, strict=True)
            for record in result["records"]
        ]
        if not records:
            raise ConfigError("expected results with cells, found none; measure with bench run")
        varying = frozenset(
            part for part in _PARTS if len({record[part] for _, record in records}) > 1
        )
        cells = tuple(Cell(run=run, record=record, varying=varying) for run, record in records)
        return cls(results=results, profiles=tuple(profiles), cells=cells)

    @property
    def runs(self) -> list[str]:
        """What each result is called; a single one has no name."""
        return _letters(len(self.results))

    @property
    def series(self) -> tuple[str, ...]:
        """Every variant once, in the order of appearance."""
        return tuple(dict.fromkeys(cell.series for cell in self.cells))

    @property
    def operations(self) -> tuple[tuple[str, str], ...]:
        """Every (scenario, operation) that was timed, in the order of appearance."""
        return tuple(
            dict.fromkeys(
                (str(cell.record["scenario"]), operation)
                for cell in self.cells
                for operation in cell.record["latency_us"]
            )
        )

    def of_operation(self, scenario: str, operation: str) -> list[Cell]:
        """Return the cells that timed an operation."""
        return [
            cell
            for cell in self.cells
            if cell.record["scenario"] == scenario and operation in cell.record["latency_us"]
        ]


def read_files(paths: Sequence[Path]) -> Content:
    """Read results and profiles, told apart by what they declare to be.

    Raises:
        ConfigError: A file is neither, or there is no result among them.
        OSError: A file cannot be read.
    """
    results, profiles = [], []
    for path in paths:
        try:
            document = json.loads(path.read_bytes())
        except ValueError as error:
            raise ConfigError(f"{path}: expected JSON: {error}") from error
        schema = document.get("schema") if isinstance(document, dict) else None
        if schema == SCHEMA:
            results.append(document)
        elif schema == PROFILE_SCHEMA:
            profiles.append(document)
        else:
            raise ConfigError(
                f"{path}: expected {SCHEMA!r} or {PROFILE_SCHEMA!r}, found {schema!r:.80}; "
                "bench run and debug profile make them with --json"
            )
    return Content.of(results, profiles)


_RESULT_KEYS = frozenset({"run", "bundle", "config", "records", "skipped", "environment"})
_RECORD_KEYS = frozenset(
    {
        *("cell", "variant", "backend", "backend_version", "speed", "threads", "scenario"),
        *("effective_bits", "coded_bytes", "plan_bytes", "bundle_bytes", "wire_bytes"),
        *("disk_bytes", "resident_weight_bytes", "import_ms", "load_ms", "first_run_ms"),
        *("idle_rss_bytes", "peak_rss_bytes", "delta_rss_bytes", "latency_us", "layers"),
        *("quality", "processes", "validity"),
    }
)


def _check(result: Mapping[str, Any]) -> None:
    absent = _RESULT_KEYS - result.keys()
    for record in result.get("records", ()):
        absent |= _RECORD_KEYS - record.keys()
    if absent:
        raise ConfigError(
            f"expected all keys of {SCHEMA!r}, found none of {sorted(absent)}; measure "
            "again with bench run"
        )


def _letters(n_results: int) -> list[str]:
    if n_results == 1:
        return [""]
    return [chr(ord("A") + number) if number < 26 else f"R{number}" for number in range(n_results)]
