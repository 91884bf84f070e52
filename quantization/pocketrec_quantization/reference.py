# SPDX-License-Identifier: Apache-2.0
"""SASRec in plain NumPy: the oracle that every backend is compared with.

Pre-norm blocks, causal attention over the last L events, a learned bias per head
and distance, and a ReLU feed-forward. Positions are relative, so cached keys and
values stay valid while the window slides; ``attention_bias`` says where they lie.
Inputs and outputs are float32, the arithmetic between them is float64.

Source: SASRec (Kang & McAuley 2018) for the block. Relative bias instead of absolute
positions, and no input scaling, are our choice.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import BackendError, ConfigError
from pocketrec_quantization.attention_bias import prefill_bias, stack_relative_bias
from pocketrec_quantization.backbone import (
    BackboneConfig,
    coded_layers,
    dense_shapes,
    layer_feeds,
)
from pocketrec_quantization.folding import Folding
from pocketrec_quantization.frozen import FrozenModel

__all__ = [
    "Observer",
    "PrefillResult",
    "ReferenceBackend",
    "StepResult",
    "inner_products",
    "weights_of",
]

_EPSILON = 1e-5
_Float64 = NDArray[np.float64]

Observer: TypeAlias = Callable[[str, NDArray[np.float64]], None]
"""Told the name and value of what is computed on the way: a layer's name stands for its output,
other values are called as in the graphs of a bundle; rows are events."""


class PrefillResult(NamedTuple):
    """What a history leaves behind.

    Attributes:
        keys: (n_blocks, T, D) float32, heads side by side.
        values: The same shape.
        h: (D,) float32, representation after the last event.
    """

    keys: NDArray[np.float32]
    values: NDArray[np.float32]
    h: NDArray[np.float32]


class StepResult(NamedTuple):
    """What one event adds.

    Attributes:
        new_keys: (n_blocks, D) float32, heads side by side.
        new_values: The same shape.
        h: (D,) float32, representation after this event.
    """

    new_keys: NDArray[np.float32]
    new_values: NDArray[np.float32]
    h: NDArray[np.float32]


def weights_of(
    config: BackboneConfig,
    weights: Mapping[str, NDArray[np.float32]],
    widths: NDArray[np.uint8] | None = None,
) -> dict[str, _Float64]:
    """Return every weight of an architecture in float64, by name.

    Args:
        config: The architecture.
        weights: Name to float32 array, coded matrices as ``"<layer>.weight"``.
        widths: (C_total,) uint8, bits per channel, to leave out what pruned channels need
            not compute (``folding``); None leaves nothing out.

    Raises:
        ConfigError: A weight is missing or has another shape.
    """
    layers, shapes = coded_layers(config), dense_shapes(config)
    for layer in layers:
        shapes[f"{layer.name}.weight"] = (layer.n_channels, layer.n_elements)
    for name, shape in shapes.items():
        if name not in weights or weights[name].shape != shape:
            found = weights[name].shape if name in weights else "nothing"
            raise ConfigError(f"weight {name!r}: expected shape {shape}, got {found}")
    exact = {name: weights[name].astype(np.float64) for name in shapes}
    if widths is None:
        return exact
    folding = Folding.of_layers(layer_feeds(config), layers, widths)
    biases = {layer.name: exact[f"{layer.name}.bias"] for layer in layers}
    for name in biases:
        whole = exact[f"{name}.weight"]
        exact[f"{name}.bias"] = folding.bias(name, whole, biases)
        exact[f"{name}.weight"] = folding.cut(name, whole)
    return exact


def inner_products(
    h: NDArray[np.float32], candidates: NDArray[np.float32], dim: int
) -> NDArray[np.float32]:
    """Score candidates against a representation.

    Args:
        h: (D,) float32.
        candidates: (M, D) float32, their embeddings.
        dim: D.

    Returns:
        (M,) float32, inner products.

    Raises:
        BackendError: An array has another shape.
    """
    if h.shape != (dim,) or candidates.ndim != 2 or candidates.shape[1] != dim:
        raise BackendError(
            f"expected h ({dim},) and candidates (M, {dim}), got {h.shape} and {candidates.shape}"
        )
    return (candidates.astype(np.float64) @ h.astype(np.float64)).astype(np.float32)


class ReferenceBackend:
    """SASRec over given weights.

    Args:
        weights: Name to float32 array: ``"<layer>.weight"`` for the coded matrices, as
            :meth:`~pocketrec_quantization.frozen.FrozenModel.adapt` returns them, and the
            dense tensors under their own names.
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
        self._relative_bias = stack_relative_bias(weights, config.n_blocks)

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
        bias = prefill_bias(self._relative_bias, len(x))  # (n_blocks, H, T, T)
        hidden = x.astype(np.float64)
        cached = []
        for block in range(self._config.n_blocks):
            query, key, value = self._project(block, hidden)
            hidden = self._finish_block(block, hidden, (query, key, value), bias[block])
            cached.append((_side_by_side(key), _side_by_side(value)))
        keys, values = (np.stack(part).astype(np.float32) for part in zip(*cached, strict=True))
        return PrefillResult(keys, values, self._final(hidden[-1]))

    def step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        bias: NDArray[np.float32],
    ) -> StepResult:
        """Run one event against the cached keys and values of those before it.

        Args:
            x: (D,) float32, its item's embedding.
            keys: (n_blocks, L - 1, D) float32, of earlier events, in any order.
            values: The same shape.
            bias: (n_blocks, H, L) float32: at 0 of the event itself, then of each cached
                row; minus infinity where a row must not be seen.

        Raises:
            BackendError: An array has another shape, or a bias is NaN.
        """
        self._check_step(x, keys, values, bias)
        hidden = x.astype(np.float64)[None, :]
        new = []
        for block in range(self._config.n_blocks):
            query, key, value = self._project(block, hidden)
            with_own = (
                query,
                np.concatenate([key, self._heads(keys[block])], axis=1),
                np.concatenate([value, self._heads(values[block])], axis=1),
            )
            hidden = self._finish_block(block, hidden, with_own, bias[block][:, None, :])
            new.append((_side_by_side(key)[0], _side_by_side(value)[0]))
        new_keys, new_values = (
            np.stack(part).astype(np.float32) for part in zip(*new, strict=True)
        )
        return StepResult(new_keys, new_values, self._final(hidden[-1]))

    def state_after(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """See ``Reference.state_after``."""
        return self.full_history(x).h

    def score(self, h: NDArray[np.float32], candidates: NDArray[np.float32]) -> NDArray[np.float32]:
        """See :func:`inner_products`."""
        return inner_products(h, candidates, self._config.embedding_dim)

    def _check_step(
        self,
        x: NDArray[np.float32],
        keys: NDArray[np.float32],
        values: NDArray[np.float32],
        bias: NDArray[np.float32],
    ) -> None:
        config = self._config
        cache = (config.n_blocks, config.window - 1, config.embedding_dim)
        biases = (config.n_blocks, config.n_heads, config.window)
        wanted = ((config.embedding_dim,), cache, cache, biases)
        found = (x.shape, keys.shape, values.shape, bias.shape)
        if found != wanted:
            raise BackendError(f"step: expected arrays of {wanted}, got {found}")
        if np.isnan(bias).any():
            raise BackendError("bias: expected numbers or minus infinity, got NaN")

    def _heads(self, rows: NDArray[np.float32] | _Float64) -> _Float64:
        """Split rows into heads: (T, D) -> (H, T, D / H)."""
        shape = (len(rows), self._config.n_heads, self._config.head_dim)  # no rows if L is 1
        return rows.reshape(shape).transpose(1, 0, 2).astype(np.float64)

    def _project(self, block: int, hidden: _Float64) -> tuple[_Float64, _Float64, _Float64]:
        """(T, D) -> query, key and value, each (H, T, D / H)."""
        normed = self._norm(f"blocks.{block}.attn_norm", hidden)
        self._observe(f"blocks.{block}.attn_in", normed)
        query, key, value = (
            self._heads(self._linear(f"blocks.{block}.{name}", normed)) for name in "qkv"
        )
        return query, key, value

    def _finish_block(
        self,
        block: int,
        hidden: _Float64,
        attended: tuple[_Float64, _Float64, _Float64],
        bias: NDArray[np.float32],
    ) -> _Float64:
        """Attend over S rows and feed forward; ``bias`` is (H, T, S)."""
        query, key, value = attended
        name, observe = f"blocks.{block}", self._observe
        logits = query @ key.transpose(0, 2, 1) / np.sqrt(query.shape[-1]) + bias
        attention = np.exp(logits - logits.max(axis=-1, keepdims=True))
        attention /= attention.sum(axis=-1, keepdims=True)
        merged = _side_by_side(attention @ value)
        observe(f"{name}.mixed", merged)
        hidden = hidden + self._linear(f"{name}.o", merged)
        observe(f"{name}.attended", hidden)
        normed = self._norm(f"{name}.ffn_norm", hidden)
        observe(f"{name}.ffn_in", normed)
        wide = np.maximum(self._linear(f"{name}.ffn1", normed), 0.0)
        observe(f"{name}.wide", wide)
        hidden = hidden + self._linear(f"{name}.ffn2", wide)
        observe(f"{name}.out", hidden)
        return hidden

    def _final(self, hidden: _Float64) -> NDArray[np.float32]:
        state = self._norm("final_norm", hidden)
        self._observe("h", state[None])
        return state.astype(np.float32)

    def _linear(self, name: str, x: _Float64) -> _Float64:
        product: _Float64 = x @ self._weights[f"{name}.weight"].T
        product += self._weights[f"{name}.bias"]
        self._observe(name, product)
        return product

    def _norm(self, name: str, x: _Float64) -> _Float64:
        centred = x - x.mean(axis=-1, keepdims=True)
        deviation = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + _EPSILON)
        scaled: _Float64 = centred / deviation * self._weights[f"{name}.weight"]
        return scaled + self._weights[f"{name}.bias"]


def _side_by_side(heads: _Float64) -> _Float64:
    """Merge heads: (H, T, D / H) -> (T, D)."""
    return heads.transpose(1, 0, 2).reshape(heads.shape[1], -1)
