# SPDX-License-Identifier: Apache-2.0
"""Small interaction graphs for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import sparse

from pocketrec_cloud.collaborative import InteractionSplit


def matrix(pairs: list[tuple[int, int]], shape: tuple[int, int]) -> Any:
    """Return pairs as a CSR matrix of ones."""
    rows, columns = np.array(pairs, np.int64).reshape(-1, 2).T
    return sparse.csr_matrix((np.ones(rows.size, np.float32), (rows, columns)), shape=shape)


def blocks(n_users: int, n_items: int, *, n_blocks: int = 4, seed: int = 0) -> InteractionSplit:
    """Return a split in which users mostly meet items of their own block."""
    rng = np.random.default_rng(seed)
    likely = np.arange(n_users)[:, None] % n_blocks == np.arange(n_items)[None, :] % n_blocks
    met = rng.random((n_users, n_items)) < np.where(likely, 0.5, 0.02)
    part = rng.random(met.shape)
    return InteractionSplit(
        train=sparse.csr_matrix((met & (part < 0.7)).astype(np.float32)),
        validation=sparse.csr_matrix((met & (part >= 0.7) & (part < 0.85)).astype(np.float32)),
        test=sparse.csr_matrix((met & (part >= 0.85)).astype(np.float32)),
    )
