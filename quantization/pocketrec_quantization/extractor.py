# SPDX-License-Identifier: Apache-2.0
"""The feature extractor g_phi: one GRU layer that turns a history into a user embedding.

With sigma the logistic function and n * m elementwise, an event x_t takes state s_{t-1} to

    r = sigma(W_r x_t + b_r + U_r s + c_r)
    u = sigma(W_u x_t + b_u + U_u s + c_u)
    n = tanh(W_n x_t + b_n + r * (U_n s + c_n))
    s_t = (1 - u) * n + u * s_{t-1},    s_0 = 0

and the state after the last event is z. This is the reference that exported graphs are
compared with: NumPy, in float64.

Source: CHORD (a) for an extractor over item embeddings whose last step is the user
embedding; a GRU, and its size, are our choice. Formulas as PyTorch's ``GRU`` has them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pocketrec.errors import ConfigError
from pocketrec_quantization.checks import read_only

__all__ = ["Extractor"]

_N_GATES = 3
_ARRAYS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Extractor:
    """A GRU of D inputs and D units; gates one below the other: r, u, n.

    Args:
        weight_ih: (3 D, D) float32, W.
        weight_hh: (3 D, D) float32, U.
        bias_ih: (3 D,) float32, b.
        bias_hh: (3 D,) float32, c.

    Raises:
        ConfigError: An array has another shape, or is not finite float32.
    """

    weight_ih: NDArray[np.float32]
    weight_hh: NDArray[np.float32]
    bias_ih: NDArray[np.float32]
    bias_hh: NDArray[np.float32]

    def __post_init__(self) -> None:
        dim = self.weight_ih.shape[-1] if self.weight_ih.ndim == 2 else 0
        for name in _ARRAYS:
            array = getattr(self, name)
            shape = (_N_GATES * dim, dim)[: 2 if name.startswith("weight") else 1]
            is_right = array.dtype == np.float32 and array.shape == shape and array.size
            if not is_right or not np.isfinite(array).all():
                raise ConfigError(
                    f"{name}: expected finite float32 {shape}, got {array.dtype} {array.shape}"
                )
            object.__setattr__(self, name, read_only(array))

    @property
    def embedding_dim(self) -> int:
        """D, of item embeddings and of user embeddings."""
        return int(self.weight_ih.shape[1])

    def embed(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the user embedding after a history.

        Args:
            x: (T, D) float32, embeddings of the events, oldest first; T >= 1.

        Returns:
            (D,) float32, each entry within -1..1.

        Raises:
            ConfigError: ``x`` has another shape.
        """
        dim = self.embedding_dim
        if x.ndim != 2 or x.shape[1] != dim or not len(x):
            raise ConfigError(f"x: expected (T, {dim}) with T from 1, got {x.shape}")
        recurrent = self.weight_hh.T.astype(np.float64)
        bias = self.bias_hh.astype(np.float64)
        from_events = x.astype(np.float64) @ self.weight_ih.T.astype(np.float64) + self.bias_ih
        state = np.zeros(dim)
        for event in from_events:
            own = state @ recurrent + bias
            reset, update = np.split(_sigmoid(event[: 2 * dim] + own[: 2 * dim]), 2)
            new = np.tanh(event[2 * dim :] + reset * own[2 * dim :])
            state = new + update * (state - new)
        return state.astype(np.float32)

    def to_arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the weights by name."""
        return {name: getattr(self, name) for name in _ARRAYS}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, NDArray[np.float32]]) -> Extractor:
        """Return an extractor of what ``to_arrays`` gave.

        Raises:
            ConfigError: An array is absent or unknown, or does not fit.
        """
        if set(arrays) != set(_ARRAYS):
            raise ConfigError(f"expected the arrays {_ARRAYS}, got {sorted(arrays)}")
        return cls(**arrays)


def _sigmoid(x: NDArray[np.float64]) -> NDArray[np.float64]:
    half: NDArray[np.float64] = 0.5 + 0.5 * np.tanh(0.5 * x)  # cannot overflow
    return half
