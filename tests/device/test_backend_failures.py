# SPDX-License-Identifier: Apache-2.0
"""What backends refuse, and what becomes of errors of their libraries."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from pocketrec.errors import (
    BackendError,
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
    MissingExtraError,
)
from pocketrec_device.attention_state import AttentionState
from pocketrec_device.backends import BACKENDS, build_backend
from pocketrec_device.lowering.lowered_graph import Template
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    PREFILL,
    PROGRAM,
    SCORE,
    STEP,
    BundleFolder,
)
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.plan import encode_plan

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.device.conftest import TinyModel


from tests.device.closeness import TOLERANCE, bind, events


class _Failing:
    """Stands in for whatever a library offers to be run, and fails as it does."""

    def __init__(self, error: Exception) -> None:
        self.error = error

    def run_with_iobinding(self, *_: object) -> None:
        """Fail as a session of onnxruntime."""
        raise self.error

    def execute(self, *_: object) -> None:
        """Fail as a method of executorch."""
        raise self.error


class TestFailing:
    def test_onnxruntime(self, bundle: BundleFolder, model: TinyModel) -> None:
        """What the library raises while it runs is a backend error; the state stays."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        backend = build_backend(bundle, model.plan(), EngineSettings())
        session = backend.new_state()
        assert isinstance(session, AttentionState)
        session.observe(events(3))
        h, cache = session.h, session._buffers.cache[:, :, 1:].copy()
        bound = session._bound
        working = bound._session  # type: ignore[attr-defined]

        for error in (
            state.Fail("on purpose"),
            state.InvalidArgument("on purpose"),
            RuntimeError(),
        ):
            bound._session = _Failing(error)  # type: ignore[attr-defined]
            with pytest.raises(BackendError, match="could not compute a step"):
                session.step(events(1)[0])

        assert session.n_events == 3
        assert session.h is h
        np.testing.assert_array_equal(session._buffers.cache[:, :, 1:], cache)
        bound._session = working  # type: ignore[attr-defined]
        session.step(events(4)[3])
        whole = backend.new_state()
        whole.observe(events(4))
        np.testing.assert_allclose(session.h, whole.h, atol=TOLERANCE)

    def test_onnxruntime_while_it_takes_in_a_history(
        self, bundle: BundleFolder, model: TinyModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it is in a prefill, which leaves an empty state."""
        backend = build_backend(bundle, model.plan(), EngineSettings())
        session = backend.new_state()
        honest = backend.binding  # type: ignore[attr-defined]

        def failing(function: str) -> tuple[object, object]:
            return _Failing(RuntimeError("on purpose")), honest(function)[1]

        monkeypatch.setattr(backend, "binding", failing)

        with pytest.raises(BackendError, match="could not compute a history: on purpose"):
            session.observe(events(3))

        assert session.n_events == 0

    def test_numpy(self, bundle: BundleFolder, model: TinyModel) -> None:
        """The reference refuses what cannot be computed."""
        bound = bind(build_backend(bundle, model.plan(), EngineSettings(backend="numpy")))
        bound.buffers.bias[0, 0, 0, 0, 2] = np.nan

        with pytest.raises(BackendError, match="bias"):
            bound.step()

    @pytest.mark.executorch
    @pytest.mark.slow
    @pytest.mark.filterwarnings("ignore")  # its own imports use what is deprecated
    def test_executorch(
        self, make_bundle: Callable[..., BundleFolder], model: TinyModel, program: bytes
    ) -> None:
        """What a program raises is a backend error; the state stays."""
        parts = {DEFAULT_PLAN: encode_plan(model.mixed_plan(), None), PROGRAM: program}
        settings = EngineSettings(backend="executorch")
        backend = build_backend(make_bundle(parts=parts), model.mixed_plan(), settings)
        session = backend.new_state()
        session.observe(events(3))
        h = session.h
        methods = backend._methods  # type: ignore[attr-defined]
        methods["step"] = _Failing(RuntimeError("on purpose"))

        with pytest.raises(BackendError, match="could not compute step: on purpose"):
            session.step(events(1)[0])

        assert session.n_events == 3
        assert session.h is h


class TestOnnxRuntime:
    @pytest.mark.parametrize("name", [PREFILL, STEP])
    def test_reads_which_matrices_a_graph_expects(self, model: TinyModel, name: str) -> None:
        """Names and shapes agree with what the onnx package finds; every layer is there once."""
        graph = onnx.load_from_string(model.graphs[name]).graph
        expected = {
            entry.name: tuple(size.dim_value for size in entry.type.tensor_type.shape.dim)
            for entry in graph.input
            if stacked_layers(entry.name)
        }

        products = Template(model.graphs[name], name).products

        assert {p.name: (p.n_inputs, p.n_outputs) for p in products} == expected
        layers = [layer for product in products for layer in stacked_layers(product.name)]
        assert sorted(layers) == sorted(layer.name for layer in model.frozen.layers)

    @pytest.mark.parametrize("part", [PREFILL, STEP])
    def test_a_matrix_the_bundle_lacks_is_refused_before_loading(
        self,
        make_bundle: Callable[..., BundleFolder],
        model: TinyModel,
        monkeypatch: pytest.MonkeyPatch,
        part: str,
    ) -> None:
        """A graph that wants an unknown matrix never reaches onnxruntime."""
        import onnxruntime

        renamed = model.graphs[part].replace(b"weights/blocks.1.o", b"weights/blocks.9.o")
        bundle = make_bundle(parts={part: renamed})
        monkeypatch.delattr(onnxruntime, "InferenceSession")

        with pytest.raises(IncompatibleArtifactError, match=r"blocks\.9\.o"):
            build_backend(bundle, model.plan(), EngineSettings())

    def test_a_matrix_of_another_shape_is_refused_before_loading(
        self,
        make_bundle: Callable[..., BundleFolder],
        model: TinyModel,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A graph whose product is not that of the layers it names is for another model."""
        import onnxruntime

        swapped = model.graphs[STEP].replace(b"weights/blocks.1.ffn1", b"weights/blocks.1.ffn3")
        swapped = swapped.replace(b"weights/blocks.1.ffn2", b"weights/blocks.1.ffn1")
        bundle = make_bundle(
            parts={STEP: swapped.replace(b"weights/blocks.1.ffn3", b"weights/blocks.1.ffn2")}
        )
        monkeypatch.delattr(onnxruntime, "InferenceSession")

        with pytest.raises(IncompatibleArtifactError, match=r"blocks\.1\.ffn\d: expected"):
            build_backend(bundle, model.plan(), EngineSettings())

    @pytest.mark.parametrize("part", [PREFILL, STEP])
    @pytest.mark.parametrize("graph", [b"\x00", b"\xff" * 40, b"\x3a\x7f", b"\x3a\x05"])
    def test_bytes_that_are_no_graph_are_malformed(
        self, make_bundle: Callable[..., BundleFolder], model: TinyModel, part: str, graph: bytes
    ) -> None:
        """Rubbish in place of a graph is the artifact's fault."""
        bundle = make_bundle(parts={part: graph})

        with pytest.raises((MalformedArtifactError, IncompatibleArtifactError)):
            build_backend(bundle, model.plan(), EngineSettings())

    def test_scoring_needs_no_graph(
        self, make_bundle: Callable[..., BundleFolder], model: TinyModel
    ) -> None:
        """The item table scores: a graph for it in the bundle is not even read."""
        bundle = make_bundle(parts={SCORE: b"\x00"})

        assert build_backend(bundle, model.plan(), EngineSettings()).name == "onnxruntime"

    def test_every_error_class_of_the_library_has_a_meaning(self) -> None:
        """A new exception class in onnxruntime must be given a meaning here."""
        from onnxruntime.capi import onnxruntime_pybind11_state as state

        from pocketrec_device.backends.onnx_errors import LOAD_ERRORS

        found = {
            name
            for name, value in vars(state).items()
            if isinstance(value, type) and issubclass(value, Exception)
        }

        assert found <= set(LOAD_ERRORS)


class TestChoosing:
    def test_an_unknown_backend_lists_the_known_ones(self) -> None:
        """A misspelt name is answered with the names there are."""
        with pytest.raises(ConfigError, match=r"executorch.*numpy.*onnxruntime"):
            EngineSettings(backend="onnx")

    def test_no_threads_are_refused(self) -> None:
        """A backend needs at least one thread."""
        with pytest.raises(ConfigError, match="threads"):
            EngineSettings(threads=0)

    @pytest.mark.parametrize(
        ("choice", "known"),
        [
            ("compute", r"auto.*fp32.*int8.*packed"),
            ("swap", r"auto.*adapter.*rebuild"),
            ("preset", r"balanced.*battery_saver.*full"),
        ],
    )
    def test_unknown_choices_list_the_known_ones(self, choice: str, known: str) -> None:
        """So are a kernel, a way to swap and a preset that there is not."""
        with pytest.raises(ConfigError, match=rf"{choice}: expected one of .*{known}.*'fastest'"):
            EngineSettings(**{choice: "fastest"})

    @pytest.mark.parametrize("name", ["onnxruntime", "executorch"])
    def test_a_missing_library_names_the_command(
        self, name: str, bundle: BundleFolder, model: TinyModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Without its library a backend says what to install."""
        monkeypatch.setitem(sys.modules, name, None)

        with pytest.raises(MissingExtraError, match="pip install 'pocketrec"):
            build_backend(bundle, model.plan(), EngineSettings(backend=name))

    def test_executorch_refuses_personal_plans(
        self, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """A program has the default plan baked in; any other is refused, library or not."""
        with pytest.raises(IncompatibleArtifactError, match="default plan"):
            build_backend(bundle, model.mixed_plan(), EngineSettings(backend="executorch"))

    def test_every_backend_has_a_module(self) -> None:
        """The registry names modules that exist."""
        for module in BACKENDS.values():
            assert importlib.util.find_spec(module) is not None
