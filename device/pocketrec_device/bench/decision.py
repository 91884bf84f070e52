# SPDX-License-Identifier: Apache-2.0
"""Decides whether a number got worse, when every process of a run is one sample.

Calls within a process are not independent: where memory landed and who else was running
stays for a while. So a process counts once, by its median, and processes are what is
resampled.

* The *change* is the ratio of the medians over processes, head / base. Where processes of
  both took turns, it is the median over turns of the ratio within a turn, so that what
  slowed both down cancels out.
* Its *interval* is a percentile bootstrap over processes, or turns, at the level
  ``1 - alpha / m`` for m numbers that are judged together, so that many numbers together
  raise a false alarm no more often than one. It never reaches beyond what processes showed:
  of n turns, all lie on one side of the true median with probability ``2 ** (1 - n)``, so
  where that is more than ``alpha / m`` the level is aimed at, not kept.
* It is a *regression* when the whole interval is beyond the threshold: slower by more than
  that, whatever the noise; an *improvement* likewise. It is *equal* when the whole interval
  is within the threshold, and *unsure* when it is on both sides: measure more.

Source:
    Bootstrap: Efron 1979, percentile interval; Bonferroni's correction; the rule is our choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Change", "Rule", "Verdict", "judge", "judge_counts"]


class Verdict(StrEnum):
    """What a comparison of one number comes to."""

    REGRESSION = "regression"
    IMPROVEMENT = "improvement"
    EQUAL = "equal"
    UNSURE = "unsure"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What counts as a change.

    Args:
        threshold: Share from which a change counts, such as 0.05.
        alpha: How often a run of the same build may be called changed, over all its numbers.
        n_resamples: Of the bootstrap.
        min_processes: With fewer per side, times are never more than unsure.
        seed: Of the resampling.

    Raises:
        ConfigError: A number is out of its range.
    """

    threshold: float = 0.05
    alpha: float = 0.05
    n_resamples: int = 10_000
    min_processes: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 < self.threshold < 10 or not 0 < self.alpha < 1:
            raise ConfigError(f"expected a threshold above 0 and 0 < alpha < 1, got {self}")
        if self.n_resamples < 100 or self.min_processes < 2:
            raise ConfigError(f"expected 100 resamples and 2 processes or more, got {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """How one number changed.

    Args:
        base: Median over the processes of the base.
        head: The same of the head.
        ratio: head / base, 1 is no change; see the module for pairs.
        low: Lower end of its interval.
        high: Upper end.
        verdict: What it comes to.
    """

    base: float
    head: float
    ratio: float
    low: float
    high: float
    verdict: Verdict


def judge(
    base: Sequence[float], head: Sequence[float], rule: Rule, *, n_judged: int, is_paired: bool
) -> Change:
    """Compare a number of which less is better.

    Args:
        base: One value per process, above 0.
        head: The same; where paired, of the same turns in the same order.
        rule: What counts.
        n_judged: m, numbers that are judged together.
        is_paired: Whether processes took turns.

    Raises:
        ConfigError: A side has no values, or pairs do not match.
    """
    first, second = (np.log(np.array(values, np.float64)) for values in (base, head))
    if not first.size or not second.size or (is_paired and first.size != second.size):
        raise ConfigError(
            f"expected values of both sides, as many where paired, got {len(base)} and {len(head)}"
        )
    rng = np.random.default_rng(rule.seed)
    if is_paired:
        center = float(np.median(second - first))
        drawn = _medians(second - first, rule.n_resamples, rng)
    else:
        center = float(np.median(second) - np.median(first))
        drawn = _medians(second, rule.n_resamples, rng) - _medians(first, rule.n_resamples, rng)
    tail = 50 * rule.alpha / n_judged
    low, high = np.percentile(drawn, [tail, 100 - tail])
    n_processes = min(first.size, second.size)
    return Change(
        base=float(np.median(base)),
        head=float(np.median(head)),
        ratio=math.exp(center),
        low=math.exp(low),
        high=math.exp(high),
        verdict=_verdict(math.exp(low), math.exp(high), rule, n_processes),
    )


def judge_counts(base: float, head: float, rule: Rule) -> Change:
    """Compare a number that does not vary, such as bytes, of which less is better.

    Args:
        base: From 0.
        head: From 0.
        rule: What counts; a change from 0 always does.
    """
    ratio = 1.0 if base == head else head / base if base else math.inf
    verdict = _verdict(ratio, ratio, rule, rule.min_processes)
    return Change(base=base, head=head, ratio=ratio, low=ratio, high=ratio, verdict=verdict)


def _verdict(low: float, high: float, rule: Rule, n_processes: int) -> Verdict:
    worse, better = 1 + rule.threshold, 1 / (1 + rule.threshold)
    if n_processes < rule.min_processes:
        return Verdict.UNSURE
    if low > worse:
        return Verdict.REGRESSION
    if high < better:
        return Verdict.IMPROVEMENT
    return Verdict.EQUAL if high <= worse and low >= better else Verdict.UNSURE


def _medians(
    values: NDArray[np.float64], n_resamples: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    drawn = rng.integers(0, values.size, (n_resamples, values.size))
    medians: NDArray[np.float64] = np.median(values[drawn], axis=1)
    return medians
