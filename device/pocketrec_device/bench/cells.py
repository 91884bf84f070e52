# SPDX-License-Identifier: Apache-2.0
"""What is measured: variants of a bundle, under backends, speeds, threads and scenarios."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.backends import BACKENDS, DEFAULT_PLAN_ONLY
from pocketrec_quantization.levels import SPEED_PRESETS

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["PEER", "SCENARIOS", "Cell", "Grid", "Variant"]

SCENARIOS = ("single", "session", "offline")
"""What a process times; ``scenarios`` has one function for each."""

PEER = "peer"
"""Where a backend's name stands, of a cell that another runtime computes."""

_FLOAT_BACKEND = "onnxruntime"
_OWN_SPEED = "balanced"


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """What a row measures.

    Args:
        name: What the row is called; no two variants share a name.
        plan: A plan file; None is the bundle's default plan.
        float_twin: The float twin's file, to measure the float control instead.
        peer: Another runtime to measure instead, as ``peers.load_peer`` takes it; it
            converts the float twin, which must be given too.

    Raises:
        ConfigError: The fields exclude each other.
    """

    name: str
    plan: Path | None = None
    float_twin: Path | None = None
    peer: str | None = None

    def __post_init__(self) -> None:
        if self.plan is not None and (self.float_twin is not None or self.peer is not None):
            raise ConfigError(f"{self.name}: a float model has no plan; leave one of them out")
        if self.peer is not None and self.float_twin is None:
            raise ConfigError(
                f"{self.name}: another runtime converts the float model: add --float-twin"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One row of the result.

    Args:
        variant: What is measured.
        backend: Name of the backend, or ``PEER``.
        speed: One of ``SPEED_PRESETS``; what a plan's tiers mean in bits.
        threads: Threads per call.
        scenario: One of ``SCENARIOS``.
    """

    variant: Variant
    backend: str
    speed: str
    threads: int
    scenario: str

    @property
    def name(self) -> str:
        """Unique in a grid, and the same in every run."""
        parts = (self.variant.name, self.backend, self.speed, str(self.threads), self.scenario)
        return "/".join(parts)

    @property
    def is_peer(self) -> bool:
        """Whether another runtime computes."""
        return self.backend == PEER

    @property
    def impossible(self) -> str:
        """Why it cannot be measured, if so."""
        if self.backend in DEFAULT_PLAN_ONLY and self.variant.plan is not None:
            return f"{self.backend} runs the default plan only"
        if self.is_peer and self.scenario != "single":
            return "another runtime keeps no state between events"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Every combination to measure.

    Args:
        variants: In the order of rows; the first is what the others' quality is compared with.
        backends: Names of backends.
        speeds: Names of speed presets.
        threads: Numbers of threads.
        scenarios: Names of scenarios.

    Raises:
        ConfigError: There are no variants, or two of one name; a list is empty or names
            what there is not.
    """

    variants: tuple[Variant, ...]
    backends: tuple[str, ...] = (_FLOAT_BACKEND,)
    speeds: tuple[str, ...] = (_OWN_SPEED,)
    threads: tuple[int, ...] = (1,)
    scenarios: tuple[str, ...] = ("single",)

    def __post_init__(self) -> None:
        names = [variant.name for variant in self.variants]
        if not names or len(set(names)) != len(names):
            raise ConfigError(
                f"expected one or more variants of different names, found {names}: rows are "
                "called as plan files are, the default plan's as its planner; rename a file"
            )
        for what, chosen, known in (
            ("backends", self.backends, tuple(BACKENDS)),
            ("speeds", self.speeds, tuple(SPEED_PRESETS)),
            ("scenarios", self.scenarios, SCENARIOS),
        ):
            if not chosen or len(set(chosen)) != len(chosen) or not set(chosen) <= set(known):
                raise ConfigError(f"{what}: expected some of {known}, each once, found {chosen}")
        if not self.threads or len(set(self.threads)) != len(self.threads) or min(self.threads) < 1:
            raise ConfigError(f"threads: expected at least 1, each once, found {self.threads}")

    def cells(self) -> tuple[Cell, ...]:
        """Return all cells, impossible ones included, variant by variant."""
        return tuple(cell for variant in self.variants for cell in self._cells_of(variant))

    def _cells_of(self, variant: Variant) -> list[Cell]:
        backends, speeds, threads = self.backends, self.speeds, self.threads
        if variant.peer is not None:
            backends, speeds, threads = (PEER,), (_OWN_SPEED,), (1,)
        elif variant.float_twin is not None:  # its weights have no tiers
            speeds = (_OWN_SPEED,)
            backends = (_FLOAT_BACKEND,) if _FLOAT_BACKEND in backends else backends
        return [
            Cell(variant=variant, backend=backend, speed=speed, threads=n, scenario=scenario)
            for scenario, backend, speed, n in product(self.scenarios, backends, speeds, threads)
        ]
