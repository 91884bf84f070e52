# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.tuf_clients import download
from tuf.api.exceptions import ExpiredMetadataError

from pocketrec.errors import ConfigError, MalformedArtifactError, StoreError, StoreLockedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.artifacts import FolderArtifacts
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.repository import (
    create_repository,
    refresh_timestamp,
    renew_repository,
)
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.publishing.tuf_editor import TufEditor
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_quantization.bundle import decode_manifest

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

HOUR_S = 3600
DAY_S = 24 * HOUR_S


def other_storage(folder: Path) -> Storage:
    """Return a store that holds nothing."""
    return Storage(artifacts=FolderArtifacts(folder), database=MemoryStore())


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
            create_repository(empty.storage, empty.keys)

    def test_absent_key_is_named(self, tmp_path: Path, empty: Deployment) -> None:
        """Without the offline keys there is no repository, and the message says why."""
        shutil.rmtree(empty.keys / "offline")

        with pytest.raises(ConfigError, match=r"expected the root key at .*root\.pem"):
            create_repository(other_storage(tmp_path / "other"), empty.keys)


class TestFreshness:
    def test_young_timestamp_is_left_alone(self, deployment: Deployment) -> None:
        """Before half its life is over, nothing is signed."""
        assert not refresh_timestamp(
            deployment.storage, deployment.keys, deployment.clock.now_s + 11 * HOUR_S
        )

    def test_refreshed_timestamp_is_accepted_after_the_old_one_expired(
        self, deployment: Deployment
    ) -> None:
        """A device refuses a timestamp past its day, and takes the refreshed one."""
        deployment.clock.now_s += 1.5 * DAY_S
        with pytest.raises(ExpiredMetadataError):
            deployment.tuf_client().refresh()

        assert refresh_timestamp(deployment.storage, deployment.keys, deployment.clock.now_s)

        deployment.tuf_client().refresh()

    def test_refresh_needs_online_keys_only(self, deployment: Deployment) -> None:
        """Timestamp and snapshot are renewed on a server that has no offline key."""
        shutil.rmtree(deployment.keys / "offline")
        deployment.clock.now_s += 8 * DAY_S

        refresh_timestamp(deployment.storage, deployment.keys, deployment.clock.now_s)

        deployment.tuf_client().refresh()
        published = read_publication(deployment.artifacts)
        assert published.snapshot.signed.version == 3
        now = datetime.fromtimestamp(deployment.clock.now_s, UTC)
        assert published.snapshot.signed.expires == now + timedelta(days=7)

    def test_publishing_after_refreshes_still_verifies(self, deployment: Deployment) -> None:
        """Refreshed versions and published versions form one rising sequence."""
        deployment.clock.now_s += 5 * DAY_S
        refresh_timestamp(deployment.storage, deployment.keys, deployment.clock.now_s)

        deployment.publish(deployment.bundle(version=2))

        assert decode_manifest(download(deployment.tuf_client(), "demo/manifest.pb")).version == 2


class TestRenewal:
    def test_renewal_carries_a_device_over_to_new_keys(self, deployment: Deployment) -> None:
        """A device that knows the first root only follows replaced keys a year later."""
        for role in (Role.TARGETS, Role.SNAPSHOT, Role.TIMESTAMP, Role.DIRECTOR):
            path = KeyFolder(deployment.keys).path(role)
            path.unlink()
            SigningKey.generate().save(path)
        deployment.clock.now_s += 400 * DAY_S

        assert renew_repository(deployment.storage, deployment.keys, clock=deployment.clock) == 2

        client = deployment.tuf_client()
        director = json.loads(download(client, "director.json"))
        public = KeyFolder(deployment.keys).load(Role.DIRECTOR).public
        assert director["keys"][0]["public_key"] == public.raw.hex()
        assert decode_manifest(download(client, "demo/manifest.pb")).version == 1

    def test_server_with_a_replaced_key_signs_nothing(self, deployment: Deployment) -> None:
        """A key that the root does not name would make devices refuse everything."""
        path = KeyFolder(deployment.keys).path(Role.TIMESTAMP)
        path.unlink()
        SigningKey.generate().save(path)
        before = deployment.artifacts.read("metadata/timestamp.json")

        with pytest.raises(ConfigError, match="timestamp key that the root metadata names"):
            refresh_timestamp(
                deployment.storage, deployment.keys, deployment.clock.now_s + 20 * HOUR_S
            )

        assert deployment.artifacts.read("metadata/timestamp.json") == before

    def test_unknown_root_key_is_refused(self, deployment: Deployment) -> None:
        """Devices follow a new root key only if the old one signed it, too."""
        path = KeyFolder(deployment.keys).path(Role.ROOT)
        path.unlink()
        SigningKey.generate().save(path)

        with pytest.raises(ConfigError, match="keys rotate"):
            renew_repository(deployment.storage, deployment.keys)

    def test_root_that_is_no_metadata_is_found(self, deployment: Deployment) -> None:
        """Renewing stops before it writes anything."""
        (deployment.layout.metadata / "1.root.json").write_bytes(b"{}")

        with pytest.raises(MalformedArtifactError, match="TUF root metadata"):
            renew_repository(deployment.storage, deployment.keys)

    def test_repository_of_an_earlier_release_is_brought_up_to_date(
        self, deployment: Deployment
    ) -> None:
        """Targets that do not list bundles are refused with an advice, which helps."""
        deployment.publish(deployment.bundle(model_name="other"))
        forget_bundles(deployment)
        newer = deployment.bundle(version=2)
        with pytest.raises(MalformedArtifactError, match="keys renew"):
            deployment.publish(newer)

        renew_repository(deployment.storage, deployment.keys, clock=deployment.clock)
        deployment.publish(newer)

        client = deployment.tuf_client()
        assert decode_manifest(download(client, "demo/manifest.pb")).version == 2
        for part in decode_manifest(download(client, "other/manifest.pb")).parts:
            assert client.get_targetinfo(f"parts/{part.sha256.hex()}") is not None


def forget_bundles(deployment: Deployment) -> None:
    """Sign the targets as a release did that did not list bundles."""
    editor = TufEditor(
        deployment.artifacts,
        KeyFolder(deployment.keys),
        datetime.fromtimestamp(deployment.clock.now_s, UTC),
    )
    with editor.edit_targets() as targets:
        targets.unrecognized_fields.clear()
        targets.targets = {
            path: target for path, target in targets.targets.items() if "/bundles/" not in path
        }
    editor.seal()
    editor.commit()


def test_second_writer_waits_and_then_gives_up(deployment: Deployment) -> None:
    """Publishing and refreshing take turns; nobody waits forever."""
    impatient = replace(deployment.storage, lock_timeout_s=0.0)

    with deployment.storage.writing(), pytest.raises(StoreLockedError, match="has been held"):
        deployment.publish(deployment.bundle(version=2), storage=impatient)
