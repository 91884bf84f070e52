# SPDX-License-Identifier: Apache-2.0
"""Plans that prune: what is left out of memory, on every backend, and that nothing else changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.device.closeness import Closeness, events
from tests.device.conftest import CONFIGS, TinyModel, tiny_items, tiny_model, write_tiny_bundle
from tests.device.sessions import HISTORY, fresh, pointwise, sequential

from pocketrec_device.backends import build_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.bench.sizes import resident_weight_bytes
from pocketrec_device.engine import build_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.backbone import layer_feeds
from pocketrec_quantization.folding import Folding, resident_bytes
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import LevelTable
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.references import reference_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from pocketrec_device.backends.base import LayerReport
    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.layers import LayerTable
    from pocketrec_quantization.plan import Plan

SETTINGS = [
    EngineSettings(backend="numpy"),
    *(
        EngineSettings(compute=compute, swap=swap)
        for compute in ("fp32", "int8", "packed")
        for swap in ("adapter", "rebuild")
    ),
]
LEVELS = LevelTable((0, 0, 2, 8))


@pytest.fixture(params=SETTINGS, ids=lambda each: f"{each.backend}-{each.compute}-{each.swap}")
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    """Every backend that runs personal plans, with every kernel, shared or not."""
    assert isinstance(request.param, EngineSettings)
    return request.param


@pytest.fixture(params=CONFIGS)
def model(request: pytest.FixtureRequest) -> TinyModel:
    """A tiny model of every kind."""
    return tiny_model(0, CONFIGS[request.param])


@pytest.fixture
def tiny(model: TinyModel, tmp_path: Path) -> BundleFolder:
    """Its bundle."""
    return write_tiny_bundle(tmp_path / "bundle", config=model.config)


def pruned_plan(model: TinyModel) -> Plan:
    """Return a plan with about a third of all channels off, in no layer all of them."""
    plan = model.mixed_plan(levels=LEVELS)
    on = split_by_layer(plan.widths > 0, plan.layers)
    assert all(layer.sum() > 0 for layer in on.values())
    assert any(layer.sum() < layer.size for layer in on.values())
    return plan


def resident(layers: LayerTable, reports: Sequence[LayerReport]) -> int:
    """Return the bytes of a report, as benchmarks count them."""
    told = [
        {"name": each.name, "stored": each.stored, "n_elements": each.n_elements}
        for each in reports
    ]
    return resident_weight_bytes(layers, told)


def test_states_are_those_of_the_reference(
    model: TinyModel, tiny: BundleFolder, settings: EngineSettings
) -> None:
    """Histories, and events on the cache that they leave, window after window."""
    plan = pruned_plan(model)
    backend = build_backend(tiny, plan, settings)
    reference = reference_of(model.frozen, plan.widths, model.config)
    close, x, state = Closeness(backend, tiny_items(1)), events(13), backend.new_state()

    for begin, end in ((0, 4), (4, 5), (5, 6), (6, 11), (11, 12), (12, 13)):
        state.observe(x[begin:end])
        close.of_states(state.h, reference.state_after(x[:end]))


def test_plans_take_turns(model: TinyModel, tiny: BundleFolder, settings: EngineSettings) -> None:
    """A plan that prunes, one that does not, and back: each as if it had run alone."""
    plans = {"whole": model.plan(), "pruned": pruned_plan(model)}
    data = {name: encode_plan(plan, None) for name, plan in plans.items()}
    alone = {name: fresh(build_engine(tiny, plan, settings)) for name, plan in data.items()}
    expected = {name: (pointwise(each), sequential(each)) for name, each in alone.items()}
    engine = build_engine(tiny, data["whole"], settings)
    session = fresh(engine)

    for name in ("pruned", "whole", "pruned", "whole"):
        engine = build_engine(tiny, data[name], settings, like=engine)
        session.adopt(engine)
        assert (pointwise(session), sequential(session)) == expected[name]
        session.observe(HISTORY[0])  # and the cache of one is no burden to the next
        session.reset()
        session.observe_many(HISTORY)


def test_reports_tell_what_is_left(
    model: TinyModel, tiny: BundleFolder, settings: EngineSettings
) -> None:
    """Channels that only feed a layer are gone, and so are the elements that read them."""
    plan = pruned_plan(model)
    folding = Folding.of_layers(layer_feeds(model.config), plan.layers, plan.widths)
    by_layer = split_by_layer(plan.widths, plan.layers)
    bits = {"int8": 8, "packed": 0}.get(settings.compute, 32)

    reports = build_backend(tiny, plan, settings).report()

    for report, layer in zip(reports, plan.layers, strict=True):
        n_left = len(folding.columns.get(layer.name, range(layer.n_elements)))
        n_kept = len(folding.rows.get(layer.name, range(layer.n_channels)))
        assert report.n_elements == n_left
        assert sum(report.stored.values()) == layer.n_channels
        if bits:
            gone = {0: layer.n_channels - n_kept} if layer.name in folding.rows else {}
            assert report.stored == {**gone, bits: n_kept}
        else:
            widths, counts = np.unique(by_layer[layer.name], return_counts=True)
            assert report.stored == dict(zip(widths.tolist(), counts.tolist(), strict=True))


def test_packed_weights_take_no_byte_more(model: TinyModel, tiny: BundleFolder) -> None:
    """What a packed plan is told to keep is what the plan leaves; strict mode agrees."""
    plan = pruned_plan(model)
    feeds = layer_feeds(model.config)

    reports = build_backend(tiny, plan, EngineSettings(compute="packed")).report()

    refuse_fallbacks("onnxruntime", reports)
    assert resident(plan.layers, reports) == resident_bytes(feeds, plan.layers, plan.widths)
    assert resident(plan.layers, reports) < resident_bytes((), plan.layers, plan.widths)


def test_floats_are_left_out_too(model: TinyModel, tiny: BundleFolder) -> None:
    """In float32 a pruned channel that only feeds a layer takes nothing, either."""
    plan = pruned_plan(model)
    folding = Folding.of_layers(layer_feeds(model.config), plan.layers, plan.widths)

    found = resident(
        plan.layers, build_backend(tiny, plan, EngineSettings(compute="fp32")).report()
    )

    assert found == sum(
        4
        * len(folding.rows.get(layer.name, range(layer.n_channels)))
        * len(folding.columns.get(layer.name, range(layer.n_elements)))
        for layer in plan.layers
    )


def test_reports_without_elements_are_of_whole_layers(model: TinyModel) -> None:
    """As results of older benchmarks tell them."""
    layer = model.frozen.layers[0]

    found = resident_weight_bytes((layer,), [{"name": layer.name, "stored": {"8": 3}}])

    assert found == 3 * (layer.n_elements + 4)


@pytest.mark.parametrize("right", ["onnxruntime", "onnxruntime:packed"])
def test_values_on_the_way_are_whole(model: TinyModel, tiny: BundleFolder, right: str) -> None:
    """Who looks for a divergence sees every channel; those left out are constants."""
    from pocketrec_device.debugging.divergence import find_divergence

    histories = [np.array(items, np.int32) for items in ([3], [1, 2, 3, 4, 5, 6])]

    found = find_divergence(tiny, pruned_plan(model), histories, right=right)

    shown = {each.value for each in found.comparisons}
    fed = {feed.layer for feed in layer_feeds(model.config)}
    assert fed <= shown
    limit = 1e-5 if right == "onnxruntime" else 0.2
    assert all(each.error is not None and each.error < limit for each in found.comparisons)
