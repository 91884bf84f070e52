# SPDX-License-Identifier: Apache-2.0
"""The default backend: ONNX Runtime on the CPU.

The graphs of a bundle name the coded matrices but do not contain them. Each matrix is
dequantized once, for this plan, and handed over when the session is made; all arithmetic
is float32. ``report`` says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import (
    ArtifactError,
    BackendError,
    IncompatibleArtifactError,
    MalformedArtifactError,
)
from pocketrec.telemetry import import_onnxruntime
from pocketrec_device.backends.base import LayerReport, layer_reports
from pocketrec_device.backends.onnx_graph import external_initializers
from pocketrec_quantization.bundle import PREFILL, SCORE, STEP, BundleFolder

if TYPE_CHECKING:
    from types import ModuleType

    from numpy.typing import NDArray

    from pocketrec_quantization.plan import Plan

__all__ = ["LOAD_ERRORS", "OnnxBackend", "foreign_errors", "import_onnxruntime", "load_error"]

# What an error of onnxruntime means while a graph is loaded; while it runs, every one of
# them is a BackendError.
LOAD_ERRORS: Mapping[str, type[ArtifactError | BackendError]] = {
    "DeviceReset": BackendError,
    "EPFail": BackendError,
    "EngineError": BackendError,
    "Fail": IncompatibleArtifactError,
    "InvalidArgument": IncompatibleArtifactError,
    "InvalidGraph": IncompatibleArtifactError,
    "InvalidProtobuf": MalformedArtifactError,
    "ModelLoadCanceled": BackendError,
    "ModelLoaded": BackendError,
    "ModelRequiresCompilation": IncompatibleArtifactError,
    "NoModel": IncompatibleArtifactError,
    "NoSuchFile": IncompatibleArtifactError,
    "NotFound": IncompatibleArtifactError,
    "NotImplemented": IncompatibleArtifactError,
    "RuntimeException": BackendError,
}


class OnnxBackend:
    """One bundle under one plan, in ONNX Runtime.

    Args:
        bundle: Where the graphs and the frozen weights are.
        plan: Which width each channel gets.
        threads: Threads per call, from 1.
        weights: Matrices to use instead of the plan's, by name: the float control.

    Raises:
        MissingExtraError: onnxruntime is not installed.
        IncompatibleArtifactError: A graph needs what this onnxruntime or this bundle
            lacks.
        MalformedArtifactError: A graph is no ONNX file.
    """

    name = "onnxruntime"

    def __init__(
        self,
        bundle: BundleFolder,
        plan: Plan,
        *,
        threads: int = 1,
        weights: Mapping[str, NDArray[np.float32]] | None = None,
    ) -> None:
        self._ort = import_onnxruntime()
        self._foreign_errors = foreign_errors(self._ort)
        self._plan = plan
        if weights is None:
            weights = bundle.read_frozen().adapt(plan.widths)
        self._prefill = self._session(bundle.read(PREFILL), weights, threads)
        self._step = self._session(bundle.read(STEP), weights, threads)
        self._score = self._session(bundle.read(SCORE), weights, threads)

    @property
    def version(self) -> str:
        """Version of onnxruntime."""
        return str(self._ort.__version__)

    def prefill(
        self, x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.prefill``."""
        keys, values, h = self._run(self._prefill, ["keys", "values", "h"], {"x": x})
        return keys, values, h

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """See ``Backend.step``."""
        feeds: dict[str, NDArray[Any]] = {
            "x": x,
            "keys": keys,
            "values": values,
            "distance": distance,
        }
        new_key, new_value, h = self._run(self._step, ["new_key", "new_value", "h"], feeds)
        return new_key, new_value, h

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Backend.score``."""
        (scores,) = self._run(self._score, ["scores"], {"h": h, "candidates": candidates})
        return scores

    def report(self) -> tuple[LayerReport, ...]:
        """See ``Backend.report``: today everything computes in float32."""
        kernel = "float32 matrix product, weights dequantized at load"
        return layer_reports(self._plan, stored_bits=32, computed="float32", kernel=kernel)

    def _session(
        self, graph: bytes, weights: Mapping[str, NDArray[np.float32]], threads: int
    ) -> Any:
        names = external_initializers(graph)
        absent = [name for name in names if name not in weights]
        if absent:
            raise IncompatibleArtifactError(
                f"a graph expects the matrix {absent[0]!r}, which the frozen part does not "
                "hold; build the bundle again"
            )
        options = self._ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors arrive as exceptions; warnings are the exporter's
        try:
            if names:
                values = [self._ort.OrtValue.ortvalue_from_numpy(weights[name]) for name in names]
                options.add_external_initializers(list(names), values)
            return self._ort.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
        except self._foreign_errors as exc:
            raise load_error(exc) from exc

    def _run(
        self, session: Any, outputs: list[str], feeds: Mapping[str, object]
    ) -> list[NDArray[np.float32]]:
        try:
            results: list[NDArray[np.float32]] = session.run(outputs, feeds)
        except self._foreign_errors as exc:
            raise BackendError(f"onnxruntime could not compute: {exc}") from exc
        return results


def foreign_errors(ort: ModuleType) -> tuple[type[Exception], ...]:
    """Return every class of exception that onnxruntime raises."""
    state = ort.capi.onnxruntime_pybind11_state
    own = [getattr(state, name) for name in LOAD_ERRORS if hasattr(state, name)]
    return (*own, ValueError, RuntimeError)


def load_error(exc: Exception) -> ArtifactError | BackendError:
    """Return what an exception of onnxruntime means while a graph is loaded."""
    message = f"onnxruntime could not load a graph: {exc}"
    ours = LOAD_ERRORS.get(type(exc).__name__, BackendError)
    if ours is MalformedArtifactError:
        return MalformedArtifactError(message, field="graph")
    return ours(message)
