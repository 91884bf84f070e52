# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import BackendError
from pocketrec_device.backends import build_backend
from pocketrec_device.session import SessionState, distance_bases

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.device.conftest import TinyModel

    from pocketrec_device.backends import Backend
    from pocketrec_quantization.bundle import BundleFolder


@pytest.fixture
def backend(bundle: BundleFolder, model: TinyModel) -> Backend:
    """The reference."""
    return build_backend("numpy", bundle, model.plan())


@pytest.fixture
def state(bundle: BundleFolder) -> SessionState:
    """An empty state."""
    return SessionState(bundle.manifest.backbone)


def events(n_events: int) -> NDArray[np.float32]:
    """Return (n_events, D) random embeddings, the same beginning for every n."""
    return np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)[:n_events]


class TestDistance:
    def test_bases_are_those_of_the_module(self) -> None:
        """For L = 4 the arrays are the ones written in the module's docstring."""
        filling, full = distance_bases(4)

        assert filling.tolist() == [3, 2, 1, 4, 4, 4, 4]
        assert full.tolist() == [3, 2, 1, 4, 3, 2, 1]

    @pytest.mark.parametrize("n_events", range(12))
    def test_counts_the_events_since_each_slot_was_written(
        self, state: SessionState, n_events: int
    ) -> None:
        """Every slot's distance is what replaying the writes gives."""
        expected = [5] * 5
        for event in range(max(0, n_events - 5), n_events):
            expected[event % 5] = n_events - event
        state.n_events = n_events

        assert state.distance().tolist() == expected

    def test_is_a_view(self, state: SessionState) -> None:
        """A step allocates no distances: it reads a window of one array."""
        assert state.distance().base is not None

    def test_a_window_of_one_masks_its_only_slot(self) -> None:
        """With L = 1 an event sees itself alone."""
        filling, full = distance_bases(1)

        assert filling.tolist() == full.tolist() == [1]


class TestObserve:
    @pytest.mark.parametrize("n_events", [1, 2, 5, 6, 13])
    def test_does_not_depend_on_how_events_are_cut(
        self, backend: Backend, bundle: BundleFolder, n_events: int
    ) -> None:
        """All at once, one by one and in two calls lead to the same state."""
        whole, single, halves = (SessionState(bundle.manifest.backbone) for _ in range(3))

        whole.observe(backend, events(n_events))
        for event in events(n_events):
            single.observe(backend, event[None])
        halves.observe(backend, events(n_events)[: n_events // 2])
        halves.observe(backend, events(n_events)[n_events // 2 :])

        assert whole.n_events == single.n_events == halves.n_events == n_events
        np.testing.assert_allclose(single.h, whole.h, atol=1e-5)
        np.testing.assert_allclose(halves.h, whole.h, atol=1e-5)

    def test_nothing_changes_nothing(self, backend: Backend, state: SessionState) -> None:
        """An empty list of events is allowed."""
        state.observe(backend, events(0))

        assert state.n_events == 0

    def test_an_old_state_stays_readable(self, backend: Backend, state: SessionState) -> None:
        """What a reader took before an event does not change with it."""
        state.observe(backend, events(3))
        taken, copy = state.h, state.h.copy()

        state.observe(backend, events(1))

        np.testing.assert_array_equal(taken, copy)

    def test_reset_forgets_everything(self, backend: Backend, state: SessionState) -> None:
        """After a reset a state is like a new one."""
        state.observe(backend, events(9))
        state.reset()
        state.observe(backend, events(1))
        fresh = state.h.copy()

        state.reset()
        state.observe(backend, events(1))

        assert state.n_events == 1
        np.testing.assert_array_equal(state.h, fresh)

    def test_a_failing_event_leaves_the_state_before_it(
        self, backend: Backend, state: SessionState
    ) -> None:
        """When inference fails half-way, the events before are kept and no other."""
        state.observe(backend, events(2))
        h = state.h

        with pytest.raises(BackendError):
            state.observe(backend, np.zeros((1, 3), np.float32))

        assert state.n_events == 2
        assert state.h is h
