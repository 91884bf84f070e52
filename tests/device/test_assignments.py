# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from pocketrec.errors import (
    ExpiredArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
    RollbackError,
)
from pocketrec.signing import SigningKey
from pocketrec_device.assignments import AssignmentRules, accept_assignment, assigned_target
from pocketrec_device.updater import TargetInfo
from pocketrec_quantization.assignment import Assignment, encode_assignment
from pocketrec_quantization.layers import LayerShape
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.testing import tiny_plan

KEY, OTHER_KEY = SigningKey(bytes(32)), SigningKey(bytes([1]) * 32)
NOW_S = 1_800_000_000
BUNDLE = b"\1" * 32
RULES = AssignmentRules(model="demo", device_id="d-1", minimum_version=7, now_s=NOW_S)
ASSIGNMENT = Assignment(
    model_name="demo",
    device_id="d-1",
    bundle_digest=BUNDLE,
    withdrawn=(b"\2" * 32,),
    version=7,
    issued_at_s=NOW_S - 100,
    expires_at_s=NOW_S + 100,
    key_id=KEY.public.key_id,
)


def signed(**changes: object) -> bytes:
    """An assignment with changes, signed by the director."""
    return encode_assignment(replace(ASSIGNMENT, **changes), KEY.sign)


def accept(data: bytes, **changes: object) -> Assignment:
    """Ask whether a device accepts it, by rules with changes."""
    return accept_assignment(data, keys=[KEY.public], rules=replace(RULES, **changes))


@dataclass
class Published:
    """What TUF vouches for, by path."""

    targets: dict[str, str] = field(default_factory=dict)

    def find(self, path: str) -> TargetInfo | None:
        """Look one up."""
        if path not in self.targets:
            return None
        return TargetInfo(path=path, length_bytes=1, sha256=self.targets[path])


class TestAcceptAssignment:
    def test_accepted(self) -> None:
        """An honest assignment is accepted, also a second time."""
        assert accept(signed()) == ASSIGNMENT
        assert accept(signed(version=8)).version == 8

    def test_another_key(self) -> None:
        """Nobody but the director assigns."""
        stranger = replace(ASSIGNMENT, key_id=OTHER_KEY.public.key_id)

        with pytest.raises(IntegrityError, match="none of the 1 director keys"):
            accept(encode_assignment(stranger, OTHER_KEY.sign))
        with pytest.raises(IntegrityError, match="names key"):
            accept(encode_assignment(stranger, KEY.sign))

    def test_changed(self) -> None:
        """No bit may change on the way."""
        data = bytearray(signed())
        for position in range(len(data)):
            data[position] ^= 1
            with pytest.raises(IntegrityError):
                accept(bytes(data))
            data[position] ^= 1

    def test_a_signed_plan(self) -> None:
        """A plan of the same director is no assignment."""
        plan = tiny_plan((LayerShape("a", 3, 4),), bytes(32), key_id=KEY.public.key_id)

        with pytest.raises(MalformedArtifactError, match="magic"):
            accept(encode_plan(plan, KEY.sign))

    def test_another_device(self) -> None:
        """Another device's assignment is refused, and another model's."""
        with pytest.raises(IncompatibleArtifactError, match="d-2"):
            accept(signed(device_id="d-2"))
        with pytest.raises(IncompatibleArtifactError, match="other"):
            accept(signed(model_name="other"))

    def test_older(self) -> None:
        """An assignment from before the last one is refused."""
        with pytest.raises(RollbackError) as caught:
            accept(signed(version=6))

        assert (caught.value.installed, caught.value.offered) == (7, 6)

    def test_expired(self) -> None:
        """It holds until the second of its expiry."""
        assert accept(signed(), now_s=NOW_S + 99) == ASSIGNMENT
        with pytest.raises(ExpiredArtifactError):
            accept(signed(), now_s=NOW_S + 100)


class TestAssignedTarget:
    def test_current(self) -> None:
        """The current bundle is found as such."""
        published = Published({"demo/manifest.pb": BUNDLE.hex()})

        assert assigned_target(ASSIGNMENT, published).path == "demo/manifest.pb"

    def test_candidate(self) -> None:
        """Another bundle is found by its digest."""
        path = f"demo/bundles/{BUNDLE.hex()}.pb"
        published = Published({"demo/manifest.pb": "0" * 64, path: BUNDLE.hex()})

        assert assigned_target(ASSIGNMENT, published).path == path

    def test_not_published(self) -> None:
        """What TUF does not vouch for is refused, also under a name that says otherwise."""
        liar = {f"demo/bundles/{BUNDLE.hex()}.pb": "0" * 64}
        other = {f"other/bundles/{BUNDLE.hex()}.pb": BUNDLE.hex()}

        for targets in ({}, liar, other):
            with pytest.raises(IntegrityError, match="not among the published"):
                assigned_target(ASSIGNMENT, Published(targets))
