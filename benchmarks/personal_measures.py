# SPDX-License-Identifier: Apache-2.0
"""What a setup of ``personal`` weighs on a device, and how slices differ between users."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.bitpack import packed_size
from pocketrec_quantization.budget import coded_bytes
from pocketrec_quantization.layers import (
    LayerShape,
    total_channels,
    total_weights,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.personal_model import Trained
    from pocketrec_quantization.layers import LayerTable

__all__ = ["resident_layers", "sizes", "spread"]

_MAX_CLOUD = 400  # pairs of users in a plot


def resident_layers(dim: int, n_blocks: int, width: int) -> LayerTable:
    """Return what a device multiplies by, with ``width`` channels of each pool.

    Rows of the first feed-forward matrix and columns of the second come and go together.
    """
    layers = []
    for block in range(n_blocks):
        layers += [LayerShape(f"blocks.{block}.{name}", dim, dim) for name in "qkvo"]
        layers.append(LayerShape(f"blocks.{block}.ffn1", width, dim))
        layers.append(LayerShape(f"blocks.{block}.ffn2", dim, width))
    return tuple(layers)


def sizes(trained: Trained) -> dict[str, Any]:
    """Return the sizes that go with what was trained."""
    setup, model, n_blocks = trained.setup, trained.sliced.backbone, trained.sliced.n_blocks
    config = model.config
    whole = coded_layers(config.architecture())
    is_sliced = setup.plan != "none"
    kept = resident_layers(config.embedding_dim, n_blocks, trained.n_kept)
    layers = kept if is_sliced else tuple(whole)
    n_weights = total_weights(layers)
    if setup.bits:
        codes = np.full(total_channels(layers), setup.bits, np.uint8)
        weights = coded_bytes(layers, codes)
    else:
        weights = 4 * n_weights
    plan = 0
    if setup.rival == "codes":
        plan = packed_size(n_blocks * config.embedding_dim)
    elif setup.rival:
        n_vectors = 2 if setup.rival == "adapter" else 1
        plan = 0 if setup.is_blind else n_blocks * n_vectors * (config.embedding_dim + 4)
    elif is_sliced:
        plan = packed_size(total_channels(tuple(whole)))
    coded = {f"{name}.weight" for name in model.coded_names()}
    dense = sum(
        value.numel()
        for name, value in model.named_parameters()
        if name != "item_embedding.weight" and name not in coded and "parametrizations" not in name
    )
    items = config.n_items * (config.embedding_dim + 4 if setup.bits else 4 * config.embedding_dim)
    return {
        "effective_bits": 8 * weights / n_weights,
        "plan_bytes": plan,
        "resident_bytes": weights,
        "resident_weights": n_weights,
        "model_bytes": weights + items + 4 * dense,
        "window": config.window,
    }


def spread(slices: NDArray[np.bool_], z: NDArray[np.float32]) -> dict[str, Any]:
    """Return how slices differ between users, and whether they do as interests do."""
    rng = np.random.default_rng(0)
    flat = slices.reshape(len(slices), -1)
    first, second = rng.integers(0, len(flat), (2, _MAX_CLOUD))
    apart = first != second
    first, second = first[apart], second[apart]
    centred = z - z.mean(axis=0)
    lengths = np.linalg.norm(centred, axis=1) + 1e-12
    cosine = (centred[first] * centred[second]).sum(axis=1) / (lengths[first] * lengths[second])
    distance = (flat[first] != flat[second]).mean(axis=1)
    frequency = flat.mean(axis=0)
    is_flat = np.ptp(distance) == 0
    return {
        "channels_that_differ": float(distance.mean()),
        "width_std": float(np.sqrt(frequency * (1 - frequency)).mean()),
        "distinct_plans": len(np.unique(np.packbits(flat, axis=1), axis=0)) / len(flat),
        "correlation": 0.0 if is_flat else float(np.corrcoef(1 - cosine, distance)[0, 1]),
        "interest_distance": np.round(1 - cosine, 4).tolist(),
        "plan_distance": np.round(distance, 4).tolist(),
        "frequency": np.round(frequency, 4).tolist(),
    }
