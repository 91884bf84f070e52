# SPDX-License-Identifier: Apache-2.0
"""The reference as a backend: NumPy only, slow, and what the others are compared with.

Channels that are off cost nothing, unless somebody watches: then every value is computed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.attention_state import AttentionState
from pocketrec_device.backends.base import LayerReport, layer_reports, read_relative_bias
from pocketrec_device.window_state import WindowState
from pocketrec_quantization.attention_bias import RingBias
from pocketrec_quantization.backbone import layer_feeds
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.caser_reference import CaserReference
from pocketrec_quantization.checks import reading
from pocketrec_quantization.reference import Observer, ReferenceBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_device.backends.base import Backend
    from pocketrec_device.settings import EngineSettings
    from pocketrec_device.window_state import WindowBuffers
    from pocketrec_quantization.plan import Plan

__all__ = ["NumpyBackend", "NumpyWindowBackend", "build"]


def build(
    bundle: BundleFolder, plan: Plan, settings: EngineSettings, *, like: Backend | None = None
) -> NumpyBackend | NumpyWindowBackend:
    """See ``backends.build_backend``; nothing is shared."""
    del settings, like
    if bundle.manifest.backbone.kind == "caser":
        return NumpyWindowBackend(bundle, plan)
    return NumpyBackend(bundle, plan)


def _nobody(_name: str, _value: NDArray[np.float64]) -> None:
    """Take no notice."""


class _NumpyKind:
    """What does not depend on the kind of backbone.

    Args:
        bundle: Where the frozen weights are.
        plan: Which width each channel gets.
        observe: Told every value on the way; None is nobody.

    Raises:
        MalformedArtifactError: The weights are not those of the manifest's backbone.
    """

    name = "numpy"
    version = np.__version__
    is_exact = True
    takes_histories = True

    def __init__(self, bundle: BundleFolder, plan: Plan, observe: Observer | None = None) -> None:
        self._plan = plan
        self.backbone = bundle.manifest.backbone
        self._widths = plan.widths if observe is None else None
        self._observe = observe or _nobody

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``."""
        return layer_reports(
            self._plan,
            computed="float32",
            kernel="numpy matmul, in float64",
            feeds=layer_feeds(self.backbone) if self._widths is not None else (),
        )


class NumpyBackend(_NumpyKind):
    """One SASRec under one plan, in NumPy; ``observe`` is told every value on the way."""

    def __init__(self, bundle: BundleFolder, plan: Plan, observe: Observer | None = None) -> None:
        super().__init__(bundle, plan, observe)
        frozen = bundle.read_frozen()
        self.ring = RingBias(read_relative_bias(frozen.dense, self.backbone))
        weights = {**frozen.dense, **frozen.adapt(plan.widths)}
        with reading("manifest.backbone"):
            self._reference = ReferenceBackend(
                weights, self.backbone, observe=self._observe, widths=self._widths
            )

    def new_state(self) -> AttentionState:
        """See ``Backend.new_state``."""
        return AttentionState(self)

    def bind(self, buffers: StateBuffers) -> _NumpyState:
        """See ``AttentionBackend.bind``."""
        return _NumpyState(self._reference, buffers)


class NumpyWindowBackend(_NumpyKind):
    """One Caser under one plan, in NumPy; ``observe`` is told every value on the way."""

    def __init__(self, bundle: BundleFolder, plan: Plan, observe: Observer | None = None) -> None:
        super().__init__(bundle, plan, observe)
        frozen = bundle.read_frozen()
        weights = {**frozen.dense, **frozen.adapt(plan.widths)}
        with reading("manifest.backbone"):
            self._reference = CaserReference(
                weights, self.backbone, observe=self._observe, widths=self._widths
            )

    def new_state(self) -> WindowState:
        """See ``Backend.new_state``."""
        return WindowState(self)

    def bind(self, buffers: WindowBuffers) -> _NumpyWindow:
        """See ``WindowBackend.bind``."""
        return _NumpyWindow(self._reference, buffers)


class _NumpyWindow:
    def __init__(self, reference: CaserReference, buffers: WindowBuffers) -> None:
        self._reference = reference
        self._buffers = buffers

    def step(self) -> None:
        self._buffers.h[0] = self._reference.step(self._buffers.window)


class _NumpyState:
    def __init__(self, reference: ReferenceBackend, buffers: StateBuffers) -> None:
        self._reference = reference
        self._buffers = buffers

    def step(self) -> None:
        buffers = self._buffers
        keys, values = buffers.cache[:, 0, 1:], buffers.cache[:, 1, 1:]
        bias = buffers.bias[:, 0, :, 0]
        new_keys, new_values, h = self._reference.step(buffers.x[0], keys, values, bias)
        buffers.cache[:, 0, 0], buffers.cache[:, 1, 0] = new_keys, new_values
        buffers.h[0] = h

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        keys, values, h = self._reference.prefill(x)
        rows = slice(row, row + len(x))
        self._buffers.cache[:, 0, rows], self._buffers.cache[:, 1, rows] = keys, values
        self._buffers.h[0] = h
