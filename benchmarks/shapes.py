# SPDX-License-Identifier: Apache-2.0
"""The shape of a model that is measured."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from pocketrec.errors import ConfigError

__all__ = ["Shape"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The shape of one model, and of what it is asked.

    Attributes:
        d: D, dimensions of an embedding.
        window: L, events of a history.
        blocks: Transformer blocks.
        n_items: V.
        n_candidates: M, items to rank.
        k: How many of them to return.

    Raises:
        ConfigError: A size is too small.
    """

    d: int
    window: int
    blocks: int
    n_items: int = 5000
    n_candidates: int = 100
    k: int = 10

    def __post_init__(self) -> None:
        if min(self.d, self.blocks, self.k) < 1 or self.window < 2 or self.d % self.n_heads:
            raise ConfigError(f"expected an even d, 2 events, and 1 of everything else, got {self}")
        if not self.k <= self.n_candidates <= self.n_items:
            raise ConfigError(f"expected k <= n_candidates <= n_items, got {self}")

    @classmethod
    def parse(cls, text: str, *, n_items: int = 5000) -> Self:
        """Read ``"64x50x2"``: D, L and blocks.

        Raises:
            ConfigError: The text is no shape.
        """
        try:
            d, window, blocks = (int(part) for part in text.lower().split("x"))
        except ValueError as exc:
            raise ConfigError(f"{text!r}: expected D x L x blocks, such as 64x50x2") from exc
        return cls(d=d, window=window, blocks=blocks, n_items=n_items)

    @property
    def name(self) -> str:
        """Such as ``64x50x2``."""
        return f"{self.d}x{self.window}x{self.blocks}"

    @property
    def n_heads(self) -> int:
        """H: 2 up to 128 dimensions, 4 beyond."""
        return 2 if self.d <= 128 else 4
