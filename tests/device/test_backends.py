# SPDX-License-Identifier: Apache-2.0
"""One contract, every backend: what ``Backend`` promises, compared with the reference.

Where all arithmetic is float32, results agree within its rounding. Where inputs are
rounded to 8 bits, scores must be close beside their spread, as the health check of an
installation asks.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from tests.device.conftest import write_tiny_bundle

from pocketrec.errors import (
    BackendError,
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
    MissingExtraError,
)
from pocketrec_cloud.onnx_graphs import write_graphs
from pocketrec_device.backends import BACKENDS, build_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.health import ROUNDING_TOLERANCE
from pocketrec_device.lowering.lowered_graph import Template
from pocketrec_device.session import SessionState, StateBuffers
from pocketrec_device.settings import COMPUTE_CHOICES, SWAP_CHOICES, EngineSettings
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    PREFILL,
    PROGRAM,
    SCORE,
    STEP,
    BackboneConfig,
    BundleFolder,
    write_bundle,
)
from pocketrec_quantization.graph_contract import stacked_layers
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import tiny_manifest, tiny_parts

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.device.conftest import TinyModel

    from pocketrec_device.backends import Backend
    from pocketrec_quantization.item_table import ItemTable

TOLERANCE = 2e-5
ONNX_SETTINGS = [
    EngineSettings(compute=compute, swap=swap)
    for compute in COMPUTE_CHOICES
    for swap in SWAP_CHOICES
]
EVERY_BACKEND = [
    pytest.param(EngineSettings(backend="numpy"), id="numpy"),
    *(pytest.param(each, id=f"onnxruntime-{each.compute}-{each.swap}") for each in ONNX_SETTINGS),
    pytest.param(
        EngineSettings(backend="executorch"),
        id="executorch",
        marks=[
            pytest.mark.executorch,
            pytest.mark.slow,
            pytest.mark.filterwarnings("ignore"),  # its own imports use what is deprecated
        ],
    ),
]


@pytest.fixture(scope="module")
def program(model: TinyModel) -> bytes:
    """An ExecuTorch program of the tiny model under its mixed plan; takes a minute."""
    pytest.importorskip("executorch", reason="needs the extra 'executorch'")
    pytest.importorskip("torch", reason="needs the extra 'executorch'")
    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
    from pocketrec_cloud.executorch_program import export_executorch
    from pocketrec_cloud.export import with_weights

    shape = SASRecConfig(
        n_items=12, embedding_dim=8, n_blocks=2, n_heads=2, window=5, ffn_multiplier=2
    )
    network = SASRec(shape).eval()
    network.input_scale = 1.0
    weights = model.frozen.adapt(model.mixed_plan().widths)
    return export_executorch(with_weights(network, {**model.frozen.dense, **weights}))


@pytest.fixture(params=EVERY_BACKEND)
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    """Every way to compute there is."""
    assert isinstance(request.param, EngineSettings)
    return request.param


@pytest.fixture(scope="module")
def made(
    request: pytest.FixtureRequest, model: TinyModel, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[EngineSettings], Backend]:
    """Makes backends under a mixed plan that is their bundle's default plan; each one once."""
    backends: dict[EngineSettings, Backend] = {}
    parts = {DEFAULT_PLAN: encode_plan(model.mixed_plan(), None)}
    bundle = write_tiny_bundle(tmp_path_factory.mktemp("mixed"), parts=parts)

    def make(settings: EngineSettings) -> Backend:
        if settings not in backends:
            bundle_of = bundle
            if settings.backend == "executorch":
                program = {PROGRAM: request.getfixturevalue("program")}
                folder = tmp_path_factory.mktemp("mixed-program")
                bundle_of = write_tiny_bundle(folder, parts=parts | program)
            backends[settings] = build_backend(bundle_of, model.mixed_plan(), settings)
        return backends[settings]

    return make


@pytest.fixture
def backend(made: Callable[[EngineSettings], Backend], settings: EngineSettings) -> Backend:
    """Such a backend; it holds no history, so tests may share it."""
    return made(settings)


@pytest.fixture
def config(bundle: BundleFolder) -> BackboneConfig:
    """The tiny model's architecture."""
    return bundle.manifest.backbone


@pytest.fixture
def reference(model: TinyModel, config: BackboneConfig) -> ReferenceBackend:
    """What every backend is compared with."""
    return ReferenceBackend.from_model(model.frozen, model.mixed_plan().widths, config)


@pytest.fixture
def close(backend: Backend, bundle: BundleFolder) -> Closeness:
    """How close the backend must come."""
    return Closeness(backend, bundle.read_items())


class Closeness:
    """What results of a backend may differ by."""

    def __init__(self, backend: Backend, items: ItemTable) -> None:
        self.is_exact = backend.is_exact
        self.everything = items.gather(np.arange(1, items.n_items + 1))

    def of_arrays(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Compare keys, values or states."""
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        if self.is_exact:
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        else:
            assert np.std(found - expected) <= ROUNDING_TOLERANCE * np.std(expected)

    def of_states(self, h: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Compare states by the scores they give; of exact ones, every number."""
        if self.is_exact:
            self.of_arrays(h, expected)
        self.of_arrays(self.everything.scores(h), self.everything.scores(expected))


class Bound(NamedTuple):
    """A backend's hold on buffers that are full of rubbish."""

    buffers: StateBuffers
    step: Callable[[], None]
    prefill: Callable[[NDArray[np.float32], int], None]


def bind(backend: Backend) -> Bound:
    """Bind a backend to random buffers, with the biases of a full ring."""
    buffers = StateBuffers.allocate(backend.backbone)
    rng = np.random.default_rng(0)
    for array in (buffers.x, buffers.cache, buffers.h):
        array[...] = rng.normal(size=array.shape)
    backend.ring.write(buffers.bias[:, 0, :, 0], 1, is_full=True)
    bound = backend.bind(buffers)
    return Bound(buffers, bound.step, bound.prefill)


def events(n_events: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (n_events, D) random embeddings, the same beginning for every n."""
    return np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32)[:n_events]


class TestContract:
    def test_names_itself(self, backend: Backend, settings: EngineSettings) -> None:
        """A backend has the name it is asked for by, and the version of its library."""
        assert backend.name == settings.backend
        assert backend.name in BACKENDS
        assert backend.version == importlib.metadata.version(backend.name)

    def test_says_whether_it_is_exact(self, backend: Backend, settings: EngineSettings) -> None:
        """Kernels that round their inputs are not; tiny products never get them unasked."""
        assert backend.is_exact == (settings.compute not in {"int8", "packed"})

    @pytest.mark.parametrize(("n_events", "row"), [(1, 1), (3, 1), (4, 1), (3, 2), (5, 0)])
    def test_prefill_equals_the_reference(
        self,
        backend: Backend,
        reference: ReferenceBackend,
        close: Closeness,
        n_events: int,
        row: int,
    ) -> None:
        """A history gives the reference's keys, values and state, in the rows asked for."""
        bound = bind(backend)
        before = bound.buffers.cache.copy()

        bound.prefill(events(n_events), row)

        expected = reference.prefill(events(n_events))
        rows = slice(row, row + n_events)
        close.of_arrays(bound.buffers.cache[:, 0, rows], expected.keys)
        close.of_arrays(bound.buffers.cache[:, 1, rows], expected.values)
        close.of_states(bound.buffers.h[0], expected.h)
        before[:, :, rows] = bound.buffers.cache[:, :, rows]
        np.testing.assert_array_equal(bound.buffers.cache, before)

    def test_a_step_equals_the_reference(
        self, backend: Backend, reference: ReferenceBackend, close: Closeness
    ) -> None:
        """One event against any cache gives the reference's row 0 and state."""
        bound = bind(backend)
        x, cache, bias, h = (
            bound.buffers.x,
            bound.buffers.cache,
            bound.buffers.bias,
            bound.buffers.h,
        )
        expected = reference.step(x[0], cache[:, 0, 1:], cache[:, 1, 1:], bias[:, 0, :, 0])

        bound.step()

        close.of_arrays(cache[:, 0, 0], expected.new_keys)
        close.of_arrays(cache[:, 1, 0], expected.new_values)
        close.of_states(h[0], expected.h)

    def test_a_step_leaves_the_ring_alone(self, backend: Backend) -> None:
        """The session moves the new row; a backend writes row 0 and h, and nothing else."""
        bound = bind(backend)
        buffers = bound.buffers
        kept = (buffers.x, buffers.cache[:, :, 1:], buffers.bias)
        before = [array.copy() for array in kept]
        own = buffers.cache[:, :, 0].copy()

        bound.step()

        for array, copy in zip(kept, before, strict=True):
            np.testing.assert_array_equal(array, copy)
        assert (buffers.cache[:, :, 0] != own).any(axis=(0, 1)).all()

    def test_what_lies_in_row_0_before_a_step_does_not_matter(self, backend: Backend) -> None:
        """A step writes the event's own keys and values before it attends to them."""
        first, second = bind(backend), bind(backend)
        second.buffers.cache[:, :, 0] = 1e6

        first.step()
        second.step()

        np.testing.assert_array_equal(first.buffers.h, second.buffers.h)
        np.testing.assert_array_equal(first.buffers.cache, second.buffers.cache)

    def test_hidden_rows_do_not_matter(self, backend: Backend) -> None:
        """Rows with a bias of minus infinity may hold anything finite."""
        first, second = bind(backend), bind(backend)
        for each in (first, second):
            backend.ring.write(each.buffers.bias[:, 0, :, 0], 2, is_full=False)
        second.buffers.cache[:, :, 2:] = 1e6

        first.step()
        second.step()

        np.testing.assert_array_equal(first.buffers.h, second.buffers.h)

    def test_steps_equal_attention_over_everything(
        self,
        backend: Backend,
        reference: ReferenceBackend,
        config: BackboneConfig,
        close: Closeness,
    ) -> None:
        """Steps give what attention over the whole history gives, also after the ring wraps."""
        x = events(3 * config.window + 2)
        session = SessionState(backend)

        for n_events in range(1, len(x) + 1):
            session.observe(x[n_events - 1 : n_events])
            close.of_states(session.h, reference.full_history(x[:n_events]).h)

    @pytest.mark.parametrize("cuts", [(1,), (2, 3), (4,), (5,), (5, 6), (9, 16)])
    def test_a_state_does_not_depend_on_how_its_history_is_cut(
        self,
        backend: Backend,
        reference: ReferenceBackend,
        close: Closeness,
        cuts: tuple[int, ...],
    ) -> None:
        """A prefill, then steps beyond two turns of the ring, give what all at once gives."""
        x = events(17)
        session, whole = SessionState(backend), SessionState(backend)

        for begin, end in zip((0, *cuts), (*cuts, len(x)), strict=True):
            session.observe(x[begin:end])
        whole.observe(x)

        close.of_states(session.h, reference.full_history(x).h)
        close.of_states(session.h, whole.h)

    def test_a_second_history_starts_afresh(
        self, backend: Backend, reference: ReferenceBackend, close: Closeness
    ) -> None:
        """After a reset nothing of the last user is left, whatever the lengths."""
        session = SessionState(backend)

        for n_events in (5, 3, 1, 4, 5, 7):
            x = events(n_events + 2, seed=n_events)
            session.reset()
            session.observe(x[:n_events])
            for event in x[n_events:]:
                session.step(event)
            close.of_states(session.h, reference.full_history(x).h)

    def test_an_old_state_stays_readable(self, backend: Backend) -> None:
        """What a reader took is never written to again, by no call of the session."""
        session = SessionState(backend)
        taken: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

        for n_events in (1, 3, 1, 5):
            session.observe(events(n_events))
            taken.append((session.h, session.h.copy()))
            session.reset()

        for h, copy in taken:
            np.testing.assert_array_equal(h, copy)

    def test_sessions_do_not_disturb_each_other(self, backend: Backend) -> None:
        """Two sessions that take turns on one backend end as if each were alone."""
        together = SessionState(backend), SessionState(backend)
        alone = SessionState(backend), SessionState(backend)
        histories = events(12), events(12, seed=1)

        for session, x in zip(alone, histories, strict=True):
            session.observe(x[:3])
            for event in x[3:]:
                session.step(event)
        for session, x in zip(together, histories, strict=True):
            session.observe(x[:3])
        for pair in zip(histories[0][3:], histories[1][3:], strict=True):
            for session, event in zip(together, pair, strict=True):
                session.step(event)

        for one, other in zip(together, alone, strict=True):
            np.testing.assert_array_equal(one.h, other.h)

    def test_wrong_shapes_are_backend_errors(self, backend: Backend) -> None:
        """An array that does not fit is refused as ours, not as the library's."""
        session = SessionState(backend)

        with pytest.raises(BackendError):
            session.observe(np.zeros((2, 3), np.float32))

        assert session.n_events == 0

    def test_reports_every_layer(
        self, backend: Backend, model: TinyModel, settings: EngineSettings
    ) -> None:
        """The report counts the widths asked for, and admits what is kept and computed."""
        plan = model.mixed_plan()
        computed = {"int8": "int8", "packed": "int2/int4/int8"}.get(settings.compute, "float32")

        reports = backend.report()

        assert [report.name for report in reports] == [layer.name for layer in plan.layers]
        start = 0
        for report, layer in zip(reports, plan.layers, strict=True):
            widths = plan.widths[start : start + layer.n_channels]
            counts = {bits: int((widths == bits).sum()) for bits in (2, 4, 8) if bits in widths}
            stored = {"int8": {8: layer.n_channels}, "packed": counts}
            assert report.requested == counts
            assert report.stored == stored.get(settings.compute, {32: layer.n_channels})
            assert report.computed == computed
            start += layer.n_channels

    def test_strict_wants_the_widths_of_the_plan(
        self, backend: Backend, settings: EngineSettings
    ) -> None:
        """Packed kernels keep what is asked for; for all others the first layer is named."""
        if settings.compute == "packed":
            refuse_fallbacks(backend.name, backend.report())
            return
        with pytest.raises(BackendError, match=r"strict: blocks\.0\.q asks for .* of 2 bits"):
            refuse_fallbacks(backend.name, backend.report())


def tiny_bundle(folder: Path, config: BackboneConfig) -> BundleFolder:
    """Write a bundle of any architecture, with graphs."""
    parts = tiny_parts(config)
    write_bundle(folder, tiny_manifest(config), parts)
    graphs = write_graphs(BundleFolder.open(folder).read_frozen().dense, config)
    parts |= {PREFILL: graphs["prefill"], STEP: graphs["step"], SCORE: graphs["score"]}
    write_bundle(folder, tiny_manifest(config), parts)
    return BundleFolder.open(folder)


@pytest.mark.parametrize(
    "settings",
    [
        EngineSettings(backend="numpy"),
        EngineSettings(compute="fp32"),
        EngineSettings(compute="int8", swap="rebuild"),
        EngineSettings(compute="packed", swap="adapter"),
    ],
    ids=lambda each: f"{each.backend}-{each.compute}",
)
@pytest.mark.parametrize(
    "shape",
    [
        {"window": 1},
        {"window": 2},
        {"window": 3, "n_blocks": 1},
        {"window": 3, "n_blocks": 3, "n_heads": 1, "embedding_dim": 6},
    ],
    ids=["one event", "two events", "one block", "three blocks, one head"],
)
def test_any_architecture_steps_like_the_reference(
    tmp_path: Path, settings: EngineSettings, shape: dict[str, int]
) -> None:
    """Tiny windows, a single block and odd sizes compute like any other, over three turns."""
    fields = {"embedding_dim": 4, "n_blocks": 2, "n_heads": 2, "ffn_multiplier": 2}
    config = BackboneConfig(**{"kind": "sasrec"} | fields | shape)
    bundle = tiny_bundle(tmp_path / "tiny", config)
    plan = bundle.read_default_plan()
    backend = build_backend(bundle, plan, settings)
    reference = ReferenceBackend.from_model(bundle.read_frozen(), plan.widths, config)
    close = Closeness(backend, bundle.read_items())
    items = bundle.read_items()
    x = items.embed(np.random.default_rng(1).integers(1, 7, 3 * config.window + 2))
    expected = [reference.full_history(x[:n_events]).h for n_events in range(1, len(x) + 1)]

    for n_first in {0, 1, config.window - 1, config.window}:
        session = SessionState(backend)
        session.observe(x[:n_first])
        for event, h in zip(x[n_first:], expected[n_first:], strict=True):
            session.step(event)
            close.of_states(session.h, h)


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
        session = SessionState(backend)
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
        whole = SessionState(backend)
        whole.observe(events(4))
        np.testing.assert_allclose(session.h, whole.h, atol=TOLERANCE)

    def test_onnxruntime_while_it_takes_in_a_history(
        self, bundle: BundleFolder, model: TinyModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """So it is in a prefill, which leaves an empty state."""
        backend = build_backend(bundle, model.plan(), EngineSettings())
        session = SessionState(backend)
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
        session = SessionState(backend)
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

        from pocketrec_device.backends.onnx import LOAD_ERRORS

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
