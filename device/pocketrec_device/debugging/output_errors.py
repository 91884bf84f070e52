# SPDX-License-Identifier: Apache-2.0
"""What a plan does to the output of every layer, on real histories.

Two errors are told apart. A layer's *own* error is what its weights alone change: the same
inputs, the float layer's, go through both. The *accumulated* error is what its output differs
by in a model that is under the plan as a whole, with all that came before.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec_quantization.backbone import coded_layers
from pocketrec_quantization.references import make_reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from pocketrec_quantization.backbone import BackboneConfig

__all__ = ["OutputError", "input_of", "measure_outputs"]

_INPUTS = {
    "q": "attn_in",
    "k": "attn_in",
    "v": "attn_in",
    "o": "mixed",
    "ffn1": "ffn_in",
    "ffn2": "wide",
}
_WINDOW_INPUTS = {"vertical": "columns", "fc": "responses"}


@dataclass(frozen=True, slots=True, kw_only=True)
class OutputError:
    """How far one layer's outputs are from those of the float layer.

    Attributes:
        sqnr_db: Of its own error: signal over noise in decibels; None without noise.
        cosine: Between outputs with and without its own error; None for outputs of zeros.
        error: Its own error, relative L2: |y' - y| / |y|.
        accumulated_error: The same of outputs in a model that is under the plan throughout.
    """

    sqnr_db: float | None
    cosine: float | None
    error: float
    accumulated_error: float


class _Sums:
    """Sums of squares over the outputs of one layer."""

    def __init__(self) -> None:
        self.signal = self.noise = self.changed = self.along = self.accumulated = 0.0

    def add(
        self,
        exact: NDArray[np.float64],
        own: NDArray[np.float64],
        accumulated: NDArray[np.float64],
    ) -> None:
        """Count outputs: exact, with the layer's own error, and under the whole plan."""
        self.signal += float(np.vdot(exact, exact))
        self.noise += float(((own - exact) ** 2).sum())
        self.changed += float(np.vdot(own, own))
        self.along += float(np.vdot(exact, own))
        self.accumulated += float(((accumulated - exact) ** 2).sum())

    def result(self) -> OutputError:
        """Return what the sums come to; outputs of zeros have no relative error."""
        norms = np.sqrt(self.signal * self.changed)
        own, accumulated = (
            float(np.sqrt(noise / self.signal)) if self.signal else 0.0
            for noise in (self.noise, self.accumulated)
        )
        return OutputError(
            sqnr_db=float(-20 * np.log10(own)) if own else None,
            cosine=float(self.along / norms) if norms else None,
            error=own,
            accumulated_error=accumulated,
        )


def input_of(layer: str) -> str:
    """Return how the value is called that a layer multiplies; see ``reference.Observer``."""
    if layer in _WINDOW_INPUTS:
        return _WINDOW_INPUTS[layer]
    block, _, kind = layer.rpartition(".")
    return f"{block}.{_INPUTS[kind]}" if kind in _INPUTS else f"{layer}.stretches"


def measure_outputs(
    exact: Mapping[str, NDArray[np.float32]],
    planned: Mapping[str, NDArray[np.float32]],
    config: BackboneConfig,
    histories: Iterable[NDArray[np.float32]],
) -> dict[str, OutputError]:
    """Measure every layer of a backbone.

    Args:
        exact: Float weights, dense tensors included.
        planned: Weights under a plan, likewise.
        config: The architecture.
        histories: (T, D) float32 each, embeddings of at most L events, oldest first.

    Returns:
        Layer name to errors.

    Raises:
        ConfigError: A weight is missing or has another shape.
        BackendError: A history has another shape.
    """
    values: dict[str, NDArray[np.float64]] = {}
    planned_values: dict[str, NDArray[np.float64]] = {}
    reference = make_reference(exact, config, observe=values.__setitem__)
    under_plan = make_reference(planned, config, observe=planned_values.__setitem__)
    sums = {layer.name: _Sums() for layer in coded_layers(config)}
    steps = {
        layer: (planned[f"{layer}.weight"] - exact[f"{layer}.weight"]).astype(np.float64)
        for layer in sums
    }
    for x in histories:
        reference.state_after(x)
        under_plan.state_after(x)
        for layer, each in sums.items():
            own = values[layer] + values[input_of(layer)] @ steps[layer].T
            each.add(values[layer], own, planned_values[layer])
    return {layer: each.result() for layer, each in sums.items()}
