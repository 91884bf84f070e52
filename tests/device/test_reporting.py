# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

from pocketrec_device.reporting import UpdateAttempt, UpdateOutcome, outcome_of
from pocketrec_device.state import DeviceState, Pair

OLD, NEW, NEWEST = ("a" * 64, "b" * 64, "c" * 64)
PLAN, OTHER_PLAN = "0" * 64, "1" * 64


def running(bundle: str, plan: str = PLAN, withdrawn: tuple[str, ...] = ()) -> DeviceState:
    """A device that runs a bundle."""
    pair = Pair(bundle=bundle, plan=plan)
    return DeviceState(model="demo", current=pair, withdrawn=withdrawn)


class TestOutcomeOf:
    def test_nothing_new(self) -> None:
        """A sync that brought nothing says what runs, and names no attempt."""
        attempt = UpdateAttempt(bundle=OLD)

        assert outcome_of(running(OLD), running(OLD), attempt) == (UpdateOutcome.RUNNING, "")

    def test_installed(self) -> None:
        """A new bundle, a new plan and the very first bundle were installed."""
        first = replace(running(OLD), current=None)

        for before, after in (
            (running(OLD), running(NEW)),
            (running(NEW), running(NEW, OTHER_PLAN)),
            (first, running(NEW)),
        ):
            outcome = outcome_of(before, after, UpdateAttempt(bundle=NEW))
            assert outcome == (UpdateOutcome.INSTALLED, NEW)

    def test_taken_back(self) -> None:
        """A device that left a bundle because it was taken back names that bundle."""
        after = running(OLD, withdrawn=(NEW,))

        outcome = outcome_of(running(NEW), after, UpdateAttempt(bundle=OLD))
        assert outcome == (UpdateOutcome.REVERTED, NEW)

    def test_still_running(self) -> None:
        """A device that still runs what was taken back did not go back."""
        state = running(NEW, withdrawn=(NEW,))

        assert outcome_of(state, state, UpdateAttempt(bundle=NEW))[0] is UpdateOutcome.RUNNING

    def test_held_back(self) -> None:
        """After the app's own rollback, the bundle that is left alone counts as reverted."""
        attempt = UpdateAttempt(bundle=NEWEST, is_held_back=True)

        outcome = outcome_of(running(OLD), running(OLD), attempt)
        assert outcome == (UpdateOutcome.REVERTED, NEWEST)
