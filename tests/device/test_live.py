# SPDX-License-Identifier: Apache-2.0
"""One user's session while engines come and go, and many threads at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from pocketrec.errors import (
    BackendError,
)
from pocketrec_device.backends.onnx import OnnxAttentionBackend
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.live import LiveSession
from pocketrec_device.session import SessionState
from pocketrec_quantization.plan import encode_plan

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder

from tests.device.sessions import EVERYTHING, HISTORY, SETTINGS, fresh, pointwise, sequential


class TestSwaps:
    def test_snapshots_stay_what_they_were(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """A moment that was taken ranks the same after events, swaps and the end."""
        moment = session.snapshot(with_seen=True)
        before = moment.rank(EVERYTHING, 12)

        session.observe("f")
        session.adopt(engines[1])
        session.close()

        assert moment.rank(EVERYTHING, 12) == before
        assert moment.seen == set(HISTORY)

    def test_a_slate_in_the_making_is_not_changed(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """Between two picks of a page, a swap and an event change nothing of it."""
        expected = sequential(session)

        with session.slates() as slates:
            assert slates.rank(EVERYTHING, 4) == expected
            session.adopt(engines[1])
            session.observe("f")
            assert slates.rank(EVERYTHING, 4) == expected
            session.close()
            assert slates.rank(EVERYTHING, 4) == expected

    def test_after_a_swap_the_user_is_who_they_were(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """The last L events are taken in again under the new plan."""
        session.adopt(engines[1])

        assert pointwise(session) == pointwise(fresh(engines[1]))
        assert sequential(session) == sequential(fresh(engines[1]))

    def test_the_same_engine_again_changes_nothing(
        self, session: LiveSession, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """What computes the same is not swapped: the history stays as long as it is."""
        session.observe_many("fghij")
        before, engine = pointwise(session), session.engine

        session.adopt(build_engine(bundle, encode_plan(model.plan(), None), SETTINGS))

        assert session.engine is engine
        assert pointwise(session) == before

    def test_an_engine_that_fails_leaves_the_old_one(
        self, session: LiveSession, engines: tuple[Engine, Engine], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If the history cannot be computed on a new engine, nothing changes."""
        before = pointwise(session)

        def fail(*_: object) -> SessionState:
            raise BackendError("on purpose")

        monkeypatch.setattr(Engine, "new_session", fail)
        with pytest.raises(BackendError, match="on purpose"):
            session.adopt(engines[1])

        assert session.engine is engines[0]
        assert pointwise(session) == before


class _Failing:
    """A bound state that fails at a certain step."""

    def __init__(self, session: Any, at: int) -> None:
        self.inner, self.left = session._bound, at
        session._bound = self

    def step(self) -> None:
        """Step, unless it is time to fail."""
        if not self.left:
            raise BackendError("on purpose")
        self.left -= 1
        self.inner.step()

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        """Fail."""
        raise BackendError("on purpose")


class TestFailures:
    def test_events_that_failed_are_no_part_of_the_history(
        self, session: LiveSession, engines: tuple[Engine, Engine]
    ) -> None:
        """Of several events those before the failing one count, also after a swap."""
        assert session._running is not None
        _Failing(session._running.session, 2)

        with pytest.raises(BackendError, match="on purpose"):
            session.observe_many("fghi")
        with pytest.raises(BackendError, match="on purpose"):
            session.observe("j")

        assert session.snapshot(with_seen=True).seen == set("cdefg")
        session.adopt(engines[1])
        assert pointwise(session) == pointwise(fresh(engines[1], tuple("cdefg")))

    def test_a_failing_history_leaves_none(self, session: LiveSession) -> None:
        """After a reset, a prefill that fails is as if nothing was ever seen."""
        assert session._running is not None
        session.reset()
        _Failing(session._running.session, 0)

        with pytest.raises(BackendError, match="on purpose"):
            session.observe_many("abc")

        moment = session.snapshot(with_seen=True)
        assert moment.h is None
        assert moment.seen == set()

    def test_a_failing_slate_gives_its_states_back(
        self, session: LiveSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An error in between costs no memory and harms nothing."""
        expected = sequential(session)
        assert session._running is not None
        scratch = list(session._running.scratch)

        with pytest.raises(ZeroDivisionError), session.slates():
            raise ZeroDivisionError

        assert set(map(id, session._running.scratch)) == set(map(id, scratch))
        assert sequential(session) == expected


def test_events_are_counted_for_good(session: LiveSession, engines: tuple[Engine, Engine]) -> None:
    """Only events that were taken in count, and neither a swap nor a reset forgets them."""
    session.observe("f")
    session.observe("nobody knows")
    session.observe_many(["g", "nobody", "h"])
    session.adopt(engines[1])
    session.reset()
    session.observe("a")

    assert session.n_observed == len(HISTORY) + 4


class TestScratch:
    @pytest.fixture
    def made(self, monkeypatch: pytest.MonkeyPatch) -> list[SessionState]:
        """Every state that is made from now on."""
        states: list[SessionState] = []

        honest = OnnxAttentionBackend.new_state

        def make(backend: OnnxAttentionBackend) -> SessionState:
            states.append(honest(backend))
            return states[-1]

        monkeypatch.setattr(OnnxAttentionBackend, "new_state", make)
        return states

    def test_states_are_used_again(self, session: LiveSession, made: list[SessionState]) -> None:
        """One slate after the other needs two states, however many there are."""
        for item in "fghij":
            sequential(session)
            session.observe(item)

        assert len(made) == 2

    def test_slates_at_once_have_their_own(
        self, session: LiveSession, made: list[SessionState]
    ) -> None:
        """Two pages that are made at the same time do not share what they work on."""
        expected = sequential(session)

        with session.slates() as one:
            session.observe("f")
            with session.slates() as other:
                changed = other.rank(EVERYTHING, 4)
                assert one.rank(EVERYTHING, 4) == expected
                assert other.rank(EVERYTHING, 4) == changed

        assert len(made) == 4
        assert changed == sequential(session) != expected
        assert len(made) == 4

    def test_states_of_an_old_engine_are_not_used_for_a_new_one(
        self, session: LiveSession, engines: tuple[Engine, Engine], made: list[SessionState]
    ) -> None:
        """They are bound to its sessions."""
        with session.slates():
            session.adopt(engines[1])

        assert sequential(session) == sequential(fresh(engines[1]))
        assert len(made) == 8  # two to work on for each of three, and two from a history
