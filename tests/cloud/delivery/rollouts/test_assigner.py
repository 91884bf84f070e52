# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import replace

import pytest
from tests.cloud.delivery.conftest import Deployment
from tests.cloud.delivery.rollouts.records import NOW_S, make_device, make_rollout

from pocketrec.errors import ConfigError
from pocketrec.signing import PublicKey, SigningKey
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.records import ModelRecord, RolloutState
from pocketrec_cloud.delivery.rollouts.assigner import Assigner
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk
from pocketrec_quantization.assignment import Assignment, decode_assignment

WHOLE = make_rollout(stages_percent=(100.0,))


def assigned(desk: RolloutDesk, device_id: str = "device-1") -> Assignment:
    """What a device is assigned."""
    return decode_assignment(desk.assigner.assign("demo", device_id))


class TestAssigner:
    def test_never_a_rollout(self, desk: RolloutDesk, candidate: ModelRecord) -> None:
        """A line that never had a rollout has nothing to say, and no other line has either."""
        assert desk.assigner.assign("demo", "device-1") == b""
        assert desk.assigner.assign("other", "device-1") == b""

    def test_signed(
        self,
        desk: RolloutDesk,
        deployment: Deployment,
        candidate: ModelRecord,
        director: PublicKey,
    ) -> None:
        """An assignment is signed by the director, for one device, for a day."""
        deployment.database.add_rollout(replace(WHOLE, bundle_digest=candidate.bundle_digest))
        data = desk.assigner.assign("demo", "device-1")

        director.verify(data[:-64], data[-64:])
        assignment = decode_assignment(data)
        assert assignment.bundle_digest == candidate.bundle_digest
        assert (assignment.device_id, assignment.model_name) == ("device-1", "demo")
        assert assignment.expires_at_s - assignment.issued_at_s == 24 * 3600
        assert assignment.key_id == director.key_id

    def test_taken_back(
        self, desk: RolloutDesk, deployment: Deployment, candidate: ModelRecord
    ) -> None:
        """After a stop the bundle of before is assigned, under a higher number."""
        rollout = replace(WHOLE, bundle_digest=candidate.bundle_digest)
        deployment.database.add_rollout(rollout)
        before = assigned(desk)
        stopped = replace(rollout, state=RolloutState.STOPPED, revision=2, changed_at_s=NOW_S + 1)
        deployment.database.swap_rollout(stopped, replaces=1)

        after = assigned(desk)
        assert after.bundle_digest == deployment.published[0].bundle_digest
        assert after.withdrawn == (candidate.bundle_digest,)
        assert after.version > before.version

    def test_a_publication_raises_the_number(
        self, desk: RolloutDesk, deployment: Deployment, candidate: ModelRecord
    ) -> None:
        """A newer current bundle comes under a higher number, without a change of a rollout."""
        deployment.database.add_rollout(replace(WHOLE, bundle_digest=candidate.bundle_digest))
        before = assigned(desk)
        third = deployment.publish(deployment.bundle(version=3, seed=2))

        after = assigned(desk)
        assert after.bundle_digest == third.bundle_digest
        assert after.version > before.version

    def test_another_process(
        self, desk: RolloutDesk, deployment: Deployment, candidate: ModelRecord
    ) -> None:
        """A second server says the same as the first, number included."""
        deployment.database.add_rollout(replace(WHOLE, bundle_digest=candidate.bundle_digest))
        other = Assigner(
            deployment.database,
            PublicationCache(deployment.artifacts),
            SigningKey(bytes(32)),
            deployment.clock,
        )

        theirs = decode_assignment(other.assign("demo", "device-1"))
        assert replace(theirs, key_id=assigned(desk).key_id) == assigned(desk)

    def test_cohort(
        self, desk: RolloutDesk, deployment: Deployment, candidate: ModelRecord
    ) -> None:
        """What a device declared decides whether it is in the cohort."""
        for name, os in (("device-1", "Android"), ("device-2", "iOS")):
            device = make_device(device_id=name, os=os, token_sha256=name.ljust(32).encode())
            challenge = name.encode()
            assert deployment.database.put_device(
                device, challenge=challenge, challenge_expires_at_s=NOW_S
            )
        rollout = replace(WHOLE, bundle_digest=candidate.bundle_digest, cohort="os = Android")
        deployment.database.add_rollout(rollout)

        assert assigned(desk, "device-1").bundle_digest == candidate.bundle_digest
        assert assigned(desk, "device-2").bundle_digest != candidate.bundle_digest

    def test_lifetime(self, deployment: Deployment) -> None:
        """An assignment cannot be made to end before anybody has obeyed it."""
        with pytest.raises(ConfigError, match="at least a minute"):
            Assigner(
                deployment.database,
                PublicationCache(deployment.artifacts),
                SigningKey(bytes(32)),
                deployment.clock,
                lifetime_s=59,
            )
