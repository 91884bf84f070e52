# SPDX-License-Identifier: Apache-2.0
"""Builds what ``rerank`` measures: an untrained bundle per shape, and the same weights apart.

The weights are those of the bundle's default plan, dequantized, and so are the item
embeddings: every method computes with the same numbers. They are random, for only time is
measured; what each method answers is compared with the reference executor's scores.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from benchmarks.shapes import Shape
from pocketrec.files import write_atomically
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.peers import FloatNetwork

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_quantization.bundle import BundleFolder

__all__ = ["FACTS", "MODEL_NAME", "WEIGHTS", "Cases", "build", "read_network"]

MODEL_NAME = "rerank"
WEIGHTS = "weights.npz"
CASES = "cases.npz"
FACTS = "facts.json"
N_CASES = 8
EMBEDDINGS = "item_embedding.weight"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Cases:
    """Questions with the reference executor's answers.

    Attributes:
        histories: (n, L) int64 item indices, oldest first.
        candidates: (n, M) int64 item indices, none twice.
        scores: (n, M) float32, what the reference executor gives.
    """

    histories: NDArray[np.int64]
    candidates: NDArray[np.int64]
    scores: NDArray[np.float32]

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read them from a folder that ``build`` wrote."""
        with np.load(folder / CASES) as arrays:
            return cls(**arrays)


def build(shape: Shape, folder: Path, *, seed: int) -> None:
    """Write bundle, weights, cases and facts of one shape.

    Args:
        shape: What to build.
        folder: Where to; made when absent. ``facts.json`` is written last.
        seed: Of weights, interactions and cases.

    Raises:
        QuantizationError: An exported graph disagrees with the reference executor.
    """
    import torch

    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig
    from pocketrec_cloud.bundling import BuildConfig, build_bundle

    torch.set_num_threads(1)
    torch.manual_seed(seed)
    split = _split(shape, seed)
    model = SASRec(
        SASRecConfig(
            n_items=shape.n_items,
            embedding_dim=shape.d,
            n_blocks=shape.blocks,
            n_heads=shape.n_heads,
            window=shape.window,
        )
    )
    bundle = build_bundle(
        model.eval(),
        split.dataset.item_ids,
        split,
        out=folder,
        config=BuildConfig(
            model_name=MODEL_NAME, version=1, created_at_s=1_700_000_000, license="CC0-1.0"
        ),
        facts={"trained": False},
    )
    facts = _write_plain(shape, bundle, folder, seed=seed)
    write_atomically(folder / FACTS, json.dumps(facts).encode())


def read_network(shape: Shape, folder: Path) -> FloatNetwork:
    """Return the weights that ``build`` wrote, as peers convert them.

    Args:
        shape: What was built.
        folder: Where to.

    Raises:
        OSError: There are none.
    """
    with np.load(folder / WEIGHTS) as arrays:
        weights = dict(arrays)
    embeddings = weights.pop(EMBEDDINGS)
    backbone = BackboneConfig(
        kind="sasrec",
        embedding_dim=shape.d,
        n_blocks=shape.blocks,
        n_heads=shape.n_heads,
        window=shape.window,
        ffn_multiplier=1,
    )
    return FloatNetwork(
        backbone=backbone,
        weights=weights,
        item_embeddings=embeddings,
        n_candidates=shape.n_candidates,
    )


def _split(shape: Shape, seed: int) -> LeaveOneOut:
    """Return a few users over all items: enough to calibrate the default plan with."""
    from pocketrec_cloud.data.split import leave_one_out
    from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions

    config = SyntheticConfig(seed=seed, n_users=64, n_items=shape.n_items, mean_events=16)
    return leave_one_out(synthetic_interactions(config).dataset)


def _write_plain(shape: Shape, bundle: BundleFolder, folder: Path, *, seed: int) -> dict[str, Any]:
    """Write the default plan's weights and the reference's answers; return what they are."""
    from pocketrec_quantization.reference import ReferenceBackend

    frozen, items = bundle.read_frozen(), bundle.read_items()
    weights = {**frozen.dense, **frozen.adapt(bundle.read_default_plan().widths)}
    everything = items.embed(np.arange(shape.n_items + 1, dtype=np.int32))
    arrays: dict[str, Any] = {**weights, EMBEDDINGS: everything}
    np.savez(folder / WEIGHTS, **arrays)

    rng = np.random.default_rng(seed)
    histories = rng.integers(1, shape.n_items + 1, (N_CASES, shape.window))
    drawn = [rng.choice(shape.n_items, shape.n_candidates, replace=False) for _ in range(N_CASES)]
    candidates = np.stack(drawn) + 1
    reference = ReferenceBackend(weights, bundle.manifest.backbone)
    scores = [
        reference.score(reference.prefill(everything[history]).h, everything[asked])
        for history, asked in zip(histories, candidates, strict=True)
    ]
    np.savez(folder / CASES, histories=histories, candidates=candidates, scores=np.stack(scores))
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode() + weights[name].tobytes())
    digest.update(everything.tobytes())
    return {
        "item_ids": list(items.item_ids),
        "weights_digest": digest.hexdigest(),
        "bundle": bundle.path.name,
    }
