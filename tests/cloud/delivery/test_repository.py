# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from filelock import FileLock
from tuf.api.exceptions import ExpiredMetadataError
from tuf.ngclient import Updater

from pocketrec.errors import (
    ConfigError,
    IntegrityError,
    MalformedArtifactError,
    RollbackError,
    StoreError,
    StoreLockedError,
)
from pocketrec.files import write_atomically
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery import repository
from pocketrec_cloud.delivery.keys import KeyFolder, Role
from pocketrec_cloud.delivery.layout import StoreLayout
from pocketrec_cloud.delivery.publication import PublicationCache, read_publication
from pocketrec_cloud.delivery.repository import (
    create_repository,
    publish_bundle,
    refresh_timestamp,
    renew_repository,
)
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

HOUR_S = 3600
DAY_S = 24 * HOUR_S


def download(client: Updater, path: str) -> bytes:
    """Return a target's verified content."""
    info = client.get_targetinfo(path)
    assert info is not None
    return Path(client.download_target(info)).read_bytes()


class TestCreation:
    def test_client_trusts_an_empty_repository(self, empty: Deployment) -> None:
        """With nothing published, a device learns the director's key and nothing more."""
        client = empty.tuf_client()

        director = json.loads(download(client, "director.json"))

        public = KeyFolder(empty.keys).load(Role.DIRECTOR).public
        assert director == {
            "keys": [{"key_id": public.key_id.hex(), "public_key": public.raw.hex()}]
        }
        assert client.get_targetinfo("demo/manifest.pb") is None

    def test_second_creation_is_refused(self, empty: Deployment) -> None:
        """An existing repository is never replaced by an empty one."""
        with pytest.raises(StoreError, match="holds a repository already"):
            create_repository(empty.store, empty.keys)

    def test_absent_key_is_named(self, tmp_path: Path, empty: Deployment) -> None:
        """Without the offline keys there is no repository, and the message says why."""
        shutil.rmtree(empty.keys / "offline")

        with pytest.raises(ConfigError, match=r"expected the root key at .*root\.pem"):
            create_repository(tmp_path / "other", empty.keys)


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
        files = read_publication(deployment.layout).files

        assert deployment.layout.sensitivity(bundle.model_digest).exists()
        assert len(files) == len(bundle.manifest.parts) + 2  # manifest.pb, director.json

    def test_newer_version_replaces_the_older(
        self, deployment: Deployment, bundle: BundleFolder
    ) -> None:
        """A model line has one current bundle; what only the old one used is unlisted."""
        deployment.publish(deployment.bundle(version=2))
        client = deployment.tuf_client()

        assert decode_manifest(download(client, "demo/manifest.pb")).version == 2
        assert client.get_targetinfo(f"parts/{bundle.manifest.part(CARD).sha256.hex()}") is None

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
        before = read_publication(deployment.layout).files

        with pytest.raises(RollbackError) as refusal:
            deployment.publish(deployment.bundle(version=offered, seed=1))

        assert (refusal.value.installed, refusal.value.offered) == (2, offered)
        assert read_publication(deployment.layout).files == before

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

        assert "demo/manifest.pb" not in read_publication(empty.layout).files

    def test_sensitivities_of_another_model_are_refused(self, empty: Deployment) -> None:
        """A bundle that could not be planned for is not published."""
        of_another = sensitivity_to_bytes(np.zeros((3, 3)))

        with pytest.raises(ConfigError, match="sensitivity"):
            publish_bundle(empty.store, empty.keys, empty.bundle(), of_another)


class TestInterruption:
    """A publication breaks off at each of its writes in turn."""

    N_WRITES = 7  # manifest, item table, card, sensitivities, targets, snapshot, timestamp

    @pytest.mark.parametrize("step", range(N_WRITES))
    def test_old_publication_stays_and_retry_succeeds(
        self, step: int, deployment: Deployment
    ) -> None:
        """Whatever write fails, devices keep version 1 until a retry brings version 2."""
        newer = deployment.bundle(version=2)
        deployment.tuf_client().refresh()

        with pytest.raises(OSError, match="disk full"):
            deployment.publish(newer, write=FailingWriter(step))
        client = deployment.tuf_client()
        after_crash = decode_manifest(download(client, "demo/manifest.pb"))
        for part in after_crash.parts:
            download(client, f"parts/{part.sha256.hex()}")
        deployment.publish(newer)
        after_retry = decode_manifest(download(deployment.tuf_client(), "demo/manifest.pb"))

        assert (after_crash.version, after_retry.version) == (1, 2)

    def test_timestamp_is_the_last_write(self, deployment: Deployment) -> None:
        """Contents come before the metadata that names them, the timestamp after all."""
        writer = FailingWriter(at=None)

        deployment.publish(deployment.bundle(version=2), write=writer)

        assert len(writer.paths) == self.N_WRITES
        names = [path.name for path in writer.paths[-3:]]
        assert names == ["3.targets.json", "3.snapshot.json", "timestamp.json"]

    def test_interrupted_creation_can_be_repeated(
        self, tmp_path: Path, deployment: Deployment
    ) -> None:
        """Half a repository is none: creating it again succeeds."""
        store = tmp_path / "other"
        with pytest.raises(OSError, match="disk full"):
            create_repository(store, deployment.keys, write=FailingWriter(3))

        create_repository(store, deployment.keys)

        assert "director.json" in read_publication(StoreLayout(store)).files


class TestFreshness:
    def test_young_timestamp_is_left_alone(self, deployment: Deployment) -> None:
        """Before half its life is over, nothing is signed."""
        assert not refresh_timestamp(
            deployment.store, deployment.keys, deployment.clock.now_s + 11 * HOUR_S
        )

    def test_refreshed_timestamp_is_accepted_after_the_old_one_expired(
        self, deployment: Deployment
    ) -> None:
        """A device refuses a timestamp past its day, and takes the refreshed one."""
        deployment.clock.now_s += 1.5 * DAY_S
        with pytest.raises(ExpiredMetadataError):
            deployment.tuf_client().refresh()

        assert refresh_timestamp(deployment.store, deployment.keys, deployment.clock.now_s)

        deployment.tuf_client().refresh()

    def test_refresh_needs_online_keys_only(self, deployment: Deployment) -> None:
        """Timestamp and snapshot are renewed on a server that has no offline key."""
        shutil.rmtree(deployment.keys / "offline")
        deployment.clock.now_s += 8 * DAY_S

        refresh_timestamp(deployment.store, deployment.keys, deployment.clock.now_s)

        deployment.tuf_client().refresh()
        published = read_publication(deployment.layout)
        assert published.snapshot.signed.version == 3
        now = datetime.fromtimestamp(deployment.clock.now_s, UTC)
        assert published.snapshot.signed.expires == now + timedelta(days=7)

    def test_publishing_after_refreshes_still_verifies(self, deployment: Deployment) -> None:
        """Refreshed versions and published versions form one rising sequence."""
        deployment.clock.now_s += 5 * DAY_S
        refresh_timestamp(deployment.store, deployment.keys, deployment.clock.now_s)

        deployment.publish(deployment.bundle(version=2))

        assert decode_manifest(download(deployment.tuf_client(), "demo/manifest.pb")).version == 2

    def test_renewal_carries_a_device_over_to_new_keys(self, deployment: Deployment) -> None:
        """A device that knows the first root only follows replaced keys a year later."""
        for role in (Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP, Role.DIRECTOR):
            path = KeyFolder(deployment.keys).path(role)
            path.unlink()
            SigningKey.generate().save(path)
        deployment.clock.now_s += 400 * DAY_S

        assert renew_repository(deployment.store, deployment.keys, clock=deployment.clock) == 2

        client = deployment.tuf_client()
        director = json.loads(download(client, "director.json"))
        public = KeyFolder(deployment.keys).load(Role.DIRECTOR).public
        assert director["keys"][0]["public_key"] == public.raw.hex()
        assert decode_manifest(download(client, "demo/manifest.pb")).version == 1


class TestPublicationCache:
    def test_new_publication_is_seen(self, empty: Deployment) -> None:
        """A reader that is already running finds what was published meanwhile."""
        cache = PublicationCache(empty.layout)
        assert "demo/manifest.pb" not in cache.current().files

        empty.publish(empty.bundle())

        assert "demo/manifest.pb" in cache.current().files

    def test_unchanged_metadata_is_not_read_again(self, deployment: Deployment) -> None:
        """The same publication is the same object."""
        cache = PublicationCache(deployment.layout)

        assert cache.current() is cache.current()

    def test_damaged_metadata_is_found(self, deployment: Deployment) -> None:
        """A snapshot that the timestamp does not vouch for is not served from."""
        snapshot = deployment.layout.metadata / "2.snapshot.json"
        snapshot.write_bytes(snapshot.read_bytes() + b" ")

        with pytest.raises(IntegrityError, match=r"2\.snapshot\.json"):
            PublicationCache(deployment.layout).current()

    def test_bytes_that_are_no_metadata_are_found(self, deployment: Deployment) -> None:
        """A timestamp that cannot be read is named as such."""
        deployment.layout.timestamp.write_bytes(b"{}")

        with pytest.raises(MalformedArtifactError, match="expected TUF metadata"):
            PublicationCache(deployment.layout).current()

    def test_root_that_is_no_metadata_is_found(self, deployment: Deployment) -> None:
        """Renewing stops before it writes anything."""
        (deployment.layout.metadata / "1.root.json").write_bytes(b"{}")

        with pytest.raises(MalformedArtifactError, match="TUF root metadata"):
            repository.renew_repository(deployment.store, deployment.keys)


def test_second_writer_waits_and_then_gives_up(
    deployment: Deployment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Publishing and refreshing take turns; nobody waits forever."""
    monkeypatch.setattr(repository, "_LOCK_TIMEOUT_S", 0)

    with FileLock(deployment.layout.lock), pytest.raises(StoreLockedError, match="another process"):
        deployment.publish(deployment.bundle(version=2))


class FailingWriter:
    """Writes like the real one, until the write numbered ``at``."""

    def __init__(self, at: int | None) -> None:
        self.at = at
        self.paths: list[Path] = []

    def __call__(self, path: Path, data: bytes) -> None:
        """Write, or fail."""
        if len(self.paths) == self.at:
            raise OSError("disk full")
        self.paths.append(path)
        write_atomically(path, data)
