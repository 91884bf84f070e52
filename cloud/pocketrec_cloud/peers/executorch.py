# SPDX-License-Identifier: Apache-2.0
"""ExecuTorch with XNNPACK: float32, and 4-bit weights with 8-bit dynamic activations.

Its Python runtime imports torch, which counts in the memory of these rows; an app in C++
would not pay that.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.peers import FloatNetwork

__all__ = ["ExecuTorch"]


class _Session:
    def __init__(self, path: Path, window: int, n_candidates: int) -> None:
        with warnings.catch_warnings():  # the library's own, from its import on
            warnings.simplefilter("ignore")
            import torch
            from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
            from executorch.runtime import Runtime

        torch.set_num_threads(1)
        # Not public, and there is no other way: the pool takes every core and no variable of
        # the environment limits it.
        _unsafe_reset_threadpool(1)
        # A method reads the program's bytes, and only the program keeps those alive.
        self._program = Runtime.get().load_program(path.read_bytes())
        self._method = self._program.load_method("forward")
        self.history = np.ones(window, np.int64)
        self.candidates = np.ones(n_candidates, np.int64)
        # The tensors share the arrays' memory.
        self._inputs = [torch.from_numpy(self.history), torch.from_numpy(self.candidates)]

    def run(self) -> NDArray[np.float32]:
        scores: NDArray[np.float32] = self._method.execute(self._inputs)[0].numpy()
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecuTorch:
    """The exported program, lowered to XNNPACK wherever that takes it.

    Attributes:
        name: What rows are called.
        is_exact: float32; else ``8da4w`` of torchao: linear layers with symmetric 4-bit
            weights, one scale per output channel (faster here than groups of 32), and
            8-bit activations quantized per call. Embeddings stay float32.
    """

    name: str
    is_exact: bool
    requires: tuple[str, ...] = ("executorch", "torch", "torchao")
    install: str = "pip install 'pocketrec[cloud,executorch,peers]'"

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """See ``Peer.convert``."""
        import torch

        from pocketrec_cloud.peers.history import FullHistory, example_inputs

        with warnings.catch_warnings():  # the library's own, from its import on
            warnings.simplefilter("ignore")
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            module = FullHistory.load(network)
            if not self.is_exact:
                from torchao.quantization import Int8DynamicActivationIntxWeightConfig, quantize_
                from torchao.quantization.granularity import PerAxis

                config = Int8DynamicActivationIntxWeightConfig(
                    weight_dtype=getattr(torch, "int4"),  # noqa: B009  # torch's types lack it
                    weight_granularity=PerAxis(0),
                )
                quantize_(module, config)
            exported = torch.export.export(module, example_inputs(network))
            lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()])
            out.write_bytes(lowered.to_executorch().buffer)

    def load(self, path: Path, *, window: int, n_candidates: int) -> _Session:
        """See ``Peer.load``."""
        return _Session(path, window, n_candidates)
