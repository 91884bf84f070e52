# SPDX-License-Identifier: Apache-2.0
"""How close a device must come to a bundle's test vectors, exactly and with rounded inputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import BackendError, HealthCheckError
from pocketrec_device.backends.onnx import OnnxAttentionBackend
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.health import ROUNDING_TOLERANCE, build_healthy_engine, check_vectors
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import DEFAULT_PLAN
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.vectors import TestVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.device.conftest import TinyModel

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_quantization.bundle import BundleFolder

EXACT = ("fp32", "auto")
ROUNDING = ("int8", "packed")


@pytest.fixture(scope="module")
def engine_of(bundle: BundleFolder) -> Callable[[str], Engine]:
    """Makes engines under the default plan, by their kernels."""
    plan = bundle.read(DEFAULT_PLAN)
    # With constants inside, no kernel falls back to an exact one.
    return lambda compute: build_engine(
        bundle, plan, EngineSettings(compute=compute, swap="rebuild")
    )


def moved(
    vectors: TestVectors, move: Callable[[NDArray[np.float32]], NDArray[np.float32]]
) -> TestVectors:
    """Return the vectors with other scores expected."""
    cases = (replace(case, scores=move(case.scores).astype(np.float32)) for case in vectors.cases)
    return TestVectors(cases=tuple(cases), tolerance=vectors.tolerance)


@pytest.mark.parametrize("compute", [*EXACT, *ROUNDING])
def test_every_kernel_passes(
    engine_of: Callable[[str], Engine], bundle: BundleFolder, compute: str
) -> None:
    """Prefill and step come out on a good bundle, rounded or not."""
    check_vectors(engine_of(compute), bundle.read_vectors())


@pytest.mark.parametrize("compute", EXACT)
def test_exact_kernels_must_be_exact(
    engine_of: Callable[[str], Engine], bundle: BundleFolder, compute: str
) -> None:
    """One percent of the spread is an error where nothing is rounded."""
    vectors = moved(bundle.read_vectors(), lambda scores: scores + 0.01 * scores.std())

    with pytest.raises(HealthCheckError, match="test vector 0 by prefill: expected an error"):
        check_vectors(engine_of(compute), vectors)


@pytest.mark.parametrize("compute", ROUNDING)
def test_rounding_may_move_all_scores_alike(
    engine_of: Callable[[str], Engine], bundle: BundleFolder, compute: str
) -> None:
    """What ranks candidates is how their scores differ."""
    check_vectors(engine_of(compute), moved(bundle.read_vectors(), lambda scores: scores + 1))


@pytest.mark.parametrize("compute", ROUNDING)
@pytest.mark.parametrize("way", ["reversed", "noise", "scaled"])
def test_rounding_must_stay_small_beside_the_spread(
    engine_of: Callable[[str], Engine], bundle: BundleFolder, compute: str, way: str
) -> None:
    """Scores that rank otherwise are refused, however lenient the check."""
    noise = np.array([1, -1, 1, -1, 1], np.float32)
    moves = {
        "reversed": lambda scores: scores[::-1],
        "noise": lambda scores: scores + 2 * ROUNDING_TOLERANCE * scores.std() * noise,
        "scaled": lambda scores: 2 * scores,
    }

    with pytest.raises(HealthCheckError, match=f"within {ROUNDING_TOLERANCE:g} on onnxruntime"):
        check_vectors(engine_of(compute), moved(bundle.read_vectors(), moves[way]))


class _Broken:
    """A bound state that computes nothing, or what is not a number."""

    def __init__(self, buffers: StateBuffers, error: BackendError | None = None) -> None:
        self.buffers, self.error = buffers, error

    def step(self) -> None:
        """Fail, or leave NaN."""
        if self.error is not None:
            raise self.error
        self.buffers.h[:] = np.nan

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        """Likewise."""
        self.step()


@pytest.mark.parametrize("compute", [*EXACT, *ROUNDING])
def test_what_is_not_a_number_fails(
    engine_of: Callable[[str], Engine],
    bundle: BundleFolder,
    monkeypatch: pytest.MonkeyPatch,
    compute: str,
) -> None:
    """NaN compares as false with everything, and must not pass for close."""
    engine = engine_of(compute)
    monkeypatch.setattr(OnnxAttentionBackend, "bind", lambda _, buffers: _Broken(buffers))

    with pytest.raises(HealthCheckError, match="got nan"):
        check_vectors(engine, bundle.read_vectors())


def test_a_backend_that_fails_is_unhealthy(
    engine_of: Callable[[str], Engine], bundle: BundleFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An error while the vectors are computed keeps a bundle out."""
    engine, error = engine_of("fp32"), BackendError("on purpose")
    monkeypatch.setattr(OnnxAttentionBackend, "bind", lambda _, buffers: _Broken(buffers, error))

    with pytest.raises(HealthCheckError, match="cannot be computed: on purpose"):
        check_vectors(engine, bundle.read_vectors())


@pytest.mark.parametrize("preset", ["battery_saver", "balanced", "full"])
@pytest.mark.parametrize("compute", ["fp32", "packed"])
def test_a_preset_is_checked_at_the_plans_own_widths(
    bundle: BundleFolder, model: TinyModel, preset: str, compute: str
) -> None:
    """Expected scores are those of the default plan as it is; the engine runs the preset."""
    settings = EngineSettings(compute=compute, swap="adapter", preset=preset)
    personal = encode_plan(model.mixed_plan(), None)

    for plan in (bundle.read(DEFAULT_PLAN), personal):
        engine = build_healthy_engine(bundle, plan, settings)

        assert engine.settings == settings
        (report, *_) = engine.backend.report()
        widths = {"battery_saver": {0, 2, 4}, "balanced": {2, 4, 8}, "full": {4, 8}}[preset]
        assert set(report.requested) <= widths
        if plan == personal:
            assert set(report.requested) == widths
