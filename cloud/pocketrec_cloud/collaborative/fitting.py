# SPDX-License-Identifier: Apache-2.0
"""Trains a graph model by BPR and Adam until Recall@20 on validation stops improving."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative.bpr import TripletSampler, bpr_loss, squared_norm
from pocketrec_cloud.collaborative.ranking import rank_relevant

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.collaborative.interaction_split import InteractionSplit
    from pocketrec_cloud.collaborative.propagation import GraphModel
    from pocketrec_cloud.collaborative.ranking import RelevantRanks

__all__ = ["FitConfig", "FitProgress", "Fitted", "fit", "rank_test", "rank_validation"]

_K = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig:
    """How long and how hard to train.

    Attributes:
        learning_rate: Of Adam.
        decay: Weight of half the squared norm of a batch's vectors before propagation.
        batch_size: Interactions per step.
        max_epochs: Passes over the interactions at most.
        evaluate_every: Epochs between evaluations on validation.
        patience: Evaluations without a better one before training stops.
        seed: Of order and negatives.

    Raises:
        ConfigError: A field is out of range.
    """

    learning_rate: float = 5e-3
    decay: float = 0.0
    batch_size: int = 20_000
    max_epochs: int = 400
    evaluate_every: int = 5
    patience: int = 5
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the ranges."""
        counts = (self.batch_size, self.max_epochs, self.evaluate_every, self.patience)
        if min(counts) < 1 or self.learning_rate <= 0 or self.decay < 0:
            raise ConfigError(f"expected positive settings and a decay from 0 on, found {self}")


class FitProgress(Protocol):
    """Whoever watches a training."""

    def __call__(self, *, epoch: int, loss: float, recall: float | None) -> None:
        """An epoch is done; ``recall`` is that on validation where it was evaluated."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Fitted:
    """The best state of a training, which the model holds now.

    Attributes:
        epoch: When it was, from 1.
        n_epochs: How many there were.
        validation_recall: Recall@20 then.
    """

    epoch: int
    n_epochs: int
    validation_recall: float


def fit(
    model: GraphModel,
    split: InteractionSplit,
    config: FitConfig,
    *,
    progress: FitProgress | None = None,
) -> Fitted:
    """Train a model in place, and leave it in its best state.

    Args:
        model: Any state; a warm one goes on from there.
        split: Train and validation are used.
        config: How.
        progress: Told of every epoch.

    Returns:
        What happened.

    Raises:
        ConfigError: A user met every item, or the loss is no longer a number.
    """
    sampler = TripletSampler(split.train)
    rng = np.random.default_rng(config.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    best, best_epoch, best_state, epoch = -1.0, 0, _copy(model), 0
    while epoch < config.max_epochs:
        epoch += 1
        loss = _one_epoch(model, sampler, optimizer, config, rng)
        if not np.isfinite(loss):
            raise ConfigError(
                f"expected a finite loss, found {loss} in epoch {epoch}: lower the learning rate"
            )
        recall = None
        if epoch % config.evaluate_every == 0 or epoch == config.max_epochs:
            recall = float(rank_validation(model, split).recall(_K).mean())
            if recall > best:
                best, best_epoch, best_state = recall, epoch, _copy(model)
        if progress is not None:
            progress(epoch=epoch, loss=loss, recall=recall)
        if recall is not None and epoch - best_epoch >= config.patience * config.evaluate_every:
            break
    model.load_state_dict(best_state)
    return Fitted(epoch=best_epoch, n_epochs=epoch, validation_recall=best)


def rank_validation(model: GraphModel, split: InteractionSplit) -> RelevantRanks:
    """Rank the validation items among those not in train.

    Args:
        model: A model of this split.
        split: What to rank.
    """
    users, items = _vectors(model)
    return rank_relevant(users, items, split.validation, split.train)


def rank_test(model: GraphModel, split: InteractionSplit) -> RelevantRanks:
    """Rank the test items among those neither in train nor in validation.

    Args:
        model: A model of this split.
        split: What to rank.
    """
    users, items = _vectors(model)
    return rank_relevant(users, items, split.test, split.train + split.validation)


def _one_epoch(
    model: GraphModel,
    sampler: TripletSampler,
    optimizer: torch.optim.Optimizer,
    config: FitConfig,
    rng: np.random.Generator,
) -> float:
    losses = []
    for triplet in sampler.epoch(rng, config.batch_size):
        users, positives, negatives = triplet
        nodes = np.stack([users, positives + model.n_users, negatives + model.n_users])
        final, own = model()
        loss = bpr_loss(final, nodes)
        losses.append(float(loss.detach()))
        if config.decay:
            loss = loss + config.decay / 2 * squared_norm(own, nodes)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return float(np.mean(losses))


def _vectors(model: GraphModel) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    with torch.no_grad():
        final, _ = model()
    return final[: model.n_users].numpy(), final[model.n_users :].numpy()


def _copy(model: GraphModel) -> dict[str, torch.Tensor]:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}
