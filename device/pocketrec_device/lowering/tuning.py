# SPDX-License-Identifier: Apache-2.0
"""Chooses kernels by measurement: which is fastest differs from device to device.

Products with a side below 128 are float32 without measuring: there a call costs more than
its arithmetic, whatever the kernel. Above that, a kernel that rounds its inputs is chosen
only where it beats float32 clearly; what was measured is kept, so that a device measures
each size of product once.

Source: our choice, after the table of runtime.md.
"""

from __future__ import annotations

import contextlib
import json
import math
import platform
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.files import write_atomically
from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.onnx_errors import foreign_errors
from pocketrec_device.lowering.kernels import KERNELS, Product
from pocketrec_device.lowering.probe import ProductProbe, median_us

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from pocketrec_device.lowering.channels import ChannelSource
    from pocketrec_device.lowering.kernels import Kernel, Tensors

__all__ = ["USABLE_ERROR", "Tuning", "choose_kernels", "time_product", "time_session"]

USABLE_ERROR = 0.1
"""Largest error of a product, beside the spread of its results, to use a kernel at all."""

_SMALL_SIDE = 128
_CLEAR_GAIN = 1.15


class Tuning:
    """Times of products on one device, in microseconds.

    Args:
        device: What the times hold for: library, processor, threads.
        file: Where they are kept between runs; None keeps none.

    Attributes:
        times_us: What was measured to its alternatives' times, by name.
    """

    def __init__(self, device: str, file: Path | None = None) -> None:
        self._device = device
        self._file = file
        self.times_us: dict[str, dict[str, float]] = {}
        if file is not None:
            with contextlib.suppress(OSError):  # none yet
                self._read(file.read_bytes())

    @classmethod
    def for_this_device(cls, threads: int, file: Path | None = None) -> Tuning:
        """Return what is known of the device this runs on."""
        version = import_onnxruntime().__version__
        return cls(f"onnxruntime {version}, {platform.machine()}, {threads} threads", file)

    def measured(
        self, what: str, alternatives: Mapping[str, Callable[[], float]]
    ) -> Mapping[str, float]:
        """Return the time of every alternative; measured once per device.

        Args:
            what: What is measured.
            alternatives: Name to a function that returns a time in microseconds.
        """
        known = self.times_us.get(what)
        if known is None or known.keys() != alternatives.keys():
            known = {name: measure() for name, measure in alternatives.items()}
            self.times_us[what] = known
            self._save()
        return known

    def _save(self) -> None:
        """Write the file, if there is one and it can be written."""
        if self._file is None:
            return
        content = json.dumps({"device": self._device, "times_us": self.times_us}, indent=1)
        with contextlib.suppress(OSError):  # a store that is read-only measures at each start
            write_atomically(self._file, content.encode(), mode=0o600)

    def _read(self, data: bytes) -> None:
        """Take over times of the same device; what cannot be read is measured again."""
        try:
            found = json.loads(data)
            if found["device"] == self._device:
                self.times_us = {
                    str(what): {str(name): float(us) for name, us in times.items()}
                    for what, times in found["times_us"].items()
                }
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            self.times_us = {}


def choose_kernels(
    products: Sequence[Product],
    source: ChannelSource,
    *,
    n_rows: int,
    tuning: Tuning,
    only_inputs: bool,
) -> dict[str, str]:
    """Return the fastest kernel for every product, by name.

    Args:
        products: Of one graph.
        source: The plan to measure with.
        n_rows: M: 1 for a step, L for a whole history.
        tuning: Consulted first, and added to.
        only_inputs: Whether the plan's values must be inputs of the graph.
    """
    chosen = {}
    for product in products:
        if min(product.n_inputs, product.n_outputs) < _SMALL_SIDE:
            chosen[product.name] = "fp32"
            continue
        kind = "inputs" if only_inputs else "constants"
        size = f"{n_rows} x {product.n_inputs} x {product.n_outputs}, {kind}"
        alternatives = {
            name: partial(
                time_product, kernel, product, source, n_rows=n_rows, as_inputs=only_inputs
            )
            for name, kernel in KERNELS.items()
        }
        chosen[product.name] = _fastest(tuning.measured(size, alternatives))
    return chosen


def _fastest(times_us: Mapping[str, float]) -> str:
    best = min(times_us, key=lambda name: times_us[name])
    exact = times_us.get("fp32", float("inf"))
    return best if times_us[best] * _CLEAR_GAIN < exact else "fp32"


def time_product(
    kernel: Kernel,
    product: Product,
    source: ChannelSource,
    *,
    n_rows: int,
    as_inputs: bool,
) -> float:
    """Return the median time of one product, in microseconds.

    Args:
        kernel: How to compute it.
        product: What to compute.
        source: The plan to compute under.
        n_rows: M.
        as_inputs: Whether the plan's values are inputs or constants of the graph.

    Returns:
        Infinity where this ONNX Runtime lacks the kernel, or computes it wrongly: 8-bit
        products saturate on processors without instructions for them.
    """
    try:
        probe = ProductProbe(kernel, product, source, n_rows=n_rows, as_inputs=as_inputs)
        return probe.time_us() if probe.error() <= USABLE_ERROR else math.inf
    except foreign_errors(import_onnxruntime()):
        return math.inf


def time_session(session: Any, window: int, tensors: Tensors) -> float:
    """Return the median time of one call of a whole function, in microseconds.

    Args:
        session: Of ONNX Runtime; all its inputs are float32.
        window: L, for dimensions that vary.
        tensors: The inputs that a plan decides; the others are zeros.
    """
    ort = import_onnxruntime()
    binding = session.io_binding()
    arrays: Tensors = dict(tensors)
    for each in session.get_inputs():
        shape = [size if isinstance(size, int) else window for size in each.shape]
        arrays.setdefault(each.name, np.zeros(shape, np.float32))
    for name, value in arrays.items():
        binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
    for each in session.get_outputs():
        binding.bind_output(each.name)
    return median_us(lambda: session.run_with_iobinding(binding))
