# SPDX-License-Identifier: Apache-2.0
"""Asks a bundle's test vectors whether this device computes what the exporter computed.

The vectors hold scores under the default plan, with one tolerance per backend. Each case
runs twice, once as one ``prefill`` and once with its last event as a ``step``, so that
all three functions are compared. A personal plan has no expected scores; it must give
finite ones.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import BackendError, HealthCheckError
from pocketrec_device.engine import Engine, EngineSettings, build_engine
from pocketrec_device.session import SessionState
from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder
from pocketrec_quantization.vectors import TestVectors, VectorCase

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["build_healthy_engine", "check_vectors"]


def build_healthy_engine(
    bundle: BundleFolder, plan_data: bytes, settings: EngineSettings
) -> Engine:
    """Return an engine after its bundle and plan have proved themselves on this device.

    Args:
        bundle: A complete bundle.
        plan_data: A plan container that was accepted.
        settings: How to build the engine.

    Raises:
        HealthCheckError: The test vectors do not come out, or the plan gives scores that
            are not finite.
        ArtifactError: Bundle or plan cannot be used, as for ``build_engine``.
        BackendError: The backend cannot be made.
    """
    vectors = bundle.read_vectors()
    default_plan = bundle.read(DEFAULT_PLAN)
    engine = build_engine(bundle, default_plan, settings)
    check_vectors(engine, vectors)
    if hashlib.sha256(plan_data).hexdigest() == engine.pair.plan:
        return engine
    personal = build_engine(bundle, plan_data, settings)
    _check_finite(personal, vectors)
    return personal


def check_vectors(engine: Engine, vectors: TestVectors) -> None:
    """Return quietly when an engine under the default plan gives the expected scores.

    Args:
        engine: Under the bundle's default plan.
        vectors: Of the same bundle.

    Raises:
        HealthCheckError: A score is further off than this backend's tolerance, or the
            backend fails.
        IncompatibleArtifactError: The vectors hold no tolerance for this backend.
    """
    tolerance = vectors.tolerance_of(engine.backend.name)
    for number, case in enumerate(vectors.cases):
        for way, split in (("prefill", 0), ("prefill and step", 1)):
            scores = _scores(engine, case, n_stepped=split)
            error = float(np.max(np.abs(scores - case.scores)))
            if not error <= tolerance:  # NaN must fail too
                raise HealthCheckError(
                    f"test vector {number} by {way}: expected scores within {tolerance:g} on "
                    f"{engine.backend.name} {engine.backend.version}, got {error:g}; "
                    "the bundle was not installed"
                )


def _check_finite(engine: Engine, vectors: TestVectors) -> None:
    if not np.isfinite(_scores(engine, vectors.cases[0], n_stepped=1)).all():
        raise HealthCheckError(
            f"plan version {engine.plan.version} gives scores that are not finite on "
            f"{engine.backend.name} {engine.backend.version}; it was not installed"
        )


def _scores(engine: Engine, case: VectorCase, *, n_stepped: int) -> NDArray[np.float32]:
    """Return a case's scores, with its last ``n_stepped`` events as single steps."""
    session = SessionState(engine.manifest.backbone)
    x = engine.items.embed(case.history)
    n_first = len(x) - n_stepped
    try:
        session.observe(engine.backend, x[:n_first])
        session.observe(engine.backend, x[n_first:])
        return engine.backend.score(session.h, engine.items.embed(case.candidates))
    except BackendError as exc:
        raise HealthCheckError(f"the test vectors cannot be computed: {exc}") from exc
