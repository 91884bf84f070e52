# SPDX-License-Identifier: Apache-2.0
"""A personal planner with random networks, and users drawn from a seed: speed is all they show."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.layers import LayerTable, total_channels
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner
from pocketrec_quantization.planners import sensitivity_to_bytes

__all__ = ["make_sensitivity", "make_users", "seeded_planner"]


def seeded_planner(
    layers: LayerTable, model_digest: bytes, *, embedding_dim: int, seed: int = 0
) -> PersonalPlanner:
    """Return a planner of the default size that nobody trained.

    Args:
        layers: The layers that it plans for.
        model_digest: 32 bytes.
        embedding_dim: D.
        seed: Of its networks.
    """
    config = HypernetworkConfig(embedding_dim=embedding_dim)
    rng = np.random.default_rng(seed)
    arrays = {
        name: rng.normal(0, 0.3, shape).astype(np.float32)
        for name, shape in config.shapes(layers).items()
    }
    arrays["score/gain"] = np.ones_like(arrays["score/gain"])
    return PersonalPlanner(layers=layers, model_digest=model_digest, config=config, arrays=arrays)


def make_users(n_users: int, embedding_dim: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Return user embeddings, (U, D) float32.

    Args:
        n_users: U.
        embedding_dim: D.
        seed: Of the draws.
    """
    draws = np.random.default_rng(seed).normal(size=(n_users, embedding_dim))
    return draws.astype(np.float32)


def make_sensitivity(layers: LayerTable, *, seed: int = 0) -> bytes:
    """Return losses that fall with the width, which a publication needs.

    Args:
        layers: The model's layers.
        seed: Of the draws.
    """
    losses = np.sort(np.random.default_rng(seed).random((total_channels(layers), 3)), axis=1)
    return sensitivity_to_bytes(losses[:, ::-1].copy())
