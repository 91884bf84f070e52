# SPDX-License-Identifier: Apache-2.0
"""What every backend offers: states that advance, a name, and an honest report.

A backend is one frozen model under one plan, ready to compute. It holds no history: that
lies in buffers which it is bound to, so one backend serves any number of sessions and
threads. What the buffers are depends on the kind of backbone. Letters: T events, L window,
D embedding dim, H heads (docs/notation.md).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pocketrec.errors import BackendError, MalformedArtifactError
from pocketrec_quantization.attention_bias import stack_relative_bias
from pocketrec_quantization.folding import Folding
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import count_widths

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_device.attention_state import StateBuffers
    from pocketrec_device.session import SessionState
    from pocketrec_device.window_state import WindowBuffers
    from pocketrec_quantization.attention_bias import RingBias
    from pocketrec_quantization.backbone import Feed
    from pocketrec_quantization.bundle import BackboneConfig
    from pocketrec_quantization.plan import Plan

__all__ = [
    "AttentionBackend",
    "Backend",
    "BoundState",
    "BoundWindow",
    "LayerReport",
    "WindowBackend",
    "layer_reports",
    "read_relative_bias",
    "refuse_fallbacks",
    "stored_channels",
]

_FLOAT_BITS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What became of one coded matrix on this backend.

    Args:
        name: The layer, e.g. ``"blocks.0.q"``.
        requested: Output channels per width that the plan asks for, by bits.
        stored: Output channels per width that is kept in memory, by bits.
        n_elements: Weights of each channel that are kept: those that read a channel which
            is off may be left out.
        computed: Type of the weights in the arithmetic, e.g. ``"float32"``.
        kernel: What does the arithmetic.
    """

    name: str
    requested: Mapping[int, int]
    stored: Mapping[int, int]
    n_elements: int
    computed: str
    kernel: str


class BoundState(Protocol):
    """A backend's hold on the keys and values of one session."""

    def step(self) -> None:
        """Take in the event in ``buffers.x``.

        Reads rows 1 to L-1 of ``buffers.cache`` and all of ``buffers.bias``; writes row 0
        of ``buffers.cache`` and ``buffers.h``.

        Raises:
            BackendError: Inference failed; rows 1 to L-1 are as before.
        """
        ...

    def prefill(self, x: NDArray[np.float32], row: int) -> None:
        """Take in a whole history at once.

        Writes rows ``row`` to ``row + T - 1`` of ``buffers.cache``, oldest event first,
        and ``buffers.h``.

        Only where the backend ``takes_histories``.

        Args:
            x: (T, D) float32, 1 <= T <= L, oldest event first.
            row: Where the oldest event goes; ``row + T <= L``.

        Raises:
            BackendError: Inference failed.
        """
        ...


class BoundWindow(Protocol):
    """A backend's hold on the window of one session."""

    def step(self) -> None:
        """Read ``buffers.window``, write ``buffers.h``.

        Raises:
            BackendError: Inference failed; the window is as before.
        """
        ...


class Backend(Protocol):
    """One model under one plan, ready to compute."""

    @property
    def name(self) -> str:
        """The name that ``Runtime.open`` takes."""
        ...

    @property
    def version(self) -> str:
        """Version of the library that computes."""
        ...

    @property
    def backbone(self) -> BackboneConfig:
        """The architecture."""
        ...

    @property
    def is_exact(self) -> bool:
        """Whether all arithmetic is float32 or better; otherwise inputs are rounded."""
        ...

    @property
    def takes_histories(self) -> bool:
        """Whether a history is taken in at once; otherwise event by event."""
        ...

    def new_state(self) -> SessionState:
        """Return the state of an empty history.

        Raises:
            BackendError: The library refuses its buffers.
        """
        ...

    def report(self) -> tuple[LayerReport, ...]:
        """Return, per coded matrix, what was asked, what is kept, and what computes."""
        ...


class AttentionBackend(Backend, Protocol):
    """A backend whose states are keys and values."""

    @property
    def ring(self) -> RingBias:
        """The biases that sessions supply."""
        ...

    def bind(self, buffers: StateBuffers) -> BoundState:
        """Return what advances the state in ``buffers``, which stay where they are.

        Raises:
            BackendError: The library refuses the buffers.
        """
        ...


class WindowBackend(Backend, Protocol):
    """A backend whose states are the last events."""

    def bind(self, buffers: WindowBuffers) -> BoundWindow:
        """Return what computes the state of ``buffers``, which stay where they are.

        Raises:
            BackendError: The library refuses the buffers.
        """
        ...


def read_relative_bias(
    dense: Mapping[str, NDArray[np.float32]], backbone: BackboneConfig
) -> NDArray[np.float32]:
    """Return a model's biases by distance, (n_blocks, H, L) float32.

    Args:
        dense: What of the frozen part is not coded.
        backbone: The architecture.

    Raises:
        MalformedArtifactError: They are missing, or of another shape.
    """
    expected = (backbone.n_blocks, backbone.n_heads, backbone.window)
    try:
        bias = stack_relative_bias(dense, backbone.n_blocks)
    except (KeyError, ValueError) as exc:
        raise MalformedArtifactError(f"no biases by distance: {exc}", field="frozen") from exc
    if bias.shape != expected:
        raise MalformedArtifactError(
            f"expected biases of {expected}, found {bias.shape}", field="frozen"
        )
    return bias


def layer_reports(
    plan: Plan, *, computed: str, kernel: str, feeds: Sequence[Feed] = ()
) -> tuple[LayerReport, ...]:
    """Return one report per layer of a plan, for a backend that keeps float32 everywhere.

    Args:
        plan: What was asked for.
        computed: Type of the arithmetic.
        kernel: What does it.
        feeds: Layers whose pruned channels the backend leaves out.
    """
    by_layer = split_by_layer(plan.widths, plan.layers)
    folding = Folding.of_layers(feeds, plan.layers, plan.widths)
    return tuple(
        LayerReport(
            name=layer.name,
            requested=count_widths(by_layer[layer.name]),
            stored=stored_channels(
                by_layer[layer.name],
                len(folding.rows.get(layer.name, range(layer.n_channels))),
                lambda kept: {_FLOAT_BITS: len(kept)},
            ),
            n_elements=len(folding.columns.get(layer.name, range(layer.n_elements))),
            computed=computed,
            kernel=kernel,
        )
        for layer in plan.layers
    )


def stored_channels(
    widths: NDArray[np.uint8],
    n_kept: int,
    stored: Callable[[NDArray[np.uint8]], Mapping[int, int]],
) -> dict[int, int]:
    """Return how many of a layer's channels are kept at which bits; 0 = left out.

    Args:
        widths: (C,) uint8, what the plan asks for.
        n_kept: Channels that are not left out.
        stored: Tells it of channels that are not.
    """
    n_dropped = len(widths) - n_kept  # of 0 bits, all of them
    found = dict(stored(np.sort(widths)[n_dropped:]))
    return {0: n_dropped + found.pop(0, 0), **found} if n_dropped else found


def refuse_fallbacks(backend_name: str, reports: Sequence[LayerReport]) -> None:
    """Return quietly when every layer is kept and computed in the widths its plan asks for.

    Raises:
        BackendError: A layer is not; the first one is named.
    """
    for report in reports:
        if dict(report.stored) != dict(report.requested) or report.computed == "float32":
            raise BackendError(
                f"strict: {report.name} asks for {_widths(report.requested)}, but {backend_name} "
                f"keeps {_widths(report.stored)} and computes {report.computed} "
                f"({report.kernel}); open with compute='packed', or with strict=False"
            )


def _widths(channels: Mapping[int, int]) -> str:
    return ", ".join(f"{count} channels of {bits} bits" for bits, count in channels.items())
