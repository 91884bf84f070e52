# SPDX-License-Identifier: Apache-2.0
"""What an app sees of a runtime does not depend on the kind of backbone in its bundle."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.device.conftest import CONFIGS, tiny_items, tiny_model, write_tiny_bundle
from tests.device.sessions import EVERYTHING, HISTORY, SETTINGS, fresh, pointwise, sequential

from pocketrec_device import Runtime
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.health import build_healthy_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.references import reference_of

LONG_HISTORY = tuple("abcdefghijklabc")


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of backbone there is."""
    return str(request.param)


@pytest.fixture
def tiny(kind: str, tmp_path: Path) -> BundleFolder:
    """A bundle of that kind."""
    return write_tiny_bundle(tmp_path / "bundle", config=CONFIGS[kind])


@pytest.fixture(params=["numpy", "onnxruntime"])
def runtime(request: pytest.FixtureRequest, tiny: BundleFolder, tmp_path: Path) -> Runtime:
    """A runtime with that bundle."""
    runtime = Runtime.create(tmp_path / "store", model="demo", backend=request.param)
    runtime.bootstrap(tiny.path)
    return runtime


@pytest.fixture
def two_plans(kind: str, tiny: BundleFolder) -> tuple[Engine, Engine]:
    """Two plans of that bundle, on shared sessions."""
    model = tiny_model(0, CONFIGS[kind])
    first = build_engine(tiny, encode_plan(model.plan(), None), SETTINGS)
    mixed = encode_plan(model.mixed_plan(), None)
    return first, build_engine(tiny, mixed, SETTINGS, like=first)


def test_scores_are_those_of_the_reference(kind: str, runtime: Runtime) -> None:
    """A history beyond the window, in calls of any length, gives what the reference gives."""
    model, items = tiny_model(0, CONFIGS[kind]), tiny_items(1)
    reference = reference_of(model.frozen, model.plan().widths, model.config)
    h = reference.state_after(items.embed(items.indices_of(LONG_HISTORY)))
    expected = reference.score(h, items.embed(items.indices_of(EVERYTHING.items)))

    runtime.observe_many(LONG_HISTORY[:7])
    runtime.observe(LONG_HISTORY[7])
    runtime.observe_many(LONG_HISTORY[8:])
    ranking = runtime.rerank(EVERYTHING.items, 12)

    by_item = dict(zip(ranking.items, ranking.scores, strict=True))
    found = [by_item[item] for item in EVERYTHING.items]
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_one_by_one_is_all_at_once(runtime: Runtime) -> None:
    """The cuts between calls leave no trace in the ranking."""
    runtime.observe_many(LONG_HISTORY)
    together = runtime.rerank(EVERYTHING.items, 12)
    runtime.reset()

    for item in LONG_HISTORY:
        runtime.observe(item)

    ranking = runtime.rerank(EVERYTHING.items, 12)
    assert ranking.items == together.items
    np.testing.assert_allclose(ranking.scores, together.scores, atol=1e-4)


def test_another_plan_takes_the_history_over(two_plans: tuple[Engine, Engine]) -> None:
    """After a swap the session is as if it had begun on the new plan; slates too."""
    session = fresh(two_plans[0])
    before = pointwise(session)

    session.adopt(two_plans[1])

    assert pointwise(session) == pointwise(fresh(two_plans[1])) != before
    assert sequential(session) == sequential(fresh(two_plans[1]))


def test_a_preset_changes_the_widths(runtime: Runtime) -> None:
    """Fewer bits give other scores, and going back gives the old ones."""
    runtime.observe_many(HISTORY)
    before = runtime.rerank(EVERYTHING.items, 12)

    runtime.use_preset("battery_saver")
    saving = runtime.rerank(EVERYTHING.items, 12)
    runtime.use_preset("balanced")

    assert saving != before
    assert runtime.rerank(EVERYTHING.items, 12) == before


@pytest.mark.parametrize("compute", ["fp32", "int8", "packed"])
def test_every_kernel_is_healthy(kind: str, tiny: BundleFolder, compute: str) -> None:
    """The bundle's test vectors come out, and a plan of mixed widths runs."""
    mixed = encode_plan(tiny_model(0, CONFIGS[kind]).mixed_plan(), None)

    engine = build_healthy_engine(tiny, mixed, EngineSettings(compute=compute))

    assert np.isfinite(engine.new_session(HISTORY).h).all()
