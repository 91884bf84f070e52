# SPDX-License-Identifier: Apache-2.0
"""How close a backend comes to the reference, and what it is tried with."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from pocketrec_device.attention_state import StateBuffers
from pocketrec_device.health import ROUNDING_TOLERANCE

if TYPE_CHECKING:
    from collections.abc import Callable

    from pocketrec_device.backends import Backend
    from pocketrec_device.backends.base import AttentionBackend
    from pocketrec_quantization.item_table import ItemTable

TOLERANCE = 2e-5


class Closeness:
    """What results of a backend may differ by."""

    def __init__(self, backend: Backend, items: ItemTable) -> None:
        self.is_exact = backend.is_exact
        self.everything = items.gather(np.arange(1, items.n_items + 1))

    def of_arrays(self, found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Compare keys, values or states."""
        assert found.dtype == np.float32
        assert found.shape == expected.shape
        if self.is_exact:
            np.testing.assert_allclose(found, expected, atol=TOLERANCE)
        else:
            assert np.std(found - expected) <= ROUNDING_TOLERANCE * np.std(expected)

    def of_states(self, h: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
        """Compare states by the scores they give; of exact ones, every number."""
        if self.is_exact:
            self.of_arrays(h, expected)
        self.of_arrays(self.everything.scores(h), self.everything.scores(expected))


class Bound(NamedTuple):
    """A backend's hold on buffers that are full of rubbish."""

    buffers: StateBuffers
    step: Callable[[], None]
    prefill: Callable[[NDArray[np.float32], int], None]


def bind(backend: AttentionBackend) -> Bound:
    """Bind a backend to random buffers, with the biases of a full ring."""
    buffers = StateBuffers.allocate(backend.backbone)
    rng = np.random.default_rng(0)
    for array in (buffers.x, buffers.cache, buffers.h):
        array[...] = rng.normal(size=array.shape)
    backend.ring.write(buffers.bias[:, 0, :, 0], 1, is_full=True)
    bound = backend.bind(buffers)
    return Bound(buffers, bound.step, bound.prefill)


def events(n_events: int, seed: int = 0) -> NDArray[np.float32]:
    """Return (n_events, D) random embeddings, the same beginning for every n."""
    return np.random.default_rng(seed).normal(size=(40, 8)).astype(np.float32)[:n_events]
