# SPDX-License-Identifier: Apache-2.0
"""How cells are measured: counts that are the same for all of them."""

from __future__ import annotations

from dataclasses import dataclass

from pocketrec.errors import ConfigError

__all__ = ["BenchConfig"]


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """How to measure.

    Args:
        n_candidates: Candidates per re-ranking.
        warmup: Calls before the clock starts, per operation and process.
        runs: Timed calls at least, per operation and process.
        min_seconds: Seconds at least, per operation and process.
        repeat: Processes per cell, taken in turns.
        seed: Seed of histories, candidates and tie-breaks.
        kept_samples: Single calls that the result holds at most, per operation and process.

    Raises:
        ConfigError: A count is too small.
    """

    n_candidates: int = 100
    warmup: int = 20
    runs: int = 200
    min_seconds: float = 0.5
    repeat: int = 3
    seed: int = 0
    kept_samples: int = 2000

    def __post_init__(self) -> None:
        counts = (self.n_candidates, self.runs, self.repeat, self.kept_samples)
        if min(counts) < 1 or self.warmup < 0 or not 0 <= self.min_seconds < 3600:
            raise ConfigError(
                f"expected counts of at least 1, warmup and seconds from 0, found {self}"
            )
