# SPDX-License-Identifier: Apache-2.0
"""What a device accepts, decided on bytes alone; ``test_threats`` shows the same end to end."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import (
    ExpiredArtifactError,
    IncompatibleArtifactError,
    IntegrityError,
    MalformedArtifactError,
    RollbackError,
)
from pocketrec.signing import SigningKey
from pocketrec_device.updater import (
    PlanRules,
    TargetInfo,
    accept_content,
    accept_items,
    accept_manifest,
    accept_part,
    accept_plan,
    is_expired,
    items_of,
    read_director_keys,
)
from pocketrec_quantization.bundle import FROZEN, BundleFolder
from pocketrec_quantization.plan import Plan, encode_plan

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

NOW_S = 1_800_000_000


def info(data: bytes, path: str = "demo/manifest.pb") -> TargetInfo:
    """Return what TUF would promise about these bytes."""
    digest = hashlib.sha256(data).hexdigest()
    return TargetInfo(path=path, length_bytes=len(data), sha256=digest)


class TestContent:
    def test_is_returned_when_it_is_what_was_promised(self) -> None:
        """Length and digest agree."""
        assert accept_content(b"content", info(b"content")) == b"content"

    @pytest.mark.parametrize("data", [b"", b"conten", b"contenT", b"content "])
    def test_is_refused_otherwise(self, data: bytes) -> None:
        """Shorter, longer or other bytes never get through."""
        with pytest.raises(IntegrityError, match=r"demo/manifest\.pb: expected 7 bytes"):
            accept_content(data, info(b"content"))


class TestManifest:
    @pytest.fixture
    def data(self, bundle: BundleFolder) -> bytes:
        """The manifest of version 1."""
        return (bundle.path / "manifest.pb").read_bytes()

    def test_is_accepted_by_an_empty_store(self, data: bytes) -> None:
        """A floor of 0 accepts any version."""
        manifest = accept_manifest(data, model="demo", floor=0, accepted=frozenset())

        assert manifest.version == 1

    def test_is_accepted_again(self, data: bytes) -> None:
        """The bundle that runs may be offered again."""
        known = frozenset([hashlib.sha256(data).hexdigest()])

        assert accept_manifest(data, model="demo", floor=1, accepted=known).version == 1

    def test_of_the_same_version_with_other_content_is_refused(self, data: bytes) -> None:
        """A version means one content."""
        with pytest.raises(RollbackError):
            accept_manifest(data, model="demo", floor=1, accepted=frozenset())

    def test_below_the_floor_is_refused_even_if_known(self, data: bytes) -> None:
        """What was accepted once is still too old now."""
        known = frozenset([hashlib.sha256(data).hexdigest()])

        with pytest.raises(RollbackError) as caught:
            accept_manifest(data, model="demo", floor=2, accepted=known)

        assert (caught.value.installed, caught.value.offered) == (2, 1)

    def test_of_another_model_is_refused(self, data: bytes) -> None:
        """A store follows one model line."""
        with pytest.raises(IncompatibleArtifactError, match="'other'"):
            accept_manifest(data, model="other", floor=0, accepted=frozenset())


class TestItems:
    def test_are_accepted_again_and_when_newer(self, bundle: BundleFolder) -> None:
        """The same table, a newer one, and any one of another model."""
        floor = items_of(bundle.manifest)

        for accepted in (
            None,
            floor,
            replace(floor, version=0, sha256="b" * 64),
            replace(floor, version=9, model_digest="b" * 64),
        ):
            accept_items(bundle.manifest, accepted)

    def test_are_refused_when_older_or_changed(self, bundle: BundleFolder) -> None:
        """A version means one content, and only goes up."""
        floor = items_of(bundle.manifest)

        with pytest.raises(RollbackError, match="table above version 2, got version 1;") as caught:
            accept_items(bundle.manifest, replace(floor, version=2))
        with pytest.raises(RollbackError, match="got version 1 with other content"):
            accept_items(bundle.manifest, replace(floor, sha256="b" * 64))

        assert (caught.value.installed, caught.value.offered) == (2, 1)


class TestPart:
    def test_agrees_with_the_signed_targets(self, bundle: BundleFolder) -> None:
        """Manifest and TUF must name the same length and digest."""
        part = bundle.manifest.part(FROZEN)

        accept_part(part, info(bundle.read(FROZEN)))

    def test_is_refused_when_nobody_vouches_for_it(self, bundle: BundleFolder) -> None:
        """A part that is no target, or another one, is not fetched."""
        part = bundle.manifest.part(FROZEN)

        with pytest.raises(IntegrityError, match="part 'frozen'"):
            accept_part(part, None)
        with pytest.raises(IntegrityError, match="part 'frozen'"):
            accept_part(part, info(b"other"))


class TestDirectorKeys:
    def test_are_read(self) -> None:
        """Keys come with their own ids."""
        key = SigningKey.generate().public
        entry = {"key_id": key.key_id.hex(), "public_key": key.raw.hex()}

        assert read_director_keys(json.dumps({"keys": [entry]}).encode()) == (key,)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"[]",
            b'{"keys": []}',
            b'{"keys": [{}]}',
            b'{"keys": [{"key_id": "00", "public_key": "00"}]}',
            b'{"keys": [{"key_id": "zz", "public_key": "zz"}]}',
            b'{"keys": 3}',
        ],
    )
    def test_that_make_no_sense_are_malformed(self, data: bytes) -> None:
        """Anything but a list of keys is refused."""
        with pytest.raises(MalformedArtifactError, match=r"director\.json"):
            read_director_keys(data)

    def test_under_a_wrong_id_are_malformed(self) -> None:
        """A key id is the digest of its key, nothing else."""
        key = SigningKey.generate().public
        entry = {"key_id": "0" * 16, "public_key": key.raw.hex()}

        with pytest.raises(MalformedArtifactError, match="under their own ids"):
            read_director_keys(json.dumps({"keys": [entry]}).encode())


class TestPlan:
    @pytest.fixture
    def key(self) -> SigningKey:
        """The director's key."""
        return SigningKey.generate()

    @pytest.fixture
    def plan(self, model: TinyModel, key: SigningKey) -> Plan:
        """Version 3 for ann, good for an hour."""
        return model.mixed_plan(
            version=3,
            subject="ann",
            issued_at_s=NOW_S,
            expires_at_s=NOW_S + 3600,
            key_id=key.public.key_id,
        )

    @pytest.fixture
    def rules(self, plan: Plan, model: TinyModel) -> PlanRules:
        """Rules that this plan satisfies, just so."""
        return PlanRules(
            model_digest=model.frozen.digest,
            layers=plan.layers,
            subject="ann",
            minimum_version=3,
            now_s=NOW_S + 3599,
        )

    def test_is_accepted_when_everything_fits(
        self, plan: Plan, key: SigningKey, rules: PlanRules
    ) -> None:
        """Any of the listed keys may have signed."""
        keys = [SigningKey.generate().public, key.public]

        assert accept_plan(encode_plan(plan, key.sign), keys=keys, rules=rules) == plan

    @pytest.mark.parametrize(
        ("change", "error"),
        [
            ({"minimum_version": 4}, RollbackError),
            ({"now_s": NOW_S + 3600}, ExpiredArtifactError),
            ({"subject": ""}, IncompatibleArtifactError),
            ({"model_digest": b"m" * 32}, IncompatibleArtifactError),
            ({"layers": ()}, IncompatibleArtifactError),
        ],
    )
    def test_is_refused_when_one_thing_does_not(
        self,
        plan: Plan,
        key: SigningKey,
        rules: PlanRules,
        change: dict[str, object],
        error: type[Exception],
    ) -> None:
        """Each rule has an error of its own."""
        with pytest.raises(error):
            accept_plan(
                encode_plan(plan, key.sign), keys=[key.public], rules=replace(rules, **change)
            )

    def test_with_any_byte_changed_is_refused(
        self, plan: Plan, key: SigningKey, rules: PlanRules
    ) -> None:
        """The signature covers every byte, and comes before parsing."""
        signed = encode_plan(plan, key.sign)

        for position in range(0, len(signed), 7):
            changed = bytearray(signed)
            changed[position] ^= 0x20
            with pytest.raises(IntegrityError):
                accept_plan(bytes(changed), keys=[key.public], rules=rules)

    def test_that_names_another_key_than_its_signer_is_refused(
        self, plan: Plan, key: SigningKey, rules: PlanRules
    ) -> None:
        """A trusted signature under a wrong name is still a contradiction."""
        mislabelled = encode_plan(replace(plan, key_id=b"k" * 8), key.sign)

        with pytest.raises(IntegrityError, match="names key"):
            accept_plan(mislabelled, keys=[key.public], rules=rules)

    @pytest.mark.parametrize("size", [0, 64, 2**19 + 1])
    def test_of_an_impossible_size_is_refused(
        self, key: SigningKey, rules: PlanRules, size: int
    ) -> None:
        """Nothing is verified that cannot be a plan."""
        with pytest.raises(IntegrityError, match="got"):
            accept_plan(bytes(size), keys=[key.public], rules=rules)

    def test_without_an_expiry_never_expires(self, model: TinyModel) -> None:
        """0 means never."""
        assert not is_expired(model.plan(), 2**52)
