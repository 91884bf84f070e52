# SPDX-License-Identifier: Apache-2.0
"""Speed presets: other widths for the same plan, without a download."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    StoreError,
)
from pocketrec_device import Ranking, Runtime
from pocketrec_device.engine import Engine, change_preset
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.plan import Plan
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder

from tests.device.sessions import EVERYTHING, HISTORY

PRESETS = {"battery_saver": (0, 0, 2, 4), "balanced": (0, 2, 4, 8), "full": (0, 4, 8, 8)}


class TestPresets:
    @pytest.fixture
    def opened(
        self, runtime: Runtime, model: TinyModel, install_plan: Callable[[Plan], None]
    ) -> Iterator[Callable[[str, str], Runtime]]:
        """Opens the store with a mixed plan, under a preset."""
        install_plan(model.mixed_plan(version=4))
        runtimes: list[Runtime] = []

        def open_one(backend: str, preset: str = "balanced") -> Runtime:
            runtimes.append(
                Runtime.open(
                    runtime._store.path,
                    backend=backend,
                    compute="fp32",
                    swap="adapter",
                    preset=preset,
                )
            )
            return runtimes[-1]

        yield open_one
        for each in runtimes:
            each.close()

    @pytest.mark.parametrize("backend", ["numpy", "onnxruntime"])
    @pytest.mark.parametrize("preset", PRESETS)
    def test_equal_a_runtime_that_was_opened_with_them(
        self,
        opened: Callable[..., Runtime],
        model: TinyModel,
        bundle: BundleFolder,
        backend: str,
        preset: str,
    ) -> None:
        """Widths, scores and reports are the preset's, and the history stays."""
        runtime, other = opened(backend), opened(backend, preset)
        for each in (runtime, other):
            each.observe_many(HISTORY)

        runtime.use_preset(preset)

        assert runtime.report() == other.report()
        found = runtime.rerank(EVERYTHING.items, 12)
        assert found == other.rerank(EVERYTHING.items, 12)
        widths = np.array(PRESETS[preset], np.uint8)[model.mixed_plan().codes]
        (report, *_) = runtime.report()
        asked = {int(bits): int((widths[:8] == bits).sum()) for bits in np.unique(widths[:8])}
        assert report.requested == asked
        reference = ReferenceBackend.from_model(model.frozen, widths, bundle.manifest.backbone)
        items = bundle.read_items()
        h = reference.prefill(items.embed(items.indices_of(HISTORY))).h
        expected = reference.score(h, items.embed(items.indices_of(found.items)))
        np.testing.assert_allclose(found.scores, expected, atol=1e-4)

    def test_there_and_back_is_where_one_was(self, opened: Callable[..., Runtime]) -> None:
        """Each preset has scores of its own, and returning returns to them."""
        runtime = opened("onnxruntime")
        runtime.observe_many(HISTORY)
        rankings: dict[str, Ranking] = {}

        for preset in (*PRESETS, *reversed(PRESETS)):
            runtime.use_preset(preset)
            ranking = runtime.rerank(EVERYTHING.items, 12)
            assert rankings.setdefault(preset, ranking) == ranking

        assert len(set(rankings.values())) == 3

    def test_survive_a_reload_and_a_swap(
        self, opened: Callable[..., Runtime], make_bundle: Callable[..., BundleFolder]
    ) -> None:
        """A plan or a bundle that comes later runs under the preset too."""
        runtime = opened("onnxruntime")
        runtime.use_preset("battery_saver")

        runtime.load()
        assert 0 in runtime.report()[0].requested
        runtime.bootstrap(make_bundle(version=2, seed=1).path)

        assert runtime._live.engine is not None
        assert runtime._live.engine.settings.preset == "battery_saver"
        assert runtime.report()[0].requested == {4: 8}  # of a plan of 8 bits

    def test_share_what_does_not_depend_on_them(
        self, bundle: BundleFolder, engines: tuple[Engine, Engine]
    ) -> None:
        """The item table and the program stay; the plan stays as it was signed."""
        engine = engines[1]

        changed = change_preset(engine, bundle, "full")

        assert changed.items is engine.items
        assert changed.plan is engine.plan
        assert changed.pair == engine.pair
        assert changed.backend.program is engine.backend.program  # type: ignore[attr-defined]
        assert not changed.runs_as(engine)

    def test_unknown_ones_are_refused(self, runtime: Runtime) -> None:
        """What runs keeps running."""
        runtime.observe("a")
        before = runtime.rerank(EVERYTHING.items, 12)

        with pytest.raises(ConfigError, match="preset: expected one of"):
            runtime.use_preset("fastest")

        assert runtime.rerank(EVERYTHING.items, 12) == before

    def test_need_something_installed(self, tmp_path: Path) -> None:
        """There is no plan to apply them to."""
        with (
            Runtime.create(tmp_path / "empty", model="demo") as runtime,
            pytest.raises(StoreError, match="sync"),
        ):
            runtime.use_preset("full")

    def test_executorch_runs_none_but_its_own(
        self, bundle: BundleFolder, engines: tuple[Engine, Engine]
    ) -> None:
        """A program has the weights of its plan inside: other widths are refused."""
        engine = replace(engines[0], settings=EngineSettings(backend="executorch"))

        with pytest.raises(IncompatibleArtifactError, match="default plan"):
            change_preset(engine, bundle, "battery_saver")
