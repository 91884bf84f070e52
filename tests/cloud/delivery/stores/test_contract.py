# SPDX-License-Identifier: Apache-2.0
"""What every store does with its records, whatever it keeps them in."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.stores.samples import (
    ADMIN,
    AUDIT,
    DEVICE,
    MODEL,
    ORDER,
    PLAN,
    ROLLOUT,
    STATUS,
    put,
)

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.records import (
    AdminRole,
    DeviceSession,
    Outcome,
    RolloutState,
)
from pocketrec_cloud.delivery.store_protocols import DeliveryStore

if TYPE_CHECKING:
    from tests.cloud.delivery.stores.conftest import Opener


class TestDevices:
    def test_a_device_comes_back_as_it_was(self, store: DeliveryStore) -> None:
        """Every field of it, by its id; others are unknown."""
        assert put(store, DEVICE)

        assert store.find_device("d1") == DEVICE
        assert store.find_device("d2") is None

    def test_a_challenge_is_good_once(self, store: DeliveryStore) -> None:
        """Whoever brings it again changes nothing."""
        put(store, DEVICE)

        assert not put(store, replace(DEVICE, token_sha256=b"u" * 32))
        assert not put(store, replace(DEVICE, device_id="d2", token_sha256=b"u" * 32))

        assert store.find_device("d1") == DEVICE
        assert store.find_device("d2") is None

    def test_expired_challenges_make_no_difference(self, store: DeliveryStore) -> None:
        """Whether they are forgotten shows nowhere else."""
        for number in range(5):
            device = replace(DEVICE, seen_at_s=1000 + 10_000 * number)
            assert put(store, device, challenge=bytes([number]))
        assert not put(store, device, challenge=bytes([number]))

    def test_a_known_device_keeps_its_first_day_and_its_revocation(
        self, store: DeliveryStore
    ) -> None:
        """All else is what it said last."""
        put(store, DEVICE)
        store.revoke_device("d1", 1500)
        again = replace(
            DEVICE, token_sha256=b"u" * 32, created_at_s=2000, seen_at_s=2000, locale="", tags=()
        )

        assert put(store, again, challenge=b"c2")

        assert store.find_device("d1") == replace(again, created_at_s=1000, revoked_at_s=1500)

    def test_a_new_token_ends_the_one_before(self, store: DeliveryStore) -> None:
        """A device has one at a time; that it expired is for the caller to see."""
        put(store, DEVICE)
        assert store.find_session(b"t" * 32) == DeviceSession(device_id="d1", expires_at_s=5000)

        put(store, replace(DEVICE, token_sha256=b"u" * 32, token_expires_at_s=6000), b"c2")

        assert store.find_session(b"t" * 32) is None
        assert store.find_session(b"u" * 32) == DeviceSession(device_id="d1", expires_at_s=6000)

    def test_two_devices_never_share_a_token(self, store: DeliveryStore) -> None:
        """A registration that fails uses up no challenge."""
        put(store, DEVICE)
        other = replace(DEVICE, device_id="d2")

        with pytest.raises(StoreError):
            put(store, other, b"c2")

        assert store.find_device("d2") is None
        assert put(store, replace(other, token_sha256=b"u" * 32), b"c2")

    def test_a_revoked_device_has_no_session(self, store: DeliveryStore) -> None:
        """The first revocation is the one that counts."""
        put(store, DEVICE)

        assert store.revoke_device("d1", 1500)
        assert store.revoke_device("d1", 1600)
        assert not store.revoke_device("d2", 1500)

        assert store.find_session(b"t" * 32) is None
        assert store.find_device("d1") == replace(DEVICE, revoked_at_s=1500)

    def test_devices_are_listed_in_pages(self, store: DeliveryStore) -> None:
        """In the order of the bytes of their ids, whatever the database's language."""
        ids = ["B", "Z", "_", "a", "b"]
        for number, device_id in enumerate(reversed(ids)):
            device = replace(DEVICE, device_id=device_id, token_sha256=bytes([number]) * 32)
            put(store, device, bytes([number]))

        first = store.list_devices(after="", limit=3)
        rest = store.list_devices(after=first[-1].device_id, limit=3)

        assert [device.device_id for device in (*first, *rest)] == ids
        assert len(first) == 3

    def test_the_last_report_of_each_line_counts(self, store: DeliveryStore) -> None:
        """Devices without one are left out."""
        newer = replace(STATUS, outcome=Outcome.FAILED, error="DiskFullError", reported_at_s=1300)
        other_line = replace(STATUS, model_name="other")
        for status in (STATUS, other_line, newer, replace(STATUS, device_id="d2")):
            store.put_status(status)

        found = store.find_statuses(["d1", "d2", "d3"], "demo")

        assert found == {"d1": newer, "d2": replace(STATUS, device_id="d2")}
        assert store.find_statuses([], "demo") == {}

    def test_one_challenge_registers_one_device(self, open_another: Opener) -> None:
        """However many processes are asked at once."""
        stores = [open_another(), open_another()]

        def register(number: int) -> bool:
            device = replace(DEVICE, device_id=f"d{number}", token_sha256=bytes([number]) * 32)
            return put(stores[number % 2], device)

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(register, range(16))) == 1


class TestModels:
    def test_highest_version_of_a_model_is_found(self, store: DeliveryStore) -> None:
        """Two bundles may carry one frozen model; the newer one counts."""
        newer = replace(MODEL, bundle_digest=b"c" * 32, version=2)
        store.record_model(newer)
        store.record_model(MODEL)

        assert store.find_model(b"m" * 32) == newer
        assert store.find_model(b"?" * 32) is None

    def test_recording_twice_changes_nothing(self, store: DeliveryStore) -> None:
        """A publication that is repeated after a crash finds its row in place."""
        store.record_model(MODEL)
        store.record_model(replace(MODEL, version=7))

        assert store.find_model(b"m" * 32) == MODEL

    def test_every_published_bundle_is_found(self, store: DeliveryStore) -> None:
        """An older bundle stays known by its own digest."""
        store.record_model(MODEL)
        store.record_model(replace(MODEL, bundle_digest=b"c" * 32, version=2))

        assert store.find_bundle(b"b" * 32) == MODEL
        assert store.find_bundle(b"?" * 32) is None


class TestPlans:
    def test_plans_are_found_in_the_order_they_are_asked_for(self, store: DeliveryStore) -> None:
        """Whatever models they are for; what is not there is None."""
        others = [replace(PLAN, subject="bob"), replace(PLAN, model_digest=b"n" * 32)]
        assert store.swap_plans([(plan, None) for plan in (PLAN, *others)]) == [True] * 3
        asked = [("bob", b"n" * 32), *((plan.subject, plan.model_digest) for plan in others)]

        found = store.find_plans([*asked, (PLAN.subject, PLAN.model_digest)])

        assert found == [None, *others, PLAN]
        assert store.find_plans([]) == []
        assert store.swap_plans([]) == []

    @pytest.mark.parametrize("subject", ["null", "NULL", 'a"b', "a,b", "{}", "\\", " ", "😀", "%s"])
    def test_any_name_is_a_subject(self, store: DeliveryStore, subject: str) -> None:
        """Whatever it means in SQL or to a driver."""
        plan = replace(PLAN, subject=subject)

        assert store.swap_plans([(plan, None)]) == [True]
        assert store.swap_plans([(replace(plan, version=2), 1)]) == [True]

        assert store.find_plans([(subject, PLAN.model_digest)]) == [replace(plan, version=2)]

    def test_only_losers_lose(self, store: DeliveryStore) -> None:
        """First plans and later ones go together, and each has its own outcome."""
        store.swap_plans([(PLAN, None), (replace(PLAN, subject="bob"), None)])
        swaps = [
            (replace(PLAN, version=2), 1),
            (replace(PLAN, subject="bob", version=9), 8),
            (replace(PLAN, subject="carol"), None),
            (replace(PLAN, subject="bob", model_digest=b"n" * 32, version=2), 1),
        ]

        assert store.swap_plans(swaps) == [True, False, True, False]
        assert store.swap_plans([(replace(PLAN, subject="bob", container=b""), None)]) == [False]

        found = store.find_plans([(subject, b"m" * 32) for subject in ("alice", "bob", "carol")])
        assert [plan and plan.version for plan in found] == [2, 1, 1]
        assert found[1] == replace(PLAN, subject="bob")

    def test_hundreds_go_at_once(self, store: DeliveryStore) -> None:
        """First all are new, then all are replaced, then all are too late."""
        plans = [replace(PLAN, subject=f"s-{number:04}") for number in range(700)]
        newer = [replace(plan, version=2, container=b"newer") for plan in plans]

        assert all(store.swap_plans([(plan, None) for plan in plans]))
        assert all(store.swap_plans([(plan, 1) for plan in newer]))
        assert not any(store.swap_plans([(plan, 1) for plan in newer]))

        assert store.find_plans([(plan.subject, plan.model_digest) for plan in plans]) == newer

    def test_more_can_be_asked_than_one_statement_takes(self, store: DeliveryStore) -> None:
        """Databases limit the parameters of one."""
        store.swap_plans([(PLAN, None)])
        asked = [(f"s-{number}", PLAN.model_digest) for number in range(7000)]

        found = store.find_plans([*asked, (PLAN.subject, PLAN.model_digest)])

        assert found == [None] * 7000 + [PLAN]

    def test_races_have_one_winner_per_subject(self, open_another: Opener) -> None:
        """Of batches in any order, from several processes, for first plans and for later ones."""
        stores = [open_another(), open_another()]
        subjects = [f"s-{number}" for number in range(20)]

        def race(number: int, replaces: int | None) -> list[str]:
            turned = subjects[number:] + subjects[:number]
            version = 1 if replaces is None else replaces + 1
            plans = [
                replace(PLAN, subject=subject, version=version, budget_bytes=number)
                for subject in turned
            ]
            won = stores[number % 2].swap_plans([(plan, replaces) for plan in plans])
            return [plan.subject for plan, is_won in zip(plans, won, strict=True) if is_won]

        for replaces in (None, 1, 2):
            with ThreadPoolExecutor(8) as pool:
                won = list(pool.map(lambda n, seen=replaces: race(n, seen), range(8)))
            assert sorted(subject for each in won for subject in each) == sorted(subjects)
            found = stores[0].find_plans([(subject, PLAN.model_digest) for subject in subjects])
            for subject, plan in zip(subjects, found, strict=True):
                assert plan is not None
                assert subject in won[plan.budget_bytes]


class TestOrders:
    def test_orders_are_numbered(self, store: DeliveryStore) -> None:
        """From 1 on, and come back as they were."""
        assert store.last_sequence() == 0
        first = store.add_order(ORDER)
        second = store.add_order(replace(ORDER, request_id="r-2", cancels=1))

        assert first == replace(ORDER, sequence=1)
        assert second.sequence == 2
        assert store.list_orders(after=0) == [first, second]
        assert store.list_orders(after=1) == [second]
        assert store.last_sequence() == 2

    def test_an_order_that_is_repeated_is_the_earlier_one(self, store: DeliveryStore) -> None:
        """Who does not know whether it arrived sends it again."""
        first = store.add_order(ORDER)

        assert store.add_order(replace(ORDER, planner="other")) == first
        assert store.list_orders(after=0) == [first]
        assert store.last_sequence() == 1

    def test_sequences_become_visible_in_order(self, open_another: Opener) -> None:
        """Whoever follows them while many processes add sees no gap, ever."""
        stores = [open_another(), open_another()]
        done = threading.Event()

        def follow() -> list[int]:
            seen: list[int] = []
            while not done.is_set() or stores[0].last_sequence() > len(seen):
                seen += [order.sequence for order in stores[0].list_orders(after=len(seen))]
                assert seen == list(range(1, len(seen) + 1))
            return seen

        def add(number: int) -> int:
            order = replace(ORDER, request_id=f"r-{number % 30}")
            return stores[number % 2].add_order(order).sequence

        with ThreadPoolExecutor(9) as pool:
            following = pool.submit(follow)
            try:
                given = list(pool.map(add, range(60)))
            finally:
                done.set()
            assert len(following.result()) == 30
        assert given[:30] == given[30:]
        assert sorted(given[:30]) == list(range(1, 31))


class TestRollouts:
    def test_a_rollout_comes_back_as_it_was(self, store: DeliveryStore) -> None:
        """Every field of it, by its id; others are unknown."""
        assert store.add_rollout(ROLLOUT) == ROLLOUT

        assert store.find_rollout("o-1") == ROLLOUT
        assert store.find_rollout("o-2") is None

    @pytest.mark.parametrize("state", [RolloutState.RUNNING, RolloutState.PAUSED])
    def test_a_model_line_has_one_at_a_time(
        self, store: DeliveryStore, state: RolloutState
    ) -> None:
        """A paused one holds it, too; other lines are free, and lines whose rollout ended."""
        store.add_rollout(replace(ROLLOUT, state=state))
        other = replace(ROLLOUT, rollout_id="o-2", request_id="r-2")

        assert store.add_rollout(other) is None
        assert store.find_rollout("o-2") is None
        assert store.add_rollout(replace(other, model_name="other")) is not None

        ended = replace(ROLLOUT, state=RolloutState.FINISHED, revision=2)
        assert store.swap_rollout(ended, replaces=1)
        third = replace(ROLLOUT, rollout_id="o-3", request_id="r-3")
        assert store.add_rollout(third) == third

    def test_a_request_that_is_repeated_is_the_earlier_one(self, store: DeliveryStore) -> None:
        """Even when it could not start now."""
        store.add_rollout(ROLLOUT)

        assert store.add_rollout(replace(ROLLOUT, rollout_id="o-2")) == ROLLOUT
        assert store.list_rollouts() == [ROLLOUT]

    def test_rollouts_are_listed_by_age(self, store: DeliveryStore) -> None:
        """Of a line, or all; what changed since makes no difference."""
        rollouts = [
            replace(ROLLOUT, rollout_id=f"o-{9 - n}", request_id=f"r-{n}", model_name=name)
            for n, name in enumerate(["b", "a", "c"])
        ]
        for rollout in rollouts:
            store.add_rollout(rollout)
        changed = replace(rollouts[0], revision=2, stage=1, stages_started_at_s=(1000, 1001))
        store.swap_rollout(changed, replaces=1)

        assert store.list_rollouts() == [changed, *rollouts[1:]]
        assert store.list_rollouts("a") == [rollouts[1]]
        assert store.list_rollouts("x") == []

    def test_a_swap_needs_the_revision_that_was_seen(self, store: DeliveryStore) -> None:
        """A writer that saw an older one stores nothing."""
        store.add_rollout(ROLLOUT)
        second = replace(ROLLOUT, revision=2, reason="errors", state=RolloutState.ABORTED)

        assert store.swap_rollout(second, replaces=1)
        assert not store.swap_rollout(replace(ROLLOUT, revision=2), replaces=1)
        assert not store.swap_rollout(replace(ROLLOUT, rollout_id="o-2"), replaces=1)

        assert store.find_rollout("o-1") == second

    def test_a_device_counts_once(self, store: DeliveryStore) -> None:
        """In the stage in which it reported first, with what it said last."""
        store.put_outcome("o-1", "d1", stage=0, outcome=Outcome.INSTALLED)
        store.put_outcome("o-1", "d2", stage=0, outcome=Outcome.INSTALLED)
        store.put_outcome("o-1", "d3", stage=1, outcome=Outcome.INSTALLED)
        store.put_outcome("o-1", "d1", stage=1, outcome=Outcome.UNHEALTHY)
        store.put_outcome("o-2", "d1", stage=0, outcome=Outcome.FAILED)

        assert store.count_outcomes("o-1") == {
            0: {Outcome.INSTALLED: 1, Outcome.UNHEALTHY: 1},
            1: {Outcome.INSTALLED: 1},
        }
        assert store.count_outcomes("o-3") == {}

    def test_one_of_many_starts(self, open_another: Opener) -> None:
        """However many processes start a rollout of one line at once."""
        stores = [open_another(), open_another()]

        def start(number: int) -> bool:
            rollout = replace(ROLLOUT, rollout_id=f"o-{number}", request_id=f"r-{number}")
            return stores[number % 2].add_rollout(rollout) is not None

        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(start, range(16))) == 1


class TestAdmins:
    def test_an_admin_is_found_by_token(self, store: DeliveryStore) -> None:
        """Expired or not; one of the same name is replaced, with its token."""
        store.put_admin(ADMIN)
        assert store.find_admin(b"a" * 32) == ADMIN
        newer = replace(ADMIN, role=AdminRole.VIEWER, token_sha256=b"b" * 32, expires_at_s=1)

        store.put_admin(newer)

        assert store.find_admin(b"a" * 32) is None
        assert store.find_admin(b"b" * 32) == newer

    def test_two_admins_never_share_a_token(self, store: DeliveryStore) -> None:
        """Nobody could say who calls."""
        store.put_admin(ADMIN)

        with pytest.raises(StoreError):
            store.put_admin(replace(ADMIN, name="bob"))

        assert store.list_admins() == [ADMIN]

    def test_admins_are_listed_and_removed_by_name(self, store: DeliveryStore) -> None:
        """In the order of the bytes of their names."""
        for number, name in enumerate(["b", "a", "Z"]):
            store.put_admin(replace(ADMIN, name=name, token_sha256=bytes([number]) * 32))

        assert [admin.name for admin in store.list_admins()] == ["Z", "a", "b"]
        assert store.remove_admin("a")
        assert not store.remove_admin("a")
        assert [admin.name for admin in store.list_admins()] == ["Z", "b"]

    def test_the_log_is_read_in_pages(self, store: DeliveryStore) -> None:
        """Entries are numbered from 1 on, in the order in which they were written."""
        for number in range(5):
            store.add_audit(replace(AUDIT, subject=str(number)))

        first = store.list_audit(after=0, limit=2)
        rest = store.list_audit(after=first[-1].number, limit=9)

        assert first[0] == replace(AUDIT, number=1, subject="0")
        assert [entry.number for entry in (*first, *rest)] == [1, 2, 3, 4, 5]
        assert [entry.subject for entry in rest] == ["2", "3", "4"]
