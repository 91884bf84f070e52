# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pocketrec_device.floors import (
    MAX_RAISED_FLOORS,
    BundleFloors,
    ItemsFloor,
    RaisedFloors,
    raise_floors,
    without_bundles,
)
from pocketrec_device.state import DeviceState, Pair, decode_state, encode_state

NONE = BundleFloors(bundle_version=0, items=None)
NOTHING: tuple[RaisedFloors, ...] = ()


def items(version: int, model: str = "m") -> ItemsFloor:
    """An item table of a model."""
    return ItemsFloor(model_digest=model, version=version, sha256=str(version))


def accepted(*bundles: tuple[str, int, int]) -> DeviceState:
    """A device that ran bundles, each with a letter, a version and that of its item table."""
    state = DeviceState(model="demo")
    for letter, version, table in bundles:
        pair = Pair(bundle=letter * 64, plan="0" * 64)
        state = state.switched(pair, bundle_version=version, items=items(table))
    return state


def taken_back(state: DeviceState, *letters: str) -> DeviceState:
    """The same device, once bundles were taken back."""
    withdrawn = tuple(letter * 64 for letter in letters)
    return state.assigned(7, withdrawn, 0).without_withdrawn()


class TestWithoutBundles:
    def test_the_floor_of_before(self) -> None:
        """What was taken back does not count; the bundle of before does."""
        state = taken_back(accepted(("a", 1, 1), ("b", 2, 5)), "b")

        assert (state.bundle_version, state.items_floor) == (1, items(1))

    def test_only_what_was_taken_back(self) -> None:
        """A higher bundle that was not taken back still counts."""
        state = taken_back(accepted(("a", 1, 1), ("b", 2, 2), ("c", 3, 3)), "b")

        assert (state.bundle_version, state.items_floor) == (3, items(3))

    def test_one_after_the_other(self) -> None:
        """Taking back one and later another is the same as taking back both at once."""
        state = accepted(("a", 1, 1), ("b", 2, 2), ("c", 3, 3))

        assert taken_back(taken_back(state, "b"), "c") == taken_back(state, "b", "c").assigned(
            7, ("c" * 64,), 0
        )
        assert taken_back(state, "b", "c").bundle_version == 1

    def test_unknown_bundles(self) -> None:
        """What a device never ran, or what raised nothing, changes nothing."""
        state = accepted(("b", 2, 2), ("a", 1, 1))

        assert taken_back(state, "c", "a").bundle_version == 2

    def test_again(self) -> None:
        """A bundle that was taken back raises the floors when it is accepted after all."""
        state = taken_back(accepted(("a", 1, 1), ("b", 2, 2)), "b")
        state = state.switched(Pair(bundle="a" * 64, plan="0" * 64), bundle_version=1)
        again = state.switched(
            Pair(bundle="b" * 64, plan="0" * 64), bundle_version=2, items=items(2)
        )

        assert again.bundle_version == 2
        assert taken_back(again, "b").bundle_version == 1

    def test_few_are_told_apart(self) -> None:
        """What the oldest bundles raised stays for good; the list does not grow."""
        raised, floors = NOTHING, NONE
        for version in range(1, 3 * MAX_RAISED_FLOORS):
            new = BundleFloors(bundle_version=version, items=None)
            raised, floors = raise_floors(raised, floors, str(version), new)

        assert len(raised) == MAX_RAISED_FLOORS
        everything = [str(version) for version in range(3 * MAX_RAISED_FLOORS)]
        _, left = without_bundles(raised, floors, everything)
        assert left.bundle_version == 2 * MAX_RAISED_FLOORS - 1

    @given(
        st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(1, 9)), max_size=12),
        st.sets(st.sampled_from("abcdef")),
    )
    def test_as_if_never_accepted(
        self, history: list[tuple[str, int]], withdrawn: set[str]
    ) -> None:
        """The floors are those of a device that never saw what was taken back."""
        raised, floors = NOTHING, NONE
        never_raised, never = NOTHING, NONE
        for letter, version in history:
            new = BundleFloors(bundle_version=version, items=items(version))
            raised, floors = raise_floors(raised, floors, letter, new)
            if letter not in withdrawn:
                never_raised, never = raise_floors(never_raised, never, letter, new)
        _, left = without_bundles(raised, floors, withdrawn)

        # A bundle that raised nothing, because a withdrawn one stood above it, is not remembered.
        assert left.bundle_version <= never.bundle_version
        assert left.bundle_version == max(
            (entry.version for entry in raised if entry.bundle not in withdrawn), default=0
        )


class TestState:
    def test_round_trip(self) -> None:
        """What raised the floors, and what was taken back, is remembered on disk."""
        state = accepted(("a", 1, 1), ("b", 2, 2)).assigned(9, ("c" * 64,), 5)

        assert decode_state(encode_state(state)) == state
        assert b"raised" not in encode_state(DeviceState(model="demo"))

    def test_rollback_passes_over_what_was_taken_back(self) -> None:
        """The app's own way back leads past a bundle that the server took back."""
        state = accepted(("a", 1, 1), ("b", 2, 2), ("c", 3, 3)).assigned(9, ("b" * 64,), 5)

        back = state.rolled_back()
        assert back.current is not None
        assert back.current.bundle == "a" * 64
