# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import (
    HealthCheckError,
    IncompatibleArtifactError,
    IntegrityError,
    RollbackError,
    StoreError,
)
from pocketrec_device import Runtime
from pocketrec_quantization.bundle import PREFILL, VECTORS, BundleFolder
from pocketrec_quantization.plan import Plan
from pocketrec_quantization.vectors import TestVectors, VectorCase

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import TinyModel

MakeBundle = Callable[..., BundleFolder]
InstallPlan = Callable[[Plan], None]
EVERYTHING = tuple("abcdefghijkl")


class TestBootstrap:
    def test_the_same_bundle_again_changes_nothing(
        self, runtime: Runtime, bundle: BundleFolder
    ) -> None:
        """An app may bootstrap at every start."""
        assert runtime.bootstrap(bundle.path) is False
        assert runtime.status().previous is None

    def test_a_newer_bundle_takes_over(self, runtime: Runtime, make_bundle: MakeBundle) -> None:
        """An app update brings a newer bundle; the old one becomes the previous."""
        assert runtime.bootstrap(make_bundle(version=2, seed=1).path) is True

        status = runtime.status()
        assert status.current is not None
        assert status.previous is not None
        assert (status.current.bundle_version, status.previous.bundle_version) == (2, 1)

    def test_an_older_bundle_is_left_alone(
        self, runtime: Runtime, bundle: BundleFolder, make_bundle: MakeBundle
    ) -> None:
        """After a sync the packaged bundle is the older one: starting the app changes nothing."""
        runtime.bootstrap(make_bundle(version=3).path)

        assert runtime.bootstrap(bundle.path) is False

        current = runtime.status().current
        assert current is not None
        assert current.bundle_version == 3

    def test_a_bundle_that_was_rolled_back_stays_away(
        self, runtime: Runtime, make_bundle: MakeBundle
    ) -> None:
        """Starting the app does not undo a rollback."""
        newer = make_bundle(version=2, seed=1)
        runtime.bootstrap(newer.path)
        runtime.rollback()

        assert runtime.bootstrap(newer.path) is False

        current = runtime.status().current
        assert current is not None
        assert current.bundle_version == 1

    def test_another_bundle_of_the_same_version_is_refused(
        self, runtime: Runtime, make_bundle: MakeBundle
    ) -> None:
        """A version means one content."""
        with pytest.raises(RollbackError, match="above version 1"):
            runtime.bootstrap(make_bundle(version=1, seed=1).path)

    def test_a_bundle_of_another_model_is_refused(
        self, runtime: Runtime, make_bundle: MakeBundle
    ) -> None:
        """One store follows one model line."""
        with pytest.raises(IncompatibleArtifactError, match=r"'demo'.*'other'"):
            runtime.bootstrap(make_bundle(model_name="other", version=2).path)

    def test_a_personal_plan_goes_on_with_a_new_item_table(
        self,
        runtime: Runtime,
        model: TinyModel,
        make_bundle: MakeBundle,
        install_plan: InstallPlan,
    ) -> None:
        """A plan is bound to the weights: new items do not invalidate it."""
        install_plan(model.mixed_plan(version=4))

        runtime.bootstrap(make_bundle(version=2).path)

        status = runtime.status()
        assert status.current is not None
        assert (status.current.bundle_version, status.current.plan_version) == (2, 4)

    def test_a_personal_plan_for_other_weights_is_dropped(
        self,
        runtime: Runtime,
        model: TinyModel,
        make_bundle: MakeBundle,
        install_plan: InstallPlan,
    ) -> None:
        """New weights start from their default plan."""
        install_plan(model.mixed_plan(version=4))

        runtime.bootstrap(make_bundle(version=2, seed=1).path)

        status = runtime.status()
        assert status.current is not None
        assert status.current.plan_version == 0


class TestHealth:
    def test_wrong_vectors_keep_a_bundle_out(
        self, runtime: Runtime, bundle: BundleFolder, make_bundle: MakeBundle
    ) -> None:
        """A bundle that does not compute what its exporter computed is not installed."""
        good = bundle.read_vectors()
        cases = tuple(
            VectorCase(history=c.history, candidates=c.candidates, scores=c.scores + 0.5)
            for c in good.cases
        )
        wrong = TestVectors(cases=cases, tolerance=good.tolerance)
        runtime.observe("a")
        before, status = runtime.rerank(EVERYTHING, 12), runtime.status()

        with pytest.raises(HealthCheckError, match=r"got 0\.5"):
            runtime.bootstrap(make_bundle(version=2, parts={VECTORS: wrong.to_bytes()}).path)

        assert runtime.rerank(EVERYTHING, 12) == before
        assert runtime.status() == status

    def test_a_broken_graph_keeps_a_bundle_out(
        self, tmp_path: Path, make_bundle: MakeBundle, model: TinyModel
    ) -> None:
        """A step graph in place of the prefill graph is found before the switch."""
        with Runtime.create(tmp_path / "device", model="demo") as runtime:
            swapped = make_bundle(parts={PREFILL: model.graphs["step.onnx"]})

            with pytest.raises(HealthCheckError, match="cannot be computed"):
                runtime.bootstrap(swapped.path)

            assert not runtime.is_ready

    def test_a_bundle_without_a_tolerance_for_the_backend_is_refused(
        self, runtime: Runtime, bundle: BundleFolder, make_bundle: MakeBundle
    ) -> None:
        """A bundle that was never tried on this backend does not run on it."""
        vectors = TestVectors(cases=bundle.read_vectors().cases, tolerance={"onnxruntime": 1e-3})

        with pytest.raises(IncompatibleArtifactError, match="'numpy'"):
            runtime.bootstrap(make_bundle(version=2, parts={VECTORS: vectors.to_bytes()}).path)


class TestRollback:
    def test_returns_to_the_pair_before(self, runtime: Runtime, make_bundle: MakeBundle) -> None:
        """The previous pair ranks again exactly as it did."""
        runtime.observe("a")
        before = runtime.rerank(EVERYTHING, 12)
        runtime.bootstrap(make_bundle(version=2, seed=1).path)
        assert runtime.rerank(EVERYTHING, 12) != before

        runtime.rollback()

        assert runtime.rerank(EVERYTHING, 12) == before
        assert runtime.status().is_held_back

    def test_needs_a_previous_pair(self, runtime: Runtime) -> None:
        """After the first installation there is nothing to go back to."""
        with pytest.raises(StoreError, match="no previous pair"):
            runtime.rollback()

    def test_to_a_damaged_pair_is_refused(
        self, runtime: Runtime, store_path: Path, make_bundle: MakeBundle
    ) -> None:
        """What runs keeps running when the previous pair cannot be read."""
        previous = runtime.status().current
        assert previous is not None
        runtime.bootstrap(make_bundle(version=2, seed=1).path)
        for part in (store_path / "bundles" / previous.bundle / "parts").iterdir():
            part.write_bytes(b"damaged")

        with pytest.raises(IntegrityError):
            runtime.rollback()

        status = runtime.status()
        assert status.current is not None
        assert status.current.bundle_version == 2
