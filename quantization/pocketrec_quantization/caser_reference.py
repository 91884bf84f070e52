# SPDX-License-Identifier: Apache-2.0
"""Caser in plain NumPy: the oracle that every backend is compared with.

The last L events are an image of L rows and D columns; rows before the first event are
zeros. Inputs and outputs are float32, the arithmetic between them is float64.

Source: Caser (Tang & Wang 2018), without its table of users. No activation after the last
layer is our choice.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BackendError
from pocketrec_quantization.backbone import BackboneConfig
from pocketrec_quantization.reference import Observer, inner_products, weights_of

__all__ = ["CaserReference"]

_Float64 = NDArray[np.float64]


class CaserReference:
    """Caser over given weights.

    Args:
        weights: Name to float32 array: ``"<layer>.weight"`` for the coded matrices, as
            ``FrozenModel.adapt`` returns them, and the
            biases under their own names.
        config: The architecture.
        observe: Told every value on the way; it must not change them.
        widths: As ``weights_of`` takes them: given, pruned channels cost nothing, and are
            not observed.

    Raises:
        ConfigError: A weight is missing or has another shape.
    """

    def __init__(
        self,
        weights: Mapping[str, NDArray[np.float32]],
        config: BackboneConfig,
        *,
        observe: Observer = lambda _name, _value: None,
        widths: NDArray[np.uint8] | None = None,
    ) -> None:
        self._weights = weights_of(config, weights, widths)
        self._observe = observe
        self._config = config

    def state_after(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Reference.state_after``: only the last L events count.

        Raises:
            BackendError: ``x`` has another shape.
        """
        dim, n_rows = self._config.embedding_dim, self._config.window
        if x.ndim != 2 or not len(x) or x.shape[1] != dim:
            raise BackendError(f"x: expected (T, {dim}), got {x.shape}")
        recent = x[-n_rows:]
        window = np.zeros((n_rows, dim), np.float32)
        window[n_rows - len(recent) :] = recent
        return self.step(window)

    def step(self, window: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the state from a window.

        Args:
            window: (L, D) float32, embeddings of the last events, oldest first; zeros
                before the first one.

        Returns:
            (D,) float32.

        Raises:
            BackendError: ``window`` has another shape.
        """
        wanted = (self._config.window, self._config.embedding_dim)
        if window.shape != wanted:
            raise BackendError(f"window: expected {wanted}, got {window.shape}")
        image = window.astype(np.float64)
        strongest = [self._strongest(image, height) for height in self._config.heights]
        self._observe("horizontal.strongest", np.concatenate(strongest)[None])
        self._observe("columns", image.T)
        mixed = self._linear("vertical", image.T).reshape(-1)  # (D, n_vertical), row by row
        responses = np.concatenate([mixed, *strongest])
        self._observe("responses", responses[None])
        state = self._linear("fc", responses[None])
        self._observe("h", state)
        return state.astype(np.float32).reshape(-1)

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :func:`~pocketrec_quantization.reference.inner_products`."""
        return inner_products(h, candidates, self._config.embedding_dim)

    def _strongest(self, image: _Float64, height: int) -> _Float64:
        """Return each filter's largest response to ``height`` events in a row: (n_horizontal,)."""
        n_positions = len(image) - height + 1
        stretches = np.stack([image[p : p + height].reshape(-1) for p in range(n_positions)])
        name = f"horizontal.{height}"
        self._observe(f"{name}.stretches", stretches)
        responses = self._linear(name, stretches)
        pooled = responses.max(axis=0)
        self._observe(f"{name}.pooled", pooled[None])
        strongest: _Float64 = np.maximum(pooled, 0.0)
        return strongest

    def _linear(self, name: str, x: _Float64) -> _Float64:
        product: _Float64 = x @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        self._observe(name, product)
        return product
