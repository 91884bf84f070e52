# SPDX-License-Identifier: Apache-2.0
"""What another runtime must offer to be measured beside pocketrec: convert, load, run.

A peer is one file: it turns the float network into whatever its runtime loads, and then
scores candidates for a whole history. ``convert`` and ``load`` are called in different
processes, so ``load`` must not need what ``convert`` left in memory; libraries are imported
within them, never before. The entry-point group ``pocketrec.peers`` names peers for
everybody; ``bench run --peer`` takes one from a file, too. Letters: L window, M candidates,
V items, D embedding dim (docs/notation.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.float_twin import FloatTwin

__all__ = ["PEER_GROUP", "FloatNetwork", "Peer", "PeerSession"]

PEER_GROUP = "pocketrec.peers"
"""The group of entry points that name peers."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FloatNetwork:
    """A whole model in float32: what a peer converts.

    Args:
        backbone: The architecture.
        weights: Every tensor by its name, such as ``blocks.0.q.weight``, float32.
        item_embeddings: (V + 1, D) float32, row 0 is padding; a candidate's score is the
            product of its row and the state.
        n_candidates: M, candidates per call.

    Raises:
        ConfigError: A tensor is missing, or of another shape.
    """

    backbone: BackboneConfig
    weights: Mapping[str, NDArray[np.float32]]
    item_embeddings: NDArray[np.float32]
    n_candidates: int

    def __post_init__(self) -> None:
        expected = dense_shapes(self.backbone) | {
            f"{layer.name}.weight": (layer.n_channels, layer.n_elements)
            for layer in coded_layers(self.backbone)
        }
        found = {name: array.shape for name, array in self.weights.items()}
        wrong = sorted(
            name for name in {*expected, *found} if expected.get(name) != found.get(name)
        )
        if wrong:
            raise ConfigError(
                f"{wrong[0]}: expected the shape {expected.get(wrong[0])}, "
                f"found {found.get(wrong[0])}"
            )
        if self.item_embeddings.shape[1:] != (self.backbone.embedding_dim,):
            raise ConfigError(
                f"item_embeddings: expected {self.backbone.embedding_dim} columns, "
                f"found the shape {self.item_embeddings.shape}"
            )
        if not 1 <= self.n_candidates <= self.n_items:
            raise ConfigError(
                f"n_candidates: expected 1..{self.n_items}, found {self.n_candidates}"
            )

    @property
    def n_items(self) -> int:
        """V, padding not counted."""
        return int(self.item_embeddings.shape[0]) - 1

    @classmethod
    def of(cls, bundle: BundleFolder, twin: FloatTwin, *, n_candidates: int) -> FloatNetwork:
        """Return the float model that a bundle was made from.

        Args:
            bundle: Gives what is not coded.
            twin: Gives the rest.
            n_candidates: M.

        Raises:
            ArtifactError: The bundle is damaged.
            ConfigError: They are of different models.
        """
        return cls(
            backbone=bundle.manifest.backbone,
            weights={**bundle.read_frozen().dense, **twin.weights},
            item_embeddings=twin.item_embeddings,
            n_candidates=n_candidates,
        )


class PeerSession(Protocol):
    """A loaded network with buffers of its own, allocated once and written by the caller."""

    @property
    def history(self) -> NDArray[Any]:
        """(L,) integers, item indices, oldest first."""
        ...

    @property
    def candidates(self) -> NDArray[Any]:
        """(M,) integers, item indices."""
        ...

    def run(self) -> NDArray[np.float32]:
        """Return (M,) float32 scores of what stands in the buffers, valid until the next call."""
        ...


class Peer(Protocol):
    """One way to run the network, on one thread."""

    @property
    def name(self) -> str:
        """What rows are called."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether it must give the reference's scores, up to float rounding."""
        ...

    @property
    def requires(self) -> tuple[str, ...]:
        """Modules it imports; their distributions have the same names."""
        ...

    @property
    def install(self) -> str:
        """The command that makes ``requires`` available."""
        ...

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """Write the network to the file ``out``.

        Args:
            network: What to convert.
            out: The file to write.

        Raises:
            ConfigError: The runtime, or this peer, cannot express the architecture.
        """
        ...

    def load(self, path: Path, *, window: int, n_candidates: int) -> PeerSession:
        """Load what ``convert`` wrote.

        Args:
            path: The file.
            window: L.
            n_candidates: M.
        """
        ...
