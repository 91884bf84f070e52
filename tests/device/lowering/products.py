# SPDX-License-Identifier: Apache-2.0
"""Single products with random weights, and what ONNX Runtime makes of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from pocketrec_device.lowering.channels import FrozenStore, PlanSource
from pocketrec_device.lowering.graph import constant, declare, make_model
from pocketrec_device.lowering.kernels import InputOrder, Kernel, Product
from pocketrec_proto.v1.onnx_subset_pb2 import OnnxGraph
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.graph_contract import stacked_name
from pocketrec_quantization.quantizer import FrozenMatrix

__all__ = ["compile_product", "random_product", "random_source"]

NAME = stacked_name(["layer"])


def random_product(n_inputs: int, n_outputs: int, *, reader: str = "") -> Product:
    """Return a product of one layer, with a random bias."""
    bias = np.random.default_rng(n_outputs).standard_normal(n_outputs).astype(np.float32)
    return Product(
        name=NAME,
        x="x",
        bias="bias",
        output="y",
        n_inputs=n_inputs,
        n_outputs=n_outputs,
        bias_values=bias,
        reader=reader,
    )


def random_source(n_inputs: int, widths: NDArray[np.uint8], *, seed: int = 0) -> PlanSource:
    """Return random weights for such a product, one width per channel."""
    rng, n_channels = np.random.default_rng(seed), len(widths)
    matrix = FrozenMatrix(
        codes=rng.integers(-127, 128, (n_channels, n_inputs)).astype(np.int8),
        scales=rng.uniform(0.5, 2, (3, n_channels)).astype(np.float32),
        multipliers=rng.integers(0, 2**16, (2, n_channels)).astype(np.uint16),
    )
    model = FrozenModel(matrices={"layer": matrix}, dense={})
    return FrozenStore(model, [NAME]).under(widths)


def compile_product(
    kernel: Kernel,
    product: Product,
    source: PlanSource,
    *,
    as_inputs: bool,
    input_order: InputOrder = None,
) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """Return what computes ``x @ weights + bias`` for (M, N) float32."""
    lowered = kernel.lower(product, kernel.slots(product, source))
    tensors = kernel.tensors(product, source, input_order)
    graph = OnnxGraph(node=lowered.nodes)
    given = declare(product.x, (0, product.n_inputs), np.float32)
    made = declare(product.output, (0, product.n_outputs), np.float32)
    for entry in (given, made):
        entry.type.tensor_type.shape.dim[0].dim_param = "M"
    graph.input.append(given)
    graph.output.append(made)
    graph.initializer.append(constant(product.bias, product.bias_values))
    if as_inputs:
        graph.input.extend(lowered.inputs)
    else:
        graph.initializer.extend(constant(name, value) for name, value in tensors.items())
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        make_model(graph, 23).SerializeToString(), options, providers=["CPUExecutionProvider"]
    )

    def run(x: NDArray[np.float32]) -> NDArray[np.float32]:
        (result,) = session.run(None, {product.x: x, **(tensors if as_inputs else {})})
        assert isinstance(result, np.ndarray)
        return result

    return run
