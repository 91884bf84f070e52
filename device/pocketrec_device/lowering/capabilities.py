# SPDX-License-Identifier: Apache-2.0
"""Asks ONNX Runtime on this device which kernels it has, and how exact they are.

Nothing is taken from a table of versions: every row is a small product that was computed
here. What is missing or wrong is never chosen, and ``strict`` refuses it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.onnx_errors import foreign_errors
from pocketrec_device.lowering.channels import FrozenStore
from pocketrec_device.lowering.kernels import KERNELS, Kernel, Product
from pocketrec_device.lowering.probe import ProductProbe
from pocketrec_device.lowering.tuning import USABLE_ERROR
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.graph_contract import stacked_name
from pocketrec_quantization.quantizer import STORED_WIDTHS, freeze_matrix

__all__ = ["Capability", "probe_capabilities"]

_N_INPUTS, _N_OUTPUTS = 256, 192
_LAYER = "probe"


@dataclass(frozen=True, slots=True, kw_only=True)
class Capability:
    """What became of one kernel at one width.

    Args:
        kernel: Its name, e.g. ``"packed"``.
        bits: Width of the channels that the plan asks for.
        form: ``"constants"`` or ``"inputs"``: how the plan's values reach the graph.
        is_usable: Whether it computes, and closely enough.
        error: Root mean square error beside the spread of the results; NaN if it does
            not compute.
        step_us: Median time of a product with 1 row, 256 inputs and 192 outputs.
        problem: Why it is not usable; empty when it is.
    """

    kernel: str
    bits: int
    form: str
    is_usable: bool
    error: float
    step_us: float
    problem: str


def probe_capabilities() -> tuple[Capability, ...]:
    """Return what ONNX Runtime can do on this device.

    Raises:
        MissingExtraError: onnxruntime is not installed.
    """
    weights = np.random.default_rng(0).standard_normal((_N_OUTPUTS, _N_INPUTS))
    matrix = freeze_matrix(weights.astype(np.float32))
    name = stacked_name([_LAYER])
    store = FrozenStore(FrozenModel(matrices={_LAYER: matrix}, dense={}), [name])
    product = Product(
        name=name,
        x="x",
        bias="bias",
        output="y",
        n_inputs=_N_INPUTS,
        n_outputs=_N_OUTPUTS,
        bias_values=np.zeros(_N_OUTPUTS, np.float32),
    )
    return tuple(
        _probe(kernel, product, store, bits, form)
        for kernel in KERNELS.values()
        for bits in STORED_WIDTHS
        for form in ("constants", "inputs")
    )


def _probe(
    kernel: Kernel, product: Product, store: FrozenStore, bits: int, form: str
) -> Capability:
    source = store.under(np.full(_N_OUTPUTS, bits, np.uint8))
    error, step_us, problem = float("nan"), float("nan"), ""
    try:
        probe = ProductProbe(kernel, product, source, n_rows=1, as_inputs=form == "inputs")
        error, step_us = probe.error(), probe.time_us()
        if not error <= USABLE_ERROR:
            problem = f"wrong results: an error of {error:.2g} beside their spread"
    except foreign_errors(import_onnxruntime()) as exc:
        problem = str(exc)
    return Capability(
        kernel=kernel.name,
        bits=bits,
        form=form,
        is_usable=not problem,
        error=error,
        step_us=step_us,
        problem=problem,
    )
