# SPDX-License-Identifier: Apache-2.0
"""A frozen backbone together with what plans for it, as they are trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec_cloud.batches import bucket_by_length, pad
from pocketrec_cloud.extractor import Extractor
from pocketrec_cloud.planning.mixed_precision import MixedBackbone
from pocketrec_quantization.allocation import Spending
from pocketrec_quantization.budget import budget_bytes
from pocketrec_quantization.hypernetworks import Hypernetworks, allocate, tiers
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.personal import HypernetworkConfig, PersonalPlanner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from pocketrec_cloud.backbones.base import Backbone
    from pocketrec_cloud.planning.configuration import PlannerTraining
    from pocketrec_cloud.planning.cuts import CutBatch

__all__ = ["STRATEGIES", "PlannedBackbone"]

STRATEGIES = ("personal", "global", "float", "uniform-2", "uniform-4", "uniform-8")
"""Where the plans of a training come from: hypernetworks that read the user, one learned
plan for everybody, none at all, or the same width everywhere."""

_USERS_AT_ONCE = 50_000  # tokens
_TIER_OF = {"uniform-2": 1, "uniform-4": 2, "uniform-8": 3}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PlannedBackbone:
    """What is trained together; all parts are on one device.

    Attributes:
        mixed: The backbone, its coded matrices frozen.
        extractor: From histories to user embeddings.
        hypernetworks: From user embeddings to scores.
        strategy: Of ``STRATEGIES``.
        config: How it is trained.
    """

    mixed: MixedBackbone
    extractor: Extractor
    hypernetworks: Hypernetworks
    strategy: str
    config: PlannerTraining

    @classmethod
    def start(cls, backbone: Backbone, strategy: str, config: PlannerTraining) -> PlannedBackbone:
        """Return an untrained planner for a copy of a backbone.

        Args:
            backbone: Trained, or just initialised; unchanged.
            strategy: Of ``STRATEGIES``.
            config: How it will be trained.
        """
        mixed = MixedBackbone.of(backbone)
        dim = backbone.config.embedding_dim
        shape = HypernetworkConfig(
            embedding_dim=dim,
            hidden_dim=config.hidden_dim,
            rank=config.rank,
            terms=config.terms if strategy == "personal" else (),
        )
        hypernetworks = Hypernetworks(
            mixed.layers,
            shape,
            is_standardised=config.is_standardised and strategy == "personal",
        )
        return cls(
            mixed=mixed,
            extractor=Extractor(dim),
            hypernetworks=hypernetworks,
            strategy=strategy,
            config=config,
        )

    @property
    def modules(self) -> nn.ModuleDict:
        """All parts, to be moved, trained or saved as one."""
        return nn.ModuleDict(
            {
                "backbone": self.mixed.model,
                "extractor": self.extractor,
                "hypernetworks": self.hypernetworks,
            }
        )

    @property
    def device(self) -> torch.device:
        """Where the parts are."""
        return self.mixed.model.item_embedding.weight.device

    @property
    def levels(self) -> LevelTable:
        """What the tiers of its plans mean in bits."""
        return self.config.level_tables[0]

    def spending(self, average_bits: float) -> Spending:
        """Return a budget, in bits per weight and scales apart, as ``allocate`` wants it."""
        return Spending.of(
            self.mixed.layers,
            budget_bytes(self.mixed.layers, average_bits),
            levels=self.levels,
            high_share=self.config.high_share,
        )

    def predict(
        self, batch: CutBatch, *, spending: Spending, levels: LevelTable, temperature: float
    ) -> Tensor:
        """Return the state after every input under plans of the events before the cut.

        Args:
            batch: B users.
            spending: The budget of their plans.
            levels: What the tiers mean.
            temperature: Of the soft tiers.

        Returns:
            (B, T, D) float32.
        """
        n_users = batch.inputs.shape[0]
        if self.strategy == "float":
            self.mixed.use_tiers(None, levels)
        elif self.strategy in _TIER_OF:
            fixed = self._uniform(n_users, _TIER_OF[self.strategy])
            self.mixed.use_tiers(fixed, DEFAULT_LEVELS)
        else:
            scores = self._scores(batch.past, batch.past_lengths)
            self.mixed.use_tiers(tiers(scores, spending, temperature), levels)
        states: Tensor = self.mixed.model(batch.inputs)
        return states

    def planner(self, model_digest: bytes) -> PersonalPlanner:
        """Return what a server evaluates: the same plans, without torch.

        Args:
            model_digest: 32 bytes, SHA-256 of the frozen part.
        """
        found = self.hypernetworks.planner(model_digest)
        return replace(
            found,
            arrays=dict(found.arrays),
            high_share=float(self.config.high_share),
            levels=self.levels,
        )

    @torch.no_grad()
    def user_embeddings(self, histories: Sequence[NDArray[np.int32]]) -> Tensor:
        """Return (U, D) float32 for U histories, oldest event first."""
        recent = [history[-self.config.extract_window :] for history in histories]
        lengths = np.array([row.shape[0] for row in recent], np.int64)
        found = torch.empty(len(recent), self.mixed.model.config.embedding_dim, device=self.device)
        for rows in bucket_by_length(lengths, _USERS_AT_ONCE):
            past = pad([recent[row] for row in rows]).to(self.device)
            own = torch.from_numpy(lengths[rows]).to(self.device)
            found[torch.from_numpy(rows).to(self.device)] = self._extract(past, own)
        return found

    @torch.no_grad()
    def codes(self, user_embeddings: Tensor, average_bits: float) -> Tensor:
        """Return (U, C_total) int64, one plan per user, codes 1..3."""
        spending = self.spending(average_bits)
        parts = [
            allocate(self.hypernetworks(part), spending)
            for part in torch.split(user_embeddings, 1024)
        ]
        return torch.cat(parts)

    def scorer(
        self,
        histories: Sequence[NDArray[np.int32]],
        codes: Tensor | None,
        levels: LevelTable | None = None,
    ) -> Callable[[NDArray[np.int64]], Tensor]:
        """Return what scores the catalogue for rows of histories, each under its own plan.

        Args:
            histories: U histories, oldest event first.
            codes: (U, C_total) int64, or (1, C_total) for one plan; None = float weights.
            levels: What the codes mean; None = as in the planner's own plans.
        """
        table = levels or self.levels
        model, window = self.mixed.model, self.mixed.model.config.window

        @torch.no_grad()
        def score(rows: NDArray[np.int64]) -> Tensor:
            recent = [histories[row][-window:] for row in rows]
            lengths = torch.tensor([row.shape[0] for row in recent], device=self.device)
            if codes is None:
                self.mixed.use_tiers(None, table)
            else:
                chosen = codes if len(codes) > 1 else codes.expand(len(histories), -1)
                own = chosen[torch.from_numpy(rows).to(codes.device)].to(self.device)
                self.mixed.use_tiers(functional.one_hot(own - 1, 3).float(), table)
            states = model.last_states(pad(recent).to(self.device), lengths)
            return states @ model.item_embedding.weight.T

        return score

    def _uniform(self, n_users: int, tier: int) -> Tensor:
        n_channels = sum(layer.n_channels for layer in self.mixed.layers)
        one = functional.one_hot(torch.tensor(tier - 1, device=self.device), 3).float()
        return one.expand(n_users, n_channels, 3)

    def _scores(self, past: Tensor, lengths: Tensor) -> Tensor:
        if self.strategy != "personal":
            dim = self.mixed.model.config.embedding_dim
            nobody: Tensor = self.hypernetworks(torch.zeros(past.shape[0], dim, device=past.device))
            return nobody
        scores: Tensor = self.hypernetworks(self._extract(past, lengths))
        return scores

    def _extract(self, past: Tensor, lengths: Tensor) -> Tensor:
        model = self.mixed.model
        found: Tensor = self.extractor(model.item_embedding(past) * model.input_scale, lengths)
        return found
