# SPDX-License-Identifier: Apache-2.0
"""What a peer is: something that converts the network once, and then runs it.

``convert`` and ``load`` are called in different processes, so ``load`` must not need what
``convert`` left in memory, and libraries are imported within them, never before.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from benchmarks.shapes import Shape

__all__ = ["Peer", "Session"]


class Session(Protocol):
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

    def convert(self, shape: Shape, weights: Path, out: Path) -> None:
        """Write the network to the file ``out``.

        Args:
            shape: The shape of the model.
            weights: The ``weights.npz`` of that shape.
            out: The file to write.
        """
        ...

    def load(self, shape: Shape, path: Path) -> Session:
        """Load what ``convert`` wrote."""
        ...
