# SPDX-License-Identifier: Apache-2.0
"""What ``personal`` concludes: attempts with their outcomes, and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.personal_attempts import ATTEMPTS, Attempt
from benchmarks.sheets import Sheet

__all__ = ["attempts_sheet", "targets_sheet"]

_FLOAT = "narrow-float"
_ALPHA = 0.05
_CONTROLS = ("shuffled", "random")
_SHARED = ("narrow-2", "narrow-qat-2", "global", "global-trained")
_ATTEMPT_NOTE = """\
Outcome: difference of NDCG@10 from a stranger's plan, and from the best shared plan of equal
resident bytes trained the same way, in per cent of the latter; in bold where p < .05 (two-sided,
paired by user, means over seeds first). Predictions were written before an attempt's first
run."""
_TARGET_NOTE = """\
(a) NDCG@10 of the personal plan as a share of `narrow-float`'s, to be 99 % or more. (b) It beats
every shared plan and uniform quantization at equal resident bytes, p < .05. (c) It beats
`:shuffled` and `:random`, p < .05. The attempt shown for a dataset is the one with the best
**validation** NDCG@10, means over seeds, among those that were run with most seeds."""


def attempts_sheet(tests: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return each attempt with its prediction and what came of it.

    Args:
        tests: ``paired`` of a result.
    """
    rows = []
    for attempt in ATTEMPTS:
        outcomes = [_outcome(attempt, tests, dataset) for dataset in _tested(attempt, tests)]
        if outcomes:
            rows.append(
                (
                    attempt.group,
                    attempt.hypothesis,
                    attempt.prediction,
                    "; ".join(outcomes),
                )
            )
    return Sheet(
        title="What was tried",
        columns=("attempt", "hypothesis", "prediction", "outcome"),
        rows=tuple(rows),
        n_text=4,
        note=_ATTEMPT_NOTE,
    )


def _tested(attempt: Attempt, tests: Sequence[Mapping[str, Any]]) -> list[str]:
    return sorted({test["dataset"] for test in tests if test["method"] == attempt.group})


def _outcome(attempt: Attempt, tests: Sequence[Mapping[str, Any]], dataset: str) -> str:
    parts = []
    for label, rival in (
        ("stranger", f"{attempt.group}:shuffled"),
        (f"`{attempt.shared}`", attempt.shared),
    ):
        test = _find(tests, dataset, attempt.group, rival)
        if test is not None:
            text = f"{test['difference'] / test['other']:+.1%}"
            parts.append(f"{label} {f'**{text}**' if test['p'] < _ALPHA else text}")
    return f"{dataset}: {', '.join(parts)}"


def _find(
    tests: Sequence[Mapping[str, Any]], dataset: str, method: str, rival: str
) -> Mapping[str, Any] | None:
    for test in tests:
        if (test["dataset"], test["method"], test["rival"]) == (dataset, method, rival):
            return test
    return None


def targets_sheet(result: Mapping[str, Any]) -> Sheet:
    """Return what a result says of the targets, dataset by dataset.

    Args:
        result: What ``personal_run.run`` returned.
    """
    tests, rows = result["paired"], []
    for dataset in sorted({record["dataset"] for record in result["records"]}):
        method = _chosen(result, dataset)
        if method is None:
            continue
        against_float = _find(tests, dataset, method, _FLOAT)
        shared = [_find(tests, dataset, method, name) for name in _SHARED]
        controls = [_find(tests, dataset, method, f"{method}:{name}") for name in _CONTROLS]
        ratio = "–"
        if against_float is not None:
            ratio = f"{against_float['own'] / against_float['other']:.1%}"
        n_seeds = against_float["n_seeds"] if against_float is not None else 0
        rows.append((dataset, method, str(n_seeds), ratio, _cells(shared), _cells(controls)))
    return Sheet(
        title="The targets",
        columns=("dataset", "attempt", "seeds", "(a) of float32", "(b) shared", "(c) controls"),
        rows=tuple(rows),
        n_text=2,
        note=_TARGET_NOTE,
    )


def _cells(tests: Sequence[Mapping[str, Any] | None]) -> str:
    return ", ".join(
        f"{test['rival'].rpartition(':')[2]} {test['difference'] / test['other']:+.1%} "
        f"(p = {test['p']:.2g})"
        for test in tests
        if test is not None
    )


def _chosen(result: Mapping[str, Any], dataset: str) -> str | None:
    """Return the attempt that validates best, among those with most seeds."""
    best: dict[str, dict[str, float]] = {}
    for evaluation in result["sweeps"]:
        unit, ndcg = evaluation["unit"], evaluation["ndcg@10"]
        for attempt in ATTEMPTS:
            seed = unit.removeprefix(f"{dataset}-sasrec-").removesuffix(f"-{attempt.group}")
            if seed.isdigit():
                own = best.setdefault(attempt.group, {})
                own[seed] = max(own.get(seed, 0.0), ndcg)
    if not best:
        return None
    most = max(len(own) for own in best.values())
    means = {name: sum(own.values()) / most for name, own in best.items() if len(own) == most}
    return max(means, key=means.__getitem__)
