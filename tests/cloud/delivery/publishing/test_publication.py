# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pocketrec.errors import IntegrityError, MalformedArtifactError, StoreError
from pocketrec_cloud.delivery.publishing.artifacts import FolderArtifacts
from pocketrec_cloud.delivery.publishing.publication import (
    PublicationCache,
    latest_root,
    read_publication,
)

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment


class TestPublicationCache:
    def test_new_publication_is_seen(self, empty: Deployment) -> None:
        """A reader that is already running finds what was published meanwhile."""
        cache = PublicationCache(empty.artifacts)
        assert "demo/manifest.pb" not in cache.current().files

        empty.publish(empty.bundle())

        assert "demo/manifest.pb" in cache.current().files

    def test_unchanged_metadata_is_not_read_again(self, deployment: Deployment) -> None:
        """The same publication is the same object."""
        cache = PublicationCache(deployment.artifacts)

        assert cache.current() is cache.current()

    def test_damaged_metadata_is_found(self, deployment: Deployment) -> None:
        """A snapshot that the timestamp does not vouch for is not served from."""
        snapshot = deployment.layout.metadata / "2.snapshot.json"
        snapshot.write_bytes(snapshot.read_bytes() + b" ")

        with pytest.raises(IntegrityError, match=r"2\.snapshot\.json"):
            PublicationCache(deployment.artifacts).current()

    def test_bytes_that_are_no_metadata_are_found(self, deployment: Deployment) -> None:
        """A timestamp that cannot be read is named as such."""
        deployment.layout.timestamp.write_bytes(b"{}")

        with pytest.raises(MalformedArtifactError, match="expected TUF metadata"):
            PublicationCache(deployment.artifacts).current()

    def test_metadata_file_is_read_once(self, deployment: Deployment) -> None:
        """Until something else is published, a file is answered from memory."""
        cache = PublicationCache(deployment.artifacts)
        first = cache.metadata("2.snapshot.json")
        (deployment.layout.metadata / "2.snapshot.json").unlink()

        assert cache.metadata("2.snapshot.json") == first

    def test_new_metadata_is_seen(self, deployment: Deployment) -> None:
        """A new publication is answered with at once."""
        cache = PublicationCache(deployment.artifacts)
        before = cache.metadata("timestamp.json")

        deployment.publish(deployment.bundle(version=2))

        assert (
            cache.metadata("timestamp.json") == deployment.layout.timestamp.read_bytes() != before
        )

    def test_absent_metadata_is_asked_for_again(self, deployment: Deployment) -> None:
        """That a root does not exist yet is no fact that lasts."""
        cache = PublicationCache(deployment.artifacts)
        with pytest.raises(FileNotFoundError):
            cache.metadata("2.root.json")
        (deployment.layout.metadata / "2.root.json").write_bytes(b"new")

        assert cache.metadata("2.root.json") == b"new"


def test_store_without_a_repository_is_named(tmp_path: Path) -> None:
    """The message says how to make one."""
    with pytest.raises(StoreError, match="keys init"):
        read_publication(FolderArtifacts(tmp_path))
    with pytest.raises(StoreError, match="keys init"):
        latest_root(FolderArtifacts(tmp_path))
