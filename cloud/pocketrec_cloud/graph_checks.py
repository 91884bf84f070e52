# SPDX-License-Identifier: Apache-2.0
"""Runs exported functions on their own runtime and compares them with the test vectors.

A device does the same before it switches; here it keeps a bad export from being published.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pocketrec.errors import QuantizationError
from pocketrec_cloud.graph_runners import Array, ExecuTorchProgram, OnnxGraphs
from pocketrec_quantization.attention_bias import RingBias, prefill_bias

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.vectors import TestVectors, VectorCase

__all__ = ["ExecuTorchFunctions", "Functions", "OnnxFunctions", "check_functions"]


class Functions(Protocol):
    """The exported functions under one plan, ready to run."""

    name: str

    def states(self, x: Array) -> Iterator[tuple[str, Array]]:
        """Yield every way to the state after (T, D) events: its name, and h (1, D)."""
        ...

    def score(self, h: Array, candidates: Array) -> Array:
        """(1, D), (M, D) -> (1, M)."""
        ...


class _AttentionFunctions(ABC):
    """The functions of a SASRec: a whole history at once, or event by event.

    Args:
        relative_bias: (n_blocks, H, L) float32, by distance.
    """

    def __init__(self, relative_bias: Array) -> None:
        self._relative_bias = relative_bias
        self._ring = RingBias(relative_bias)

    @abstractmethod
    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """(T, D) -> keys and values (n_blocks, T, D), h (1, D)."""

    @abstractmethod
    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """(1, D), (n_blocks, L-1, D) twice, (n_blocks, H, L) -> h (1, D)."""

    def states(self, x: Array) -> Iterator[tuple[str, Array]]:
        """See ``Functions.states``."""
        yield "prefill", self.prefill(x)[2]
        yield "step", self._stepped(x)

    def _stepped(self, x: Array) -> Array:
        """Run all events but the last at once, and the last one as a step."""
        n_blocks, _, window = self._relative_bias.shape
        cache = np.zeros((2, n_blocks, window - 1, x.shape[1]), np.float32)
        n_before = len(x) - 1
        if n_before:
            keys, values, _ = self.prefill(x[:-1])
            cache[0, :, :n_before], cache[1, :, :n_before] = keys, values
        bias = np.empty_like(self._relative_bias)
        is_full = n_before == window - 1
        # The event moves to the row after those before it: row n_before + 1, or back to 1.
        self._ring.write(bias, 1 if is_full else n_before + 1, is_full=is_full)
        return self.step(x[-1:], cache[0], cache[1], bias)


class OnnxFunctions(_AttentionFunctions, OnnxGraphs):
    """A SASRec's graphs in ONNX Runtime.

    Args:
        graphs: ``"prefill"``, ``"step"`` and ``"score"`` to serialised graphs.
        weights: The coded matrices of one plan, ``"<layer>.weight"`` to (C, N) float32.
        relative_bias: (n_blocks, H, L) float32, by distance.
    """

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        weights: Mapping[str, Array],
        relative_bias: Array,
    ) -> None:
        _AttentionFunctions.__init__(self, relative_bias)
        OnnxGraphs.__init__(self, graphs, weights)
        self._blocks = range(len(relative_bias))

    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """See ``_AttentionFunctions.prefill``."""
        bias = prefill_bias(self._relative_bias, len(x))
        feeds = {f"blocks.{block}.bias": bias[block][None] for block in self._blocks}
        last = f"blocks.{self._blocks[-1]}.bias"
        feeds[last] = np.ascontiguousarray(feeds[last][:, :, -1:])
        outputs = self.run("prefill", {"x": x} | feeds)
        keys, values = (
            np.concatenate([outputs[f"blocks.{block}.{kind}"] for block in self._blocks])
            for kind in ("keys", "values")
        )
        return keys, values, outputs["h"]

    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """See ``_AttentionFunctions.step``."""
        feeds = {"x": x}
        for block in self._blocks:
            feeds[f"blocks.{block}.keys"] = keys[block][None]
            feeds[f"blocks.{block}.values"] = values[block][None]
            feeds[f"blocks.{block}.bias"] = bias[block][None, :, None]
        return self.run("step", feeds)["h"]


class ExecuTorchFunctions(_AttentionFunctions, ExecuTorchProgram):
    """A SASRec's program in ExecuTorch.

    Args:
        program: A ``.pte`` with the methods ``prefill``, ``step`` and ``score``.
        relative_bias: (n_blocks, H, L) float32, by distance.
    """

    def __init__(self, program: bytes, relative_bias: Array) -> None:
        _AttentionFunctions.__init__(self, relative_bias)
        ExecuTorchProgram.__init__(self, program, ("prefill", "step", "score"))

    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """See ``_AttentionFunctions.prefill``."""
        keys, values, h = self.run("prefill", x)
        return keys, values, h

    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """See ``_AttentionFunctions.step``."""
        return self.run("step", x, keys, values, bias)[2]


def check_functions(functions: Functions, items: ItemTable, vectors: TestVectors) -> None:
    """Return quietly when every way to a state gives the scores.

    Args:
        functions: What was exported, under the default plan.
        items: The item table.
        vectors: Histories, candidates and the scores they must lead to.

    Raises:
        QuantizationError: A score is further off than the runtime's tolerance.
    """
    tolerance = vectors.tolerance_of(functions.name)
    for case in vectors.cases:
        x, candidates = items.embed(case.history), items.embed(case.candidates)
        for way, h in functions.states(x):
            (scores,) = functions.score(h, candidates)
            _compare(scores, case, tolerance, f"{functions.name}: {way}")


def _compare(scores: Array, case: VectorCase, tolerance: float, what: str) -> None:
    worst = float(np.abs(scores - case.scores).max())
    if not worst <= tolerance:  # NaN must fail too
        raise QuantizationError(
            f"{what}: expected scores within {tolerance:.2g} of the reference executor, found one "
            f"{worst:.2g} off after {len(case.history)} events; do not publish this bundle"
        )
