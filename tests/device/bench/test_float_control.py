# SPDX-License-Identifier: Apache-2.0
"""The float control that benchmarks compare with."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.device.bench.conftest import (
    Inputs,
    twin_reference,
)

from pocketrec.errors import (
    BackendError,
    IncompatibleArtifactError,
)
from pocketrec_device.float_control import build_float_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.float_twin import FloatTwin

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder


class TestFloatControl:
    def test_it_computes_with_the_float_arrays(
        self, bundle: BundleFolder, inputs: Inputs, model: TinyModel
    ) -> None:
        """State and scores are those of the reference on the same floats."""
        twin = FloatTwin.from_bytes(inputs.twin.read_bytes())
        reference = twin_reference(model, twin, bundle)
        embeddings = twin.item_embeddings

        engine = build_float_engine(bundle, inputs.twin, EngineSettings())

        session = engine.new_session(["a", "c", "unknown", "b"])
        h = reference.prefill(embeddings[[1, 3, 2]]).h
        np.testing.assert_allclose(session.h, h, atol=2e-5)
        indices = engine.items.indices_of(["d", "nobody", "l"])
        scores = engine.items.gather(indices).scores(session.h)
        assert indices.tolist() == [4, 0, 12]
        np.testing.assert_allclose(scores[[0, 2]], embeddings[[4, 12]] @ h, atol=1e-4)

    @pytest.mark.parametrize("compute", ["auto", "int8", "packed"])
    def test_kernels_of_plans_do_not_change_it(
        self, bundle: BundleFolder, inputs: Inputs, compute: str
    ) -> None:
        """Whatever an app computes plans with, the control is float32 and says so."""
        control = build_float_engine(bundle, inputs.twin, EngineSettings(compute=compute))
        exact = build_float_engine(bundle, inputs.twin, EngineSettings(compute="fp32"))

        history = ["a", "c", "b", "a", "d", "e", "f"]
        found, expected = (engine.new_session(history).h for engine in (control, exact))

        np.testing.assert_array_equal(found, expected)
        assert control.backend.is_exact
        assert {report.computed for report in control.backend.report()} == {"float32"}
        assert {tuple(report.stored) for report in control.backend.report()} == {(32,)}

    def test_names_are_those_of_the_bundle(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """Only the numbers differ."""
        items = build_float_engine(bundle, inputs.twin, EngineSettings()).items

        assert items.item_ids == bundle.read_items().item_ids
        assert items.n_items == 12
        assert items.index_of("c") == 3
        assert items.indices_of(["l", "?", "a"]).tolist() == [12, 0, 1]

    def test_another_backend_is_refused(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """Only ONNX Runtime can be given float weights."""
        with pytest.raises(BackendError, match="leave --float-twin out"):
            build_float_engine(bundle, inputs.twin, EngineSettings(backend="numpy"))

    @pytest.mark.parametrize(
        "wrong",
        ["fewer items", "another shape", "a matrix less", "a matrix more"],
    )
    def test_the_twin_of_another_model_is_refused(
        self, bundle: BundleFolder, inputs: Inputs, tmp_path: Path, wrong: str
    ) -> None:
        """The first array that does not fit is named."""
        twin = FloatTwin.from_bytes(inputs.twin.read_bytes())
        weights, embeddings = dict(twin.weights), twin.item_embeddings
        match wrong:
            case "fewer items":
                embeddings = embeddings[:-1]
            case "another shape":
                weights["blocks.0.q.weight"] = weights["blocks.0.q.weight"][:-1]
            case "a matrix less":
                del weights["blocks.0.q.weight"]
            case _:
                weights["blocks.0.z.weight"] = np.ones((1, 1), np.float32)
        path = tmp_path / "twin"
        path.write_bytes(FloatTwin(weights=weights, item_embeddings=embeddings).to_bytes())

        with pytest.raises(IncompatibleArtifactError, match=r"item_embeddings|blocks\.0\.[qz]"):
            build_float_engine(bundle, path, EngineSettings())
