# SPDX-License-Identifier: Apache-2.0
"""What the exceptions of onnxruntime mean here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from pocketrec.errors import (
    ArtifactError,
    BackendError,
    IncompatibleArtifactError,
    MalformedArtifactError,
)

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["LOAD_ERRORS", "foreign_errors", "load_error"]

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
