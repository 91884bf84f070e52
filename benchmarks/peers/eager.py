# SPDX-License-Identifier: Apache-2.0
"""PyTorch without any export: what a prototype on a server would do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.shapes import Shape

__all__ = ["TorchEager"]


class _Session:
    def __init__(self, shape: Shape, path: Path) -> None:
        import torch

        from benchmarks.peers.history import FullHistory

        torch.set_num_threads(1)
        self._inference_mode = torch.inference_mode
        self._network = FullHistory(shape)
        self._network.load_state_dict(torch.load(path, weights_only=True))
        self._network.fold()
        self.history = np.ones(shape.window, np.int64)
        self.candidates = np.ones(shape.n_candidates, np.int64)
        # The tensors share the arrays' memory.
        self._inputs = (torch.from_numpy(self.history), torch.from_numpy(self.candidates))

    def run(self) -> NDArray[np.float32]:
        with self._inference_mode():
            scores: NDArray[np.float32] = self._network(*self._inputs).numpy()
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class TorchEager:
    """``inference_mode``, one thread.

    Attention is written out: ``scaled_dot_product_attention`` was slower at these shapes.
    """

    name: str = "torch-eager"
    is_exact: bool = True
    requires: tuple[str, ...] = ("torch",)
    install: str = "pip install 'pocketrec[cloud]'"

    def convert(self, shape: Shape, weights: Path, out: Path) -> None:
        """See ``Peer.convert``."""
        import torch

        from benchmarks.peers.history import FullHistory

        torch.save(FullHistory.load(shape, weights).state_dict(), out)

    def load(self, shape: Shape, path: Path) -> _Session:
        """See ``Peer.load``."""
        return _Session(shape, path)
