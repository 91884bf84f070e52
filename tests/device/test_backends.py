# SPDX-License-Identifier: Apache-2.0
"""One contract, every backend: what ``Backend`` promises, compared with the reference."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from pocketrec.errors import (
    BackendError,
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
    MissingExtraError,
)
from pocketrec_device.backends import BACKENDS, build_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.backends.onnx_graph import external_initializers
from pocketrec_device.session import SessionState
from pocketrec_quantization.bundle import DEFAULT_PLAN, PREFILL, PROGRAM, SCORE, STEP
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.device.conftest import TinyModel

    from pocketrec_device.backends import Backend
    from pocketrec_quantization.bundle import BackboneConfig, BundleFolder

TOLERANCE = 2e-5


@pytest.fixture(scope="module")
def program(model: TinyModel) -> bytes:
    """An ExecuTorch program of the tiny model under its mixed plan; takes a minute."""
    pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    pytest.importorskip("torch", reason="needs the extra 'executorch'")
    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
    from pocketrec_cloud.export import export_executorch, with_weights

    shape = SASRecConfig(
        n_items=12, embedding_dim=8, n_blocks=2, n_heads=2, window=5, ffn_multiplier=2
    )
    network = SASRec(shape).eval()
    network.input_scale = 1.0
    weights = model.frozen.adapt(model.mixed_plan().widths)
    return export_executorch(with_weights(network, {**model.frozen.dense, **weights}))


@pytest.fixture(
    params=[
        "numpy",
        "onnxruntime",
        pytest.param(
            "executorch",
            marks=[
                pytest.mark.executorch,
                pytest.mark.slow,
                pytest.mark.filterwarnings("ignore"),  # its own imports use what is deprecated
            ],
        ),
    ]
)
def backend(
    request: pytest.FixtureRequest, make_bundle: Callable[..., BundleFolder], model: TinyModel
) -> Backend:
    """Every backend there is, under a mixed plan that is its bundle's default plan."""
    parts = {DEFAULT_PLAN: encode_plan(model.mixed_plan(), None)}
    if request.param == "executorch":
        parts[PROGRAM] = request.getfixturevalue("program")
    return build_backend(request.param, make_bundle(parts=parts), model.mixed_plan())


@pytest.fixture
def config(bundle: BundleFolder) -> BackboneConfig:
    """The tiny model's architecture."""
    return bundle.manifest.backbone


@pytest.fixture
def reference(model: TinyModel, config: BackboneConfig) -> ReferenceBackend:
    """What every backend is compared with."""
    return ReferenceBackend.from_model(model.frozen, model.mixed_plan().widths, config)


def events(n_events: int) -> NDArray[np.float32]:
    """Return (n_events, D) random embeddings."""
    return np.random.default_rng(n_events).normal(size=(n_events, 8)).astype(np.float32)


class TestContract:
    def test_names_itself(self, backend: Backend) -> None:
        """A backend has the name it is asked for by, and the version of its library."""
        assert backend.name in BACKENDS
        assert backend.version == importlib.metadata.version(backend.name)

    @pytest.mark.parametrize("n_events", [1, 3, 5])
    def test_prefill_equals_the_reference(
        self, backend: Backend, reference: ReferenceBackend, n_events: int
    ) -> None:
        """A history gives the reference's keys, values and state."""
        results = backend.prefill(events(n_events))

        for result, expected in zip(results, reference.prefill(events(n_events)), strict=True):
            assert result.dtype == np.float32
            np.testing.assert_allclose(result, expected, atol=TOLERANCE)

    def test_steps_equal_banded_attention_over_everything(
        self, backend: Backend, reference: ReferenceBackend, config: BackboneConfig
    ) -> None:
        """Steps give what attention over the whole history gives, also after the ring wraps."""
        x = events(3 * config.window + 2)
        session = SessionState(config)

        for n_events in range(1, len(x) + 1):
            session.observe(backend, x[n_events - 1 : n_events])
            expected = reference.full_history(x[:n_events]).h
            np.testing.assert_allclose(session.h, expected, atol=TOLERANCE)

    def test_scores_are_inner_products(self, backend: Backend) -> None:
        """A candidate's score is its inner product with the state."""
        h = np.arange(8, dtype=np.float32)
        candidates = np.stack([np.ones(8), np.eye(8)[3], -np.eye(8)[7]]).astype(np.float32)

        np.testing.assert_allclose(backend.score(h, candidates), [28, 3, -7])

    def test_a_step_leaves_the_ring_alone(self, backend: Backend, config: BackboneConfig) -> None:
        """The caller writes the new slot; a backend never does."""
        shape = (config.n_blocks, config.n_heads, config.window, 4)
        keys = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        before = keys.copy()
        distance = np.array([1, 5, 4, 3, 2], np.int64)

        backend.step(events(1)[0], keys, keys.copy(), distance)

        np.testing.assert_array_equal(keys, before)

    def test_results_outlive_the_next_call(self, backend: Backend) -> None:
        """What a call returned is the caller's: a later call does not write into it."""
        first = backend.prefill(events(3))
        kept = [array.copy() for array in first]

        backend.prefill(events(3) + 1)

        for array, copy in zip(first, kept, strict=True):
            np.testing.assert_array_equal(array, copy)

    def test_wrong_shapes_are_backend_errors(self, backend: Backend) -> None:
        """An array that does not fit is refused as ours, not as the library's."""
        with pytest.raises(BackendError):
            backend.prefill(np.zeros((2, 3), np.float32))

    def test_reports_every_layer(self, backend: Backend, model: TinyModel) -> None:
        """The report counts the widths asked for and admits that float32 computes."""
        plan = model.mixed_plan()

        reports = backend.report()

        assert [report.name for report in reports] == [layer.name for layer in plan.layers]
        counts = {bits: int((plan.widths[:8] == bits).sum()) for bits in (2, 4, 8)}
        assert reports[0].requested == counts
        assert {report.computed for report in reports} == {"float32"}
        assert {report.stored_bits for report in reports} == {32}

    def test_strict_refuses_float32_for_coded_layers(self, backend: Backend) -> None:
        """Strict names the first layer that computes in something else than asked for."""
        with pytest.raises(BackendError, match=r"blocks\.0\.q asks for \['int2', 'int4', 'int8'\]"):
            refuse_fallbacks(backend.name, backend.report())


class TestOnnxRuntime:
    def test_reads_which_matrices_a_graph_expects(self, model: TinyModel) -> None:
        """The names agree with what the onnx package finds."""
        for name in (PREFILL, STEP, SCORE):
            graph = onnx.load_from_string(model.graphs[name]).graph
            expected = [
                tensor.name
                for tensor in graph.initializer
                if tensor.data_location == onnx.TensorProto.EXTERNAL
            ]

            assert external_initializers(model.graphs[name]) == tuple(expected)
        assert len(external_initializers(model.graphs[STEP])) == len(model.frozen.layers)

    def test_a_matrix_the_bundle_lacks_is_refused_before_loading(
        self, make_bundle: Callable[..., BundleFolder], model: TinyModel
    ) -> None:
        """A graph that wants an unknown matrix never makes onnxruntime look for a file."""
        renamed = model.graphs[STEP].replace(b"blocks.1.q.weight", b"blocks.9.q.weight")
        bundle = make_bundle(parts={STEP: renamed})

        with pytest.raises(IncompatibleArtifactError, match=r"blocks\.9\.q\.weight"):
            build_backend("onnxruntime", bundle, model.plan())

    @pytest.mark.parametrize("graph", [b"\x00", b"\xff" * 40, b"\x3a\x7f", b"\x3a\x05"])
    def test_bytes_that_are_no_graph_are_malformed(
        self, make_bundle: Callable[..., BundleFolder], model: TinyModel, graph: bytes
    ) -> None:
        """Rubbish in place of a graph is the artifact's fault."""
        bundle = make_bundle(parts={SCORE: graph})

        with pytest.raises((MalformedArtifactError, IncompatibleArtifactError)):
            build_backend("onnxruntime", bundle, model.plan())

    def test_every_error_class_of_the_library_has_a_meaning(self) -> None:
        """A new exception class in onnxruntime must be given a meaning here."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        from pocketrec_device.backends.onnx import LOAD_ERRORS

        found = {
            name
            for name, value in vars(state).items()
            if isinstance(value, type) and issubclass(value, Exception)
        }

        assert found <= set(LOAD_ERRORS)


class TestChoosing:
    def test_an_unknown_backend_lists_the_known_ones(
        self, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """A misspelt name is answered with the names there are."""
        with pytest.raises(ConfigError, match=r"executorch.*numpy.*onnxruntime"):
            build_backend("onnx", bundle, model.plan())

    def test_no_threads_are_refused(self, bundle: BundleFolder, model: TinyModel) -> None:
        """A backend needs at least one thread."""
        with pytest.raises(ConfigError, match="threads"):
            build_backend("onnxruntime", bundle, model.plan(), threads=0)

    @pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
    def test_a_missing_library_names_the_command(
        self, name: str, bundle: BundleFolder, model: TinyModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without its library a backend says what to install."""
        monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(MissingExtraError, match="pip install 'pocketrec"):
            build_backend(name, bundle, model.plan())

    def test_executorch_refuses_personal_plans(
        self, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """A program has the default plan baked in; any other is refused, library or not."""
        with pytest.raises(IncompatibleArtifactError, match="default plan"):
            build_backend("executorch", bundle, model.mixed_plan())

    def test_every_backend_has_a_module(self) -> None:
        """The registry names modules that exist."""
        for module, _ in BACKENDS.values():
            assert importlib.util.find_spec(module) is not None
