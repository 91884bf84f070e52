# SPDX-License-Identifier: Apache-2.0
"""The reference executor of any backbone, by the kind that its manifest names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.caser_reference import CaserReference
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.reference import Observer, ReferenceBackend

__all__ = ["Reference", "make_reference", "reference_of"]


class Reference(Protocol):
    """A backbone over given weights, in NumPy."""

    def state_after(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the state after a history of any length, as if computed at once.

        Args:
            x: (T, D) float32, item embeddings, oldest first, T >= 1.

        Returns:
            (D,) float32.
        """
        ...

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the scores of candidates, (M,) float32, for (D,) and (M, D) float32."""
        ...


_Maker: TypeAlias = type[ReferenceBackend] | type[CaserReference]
_REFERENCES: Mapping[str, _Maker] = {"sasrec": ReferenceBackend, "caser": CaserReference}


def make_reference(
    weights: Mapping[str, NDArray[np.float32]],
    config: BackboneConfig,
    *,
    observe: Observer = lambda _name, _value: None,
) -> Reference:
    """Return the reference executor over given weights.

    Args:
        weights: Coded matrices as ``"<layer>.weight"``, dense tensors under their names.
        config: The architecture.
        observe: Told every value on the way; it must not change them.

    Raises:
        ConfigError: A weight is missing or has another shape.
    """
    return _REFERENCES[config.kind](weights, config, observe=observe)


def reference_of(
    frozen: FrozenModel, widths: NDArray[np.uint8], config: BackboneConfig
) -> Reference:
    """Return the reference executor of one plan.

    Args:
        frozen: The shared weights.
        widths: (C_total,) uint8, bits per channel.
        config: The architecture.

    Raises:
        ConfigError: The weights do not fit the architecture.
        QuantizationError: The widths do not fit the weights.
    """
    return make_reference({**frozen.dense, **frozen.adapt(widths)}, config)
