# SPDX-License-Identifier: Apache-2.0
"""What is noticed of publications, and when."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.cloud.delivery.conftest import Deployment

from pocketrec.errors import StoreError
from pocketrec_cloud.delivery.publishing.artifacts import FolderArtifacts
from pocketrec_cloud.delivery.publishing.bundles import promote_bundle, withdraw_bundle
from pocketrec_cloud.delivery.publishing.layout import TIMESTAMP
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.publishing.repository import refresh_timestamp
from pocketrec_cloud.delivery.push.publications import PublicationWatch


class Ears:
    """Counts what it is told."""

    def __init__(self) -> None:
        self.n_told = 0

    def __call__(self) -> None:
        """Be told."""
        self.n_told += 1


class DyingArtifacts(FolderArtifacts):
    """Its process dies before the timestamp is written."""

    def write(self, name: str, content: bytes) -> None:
        """Write anything else."""
        if name == TIMESTAMP:
            raise KeyboardInterrupt
        super().write(name, content)


@pytest.fixture
def ears() -> Ears:
    """Somebody who listens."""
    return Ears()


@pytest.fixture
def watch(deployment: Deployment, ears: Ears) -> PublicationWatch:
    """A server's look at what is published."""
    return PublicationWatch(PublicationCache(deployment.artifacts), ears)


def test_every_change_of_what_is_published_is_told_once(
    deployment: Deployment, watch: PublicationWatch, ears: Ears
) -> None:
    """A candidate, its promotion, and the end of the bundle before it."""
    first = deployment.published[0]
    told = []

    watch.look()
    told.append(ears.n_told)
    candidate = deployment.publish(deployment.bundle(version=2), is_candidate=True)
    for change, digest in (
        (promote_bundle, candidate.bundle_digest),
        (withdraw_bundle, first.bundle_digest),
    ):
        watch.look()
        watch.look()
        told.append(ears.n_told)
        change(deployment.storage, deployment.keys, "demo", digest, clock=deployment.clock)
    watch.look()
    told.append(ears.n_told)

    assert told == [0, 1, 2, 3]


def test_interrupted_publication_is_told_when_it_is_in_force(
    deployment: Deployment, watch: PublicationWatch, ears: Ears
) -> None:
    """Whoever publishes dies with everything written but the timestamp, and does it again."""
    bundle = deployment.bundle(version=2)
    dying = replace(deployment.storage, artifacts=DyingArtifacts(deployment.store))
    with pytest.raises(KeyboardInterrupt):
        deployment.publish(bundle, storage=dying)
    watch.look()
    assert ears.n_told == 0

    deployment.publish(bundle)
    watch.look()

    assert ears.n_told == 1


def test_fresh_timestamp_is_no_publication(
    deployment: Deployment, watch: PublicationWatch, ears: Ears
) -> None:
    """A server signs timestamp and snapshot again and again; devices need not hear of it."""
    deployment.clock.now_s += 5 * 24 * 3600

    assert refresh_timestamp(deployment.storage, deployment.keys, deployment.clock.now_s)
    watch.look()

    assert ears.n_told == 0


def test_look_that_failed_is_made_up_for(
    deployment: Deployment, watch: PublicationWatch, ears: Ears, tmp_path: Path
) -> None:
    """The store was away while somebody published."""
    deployment.publish(deployment.bundle(version=2))
    away = deployment.store.rename(tmp_path / "away")
    with pytest.raises((StoreError, OSError)):
        watch.look()
    away.rename(deployment.store)

    watch.look()

    assert ears.n_told == 1


def test_untold_publication_stays_to_be_told(deployment: Deployment) -> None:
    """Whoever should hear of it failed; the next look tells it again."""
    told: list[int] = []

    def hear() -> None:
        told.append(1)
        if len(told) == 1:
            raise StoreError("not now")

    watch = PublicationWatch(PublicationCache(deployment.artifacts), hear)
    deployment.publish(deployment.bundle(version=2))

    with pytest.raises(StoreError):
        watch.look()
    watch.look()
    watch.look()

    assert len(told) == 2
