# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import sparse

Draw = Callable[..., sparse.csr_array]


@pytest.fixture(scope="session")
def draw() -> Draw:
    """Draws interactions of users and items in groups, with some across groups."""

    def drawn(
        n_users: int = 60, n_items: int = 40, n_groups: int = 5, seed: int = 0
    ) -> sparse.csr_array:
        rng = np.random.default_rng(seed)
        groups = rng.integers(n_groups, size=n_users), rng.integers(n_groups, size=n_items)
        is_inner = groups[0][:, None] == groups[1]
        chances = np.where(is_inner, 0.5, 0.03)
        return sparse.csr_array((rng.random((n_users, n_items)) < chances).astype(np.float32))

    return drawn


@pytest.fixture(scope="session")
def two_groups() -> sparse.csr_array:
    """Three users of items 0 and 1, and three users of items 2 and 3."""
    dense: NDArray[np.float32] = np.kron(np.eye(2), np.ones((3, 2))).astype(np.float32)
    return sparse.csr_array(dense)
