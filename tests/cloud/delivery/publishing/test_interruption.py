# SPDX-License-Identifier: Apache-2.0
"""Publishing breaks off at each of its writes in turn, files in every kind of store and records."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.faulty_storage import Fault, faulty
from tests.cloud.delivery.tuf_clients import download

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.publishing.artifacts import (
    ArtifactStore,
    FolderArtifacts,
    open_artifacts,
)
from pocketrec_cloud.delivery.publishing.bundles import promote_bundle
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_cloud.delivery.publishing.storage import Storage
from pocketrec_cloud.delivery.stores.memory import MemoryStore
from pocketrec_quantization.bundle import decode_manifest

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

# manifest, item table, card, sensitivities, record, targets, snapshot, timestamp
N_WRITES = 8
N_CONTENTS = 3  # which lie there already when a publication is repeated
BEFORE_THE_TIMESTAMP = range(N_WRITES - 1)


@pytest.fixture(params=["folder", "bucket"])
def stored(request: pytest.FixtureRequest, deployment: Deployment) -> Deployment:
    """A deployment whose files lie in a folder, or in a bucket."""
    if request.param == "folder":
        return deployment
    artifacts = open_artifacts(request.getfixturevalue("bucket"))
    for path in deployment.store.rglob("*"):
        if path.is_file():
            artifacts.write(str(path.relative_to(deployment.store)), path.read_bytes())
    return replace(deployment, artifacts_elsewhere=artifacts)


def versions(deployment: Deployment) -> int:
    """Return the version a device gets, after fetching all of it."""
    client = deployment.tuf_client()
    manifest = decode_manifest(download(client, "demo/manifest.pb"))
    for part in manifest.parts:
        download(client, f"parts/{part.sha256.hex()}")
    return manifest.version


class TestPublishing:
    @pytest.mark.parametrize("step", BEFORE_THE_TIMESTAMP)
    def test_old_publication_stays_and_retry_succeeds(self, step: int, stored: Deployment) -> None:
        """Whatever write fails, devices keep version 1 until a retry brings version 2."""
        newer = stored.bundle(version=2)
        stored.tuf_client().refresh()

        with pytest.raises((OSError, StoreError), match="disk full"):
            stored.publish(newer, storage=faulty(stored.artifacts, Fault(at=step)))
        after_crash = versions(stored)
        stored.publish(newer)

        assert (after_crash, versions(stored)) == (1, 2)

    @pytest.mark.parametrize("step", BEFORE_THE_TIMESTAMP)
    def test_lost_answer_is_no_publication_either(self, step: int, deployment: Deployment) -> None:
        """A write that took effect although it failed publishes nothing, and a retry does."""
        newer = deployment.bundle(version=2)

        with pytest.raises((OSError, StoreError), match="disk full"):
            deployment.publish(
                newer, storage=faulty(deployment.artifacts, Fault(at=step, lands=True))
            )
        after_crash = versions(deployment)
        deployment.publish(newer)

        assert (after_crash, versions(deployment)) == (1, 2)

    def test_timestamp_decides(self, stored: Deployment) -> None:
        """If it does not land the old publication stays, and if only the answer is lost it does."""
        newer, seen = stored.bundle(version=2), []

        for at, lands in ((N_WRITES - 1, False), (N_WRITES - 1 - N_CONTENTS, True)):
            with pytest.raises(OSError, match="disk full"):
                stored.publish(newer, storage=faulty(stored.artifacts, Fault(at=at, lands=lands)))
            seen.append(versions(stored))

        assert seen == [1, 2]

    def test_timestamp_is_the_last_write(self, stored: Deployment) -> None:
        """Contents come before the record, that before the metadata, the timestamp after all."""
        fault = Fault(at=None)

        stored.publish(stored.bundle(version=2), storage=faulty(stored.artifacts, fault))

        assert len(fault.written) == N_WRITES
        assert fault.written[-4:] == [
            "record",
            "metadata/3.targets.json",
            "metadata/3.snapshot.json",
            "metadata/timestamp.json",
        ]

    @pytest.mark.parametrize("step", range(3))
    def test_promotion_can_be_repeated(self, step: int, stored: Deployment) -> None:
        """The old bundle is current until the promotion is whole."""
        candidate = stored.bundle(version=2)
        stored.publish(candidate, is_candidate=True)
        storage = faulty(stored.artifacts, Fault(at=step))

        with pytest.raises(OSError, match="disk full"):
            promote_bundle(storage, stored.keys, "demo", candidate.digest, clock=stored.clock)
        after_crash = versions(stored)
        promote_bundle(stored.storage, stored.keys, "demo", candidate.digest, clock=stored.clock)

        assert (after_crash, versions(stored)) == (1, 2)


class TestCreation:
    @pytest.mark.parametrize("step", range(5))  # director.json, targets, snapshot, root, timestamp
    def test_interrupted_creation_can_be_repeated(
        self, step: int, tmp_path: Path, deployment: Deployment
    ) -> None:
        """Half a repository is none: creating it again succeeds."""
        artifacts: ArtifactStore = FolderArtifacts(tmp_path / "other")
        with pytest.raises(OSError, match="disk full"):
            create_repository(faulty(artifacts, Fault(at=step)), deployment.keys)

        create_repository(Storage(artifacts=artifacts, database=MemoryStore()), deployment.keys)

        assert "director.json" in read_publication(artifacts).files
