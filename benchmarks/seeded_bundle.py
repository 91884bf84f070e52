# SPDX-License-Identifier: Apache-2.0
"""Bundles and plans drawn from a seed: of any shape, in seconds, without torch.

Weights keep the variance of what they multiply, so that scores are of ordinary size and
kernels that round their inputs pass a device's health check; nothing was trained.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.shapes import Shape
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    EXTRACT,
    EXTRACT_VECTORS,
    FROZEN,
    ITEMS,
    PREFILL,
    SCORE,
    STEP,
    VECTORS,
    BundleFolder,
    ExtractorInfo,
    ItemTableInfo,
    Manifest,
    write_bundle,
)
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.manifest import schema_minor_of
from pocketrec_quantization.plan import Plan, encode_plan
from pocketrec_quantization.quantizer import freeze_matrix
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import tiny_extract_vectors, tiny_extractor, tiny_plan
from pocketrec_quantization.vectors import TestVectors, VectorCase

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["MODEL_NAME", "shuffled_plan", "write_seeded_bundle"]

MODEL_NAME = "seeded"
_CREATED_AT_S = 1_700_000_000


def write_seeded_bundle(
    folder: Path,
    shape: Shape,
    *,
    seed: int = 0,
    has_extractor: bool = False,
    ffn_multiplier: int = 1,
) -> BundleFolder:
    """Write a bundle that devices accept; its default plan has random codes.

    Args:
        folder: Where to; made when absent.
        shape: D, L, blocks and V of the model.
        seed: Of weights, items and the plan.
        has_extractor: Whether devices can make user embeddings, which a personal planner
            needs; its weights are as random.
        ffn_multiplier: Width of the feed-forward layers as a multiple of D.
    """
    from pocketrec_cloud.onnx_graphs import write_graphs

    extractor = ExtractorInfo(kind="gru", window=shape.window) if has_extractor else None
    config = BackboneConfig(
        kind="sasrec",
        embedding_dim=shape.d,
        n_blocks=shape.blocks,
        n_heads=shape.n_heads,
        window=shape.window,
        ffn_multiplier=ffn_multiplier,
    )
    rng = np.random.default_rng(seed)
    frozen = _frozen(config, rng)
    embeddings = rng.normal(size=(shape.n_items + 1, shape.d)).astype(np.float32)
    ids = [f"item-{index}" for index in range(1, shape.n_items + 1)]
    items = ItemTable.from_embeddings(embeddings, ids, version=1)
    plan = tiny_plan(frozen.layers, frozen.digest)
    graphs = write_graphs(frozen.dense, config)
    manifest = Manifest(
        model_name=MODEL_NAME,
        version=1,
        created_at_s=_CREATED_AT_S,
        backbone=config,
        items=ItemTableInfo.of(items),
        layers=frozen.layers,
        license="CC0-1.0",
        extractor=extractor,
        schema_minor=schema_minor_of(config, extractor),
    )
    parts = {
        FROZEN: frozen.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(plan, None),
        VECTORS: _vectors(frozen, items, plan, config).to_bytes(),
        PREFILL: graphs["prefill"],
        STEP: graphs["step"],
        SCORE: graphs["score"],
    }
    if has_extractor:
        parts |= _extract_parts(items, shape.d, seed)
    write_bundle(folder, manifest, parts)
    return BundleFolder.open(folder)


def shuffled_plan(plan: Plan, *, seed: int) -> Plan:
    """Return a plan with as many channels of each width per layer, but other ones.

    Args:
        plan: What to shuffle.
        seed: Of the order.
    """
    rng = np.random.default_rng(seed)
    by_layer = split_by_layer(plan.codes, plan.layers)
    codes = np.concatenate([rng.permutation(by_layer[layer.name]) for layer in plan.layers])
    return replace(plan, codes=codes, planner=f"shuffled-{seed}")


def _extract_parts(items: ItemTable, embedding_dim: int, seed: int) -> dict[str, bytes]:
    """Return an extractor and its test vectors."""
    from pocketrec_cloud.onnx_graphs import write_extract_graph

    extractor = tiny_extractor(embedding_dim, seed=seed)
    return {
        EXTRACT: write_extract_graph(extractor),
        EXTRACT_VECTORS: tiny_extract_vectors(extractor, items).to_bytes(),
    }


def _frozen(config: BackboneConfig, rng: np.random.Generator) -> FrozenModel:
    def draw(std: float, shape: tuple[int, ...]) -> NDArray[np.float32]:
        return rng.normal(0, std, shape).astype(np.float32)

    matrices = {
        layer.name: freeze_matrix(
            draw(layer.n_elements**-0.5, (layer.n_channels, layer.n_elements))
        )
        for layer in coded_layers(config)
    }
    dense = {
        name: draw(0.1, shape) + np.float32(name.endswith("norm.weight"))
        for name, shape in dense_shapes(config).items()
    }
    return FrozenModel(matrices=matrices, dense=dense)


def _vectors(
    frozen: FrozenModel, items: ItemTable, plan: Plan, config: BackboneConfig
) -> TestVectors:
    """Return what the reference executor computes for a short and a full history."""
    reference = ReferenceBackend.from_model(frozen, plan.widths, config)
    rng = np.random.default_rng(0)
    cases = []
    for n_events in (2, config.window):
        history, candidates = (
            rng.integers(1, items.n_items + 1, n).astype(np.int32) for n in (n_events, 20)
        )
        h = reference.prefill(items.embed(history)).h
        scores = reference.score(h, items.embed(candidates))
        cases.append(VectorCase(history=history, candidates=candidates, scores=scores))
    tolerance = 1e-4 * float(max(np.abs(case.scores).max() for case in cases))
    return TestVectors(
        cases=tuple(cases), tolerance=dict.fromkeys(("numpy", "onnxruntime"), tolerance)
    )
