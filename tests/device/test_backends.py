# SPDX-License-Identifier: Apache-2.0
"""One contract, every backend: what ``Backend`` promises, compared with the reference.

Where all arithmetic is float32, results agree within its rounding. Where inputs are
rounded to 8 bits, scores must be close beside their spread, as the health check of an
installation asks.
"""

from __future__ import annotations

import importlib.metadata
import re
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device.closeness import Closeness, bind, events
from tests.device.conftest import CONFIGS, TinyModel, tiny_items, tiny_model, write_tiny_bundle

from pocketrec.errors import (
    BackendError,
)
from pocketrec_device.backends import BACKENDS, build_backend
from pocketrec_device.backends.base import refuse_fallbacks
from pocketrec_device.settings import COMPUTE_CHOICES, SWAP_CHOICES, EngineSettings
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    PROGRAM,
    BackboneConfig,
)
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.references import Reference, reference_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketrec_device.backends import Backend
    from pocketrec_device.backends.base import AttentionBackend

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


@pytest.fixture(params=EVERY_BACKEND)
def settings(request: pytest.FixtureRequest) -> EngineSettings:
    """Every way to compute there is."""
    assert isinstance(request.param, EngineSettings)
    return request.param


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of backbone there is."""
    return str(request.param)


@pytest.fixture
def config(kind: str) -> BackboneConfig:
    """The tiny model's architecture."""
    return CONFIGS[kind]


@pytest.fixture
def model(config: BackboneConfig) -> TinyModel:
    """The tiny model."""
    return tiny_model(0, config)


@pytest.fixture(scope="module")
def made(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[TinyModel, EngineSettings], Backend]:
    """Makes backends under a mixed plan that is their bundle's default plan; each one once."""
    backends: dict[tuple[str, EngineSettings], Backend] = {}

    def make(model: TinyModel, settings: EngineSettings) -> Backend:
        key = (model.config.kind, settings)
        if key not in backends:
            parts = {DEFAULT_PLAN: encode_plan(model.mixed_plan(), None)}
            if settings.backend == "executorch":
                parts[PROGRAM] = request.getfixturevalue(model.program_fixture)
            folder = tmp_path_factory.mktemp("mixed")
            bundle = write_tiny_bundle(folder, parts=parts, config=model.config)
            backends[key] = build_backend(bundle, model.mixed_plan(), settings)
        return backends[key]

    return make


@pytest.fixture
def backend(
    made: Callable[[TinyModel, EngineSettings], Backend],
    model: TinyModel,
    settings: EngineSettings,
) -> Backend:
    """Such a backend; it holds no history, so tests may share it."""
    return made(model, settings)


@pytest.fixture
def reference(model: TinyModel) -> Reference:
    """What every backend is compared with."""
    return reference_of(model.frozen, model.mixed_plan().widths, model.config)


@pytest.fixture
def attention(model: TinyModel) -> ReferenceBackend:
    """The same with keys and values."""
    return ReferenceBackend.from_model(model.frozen, model.mixed_plan().widths, model.config)


@pytest.fixture
def close(backend: Backend) -> Closeness:
    """How close the backend must come."""
    return Closeness(backend, tiny_items(1))


class TestContract:
    def test_names_itself(self, backend: Backend, settings: EngineSettings) -> None:
        """A backend has the name it is asked for by, and the version of its library."""
        assert backend.name == settings.backend
        assert backend.name in BACKENDS
        assert backend.version == importlib.metadata.version(backend.name)

    def test_says_whether_it_is_exact(self, backend: Backend, settings: EngineSettings) -> None:
        """Kernels that round their inputs are not; tiny products never get them unasked."""
        assert backend.is_exact == (settings.compute not in {"int8", "packed"})

    def test_steps_equal_everything_at_once(
        self,
        backend: Backend,
        reference: Reference,
        config: BackboneConfig,
        close: Closeness,
    ) -> None:
        """Steps give what the whole history gives, also after the window has moved on."""
        x = events(3 * config.window + 2)
        session = backend.new_state()

        for n_events in range(1, len(x) + 1):
            session.observe(x[n_events - 1 : n_events])
            close.of_states(session.h, reference.state_after(x[:n_events]))

    @pytest.mark.parametrize("cuts", [(1,), (2, 3), (4,), (5,), (5, 6), (9, 16)])
    def test_a_state_does_not_depend_on_how_its_history_is_cut(
        self,
        backend: Backend,
        reference: Reference,
        close: Closeness,
        cuts: tuple[int, ...],
    ) -> None:
        """Pieces of any length, also beyond two windows, give what all at once gives."""
        x = events(17)
        session, whole = backend.new_state(), backend.new_state()

        for begin, end in zip((0, *cuts), (*cuts, len(x)), strict=True):
            session.observe(x[begin:end])
        whole.observe(x)

        close.of_states(session.h, reference.state_after(x))
        close.of_states(session.h, whole.h)

    def test_a_second_history_starts_afresh(
        self, backend: Backend, reference: Reference, close: Closeness
    ) -> None:
        """After a reset nothing of the last user is left, whatever the lengths."""
        session = backend.new_state()

        for n_events in (5, 3, 1, 4, 5, 7):
            x = events(n_events + 2, seed=n_events)
            session.reset()
            session.observe(x[:n_events])
            for event in x[n_events:]:
                session.step(event)
            close.of_states(session.h, reference.state_after(x))

    def test_an_old_state_stays_readable(self, backend: Backend) -> None:
        """What a reader took is never written to again, by no call of the session."""
        session = backend.new_state()
        taken: list[tuple[NDArray[np.float32], NDArray[np.float32]]] = []

        for n_events in (1, 3, 1, 5):
            session.observe(events(n_events))
            taken.append((session.h, session.h.copy()))
            session.reset()

        for h, copy in taken:
            np.testing.assert_array_equal(h, copy)

    def test_sessions_do_not_disturb_each_other(self, backend: Backend) -> None:
        """Two sessions that take turns on one backend end as if each were alone."""
        together = backend.new_state(), backend.new_state()
        alone = backend.new_state(), backend.new_state()
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
        session = backend.new_state()

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
        self, backend: Backend, model: TinyModel, settings: EngineSettings
    ) -> None:
        """Packed kernels keep what is asked for; for all others the first layer is named."""
        if settings.compute == "packed":
            refuse_fallbacks(backend.name, backend.report())
            return
        first = re.escape(model.frozen.layers[0].name)
        with pytest.raises(BackendError, match=rf"strict: {first} asks for .* of \d bits"):
            refuse_fallbacks(backend.name, backend.report())


class TestAttention:
    """What backends whose states are keys and values promise besides."""

    @pytest.fixture
    def kind(self) -> str:
        """Only these have such states."""
        return "sasrec"

    @pytest.mark.parametrize(("n_events", "row"), [(1, 1), (3, 1), (4, 1), (3, 2), (5, 0)])
    def test_prefill_equals_the_reference(
        self,
        backend: AttentionBackend,
        attention: ReferenceBackend,
        close: Closeness,
        n_events: int,
        row: int,
    ) -> None:
        """A history gives the reference's keys, values and state, in the rows asked for."""
        if not backend.takes_histories:
            pytest.skip("takes histories in event by event")
        bound = bind(backend)
        before = bound.buffers.cache.copy()

        bound.prefill(events(n_events), row)

        expected = attention.prefill(events(n_events))
        rows = slice(row, row + n_events)
        close.of_arrays(bound.buffers.cache[:, 0, rows], expected.keys)
        close.of_arrays(bound.buffers.cache[:, 1, rows], expected.values)
        close.of_states(bound.buffers.h[0], expected.h)
        before[:, :, rows] = bound.buffers.cache[:, :, rows]
        np.testing.assert_array_equal(bound.buffers.cache, before)

    def test_a_step_equals_the_reference(
        self, backend: AttentionBackend, attention: ReferenceBackend, close: Closeness
    ) -> None:
        """One event against any cache gives the reference's row 0 and state."""
        bound = bind(backend)
        x, cache, bias, h = (
            bound.buffers.x,
            bound.buffers.cache,
            bound.buffers.bias,
            bound.buffers.h,
        )
        expected = attention.step(x[0], cache[:, 0, 1:], cache[:, 1, 1:], bias[:, 0, :, 0])

        bound.step()

        close.of_arrays(cache[:, 0, 0], expected.new_keys)
        close.of_arrays(cache[:, 1, 0], expected.new_values)
        close.of_states(h[0], expected.h)

    def test_a_step_leaves_the_ring_alone(self, backend: AttentionBackend) -> None:
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

    def test_what_lies_in_row_0_before_a_step_does_not_matter(
        self, backend: AttentionBackend
    ) -> None:
        """A step writes the event's own keys and values before it attends to them."""
        first, second = bind(backend), bind(backend)
        second.buffers.cache[:, :, 0] = 1e6

        first.step()
        second.step()

        np.testing.assert_array_equal(first.buffers.h, second.buffers.h)
        np.testing.assert_array_equal(first.buffers.cache, second.buffers.cache)

    def test_hidden_rows_do_not_matter(self, backend: AttentionBackend) -> None:
        """Rows with a bias of minus infinity may hold anything finite."""
        first, second = bind(backend), bind(backend)
        for each in (first, second):
            backend.ring.write(each.buffers.bias[:, 0, :, 0], 2, is_full=False)
        second.buffers.cache[:, :, 2:] = 1e6

        first.step()
        second.step()

        np.testing.assert_array_equal(first.buffers.h, second.buffers.h)
