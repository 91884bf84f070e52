# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.cloud.delivery.tuf_clients import download

from pocketrec.errors import ConfigError, IntegrityError, RollbackError
from pocketrec_cloud.delivery.publishing.bundles import (
    promote_bundle,
    publish_bundle,
    withdraw_bundle,
)
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.targets import KEPT_EARLIER, ModelLine, find_line
from pocketrec_quantization.bundle import (
    CARD,
    ITEMS,
    BundleFolder,
    ItemTableInfo,
    decode_manifest,
    write_bundle,
)
from pocketrec_quantization.planners import sensitivity_to_bytes
from pocketrec_quantization.testing import tiny_items

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

    from pocketrec_quantization.item_table import ItemTable


def with_items(deployment: Deployment, items: ItemTable, *, version: int) -> BundleFolder:
    """Return the bundle of a version with another item table."""
    bundle = deployment.bundle(version=version)
    parts = {part.name: bundle.read(part.name) for part in bundle.manifest.parts}
    manifest = replace(bundle.manifest, parts=(), items=ItemTableInfo.of(items))
    folder = bundle.path.with_name(f"{bundle.path.name}-items-{items.version}")
    write_bundle(folder, manifest, parts | {ITEMS: items.to_bytes()})
    return BundleFolder.open(folder)


class TestPublication:
    def test_client_gets_every_byte(self, deployment: Deployment, bundle: BundleFolder) -> None:
        """A TUF client that trusts the root only ends up with manifest and parts."""
        client = deployment.tuf_client()

        manifest = decode_manifest(download(client, "demo/manifest.pb"))

        assert manifest == bundle.manifest
        for part in manifest.parts:
            assert download(client, f"parts/{part.sha256.hex()}") == bundle.read(part.name)

    def test_sensitivities_stay_on_the_server(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """What planners need is stored by model digest, and is no target."""
        files = read_publication(deployment.artifacts).files

        assert deployment.layout.sensitivity(bundle.model_digest).exists()
        assert len(files) == len(bundle.manifest.parts) + 3  # two manifests, director.json

    def test_newer_version_becomes_current(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """A model line has one current bundle; the one before it stays for who is sent back."""
        newer = deployment.bundle(version=2)
        deployment.publish(newer)
        client = deployment.tuf_client()

        assert decode_manifest(download(client, "demo/manifest.pb")).version == 2
        for listed in (bundle, newer):
            path = f"demo/bundles/{listed.digest.hex()}.pb"
            assert decode_manifest(download(client, path)) == listed.manifest
            for part in listed.manifest.parts:
                assert download(client, f"parts/{part.sha256.hex()}") == listed.read(part.name)

    def test_only_a_few_earlier_bundles_stay(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """The oldest is forgotten, and what only it used with it."""
        for version in range(2, KEPT_EARLIER + 3):
            deployment.publish(deployment.bundle(version=version))

        line = find_line(read_publication(deployment.artifacts).targets.signed, "demo")

        assert [listed.version for listed in line.bundles] == [2, 3, 4, 5, 6]
        assert line.current_version == 6
        card = bundle.manifest.part(CARD).sha256.hex()
        assert deployment.tuf_client().get_targetinfo(f"parts/{card}") is None

    def test_model_lines_live_side_by_side(self, deployment: Deployment) -> None:
        """Publishing one model leaves another, and the parts they share, in place."""
        deployment.publish(deployment.bundle(model_name="other"))
        deployment.publish(deployment.bundle(model_name="other", version=2))
        client = deployment.tuf_client()

        for part in decode_manifest(download(client, "demo/manifest.pb")).parts:
            assert client.get_targetinfo(f"parts/{part.sha256.hex()}") is not None

    @pytest.mark.parametrize("offered", [1, 2])
    def test_version_that_does_not_go_up_is_refused(
        self, deployment: Deployment, offered: int
    ) -> None:
        """Devices would refuse an equal or older bundle, so it is not published."""
        deployment.publish(deployment.bundle(version=2))
        before = read_publication(deployment.artifacts).files

        with pytest.raises(RollbackError) as refusal:
            deployment.publish(deployment.bundle(version=offered, seed=1))

        assert (refusal.value.installed, refusal.value.offered) == (2, offered)
        assert read_publication(deployment.artifacts).files == before

    @pytest.mark.parametrize("table_version", [1, 2])
    def test_item_table_that_does_not_go_up_is_refused(
        self, deployment: Deployment, table_version: int
    ) -> None:
        """Devices would refuse an older table of the same weights, or another of its version."""
        items = replace(tiny_items(seed=7), version=2)
        other = replace(tiny_items(seed=8), version=table_version)
        deployment.publish(with_items(deployment, items, version=2))

        with pytest.raises(RollbackError, match="version 2 of its item table") as refusal:
            deployment.publish(with_items(deployment, other, version=3))

        assert (refusal.value.installed, refusal.value.offered) == (2, table_version)
        deployment.publish(with_items(deployment, items, version=4))

    def test_damaged_bundle_is_refused(self, empty: Deployment) -> None:
        """A part that is not what the manifest promises is found before anything is signed."""
        bundle = empty.bundle()
        part = bundle.part_path(CARD)
        part.write_bytes(part.read_bytes()[:-1])

        with pytest.raises(IntegrityError, match=r"card\.json"):
            empty.publish(bundle)

        assert "demo/manifest.pb" not in read_publication(empty.artifacts).files

    def test_sensitivities_of_another_model_are_refused(self, empty: Deployment) -> None:
        """A bundle that could not be planned for is not published."""
        of_another = sensitivity_to_bytes(np.zeros((3, 3)))

        with pytest.raises(ConfigError, match="sensitivity"):
            publish_bundle(empty.storage, empty.keys, empty.bundle(), of_another)


def demo_line(deployment: Deployment) -> ModelLine:
    """Return what is published of the model "demo"."""
    return find_line(read_publication(deployment.artifacts).targets.signed, "demo")


class TestCandidates:
    def test_candidate_is_vouched_for_and_not_current(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """TUF knows manifest and parts; who asks for the current bundle gets the old one."""
        candidate = deployment.bundle(version=2)

        deployment.publish(candidate, is_candidate=True)

        client = deployment.tuf_client()
        assert decode_manifest(download(client, "demo/manifest.pb")) == bundle.manifest
        path = f"demo/bundles/{candidate.digest.hex()}.pb"
        assert decode_manifest(download(client, path)) == candidate.manifest
        for part in candidate.manifest.parts:
            assert client.get_targetinfo(f"parts/{part.sha256.hex()}") is not None
        assert [listed.digest for listed in demo_line(deployment).candidates] == [candidate.digest]

    def test_candidate_may_come_first(self, empty: Deployment) -> None:
        """A model line may begin with a rollout."""
        candidate = empty.bundle()

        empty.publish(candidate, is_candidate=True)

        assert empty.tuf_client().get_targetinfo("demo/manifest.pb") is None
        assert demo_line(empty).candidates[0].digest == candidate.digest

    def test_promoted_candidate_is_current(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """It replaces the bundle of before, which stays for who is sent back."""
        candidate = deployment.bundle(version=2)
        deployment.publish(candidate, is_candidate=True)

        promote_bundle(
            deployment.storage, deployment.keys, "demo", candidate.digest, clock=deployment.clock
        )

        client = deployment.tuf_client()
        assert decode_manifest(download(client, "demo/manifest.pb")) == candidate.manifest
        line = demo_line(deployment)
        assert (line.current, line.candidates) == (candidate.digest, ())
        assert [listed.digest for listed in line.bundles] == [bundle.digest, candidate.digest]

    def test_withdrawn_candidate_is_gone(self, deployment: Deployment) -> None:
        """Nobody vouches for it or its parts any more."""
        candidate = deployment.bundle(version=2)
        deployment.publish(candidate, is_candidate=True)

        withdraw_bundle(
            deployment.storage, deployment.keys, "demo", candidate.digest, clock=deployment.clock
        )

        client = deployment.tuf_client()
        assert demo_line(deployment).candidates == ()
        assert client.get_targetinfo(f"demo/bundles/{candidate.digest.hex()}.pb") is None
        card = candidate.manifest.part(CARD).sha256.hex()
        assert client.get_targetinfo(f"parts/{card}") is None

    @pytest.mark.parametrize("is_withdrawn", [False, True])
    def test_version_of_a_candidate_is_used_up(
        self, is_withdrawn: bool, deployment: Deployment
    ) -> None:
        """Devices that ran it would refuse another bundle of its version."""
        candidate = deployment.bundle(version=2)
        deployment.publish(candidate, is_candidate=True)
        if is_withdrawn:
            withdraw_bundle(deployment.storage, deployment.keys, "demo", candidate.digest)

        with pytest.raises(RollbackError) as refusal:
            deployment.publish(deployment.bundle(version=2, seed=1))

        assert (refusal.value.installed, refusal.value.offered) == (2, 2)

    def test_current_bundle_is_not_withdrawn(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """Devices have to have something to run."""
        with pytest.raises(ConfigError, match="the current one"):
            withdraw_bundle(deployment.storage, deployment.keys, "demo", bundle.digest)

    def test_earlier_bundle_is_not_promoted(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """Devices refuse to go back unless the director says so."""
        deployment.publish(deployment.bundle(version=2))

        with pytest.raises(RollbackError) as refusal:
            promote_bundle(deployment.storage, deployment.keys, "demo", bundle.digest)

        assert (refusal.value.installed, refusal.value.offered) == (2, 1)

    @pytest.mark.parametrize("change", [promote_bundle, withdraw_bundle])
    def test_what_is_not_published_is_named(self, change: object, deployment: Deployment) -> None:
        """The message lists what there is."""
        assert callable(change)
        with pytest.raises(ConfigError, match="is not published; these are: "):
            change(deployment.storage, deployment.keys, "demo", bytes(32))

    def test_model_may_be_called_like_a_folder(self, deployment: Deployment) -> None:
        """Paths of a model named "parts" or "bundles" are not mistaken for parts."""
        for name in ("parts", "bundles"):
            deployment.publish(deployment.bundle(model_name=name))
        deployment.publish(deployment.bundle(version=2))

        client = deployment.tuf_client()
        for name in ("parts", "bundles", "demo"):
            assert decode_manifest(download(client, f"{name}/manifest.pb")).model_name == name
