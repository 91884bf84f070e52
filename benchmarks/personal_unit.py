# SPDX-License-Identifier: Apache-2.0
"""One unit of ``personal``: one training, and every plan that is tried on what it trained."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from benchmarks.personal_measures import sizes, spread
from benchmarks.personal_model import Trained
from benchmarks.personal_pretraining import start_of
from benchmarks.personal_settings import SETUPS, Recipe, Setup, case, recipe_of
from benchmarks.personal_training import train_setup
from pocketrec_cloud.data.readers import read_interactions
from pocketrec_cloud.data.split import leave_one_out
from pocketrec_cloud.planning.contest import Contest

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.evaluation import Ranks

__all__ = ["BACKBONES", "Unit", "run_unit"]

BACKBONES = ("sasrec", "caser")
_INIT = {False: "pretrained_frozen", True: "pretrained_trained"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What to train.

    Attributes:
        data: File of interactions.
        dataset: Its name.
        seed: Of everything random.
        group: Of ``SETUPS``.
        work: Folder for checkpoints.
        max_epochs: Instead of the recipe's, for trials; 0 = the recipe's.
        window: Of the re-ranker; 0 = the recipe's.
        backbone: Of ``BACKBONES``.
    """

    data: str
    dataset: str
    seed: int
    group: str
    work: str
    max_epochs: int = 0
    window: int = 0
    backbone: str = "sasrec"

    @property
    def stem(self) -> str:
        """What its name and those of the other groups begin with."""
        return f"{case(self.dataset, self.window)}-{self.backbone}-{self.seed}"

    @property
    def name(self) -> str:
        """Of its answer."""
        return f"{self.stem}-{self.group}"

    @property
    def setup(self) -> Setup:
        """What it trains."""
        return SETUPS[self.group]

    @property
    def recipe(self) -> Recipe:
        """How it is trained."""
        return self.full_recipe.with_window(self.window)

    @property
    def full_recipe(self) -> Recipe:
        """The same at the full window of its dataset."""
        recipe = recipe_of(self.dataset)
        return recipe.shortened(self.max_epochs) if self.max_epochs else recipe


def run_unit(unit: Unit) -> dict[str, Any]:
    """Train what a unit asks for and measure every plan on it.

    Args:
        unit: What to train.

    Returns:
        ``records``, one per method; ``ndcg``, NDCG@10 per user and method; ``spread``;
        ``course``, the evaluations while training; and ``n_events``, of each user before the
        target.
    """
    started = time.monotonic()
    split = _split(unit.data)
    model = start_of(unit, split, Path(unit.work))
    validation = _contest(unit.data, "validation", unit.recipe.n_validation_users, unit.seed)
    trained, course = train_setup(
        split,
        model,
        unit.setup,
        unit.recipe,
        seed=unit.seed,
        validation=validation,
        base=load_file(_kept(unit, unit.setup.base)) if unit.setup.base else None,
    )
    if any(setup.base == unit.group for setup in SETUPS.values()):
        save_file(
            {name: value.contiguous() for name, value in trained.state_dict().items()},
            _kept(unit, unit.group),
        )
    found: dict[str, Any] = {"records": [], "ndcg": {}, "spread": [], "course": course}
    for method, ranks in _methods(unit, model, trained):
        found["records"].append(_record(unit, method, trained, ranks))
        found["ndcg"][method] = np.round(ranks.full.per_user("ndcg", 10), 6).tolist()
    if unit.setup.plan == "personal":
        contest = _contest(unit.data, "test", None, unit.seed)
        z = trained.describe_all(contest.histories)
        found["spread"].append(
            {**_identity(unit), "method": unit.group, **spread(_own(trained, z), z.numpy())}
        )
    histories = _contest(unit.data, "test", None, unit.seed).histories
    found["n_events"] = [len(history) for history in histories]
    return {**found, "unit": unit.name, "seconds": time.monotonic() - started}


def _kept(unit: Unit, group: str) -> Path:
    """Return where the trained model of a group lies, for those that keep it as it is."""
    return Path(unit.work) / f"{unit.stem}-{group}.safetensors"


def _methods(unit: Unit, model: Backbone, trained: Trained) -> Iterator[tuple[str, Ranks]]:
    """Yield each way to plan with what was trained, and its ranks on test."""
    contest = _contest(unit.data, "test", None, unit.seed)
    z = trained.describe_all(contest.histories)
    yield unit.group, contest.ranks(trained.scorer(contest.histories, z))
    if unit.setup.bits == 0:
        first = Trained(model, unit.setup).eval()
        yield f"{unit.group}-start", contest.ranks(first.scorer(contest.histories, z))
    if not trained.is_personal:
        return
    rng = np.random.default_rng([unit.seed, 3])
    strangers = _derangement(len(z), rng)
    shuffled = contest.ranks(trained.scorer(contest.histories, z[strangers]))
    yield f"{unit.group}:shuffled", shuffled
    if unit.setup.rival:
        average = z.mean(0, keepdim=True).expand_as(z)
        yield f"{unit.group}:mean", contest.ranks(trained.scorer(contest.histories, average))
        mixed = _mixed(trained, z, rng)
        random = contest.ranks(trained.scorer(contest.histories, z, offsets=mixed))
        yield f"{unit.group}:random", random
        return
    own = _own(trained, z)
    n_shared = round(unit.setup.shared * trained.n_kept)
    frequency = own.mean(axis=0)
    plans = {
        "mean": _top(frequency, trained.n_kept)[None],
        "random": _top(_noise(rng, own.shape, frequency, n_shared), trained.n_kept),
    }
    for name, slices in plans.items():
        yield (
            f"{unit.group}:{name}",
            contest.ranks(trained.scorer(contest.histories, z, slices=slices)),
        )


def _noise(
    rng: np.random.Generator, shape: tuple[int, ...], frequency: NDArray[np.float64], n_shared: int
) -> NDArray[np.float32]:
    """Return random scores; what everybody has stays above all."""
    noise = rng.random(shape, np.float32)
    return noise + 2 * (frequency >= 1) if n_shared else noise


def _mixed(trained: Trained, z: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return random vectors of the same mix: every number is some user's."""
    with torch.no_grad():
        offsets = trained.offsets(z)
    if offsets is None:
        raise ValueError("expected a setup with vectors")
    return torch.from_numpy(rng.permuted(offsets.numpy(), axis=0))


def _own(trained: Trained, z: torch.Tensor) -> NDArray[np.bool_]:
    with torch.no_grad():
        parts = [trained.slices(part) for part in torch.split(z, 1024)]
    return torch.cat(parts).numpy() > 0.5


def _top(scores: NDArray[Any], n_kept: int) -> NDArray[np.bool_]:
    order = np.argsort(-scores, axis=-1, kind="stable")[..., :n_kept]
    found = np.zeros(scores.shape, np.bool_)
    np.put_along_axis(found, order, values=True, axis=-1)
    return found


def _derangement(n_users: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return another user for everybody: the next one in a random circle."""
    circle = rng.permutation(n_users)
    strangers = np.empty(n_users, np.int64)
    strangers[circle] = np.roll(circle, 1)
    return strangers


@lru_cache(maxsize=1)
def _split(data: str) -> LeaveOneOut:
    dataset, _ = read_interactions(Path(data), format="auto", columns=None)
    return leave_one_out(dataset)


@lru_cache(maxsize=2)
def _contest(data: str, stage: Any, n_users: int | None, seed: int) -> Contest:
    return Contest.of(_split(data), stage, n_users=n_users, seed=seed)


def _identity(unit: Unit) -> dict[str, Any]:
    return {
        "dataset": unit.dataset,
        "backbone": unit.backbone,
        "init": _INIT[unit.setup.is_pool_trained],
        "seed": unit.seed,
        "window": unit.recipe.window,
    }


def _record(unit: Unit, method: str, trained: Trained, ranks: Ranks) -> dict[str, Any]:
    quality = {
        f"{metric}@{k}{suffix}": ranked.mean(metric, k)
        for ranked, suffix in ((ranks.full, ""), (ranks.sampled, "_1:99"))
        for metric in ("hr", "ndcg")
        for k in (5, 10)
    }
    return {
        **_identity(unit),
        "method": method,
        **sizes(trained),
        **quality,
        "device": "cpu",
        "torch": torch.__version__,
    }
