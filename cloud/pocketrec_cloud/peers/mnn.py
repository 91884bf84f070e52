# SPDX-License-Identifier: Apache-2.0
"""MNN on the CPU, converted from the ONNX file: float32, and with quantized weights.

Two things its package does by default are kept out. The command ``mnnconvert`` runs
``pip install`` and reports each conversion to its makers, so the converter is called
directly. And a module takes several threads unless a runtime manager says otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.peers import FloatNetwork

__all__ = ["Mnn"]


class _Session:
    def __init__(self, path: Path, window: int, n_candidates: int) -> None:
        expr, nn = import_module("MNN.expr"), import_module("MNN.nn")
        # Its module reads the manager for as long as it lives.
        self._manager = nn.create_runtime_manager(({"numThread": 1, "backend": "CPU"},))
        self._module = nn.load_module_from_file(
            str(path),
            ["history", "candidates"],
            ["scores"],
            runtime_manager=self._manager,
            shape_mutable=False,
            rearrange=True,  # weights in the kernels' own layout, at load
        )
        self.history = np.ones(window, np.int32)
        self.candidates = np.ones(n_candidates, np.int32)
        self._inputs = [
            expr.placeholder([size], expr.data_format.NCHW, expr.dtype.int)
            for size in (window, n_candidates)
        ]

    def run(self) -> NDArray[np.float32]:
        history, candidates = self._inputs
        history.write(self.history)
        candidates.write(self.candidates)
        scores: NDArray[np.float32] = self._module.forward(self._inputs)[0].read()
        return scores


@dataclass(frozen=True, slots=True, kw_only=True)
class Mnn:
    """The converted graph with default precision.

    Attributes:
        name: What rows are called.
        weight_bits: 0 is float32. Fewer bits save bytes of the file; they are expanded at
            load. The mode that computes in 8 bits (memory "low") was slower here, by a third
            at 128 dimensions.
    """

    name: str
    weight_bits: int = 0
    requires: tuple[str, ...] = ("MNN", "onnx", "onnxscript", "torch")
    install: str = "pip install 'pocketrec[cloud,peers]'"

    @property
    def is_exact(self) -> bool:
        """See ``Peer.is_exact``."""
        return self.weight_bits == 0

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """See ``Peer.convert``.

        Raises:
            RuntimeError: The converter wrote nothing; it says why on stdout.
        """
        from pocketrec_cloud.peers.history import write_onnx

        plain = out.with_suffix(".onnx")
        write_onnx(network, plain)
        command = ["MNNConvert", "-f", "ONNX", "--modelFile", str(plain), "--MNNModel", str(out)]
        command += ["--bizCode", "pocketrec"]
        if self.weight_bits:
            command += ["--weightQuantBits", str(self.weight_bits)]
        import_module("MNN")  # loads the libraries that the converter is linked with
        import_module("_tools").mnnconvert(command)
        plain.unlink()
        if not out.exists():
            raise RuntimeError("MNN's converter wrote no file")

    def load(self, path: Path, *, window: int, n_candidates: int) -> _Session:
        """See ``Peer.load``."""
        return _Session(path, window, n_candidates)
