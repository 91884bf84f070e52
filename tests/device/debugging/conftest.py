# SPDX-License-Identifier: Apache-2.0
"""Random models whose held-out users pick what the model itself ranks first.

So the model at 8 bits is right about everybody, and whatever a plan spoils shows in NDCG. Queries
and keys are large: attention that is nearly even would hide what becomes of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.device.conftest import (
    CONFIGS,
    TinyModel,
    tiny_items,
    tiny_model,
    tiny_vectors,
    write_tiny_bundle,
)

from pocketrec_quantization.bundle import DEFAULT_PLAN, FROZEN, VECTORS, BundleFolder
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.references import reference_of

ITEM_IDS = tuple(f"item-{number}" for number in range(1, 61))
N_USERS = 96
_LARGER = np.float32(8)


@dataclass(frozen=True)
class Patient:
    """What is examined.

    Attributes:
        bundle: A bundle of one kind of backbone.
        model: Its model.
        cases: Users whose next item the model at 8 bits ranks first.
    """

    bundle: BundleFolder
    model: TinyModel
    cases: EvaluationCases

    def widths(self, others: int, **planted: int) -> NDArray[np.uint8]:
        """Return a width for every channel: of planted layers their own, of all others one.

        Dots in names of layers are written as double underscores.
        """
        layers = self.model.frozen.layers
        widths = np.full(sum(layer.n_channels for layer in layers), others, np.uint8)
        by_layer = split_by_layer(widths, layers)
        for name, bits in planted.items():
            by_layer[name.replace("__", ".")][:] = bits
        return widths


def make_patient(folder: Path, kind: str) -> Patient:
    """Write a bundle of a kind of backbone, and return it with its users."""
    config, items = CONFIGS[kind], tiny_items(1, ITEM_IDS)
    model = with_sharp_attention(tiny_model(0, config))
    parts = {
        FROZEN: model.frozen.to_bytes(),
        DEFAULT_PLAN: encode_plan(model.plan(), None),
        VECTORS: tiny_vectors(model, items).to_bytes(),
    }
    bundle = write_tiny_bundle(folder, items=items, config=config, parts=parts)
    return Patient(bundle=bundle, model=model, cases=_cases(model, bundle))


@pytest.fixture(scope="session")
def patients(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Patient]:
    """One of every kind of backbone; do not write into their bundles."""
    return {kind: make_patient(tmp_path_factory.mktemp(kind), kind) for kind in CONFIGS}


@pytest.fixture(params=sorted(CONFIGS))
def patient(request: pytest.FixtureRequest, patients: dict[str, Patient]) -> Patient:
    """One kind after the other."""
    return patients[request.param]


def with_sharp_attention(model: TinyModel) -> TinyModel:
    """Return a model with larger queries and keys."""
    matrices = {
        name: replace(matrix, scales=matrix.scales * _LARGER) if name[-1] in "qk" else matrix
        for name, matrix in model.frozen.matrices.items()
    }
    frozen = FrozenModel(matrices=matrices, dense=model.frozen.dense)
    return replace(model, frozen=frozen)


def _cases(model: TinyModel, bundle: BundleFolder) -> EvaluationCases:
    rng = np.random.default_rng(5)
    items = bundle.read_items()
    everything = items.embed(np.arange(len(ITEM_IDS) + 1))
    reference = reference_of(model.frozen, model.plan().widths, model.config)
    lengths = rng.integers(1, 2 * model.config.window, N_USERS)
    histories = [rng.integers(1, len(ITEM_IDS) + 1, length).astype(np.int32) for length in lengths]
    targets = []
    for history in histories:
        h = reference.state_after(everything[history[-model.config.window :]])
        scores = reference.score(h, everything)
        scores[[0, *history]] = -np.inf
        targets.append(int(np.argmax(scores)))
    return EvaluationCases(
        items=np.concatenate(histories),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        targets=np.array(targets, np.int32),
        n_items=len(ITEM_IDS),
    )
