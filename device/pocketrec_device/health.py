# SPDX-License-Identifier: Apache-2.0
"""Asks a bundle's test vectors whether this device computes what the exporter computed.

The vectors hold scores under the default plan, with one tolerance per backend. Each case
runs twice, once as one ``prefill`` and once with its last event as a ``step``, so that
both functions are compared. A personal plan has no expected scores; it must give
finite ones.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import BackendError, HealthCheckError
from pocketrec_device.engine import Engine, EngineSettings, build_engine
from pocketrec_device.extraction import check_extractor
from pocketrec_device.ranking import Candidates, rank
from pocketrec_quantization.bundle import DEFAULT_PLAN, BundleFolder
from pocketrec_quantization.vectors import TestVectors, VectorCase

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["ROUNDING_TOLERANCE", "build_healthy_engine", "check_vectors", "typical_work"]

_TYPICAL_CANDIDATES, _TYPICAL_PICKS = 100, 10

ROUNDING_TOLERANCE = 0.2
"""How large the error of a backend that rounds its inputs may be, beside the scores' spread."""


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
    # Expected scores are those of the default plan at its own widths.
    as_exported = replace(settings, preset="balanced")
    engine = build_engine(bundle, bundle.read(DEFAULT_PLAN), as_exported)
    check_vectors(engine, vectors)
    if engine.extractor is not None:
        check_extractor(engine.extractor, engine.items, bundle.read_extract_vectors())
    if hashlib.sha256(plan_data).hexdigest() == engine.pair.plan and settings == as_exported:
        return engine
    personal = build_engine(bundle, plan_data, settings, like=engine)
    _check_finite(personal, vectors)
    return personal


def typical_work(engine: Engine) -> Callable[[], object]:
    """Return what a user waits for: one event and one ranking, on a state of its own.

    Args:
        engine: Any engine.

    Raises:
        BackendError: A state cannot be made.
    """
    ids = engine.items.item_ids
    session = engine.new_session(ids[: engine.manifest.backbone.window])
    candidates = Candidates.of(ids[:_TYPICAL_CANDIDATES])

    def work() -> object:
        session.step(engine.items.embedding(1))
        rows = engine.items.gather(engine.items.indices_of(candidates.items))
        return rank(candidates, rows.scores(session.h), None, _TYPICAL_PICKS)

    return work


def check_vectors(engine: Engine, vectors: TestVectors) -> None:
    """Return quietly when an engine under the default plan gives the expected scores.

    A backend that rounds its inputs cannot meet a tolerance made for float32. There the
    error of a case, root mean square over its candidates, must stay small beside the
    spread of its scores, which is what ranks them.

    Args:
        engine: Under the bundle's default plan.
        vectors: Of the same bundle.

    Raises:
        HealthCheckError: A score is further off than this backend's tolerance, or the
            backend fails.
        IncompatibleArtifactError: The vectors hold no tolerance for this backend.
    """
    backend = engine.backend
    tolerance = vectors.tolerance_of(backend.name) if backend.is_exact else ROUNDING_TOLERANCE
    error_of = _largest_error if backend.is_exact else _error_beside_spread
    for number, case in enumerate(vectors.cases):
        for way, split in (("prefill", 0), ("prefill and step", 1)):
            error = error_of(_scores(engine, case, n_stepped=split), case.scores)
            if not error <= tolerance:  # NaN must fail too
                raise HealthCheckError(
                    f"test vector {number} by {way}: expected an error within {tolerance:g} on "
                    f"{backend.name} {backend.version}, got {error:g}; the bundle was not installed"
                )


def _largest_error(scores: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    return float(np.max(np.abs(scores - expected)))


def _error_beside_spread(scores: NDArray[np.float32], expected: NDArray[np.float32]) -> float:
    """Return the error that does not move all scores alike, relative to their spread."""
    error, spread = np.std(scores - expected), np.std(expected)
    return float(error / spread) if spread > 0 else 0.0


def _check_finite(engine: Engine, vectors: TestVectors) -> None:
    if not np.isfinite(_scores(engine, vectors.cases[0], n_stepped=1)).all():
        raise HealthCheckError(
            f"plan version {engine.plan.version} gives scores that are not finite on "
            f"{engine.backend.name} {engine.backend.version}; it was not installed"
        )


def _scores(engine: Engine, case: VectorCase, *, n_stepped: int) -> NDArray[np.float32]:
    """Return a case's scores, with its last ``n_stepped`` events as single steps."""
    x = engine.items.embed(case.history)
    n_first = len(x) - n_stepped
    try:
        session = engine.backend.new_state()
        session.observe(x[:n_first])
        session.observe(x[n_first:])
    except BackendError as exc:
        raise HealthCheckError(f"the test vectors cannot be computed: {exc}") from exc
    return engine.items.gather(case.candidates.astype(np.intp)).scores(session.h)
