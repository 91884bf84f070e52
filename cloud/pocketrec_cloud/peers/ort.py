# SPDX-License-Identifier: Apache-2.0
"""ONNX Runtime on the CPU: the exported graph, in float32 and dynamically quantized."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pocketrec.telemetry import import_onnxruntime
from pocketrec_quantization.peers import FloatNetwork

__all__ = ["OnnxRuntime"]


class _Session:
    """Inputs and output are bound to arrays once: 2 to 7 us a call less than ``run``."""

    def __init__(self, path: Path, window: int, n_candidates: int) -> None:
        onnxruntime: Any = import_onnxruntime()
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 3  # errors
        self._session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
        self.history = np.ones(window, np.int64)
        self.candidates = np.ones(n_candidates, np.int64)
        self._scores = np.zeros(n_candidates, np.float32)
        value = onnxruntime.OrtValue.ortvalue_from_numpy  # over the array's own memory
        self._binding: Any = self._session.io_binding()
        self._binding.bind_ortvalue_input("history", value(self.history))
        self._binding.bind_ortvalue_input("candidates", value(self.candidates))
        self._binding.bind_ortvalue_output("scores", value(self._scores))

    def run(self) -> NDArray[np.float32]:
        self._session.run_with_iobinding(self._binding)
        return self._scores


@dataclass(frozen=True, slots=True, kw_only=True)
class OnnxRuntime:
    """``torch.onnx.export`` as it comes; default session options, one thread.

    Attributes:
        name: What rows are called.
        is_exact: float32; else ``quantize_dynamic`` with its defaults: 8-bit weights and
            embeddings, activations quantized per call.
    """

    name: str
    is_exact: bool
    requires: tuple[str, ...] = ("onnxruntime", "onnx", "onnxscript", "torch")
    install: str = "pip install 'pocketrec[cloud]'"

    def convert(self, network: FloatNetwork, out: Path) -> None:
        """See ``Peer.convert``."""
        from pocketrec_cloud.peers.history import write_onnx

        if self.is_exact:
            write_onnx(network, out)
            return
        from onnxruntime.quantization import quantize_dynamic

        plain = out.with_suffix(".float")
        write_onnx(network, plain)
        quantize_dynamic(plain, out)
        plain.unlink()

    def load(self, path: Path, *, window: int, n_candidates: int) -> _Session:
        """See ``Peer.load``."""
        return _Session(path, window, n_candidates)
