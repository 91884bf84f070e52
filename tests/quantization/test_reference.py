# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import BackendError, ConfigError
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.layers import total_channels
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import TINY_CONFIG, tiny_frozen, tiny_items


@cache
def backend_of(config: BackboneConfig = TINY_CONFIG) -> ReferenceBackend:
    """Return a backbone of random weights at mixed widths."""
    frozen = tiny_frozen(config)
    widths = np.resize(np.array([2, 4, 8], np.uint8), total_channels(frozen.layers))
    return ReferenceBackend.from_model(frozen, widths, config)


def events(n_events: int) -> np.ndarray:
    """Return the embeddings of a random history."""
    indices = np.random.default_rng(n_events).integers(1, 7, n_events)
    return tiny_items().embed(indices)


class Ring:
    """The state a device keeps: L slots, event t in slot t % L."""

    def __init__(self, backend: ReferenceBackend, config: BackboneConfig = TINY_CONFIG) -> None:
        shape = (config.n_blocks, config.n_heads, config.window, config.head_dim)
        self.backend, self.window, self.n_events = backend, config.window, 0
        # Garbage in empty slots must not matter: they are masked.
        self.keys = np.full(shape, 99, np.float32)
        self.values = np.full(shape, -99, np.float32)

    def prefill(self, x: np.ndarray) -> np.ndarray:
        """Start from a history."""
        result = self.backend.prefill(x)
        self.keys[:, :, : len(x)], self.values[:, :, : len(x)] = result.keys, result.values
        self.n_events = len(x)
        return result.h

    def observe(self, x: np.ndarray) -> np.ndarray:
        """Advance by one event."""
        slots = np.arange(self.window)
        written = self.n_events - 1 - (self.n_events - 1 - slots) % self.window  # event in a slot
        distance = np.where(written >= 0, self.n_events - written, self.window)
        result = self.backend.step(x, self.keys, self.values, distance.astype(np.int64))
        slot = self.n_events % self.window
        self.keys[:, :, slot], self.values[:, :, slot] = result.new_key, result.new_value
        self.n_events += 1
        return result.h


class TestByHand:
    """Two dimensions, one head, one block: LayerNorm makes (1, -1) of any falling pair."""

    CONFIG = BackboneConfig(
        kind="sasrec", embedding_dim=2, n_blocks=1, n_heads=1, window=2, ffn_multiplier=1
    )

    def backend(self, **changes: Any) -> ReferenceBackend:
        """Weights of zeros and norms of ones, but for ``changes`` in block 0."""
        shapes = dense_shapes(self.CONFIG) | {
            f"{layer.name}.weight": (2, 2) for layer in coded_layers(self.CONFIG)
        }
        weights = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
        for name in ("blocks.0.attn_norm", "blocks.0.ffn_norm", "final_norm"):
            weights[f"{name}.weight"][:] = 1
        for name, value in changes.items():
            weights[f"blocks.0.{name.replace('__', '.')}"][:] = value
        return ReferenceBackend(weights, self.CONFIG)

    def test_without_weights_a_score_is_that_of_the_normed_event(self) -> None:
        """H is (1, -1), so candidate (2, 1) scores 1 and (0, -3) scores 3."""
        backend = self.backend()

        h = backend.prefill(np.array([[9, 9], [5, 3]], np.float32)).h
        scores = backend.score(h, np.array([[2, 1], [0, -3]], np.float32))

        np.testing.assert_allclose(scores, [1, 3], rtol=1e-5)

    def test_attention_averages_by_the_relative_bias(self) -> None:
        """A bias of log 3 on the older event gives it three quarters of the weight.

        Normed values are (-1, 1), then (1, -1); their mix is (-.5, .5). Added to (1, 0),
        that makes (.5, .5), where an even mix would leave (1, 0).
        """
        eye = np.eye(2, dtype=np.float32)
        history = np.array([[0, 4], [1, 0]], np.float32)

        biased = self.backend(v__weight=eye, o__weight=eye, relative_bias=[[0, np.log(3)]])
        even = self.backend(v__weight=eye, o__weight=eye)

        np.testing.assert_allclose(biased.prefill(history).h, [0, 0], atol=0.02)
        np.testing.assert_allclose(even.prefill(history).h, [1, -1], rtol=1e-4)

    def test_attention_weighs_by_the_scaled_product(self) -> None:
        """A query of (log 3 / sqrt 2, 0) gives the event itself three quarters of the weight.

        Normed keys are (-1, 1), then (1, -1): logits of -log 3 / 2 and log 3 / 2. The mix of
        the values is (.5, -.5); taken from (2, 1), that leaves (1.5, 1.5).
        """
        eye = np.eye(2, dtype=np.float32)
        query = [[np.log(3) / np.sqrt(2), 0], [0, 0]]
        backend = self.backend(q__weight=query, k__weight=eye, v__weight=eye, o__weight=-eye)

        h = backend.prefill(np.array([[0, 4], [2, 1]], np.float32)).h

        np.testing.assert_allclose(h, [0, 0], atol=0.02)

    def test_the_feed_forward_rectifies(self) -> None:
        """Of (1, -1), only the first survives the ReLU: (5, 3) becomes (5, 3 + 4)."""
        backend = self.backend(
            ffn1__weight=np.eye(2, dtype=np.float32), ffn2__weight=[[0, 0], [4, 9]]
        )

        h = backend.prefill(np.array([[5, 3]], np.float32)).h

        np.testing.assert_allclose(h, [-1, 1], rtol=1e-4)


class TestEquivalence:
    @given(st.integers(1, 5), st.integers(0, 13))
    def test_prefill_and_steps_equal_the_full_history(self, n_first: int, n_more: int) -> None:
        """However a history arrives, and however often the ring wraps, h is the same."""
        backend, x = backend_of(), events(n_first + n_more)
        ring = Ring(backend)

        h = ring.prefill(x[:n_first])
        for event in x[n_first:]:
            h = ring.observe(event)

        np.testing.assert_allclose(h, backend.full_history(x).h, atol=2e-6)

    def test_steps_alone_equal_the_full_history_at_every_event(self) -> None:
        """From an empty ring on, every single step gives what all events so far give."""
        backend, x = backend_of(), events(17)
        ring = Ring(backend)

        for n_events in range(1, 18):
            h = ring.observe(x[n_events - 1])

            np.testing.assert_allclose(h, backend.full_history(x[:n_events]).h, atol=2e-6)

    def test_cached_keys_are_those_of_the_full_history(self) -> None:
        """After wrapping, each slot holds the keys of the event it stands for."""
        backend, x = backend_of(), events(8)
        ring = Ring(backend)
        for event in x:
            ring.observe(event)

        full = backend.full_history(x)

        for event in range(3, 8):
            np.testing.assert_allclose(
                ring.keys[:, :, event % 5], full.keys[:, :, event], atol=2e-6
            )

    def test_the_window_ends_memory(self) -> None:
        """One block sees the last L events only; each further block reaches L - 1 back."""
        config = BackboneConfig(
            kind="sasrec", embedding_dim=4, n_blocks=1, n_heads=2, window=5, ffn_multiplier=2
        )
        backend, x = backend_of(config), events(9)
        other = x.copy()
        other[:4] = 0

        np.testing.assert_array_equal(backend.full_history(x).h, backend.full_history(other).h)
        other[4] = 0
        assert not np.array_equal(backend.full_history(x).h, backend.full_history(other).h)

    def test_a_window_of_one_sees_the_event_alone(self) -> None:
        """With L = 1 every slot is masked, and a step still works."""
        config = BackboneConfig(
            kind="sasrec", embedding_dim=4, n_blocks=1, n_heads=2, window=1, ffn_multiplier=1
        )
        backend, x = backend_of(config), events(3)
        ring = Ring(backend, config)

        for event in x:
            np.testing.assert_allclose(ring.observe(event), backend.prefill(event[None]).h)


class TestMisuse:
    def test_weights_must_be_complete(self) -> None:
        """A missing or misshapen weight is named."""
        frozen = tiny_frozen()
        weights: dict[str, np.ndarray] = {
            **frozen.dense,
            **frozen.adapt(np.full(56, 8, np.uint8)),
        }

        with pytest.raises(ConfigError, match=r"'blocks\.0\.q\.weight': expected .* got nothing"):
            ReferenceBackend(frozen.dense, TINY_CONFIG)
        weights["final_norm.bias"] = np.zeros(3, np.float32)
        with pytest.raises(ConfigError, match=r"'final_norm\.bias': expected shape \(4,\)"):
            ReferenceBackend(weights, TINY_CONFIG)

    @pytest.mark.parametrize("shape", [(0, 4), (6, 4), (2, 3), (4,)])
    def test_histories_must_fit_the_window(self, shape: tuple[int, ...]) -> None:
        """Prefill takes 1 to L events of D dimensions."""
        with pytest.raises(BackendError, match="x: expected"):
            backend_of().prefill(np.zeros(shape, np.float32))

    @pytest.mark.parametrize("distance", [0, 6])
    def test_distances_must_be_within_the_window(self, distance: int) -> None:
        """0 is the event itself and never in a slot; L masks; more is a mistake."""
        ring = Ring(backend_of())
        distances = np.full(5, distance, np.int64)

        with pytest.raises(BackendError, match=r"distance: expected 1\.\.5"):
            ring.backend.step(events(1)[0], ring.keys, ring.values, distances)

    def test_step_arrays_must_have_their_shapes(self) -> None:
        """A ring of another size is refused."""
        ring = Ring(backend_of())

        with pytest.raises(BackendError, match="step: expected arrays of"):
            ring.backend.step(
                events(1)[0], ring.keys[:, :, 1:], ring.values, np.full(5, 5, np.int64)
            )

    def test_score_arrays_must_have_their_shapes(self) -> None:
        """Candidates of another width are refused; none at all are fine."""
        backend, h = backend_of(), np.ones(4, np.float32)

        assert backend.score(h, np.zeros((0, 4), np.float32)).shape == (0,)
        with pytest.raises(BackendError, match="expected h"):
            backend.score(h, np.zeros((2, 3), np.float32))
