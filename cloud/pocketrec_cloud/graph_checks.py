# SPDX-License-Identifier: Apache-2.0
"""Runs exported functions on their own runtime and compares them with the test vectors.

A device does the same before it switches; here it keeps a bad export from being published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from pocketrec.errors import QuantizationError
from pocketrec.telemetry import import_onnxruntime
from pocketrec_quantization.attention_bias import RingBias, prefill_bias
from pocketrec_quantization.graph_contract import stack_weights, stacked_layers

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.vectors import TestVectors, VectorCase

__all__ = ["ExecuTorchFunctions", "Functions", "OnnxFunctions", "check_functions", "open_session"]

Array: TypeAlias = NDArray[np.float32]


class Functions(Protocol):
    """The exported functions under one plan, ready to run."""

    name: str

    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """(T, D) -> keys and values (n_blocks, T, D), h (1, D)."""
        ...

    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """(1, D), (n_blocks, L-1, D) twice, (n_blocks, H, L) -> h (1, D)."""
        ...

    def score(self, h: Array, candidates: Array) -> Array:
        """(1, D), (M, D) -> (1, M)."""
        ...


class OnnxFunctions:
    """The three graphs in ONNX Runtime, exactly as the bundle holds them.

    Args:
        graphs: ``"prefill"``, ``"step"`` and ``"score"`` to serialised graphs.
        weights: The coded matrices of one plan, ``"<layer>.weight"`` to (C, N) float32.
        relative_bias: (n_blocks, H, L) float32, by distance.
    """

    name = "onnxruntime"

    def __init__(
        self,
        graphs: Mapping[str, bytes],
        weights: Mapping[str, Array],
        relative_bias: Array,
    ) -> None:
        self._sessions = {name: open_session(graph) for name, graph in graphs.items()}
        self._weights = {
            name: {
                entry.name: stack_weights(entry.name, weights)
                for entry in session.get_inputs()
                if stacked_layers(entry.name)
            }
            for name, session in self._sessions.items()
        }
        self._relative_bias = relative_bias
        self._blocks = range(len(relative_bias))

    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """See ``Functions.prefill``."""
        bias = prefill_bias(self._relative_bias, len(x))
        feeds = {f"blocks.{block}.bias": bias[block][None] for block in self._blocks}
        last = f"blocks.{self._blocks[-1]}.bias"
        feeds[last] = np.ascontiguousarray(feeds[last][:, :, -1:])
        outputs = self._run("prefill", {"x": x} | feeds)
        keys, values = (
            np.concatenate([outputs[f"blocks.{block}.{kind}"] for block in self._blocks])
            for kind in ("keys", "values")
        )
        return keys, values, outputs["h"]

    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """See ``Functions.step``."""
        feeds = {"x": x}
        for block in self._blocks:
            feeds[f"blocks.{block}.keys"] = keys[block][None]
            feeds[f"blocks.{block}.values"] = values[block][None]
            feeds[f"blocks.{block}.bias"] = bias[block][None, :, None]
        return self._run("step", feeds)["h"]

    def score(self, h: Array, candidates: Array) -> Array:
        """See ``Functions.score``."""
        return self._run("score", {"h": h, "candidates": candidates})["scores"]

    def _run(self, function: str, feeds: Mapping[str, Array]) -> dict[str, Array]:
        session = self._sessions[function]
        names = [entry.name for entry in session.get_outputs()]
        outputs = session.run(names, {**feeds, **self._weights[function]})
        return dict(zip(names, outputs, strict=True))


class ExecuTorchFunctions:
    """One program in ExecuTorch.

    Args:
        program: A ``.pte`` with the methods ``prefill``, ``step`` and ``score``.
    """

    name = "executorch"

    def __init__(self, program: bytes) -> None:
        from executorch.runtime import Runtime

        self._program = Runtime.get().load_program(program)  # methods need it alive
        self._methods = {
            name: self._program.load_method(name) for name in ("prefill", "step", "score")
        }

    def prefill(self, x: Array) -> tuple[Array, Array, Array]:
        """See ``Functions.prefill``."""
        keys, values, h = self._run("prefill", x)
        return keys, values, h

    def step(self, x: Array, keys: Array, values: Array, bias: Array) -> Array:
        """See ``Functions.step``."""
        return self._run("step", x, keys, values, bias)[2]

    def score(self, h: Array, candidates: Array) -> Array:
        """See ``Functions.score``."""
        return self._run("score", h, candidates)[0]

    def _run(self, method: str, *arrays: Array) -> list[Array]:
        inputs = [_tensor(array) for array in arrays]
        return [output.numpy().copy() for output in self._methods[method].execute(inputs)]


def check_functions(
    functions: Functions, items: ItemTable, vectors: TestVectors, relative_bias: Array
) -> None:
    """Return quietly when prefill alone and prefill with a step both give the scores.

    Args:
        functions: What was exported, under the default plan.
        items: The item table.
        vectors: Histories, candidates and the scores they must lead to.
        relative_bias: (n_blocks, H, L) float32, by distance.

    Raises:
        QuantizationError: A score is further off than the runtime's tolerance.
    """
    tolerance = vectors.tolerance_of(functions.name)
    for case in vectors.cases:
        x, candidates = items.embed(case.history), items.embed(case.candidates)
        for way, h in (
            ("prefill", functions.prefill(x)[2]),
            ("step", _stepped(functions, x, relative_bias)),
        ):
            (scores,) = functions.score(h, candidates)
            _compare(scores, case, tolerance, f"{functions.name}: {way}")


def _stepped(functions: Functions, x: Array, relative_bias: Array) -> Array:
    """Run all events but the last at once, and the last one as a step."""
    n_blocks, _, window = relative_bias.shape
    cache = np.zeros((2, n_blocks, window - 1, x.shape[1]), np.float32)
    n_before = len(x) - 1
    if n_before:
        keys, values, _ = functions.prefill(x[:-1])
        cache[0, :, :n_before], cache[1, :, :n_before] = keys, values
    bias = np.empty_like(relative_bias)
    is_full = n_before == window - 1
    # The event moves to the row after those before it: row n_before + 1, or back to 1.
    RingBias(relative_bias).write(bias, 1 if is_full else n_before + 1, is_full=is_full)
    return functions.step(x[-1:], cache[0], cache[1], bias)


def _compare(scores: Array, case: VectorCase, tolerance: float, what: str) -> None:
    worst = float(np.abs(scores - case.scores).max())
    if not worst <= tolerance:  # NaN must fail too
        raise QuantizationError(
            f"{what}: expected scores within {tolerance:.2g} of the reference executor, found one "
            f"{worst:.2g} off after {len(case.history)} events; do not publish this bundle"
        )


def open_session(graph: bytes) -> Any:
    """Return a graph in ONNX Runtime, exactly as it is."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])


def _tensor(array: Array) -> torch.Tensor:
    """Wrap an array; executorch aborts at the strides that NumPy gives to no elements at all."""
    if not array.size:
        return torch.zeros(array.shape)
    return torch.from_numpy(np.require(array, requirements=["C", "W"]))
