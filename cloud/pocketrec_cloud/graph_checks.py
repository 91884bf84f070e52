# SPDX-License-Identifier: Apache-2.0
"""Runs exported functions on their own runtime and compares them with the test vectors.

A device does the same before it switches; here it keeps a bad export from being published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import onnx
import torch

from pocketrec.errors import QuantizationError
from pocketrec.telemetry import import_onnxruntime

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.manifest import BackboneConfig
    from pocketrec_quantization.vectors import TestVectors, VectorCase

    Arrays = list[NDArray[np.float32]]

__all__ = ["ExecuTorchFunctions", "Functions", "OnnxFunctions", "check_functions"]


class Functions(Protocol):
    """The exported functions, ready to run."""

    name: str

    def run(self, function: str, **inputs: NDArray[Any]) -> Arrays:
        """Return a function's outputs, in the order of ``docs/format.md``."""
        ...


class OnnxFunctions:
    """The three graphs in ONNX Runtime.

    Args:
        graphs: ``"prefill"``, ``"step"`` and ``"score"`` to serialised graphs.
        weights: The coded matrices of one plan, by initializer name.
    """

    name = "onnxruntime"

    def __init__(
        self, graphs: Mapping[str, bytes], weights: Mapping[str, NDArray[np.float32]]
    ) -> None:
        self._sessions = {name: _session(graph, weights) for name, graph in graphs.items()}

    def run(self, function: str, **inputs: NDArray[Any]) -> Arrays:
        """See ``Functions.run``."""
        outputs: Arrays = self._sessions[function].run(None, inputs)
        return outputs


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

    def run(self, function: str, **inputs: NDArray[Any]) -> Arrays:
        """See ``Functions.run``."""
        outputs = self._methods[function].execute(
            [torch.from_numpy(np.ascontiguousarray(array)) for array in inputs.values()]
        )
        return [output.numpy().copy() for output in outputs]


def check_functions(
    functions: Functions, items: ItemTable, vectors: TestVectors, config: BackboneConfig
) -> None:
    """Return quietly when prefill alone and prefill with a step both give the scores.

    Args:
        functions: What was exported, under the default plan.
        items: The item table.
        vectors: Histories, candidates and the scores they must lead to.
        config: The backbone's shape.

    Raises:
        QuantizationError: A score is further off than the runtime's tolerance.
    """
    tolerance = vectors.tolerance_of(functions.name)
    for case in vectors.cases:
        x, candidates = items.embed(case.history), items.embed(case.candidates)
        for way, h in (
            ("prefill", functions.run("prefill", x=x)[2]),
            ("step", _stepped(functions, x, config)),
        ):
            (scores,) = functions.run("score", h=h, candidates=candidates)
            _compare(scores, case, tolerance, f"{functions.name}: {way}")


def _stepped(
    functions: Functions, x: NDArray[np.float32], config: BackboneConfig
) -> NDArray[np.float32]:
    """Run all events but the last at once, and the last one as a step."""
    head_dim = config.embedding_dim // config.n_heads
    ring = (config.n_blocks, config.n_heads, config.window, head_dim)
    keys, values = np.zeros(ring, np.float32), np.zeros(ring, np.float32)
    n_before = len(x) - 1
    if n_before:
        filled = functions.run("prefill", x=x[:-1])
        keys[:, :, :n_before], values[:, :, :n_before] = filled[0], filled[1]
    distance = n_before - np.arange(config.window)
    distance[n_before:] = config.window  # slots still empty
    return functions.run("step", x=x[-1], keys=keys, values=values, distance=distance)[2]


def _compare(scores: NDArray[np.float32], case: VectorCase, tolerance: float, what: str) -> None:
    worst = float(np.abs(scores - case.scores).max())
    if not worst <= tolerance:  # NaN must fail too
        raise QuantizationError(
            f"{what}: expected scores within {tolerance:.2g} of the reference executor, found one "
            f"{worst:.2g} off after {len(case.history)} events; do not publish this bundle"
        )


def _session(graph: bytes, weights: Mapping[str, NDArray[np.float32]]) -> Any:
    onnxruntime = import_onnxruntime()
    names = [
        tensor.name
        for tensor in onnx.load_from_string(graph).graph.initializer
        if tensor.data_location == onnx.TensorProto.EXTERNAL
    ]
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # the exporter's remarks
    if names:
        values = [onnxruntime.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
        options.add_external_initializers(names, values)
    return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
