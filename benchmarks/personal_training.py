# SPDX-License-Identifier: Apache-2.0
"""Trains a setup of ``personal`` from a float backbone, with early stop on validation.

A plan only uses events before the events that it is judged by: every history is cut at a
random place, as the product's planners are trained.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

from benchmarks.personal_slices import (
    HALF_LIVES,
    Router,
    SlicedSASRec,
    decayed_means,
    quantized,
    take_slice,
    ternary,
)
from pocketrec_cloud.batches import bucket_by_length, pad
from pocketrec_cloud.losses import sampled_softmax_loss
from pocketrec_cloud.planning.contest import Contest
from pocketrec_cloud.planning.cuts import cut_history

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from benchmarks.personal_settings import Recipe, Setup
    from pocketrec_cloud.backbones.sasrec import SASRec
    from pocketrec_cloud.data.split import LeaveOneOut

__all__ = ["Trained", "train_setup"]

_PAST = 200
_N_NEGATIVES = 512
_LARGEST_GRADIENT = 5.0
_LEARNING_RATE = 5e-4
_ROUTER_LEARNING_RATE = 1e-3
_AVERAGED_EPOCHS = 3
_TEMPERATURE = (1.0, 0.3)
_USERS_AT_ONCE = 512
_CONTRAST_SHARPNESS = 10.0
_FIRST_STEP = 0.2  # of the codes of offsets


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Batch:
    past: Tensor
    past_lengths: Tensor
    inputs: Tensor
    targets: Tensor


class Trained(nn.Module):
    """What one setup trains together.

    Args:
        model: The float backbone it starts from; unchanged.
        setup: What may change by user, and what is trained.
    """

    def __init__(self, model: SASRec, setup: Setup) -> None:
        super().__init__()
        self.setup = setup
        self.sliced = SlicedSASRec(model)
        dim, blocks = model.config.embedding_dim, self.sliced.n_blocks
        self.n_kept = min(self.sliced.width, max(1, round(setup.kept * dim)))
        self.shift = nn.Parameter(_standardised(self.sliced.importance().log()))
        is_offset = bool(setup.rival)
        self.steps = nn.Parameter(torch.full((blocks, dim), _FIRST_STEP))
        self.router = Router(
            len(HALF_LIVES) * dim,
            (blocks, dim if is_offset else self.sliced.width),
            hidden=setup.hidden,
            dropout=setup.router_dropout,
            is_standardised=not is_offset,
            uses_batch=setup.is_batch_standardised,
        )
        self.future = nn.Linear(setup.hidden, dim)
        if setup.bits:
            self._quantize()

    @property
    def is_personal(self) -> bool:
        """Whether users differ in anything but their window."""
        return self.setup.plan == "personal" or bool(self.setup.rival)

    @cached_property
    def coded(self) -> list[nn.Module]:
        """The layers that plans code."""
        backbone = self.sliced.backbone
        return [backbone.get_submodule(name) for name in backbone.coded_names()]

    def _quantize(self) -> None:
        for layer in self.coded:
            if self.setup.is_pool_trained:
                parametrize.register_parametrization(
                    layer, "weight", _OnGrid(layer.get_parameter("weight"), self.setup.bits)
                )
            else:
                weight = layer.get_parameter("weight")
                read = quantized(weight.detach().numpy(), self.setup.bits)
                weight.data.copy_(torch.from_numpy(read.copy()))
                weight.requires_grad_(requires_grad=False)

    def refresh(self) -> None:
        """Find the scales of weights that are trained anew."""
        if self.setup.bits and self.setup.is_pool_trained:
            for layer in self.coded:
                original = layer.get_parameter("parametrizations.weight.original")
                for grid in layer.get_submodule("parametrizations.weight").children():
                    if isinstance(grid, _OnGrid):
                        grid.find(original)

    def describe(self, past: Tensor, lengths: Tensor) -> Tensor:
        """Return what the router reads of users, (B, n) float32."""
        backbone = self.sliced.backbone
        with torch.no_grad():
            rows = backbone.item_embedding.weight * backbone.input_scale
            return decayed_means(rows, past, lengths)

    def slices(self, z: Tensor, temperature: float = 1.0) -> Tensor:
        """Return (B, n_blocks, W), 0 or 1: each user's slice."""
        return take_slice(self.scores(z), self.n_kept, temperature)

    def scores(self, z: Tensor) -> Tensor:
        """Return (B, n_blocks, W) float32: what a slice is taken by."""
        if self.setup.plan != "personal":
            return self.shift.expand(z.shape[0], -1, -1)
        own: Tensor = self.router(z)
        if self.training and self.setup.noise:
            own = own + self.setup.noise * torch.randn_like(own)
        n_shared = round(self.setup.shared * self.n_kept)
        if not n_shared:
            return own + self.shift
        order = self.shift.detach().topk(n_shared, dim=-1).indices
        everybody = torch.zeros_like(self.shift).scatter_(-1, order, 1e4)
        return own + everybody

    def offsets(self, z: Tensor) -> Tensor | None:
        """Return (B, n_blocks, D), each user's vectors; None where there are none."""
        if not self.setup.rival:
            return None
        raw: Tensor = self.router(z)
        return raw if self.setup.rival == "offset" else ternary(raw) * self.steps

    def apply_to(self, z: Tensor, temperature: float = 1.0) -> None:
        """Make the next batch compute as these users' devices would."""
        slices = None if self.setup.plan == "none" else self.slices(z, temperature)
        self.sliced.use(slices, self.offsets(z))

    def loss(self, batch: _Batch, temperature: float) -> Tensor:
        """Return the mean loss of the events after the cuts, () float32."""
        z = self.describe(batch.past, batch.past_lengths)
        self.apply_to(z, temperature)
        real = batch.targets > 0
        items = self.sliced.backbone.item_embedding.weight
        states = self.sliced.backbone(batch.inputs)
        loss = sampled_softmax_loss(
            states[real], batch.targets[real], items, n_negatives=_N_NEGATIVES
        )
        if self.setup.contrast and z.shape[0] > 1:
            loss = loss + self.setup.contrast * self._contrast(z, batch.targets)
        return loss

    def _contrast(self, z: Tensor, targets: Tensor) -> Tensor:
        """Tell from the router's hidden layer whose future is whose (InfoNCE)."""
        rows = self.sliced.backbone.item_embedding.weight.detach()
        counts = (targets > 0).sum(1, keepdim=True)
        futures = functional.normalize(rows[targets].sum(1) / counts, dim=1)
        own = functional.normalize(self.future(self.router.inner(z)), dim=1)
        logits = _CONTRAST_SHARPNESS * own @ futures.T
        return functional.cross_entropy(logits, torch.arange(z.shape[0]))

    @torch.no_grad()
    def describe_all(self, histories: Sequence[NDArray[np.int32]]) -> Tensor:
        """Return what the router reads of U users, (U, n) float32."""
        parts = []
        for start in range(0, len(histories), _USERS_AT_ONCE):
            rows = [history[-_PAST:] for history in histories[start : start + _USERS_AT_ONCE]]
            parts.append(self.describe(pad(rows), torch.tensor([row.shape[0] for row in rows])))
        return torch.cat(parts)

    def scorer(
        self,
        histories: Sequence[NDArray[np.int32]],
        z: Tensor,
        *,
        slices: NDArray[np.bool_] | None = None,
        offsets: Tensor | None = None,
    ) -> Callable[[NDArray[np.int64]], Tensor]:
        """Return what scores the catalogue for rows of histories.

        Args:
            histories: U histories, oldest event first.
            z: (U, n), whose plans or vectors to use.
            slices: (U, n_blocks, W) or (1, n_blocks, W), instead of those that z gives.
            offsets: (U, n_blocks, D), likewise.
        """
        backbone = self.sliced.backbone
        window = backbone.config.window

        @torch.no_grad()
        def score(rows: NDArray[np.int64]) -> Tensor:
            recent = [histories[row][-window:] for row in rows]
            lengths = torch.tensor([row.shape[0] for row in recent])
            self.apply_to(z[torch.from_numpy(rows)])
            if slices is not None:
                own = slices[rows] if len(slices) > 1 else np.repeat(slices, len(rows), axis=0)
                self.sliced.slices = torch.from_numpy(own.astype(np.float32))
            if offsets is not None:
                self.sliced.offsets = offsets[torch.from_numpy(rows)]
            states = backbone.last_states(pad(recent), lengths)
            return states @ backbone.item_embedding.weight.T

        return score


class _OnGrid(nn.Module):
    """Rounds a matrix to the codes of one width; gradients pass as if it did not."""

    scale: Tensor

    def __init__(self, weights: Tensor, bits: int) -> None:
        super().__init__()
        self.bits, self.largest = bits, 2 ** (bits - 1) - 1
        self.register_buffer("scale", torch.ones(weights.shape[0], 1))
        self.find(weights)

    def find(self, weights: Tensor) -> None:
        """Take the scales that the quantizer finds for these weights."""
        read = np.abs(quantized(weights.detach().numpy(), self.bits)).max(axis=1, keepdims=True)
        self.scale.copy_(torch.from_numpy(read / self.largest))

    def forward(self, weights: Tensor) -> Tensor:
        step = self.scale.clamp(min=torch.finfo(torch.float32).tiny)
        codes = torch.round(weights.detach() / step).clamp(-self.largest, self.largest)
        return codes * self.scale + (weights - weights.detach())


def train_setup(
    split: LeaveOneOut,
    model: SASRec,
    setup: Setup,
    recipe: Recipe,
    *,
    seed: int,
    validation: Contest,
) -> tuple[Trained, list[dict[str, float]]]:
    """Train a setup until validation NDCG@10 under one's own plan stops improving.

    Args:
        split: Training sequences.
        model: The float backbone it starts from; unchanged.
        setup: What to train.
        recipe: How long.
        seed: Of everything random.
        validation: Who is ranked for between epochs.

    Returns:
        The best of all evaluations, that before the first epoch included, in evaluation
        mode; and the course: ``epoch``, ``loss``, ``ndcg@10`` of every evaluation.
    """
    torch.manual_seed(seed)
    trained = Trained(model, setup)
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
        torch._foreach_lerp_(self._averages, self._parameters, 1 / max(1.0, horizon))

    @torch.no_grad()
    def _swap(self) -> None:
        for average, value in zip(self._averages, self._parameters, strict=True):
            kept = value.detach().clone()
            value.copy_(average)
            average.copy_(kept)
        self._trained.refresh()


def _batches(
    sequences: Sequence[NDArray[np.int32]], window: int, recipe: Recipe, rng: np.random.Generator
) -> Iterator[_Batch]:
    cuts = [int(rng.integers(1, events.shape[0])) for events in sequences]
    pairs = [
        cut_history(events, cut, window=window, n_targets=window)
        for events, cut in zip(sequences, cuts, strict=True)
    ]
    lengths = np.array([pair[0].shape[0] for pair in pairs], np.int64)
    for rows in bucket_by_length(lengths, recipe.tokens_per_batch, rng):
        pasts = [sequences[row][max(0, cuts[row] - _PAST) : cuts[row]] for row in rows]
        yield _Batch(
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


def _standardised(values: Tensor) -> Tensor:
    variance, mean = torch.var_mean(values, dim=-1, keepdim=True)
    return (values - mean) / (variance + 1e-5).sqrt()
