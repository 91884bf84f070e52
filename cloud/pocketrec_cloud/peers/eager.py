# SPDX-License-Identifier: Apache-2.0
"""PyTorch without any export: what a prototype on a server would do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.peers import FloatNetwork

__all__ = ["TorchEager"]


class _Session:
    def __init__(self, path: Path, window: int, n_candidates: int) -> None:
        import torch

        from pocketrec_cloud.peers.history import FullHistory

        torch.set_num_threads(1)
        self._inference_mode = torch.inference_mode
        saved = torch.load(path, weights_only=True)
        self._network = FullHistory(BackboneConfig(**saved["backbone"]), saved["n_items"])
        self._network.load_state_dict(saved["state"])
        self._network.fold()
        self.history = np.ones(window, np.int64)
        self.candidates = np.ones(n_candidates, np.int64)
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

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """See ``Peer.convert``."""
        import torch

        from pocketrec_cloud.peers.history import FullHistory

        saved = {
            "backbone": asdict(network.backbone),
            "n_items": network.n_items,
            "state": FullHistory.load(network).state_dict(),
        }
        torch.save(saved, out)

    def load(self, path: Path, *, window: int, n_candidates: int) -> _Session:
        """See ``Peer.load``."""
        return _Session(path, window, n_candidates)
