# SPDX-License-Identifier: Apache-2.0
"""The libraries that can compute a bundle, one module each; see ``base`` for the contract."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.backends.base import Backend, LayerReport

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

__all__ = [
    "BACKENDS",
    "DEFAULT_PLAN_ONLY",
    "Backend",
    "LayerReport",
    "build_backend",
    "check_backend",
]

# Name -> module and class: a new backend is one file and one line. A library is imported
# only when its backend is built.
BACKENDS = {
    "executorch": ("pocketrec_device.backends.executorch", "ExecuTorchBackend"),
    "numpy": ("pocketrec_device.backends.numpy", "NumpyBackend"),
    "onnxruntime": ("pocketrec_device.backends.onnx", "OnnxBackend"),
}

# These cannot be given other weights than their bundle's default plan makes.
DEFAULT_PLAN_ONLY = frozenset({"executorch"})


def build_backend(name: str, bundle: BundleFolder, plan: Plan, *, threads: int = 1) -> Backend:
    """Return a backend that computes ``bundle`` under ``plan``.

    Args:
        name: One of ``BACKENDS``.
        bundle: A verified bundle.
        plan: A plan for this bundle.
        threads: Threads per call, from 1.

    Raises:
        ConfigError: As for ``check_backend``.
        MissingExtraError: The library is not installed.
        ArtifactError: The bundle or the plan cannot run on this backend.
    """
    check_backend(name, threads)
    module, class_name = BACKENDS[name]
    backend: Backend = getattr(import_module(module), class_name)(bundle, plan, threads=threads)
    return backend


def check_backend(name: str, threads: int) -> None:
    """Return quietly when such a backend could be built; imports nothing.

    Raises:
        ConfigError: There is no such backend, or ``threads`` is below 1.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend: expected one of {sorted(BACKENDS)}, got {name!r}")
    if threads < 1:
        raise ConfigError(f"threads: expected at least 1, got {threads}")
