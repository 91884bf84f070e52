# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import ConfigError, MalformedArtifactError, StoreError
from pocketrec_device.state import (
    MAX_KEPT_PAIRS,
    MAX_PLAN_FLOORS,
    DeviceState,
    ItemsFloor,
    Pair,
    PlanFloor,
    decode_state,
    encode_state,
)

FIRST, SECOND, THIRD = (Pair(bundle=letter * 64, plan="0" * 64) for letter in "abc")
SAME_BUNDLE = Pair(bundle="a" * 64, plan="1" * 64)

digests = st.text("0123456789abcdef", min_size=64, max_size=64)
pairs = st.none() | st.builds(Pair, bundle=digests, plan=digests)
floors = st.builds(
    PlanFloor, model_digest=digests, subject=st.text(max_size=8), version=st.integers(1, 2**53)
)
states = st.builds(
    DeviceState,
    model=st.text(max_size=8),
    token=st.text(max_size=8),
    current=pairs,
    previous=pairs,
    bundle_version=st.integers(0, 2**53),
    plan_floors=st.lists(floors, max_size=3).map(tuple),
    time_floor_s=st.integers(0, 2**53),
    held_back=st.just("") | digests,
    kept=st.lists(st.builds(Pair, bundle=digests, plan=digests), max_size=3).map(tuple),
    root_sha256=st.just("") | digests,
    token_lifetime_s=st.integers(0, 2**32),
    token_ends_at_s=st.integers(-(2**40), 2**40),
    profile_sha256=st.just("") | digests,
)


def resealed(changes: dict[str, object], without: tuple[str, ...] = ()) -> bytes:
    """Return a state file with fields changed and a checksum that fits."""
    body = json.loads(encode_state(DeviceState(model="demo", current=FIRST)))["state"] | changes
    body = {name: value for name, value in body.items() if name not in without}
    canonical = json.dumps(body, sort_keys=True, separators=(",", ":")).encode()
    return json.dumps({"sha256": hashlib.sha256(canonical).hexdigest(), "state": body}).encode()


class TestJson:
    @given(states)
    def test_round_trips(self, state: DeviceState) -> None:
        """What was written is read."""
        assert decode_state(encode_state(state)) == state

    @given(st.data())
    def test_a_changed_byte_is_noticed(self, data: st.DataObject) -> None:
        """Damage is noticed even where the file still parses."""
        content = bytearray(encode_state(DeviceState(model="demo", current=FIRST)))
        position = data.draw(st.integers(0, len(content) - 1))
        content[position] ^= 1 << data.draw(st.integers(0, 7))

        try:
            state = decode_state(bytes(content))
        except MalformedArtifactError:
            return
        assert state == DeviceState(model="demo", current=FIRST)

    @pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"null", b"\xff", b'{"state": 1}'])
    def test_rubbish_is_malformed(self, content: bytes) -> None:
        """Whatever the bytes are, the error is ours."""
        with pytest.raises(MalformedArtifactError, match=r"state\.json"):
            decode_state(content)

    def test_a_later_schema_is_refused(self) -> None:
        """A state that a later release wrote is not guessed at."""
        with pytest.raises(MalformedArtifactError, match="expected schema 1, got 2"):
            decode_state(resealed({"schema": 2}))

    def test_a_field_of_a_later_release_is_passed_over(self) -> None:
        """Within a schema, what is new does not lock an older app out of its store."""
        state = decode_state(resealed({"of_tomorrow": [1, 2]}))

        assert state == DeviceState(model="demo", current=FIRST)

    def test_a_file_of_the_first_release_is_read(self) -> None:
        """A store does not have to be made anew for what was added since."""
        first_fields = {
            "schema", "model", "server", "device_id", "token", "current", "previous",
            "bundle_version", "plan_floors", "time_floor_s", "held_back",
        }  # fmt: skip
        data = resealed({})

        assert set(json.loads(data)["state"]) == first_fields
        assert decode_state(data).kept == ()

    def test_the_token_is_not_shown(self) -> None:
        """A state that is printed or logged keeps the secret."""
        assert "secret" not in repr(DeviceState(model="demo", token="secret"))


class TestSwitch:
    def test_keeps_what_ran_before(self) -> None:
        """A switch makes the old pair the previous one."""
        state = DeviceState(model="demo").switched(FIRST, bundle_version=1)
        state = state.switched(SECOND, bundle_version=2)

        assert (state.current, state.previous, state.bundle_version) == (SECOND, FIRST, 2)

    def test_to_the_same_pair_changes_nothing(self) -> None:
        """Otherwise the pair before would be forgotten."""
        state = DeviceState(model="demo", current=SECOND, previous=FIRST, bundle_version=2)

        assert state.switched(SECOND, bundle_version=2) is state

    def test_never_lowers_the_bundle_floor(self) -> None:
        """The floor remembers the highest version, whatever runs."""
        state = DeviceState(model="demo", current=SECOND, bundle_version=7)

        assert state.switched(FIRST, bundle_version=3).bundle_version == 7

    def test_never_lowers_the_floor_of_item_tables(self) -> None:
        """It rises with each table of one model; another model starts anew."""
        first = ItemsFloor(model_digest="1" * 64, version=3, sha256="a" * 64)
        older = replace(first, version=2)
        newer = replace(first, version=4)
        other = replace(first, model_digest="2" * 64, version=1)
        state = DeviceState(model="demo").switched(FIRST, bundle_version=1, items=first)

        assert state.switched(SECOND, bundle_version=2).items_floor == first
        assert state.switched(SECOND, bundle_version=2, items=older).items_floor == first
        assert state.switched(SECOND, bundle_version=2, items=newer).items_floor == newer
        assert state.switched(SECOND, bundle_version=2, items=other).items_floor == other
        assert decode_state(encode_state(state)) == state

    def test_keeps_older_pairs_the_last_used_first(self) -> None:
        """Nothing is listed twice, and the list has an end."""
        state = DeviceState(model="demo")
        for pair in (FIRST, SECOND, THIRD, FIRST):
            state = state.switched(pair, bundle_version=1)

        assert state.pairs == (FIRST, THIRD, SECOND)
        for number in range(2 * MAX_KEPT_PAIRS):
            state = state.switched(Pair(bundle=f"{number:064x}", plan="0" * 64), bundle_version=1)
        assert len(state.kept) == MAX_KEPT_PAIRS


class TestRollback:
    def test_may_name_an_older_bundle(self) -> None:
        """What was skipped moves one place back, and nothing is forgotten."""
        state = DeviceState(model="demo", current=THIRD, previous=SECOND, kept=(FIRST,))

        state = state.rolled_back("a" * 64)

        assert state.pairs == (FIRST, THIRD, SECOND)
        assert state.held_back == THIRD.bundle

    def test_to_a_bundle_that_is_not_here_is_refused(self) -> None:
        """The message names it."""
        state = DeviceState(model="demo", current=SECOND, previous=FIRST)

        with pytest.raises(StoreError, match="no pair with bundle ccc"):
            state.rolled_back("c" * 64)

    def test_swaps_the_pairs_and_holds_the_bundle_back(self) -> None:
        """The pair that was left becomes the previous one and may not come back by itself."""
        state = DeviceState(model="demo", current=SECOND, previous=FIRST).rolled_back()

        assert (state.current, state.previous) == (FIRST, SECOND)
        assert state.held_back == SECOND.bundle

    def test_between_plans_holds_no_bundle_back(self) -> None:
        """When both pairs share the bundle, it is not to blame."""
        state = DeviceState(model="demo", current=SAME_BUNDLE, previous=FIRST).rolled_back()

        assert state.held_back == ""

    def test_ends_with_another_bundle(self) -> None:
        """A newer bundle lifts the hold; another plan for the old one does not."""
        state = DeviceState(model="demo", current=SECOND, previous=FIRST).rolled_back()

        assert state.switched(SAME_BUNDLE, bundle_version=1).held_back == SECOND.bundle
        assert state.switched(THIRD, bundle_version=3).held_back == ""

    def test_needs_a_previous_pair(self) -> None:
        """With one pair there is nothing to go back to."""
        with pytest.raises(StoreError, match="no previous pair"):
            DeviceState(model="demo", current=FIRST).rolled_back()


class TestPlanFloor:
    def test_is_kept_per_model_and_subject(self) -> None:
        """A version for one user says nothing about another."""
        state = DeviceState(model="demo")
        state = state.with_plan_floor(b"m" * 32, "ann", 3).with_plan_floor(b"m" * 32, "bob", 1)
        state = state.with_plan_floor(b"m" * 32, "ann", 4)

        assert state.plan_floor(b"m" * 32, "ann") == 4
        assert state.plan_floor(b"m" * 32, "bob") == 1
        assert state.plan_floor(b"n" * 32, "ann") == 0
        assert len(state.plan_floors) == 2

    def test_does_not_grow_without_end(self) -> None:
        """A device that many users share keeps the floors raised last."""
        state = DeviceState(model="demo")
        for number in range(MAX_PLAN_FLOORS + 10):
            state = state.with_plan_floor(b"m" * 32, f"user {number}", 1)

        assert len(state.plan_floors) == MAX_PLAN_FLOORS
        assert state.plan_floor(b"m" * 32, f"user {MAX_PLAN_FLOORS + 9}") == 1


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "../" + "a" * 61])
def test_a_pair_is_two_digests(digest: str) -> None:
    """A name that is no digest never becomes a path."""
    with pytest.raises(ConfigError, match="64 lower-case hex"):
        Pair(bundle=digest, plan="0" * 64)
