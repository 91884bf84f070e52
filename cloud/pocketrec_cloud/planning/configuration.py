# SPDX-License-Identifier: Apache-2.0
"""What a planner is trained for, and how long and how hard."""

from __future__ import annotations

from dataclasses import dataclass

from pocketrec.errors import ConfigError
from pocketrec_quantization.levels import DEFAULT_LEVELS, SPEED_PRESETS, LevelTable
from pocketrec_quantization.personal import TERMS

__all__ = ["TRAINED_LEVELS", "PlannerTraining"]

TRAINED_LEVELS = (
    DEFAULT_LEVELS,
    *(levels for _, levels in sorted(SPEED_PRESETS.items()) if levels is not None),
)
"""The default table, which half of all batches see, and those of the speed presets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannerTraining:
    """How a planner is trained together with what a plan does not code.

    Attributes:
        max_epochs: Passes over the users at most.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        evaluate_every: Epochs between two evaluations.
        tokens_per_batch: Bound on users times longest history of a batch.
        learning_rate: Adam's, of embeddings, norms and biases.
        planner_learning_rate: Adam's, of extractor and hypernetworks.
        n_negatives: Sampled softmax negatives; V or more = whole catalogue.
        max_gradient_norm: Gradients are scaled down to this norm.
        average_bits: What half of all batches plan for, and what validation judges by.
        bit_range: The others draw their average bits from here, so that one planner
            serves every budget.
        level_tables: Budgets are spent by the first, which is that of the plans; half of the
            batches are read by it, the others by one of these, so that presets work. A first
            table with a tier of 0 bits trains plans that prune.
        temperature: Of the soft tiers, at the first epoch and at the last one.
        extract_window: Events that the extractor reads at most.
        n_targets: Events after the cut that a history is trained to predict, at most.
        hidden_dim: Of the hypernetworks.
        rank: Of the element-level importances.
        terms: Factors of a score; see ``personal``.
        is_standardised: See ``Hypernetworks``; without it, plans come out the same for
            everybody (``docs/results/planner.md``).
        high_share: See ``allocate_scores``.
        n_validation_users: Evaluations rank at most so many users, always the same ones.
        seed: Of everything random.

    Raises:
        ConfigError: A number is out of its range.

    Source:
        CHORD for what is trained and what is not; budgets and tables drawn per batch, and
        all numbers, are our choice.
    """

    max_epochs: int = 60
    patience: int = 6
    evaluate_every: int = 3
    tokens_per_batch: int = 12_800
    learning_rate: float = 1e-3
    planner_learning_rate: float = 1e-3
    n_negatives: int = 512
    max_gradient_norm: float = 5.0
    average_bits: float = 3.0
    bit_range: tuple[float, float] = (2.25, 8.0)
    level_tables: tuple[LevelTable, ...] = TRAINED_LEVELS
    temperature: tuple[float, float] = (1.0, 0.2)
    extract_window: int = 200
    n_targets: int = 25
    hidden_dim: int = 32
    rank: int = 4
    terms: tuple[str, ...] = TERMS
    is_standardised: bool = True
    high_share: float = 0.5
    n_validation_users: int = 4_000
    seed: int = 0

    def __post_init__(self) -> None:
        counts = (self.max_epochs, self.patience, self.evaluate_every, self.tokens_per_batch)
        samples = (self.n_negatives, self.n_targets, self.n_validation_users)
        if min(*counts, *samples, self.extract_window) < 1:
            raise ConfigError(f"expected every count to be at least 1, found {self}")
        rates = (self.learning_rate, self.planner_learning_rate, self.max_gradient_norm)
        if min(*rates, *self.temperature) <= 0:
            raise ConfigError(f"expected positive rates and temperatures, found {self}")
        low, high = self.bit_range
        if not 2 <= low <= self.average_bits <= high <= 8:
            raise ConfigError(
                f"expected 2 <= {low} <= average_bits <= {high} <= 8, found {self.average_bits}"
            )
        if not 0 <= self.high_share <= 1:
            raise ConfigError(f"high_share: expected 0..1, found {self.high_share}")
        if not self.level_tables:
            raise ConfigError("level_tables: expected at least one")
