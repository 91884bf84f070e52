# SPDX-License-Identifier: Apache-2.0
"""Draws what ``personal`` measured. Needs matplotlib."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.personal_attempts import ATTEMPTS, Attempt
from benchmarks.personal_targets import tests_of, title_of
from benchmarks.reports import prepare_plots

__all__ = ["draw_all"]

_RIVALS = (
    ("stranger's plan", ":shuffled", "#4c72b0", "o"),
    ("random plan", ":random", "#8c8c8c", "^"),
    ("best shared plan", "", "#c44e52", "D"),
    ("float32", "narrow-float", "#222222", "s"),
)


def draw_all(result: Mapping[str, Any], folder: Path) -> list[str]:
    """Draw every plot there is data for.

    Args:
        result: What ``personal_run.run`` returned.
        folder: Where to.

    Returns:
        File names, in order.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    prepare_plots()
    names = []
    if result["paired"]:
        for window in sorted({attempt.window for attempt in ATTEMPTS}):
            names += _differences(result["paired"], folder, window)
    if result["spread"]:
        names += [_frequencies(result["spread"], folder), _distances(result["spread"], folder)]
    return names


def _differences(tests: Sequence[Mapping[str, Any]], folder: Path, window: int) -> list[str]:
    """Draw what one's own plan gains over each rival, in per cent, with intervals."""
    import matplotlib.pyplot as plt

    found = [(attempt, tests_of(attempt, tests)) for attempt in ATTEMPTS]
    attempts = [(attempt, own) for attempt, own in found if attempt.window == window and own]
    titles = sorted({title_of(test) for _, own in attempts for test in own})
    if not titles:
        return []
    size = (3.4 * len(titles) + 1.6, 1.6 + 0.42 * len(attempts))
    figure, axes = plt.subplots(
        1, len(titles), figsize=size, squeeze=False, sharey=True, layout="constrained"
    )
    for axis, title in zip(axes.flat, titles, strict=True):
        axis.axvline(0, color="black", lw=0.8)
        for row, (attempt, own) in enumerate(attempts):
            _points(axis, row, attempt, [test for test in own if title_of(test) == title])
        axis.set(title=title, xlabel="NDCG@10 of one's own plan\nagainst the rival, %")
        axis.set_yticks(range(len(attempts)), [attempt.group for attempt, _ in attempts])
        axis.grid(axis="x", alpha=0.3)
    axes.flat[0].invert_yaxis()
    named: dict[str, Any] = {}
    for axis in axes.flat:
        handles, labels = axis.get_legend_handles_labels()
        named |= dict(zip(labels, handles, strict=True))
    figure.legend(named.values(), named.keys(), loc="outside lower center", ncols=4, fontsize=8)
    suffix = f"-at-{window}-events" if window else ""
    return [_save(figure, folder, f"personal-gain-over-rivals{suffix}.png")]


def _points(axis: Any, row: int, attempt: Attempt, tests: Sequence[Mapping[str, Any]]) -> None:
    for place, (label, name, colour, marker) in enumerate(_RIVALS):
        rival = name or attempt.shared
        rival = f"{attempt.group}{rival}" if name.startswith(":") else rival
        for test in tests:
            if test["rival"] == rival:
                scale = 100 / test["other"]
                axis.errorbar(
                    test["difference"] * scale,
                    row + 0.18 * (place - 1.5),
                    xerr=1.96 * _error(test) * scale,
                    fmt=marker,
                    color=colour,
                    markersize=5,
                    capsize=2,
                    label=label,
                )


def _error(test: Mapping[str, Any]) -> float:
    return float(test["high"] - test["low"]) / (2 * 1.96)


def _frequencies(spreads: Sequence[Mapping[str, Any]], folder: Path) -> str:
    """Draw for how many users a channel is on, from the most to the least used one."""
    shown = _first_seeds(spreads)
    figure, axes = _panels(len(shown), (3.2, 2.2))
    for axis, spread in zip(axes.flat, shown, strict=False):
        frequency = sorted(spread["frequency"], reverse=True)
        axis.plot(range(len(frequency)), frequency, color="#c44e52")
        axis.axhline(0.25, color="#8c8c8c", lw=0.8, ls=":")
        axis.set(xlabel="channel, by use", ylabel="share of users", ylim=(0, 1.02))
        axis.set_title(_title(spread), fontsize=8)
    return _save(figure, folder, "personal-use-of-channels.png")


def _distances(spreads: Sequence[Mapping[str, Any]], folder: Path) -> str:
    shown = _first_seeds(spreads)
    figure, axes = _panels(len(shown), (3.2, 2.2))
    for axis, spread in zip(axes.flat, shown, strict=False):
        axis.scatter(
            spread["interest_distance"], spread["plan_distance"], s=4, alpha=0.5, color="#4c72b0"
        )
        axis.set(xlabel="distance of interests", ylabel="channels that differ")
        axis.set_ylim(bottom=0)
        axis.set_title(f"{_title(spread)}: r = {spread['correlation']:.2f}", fontsize=8)
    return _save(figure, folder, "personal-distance-of-slices.png")


def _first_seeds(spreads: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    return sorted((spread for spread in spreads if not spread["seed"]), key=_title)


def _title(spread: Mapping[str, Any]) -> str:
    return f"{title_of(spread)}, {spread['method']}"


def _panels(n_panels: int, size: tuple[float, float]) -> Any:
    import matplotlib.pyplot as plt

    columns = min(4, n_panels)
    rows = -(-n_panels // columns)
    figsize = (size[0] * columns, size[1] * rows)
    figure, axes = plt.subplots(rows, columns, figsize=figsize, squeeze=False, layout="constrained")
    for axis in axes.flat[n_panels:]:
        axis.set_visible(False)
    return figure, axes


def _save(figure: Any, folder: Path, name: str) -> str:
    import matplotlib.pyplot as plt

    figure.savefig(folder / name, dpi=80)
    plt.close(figure)
    return name
