# SPDX-License-Identifier: Apache-2.0
"""Trains a setup of ``personal`` from a float backbone, with early stop on validation.

A plan only uses events before the events that it is judged by: every history is cut at a
random place, as the product's planners are trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from benchmarks.personal_model import PAST, Batch, Trained
from pocketrec_cloud.batches import bucket_by_length, pad
from pocketrec_cloud.planning.cuts import cut_history

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from benchmarks.personal_settings import Recipe, Setup
    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.data.split import LeaveOneOut
    from pocketrec_cloud.planning.contest import Contest

__all__ = ["train_setup"]

_LARGEST_GRADIENT = 5.0
_LEARNING_RATE = 5e-4
_ROUTER_LEARNING_RATE = 1e-3
_AVERAGED_EPOCHS = 3
_TEMPERATURE = (1.0, 0.3)


def train_setup(
    split: LeaveOneOut,
    model: Backbone,
    setup: Setup,
    recipe: Recipe,
    *,
    seed: int,
    validation: Contest,
    base: Mapping[str, Tensor] | None = None,
) -> tuple[Trained, list[dict[str, float]]]:
    """Train a setup until validation NDCG@10 under one's own plan stops improving.

    Args:
        split: Training sequences.
        model: The float backbone it starts from; unchanged.
        setup: What to train.
        recipe: How long.
        seed: Of everything random.
        validation: Who is ranked for between epochs.
        base: State of the trained model that a setup with a base keeps as it is.

    Returns:
        The best of all evaluations, that before the first epoch included, in evaluation
        mode; and the course: ``epoch``, ``loss``, ``ndcg@10`` of every evaluation.
    """
    torch.manual_seed(seed)
    trained = Trained(model, setup)
    if base is not None:
        trained.keep_as(base)
    run = _Run(trained, [row for row in split.train_sequences() if row.shape[0] >= 2], recipe, seed)
    course = [{"epoch": 0, "loss": 0.0, "ndcg@10": _validate(trained, validation)}]
    best, best_state, waited = course[0]["ndcg@10"], copy.deepcopy(trained.state_dict()), 0
    for epoch in range(1, recipe.epochs + 1):
        loss = run.epoch(epoch)
        trained.refresh()
        if epoch % recipe.evaluate_every and epoch < recipe.epochs:
            continue
        with run.averaged():
            ndcg = _validate(trained, validation)
            state = copy.deepcopy(trained.state_dict())
        course.append({"epoch": epoch, "loss": loss, "ndcg@10": ndcg})
        waited = 0 if ndcg > best else waited + 1
        if ndcg > best:
            best, best_state = ndcg, state
        if waited >= recipe.patience:
            break
    trained.load_state_dict(best_state)
    return trained.eval(), course


class _Run:
    """One training's moving parts: steps that grow smaller, and weights averaged over them.

    Without the average, which epoch validates best is luck where users are few.
    """

    def __init__(
        self,
        trained: Trained,
        sequences: Sequence[NDArray[np.int32]],
        recipe: Recipe,
        seed: int,
    ) -> None:
        self._trained, self._sequences = trained, sequences
        self._recipe, self._seed = recipe, seed
        own = {id(value) for value in (*trained.router.parameters(), trained.shift, trained.steps)}
        self._parameters = [value for value in trained.parameters() if value.requires_grad]
        router = [value for value in self._parameters if id(value) in own]
        other = [value for value in self._parameters if id(value) not in own]
        self._optimizer = torch.optim.Adam(
            [
                {"params": other, "first": _LEARNING_RATE},
                {"params": router, "first": _ROUTER_LEARNING_RATE},
            ],
            lr=_LEARNING_RATE,
        )
        self._averages = [value.detach().clone() for value in self._parameters]
        self._n_steps, self._per_epoch = 0, 1

    def epoch(self, number: int) -> float:
        """Pass over all users once, and return the mean loss."""
        trained, recipe = self._trained, self._recipe
        rng = np.random.default_rng([self._seed, number])
        torch.manual_seed(int(rng.integers(2**62)))
        trained.train()
        done = (number - 1) / max(1, recipe.epochs)
        for group in self._optimizer.param_groups:
            group["lr"] = group["first"] * 0.5 * (1 + math.cos(math.pi * done))
        first, last = _TEMPERATURE
        temperature = first * (last / first) ** done
        total, n_targets, n_batches = 0.0, 0, 0
        window = trained.sliced.backbone.config.window
        for batch in _batches(self._sequences, window, recipe, rng):
            loss = trained.loss(batch, temperature)
            self._optimizer.zero_grad()
            torch.autograd.backward(loss)
            torch.nn.utils.clip_grad_norm_(self._parameters, _LARGEST_GRADIENT)
            self._optimizer.step()
            self._average()
            n_real = int((batch.targets > 0).sum())
            total += loss.item() * n_real
            n_targets += n_real
            n_batches += 1
        self._per_epoch = max(1, n_batches)
        return total / max(1, n_targets)

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Put the averages in place of the weights for a while."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _average(self) -> None:
        self._n_steps += 1
        horizon = min(_AVERAGED_EPOCHS * self._per_epoch, 1 + self._n_steps / 4)
        torch._foreach_lerp_(self._averages, list[Tensor](self._parameters), 1 / max(1.0, horizon))

    @torch.no_grad()
    def _swap(self) -> None:
        for average, value in zip(self._averages, self._parameters, strict=True):
            kept = value.detach().clone()
            value.copy_(average)
            average.copy_(kept)
        self._trained.refresh()


def _batches(
    sequences: Sequence[NDArray[np.int32]], window: int, recipe: Recipe, rng: np.random.Generator
) -> Iterator[Batch]:
    sequences = [events for events in sequences for _ in range(recipe.cuts)]
    cuts = [int(rng.integers(1, events.shape[0])) for events in sequences]
    pairs = [
        cut_history(events, cut, window=window, n_targets=window)
        for events, cut in zip(sequences, cuts, strict=True)
    ]
    lengths = np.array([pair[0].shape[0] for pair in pairs], np.int64)
    for rows in bucket_by_length(lengths, recipe.tokens_per_batch, rng):
        pasts = [sequences[row][max(0, cuts[row] - PAST) : cuts[row]] for row in rows]
        yield Batch(
            past=pad(pasts),
            past_lengths=torch.tensor([past.shape[0] for past in pasts]),
            inputs=pad([pairs[row][0] for row in rows]),
            targets=pad([pairs[row][1] for row in rows]),
        )


def _validate(trained: Trained, contest: Contest) -> float:
    trained.eval()
    z = trained.describe_all(contest.histories)
    if trained.router.is_standardised:
        trained.router.fit_population(z)
    return contest.ranks(trained.scorer(contest.histories, z)).full.mean("ndcg", 10)
