# SPDX-License-Identifier: Apache-2.0
"""The backbone in plain NumPy: the oracle that every backend is compared with.

SASRec with pre-norm, causal attention over the last L events, a learned bias per head
and distance, and a ReLU feed-forward. Positions are relative, so cached keys and
values stay valid while the window slides. Event t lies in slot t % L of the ring.
Inputs and outputs are float32, the arithmetic between them is float64.

Source: SASRec (Kang & McAuley 2018) for the block. Relative bias instead of absolute
positions, and no input scaling, are our choice.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BackendError, ConfigError
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.frozen import FrozenModel

__all__ = ["PrefillResult", "ReferenceBackend", "StepResult"]

_EPSILON = 1e-5
_Float64 = NDArray[np.float64]


class PrefillResult(NamedTuple):
    """What a history leaves behind.

    Attributes:
        keys: (n_blocks, H, T, D / H) float32.
        values: The same shape.
        h: (D,) float32, representation after the last event.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    h: NDArray[np.float32]


class StepResult(NamedTuple):
    """What one event adds.

    Attributes:
        new_key: (n_blocks, H, D / H) float32, to be written to the event's slot.
        new_value: The same shape.
        h: (D,) float32, representation after this event.
    """

    new_key: NDArray[np.float32]
    new_value: NDArray[np.float32]
    h: NDArray[np.float32]


class ReferenceBackend:
    """The backbone over given weights.

    Args:
        weights: Name to float32 array: ``"<layer>.weight"`` for the coded matrices, as
            :meth:`~pocketrec_quantization.frozen.FrozenModel.adapt` returns them, and the
            dense tensors under their own names.
        config: The architecture.

    Raises:
        ConfigError: A weight is missing or has another shape.
    """

    def __init__(self, weights: Mapping[str, NDArray[np.float32]], config: BackboneConfig) -> None:
        shapes = dense_shapes(config)
        for layer in coded_layers(config):
            shapes[f"{layer.name}.weight"] = (layer.n_channels, layer.n_elements)
        for name, shape in shapes.items():
            if name not in weights or weights[name].shape != shape:
                found = weights[name].shape if name in weights else "nothing"
                raise ConfigError(f"weight {name!r}: expected shape {shape}, got {found}")
        self._weights = {name: weights[name].astype(np.float64) for name in shapes}
        self._config = config

    @classmethod
    def from_model(
        cls, frozen: FrozenModel, widths: NDArray[np.uint8], config: BackboneConfig
    ) -> ReferenceBackend:
        """Build the backbone of one plan.

        Args:
            frozen: The shared weights.
            widths: (C_total,) uint8, bits per channel.
            config: The architecture.

        Raises:
            ConfigError: The weights do not fit the architecture.
            QuantizationError: The widths do not fit the weights.
        """
        return cls({**frozen.dense, **frozen.adapt(widths)}, config)

    def prefill(self, x: NDArray[np.float32]) -> PrefillResult:
        """Run a history of at most L events.

        Args:
            x: (T, D) float32, item embeddings, oldest first, 1 <= T <= L.

        Raises:
            BackendError: ``x`` has another shape.
        """
        if x.ndim == 2 and len(x) > self._config.window:
            raise BackendError(f"x: expected at most {self._config.window} events, got {len(x)}")
        return self.full_history(x)

    def full_history(self, x: NDArray[np.float32]) -> PrefillResult:
        """Run a history of any length, each event attending to the last L up to itself.

        Args:
            x: (T, D) float32, T >= 1.

        Returns:
            As :meth:`prefill`, with the keys and values of all T events.

        Raises:
            BackendError: ``x`` has another shape.
        """
        if x.ndim != 2 or not len(x) or x.shape[1] != self._config.embedding_dim:
            raise BackendError(f"x: expected (T, {self._config.embedding_dim}), got {x.shape}")
        position = np.arange(len(x))
        distance = position[:, None] - position[None, :]  # (T, S), how long ago s was at t
        hidden = x.astype(np.float64)
        cached = []
        for block in range(self._config.n_blocks):
            query, key, value = self._project(block, hidden)
            hidden = self._finish_block(block, hidden, (query, key, value), distance)
            cached.append((key, value))
        keys, values = (np.stack(part).astype(np.float32) for part in zip(*cached, strict=True))
        return PrefillResult(keys, values, self._final(hidden[-1]))

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> StepResult:
        """Run one event against cached keys and values.

        Args:
            x: (D,) float32, its item's embedding.
            keys: (n_blocks, H, L, D / H) float32, the ring.
            values: The same shape.
            distance: (L,) int64, how many events ago each slot was written; L = masked.

        Raises:
            BackendError: An array has another shape, or a distance lies outside 1..L.
        """
        self._check_step(x, keys, values, distance)
        with_self = np.append(distance, 0)[None, :]  # the event also attends to itself
        hidden = x.astype(np.float64)[None, :]
        new = []
        for block in range(self._config.n_blocks):
            query, key, value = self._project(block, hidden)
            ring_and_self = (
                query,
                np.concatenate([keys[block], key], axis=1),
                np.concatenate([values[block], value], axis=1),
            )
            hidden = self._finish_block(block, hidden, ring_and_self, with_self)
            new.append((key[:, 0], value[:, 0]))
        new_key, new_value = (np.stack(part).astype(np.float32) for part in zip(*new, strict=True))
        return StepResult(new_key, new_value, self._final(hidden[-1]))

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """Score candidates against a representation.

        Args:
            h: (D,) float32.
            candidates: (M, D) float32, their embeddings.

        Returns:
            (M,) float32, inner products.

        Raises:
            BackendError: An array has another shape.
        """
        dim = self._config.embedding_dim
        if h.shape != (dim,) or candidates.ndim != 2 or candidates.shape[1] != dim:
            raise BackendError(
                f"expected h ({dim},) and candidates (M, {dim}), got {h.shape} and "
                f"{candidates.shape}"
            )
        return (candidates.astype(np.float64) @ h.astype(np.float64)).astype(np.float32)

    def _check_step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        distance: NDArray[np.int64],
    ) -> None:
        config = self._config
        ring = (config.n_blocks, config.n_heads, config.window, config.head_dim)
        wanted = ((config.embedding_dim,), ring, ring, (config.window,))
        found = (x.shape, keys.shape, values.shape, distance.shape)
        if found != wanted:
            raise BackendError(f"step: expected arrays of {wanted}, got {found}")
        if not ((distance >= 1) & (distance <= config.window)).all():
            raise BackendError(f"distance: expected 1..{config.window}, got {distance.tolist()}")

    def _project(self, block: int, hidden: _Float64) -> tuple[_Float64, _Float64, _Float64]:
        """(T, D) -> query, key and value, each (H, T, D / H)."""
        normed = self._norm(f"blocks.{block}.attn_norm", hidden)
        query, key, value = (
            self._linear(f"blocks.{block}.{name}", normed)
            .reshape(len(hidden), self._config.n_heads, -1)
            .transpose(1, 0, 2)
            for name in "qkv"
        )
        return query, key, value

    def _finish_block(
        self,
        block: int,
        hidden: _Float64,
        attended: tuple[_Float64, _Float64, _Float64],
        distance: NDArray[np.int64],
    ) -> _Float64:
        """Attend and feed forward; ``distance`` (T, S) outside 0..L-1 is masked."""
        query, key, value = attended
        window = self._config.window
        bias = self._weights[f"blocks.{block}.relative_bias"]
        visible = (distance >= 0) & (distance < window)
        logits = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1])  # (H, T, S)
        logits = logits + bias[:, np.clip(distance, 0, window - 1)]
        logits = np.where(visible, logits, -np.inf)
        attention = np.exp(logits - logits.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        merged = (attention @ value).transpose(1, 0, 2).reshape(hidden.shape)
        hidden = hidden + self._linear(f"blocks.{block}.o", merged)
        normed = self._norm(f"blocks.{block}.ffn_norm", hidden)
        wide = np.maximum(self._linear(f"blocks.{block}.ffn1", normed), 0.0)
        return hidden + self._linear(f"blocks.{block}.ffn2", wide)

    def _final(self, hidden: _Float64) -> NDArray[np.float32]:
        return self._norm("final_norm", hidden).astype(np.float32)

    def _linear(self, name: str, x: _Float64) -> _Float64:
        product: _Float64 = x @ self._weights[f"{name}.weight"].T
        return product + self._weights[f"{name}.bias"]

    def _norm(self, name: str, x: _Float64) -> _Float64:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + _EPSILON)
        scaled: _Float64 = centred / deviation * self._weights[f"{name}.weight"]
        return scaled + self._weights[f"{name}.bias"]
