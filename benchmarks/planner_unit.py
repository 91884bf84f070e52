# SPDX-License-Identifier: Apache-2.0
"""One unit of ``planner``: one training, and every method that is read off it.

A unit is named by dataset, backbone, seed, initialisation and *group*; its answer is kept in
a file of its own, so that an interrupted table goes on where it was.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from filelock import FileLock

from benchmarks.planner_settings import Recipe, recipe_of
from pocketrec_cloud.backbones.registry import make_backbone
from pocketrec_cloud.checkpoint import load_backbone, save_backbone
from pocketrec_cloud.data.readers import read_interactions
from pocketrec_cloud.data.split import leave_one_out
from pocketrec_cloud.export import with_weights
from pocketrec_cloud.planning.configuration import TRAINED_LEVELS
from pocketrec_cloud.planning.contest import Contest
from pocketrec_cloud.planning.myqasr import Granularity, MyQasrPlanner
from pocketrec_cloud.planning.planned import PlannedBackbone
from pocketrec_cloud.planning.planner_training import own_scorer, train_planner
from pocketrec_cloud.training import train
from pocketrec_quantization.allocation import Slots, allocate_scores, allocate_slots
from pocketrec_quantization.bitpack import packed_size
from pocketrec_quantization.budget import budget_bytes, coded_bytes, effective_bits
from pocketrec_quantization.control_planners import MeanPlanner, ShuffledPlanner
from pocketrec_quantization.layers import total_channels, total_weights
from pocketrec_quantization.levels import (
    DEFAULT_LEVELS,
    PRUNING_LEVELS,
    SPEED_PRESETS,
    LevelTable,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.evaluation import Ranks
    from pocketrec_quantization.planners import Planner

__all__ = ["GROUPS", "PEER_GROUP", "SWEEP_BITS", "Unit", "run_unit"]

GROUPS = (
    "float",
    "qat-2",
    "qat-4",
    "qat-8",
    "global",
    "personal",
    "personal-standardised",
    "personal-pruning",
)
PEER_GROUP = "peers"
"""Needs neural-compressor, and the float models of the group ``float``."""

SWEEP_BITS = (2.25, 2.5, 3.0, 4.0, 6.0, 8.0)
WIDTHS = (2, 4, 8)
_DRAWN = ("interest_distance", "plan_distance", "mean_width", "std_width")
_MAX_CLOUD = 400  # pairs of users in a plot


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What to train.

    Attributes:
        data: File of interactions.
        dataset: Its name.
        backbone: Kind.
        init: Of ``INITS``.
        seed: Of everything random.
        group: Of ``GROUPS``, or ``PEER_GROUP``.
        work: Folder for checkpoints.
        device: Where to train, as torch names it.
        max_epochs: Instead of the recipe's, for trials; 0 = the recipe's.
    """

    data: str
    dataset: str
    backbone: str
    init: str
    seed: int
    group: str
    work: str
    device: str = "cpu"
    max_epochs: int = 0

    @property
    def name(self) -> str:
        """Of its files."""
        return f"{self.stem}-{self.init}-{self.group}"

    @property
    def stem(self) -> str:
        """What units that share a pretrained backbone have in common."""
        return f"{self.dataset}-{self.backbone}-{self.seed}"

    @property
    def recipe(self) -> Recipe:
        """How to train it."""
        recipe = recipe_of(self.dataset, self.backbone)
        return recipe.shortened(self.max_epochs) if self.max_epochs else recipe


class _Silent:
    """Watches a training without a word."""

    def batch(self, *, epoch: int, done: float, loss: float) -> None:
        """Say nothing."""

    def epoch(self, record: object) -> None:
        """Say nothing."""


class _Bench:
    """Everything that a unit works with, read or trained when it is needed."""

    def __init__(self, unit: Unit) -> None:
        self.unit = unit

    @cached_property
    def split(self) -> LeaveOneOut:
        """The interactions, split."""
        dataset, _ = read_interactions(Path(self.unit.data), format="auto", columns=None)
        return leave_one_out(dataset)

    @cached_property
    def contest(self) -> Contest:
        """The test, the same for all units of a dataset and seed."""
        return Contest.of(self.split, "test", seed=self.unit.seed)

    @cached_property
    def start(self) -> Backbone:
        """The backbone whose coded matrices are frozen."""
        unit = self.unit
        if unit.init == "pretrained_frozen":
            return self._pretrained()
        torch.manual_seed(unit.seed)
        return make_backbone(unit.recipe.backbone(unit.backbone, self.split.dataset.n_items)).eval()

    @cached_property
    def budget_bytes(self) -> int:
        """What plans may cost, scales included."""
        return budget_bytes(self._shape.mixed.layers, self.unit.recipe.planner(0).average_bits)

    @property
    def float_path(self) -> Path:
        """Where the float model of this initialisation is kept."""
        return Path(self.unit.work) / f"{self.unit.stem}-{self.unit.init}-float.safetensors"

    def float_model(self) -> Backbone:
        """Return the float model that post-training quantization starts from."""
        model, _, _ = load_backbone(self.float_path)
        return model

    def keep_float(self, model: Backbone) -> None:
        """Keep the float model for the group of peers."""
        save_backbone(self.float_path, model.cpu(), self.split.dataset.item_ids, {})

    def planned(self, model: Backbone) -> PlannedBackbone:
        """Return a float model in a form that scores under any plan."""
        found = PlannedBackbone.start(model, "float", self.unit.recipe.planner(self.unit.seed))
        found.modules.to(self.unit.device).eval()
        return found

    def train(self, strategy: str, **changes: Any) -> PlannedBackbone:
        """Train a planner, or one of its controls."""
        config = replace(self.unit.recipe.planner(self.unit.seed), **changes)
        result = train_planner(
            self.split, self.start, config, strategy=strategy, device=self.unit.device
        )
        return result.planned

    @cached_property
    def _shape(self) -> PlannedBackbone:
        return PlannedBackbone.start(self.start, "float", self.unit.recipe.planner(0))

    def _pretrained(self) -> Backbone:
        """Return the trained backbone; whoever comes first trains it."""
        unit = self.unit
        folder = Path(unit.work) / f"{unit.stem}-pretrained"
        done = folder / "done"
        with FileLock(f"{folder}.lock"):
            if not done.exists():
                train(
                    self.split,
                    unit.recipe.backbone(unit.backbone, self.split.dataset.n_items),
                    unit.recipe.pretraining(unit.seed),
                    folder=folder,
                    progress=_Silent(),
                    resume=True,
                    device=unit.device,
                )
                done.touch()
        model, _, _ = load_backbone(folder / "best.safetensors")
        return model


def run_unit(unit: Unit) -> dict[str, Any]:
    """Train what a unit asks for and measure every method that follows from it.

    Args:
        unit: What to train.

    Returns:
        ``records``, one per method; ``ndcg``, NDCG@10 per user and method, for paired tests;
        ``sweeps`` and ``spread``, of the groups that have them.
    """
    started = time.monotonic()
    bench = _Bench(unit)
    kind = unit.group.partition("-")[0]
    found: dict[str, Any] = {"records": [], "ndcg": {}, "sweeps": [], "spread": []}
    for name, value in _GROUPS[kind](bench):
        if name in {"sweeps", "spread"}:
            found[name].append(value)
        else:
            ranks, facts = value
            found["records"].append(_record(unit, name, ranks, facts))
            found["ndcg"][name] = np.round(ranks.full.per_user("ndcg", 10), 6).tolist()
    return {**found, "unit": unit.name, "seconds": time.monotonic() - started}


_Found = Iterator[tuple[str, Any]]


def _float(bench: _Bench) -> _Found:
    """The float model, and what post-training quantization makes of it."""
    if bench.unit.init == "pretrained_frozen":
        model = bench.start
        continued = bench.train("float")
        ranks = bench.contest.ranks(own_scorer(continued, bench.contest))
        yield "fp32-continued", (ranks, _facts(continued, None))
    else:
        model = bench.train("float").mixed.plain()
    bench.keep_float(model)
    planned = bench.planned(bench.float_model())
    yield "fp32", (_ranks(bench, planned, None), _facts(planned, None))
    n_channels = total_channels(planned.mixed.layers)
    for tier, bits in enumerate(WIDTHS, start=1):
        codes = np.full((1, n_channels), tier, np.uint8)
        yield f"uniform-{bits}", (_ranks(bench, planned, codes), _facts(planned, codes))
    for granularity in Granularity:
        planner = MyQasrPlanner(
            model=bench.float_model(), layers=planned.mixed.layers, granularity=granularity
        )
        codes = planner.plan_for(bench.contest.histories, bench.budget_bytes)
        name = "myqasr" if granularity is Granularity.LAYER else "myqasr-channel"
        yield name, (_ranks(bench, planned, codes), _facts(planned, codes, is_plan=True))


def _qat(bench: _Bench) -> _Found:
    """Training under one width: of everything, or of what is not frozen."""
    bits = int(bench.unit.group.partition("-")[2])
    tier = WIDTHS.index(bits) + 1
    if bench.unit.init == "pretrained_frozen":
        from pocketrec_cloud.planning.qat import train_quantized

        recipe = bench.unit.recipe
        config = replace(recipe.pretraining(bench.unit.seed), max_epochs=recipe.qat_epochs)
        model = train_quantized(
            copy.deepcopy(bench.start).to(bench.unit.device),
            bench.split.train_sequences(),
            config,
            bits=bits,
            progress=_Silent(),
        )
        planned = bench.planned(model.cpu())
    else:
        planned = bench.train(f"uniform-{bits}")
    codes = np.full((1, total_channels(planned.mixed.layers)), tier, np.uint8)
    yield f"qat-{bits}", (_ranks(bench, planned, codes), _facts(planned, codes))


def _global(bench: _Bench) -> _Found:
    """One learned plan for everybody."""
    planned = bench.train("global")
    nobody = torch.zeros(1, planned.mixed.model.config.embedding_dim, device=planned.device)
    average_bits = planned.config.average_bits
    codes = planned.codes(nobody, average_bits).cpu().numpy().astype(np.uint8)
    yield "global", (_ranks(bench, planned, codes), _facts(planned, codes, is_plan=True))


def _personal(bench: _Bench) -> _Found:
    """One plan per user, beside all that tells whether it is theirs."""
    suffix = bench.unit.group.removeprefix("personal")
    tables = (PRUNING_LEVELS if suffix == "-pruning" else DEFAULT_LEVELS, *TRAINED_LEVELS[1:])
    planned = bench.train("personal", is_standardised=bool(suffix), level_tables=tables)
    layers, contest, budget = planned.mixed.layers, bench.contest, bench.budget_bytes
    z = planned.user_embeddings(contest.histories).cpu().numpy()
    planner = planned.planner(bytes(32))
    own = planner.plan(z, budget)
    everybody: dict[str, Planner] = {
        "shuffled": ShuffledPlanner(planner=planner, strangers=z[:1000], seed=bench.unit.seed),
        "mean": MeanPlanner(planner=planner, layers=layers, sample=z[:2000]),
    }
    noise = np.random.default_rng(bench.unit.seed).random(own.shape, np.float32)
    random = allocate_scores(noise, layers, budget, levels=planned.levels)
    plans = {"personal": own, "random": random}
    plans |= {name: maker.plan(z, budget) for name, maker in everybody.items()}
    for name, codes in plans.items():
        ranks = _ranks(bench, planned, codes)
        yield f"{name}{suffix}", (ranks, _facts(planned, codes, is_plan=True))
    yield from _sweeps(bench, planned, planner.scores(z), suffix)
    facts = _spread(own, z, planned.levels)
    spread = {**_identity(bench.unit), "method": f"personal{suffix}", **facts}
    if bench.unit.seed:  # one seed's are enough to be drawn
        for key in _DRAWN:
            del spread[key]
    yield "spread", spread


def _sweeps(
    bench: _Bench, planned: PlannedBackbone, scores: NDArray[np.float32], suffix: str
) -> _Found:
    """Other budgets, presets and fixed slots, from the same planner."""
    layers = planned.mixed.layers
    own = planned.levels
    reference = allocate_scores(scores, layers, bench.budget_bytes, levels=own)
    trials: dict[str, tuple[NDArray[np.uint8], LevelTable]] = {}
    for bits in SWEEP_BITS:
        trials[f"bits-{bits:g}"] = (
            allocate_scores(scores, layers, budget_bytes(layers, bits), levels=own),
            own,
        )
    for preset, levels in SPEED_PRESETS.items():
        if levels is not None:
            trials[f"preset-{preset}"] = (reference, levels)
    mean = allocate_scores(
        scores.mean(axis=0, keepdims=True), layers, bench.budget_bytes, levels=own
    )
    slots = Slots.of_plan(mean[0], layers)
    trials["slots"] = (allocate_slots(scores, slots), own)
    for name, (codes, levels) in trials.items():
        ranks = _ranks(bench, planned, codes, levels)
        yield (
            "sweeps",
            {
                **_identity(bench.unit),
                "method": f"personal{suffix}",
                "variant": name,
                "effective_bits": _mean_bits(planned, codes, levels),
                "ndcg@10": ranks.full.mean("ndcg", 10),
                "hr@10": ranks.full.mean("hr", 10),
            },
        )


def _peers(bench: _Bench) -> _Found:
    """Other people's post-training quantization of the float model."""
    from pocketrec_cloud.planning.peers import calibration_batches, gptq_weights, rtn_weights

    model = bench.float_model()
    batches = calibration_batches(
        bench.split.train_sequences(), window=model.config.window, seed=bench.unit.seed
    )
    n_channels = total_channels(bench.planned(model).mixed.layers)
    for bits in WIDTHS:
        weights = {
            f"rtn-{bits}": rtn_weights(model, bits),
            f"rtn-{bits}-mse": rtn_weights(model, bits, mse_search=True),
            f"gptq-{bits}": gptq_weights(model, bits, batches),
            f"gptq-{bits}-mse": gptq_weights(model, bits, batches, mse_search=True),
        }
        for name, found in weights.items():
            planned = bench.planned(with_weights(model, found))
            codes = np.full((1, n_channels), WIDTHS.index(bits) + 1, np.uint8)
            yield name, (_ranks(bench, planned, None), _facts(planned, codes))


_GROUPS: dict[str, Callable[[_Bench], _Found]] = {
    "float": _float,
    "qat": _qat,
    "global": _global,
    "personal": _personal,
    "peers": _peers,
}


def _ranks(
    bench: _Bench,
    planned: PlannedBackbone,
    codes: NDArray[np.uint8] | None,
    levels: LevelTable | None = None,
) -> Ranks:
    tensor = None if codes is None else torch.from_numpy(codes.astype(np.int64))
    return bench.contest.ranks(planned.scorer(bench.contest.histories, tensor, levels))


def _mean_bits(planned: PlannedBackbone, codes: NDArray[np.uint8], levels: LevelTable) -> float:
    layers = planned.mixed.layers
    sample = codes[:: max(1, len(codes) // 200)]
    return float(np.mean([effective_bits(layers, levels.widths(row)) for row in sample]))


def _facts(
    planned: PlannedBackbone, codes: NDArray[np.uint8] | None, *, is_plan: bool = False
) -> dict[str, Any]:
    """Return the sizes that go with a method."""
    layers, model = planned.mixed.layers, planned.mixed.model
    n_items, dim = model.item_embedding.weight.shape
    dense = sum(  # coded matrices are no parameters of a mixed backbone
        parameter.numel()
        for name, parameter in model.named_parameters()
        if name != "item_embedding.weight"
    )
    if codes is None:
        weights, item_bytes, bits = 4 * total_weights(layers), 4 * n_items * dim, 32.0
    else:
        weights = coded_bytes(layers, planned.levels.widths(codes[0]))
        item_bytes, bits = n_items * (dim + 4), _mean_bits(planned, codes, planned.levels)
    return {
        "effective_bits": bits,
        "plan_bytes": packed_size(total_channels(layers)) if is_plan else 0,
        "model_bytes": weights + item_bytes + 4 * dense,
    }


def _identity(unit: Unit) -> dict[str, Any]:
    return {
        "dataset": unit.dataset,
        "backbone": unit.backbone,
        "init": unit.init,
        "seed": unit.seed,
    }


def _record(unit: Unit, method: str, ranks: Ranks, facts: dict[str, Any]) -> dict[str, Any]:
    def quality(kind: str) -> dict[str, float]:
        ranked = getattr(ranks, kind)
        suffix = "" if kind == "full" else "_1:99"
        return {
            f"{metric}@{k}{suffix}": ranked.mean(metric, k)
            for metric in ("hr", "ndcg")
            for k in (5, 10)
        }

    return {
        **_identity(unit),
        "method": method,
        **facts,
        **quality("full"),
        **quality("sampled"),
        "device": torch.cuda.get_device_name() if unit.device == "cuda" else "cpu",
        "torch": torch.__version__,
    }


def _spread(codes: NDArray[np.uint8], z: NDArray[np.float32], levels: LevelTable) -> dict[str, Any]:
    """Return how plans differ between users, and whether they do as interests do."""
    rng = np.random.default_rng(0)
    first, second = rng.integers(0, len(codes), (2, _MAX_CLOUD))
    apart = first != second
    first, second = first[apart], second[apart]
    lengths = np.linalg.norm(z, axis=1) + 1e-12
    cosine = (z[first] * z[second]).sum(axis=1) / (lengths[first] * lengths[second])
    plan_distance = (codes[first] != codes[second]).mean(axis=1)
    widths = levels.widths(codes.ravel()).reshape(codes.shape).astype(np.float32)
    return {
        "channels_that_differ": float(plan_distance.mean()),
        "width_std": float(widths.std(axis=0).mean()),
        "distinct_plans": len(np.unique(codes, axis=0)) / len(codes),
        "correlation": _correlation(1 - cosine, plan_distance),
        "interest_distance": np.round(1 - cosine, 4).tolist(),
        "plan_distance": np.round(plan_distance, 4).tolist(),
        "mean_width": np.round(widths.mean(axis=0), 3).tolist(),
        "std_width": np.round(widths.std(axis=0), 3).tolist(),
    }


def _correlation(one: NDArray[np.float32], other: NDArray[np.float64]) -> float:
    """Return Pearson's r; 0 where either is the same everywhere."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(np.corrcoef(one, other)[0, 1])
