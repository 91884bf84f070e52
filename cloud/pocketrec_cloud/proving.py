# SPDX-License-Identifier: Apache-2.0
"""Makes the test vectors of a bundle, after comparing reference and trained model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pocketrec.errors import QuantizationError
from pocketrec_cloud.export import with_weights
from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.references import reference_of
from pocketrec_quantization.vectors import TestVectors, VectorCase

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_quantization.frozen import FrozenModel
    from pocketrec_quantization.item_table import ItemTable
    from pocketrec_quantization.manifest import BackboneConfig
    from pocketrec_quantization.plan import Plan

__all__ = ["make_vectors", "reference_vectors", "score_tolerance"]

N_CASES = 8
N_CANDIDATES = 32
BACKENDS = ("numpy", "onnxruntime", "executorch")


def make_vectors(
    model: Backbone,
    frozen: FrozenModel,
    items: ItemTable,
    plan: Plan,
    *,
    config: BackboneConfig,
    seed: int,
) -> TestVectors:
    """Score generated histories with the reference: a bundle holds nobody's real events.

    Args:
        model: The float backbone in device form.
        frozen: The same, quantized.
        items: Its item table.
        plan: The default plan.
        config: The backbone's shape.
        seed: Seed of histories and candidates.

    Returns:
        Cases with histories of 1 to L events, the shortest and the longest among them.

    Raises:
        QuantizationError: The reference executor disagrees with the trained model.
    """
    vectors = reference_vectors(frozen, items, plan, config=config, seed=seed)
    adapted = with_weights(model, frozen.adapt(plan.widths))
    _check_against_torch(adapted, items, vectors)
    return vectors


def reference_vectors(
    frozen: FrozenModel, items: ItemTable, plan: Plan, *, config: BackboneConfig, seed: int
) -> TestVectors:
    """Score generated histories with the reference, which no trained model vouches for.

    Args:
        frozen: The quantized weights.
        items: The item table.
        plan: The default plan.
        config: The backbone's shape.
        seed: Seed of histories and candidates.
    """
    rng = np.random.default_rng(seed)
    reference = reference_of(frozen, plan.widths, config)
    cases = []
    for number in range(N_CASES):
        length = [1, config.window][number] if number < 2 else rng.integers(1, config.window + 1)
        history = rng.integers(1, items.n_items + 1, length).astype(np.int32)
        candidates = rng.integers(1, items.n_items + 1, N_CANDIDATES).astype(np.int32)
        h = reference.state_after(items.embed(history))
        scores = reference.score(h, items.embed(candidates))
        cases.append(VectorCase(history=history, candidates=candidates, scores=scores))
    tolerance = score_tolerance(config, max(float(np.abs(c.scores).max()) for c in cases))
    return TestVectors(cases=tuple(cases), tolerance=dict.fromkeys(BACKENDS, tolerance))


def score_tolerance(config: BackboneConfig, largest_score: float) -> float:
    """Return how far float32 arithmetic may move a score.

    Codes and scales are exact on every machine and products of them are rounded once, so
    widths do not enter: what remains are the roundings of float32 accumulation, relative
    to the largest score. Of a SASRec these are some D terms in each of a block's eight
    products; of a Caser the terms of its highest filters and of its last layer, and D.

    Args:
        config: The backbone's shape.
        largest_score: Largest absolute score of the cases.

    Returns:
        Largest absolute difference to accept.

    Source:
        The usual bound n u / (1 - n u) on sums of n terms (Higham 2002, chapter 3).
    """
    unit_roundoff = 2.0**-24
    return float(_n_terms(config) * unit_roundoff * max(largest_score, 1.0))


def _n_terms(config: BackboneConfig) -> int:
    """Count the terms of the sums that lead to a score, one after the other."""
    if config.kind == "caser":
        *_, highest, _, last = coded_layers(config)
        return highest.n_elements + last.n_elements + config.embedding_dim
    return 8 * config.n_blocks * config.embedding_dim * config.ffn_multiplier


def _check_against_torch(adapted: Backbone, items: ItemTable, vectors: TestVectors) -> None:
    """Compare the reference executor with the model that was trained."""
    table = torch.from_numpy(items.embed(np.arange(items.n_items + 1, dtype=np.int32)))
    adapted.eval().item_embedding = nn.Embedding(table.shape[0], table.shape[1], _weight=table)
    for case in vectors.cases:
        with torch.inference_mode():
            history = torch.from_numpy(case.history.astype(np.int64))[None]
            h = adapted.last_states(history, torch.tensor([case.history.shape[0]]))[0]
            candidates = torch.from_numpy(case.candidates.astype(np.int64))
            scores = (table[candidates] @ h).numpy()
        worst = float(np.abs(scores - case.scores).max())
        if not worst <= vectors.tolerance_of("numpy"):  # NaN must fail too
            raise QuantizationError(
                f"expected the reference executor within {vectors.tolerance_of('numpy'):.2g} of "
                f"the trained model, found a score {worst:.2g} off; do not publish this bundle"
            )
