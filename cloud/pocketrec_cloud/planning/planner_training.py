# SPDX-License-Identifier: Apache-2.0
"""Trains a planner and everything that plans do not code, with early stop on validation.

The coded matrices stay as they are. Half of all batches are planned for the reference
budget and read by the default level table; the others draw both, so that one planner
serves every budget, device class and preset.
"""

from __future__ import annotations

import copy
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from pocketrec_cloud.losses import sampled_softmax_loss
from pocketrec_cloud.planning.contest import Contest
from pocketrec_cloud.planning.cuts import cut_batches
from pocketrec_cloud.planning.planned import PlannedBackbone
from pocketrec_cloud.training_run import EpochRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.planning.configuration import PlannerTraining
    from pocketrec_cloud.training import Progress
    from pocketrec_quantization.levels import LevelTable

__all__ = ["PlannerResult", "train_planner"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannerResult:
    """The best planner and how it came about.

    Attributes:
        planned: Its parts, in evaluation mode.
        history: One record per epoch.
    """

    planned: PlannedBackbone
    history: tuple[EpochRecord, ...]

    @property
    def best(self) -> EpochRecord:
        """The epoch that the planner is from."""
        return max(
            (record for record in self.history if record.validation_ndcg10 is not None),
            key=lambda record: record.validation_ndcg10 or 0.0,
        )


def train_planner(
    split: LeaveOneOut,
    backbone: Backbone,
    config: PlannerTraining,
    *,
    strategy: str = "personal",
    device: str = "cpu",
    progress: Progress | None = None,
) -> PlannerResult:
    """Train until validation NDCG@10 under one's own plan stops improving.

    Args:
        split: Training sequences and validation targets.
        backbone: Trained (``pretrained_frozen``) or just initialised (``random_frozen``,
            as CHORD has it); unchanged.
        config: How long and how hard.
        strategy: Of ``planned.STRATEGIES``: ``personal``, or a control that trains the same
            parameters under other plans.
        device: Where to train, as torch names it.
        progress: Told of every batch and epoch.

    Returns:
        The planner of the best evaluation.
    """
    torch.manual_seed(config.seed)
    planned = PlannedBackbone.start(backbone, strategy, config)
    modules = planned.modules.to(device)
    run = _Run(split, planned, config, progress)
    contest = Contest.of(split, "validation", n_users=config.n_validation_users, seed=config.seed)
    best_state: dict[str, Tensor] = {}
    history: list[EpochRecord] = []
    best, waited = -1.0, 0
    while len(history) < config.max_epochs and waited < config.patience:
        record = run.epoch(len(history) + 1)
        is_last = record.epoch == config.max_epochs
        if record.epoch % config.evaluate_every == 0 or is_last:
            record = run.evaluated(record, contest)
            ndcg = record.validation_ndcg10 or 0.0
            waited = 0 if ndcg > best else waited + 1
            if ndcg > best:
                best, best_state = ndcg, copy.deepcopy(modules.state_dict())
        history.append(record)
        if progress is not None:
            progress.epoch(record)
    modules.load_state_dict(best_state)
    modules.eval()
    return PlannerResult(planned=planned, history=tuple(history))


class _Run:
    """One training's moving parts."""

    def __init__(
        self,
        split: LeaveOneOut,
        planned: PlannedBackbone,
        config: PlannerTraining,
        progress: Progress | None,
    ) -> None:
        self._planned, self._config, self._progress = planned, config, progress
        self._sequences = [row for row in split.train_sequences() if row.shape[0] >= 2]
        own = [*planned.extractor.parameters(), *planned.hypernetworks.parameters()]
        self._optimizer = torch.optim.Adam(
            [
                {"params": list(planned.mixed.model.parameters()), "lr": config.learning_rate},
                {"params": own, "lr": config.planner_learning_rate},
            ]
        )

    def epoch(self, number: int) -> EpochRecord:
        """Pass over all users once."""
        planned, config = self._planned, self._config
        started = time.monotonic()
        rng = np.random.default_rng([config.seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        modules = planned.modules.train()
        temperature = self._temperature(number)
        total = torch.zeros((), device=planned.device)
        n_targets, n_users = 0, 0
        for batch in cut_batches(
            self._sequences,
            window=planned.mixed.model.config.window,
            extract_window=config.extract_window,
            n_targets=config.n_targets,
            tokens_per_batch=config.tokens_per_batch,
            rng=rng,
        ):
            average_bits, levels = self._draw(rng)
            moved = batch.to(planned.device)
            states = planned.predict(
                moved,
                spending=planned.spending(average_bits),
                levels=levels,
                temperature=temperature,
            )
            real = moved.targets > 0
            loss = sampled_softmax_loss(
                states[real],
                moved.targets[real],
                planned.mixed.model.item_embedding.weight,
                n_negatives=config.n_negatives,
            )
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(modules.parameters(), config.max_gradient_norm)
            self._optimizer.step()
            n_real = int((batch.targets > 0).sum())
            total += loss.detach() * n_real
            n_targets += n_real
            n_users += batch.inputs.shape[0]
            if self._progress is not None:
                done = n_users / len(self._sequences)
                self._progress.batch(epoch=number, done=done, loss=loss.item())
        seconds = time.monotonic() - started
        return EpochRecord(epoch=number, loss=total.item() / max(n_targets, 1), seconds=seconds)

    def evaluated(self, record: EpochRecord, contest: Contest) -> EpochRecord:
        """Add validation quality at the reference budget to a record."""
        planned = self._planned
        planned.modules.eval()
        if planned.strategy == "personal":
            planned.hypernetworks.fit_population(planned.user_embeddings(contest.histories))
        quality = contest.ranks(own_scorer(planned, contest)).full
        return EpochRecord(
            epoch=record.epoch,
            loss=record.loss,
            seconds=record.seconds,
            validation_hr10=quality.mean("hr", 10),
            validation_ndcg10=quality.mean("ndcg", 10),
        )

    def _temperature(self, number: int) -> float:
        """Anneal geometrically from the first epoch to the last."""
        first, last = self._config.temperature
        done = (number - 1) / max(1, self._config.max_epochs - 1)
        return float(first * (last / first) ** done)

    def _draw(self, rng: np.random.Generator) -> tuple[float, LevelTable]:
        """Return average bits and a level table: the reference ones half of the time."""
        config = self._config
        if rng.random() < 0.5:
            return config.average_bits, config.level_tables[0]
        tables = config.level_tables
        return float(rng.uniform(*config.bit_range)), tables[int(rng.integers(len(tables)))]


def own_scorer(
    planned: PlannedBackbone, contest: Contest
) -> Callable[[np.ndarray[tuple[int], np.dtype[np.int64]]], Tensor]:
    """Return what scores every user of a contest under the plan the strategy gives them."""
    average_bits = planned.config.average_bits
    if planned.strategy == "float":
        return planned.scorer(contest.histories, None)
    if planned.strategy.startswith("uniform"):
        tier = {"2": 1, "4": 2, "8": 3}[planned.strategy[-1]]
        n_channels = planned.hypernetworks.shift.shape[0]
        return planned.scorer(contest.histories, torch.full((1, n_channels), tier))
    if planned.strategy == "global":
        nobody = torch.zeros(1, planned.mixed.model.config.embedding_dim, device=planned.device)
        return planned.scorer(contest.histories, planned.codes(nobody, average_bits))
    z = planned.user_embeddings(contest.histories)
    return planned.scorer(contest.histories, planned.codes(z, average_bits))
