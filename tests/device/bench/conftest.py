# SPDX-License-Identifier: Apache-2.0
"""A benchmark of the tiny bundle, with plans, a float model and held-out users."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from numpy.typing import NDArray

from pocketrec_device.bench import BenchConfig, Grid, Side, Variant, run_bench
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.float_twin import FloatTwin
from pocketrec_quantization.plan import encode_plan
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.plan import Plan

QUICK = BenchConfig(n_candidates=5, warmup=1, runs=5, min_seconds=0, repeat=1)
END_TO_END = {"observe", "rerank", "observe_rerank", "prefill_rerank"}
OPERATIONS = {"prefill", "step", "score"} | END_TO_END
N_CASES = 40


@dataclass(frozen=True)
class Inputs:
    """Files that a benchmark takes beside the bundle.

    Attributes:
        mixed: A plan of random widths.
        coarse: 2 bits everywhere.
        twin: The float model: the bundle's at 8 bits, and a little beside it.
        cases: Users whose next item is what the float model ranks first.
    """

    mixed: Path
    coarse: Path
    twin: Path
    cases: Path


@pytest.fixture(autouse=True, scope="module")
def _packages_for_workers() -> Iterator[None]:
    """Measuring processes find the packages where this process found them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        yield


def measure(
    bundle: BundleFolder,
    variants: list[Variant],
    config: BenchConfig = QUICK,
    *,
    cases: Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
    **axes: tuple[Any, ...],
) -> dict[str, Any]:
    """Measure variants of a bundle; ``axes`` as of ``Grid``."""
    grid = Grid(variants=tuple(variants), **axes)
    return run_bench(Side(folder=bundle.path, grid=grid, cases=cases), config, progress=progress)


def coarse_plan(model: TinyModel) -> Plan:
    """Return 2 bits everywhere."""
    return model.plan(codes=np.full_like(model.plan().codes, 1), planner="uniform-2")


def float_twin(model: TinyModel, bundle: BundleFolder) -> FloatTwin:
    """Return float weights and embeddings close to the bundle's 8-bit ones."""
    rng = np.random.default_rng(3)
    exact = model.frozen.adapt(model.plan().widths)
    embeddings = bundle.read_items().embed(np.arange(13))
    return FloatTwin(
        weights={
            name: array + rng.normal(0, 1e-3, array.shape).astype(np.float32)
            for name, array in exact.items()
        },
        item_embeddings=embeddings + rng.normal(0, 1e-3, embeddings.shape).astype(np.float32),
    )


def unseen_scores(
    reference: ReferenceBackend, embeddings: NDArray[np.float32], history: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Score the catalogue for a history, independently of what is tested: (V + 1,)."""
    h = reference.prefill(embeddings[history[-5:]]).h
    scores = reference.score(h, embeddings)
    scores[history], scores[0] = -np.inf, -np.inf
    return scores


def twin_reference(model: TinyModel, twin: FloatTwin, bundle: BundleFolder) -> ReferenceBackend:
    """Return the float model in NumPy."""
    return ReferenceBackend({**model.frozen.dense, **twin.weights}, bundle.manifest.backbone)


@pytest.fixture(scope="module")
def inputs(
    model: TinyModel, bundle: BundleFolder, tmp_path_factory: pytest.TempPathFactory
) -> Inputs:
    """Plans, float twin and cases."""
    folder = tmp_path_factory.mktemp("bench")
    found = Inputs(*(folder / name for name in ("mixed.plan", "coarse.plan", "twin", "cases")))
    found.mixed.write_bytes(encode_plan(model.mixed_plan(), None))
    found.coarse.write_bytes(encode_plan(coarse_plan(model), None))
    twin = float_twin(model, bundle)
    found.twin.write_bytes(twin.to_bytes())
    rng, reference = np.random.default_rng(4), twin_reference(model, twin, bundle)
    histories = [rng.integers(1, 13, rng.integers(1, 9)).astype(np.int32) for _ in range(N_CASES)]
    cases = EvaluationCases(
        items=np.concatenate(histories),
        offsets=np.cumsum([0, *map(len, histories)]),
        targets=np.array(
            [np.argmax(unseen_scores(reference, twin.item_embeddings, h)) for h in histories],
            np.int32,
        ),
        n_items=12,
    )
    found.cases.write_bytes(cases.to_bytes())
    return found


@pytest.fixture(scope="module")
def result(inputs: Inputs, bundle: BundleFolder) -> dict[str, Any]:
    """One benchmark of the float control, the default plan and 2 bits."""
    variants = [
        Variant(name="float32", float_twin=inputs.twin),
        Variant(name="default"),
        Variant(name="coarse", plan=inputs.coarse),
    ]
    return measure(bundle, variants, cases=inputs.cases)


@pytest.fixture
def records(result: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Its records by variant."""
    return {record["variant"]: record for record in result["records"]}


def job(bundle: BundleFolder, **changes: Any) -> dict[str, Any]:
    """Return what a measuring process is told."""
    absent = ("plan", "float_twin", "cases", "baseline", "sessions", "peer", "peer_file")
    cell = {"backend": "onnxruntime", "speed": "balanced", "threads": 1, "scenario": "single"}
    own = {"bundle": str(bundle.path), **dict.fromkeys(absent), **cell}
    return own | asdict(QUICK) | changes
