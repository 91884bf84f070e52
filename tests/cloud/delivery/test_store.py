# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.store import DeviceRecord, ModelRecord, PlanRecord, SqlStore

DEVICE = DeviceRecord(
    device_id="d1",
    token_sha256=b"t" * 32,
    backend="onnxruntime",
    app_version="1.0",
    os="android",
    ram_bytes=2**32,
    created_at_s=1,
)
MODEL = ModelRecord(bundle_digest=b"b" * 32, model_digest=b"m" * 32, model_name="demo", version=1)
PLAN = PlanRecord(
    subject="alice",
    model_digest=b"m" * 32,
    version=1,
    planner="global",
    budget_bytes=100,
    issued_at_s=1,
    expires_at_s=2,
    container=b"PKRP",
)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqlStore]:
    """An empty database file."""
    store = SqlStore.open(tmp_path / "pocketrec.db")
    yield store
    store.close()


class TestDevices:
    def test_device_is_found_by_its_token_digest(self, store: SqlStore) -> None:
        """Only the digest of a token leads to a device."""
        store.add_device(DEVICE)

        assert store.find_device(b"t" * 32) == "d1"
        assert store.find_device(b"x" * 32) is None

    def test_records_survive_a_restart(self, tmp_path: Path, store: SqlStore) -> None:
        """What one process stored, the next one finds."""
        store.add_device(DEVICE)

        again = SqlStore.open(tmp_path / "pocketrec.db")

        assert again.find_device(b"t" * 32) == "d1"
        again.close()


class TestModels:
    def test_highest_version_of_a_model_is_found(self, store: SqlStore) -> None:
        """Two bundles may carry one frozen model; the newer one counts."""
        newer = replace(MODEL, bundle_digest=b"c" * 32, version=2)
        store.record_model(newer)
        store.record_model(MODEL)

        assert store.find_model(b"m" * 32) == newer

    def test_recording_twice_changes_nothing(self, store: SqlStore) -> None:
        """A publication that is repeated after a crash finds its row in place."""
        store.record_model(MODEL)
        store.record_model(MODEL)

        assert store.find_model(b"m" * 32) == MODEL

    def test_every_published_bundle_is_found(self, store: SqlStore) -> None:
        """An older bundle stays known by its own digest."""
        newer = replace(MODEL, bundle_digest=b"c" * 32, version=2)
        store.record_model(MODEL)
        store.record_model(newer)

        assert store.find_bundle(b"b" * 32) == MODEL
        assert store.find_bundle(b"?" * 32) is None

    def test_unknown_model_is_none(self, store: SqlStore) -> None:
        """Nothing is found for a digest that was never published."""
        assert store.find_model(b"?" * 32) is None


class TestPlans:
    def test_first_plan_replaces_none(self, store: SqlStore) -> None:
        """A subject's first plan is stored when there was none."""
        assert store.swap_plan(PLAN, replaces=None)
        assert store.find_plan("alice", b"m" * 32) == PLAN

    def test_subjects_and_models_are_apart(self, store: SqlStore) -> None:
        """A plan belongs to one subject and one model."""
        store.swap_plan(PLAN, replaces=None)

        assert store.find_plan("bob", b"m" * 32) is None
        assert store.find_plan("alice", b"n" * 32) is None

    def test_second_first_plan_is_refused(self, store: SqlStore) -> None:
        """Of two writers that saw nothing, one loses."""
        store.swap_plan(PLAN, replaces=None)

        assert not store.swap_plan(replace(PLAN, container=b"late"), replaces=None)
        assert store.find_plan("alice", b"m" * 32) == PLAN

    def test_swap_needs_the_version_that_was_seen(self, store: SqlStore) -> None:
        """A writer that saw an older version stores nothing."""
        store.swap_plan(PLAN, replaces=None)
        second, third = replace(PLAN, version=2), replace(PLAN, version=3)

        assert store.swap_plan(second, replaces=1)
        assert not store.swap_plan(third, replaces=1)
        assert store.find_plan("alice", b"m" * 32) == second

    def test_concurrent_swaps_have_one_winner(self, store: SqlStore) -> None:
        """However many threads race for a version, one gets it."""
        store.swap_plan(PLAN, replaces=None)

        def race(number: int) -> bool:
            return store.swap_plan(replace(PLAN, version=2, budget_bytes=number), replaces=1)

        with ThreadPoolExecutor(4) as pool:
            assert sum(pool.map(race, range(8))) == 1

    def test_concurrent_first_plans_have_one_winner_per_subject(self, store: SqlStore) -> None:
        """Although those that meet share a transaction."""

        def race(number: int) -> bool:
            plan = replace(PLAN, subject=f"s-{number % 5}", budget_bytes=number)
            return store.swap_plan(plan, replaces=None)

        with ThreadPoolExecutor(8) as pool:
            won = list(pool.map(race, range(100)))

        assert sum(won) == 5
        for number in range(5):
            found = store.find_plan(f"s-{number}", PLAN.model_digest)
            assert found is not None
            assert won[found.budget_bytes]


class TestBatches:
    """Plans that are looked up, or stored, together."""

    def test_plans_are_found_in_the_order_they_are_asked_for(self, store: SqlStore) -> None:
        """Whatever models they are for; what is not there is None."""
        others = [replace(PLAN, subject="bob"), replace(PLAN, model_digest=b"n" * 32)]
        store.swap_plans([(plan, None) for plan in (PLAN, *others)])
        missing = ("bob", b"n" * 32)

        found = store.find_plans(
            [missing, *[(plan.subject, plan.model_digest) for plan in (*others, PLAN)]]
        )

        assert found == [None, *others, PLAN]
        assert store.find_plans([]) == []

    def test_only_losers_lose(self, store: SqlStore) -> None:
        """First plans and later ones share a transaction, and nobody pays for another one."""
        store.swap_plans([(PLAN, None), (replace(PLAN, subject="bob"), None)])
        swaps = [
            (replace(PLAN, version=2), 1),
            (replace(PLAN, subject="bob", version=9), 8),
            (replace(PLAN, subject="carol"), None),
            (replace(PLAN, subject="bob", container=b"late"), None),
        ]

        assert store.swap_plans(swaps) == [True, False, True, False]

        rows = [(subject, PLAN.model_digest) for subject in ("alice", "bob", "carol")]
        found = store.find_plans(rows)
        assert [plan and plan.version for plan in found] == [2, 1, 1]
        assert found[1] == replace(PLAN, subject="bob")

    def test_all_are_on_disk_for_the_next_process(self, tmp_path: Path, store: SqlStore) -> None:
        """Not only in this one's connection."""
        swaps = [(replace(PLAN, subject=f"s-{number}"), None) for number in range(100)]
        assert all(store.swap_plans(swaps))

        again = SqlStore.open(tmp_path / "pocketrec.db")

        found = again.find_plans([(plan.subject, plan.model_digest) for plan, _ in swaps])
        assert found == [plan for plan, _ in swaps]
        again.close()


def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """The driver's error arrives as one of ours, with what to do."""
    path = tmp_path / "pocketrec.db"
    path.write_bytes(b"not a database" * 100)

    with pytest.raises(StoreError, match="failed; look at disk space"):
        SqlStore.open(path)
