# SPDX-License-Identifier: Apache-2.0
"""Small, complete artifacts for tests of whatever writes, carries or reads them.

Everything is drawn from a seed: equal arguments give equal bytes. A tiny bundle has
every part but the executable graphs, whose making needs more than NumPy.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.bundle import DEFAULT_PLAN, FROZEN, ITEMS, VECTORS
from pocketrec_quantization.extract_vectors import ExtractCase, ExtractVectors
from pocketrec_quantization.extractor import Extractor
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ROW_BITS, Codebook, ItemTable
from pocketrec_quantization.layers import LayerTable
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.manifest import ItemTableInfo, Manifest, schema_minor_of
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner
from pocketrec_quantization.plan import Plan, encode_plan, model_id
from pocketrec_quantization.planners import RandomPlanner
from pocketrec_quantization.quantizer import freeze_matrix
from pocketrec_quantization.references import reference_of
from pocketrec_quantization.vectors import TestVectors, VectorCase

__all__ = [
    "TABLE_KINDS",
    "TINY_CASER",
    "TINY_CONFIG",
    "random_table",
    "tiny_extract_vectors",
    "tiny_extractor",
    "tiny_frozen",
    "tiny_items",
    "tiny_manifest",
    "tiny_parts",
    "tiny_personal_planner",
    "tiny_plan",
    "tiny_vectors",
]

TINY_CONFIG = BackboneConfig(
    kind="sasrec", embedding_dim=4, n_blocks=2, n_heads=2, window=5, ffn_multiplier=2
)
"""Two blocks of four dimensions: 56 channels in 12 layers."""

TINY_CASER = BackboneConfig(
    kind="caser", embedding_dim=4, window=5, max_height=3, n_horizontal=3, n_vertical=2
)
"""Nine horizontal and two vertical filters over five events: 15 channels in 5 layers."""

TABLE_KINDS: dict[str, Callable[[int], list[tuple[int, int, int, bool]]]] = {
    "shared 8": lambda dim: [(8, 0, dim, True)],
    "4 bits": lambda dim: [(4, 0, dim, False)],
    "shared 4": lambda dim: [(4, 0, dim, True)],
    "one scale": lambda dim: [(8, 0, dim, True)],
    "product 8": lambda dim: [(8, begin, dim // 8, True) for begin in range(0, dim, dim // 8)],
    "product 4": lambda dim: [(4, begin, dim // 8, True) for begin in range(0, dim, dim // 8)],
    "corrected": lambda dim: [(8, 0, dim, True), (4, 0, dim - 1, True), (4, 3, 3, False)],
}
"""Tables of all kinds: bits, first column, width and whether items share rows, by D."""

_N_ITEMS = 6


def tiny_frozen(config: BackboneConfig = TINY_CONFIG, *, seed: int = 0) -> FrozenModel:
    """Return a frozen model with random weights."""
    rng = np.random.default_rng(seed)
    matrices = {
        layer.name: freeze_matrix(
            rng.normal(0, 0.5, (layer.n_channels, layer.n_elements)).astype(np.float32)
        )
        for layer in coded_layers(config)
    }
    dense = {
        name: rng.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in dense_shapes(config).items()
    }
    return FrozenModel(matrices=matrices, dense=dense)


def tiny_items(config: BackboneConfig = TINY_CONFIG, *, seed: int = 0) -> ItemTable:
    """Return a table of six items with random embeddings, ``item-1`` to ``item-6``."""
    shape = (_N_ITEMS + 1, config.embedding_dim)
    embeddings = np.random.default_rng(seed).normal(size=shape).astype(np.float32)
    item_ids = [f"item-{index}" for index in range(1, _N_ITEMS + 1)]
    return ItemTable.from_embeddings(embeddings, item_ids, version=1)


def random_table(
    kind: str, embedding_dim: int = 16, *, item_ids: Sequence[str] = (), seed: int = 0
) -> ItemTable:
    """Return a table with random rows.

    Args:
        kind: One of ``TABLE_KINDS``: the codebooks' widths and how they lie.
        embedding_dim: D; a multiple of 8.
        item_ids: V ids; empty = twenty, ``item-1`` to ``item-20``.
        seed: Equal seeds make equal tables.
    """
    ids = tuple(item_ids) or tuple(f"item-{index}" for index in range(1, 21))
    rng, n_rows = np.random.default_rng(seed), max(2, len(ids) // 2)
    codebooks = tuple(
        Codebook.from_rows(
            rng.standard_normal((n_rows if is_shared else len(ids) + 1, width), np.float32),
            bits=bits,
            begin=begin,
        )
        for bits, begin, width, is_shared in TABLE_KINDS[kind](embedding_dim)
    )
    if kind == "one scale":
        codebooks = (replace(codebooks[0], scales=np.array([0.25], np.float32)),)
    row_of_item = np.stack(
        [
            np.concatenate([[0], 1 + rng.permutation(len(ids)) % (codebook.n_rows - 1)])
            if codebook.n_rows <= len(ids)
            else np.arange(len(ids) + 1)
            for codebook in codebooks
        ],
        axis=1,
    )
    return ItemTable(codebooks=codebooks, row_of_item=row_of_item, item_ids=ids, version=1)


def tiny_plan(layers: LayerTable, model_digest: bytes, **changes: Any) -> Plan:
    """Return a plan of 3 bits on average with random codes.

    Args:
        layers: The model's layers.
        model_digest: The model's digest.
        **changes: Other values for fields of the plan.
    """
    budget = budget_bytes(layers, 3.0)
    plan = Plan(
        model_id=model_id(model_digest),
        levels=DEFAULT_LEVELS,
        layers=layers,
        codes=RandomPlanner(layers, seed=0).plan([None], budget)[0],
        budget_bytes=budget,
        subject="",
        planner="random",
        version=0,
        issued_at_s=1_700_000_000,
        expires_at_s=0,
        key_id=b"",
    )
    return replace(plan, **changes)


def tiny_vectors(
    frozen: FrozenModel, items: ItemTable, plan: Plan, config: BackboneConfig = TINY_CONFIG
) -> TestVectors:
    """Return two cases, scored by the reference executor."""
    backend = reference_of(frozen, plan.widths, config)
    candidates = np.arange(1, items.n_items + 1, dtype=np.int32)
    cases = []
    for length in (1, config.window):
        history = np.arange(1, length + 1, dtype=np.int32)
        h = backend.state_after(items.embed(history))
        scores = backend.score(h, items.embed(candidates))
        cases.append(VectorCase(history=history, candidates=candidates, scores=scores))
    return TestVectors(cases=tuple(cases), tolerance={"numpy": 1e-6, "onnxruntime": 1e-5})


def tiny_parts(config: BackboneConfig = TINY_CONFIG) -> dict[str, bytes]:
    """Return part name to content of a whole bundle, graphs apart."""
    frozen, items = tiny_frozen(config), tiny_items(config)
    plan = tiny_plan(frozen.layers, frozen.digest)
    return {
        FROZEN: frozen.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(plan, None),
        VECTORS: tiny_vectors(frozen, items, plan, config).to_bytes(),
    }


def tiny_manifest(config: BackboneConfig = TINY_CONFIG) -> Manifest:
    """Return the manifest of :func:`tiny_parts`, without its parts."""
    return Manifest(
        model_name="tiny",
        version=1,
        created_at_s=1_700_000_000,
        backbone=config,
        items=ItemTableInfo(n_items=_N_ITEMS, n_rows=_N_ITEMS + 1, row_bits=ROW_BITS, version=1),
        layers=coded_layers(config),
        license="CC0-1.0",
        producer="pocketrec tests",
        schema_minor=schema_minor_of(config),
    )


def tiny_extractor(embedding_dim: int = TINY_CONFIG.embedding_dim, *, seed: int = 0) -> Extractor:
    """Return an extractor with random weights."""
    rng, dim = np.random.default_rng(seed), embedding_dim
    shapes = {
        "weight_ih": (3 * dim, dim),
        "weight_hh": (3 * dim, dim),
        "bias_ih": (3 * dim,),
        "bias_hh": (3 * dim,),
    }
    return Extractor.from_arrays(
        {name: rng.normal(0, 0.5, shape).astype(np.float32) for name, shape in shapes.items()}
    )


def tiny_extract_vectors(extractor: Extractor, items: ItemTable) -> ExtractVectors:
    """Return two cases, computed by the reference."""
    cases = []
    for length in (1, items.n_items):
        history = np.arange(1, length + 1, dtype=np.int32)
        cases.append(ExtractCase(history=history, z=extractor.embed(items.embed(history))))
    return ExtractVectors(cases=tuple(cases), tolerance=1e-5)


def tiny_personal_planner(
    layers: LayerTable,
    model_digest: bytes,
    embedding_dim: int = TINY_CONFIG.embedding_dim,
    *,
    seed: int = 0,
) -> PersonalPlanner:
    """Return a planner of random networks: other embeddings get clearly other plans.

    Args:
        layers: The model's layers.
        model_digest: The model's digest.
        embedding_dim: D, of user embeddings.
        seed: Equal seeds make equal planners.
    """
    rng = np.random.default_rng(seed)
    config = HypernetworkConfig(embedding_dim=embedding_dim, hidden_dim=8, rank=2)
    arrays = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in config.shapes(layers).items()
    }
    arrays["hidden/weight"] *= np.float32(10)
    arrays["score/gain"] = np.ones_like(arrays["score/gain"])
    arrays["score/shift"] = np.zeros_like(arrays["score/shift"])
    return PersonalPlanner(layers=layers, model_digest=model_digest, config=config, arrays=arrays)
