# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import pytest

from pocketrec.errors import (
    ConfigError,
    InfeasibleBudgetError,
    PocketRecError,
    RejectedError,
    StoreError,
)
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.plans.director import Director, Outcome, PlanPolicy, PlanRequest
from pocketrec_cloud.delivery.plans.models import ModelCatalogue
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.records import PlanSwap
from pocketrec_cloud.delivery.serving.composition import build_service
from pocketrec_cloud.delivery.serving.handlers import DeliveryService
from pocketrec_cloud.delivery.stores.cached import CachedStore
from pocketrec_quantization.budget import budget_bytes, coded_bytes
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.plan import check_applies, decode_plan, split_signature

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

WEEK_S = 7 * 24 * 3600


@pytest.fixture
def director(service: DeliveryService) -> Director:
    """The server's director."""
    return service.director


@pytest.fixture
def request_(bundle: BundleFolder) -> PlanRequest:
    """What a new device asks for."""
    return PlanRequest(subject="alice", model_digest=bundle.model_digest)


class TestPlans:
    def test_plan_is_signed_by_the_director(
        self, deployment: Deployment, director: Director, request_: PlanRequest
    ) -> None:
        """The signature covers all that precedes it, under the key the plan names."""
        public = KeyFolder(deployment.keys).load(Role.DIRECTOR).public

        container = director.issue(request_)

        signed, signature = split_signature(container)
        assert signature is not None
        public.verify(signed, signature)
        assert decode_plan(container).key_id == public.key_id

    def test_plan_is_bound_and_dated(
        self,
        deployment: Deployment,
        director: Director,
        request_: PlanRequest,
        bundle: BundleFolder,
    ) -> None:
        """A plan names its model, its subject and a week of validity."""
        plan = decode_plan(director.issue(request_))

        check_applies(plan, bundle.manifest.layers, bundle.model_digest)
        assert (plan.subject, plan.planner, plan.version) == ("alice", "global", 1)
        assert plan.issued_at_s == deployment.clock.now_s
        assert plan.expires_at_s - plan.issued_at_s == WEEK_S

    def test_default_budget_is_three_bits(
        self, director: Director, request_: PlanRequest, bundle: BundleFolder
    ) -> None:
        """Left to the server, a plan stays within 3 bits a weight."""
        plan = decode_plan(director.issue(request_))

        assert plan.budget_bytes == budget_bytes(bundle.manifest.layers, 3.0)
        assert coded_bytes(plan.layers, plan.widths) <= plan.budget_bytes

    @pytest.mark.parametrize("bits", [2, 4, 8])
    def test_uniform_planner_brings_its_own_budget(
        self, director: Director, request_: PlanRequest, bits: int
    ) -> None:
        """A uniform plan needs no bits asked for: its name says them."""
        plan = decode_plan(director.issue(replace(request_, planner=f"uniform-{bits}")))

        assert set(plan.widths.tolist()) == {bits}
        assert plan.budget_bytes == coded_bytes(plan.layers, plan.widths)

    @pytest.mark.parametrize(
        ("planner", "average_bits"), [("global", 1.5), ("uniform-8", 4.0), ("random", 0.5)]
    )
    def test_budget_below_the_smallest_plan_is_refused(
        self, director: Director, request_: PlanRequest, planner: str, average_bits: float
    ) -> None:
        """A budget that was asked for is kept, or the request fails."""
        with pytest.raises(InfeasibleBudgetError):
            director.issue(replace(request_, planner=planner, average_bits=average_bits))

    @pytest.mark.parametrize("average_bits", [-1.0, 8.5, float("nan"), float("inf")])
    def test_impossible_bits_are_refused(
        self, director: Director, request_: PlanRequest, average_bits: float
    ) -> None:
        """Bits outside 0..8 are the caller's mistake."""
        with pytest.raises(RejectedError, match="average_bits between 0 and 8"):
            director.issue(replace(request_, average_bits=average_bits))

    def test_unknown_planner_is_refused_with_the_known_ones(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """The refusal lists what there is."""
        with pytest.raises(RejectedError, match=r"global, random, uniform-2.*got 'best'"):
            director.issue(replace(request_, planner="best"))

    def test_unknown_model_is_not_found(self, director: Director, request_: PlanRequest) -> None:
        """Nothing is planned for a model that was never published."""
        with pytest.raises(RejectedError) as refusal:
            director.issue(replace(request_, model_digest=b"?" * 32))

        assert refusal.value.code == "NOT_FOUND"

    def test_embedding_of_another_size_is_refused(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """An embedding has to be one of this model's."""
        with pytest.raises(RejectedError, match="of 4 dimensions"):
            director.issue(replace(request_, user_embedding=np.zeros(5, np.float32)))

    def test_embedding_that_is_not_finite_is_refused(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """No planner is asked about NaN."""
        embedding = np.array([0, np.nan, 0, 0], np.float32)

        with pytest.raises(RejectedError, match="expected finite numbers"):
            director.issue(replace(request_, user_embedding=embedding))

    def test_embedding_without_a_personal_planner_gets_the_global_plan(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """A model that was published without one plans for everybody alike."""
        request = replace(request_, user_embedding=np.ones(4, np.float32))

        assert decode_plan(director.issue(request)).planner == "global"


@pytest.mark.parametrize(
    "fields", [{"average_bits": 1.9}, {"average_bits": float("nan")}, {"ttl_s": 59}]
)
def test_impossible_policy_is_refused(fields: dict[str, float]) -> None:
    """A server whose default plan could not be made, or kept, does not come to be."""
    with pytest.raises(ConfigError):
        PlanPolicy(**fields)  # type: ignore[arg-type]


class TestVersions:
    def test_current_plan_is_not_sent_again(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """A device that holds the plan gets nothing."""
        director.issue(request_)

        assert director.issue(replace(request_, installed_version=1)) == b""

    def test_lost_answer_is_repeated_byte_for_byte(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """Asking again without having installed costs no version."""
        assert director.issue(request_) == director.issue(request_)

    def test_other_codes_get_the_next_version(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """A plan that says something else is newer than the one before."""
        director.issue(request_)

        changed = replace(request_, average_bits=6.0, installed_version=1)

        assert decode_plan(director.issue(changed)).version == 2

    def test_plan_past_half_its_life_is_renewed(
        self, deployment: Deployment, director: Director, request_: PlanRequest
    ) -> None:
        """The same codes are issued again before the old plan expires."""
        director.issue(request_)
        deployment.clock.now_s += WEEK_S // 2
        assert director.issue(replace(request_, installed_version=1)) == b""

        deployment.clock.now_s += 1
        renewed = decode_plan(director.issue(replace(request_, installed_version=1)))

        assert renewed.version == 2
        assert renewed.expires_at_s == deployment.clock.now_s + WEEK_S

    def test_new_key_makes_a_new_plan(
        self, deployment: Deployment, service: DeliveryService, request_: PlanRequest
    ) -> None:
        """After the director's key changed, old signatures are not handed out."""
        service.director.issue(request_)
        key = SigningKey.generate()
        models = ModelCatalogue(deployment.artifacts, service.store)

        other = Director(models=models, store=service.store, key=key, clock=deployment.clock)
        plan = decode_plan(other.issue(replace(request_, installed_version=1)))

        assert (plan.version, plan.key_id) == (2, key.public.key_id)

    def test_plan_of_another_format_is_replaced(
        self, director: Director, service: DeliveryService, request_: PlanRequest
    ) -> None:
        """After an update, a stored plan that this release cannot read gets a successor."""
        director.issue(request_)
        (stored,) = service.store.find_plans([(request_.subject, request_.model_digest)])
        assert stored is not None
        older = stored.container[:4] + b"\1" + stored.container[5:]
        service.store.swap_plans([(replace(stored, container=older), 1)])

        plan = decode_plan(director.issue(request_))

        assert plan.version == 2

    def test_subjects_count_apart(self, director: Director, request_: PlanRequest) -> None:
        """Each subject's plans are numbered from 1."""
        director.issue(request_)

        plan = decode_plan(director.issue(replace(request_, subject="bob")))

        assert (plan.subject, plan.version) == ("bob", 1)

    def test_version_goes_above_what_the_device_holds(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """After the database was lost, devices are still given plans they accept."""
        plan = decode_plan(director.issue(replace(request_, installed_version=7)))

        assert plan.version == 8

    def test_absurd_claim_is_ignored(self, director: Director, request_: PlanRequest) -> None:
        """A claimed version cannot push the counter to its end."""
        plan = decode_plan(director.issue(replace(request_, installed_version=2**64 - 1)))

        assert plan.version == 1

    def test_concurrent_requests_get_distinct_versions(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """Racing requests for different plans never share a version."""

        def issue(bits: float) -> bytes:
            return director.issue(replace(request_, average_bits=bits))

        with ThreadPoolExecutor(4) as pool:
            plans = [decode_plan(data) for data in pool.map(issue, [2.0, 4.0, 6.0, 8.0])]

        assert sorted(plan.version for plan in plans) == [1, 2, 3, 4]

    def test_endless_competition_ends_in_an_error(
        self, deployment: Deployment, service: DeliveryService, request_: PlanRequest
    ) -> None:
        """A writer that always comes too late gives up instead of spinning."""

        def swap_plans(swaps: Sequence[PlanSwap]) -> list[bool]:
            return [False] * len(swaps)

        store = store_with(service, swap_plans)
        models = ModelCatalogue(deployment.artifacts, store)
        key = SigningKey.generate()
        director = Director(models=models, store=store, key=key, clock=deployment.clock)

        with pytest.raises(StoreError, match="met other writers"):
            director.issue(request_)

    def test_new_bundle_of_the_same_model_keeps_the_plan(
        self, deployment: Deployment, director: Director, request_: PlanRequest
    ) -> None:
        """A new item table leaves the frozen model, and so the plan, as it was."""
        director.issue(request_)
        deployment.publish(deployment.bundle(version=2))

        assert director.issue(replace(request_, installed_version=1)) == b""


class TestBatches:
    """Requests that are worked on together."""

    def test_each_gets_what_it_would_have_got_alone(
        self,
        deployment: Deployment,
        personal: BundleFolder,
        bundle: BundleFolder,
        tmp_path: Path,
    ) -> None:
        """Whatever subjects, models, planners and budgets meet, and whoever is refused."""
        requests = mixed_requests(bundle, personal)
        other = deployment.copy(tmp_path / "other")

        with served(deployment) as together, served(other) as alone:
            outcomes = together.issue_all(requests)
            expected = [outcome_of(alone, request) for request in requests]

        assert list(map(str, outcomes)) == list(map(str, expected))
        assert list(map(type, outcomes)) == list(map(type, expected))
        assert sum(isinstance(outcome, bytes) for outcome in outcomes) == 9

    def test_personal_plans_differ(
        self, deployment: Deployment, personal: BundleFolder, bundle: BundleFolder
    ) -> None:
        """Users of one batch are not mixed up, nor given one plan."""
        requests = mixed_requests(bundle, personal)[:2]

        with served(deployment) as director:
            first, second = map(decode_plan, map(bytes_of, director.issue_all(requests)))

        assert (first.planner, second.planner) == ("personal", "personal")
        assert (first.codes != second.codes).any()

    def test_one_subject_that_asks_twice_gets_the_same_bytes(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """Also within a batch; a third one that has it already gets nothing."""
        holder = replace(request_, installed_version=1)

        first, second, third = director.issue_all([request_, request_, holder])

        assert isinstance(first, bytes)
        assert (first, third) == (second, b"")

    def test_one_subject_with_other_wishes_gets_the_next_version(
        self, director: Director, request_: PlanRequest
    ) -> None:
        """In the order of the batch."""
        requests = [replace(request_, average_bits=bits) for bits in (2.0, 8.0, 2.0)]

        plans = [decode_plan(bytes_of(outcome)) for outcome in director.issue_all(requests)]

        assert [plan.version for plan in plans] == [1, 2, 3]
        assert (plans[0].codes == plans[2].codes).all()

    def test_who_loses_to_another_writer_tries_again_alone(
        self, deployment: Deployment, service: DeliveryService, request_: PlanRequest
    ) -> None:
        """The others of its batch keep what they were given."""
        other_writer = service.director

        races = [replace(request_, average_bits=8.0)]

        def swap_plans(swaps: Sequence[PlanSwap]) -> list[bool]:
            while races:
                other_writer.issue(races.pop())
            return service.store.swap_plans(swaps)

        store = store_with(service, swap_plans)
        key = KeyFolder(deployment.keys).load(Role.DIRECTOR)
        models = ModelCatalogue(deployment.artifacts, store)
        director = Director(models=models, store=store, key=key, clock=deployment.clock)

        outcomes = director.issue_all([request_, replace(request_, subject="bob")])

        plans = [decode_plan(bytes_of(outcome)) for outcome in outcomes]
        assert [(plan.subject, plan.version) for plan in plans] == [("alice", 2), ("bob", 1)]

    def test_failing_database_fails_only_who_needed_it(
        self, deployment: Deployment, service: DeliveryService, request_: PlanRequest
    ) -> None:
        """What was refused before stays refused for its own reason."""

        def swap_plans(swaps: Sequence[PlanSwap]) -> list[bool]:
            raise StoreError("no space")

        service.director.issue(request_)
        store = store_with(service, swap_plans)
        key = KeyFolder(deployment.keys).load(Role.DIRECTOR)
        models = ModelCatalogue(deployment.artifacts, store)
        director = Director(models=models, store=store, key=key, clock=deployment.clock)

        current, refused, failed = director.issue_all(
            [
                replace(request_, installed_version=1),
                replace(request_, planner="best"),
                replace(request_, subject="bob"),
            ]
        )

        assert current == b""
        assert isinstance(refused, RejectedError)
        assert isinstance(failed, StoreError)


def mixed_requests(bundle: BundleFolder, personal: BundleFolder) -> list[PlanRequest]:
    """Return requests of many kinds, the first two for personal plans of different users."""
    plain = PlanRequest(subject="alice", model_digest=bundle.model_digest)
    own = replace(plain, model_digest=personal.model_digest, bundle_digest=personal.digest)
    users = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    huge = np.full(4, 1e30, np.float32)
    return [
        replace(own, user_embedding=users[0]),
        replace(own, subject="bob", user_embedding=users[1]),
        plain,
        replace(plain, subject="carol", planner="random"),
        replace(plain, subject="dan", planner="random"),
        replace(plain, subject="bob", average_bits=4.0),
        replace(own, subject="eve", user_embedding=huge),
        replace(own, subject="fay", user_embedding=users[2], average_bits=1.0),
        replace(own, subject="gus", user_embedding=users[3], average_bits=5.0),
        replace(plain, subject="hal", planner="best"),
        replace(plain, subject="ida", model_digest=b"?" * 32),
        replace(plain, subject="alice", planner="uniform-8"),
        replace(own, subject="jim", planner="personal"),
    ]


@contextmanager
def served(deployment: Deployment) -> Iterator[Director]:
    """The director of a deployment."""
    store, service = build_service(
        deployment.config(), deployment.clock, database=deployment.database
    )
    yield service.director
    store.close()


class SwapsPlans(Protocol):
    """What a store does to swap plans."""

    def __call__(self, swaps: Sequence[PlanSwap]) -> list[bool]:
        """See ``PlanStore.swap_plans``."""


def store_with(service: DeliveryService, swap_plans: SwapsPlans) -> CachedStore:
    """Return a service's store, but for how it swaps plans."""
    store = CachedStore(service.store, stamp=lambda: None)
    store.swap_plans = swap_plans
    return store


def outcome_of(director: Director, request: PlanRequest) -> Outcome:
    """Return what a request gets alone, be it a refusal."""
    try:
        return director.issue(request)
    except PocketRecError as failure:
        return failure


def bytes_of(outcome: Outcome) -> bytes:
    """Return a plan that was issued."""
    assert isinstance(outcome, bytes), outcome
    return outcome
