# SPDX-License-Identifier: Apache-2.0
"""Where two backends first part ways: what they compute on the way, value by value.

Both take in the same histories by the same calls. Values that both show are compared in the
order of computation; the first one that differs by more than the tolerance names the operator
to look at. What differs later may just follow from it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import BackendError, ConfigError
from pocketrec_device.debugging.progress import SILENT, Progress
from pocketrec_device.debugging.values import Call, value_names
from pocketrec_device.debugging.watched import watch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.session import SessionState
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = ["Comparison", "Divergence", "find_divergence"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One value under two backends, over all calls of a function.

    Attributes:
        function: ``"history"``, which takes in events at once, or ``"step"``.
        value: What was compared.
        left_operator: What computed it on the left.
        right_operator: What computed it on the right.
        error: Largest relative L2 difference, |right - left| / |left|; None where it is no
            finite number.
        worst: Largest difference of two numbers; None likewise.
        is_beyond: Whether ``error`` is above the tolerance, or no number.
    """

    function: str
    value: str
    left_operator: str
    right_operator: str
    error: float | None
    worst: float | None
    is_beyond: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Divergence:
    """Two backends compared.

    Attributes:
        left: Name of one.
        right: Name of the other.
        tolerance: Largest relative difference that is none.
        n_histories: How many histories both took in.
        first: The earliest value beyond the tolerance; None where there is none.
        comparisons: Every value that both show, in the order of computation.
    """

    left: str
    right: str
    tolerance: float
    n_histories: int
    first: Comparison | None
    comparisons: tuple[Comparison, ...]


def find_divergence(
    bundle: BundleFolder,
    plan: Plan,
    histories: Iterable[NDArray[np.int32]],
    *,
    left: str = "numpy",
    right: str = "onnxruntime",
    tolerance: float = 1e-3,
    progress: Progress = SILENT,
) -> Divergence:
    """Compare what two backends compute on the way.

    Args:
        bundle: What they compute.
        plan: Under which plan.
        histories: Item indices, (T,) int32 each, oldest first; the last L count.
        left: A backend as ``watched.watch`` takes it; errors are relative to its values.
        right: The other one.
        tolerance: Largest relative difference that is none, above 0.
        progress: Told how far it is.

    Raises:
        ConfigError: There is no such backend, no history, or the tolerance is not above 0 or
            not finite.
        ArtifactError: The bundle or the plan cannot run on one of them.
        MissingExtraError: A library is not installed.
        BackendError: A backend cannot be made, or fails.
    """
    cut = [history[-bundle.manifest.backbone.window :] for history in histories]
    if not cut or not 0 < tolerance < math.inf:
        raise ConfigError(
            f"expected histories and a finite tolerance above 0, got {len(cut)}, {tolerance}"
        )
    items = bundle.read_items()
    sides = _Sides(bundle, plan, left, right)
    differences = _Differences(value_names(bundle.manifest.backbone), tolerance)
    progress.begin("histories", len(cut))
    for history in cut:
        differences.add(sides.take_in(items.embed(history)))
        progress.advance(1)
    return Divergence(
        left=left,
        right=right,
        tolerance=tolerance,
        n_histories=len(cut),
        first=differences.first(),
        comparisons=differences.comparisons(),
    )


class _Differences:
    """What two backends differed by so far, by function and value.

    Args:
        names: Of all values, in the order of computation.
        tolerance: Largest relative difference that is none.
    """

    def __init__(self, names: Sequence[str], tolerance: float) -> None:
        self._names, self._tolerance = names, tolerance
        self._found: dict[tuple[str, str], _Difference] = {}

    def add(self, calls: Iterable[tuple[str, Call, Call]]) -> None:
        """Count the calls that one history took."""
        for number, (function, left, right) in enumerate(calls):
            for position, name in enumerate(self._names):
                if name in left.values and name in right.values:
                    difference = self._found.setdefault(
                        (function, name), _Difference(left, right, name)
                    )
                    values = (left.values[name], right.values[name])
                    difference.add(*values, (number, position), self._tolerance)

    def comparisons(self) -> tuple[Comparison, ...]:
        """Return every value, those of histories before those of steps."""
        keys = [
            (function, name)
            for function in ("history", "step")
            for name in self._names
            if (function, name) in self._found
        ]
        return tuple(self._found[key].result(*key, self._tolerance) for key in keys)

    def first(self) -> Comparison | None:
        """Return the earliest value beyond the tolerance."""
        beyond = [
            (difference.first_beyond, key)
            for key, difference in self._found.items()
            if difference.first_beyond is not None
        ]
        if not beyond:
            return None
        key = min(beyond)[1]
        return self._found[key].result(*key, self._tolerance)


class _Difference:
    """The largest difference of one value so far."""

    def __init__(self, left: Call, right: Call, name: str) -> None:
        self._operators = (left.operators[name], right.operators[name])
        self._error = self._worst = 0.0
        self.first_beyond: tuple[int, int] | None = None

    def add(
        self,
        left: NDArray[np.float64],
        right: NDArray[np.float64],
        place: tuple[int, int],
        tolerance: float,
    ) -> None:
        """Count one call; ``place`` is its number and that of the value in it."""
        # A graph may compute the last event's row only, where the reference computes all.
        n_rows = min(len(left), len(right))
        left, right = left[len(left) - n_rows :], right[len(right) - n_rows :]
        with np.errstate(all="ignore"):  # what is no number is an error without a number
            difference = right - left
            power = float(np.sqrt((left * left).sum()))
            error = float(np.sqrt((difference * difference).sum()))
            error = error / power if power else (math.inf if error else 0.0)
            worst = float(np.abs(difference).max())
        error, worst = (math.inf if math.isnan(each) else each for each in (error, worst))
        self._error, self._worst = max(self._error, error), max(self._worst, worst)
        if error > tolerance and (self.first_beyond is None or place < self.first_beyond):
            self.first_beyond = place

    def result(self, function: str, value: str, tolerance: float) -> Comparison:
        """Return the comparison of one value."""
        return Comparison(
            function=function,
            value=value,
            left_operator=self._operators[0],
            right_operator=self._operators[1],
            error=self._error if math.isfinite(self._error) else None,
            worst=self._worst if math.isfinite(self._worst) else None,
            is_beyond=self._error > tolerance,
        )


class _Sides:
    """Two watched backends that take in the same histories."""

    def __init__(self, bundle: BundleFolder, plan: Plan, left: str, right: str) -> None:
        self._calls: tuple[list[Call], list[Call]] = ([], [])
        names = (left, right)
        self._backends = [
            watch(name, bundle, plan, calls.append)
            for name, calls in zip(names, self._calls, strict=True)
        ]
        self._states = [backend.new_state() for backend in self._backends]
        self._is_window = bundle.manifest.backbone.kind == "caser"
        self._takes_histories = all(backend.takes_histories for backend in self._backends)

    def take_in(self, x: NDArray[np.float32]) -> list[tuple[str, Call, Call]]:
        """Return the calls that a history takes, (T, D), on both sides.

        Raises:
            BackendError: A backend fails, or made another number of calls.
        """
        for calls in self._calls:
            calls.clear()
        functions = [""]
        for state in self._states:
            state.reset()
            functions = self._observe(state, x)
        left, right = self._calls
        if not len(left) == len(right) == len(functions):
            raise BackendError(
                f"expected {len(functions)} calls on both sides, found {len(left)} and {len(right)}"
            )
        return list(zip(functions, left, right, strict=True))

    def _observe(self, state: SessionState, x: NDArray[np.float32]) -> list[str]:
        """Take in a history; return the functions that this calls."""
        if self._is_window:
            state.observe(x)  # the whole window is one step
            return ["step"]
        n_at_once = len(x) - 1 if self._takes_histories and len(x) > 2 else 0
        state.observe(x[:n_at_once])
        for event in x[n_at_once:]:
            state.step(event)
        return [*(["history"] if n_at_once else []), *["step"] * (len(x) - n_at_once)]
