# SPDX-License-Identifier: Apache-2.0
"""A desk for calls about rollouts, on a repository with version 1 of the model "demo"."""

from __future__ import annotations

import pytest
from tests.cloud.delivery.conftest import Deployment

from pocketrec.signing import PublicKey
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.publication import PublicationCache
from pocketrec_cloud.delivery.records import ModelRecord
from pocketrec_cloud.delivery.rollouts.desk import RolloutDesk, make_desk


@pytest.fixture
def candidate(deployment: Deployment) -> ModelRecord:
    """Version 2, published as a candidate."""
    return deployment.publish(deployment.bundle(version=2, seed=1), is_candidate=True)


@pytest.fixture
def desk(deployment: Deployment) -> RolloutDesk:
    """What the handlers work on."""
    key = KeyFolder(deployment.keys).load(Role.DIRECTOR)
    publication = PublicationCache(deployment.artifacts)
    return make_desk(deployment.database, publication, key, deployment.clock)


@pytest.fixture
def director(deployment: Deployment) -> PublicKey:
    """What checks the director's signatures."""
    return KeyFolder(deployment.keys).load(Role.DIRECTOR).public
