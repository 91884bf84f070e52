# SPDX-License-Identifier: Apache-2.0
"""A Caser's exported functions, ready to be compared with the test vectors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_cloud.graph_runners import Array, ExecuTorchProgram, OnnxGraphs

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["ExecuTorchWindowFunctions", "OnnxWindowFunctions"]


class _WindowFunctions(ABC):
    """The functions of a Caser: the state from the last L events.

    Args:
        window: L.
    """

    def __init__(self, window: int) -> None:
        self._window = window

    @abstractmethod
    def step(self, window: Array) -> Array:
        """(L, D) -> h (1, D)."""

    def states(self, x: Array) -> Iterator[tuple[str, Array]]:
        """See ``Functions.states``."""
        window = np.zeros((self._window, x.shape[1]), np.float32)
        window[self._window - len(x) :] = x
        yield "step", self.step(window)


class OnnxWindowFunctions(_WindowFunctions, OnnxGraphs):
    """A Caser's graphs in ONNX Runtime.

    Args:
        graphs: ``"step"`` and ``"score"`` to serialised graphs.
        weights: The coded matrices of one plan, ``"<layer>.weight"`` to (C, N) float32.
        window: L.
    """

    def __init__(
        self, graphs: Mapping[str, bytes], weights: Mapping[str, Array], window: int
    ) -> None:
        _WindowFunctions.__init__(self, window)
        OnnxGraphs.__init__(self, graphs, weights)

    def step(self, window: Array) -> Array:
        """See ``_WindowFunctions.step``."""
        return self.run("step", {"window": window})["h"]


class ExecuTorchWindowFunctions(_WindowFunctions, ExecuTorchProgram):
    """A Caser's program in ExecuTorch.

    Args:
        program: A ``.pte`` with the methods ``step`` and ``score``.
        window: L.
    """

    def __init__(self, program: bytes, window: int) -> None:
        _WindowFunctions.__init__(self, window)
        ExecuTorchProgram.__init__(self, program, ("step", "score"))

    def step(self, window: Array) -> Array:
        """See ``_WindowFunctions.step``."""
        return self.run("step", window)[0]
