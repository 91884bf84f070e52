# SPDX-License-Identifier: Apache-2.0
"""What ``personal`` trains: datasets with their shapes and lengths, chosen on validation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from pocketrec.errors import ConfigError

__all__ = ["DATASETS", "SETUPS", "Recipe", "Setup", "case", "recipe_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """How long and how hard to train on one dataset.

    Attributes:
        window: L, events that the re-ranker reads.
        dim: D.
        dropout: Of the backbone.
        tokens_per_batch: Bound on users times longest input.
        pretraining_epochs: At most, of the float backbones.
        epochs: At most, of whatever starts from one.
        evaluate_every: Epochs between two evaluations.
        patience: Evaluations without a better validation NDCG@10 before stopping.
        n_validation_users: Evaluations rank at most so many users, always the same ones.
        cuts: Random places per user and epoch at which a history is cut in two.
        short_cuts: The same where the window is shorter, so that an epoch of long histories
            has as many targets.
    """

    window: int = 20
    dim: int = 64
    dropout: float = 0.2
    tokens_per_batch: int = 1_024
    pretraining_epochs: int = 120
    epochs: int = 60
    evaluate_every: int = 4
    patience: int = 6
    n_validation_users: int = 4_000
    cuts: int = 1
    short_cuts: int = 1

    def shortened(self, epochs: int) -> Recipe:
        """Return the same with fewer epochs, for trials."""
        return replace(self, pretraining_epochs=epochs, epochs=epochs, evaluate_every=1)

    def with_window(self, window: int) -> Recipe:
        """Return the same for a re-ranker that reads fewer events.

        Args:
            window: Events; 0 = as they are.

        Raises:
            ConfigError: It is longer than that of the recipe, at which backbones are trained.
        """
        if window in {0, self.window}:
            return self
        if not 0 < window < self.window:
            raise ConfigError(f"expected a window of 1 to {self.window} events, got {window}")
        return replace(self, window=window, cuts=self.short_cuts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """One way to train: what a user's plan may change, and what is trained.

    Attributes:
        multiplier: Width of the pool as a multiple of D.
        kept: Channels of a pool that a plan switches on, as a share of D.
        bits: Of all resident coded weights; 0 = float32.
        plan: ``none``, ``global`` (one learned slice) or ``personal``.
        rival: ``offset`` for one generated vector per user and block, ``codes`` for the same in
            2 bits per number, ``adapter`` for a generated rank-1 adapter of the second
            feed-forward matrix; then the slice, if any, is the same for everybody.
        is_blind: Whether the router is told nothing of the user: what it generates is then
            learned, and the same for everybody.
        is_pool_trained: Whether coded matrices go on being trained, rounded on the way.
        shared: Channels of a slice that everybody has, as a share of the slice.
        contrast: Weight of the term that asks a plan to tell whose future it is.
        hidden: Width of the router.
        router_dropout: On its inputs and hidden units.
        noise: Standard deviation added to standardised scores while training.
        is_batch_standardised: Whether scores are standardised by the batch while training, with
            gradients, rather than by running statistics, under which a router may shrink to
            nothing.
        base: A group whose trained model is kept as it is; only what tells users apart is then
            trained. Empty = a float backbone, all of it trained.

    Raises:
        ConfigError: A number is out of its range.
    """

    multiplier: int = 4
    kept: float = 1.0
    bits: int = 2
    plan: str = "personal"
    rival: str = ""
    is_pool_trained: bool = False
    shared: float = 0.0
    contrast: float = 0.0
    hidden: int = 64
    router_dropout: float = 0.2
    noise: float = 0.0
    is_batch_standardised: bool = False
    base: str = ""
    is_blind: bool = False

    def __post_init__(self) -> None:
        is_known = self.plan in {"none", "global", "personal"}
        if not is_known or self.rival not in {"", "offset", "codes", "adapter"}:
            raise ConfigError(f"expected a known plan and rival, got {self}")
        if self.bits not in {0, 2, 4, 8} or not 0 <= self.shared <= 1 or self.kept <= 0:
            raise ConfigError(f"expected bits of 0, 2, 4 or 8 and shares within 0..1, got {self}")


SETUPS: Mapping[str, Setup] = {
    "narrow-float": Setup(multiplier=1, bits=0, plan="none"),
    "wide-float": Setup(bits=0, plan="none"),
    "narrow-2": Setup(multiplier=1, plan="none"),
    "narrow-qat-2": Setup(multiplier=1, plan="none", is_pool_trained=True),
    "global": Setup(plan="global"),
    "personal": Setup(),
    "global-trained": Setup(plan="global", is_pool_trained=True),
    "personal-trained": Setup(is_pool_trained=True),
    "personal-slots": Setup(shared=0.5),
    "personal-slots-trained": Setup(shared=0.5, is_pool_trained=True),
    "personal-contrast": Setup(contrast=0.1),
    "offset": Setup(multiplier=1, rival="offset", plan="none"),
    "offset-trained": Setup(multiplier=1, rival="offset", plan="none", is_pool_trained=True),
    "personal-batch": Setup(is_batch_standardised=True),
    "personal-batch-trained": Setup(is_batch_standardised=True, is_pool_trained=True),
    "personal-regular-trained": Setup(
        is_batch_standardised=True,
        is_pool_trained=True,
        shared=0.5,
        hidden=16,
        router_dropout=0.5,
    ),
    "offset-slice-trained": Setup(
        rival="offset", plan="global", is_pool_trained=True, router_dropout=0.5
    ),
    "codes-slice-trained": Setup(
        rival="codes", plan="global", is_pool_trained=True, router_dropout=0.5
    ),
    "offset-after": Setup(
        rival="offset",
        plan="global",
        is_pool_trained=True,
        router_dropout=0.5,
        base="global-trained",
    ),
    "codes-after": Setup(
        rival="codes",
        plan="global",
        is_pool_trained=True,
        router_dropout=0.5,
        base="global-trained",
    ),
    "shared-after": Setup(
        rival="offset",
        plan="global",
        is_pool_trained=True,
        router_dropout=0.5,
        base="global-trained",
        is_blind=True,
    ),
    "offset-narrow-after": Setup(
        multiplier=1,
        rival="offset",
        plan="none",
        is_pool_trained=True,
        router_dropout=0.5,
        base="narrow-qat-2",
    ),
    "codes-trained": Setup(multiplier=1, rival="codes", plan="none", is_pool_trained=True),
    "adapter-trained": Setup(multiplier=1, rival="adapter", plan="none", is_pool_trained=True),
}
"""By name of the group. All from ``narrow-2`` on hold 2.5 bits per resident weight, and the
bytes of a backbone without a pool at 2 bits."""

DATASETS: Mapping[str, Recipe] = {
    "ml-100k": Recipe(short_cuts=4),
    "ml-1m": Recipe(tokens_per_batch=2_048, short_cuts=4),
    "amazon-beauty": Recipe(
        dropout=0.5, tokens_per_batch=2_048, pretraining_epochs=40, epochs=16, patience=3
    ),
    **{
        name: Recipe(
            dropout=0.5, tokens_per_batch=2_048, pretraining_epochs=20, epochs=8, patience=3
        )
        for name in ("amazon-cds", "yelp")
    },
}
"""By name of the dataset."""

_SHORT = Recipe(window=8, dim=16, pretraining_epochs=2, epochs=2, evaluate_every=1)


def recipe_of(dataset: str, window: int = 0) -> Recipe:
    """Return how to train on a dataset; on an unknown one, something small.

    Args:
        dataset: Its name.
        window: Of the re-ranker, where it differs; else 0.

    Raises:
        ConfigError: The window is too long.
    """
    return DATASETS.get(dataset, _SHORT).with_window(window)


def case(dataset: str, window: int) -> str:
    """Return what a dataset is called when it is read through a window: 0 = the recipe's."""
    is_usual = window in {0, recipe_of(dataset).window}
    return dataset if is_usual else f"{dataset}-w{window}"
