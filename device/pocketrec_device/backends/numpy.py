# SPDX-License-Identifier: Apache-2.0
"""The reference as a backend: NumPy only, slow, and what the others are compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.backends.base import LayerReport, layer_reports
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.checks import reading
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.plan import Plan

__all__ = ["NumpyBackend"]


class NumpyBackend:
    """One bundle under one plan, in NumPy.

    Args:
        bundle: Where the frozen weights are.
        plan: Which width each channel gets.
        threads: Ignored: NumPy's linear algebra decides for itself.

    Raises:
        MalformedArtifactError: The weights are not those of the manifest's backbone.
    """

    name = "numpy"
    version = np.__version__

    def __init__(self, bundle: BundleFolder, plan: Plan, *, threads: int = 1) -> None:
        del threads
        self._plan = plan
        frozen, backbone = bundle.read_frozen(), bundle.manifest.backbone
        with reading("manifest.backbone"):
            self._reference = ReferenceBackend.from_model(frozen, plan.widths, backbone)

    def prefill(
        self, x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.prefill``."""
        return self._reference.prefill(x)

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.step``."""
        return self._reference.step(x, keys, values, distance)

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend.score``."""
        return self._reference.score(h, candidates)

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``."""
        return layer_reports(self._plan, stored_bits=32, computed="float32", kernel="numpy matmul")
