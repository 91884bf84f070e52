# SPDX-License-Identifier: Apache-2.0
"""What every backend offers: three functions, a name, and an honest report.

A backend is one frozen model under one plan, ready to compute. It holds no history: the
state goes in and comes out, so one backend serves any number of sessions and threads.
Letters: T events, L window, D embedding dim, H heads, M candidates (docs/notation.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from pocketrec.errors import BackendError
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from pocketrec_quantization.plan import Plan

__all__ = ["Backend", "LayerReport", "layer_reports", "refuse_fallbacks"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What became of one coded matrix on this backend.

    Args:
        name: The layer, e.g. ``"blocks.0.q"``.
        requested: Output channels per width that the plan asks for, by bits.
        stored_bits: Bits per weight in memory while the backend runs.
        computed: Type of the weights in the arithmetic, e.g. ``"float32"``.
        kernel: What does the arithmetic.
    """

    name: str
    requested: Mapping[int, int]
    stored_bits: int
    computed: str
    kernel: str


class Backend(Protocol):
    """One model under one plan, ready to compute. All arrays are C-contiguous."""

    @property
    def name(self) -> str:
        """The name that ``Runtime.open`` takes."""
        ...

    @property
    def version(self) -> str:
        """Version of the library that computes."""
        ...

    def prefill(
        self, x: NDArray[np.float32]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Take in a whole history at once.

        Args:
            x: (T, D) float32, 1 <= T <= L, oldest event first.

        Returns:
            ``keys``: (n_blocks, H, T, D/H) float32.
            ``values``: the same shape.
            ``h``: (D,) float32, the user's state after the last event.

        Raises:
            BackendError: Inference failed.
        """
        ...

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]:
        """Take in one event after those in the ring buffers, which stay unchanged.

        Args:
            x: (D,) float32.
            keys: (n_blocks, H, L, D/H) float32.
            values: the same shape.
            distance: (L,) int64, how many events ago each slot was written; L = masked.

        Returns:
            ``new_key``: (n_blocks, H, D/H) float32, for the event's slot.
            ``new_value``: the same shape.
            ``h``: (D,) float32.

        Raises:
            BackendError: Inference failed.
        """
        ...

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates against the user's state.

        Args:
            h: (D,) float32.
            candidates: (M, D) float32, M >= 1.

        Returns:
            (M,) float32.

        Raises:
            BackendError: Inference failed.
        """
        ...

    def report(self) -> tuple[LayerReport, ...]:
        """Return, per coded matrix, what was asked, what is kept, and what computes."""
        ...


def layer_reports(
    plan: Plan, *, stored_bits: int, computed: str, kernel: str
) -> tuple[LayerReport, ...]:
    """Return one report per layer of a plan, for a backend that treats all layers alike."""
    by_layer = split_by_layer(plan.widths, plan.layers)
    return tuple(
        LayerReport(
            name=layer.name,
            requested=count_widths(by_layer[layer.name]),
            stored_bits=stored_bits,
            computed=computed,
            kernel=kernel,
        )
        for layer in plan.layers
    )


def refuse_fallbacks(backend_name: str, reports: Sequence[LayerReport]) -> None:
    """Return quietly when every layer computes in the widths its plan asks for.

    Raises:
        BackendError: A layer does not; the first one is named.
    """
    for report in reports:
        wanted = {f"int{bits}" for bits in report.requested}
        if wanted != {report.computed}:
            raise BackendError(
                f"strict: {report.name} asks for {sorted(wanted)}, but {backend_name} computes "
                f"{report.computed} ({report.kernel}); open with strict=False to accept that"
            )
