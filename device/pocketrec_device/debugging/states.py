# SPDX-License-Identifier: Apache-2.0
"""The states of held-out users under any weights, computed with the bundle's own graphs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from pocketrec_device.backends.onnx import OnnxBackend
from pocketrec_device.backends.onnx_program import OnnxProgram

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from pocketrec_quantization.bundle import BundleFolder
    from pocketrec_quantization.cases import EvaluationCases

__all__ = ["UserStates"]

_CASES_PER_REMARK = 64


class UserStates:
    """Computes users' states under weights that need not be those of a plan.

    Arithmetic is float32 in ONNX Runtime, whatever kernels an app uses: what differs between
    two calls is the weights alone.

    Args:
        bundle: Where graphs and items are.
        cases: Whose histories; the last L events of each count.
        threads: Threads per call.

    Raises:
        ArtifactError: The bundle cannot be used.
        MissingExtraError: onnxruntime is not installed.
    """

    def __init__(self, bundle: BundleFolder, cases: EvaluationCases, *, threads: int = 1) -> None:
        self._program = OnnxProgram(bundle, threads=threads, compute="fp32", swap="adapter")
        self._plan = bundle.read_default_plan()
        self._items = bundle.read_items()
        self._cases = cases
        self._window = bundle.manifest.backbone.window
        lengths = np.minimum(np.diff(cases.offsets), self._window)
        self._lengths = lengths

    def under(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        rows: NDArray[np.intp],
        advance: Callable[[int], None] = lambda _: None,
    ) -> NDArray[np.float32]:
        """Return the states of some users.

        Args:
            weights: ``"<layer>.weight"`` to (C_l, N_l) float32, all coded matrices.
            rows: (n,) integer, which cases.
            advance: Told how many more users are done.

        Returns:
            (n, D) float32, in the order of ``rows``.

        Raises:
            BackendError: Inference failed.
        """
        backend = OnnxBackend.of_floats(self._program, self._plan, weights)
        session = backend.new_state()
        states = np.empty((len(rows), self._items.embedding_dim), np.float32)
        # By length: a history as long as the one before it is computed by the same binding.
        by_length = np.argsort(self._lengths[rows], kind="stable")
        for n_done, place in enumerate(by_length.tolist(), start=1):
            session.reset()
            history = self._cases.history(int(rows[place]))[-self._window :]
            session.observe(self._items.embed(history))
            states[place] = session.h
            if n_done % _CASES_PER_REMARK == 0:
                advance(_CASES_PER_REMARK)
        advance(len(rows) % _CASES_PER_REMARK)
        return states
