# SPDX-License-Identifier: Apache-2.0
"""An identity service on a store in memory, with a clock that a test moves."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.identity.service import IdentityService
from pocketrec_cloud.delivery.stores.memory import MemoryStore


@dataclass
class MovedClock:
    """Unix seconds that move only when a test says so."""

    now_s: float = 1_800_000_000

    def __call__(self) -> float:
        """Tell the time."""
        return self.now_s


@pytest.fixture
def clock() -> MovedClock:
    """The server's clock."""
    return MovedClock()


@pytest.fixture
def store() -> MemoryStore:
    """What the server remembers."""
    return MemoryStore()


@pytest.fixture
def identity(store: MemoryStore, clock: MovedClock) -> IdentityService:
    """What is tested."""
    return IdentityService.of(
        store,
        SigningKey(b"d" * 32),
        recall_session=lambda _: None,
        limits=Limits(),
        clock=clock,
    )
