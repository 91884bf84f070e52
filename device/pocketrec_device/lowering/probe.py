# SPDX-License-Identifier: Apache-2.0
"""One product alone in ONNX Runtime: does it compute, how exactly, how fast?"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.lowering.graph import constant, declare, make_model
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxGraph

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import Kernel, Product, Tensors

__all__ = ["ProductProbe", "median_us"]

_OPSET = 23
_REPEAT = 5
_RUNS = 8


class ProductProbe:
    """A session that holds one product, with one thread.

    Args:
        kernel: How to compute it.
        product: What to compute.
        source: The plan to compute under.
        n_rows: M, rows of the left side.
        as_inputs: Whether the plan's values are inputs or constants of the graph.

    Raises:
        Exception: Whatever onnxruntime raises for a kernel that it does not have.
    """

    def __init__(
        self,
        kernel: Kernel,
        product: Product,
        source: ChannelSource,
        *,
        n_rows: int,
        as_inputs: bool,
    ) -> None:
        ort = import_onnxruntime()
        # Alone, a product is whole, has nobody to make up for another order, and no bias.
        product = replace(
            product,
            bias_values=np.zeros_like(product.bias_values),
            reader="",
            has_varying_inputs=False,
            has_varying_outputs=False,
        )
        lowered = kernel.lower(product, kernel.slots(product, source))
        tensors = kernel.tensors(product, source)
        graph = OnnxGraph(node=lowered.nodes)
        graph.input.append(declare(product.x, (n_rows, product.n_inputs), np.float32))
        graph.output.append(declare(product.output, (n_rows, product.n_outputs), np.float32))
        graph.initializer.append(constant(product.bias, np.zeros(product.n_outputs, np.float32)))
        if as_inputs:
            graph.input.extend(lowered.inputs)
        else:
            graph.initializer.extend(constant(name, value) for name, value in tensors.items())
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        model = make_model(graph, _OPSET).SerializeToString()
        self._session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._binding = self._session.io_binding()
        rng = np.random.default_rng(0)
        x = rng.standard_normal((n_rows, product.n_inputs)).astype(np.float32)
        self._arrays: Tensors = {product.x: x, **(tensors if as_inputs else {})}
        make = ort.OrtValue.ortvalue_from_numpy
        for name, value in self._arrays.items():
            self._binding.bind_ortvalue_input(name, make(value))
        self._out: NDArray[np.float32] = np.zeros((n_rows, product.n_outputs), np.float32)
        self._binding.bind_ortvalue_output(product.output, make(self._out))
        self._expected = x @ source.transposed(product.name)

    def run(self) -> None:
        """Compute once."""
        self._session.run_with_iobinding(self._binding)

    def error(self) -> float:
        """Return the error of a run, root mean square, beside the spread of what is right."""
        self.run()
        spread = float(np.std(self._expected))
        return float(np.std(self._out - self._expected)) / spread if spread else 0.0

    def time_us(self) -> float:
        """Return the median time of one run, in microseconds."""
        return median_us(self.run)


def median_us(call: Callable[[], object]) -> float:
    """Return the median time of a call that is short, in microseconds."""
    call()
    samples = []
    for _ in range(_REPEAT):
        started = time.perf_counter_ns()
        for _ in range(_RUNS):
            call()
        samples.append((time.perf_counter_ns() - started) / _RUNS / 1e3)
    return statistics.median(samples)
