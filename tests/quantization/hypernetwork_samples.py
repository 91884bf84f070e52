# SPDX-License-Identifier: Apache-2.0
"""Planners with random networks, for tests of planners."""

from __future__ import annotations

import numpy as np

from pocketrec_quantization.layers import LayerShape, LayerTable
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner

LAYERS = (LayerShape("a", 5, 7), LayerShape("b", 8, 4), LayerShape("c", 3, 9))
CONFIG = HypernetworkConfig(embedding_dim=6, hidden_dim=4, rank=2)
DIGEST = bytes(range(32))


def random_planner(
    config: HypernetworkConfig = CONFIG, layers: LayerTable = LAYERS, *, seed: int = 0
) -> PersonalPlanner:
    """Return a planner that nobody trained."""
    rng = np.random.default_rng(seed)
    shapes = config.shapes(layers)
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    return PersonalPlanner(layers=layers, model_digest=DIGEST, config=config, arrays=arrays)


def random_users(n_users: int, *, dim: int = 6, seed: int = 1) -> np.ndarray:
    """Return user embeddings, (U, D) float32."""
    return np.random.default_rng(seed).normal(size=(n_users, dim)).astype(np.float32)
