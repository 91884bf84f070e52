# SPDX-License-Identifier: Apache-2.0
"""Tests personal plans against their rivals, user by user."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from benchmarks.personal_settings import recipe_of

__all__ = ["LONGER", "by_history", "paired_tests"]

_Case: TypeAlias = tuple[str, int, str]
_Users: TypeAlias = np.ndarray[Any, Any]

LONGER = "+window"
"""Marks a rival that reads the full window of its dataset, where a plan's device does not."""

_BEST_SHARED = "global-trained"
_LONGER = ("narrow-float", "narrow-qat-2")
_SHARED = (
    "narrow-float",
    "narrow-float-start",
    "wide-float",
    "narrow-2",
    "narrow-qat-2",
    "global",
    "global-trained",
    "shared-after",
)
_UNIFORM = "narrow-qat-2"
_EVENTS = (1, 6, 21, 101)
_FEWEST = 50


def paired_tests(answers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare personal plans, and the best shared one, with each rival, user by user.

    A user's difference is the mean over the seeds that have both; the test is whether its
    mean over users is zero.

    Args:
        answers: Of ``run_unit``.

    Yields:
        ``dataset``, ``window``, ``backbone``, ``method``, ``rival`` (``+window`` where it
        reads the full window of its dataset), ``n_seeds``, ``n_users``;
        ``difference`` of NDCG@10, its 95 % interval ``low`` and ``high``, ``p``, and
        ``own`` and ``other``, the two means.
    """
    for key, methods in sorted(_by_case(answers).items()):
        own = {name.partition(":")[0] for name in methods if ":" in name}
        for method in sorted(own | (methods.keys() & {_BEST_SHARED})):
            controls = [name for name in methods if name.startswith(f"{method}:")]
            shared = [name for name in _SHARED if name != method]
            longer = [name for name in methods if name.endswith(LONGER)]
            rivals = (*controls, *shared, *longer, *_cousins(method, methods))
            for rival in dict.fromkeys(rivals):
                seeds = sorted(methods[method].keys() & methods.get(rival, {}).keys())
                if seeds:
                    yield {
                        **_named(key),
                        "method": method,
                        "rival": rival,
                        "n_seeds": len(seeds),
                        **_test(*_means(methods, (method, rival), seeds)),
                    }


def by_history(answers: Sequence[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """Compare one's own plan with uniform quantization, by how long histories are.

    Args:
        answers: Of ``run_unit``.

    Yields:
        As ``paired_tests``, with ``from`` and ``to``, the events of these users; the last
        ``to`` is None.
    """
    lengths = {
        answer["records"][0]["dataset"]: answer["n_events"]
        for answer in answers
        if "n_events" in answer
    }
    for key, methods in sorted(_by_case(answers).items()):
        for method in sorted({name.partition(":")[0] for name in methods if ":" in name}):
            seeds = sorted(methods[method].keys() & methods.get(_UNIFORM, {}).keys())
            events = np.array(lengths.get(key[0], ())) if seeds else np.array(())
            for low, high in zip(_EVENTS, (*_EVENTS[1:], None), strict=True):
                rows = (events >= low) & (events < (high or math.inf))
                if rows.sum() >= _FEWEST:
                    own, other = _means(methods, (method, _UNIFORM), seeds)
                    yield {
                        **_named(key),
                        "method": method,
                        "rival": _UNIFORM,
                        "from": low,
                        "to": high and high - 1,
                        "n_seeds": len(seeds),
                        **_test(own[rows], other[rows]),
                    }


def _case_of(record: Mapping[str, Any]) -> _Case:
    return record["dataset"], record["window"], record["backbone"]


def _named(key: _Case) -> dict[str, Any]:
    return dict(zip(("dataset", "window", "backbone"), key, strict=True))


def _means(
    methods: Mapping[str, Mapping[int, Sequence[float]]],
    names: tuple[str, str],
    seeds: Sequence[int],
) -> tuple[_Users, _Users]:
    """Return NDCG@10 of every user under two methods, the mean over seeds."""
    own, other = (np.mean([methods[name][seed] for seed in seeds], axis=0) for name in names)
    return own, other


def _by_case(
    answers: Sequence[Mapping[str, Any]],
) -> dict[_Case, dict[str, dict[int, list[float]]]]:
    """Return NDCG@10 per user by case, method and seed; short windows with their long rivals."""
    found: dict[_Case, dict[str, dict[int, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    for answer in answers:
        for record in answer["records"]:
            key = _case_of(record)
            found[key][record["method"]][record["seed"]] = answer["ndcg"][record["method"]]
    for (dataset, window, backbone), methods in found.items():
        usual = recipe_of(dataset).window
        if window != usual:
            longer = found.get((dataset, usual, backbone), {})
            methods |= {f"{name}{LONGER}": longer[name] for name in _LONGER if name in longer}
    return found


def _cousins(method: str, methods: Mapping[str, object]) -> tuple[str, ...]:
    """Return the other ways to personalise, which a slice is compared with as well."""
    if method.startswith("offset") or method == _BEST_SHARED:
        return ()
    others = {"offset", "offset-trained", "personal"} - {method}
    return tuple(name for name in methods if name in others)


def _test(own: _Users, rival: _Users) -> dict[str, float]:
    differences = own - rival
    mean, n_users = float(differences.mean()), differences.size
    error = float(differences.std(ddof=1)) / math.sqrt(n_users)
    z = abs(mean) / error if error else 0.0
    return {
        "n_users": n_users,
        "own": float(own.mean()),
        "other": float(rival.mean()),
        "difference": mean,
        "low": mean - 1.96 * error,
        "high": mean + 1.96 * error,
        "p": math.erfc(z / math.sqrt(2)),
    }
