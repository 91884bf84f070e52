# SPDX-License-Identifier: Apache-2.0
"""Caser: filters over the last L events as over an image of L rows and D columns.

Horizontal filters of height h look at h events in a row and keep their strongest
response; vertical filters are weighted sums of the L events, dimension by dimension. A
fully connected layer turns both into the state.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pocketrec.errors import ConfigError, QuantizationError
from pocketrec_cloud.backbones.base import Backbone, initialise
from pocketrec_quantization.backbone import BackboneConfig

__all__ = ["Caser", "CaserConfig"]

_TRAINING_EVENTS = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class CaserConfig:
    """The shape of a Caser.

    Attributes:
        n_items: V, padding not counted.
        embedding_dim: D.
        window: L, how many events a state is made from.
        max_height: Horizontal filters look at 1 to this many events; at most L.
        n_horizontal: Horizontal filters of each height.
        n_vertical: Vertical filters.
        dropout: Probability, on the responses of all filters.
        n_users: Rows of a table that is added to the states; 0 = none. Only a model
            without one can be exported.

    Raises:
        ConfigError: A size is below 1, ``max_height`` above L, or ``dropout`` no probability.
    """

    kind: ClassVar[str] = "caser"

    n_items: int
    embedding_dim: int = 64
    window: int = 5
    max_height: int = 5
    n_horizontal: int = 16
    n_vertical: int = 4
    dropout: float = 0.5
    n_users: int = 0

    def __post_init__(self) -> None:
        counts = (
            self.n_items,
            self.embedding_dim,
            self.window,
            self.max_height,
            self.n_horizontal,
            self.n_vertical,
        )
        if min(counts) < 1 or self.n_users < 0:
            raise ConfigError(f"expected every size to be at least 1, found {self}")
        if self.max_height > self.window:
            raise ConfigError(
                f"expected filters of at most {self.window} events, the window, found "
                f"max_height {self.max_height}"
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ConfigError(f"expected dropout within [0, 1), found {self.dropout}")

    @property
    def training_events(self) -> int:
        """See ``BackboneShape``: far more than L, so that most states see a full window."""
        return max(_TRAINING_EVENTS, self.window)

    def architecture(self) -> BackboneConfig:
        """See ``BackboneShape``."""
        return BackboneConfig(
            kind=self.kind,
            embedding_dim=self.embedding_dim,
            window=self.window,
            max_height=self.max_height,
            n_horizontal=self.n_horizontal,
            n_vertical=self.n_vertical,
        )


class Caser(Backbone):
    """Convolutional sequence embedding.

    The filters are linear layers over unfolded inputs, so that each filter is an output
    channel like any other: a horizontal filter of height h is a row of
    ``horizontal.<h>``, a vertical one of ``vertical``.

    Source:
        Tang and Wang 2018 (Caser), sections 3.1 to 3.3. Deviates: items are scored with
        their input embeddings instead of a second table, as in SASRec; the fully
        connected layer has no activation, since with that table a state needs both
        signs; responses are pooled before the ReLU, which is the same; the user's own
        embedding is added to the state instead of joined to it, and left out by default.

    Args:
        config: The shape.
    """

    config: CaserConfig

    def __init__(self, config: CaserConfig) -> None:
        super().__init__()
        self.config = config
        dim, heights = config.embedding_dim, range(1, config.max_height + 1)
        self.item_embedding = nn.Embedding(config.n_items + 1, dim, padding_idx=0)
        self.horizontal = nn.ModuleDict(
            {str(height): nn.Linear(height * dim, config.n_horizontal) for height in heights}
        )
        self.vertical = nn.Linear(config.window, config.n_vertical)
        n_responses = config.n_vertical * dim + config.n_horizontal * config.max_height
        self.fc = nn.Linear(n_responses, dim)
        self.dropout = nn.Dropout(config.dropout)
        self.input_scale = dim**0.5
        initialise(self)
        self.user_embedding: nn.Embedding | None = None
        if config.n_users:
            self.user_embedding = nn.Embedding(config.n_users, dim)
            nn.init.zeros_(self.user_embedding.weight)

    def forward(self, items: Tensor, users: Tensor | None = None) -> Tensor:
        """Encode histories of any length; a state sees the last L events up to its own.

        Args:
            items: (B, T) int64 item indices, 0 after the end.
            users: (B,) int64, rows of the users' table, where there is one.

        Returns:
            (B, T, D) float32, the state after each event.

        Raises:
            ConfigError: Users are missing, or there is no table for them.
        """
        events = functional.pad(self._embed(items), (0, 0, self.config.window - 1, 0))
        windows = events.unfold(1, self.config.window, 1)
        pooled = self._pool_shared(events) if self.training else self._pool(windows)
        return self._join(windows, pooled) + self._of_users(users)

    def last_states(self, items: Tensor, lengths: Tensor, users: Tensor | None = None) -> Tensor:
        """Return the state after each history's last event; no other one is computed.

        Args:
            items: (B, T) int64, as for ``forward``.
            lengths: (B,) int64, events per history, at least 1.
            users: (B,) int64, as for ``forward``.

        Returns:
            (B, D) float32.

        Raises:
            ConfigError: Users are missing, or there is no table for them.
        """
        window = self.config.window
        at = lengths[:, None] - window + torch.arange(window, device=items.device)
        recent = items.gather(1, at.clamp(min=0)).masked_fill(at < 0, 0)
        windows = self._embed(recent).transpose(1, 2)[:, None]
        states = self._join(windows, self._pool(windows))
        return (states + self._of_users(users))[:, 0]

    def fold_input_scale(self) -> None:
        """See ``Backbone.fold_input_scale``: the last layer takes the inverse.

        Raises:
            QuantizationError: The model has a table of users.
        """
        if self.user_embedding is not None:
            raise QuantizationError(
                f"expected a Caser without a table of users, found one of {self.config.n_users} "
                "rows: a bundle is the same for everybody and its users are not known in "
                "training; train with n_users=0"
            )
        self.multiply_items_(self.input_scale)
        with torch.no_grad():
            self.fc.weight.div_(self.input_scale)
            self.fc.bias.div_(self.input_scale)
        self.input_scale = 1.0

    def _embed(self, items: Tensor) -> Tensor:
        embedded: Tensor = self.item_embedding(items)
        return embedded * self.input_scale

    def _pool(self, windows: Tensor) -> list[Tensor]:
        """Return each filter's largest response in windows (B, T, D, L): (B, T, n_horizontal)."""
        pooled = []
        for height, filters in self.horizontal.items():
            stretches = windows.unfold(3, int(height), 1)  # (B, T, D, P, h)
            responses = filters(stretches.permute(0, 1, 3, 4, 2).flatten(-2))
            pooled.append(responses.max(dim=2).values)
        return pooled

    def _pool_shared(self, events: Tensor) -> list[Tensor]:
        """Return the same of all windows in (B, T + L - 1, D).

        Windows that overlap share their responses, which makes a training several times
        faster. Hooks of a calibration see every window's own instead, see ``_pool``.
        """
        pooled = []
        for height, filters in self.horizontal.items():
            n_stretches = events.shape[1] - int(height) + 1
            rows = [events[:, first : first + n_stretches] for first in range(int(height))]
            responses = filters(torch.cat(rows, dim=-1))  # (B, T + L - h, n_horizontal)
            n_places = self.config.window - int(height) + 1
            largest = functional.max_pool1d(responses.transpose(1, 2), n_places, stride=1)
            pooled.append(largest.transpose(1, 2))
        return pooled

    def _join(self, windows: Tensor, pooled: list[Tensor]) -> Tensor:
        """Turn windows of events, (B, T, D, L), and pooled responses into states: (B, T, D)."""
        mixed = self.vertical(windows).flatten(-2)
        strongest = functional.relu(torch.cat(pooled, dim=-1))
        states: Tensor = self.fc(self.dropout(torch.cat([mixed, strongest], dim=-1)))
        return states

    def _of_users(self, users: Tensor | None) -> Tensor | float:
        """Return what is added to the states of users, (B, 1, D)."""
        if (users is None) != (self.user_embedding is None):
            raise ConfigError(
                f"expected users if and only if the model has a table of them, found a model with "
                f"{self.config.n_users} users and {'none' if users is None else 'some'} given"
            )
        if self.user_embedding is None:
            return 0.0
        embedded: Tensor = self.user_embedding(users)
        return embedded[:, None]
