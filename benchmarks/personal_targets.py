# SPDX-License-Identifier: Apache-2.0
"""What ``personal`` concludes: attempts with their outcomes, and the targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.personal_attempts import ATTEMPTS, Attempt
from benchmarks.personal_settings import case, recipe_of
from benchmarks.sheets import Sheet

__all__ = ["attempts_sheet", "targets_sheet", "tests_of", "title_of"]

_FLOAT = "narrow-float"
_ALPHA = 0.05
_ENOUGH = 0.99
_CONTROLS = ("shuffled", "random")
_SHARED = ("narrow-2", "narrow-qat-2", "global", "global-trained", "shared-after")
_ATTEMPT_NOTE = """\
Outcome: difference of NDCG@10 from a stranger's plan, and from the best shared plan of equal
resident bytes trained the same way, in per cent of the latter; in bold where p < .05 (two-sided,
paired by user, means over seeds first). Predictions were written before an attempt's first
run. In brackets: seeds. Window: events that the re-ranker reads, 20 where it is full."""
_TARGET_NOTE = """\
(a) NDCG@10 of the personal plan as a share of `narrow-float`'s, to be 99 % or more. (b) It beats
every shared plan and uniform quantization at equal resident bytes, its own average plan included,
p < .05. (c) It beats `:shuffled` and `:random`, p < .05. Bold where all of it holds. The attempt
shown is the one with the best **validation** NDCG@10, means over seeds, among those that were run
with most seeds."""


def attempts_sheet(tests: Sequence[Mapping[str, Any]]) -> Sheet:
    """Return each attempt with its prediction and what came of it.

    Args:
        tests: ``paired`` of a result.
    """
    rows = []
    for attempt in ATTEMPTS:
        outcomes = [
            _outcome(attempt, [test for test in own if title_of(test) == title])
            for own in [tests_of(attempt, tests)]
            for title in sorted({title_of(test) for test in own})
        ]
        if outcomes:
            rows.append(
                (
                    attempt.group,
                    str(attempt.window or "full"),
                    attempt.hypothesis,
                    attempt.prediction,
                    "; ".join(outcomes),
                )
            )
    return Sheet(
        title="What was tried",
        columns=("attempt", "window", "hypothesis", "prediction", "outcome"),
        rows=tuple(rows),
        n_text=5,
        note=_ATTEMPT_NOTE,
    )


def title_of(found: Mapping[str, Any]) -> str:
    """Return what a record, test or spread is of: dataset, unusual window, unusual backbone."""
    backbone = "" if found["backbone"] == "sasrec" else f", {found['backbone']}"
    return f"{case(found['dataset'], found['window'])}{backbone}"


def tests_of(attempt: Attempt, tests: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the tests of an attempt: of its group, through its window."""
    return [
        test
        for test in tests
        if test["method"] == attempt.group
        and test["window"] == (attempt.window or recipe_of(test["dataset"]).window)
    ]


def _outcome(attempt: Attempt, tests: Sequence[Mapping[str, Any]]) -> str:
    """Return what came of an attempt on the dataset of these tests."""
    parts = []
    for label, rival in (
        ("stranger", f"{attempt.group}:shuffled"),
        (f"`{attempt.shared}`", attempt.shared),
    ):
        test = _find(tests, attempt.group, rival)
        if test is not None:
            text = f"{test['difference'] / test['other']:+.1%}"
            parts.append(f"{label} {f'**{text}**' if test['p'] < _ALPHA else text}")
    return f"{title_of(tests[0])} ({tests[0]['n_seeds']}): {', '.join(parts)}"


def _find(tests: Sequence[Mapping[str, Any]], method: str, rival: str) -> Mapping[str, Any] | None:
    for test in tests:
        if (test["method"], test["rival"]) == (method, rival):
            return test
    return None


def targets_sheet(result: Mapping[str, Any]) -> Sheet:
    """Return what a result says of the targets, case by case.

    Args:
        result: What ``personal_run.run`` returned.
    """
    rows = []
    for title in sorted({title_of(record) for record in result["records"]}):
        tests = [test for test in result["paired"] if title_of(test) == title]
        method = _chosen(result, tests)
        against_float = _find(tests, method, _FLOAT) if method else None
        if against_float is None or method is None:
            continue
        ratio = against_float["own"] / against_float["other"]
        shared = [_find(tests, method, name) for name in (*_SHARED, f"{method}:mean")]
        controls = [_find(tests, method, f"{method}:{name}") for name in _CONTROLS]
        rows.append(
            (
                title,
                method,
                str(against_float["n_seeds"]),
                f"**{ratio:.1%}**" if ratio >= _ENOUGH else f"{ratio:.1%}",
                _cells(shared),
                _cells(controls),
            )
        )
    return Sheet(
        title="The targets",
        columns=("dataset", "attempt", "seeds", "(a)", "(b)", "(c)"),
        rows=tuple(rows),
        n_text=2,
        note=_TARGET_NOTE,
    )


def _cells(tests: Sequence[Mapping[str, Any] | None]) -> str:
    """Return the tests of one target, in bold where all of them pass."""
    known = [test for test in tests if test is not None]
    text = ", ".join(
        f"{test['rival'].rpartition(':')[2]} {test['difference'] / test['other']:+.1%} "
        f"(p = {test['p']:.2g})"
        for test in known
    )
    passes = all(test["difference"] > 0 and test["p"] < _ALPHA for test in known)
    return f"**{text}**" if known and passes else text


def _chosen(result: Mapping[str, Any], tests: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the attempt that validates best in the case of these tests, of most seeds."""
    if not tests:
        return None
    stem = f"{case(tests[0]['dataset'], tests[0]['window'])}-{tests[0]['backbone']}-"
    best: dict[str, dict[str, float]] = {}
    for evaluation in result["sweeps"]:
        unit, ndcg = evaluation["unit"], evaluation["ndcg@10"]
        for group in {attempt.group for attempt in ATTEMPTS}:
            seed = unit.removeprefix(stem).removesuffix(f"-{group}")
            if seed.isdigit():
                own = best.setdefault(group, {})
                own[seed] = max(own.get(seed, 0.0), ndcg)
    if not best:
        return None
    most = max(len(own) for own in best.values())
    means = {name: sum(own.values()) / most for name, own in best.items() if len(own) == most}
    return max(sorted(means), key=means.__getitem__)
