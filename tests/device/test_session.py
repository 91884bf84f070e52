# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.device.conftest import CONFIGS, tiny_model, write_tiny_bundle

from pocketrec.errors import BackendError
from pocketrec_device.attention_state import StateBuffers
from pocketrec_device.backends import build_backend
from pocketrec_device.session import SessionState
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.attention_bias import stack_relative_bias

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.backends import Backend


@pytest.fixture(params=CONFIGS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind of backbone there is."""
    return str(request.param)


@pytest.fixture
def backend(kind: str, tmp_path: Path) -> Backend:
    """The reference."""
    bundle = write_tiny_bundle(tmp_path / "bundle", config=CONFIGS[kind])
    plan = tiny_model(0, CONFIGS[kind]).plan()
    return build_backend(bundle, plan, EngineSettings(backend="numpy"))


@pytest.fixture
def state(backend: Backend) -> SessionState:
    """An empty state."""
    return backend.new_state()


def events(n_events: int) -> NDArray[np.float32]:
    """Return (n_events, D) random embeddings, the same beginning for every n."""
    return np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)[:n_events]


class Failing:
    """What a state is bound to, until it is told to fail."""

    def __init__(self, state: Any) -> None:
        self.inner, self.buffers = state._bound, state._buffers
        self.is_failing = False
        state._bound = self

    def step(self) -> None:
        """Step, or leave rubbish where a step may write and fail."""
        if not self.is_failing:
            self.inner.step()
            return
        self.buffers.h[:] = np.nan
        if isinstance(self.buffers, StateBuffers):
            self.buffers.cache[:, :, 0] = np.nan
        raise BackendError("on purpose")

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        """Take in a history, or fail half-way."""
        if self.is_failing:
            self.buffers.cache[:, :, row:] = np.nan
            raise BackendError("on purpose")
        self.inner.prefill(x, row)


class Watched:
    """Takes note of what each step is given, and of the row that it writes."""

    def __init__(self, state: Any) -> None:
        self.inner, self.buffers = state._bound, state._buffers
        self.biases: list[NDArray[np.float32]] = []
        self.rows: list[NDArray[np.float32]] = []
        state._bound = self

    def step(self) -> None:
        """Step, and remember its bias and its row."""
        self.biases.append(self.buffers.bias[:, 0, :, 0].copy())
        self.inner.step()
        self.rows.append(self.buffers.cache[:, :, 0].copy())


class TestAttention:
    """What is remembered as keys and values, and what a step is told about their rows."""

    @pytest.fixture
    def kind(self) -> str:
        """Of the kinds there are, this one."""
        return "sasrec"

    @pytest.mark.parametrize("n_prefilled", [0, 2, 4, 5])
    def test_counts_the_events_since_each_row_was_written(
        self, state: Any, n_prefilled: int
    ) -> None:
        """Every row's bias is that of the event it holds, however the history began."""
        relative = stack_relative_bias(tiny_model(0).frozen.dense, 2)
        state.observe(events(n_prefilled))
        cache = state._buffers.cache
        watched = Watched(state)
        # Rows of a prefill are in order; a full window begins in row 0, which is overwritten.
        row = 0 if n_prefilled == 5 else 1
        event_of = {row + event: event for event in range(n_prefilled)}

        for event in range(n_prefilled, 14):
            before = cache[:, :, 1:].copy()
            state.step(events(14)[event])

            expected = np.full_like(relative, -np.inf)
            expected[..., 0] = relative[..., 0]
            for row in range(1, 5):
                if row in event_of:
                    expected[..., row] = relative[..., event - event_of[row]]
            np.testing.assert_array_equal(watched.biases[-1], expected)
            changed = np.flatnonzero((cache[:, :, 1:] != before).any(axis=(0, 1, 3)))
            (new_row,) = 1 + changed
            event_of[int(new_row)] = event
            np.testing.assert_array_equal(cache[:, :, new_row], watched.rows[-1])

    def test_the_oldest_event_makes_way(self, state: Any) -> None:
        """A full ring keeps the last L - 1 events."""
        watched = Watched(state)
        for event in events(11):
            state.step(event)

        kept = state._buffers.cache[:, :, 1:]

        for row in watched.rows[-4:]:
            assert (kept == row[:, :, None]).all(axis=(0, 1, 3)).sum() == 1

    def test_memory_stays_in_place(self, state: Any) -> None:
        """A step allocates no cache and no biases: a backend is bound to them once."""
        buffers = state._buffers
        arrays = (buffers.x, buffers.cache, buffers.bias, buffers.h)
        before = [array.ctypes.data for array in arrays]

        state.observe(events(9))
        state.reset()
        state.observe(events(2))

        assert state._buffers is buffers
        assert arrays == (buffers.x, buffers.cache, buffers.bias, buffers.h)
        assert [array.ctypes.data for array in arrays] == before

    def test_events_before_a_failing_one_are_kept(
        self, state: SessionState, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Of several events, those that were computed count."""
        failing = Failing(state)
        state.step(events(1)[0])
        step, numbers = failing.step, iter(range(9))

        def fail_at_the_third() -> None:
            failing.is_failing = next(numbers) == 2
            step()

        monkeypatch.setattr(failing, "step", fail_at_the_third)

        with pytest.raises(BackendError, match="on purpose"):
            state.observe(events(6)[1:])

        assert state.n_events == 3


class TestObserve:
    @pytest.mark.parametrize("n_events", [1, 2, 4, 5, 6, 13])
    def test_does_not_depend_on_how_events_are_cut(self, backend: Backend, n_events: int) -> None:
        """All at once, one by one and in two calls lead to the same state."""
        whole, single, halves = (backend.new_state() for _ in range(3))

        whole.observe(events(n_events))
        for event in events(n_events):
            single.observe(event[None])
        halves.observe(events(n_events)[: n_events // 2])
        halves.observe(events(n_events)[n_events // 2 :])

        assert whole.n_events == single.n_events == halves.n_events == n_events
        np.testing.assert_allclose(single.h, whole.h, atol=1e-5)
        np.testing.assert_allclose(halves.h, whole.h, atol=1e-5)

    def test_nothing_changes_nothing(self, state: SessionState) -> None:
        """An empty list of events is allowed."""
        state.observe(events(0))

        assert state.n_events == 0

    def test_an_old_state_stays_readable(self, state: SessionState) -> None:
        """What a reader took before an event does not change with it."""
        state.observe(events(3))
        taken, copy = state.h, state.h.copy()

        state.observe(events(1))

        np.testing.assert_array_equal(taken, copy)

    def test_reset_forgets_everything(self, state: SessionState) -> None:
        """After a reset a state is like a new one."""
        state.observe(events(9))
        state.reset()
        state.observe(events(1))
        fresh = state.h.copy()

        state.reset()
        state.observe(events(1))

        assert state.n_events == 1
        np.testing.assert_array_equal(state.h, fresh)

    def test_a_reset_state_has_no_h(self, state: SessionState) -> None:
        """Without events the user's state is zeros."""
        state.observe(events(3))

        state.reset()

        assert state.n_events == 0
        assert not state.h.any()

    @pytest.mark.parametrize("shape", [(1, 3), (2, 9), (8,), (1, 1, 8)])
    def test_events_of_another_shape_change_nothing(
        self, state: SessionState, shape: tuple[int, ...]
    ) -> None:
        """An array that does not fit is refused before anything is computed."""
        state.observe(events(2))
        h = state.h

        with pytest.raises(BackendError, match="x: expected"):
            state.observe(np.zeros(shape, np.float32))

        assert state.n_events == 2
        assert state.h is h

    @pytest.mark.parametrize("n_before", [1, 2, 4, 5, 9])
    def test_a_failing_event_leaves_the_state_before_it(
        self, backend: Backend, state: SessionState, n_before: int
    ) -> None:
        """When inference fails half-way, the events before are kept, and later ones count."""
        state.observe(events(n_before))
        h = state.h
        untroubled = backend.new_state()
        untroubled.copy_from(state)
        failing = Failing(state)
        failing.is_failing = True

        with pytest.raises(BackendError, match="on purpose"):
            state.observe(events(n_before + 3)[n_before:])

        assert state.n_events == n_before
        assert state.h is h
        failing.is_failing = False
        for each in (state, untroubled):
            each.observe(events(n_before + 3)[n_before:])
        np.testing.assert_array_equal(state.h, untroubled.h)

    def test_a_failing_history_leaves_an_empty_state(
        self, backend: Backend, state: SessionState
    ) -> None:
        """Whatever a failed prefill left behind, the next history is computed as if first."""
        failing = Failing(state)
        failing.is_failing = True

        with pytest.raises(BackendError, match="on purpose"):
            state.observe(events(3))

        assert state.n_events == 0
        assert not state.h.any()
        failing.is_failing = False
        for n_events in (1, 3):
            state.reset()
            state.observe(events(n_events))
            fresh = backend.new_state()
            fresh.observe(events(n_events))
            np.testing.assert_array_equal(state.h, fresh.h)


class TestCopy:
    @pytest.mark.parametrize("n_events", [0, 1, 4, 5, 8])
    def test_goes_on_like_the_original(self, backend: Backend, n_events: int) -> None:
        """A copy takes in events as its original does, over whatever it held before."""
        original, copy = backend.new_state(), backend.new_state()
        original.observe(events(n_events))
        copy.observe(events(7)[::-1])

        copy.copy_from(original)

        assert copy.n_events == n_events
        for each in (original, copy):
            each.observe(events(12)[n_events:])
        np.testing.assert_array_equal(copy.h, original.h)

    def test_is_on_its_own_afterwards(self, backend: Backend) -> None:
        """Events of the copy do not reach the original."""
        original, copy, alone = (backend.new_state() for _ in range(3))
        original.observe(events(3))
        alone.observe(events(3))
        copy.copy_from(original)

        copy.observe(events(9))
        for each in (original, alone):
            each.observe(events(5)[3:])

        np.testing.assert_array_equal(original.h, alone.h)


class TestWindow:
    """What is remembered of the last events, where a backbone sees no others."""

    @pytest.fixture
    def kind(self) -> str:
        """Of the kinds there are, this one."""
        return "caser"

    def test_holds_the_last_events_oldest_first(self, state: Any) -> None:
        """Zeros stand before the first event, and what has left the window is gone."""
        for n_events, event in enumerate(events(8), start=1):
            state.step(event)

            kept = events(n_events)[-5:]
            np.testing.assert_array_equal(state._buffers.window[5 - len(kept) :], kept)
            assert not state._buffers.window[: 5 - len(kept)].any()

    @pytest.mark.parametrize("n_before", [0, 1, 3, 5, 7])
    @pytest.mark.parametrize("n_new", [2, 5, 9])
    def test_any_number_of_events_is_one_call(
        self, state: Any, monkeypatch: pytest.MonkeyPatch, n_before: int, n_new: int
    ) -> None:
        """Only the state after the last event is computed."""
        x = events(n_before + n_new)
        state.observe(x[:n_before])
        counted = Failing(state)
        step, n_calls = counted.step, 0

        def count() -> None:
            nonlocal n_calls
            n_calls += 1
            step()

        monkeypatch.setattr(counted, "step", count)

        state.observe(x[n_before:])

        assert n_calls == 1
        assert state.n_events == len(x)
        kept = x[-5:]
        np.testing.assert_array_equal(state._buffers.window[5 - len(kept) :], kept)

    def test_memory_stays_in_place(self, state: Any) -> None:
        """A backend is bound to the window once."""
        buffers = state._buffers
        before = buffers.window.ctypes.data, buffers.h.ctypes.data

        state.observe(events(9))
        state.reset()
        state.step(events(1)[0])

        assert state._buffers is buffers
        assert (buffers.window.ctypes.data, buffers.h.ctypes.data) == before
