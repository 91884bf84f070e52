# SPDX-License-Identifier: Apache-2.0
"""What somebody in the middle, or with the director key, can do with assignments: nothing.

As in ``test_threats``: the device keeps what runs, and says what was wrong.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from tests.device.rollouts import Rollouts
from tests.device.unharmed import unharmed

from pocketrec.errors import (
    ArtifactError,
    ExpiredArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
    RollbackError,
)
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.records import RolloutState
from pocketrec_device import Runtime
from pocketrec_quantization.assignment import Assignment, encode_assignment
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from tests.device.conftest import Deployment
    from tests.device.man_in_the_middle import ManInTheMiddle

    from pocketrec_proto.v1 import device_service_pb2 as pb

MakeBundle = Callable[..., BundleFolder]
Meddler = Callable[["pb.GetTargetsRequest", "pb.GetTargetsResponse"], None]


@dataclass(frozen=True)
class Director:
    """Whoever holds a key: assigns what it likes to a device."""

    key: SigningKey
    device_id: str

    def assign(self, bundle: bytes, **changes: object) -> Meddler:
        """Return a meddler that answers with this assignment."""
        now_s = int(time.time())
        fields = {
            "model_name": "demo",
            "device_id": self.device_id,
            "bundle_digest": bundle,
            "withdrawn": (),
            "version": now_s + 10**6,
            "issued_at_s": now_s,
            "expires_at_s": now_s + 3600,
            "key_id": self.key.public.key_id,
        }
        return answering(encode_assignment(Assignment(**fields | changes), self.key.sign))


def answering(assignment: bytes) -> Meddler:
    """Return a meddler that answers with these bytes."""
    return lambda _, answer: setattr(answer, "assignment", assignment)


@pytest.fixture
def director(deployment: Deployment, device: Runtime) -> Director:
    """The director whose key the device trusts."""
    key = SigningKey.load(deployment.config.keys / "online" / "director.pem")
    return Director(key, device.status().device_id)


@pytest.fixture
def candidate(deployment: Deployment, make_bundle: MakeBundle) -> BundleFolder:
    """Version 2, published, and nobody's current bundle."""
    bundle = make_bundle(version=2, seed=1)
    deployment.publish(bundle, is_candidate=True)
    return bundle


class TestAssignment:
    def test_the_honest_one(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
    ) -> None:
        """What the threats start from is accepted."""
        middle.meddle["GetTargets"] = director.assign(candidate.digest)

        assert device.sync(middle.target).bundle_version == 2

    def test_of_another_device(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
    ) -> None:
        """An assignment for somebody else is none."""
        middle.meddle["GetTargets"] = director.assign(candidate.digest, device_id="d-2")

        with unharmed(device, IncompatibleArtifactError, "d-2"):
            device.sync(middle.target)

    def test_of_another_model(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
    ) -> None:
        """Nor is one of another model line."""
        middle.meddle["GetTargets"] = director.assign(candidate.digest, model_name="other")

        with unharmed(device, IncompatibleArtifactError, "other"):
            device.sync(middle.target)

    def test_forged(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
    ) -> None:
        """Another key's assignment is refused before it is read."""
        stranger = Director(SigningKey.generate(), director.device_id)
        middle.meddle["GetTargets"] = stranger.assign(candidate.digest)

        with unharmed(device, IntegrityError, "none of the 1 director keys"):
            device.sync(middle.target)

    def test_a_plan_in_its_place(
        self, device: Runtime, middle: ManInTheMiddle, candidate: BundleFolder
    ) -> None:
        """What the same key signed for another purpose is no assignment."""
        plans: list[bytes] = []
        middle.meddle["GetPlan"] = lambda _, answer: plans.append(answer.plan)
        device.sync(middle.target, subject="u-1")
        middle.meddle["GetTargets"] = answering(plans[0])

        with unharmed(device, MalformedArtifactError, "magic"):
            device.sync(middle.target)

    def test_replayed(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        candidate: BundleFolder,
    ) -> None:
        """An assignment from before a stop does not bring back what was stopped."""
        rollouts, seen = Rollouts(deployment), []
        middle.meddle["GetTargets"] = lambda _, answer: seen.append(answer.assignment)
        rollout = rollouts.start(candidate)
        device.sync(middle.target)
        rollouts.end(rollout, RolloutState.STOPPED)
        assert device.sync(middle.target).bundle_version == 1
        middle.meddle["GetTargets"] = answering(seen[0])

        with unharmed(device, RollbackError, "expected an assignment of version"):
            device.sync(middle.target)

    def test_expired(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
    ) -> None:
        """An assignment that was kept back for too long is refused."""
        now_s = int(time.time())
        middle.meddle["GetTargets"] = director.assign(
            candidate.digest, issued_at_s=now_s - 100, expires_at_s=now_s - 1
        )

        with unharmed(device, ExpiredArtifactError, "assignment expired"):
            device.sync(middle.target)

    def test_not_vouched_for(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        make_bundle: MakeBundle,
    ) -> None:
        """The director cannot assign what the offline keys do not vouch for."""
        unpublished = make_bundle(version=2, seed=1)
        middle.meddle["GetTargets"] = director.assign(unpublished.digest)

        with unharmed(device, IntegrityError, "not among the published"):
            device.sync(middle.target)

    def test_downgrade_without_a_withdrawal(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
        bundle: BundleFolder,
    ) -> None:
        """The way back to an older bundle leads over taking the newer one back."""
        middle.meddle["GetTargets"] = director.assign(candidate.digest)
        device.sync(middle.target)
        middle.meddle["GetTargets"] = director.assign(bundle.digest, version=2**50)

        with unharmed(device, RollbackError, "above version 2"):
            device.sync(middle.target)

    def test_withdrawal_of_something_else(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        director: Director,
        candidate: BundleFolder,
        bundle: BundleFolder,
    ) -> None:
        """Taking back another bundle does not lower the floor of this one."""
        middle.meddle["GetTargets"] = director.assign(candidate.digest)
        device.sync(middle.target)
        middle.meddle["GetTargets"] = director.assign(
            bundle.digest, version=2**50, withdrawn=(b"\7" * 32,)
        )

        with unharmed(device, RollbackError, "above version 2"):
            device.sync(middle.target)

    def test_rubbish(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """Any other bytes are refused."""
        for rubbish in (b"x", b"PKRA", bytes(200), bytes(10_000)):
            middle.meddle["GetTargets"] = answering(rubbish)
            with unharmed(device, ArtifactError):
                device.sync(middle.target)
