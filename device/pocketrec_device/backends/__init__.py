# SPDX-License-Identifier: Apache-2.0
"""The libraries that can compute a bundle, one module each; see ``base`` for the contract."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pocketrec_device.backends.base import Backend, LayerReport

if TYPE_CHECKING:
    from pocketrec_device.settings import EngineSettings
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = [
    "BACKENDS",
    "DEFAULT_PLAN_ONLY",
    "Backend",
    "LayerReport",
    "build_backend",
]

# Name -> module with a function ``build``: a new backend is one file and one line. A
# library is imported only when its backend is built.
BACKENDS = {
    "executorch": "pocketrec_device.backends.executorch",
    "numpy": "pocketrec_device.backends.numpy",
    "onnxruntime": "pocketrec_device.backends.onnx",
}

# These cannot be given other weights than their bundle's default plan makes.
DEFAULT_PLAN_ONLY = frozenset({"executorch"})


def build_backend(
    bundle: BundleFolder, plan: Plan, settings: EngineSettings, *, like: Backend | None = None
) -> Backend:
    """Return a backend that computes ``bundle`` under ``plan``.

    Args:
        bundle: A verified bundle.
        plan: A plan for this bundle.
        settings: Which backend, and how it computes.
        like: A backend of the same bundle and settings, whose parts may be shared.

    Raises:
        MissingExtraError: The library is not installed.
        ArtifactError: The bundle or the plan cannot run on this backend.
        BackendError: The library refuses the bundle.
    """
    module = import_module(BACKENDS[settings.backend])
    backend: Backend = module.build(bundle, plan, settings, like=like)
    return backend
