# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec.errors import BackendError, ConfigError
from pocketrec_quantization.attention_bias import stack_relative_bias
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


@cache
def relative_bias(config: BackboneConfig) -> np.ndarray:
    """Return what those weights add to attention by distance, (n_blocks, H, L)."""
    return stack_relative_bias(tiny_frozen(config).dense, config.n_blocks)


class Ring:
    """The state a device keeps: L - 1 rows, event t in row t % (L - 1)."""

    def __init__(self, backend: ReferenceBackend, config: BackboneConfig = TINY_CONFIG) -> None:
        self.n_rows, self.n_events = config.window - 1, 0
        self.backend, self.relative_bias = backend, relative_bias(config)
        # Garbage in empty rows must not matter: they are hidden.
        shape = (config.n_blocks, self.n_rows, config.embedding_dim)
        self.keys = np.full(shape, 99, np.float32)
        self.values = np.full(shape, -99, np.float32)

    def prefill(self, x: np.ndarray) -> np.ndarray:
        """Start from a history."""
        result = self.backend.prefill(x)
        for event in range(len(x)):
            self._keep(event, result.keys[:, event], result.values[:, event])
        self.n_events = len(x)
        return result.h

    def observe(self, x: np.ndarray) -> np.ndarray:
        """Advance by one event."""
        result = self.backend.step(x, self.keys, self.values, self.bias())
        self._keep(self.n_events, result.new_keys, result.new_values)
        self.n_events += 1
        return result.h

    def bias(self) -> np.ndarray:
        """Return what the next event adds for itself and for every row."""
        bias = np.full(self.relative_bias.shape, -np.inf, np.float32)
        bias[..., 0] = self.relative_bias[..., 0]
        for event in range(max(0, self.n_events - self.n_rows), self.n_events):
            bias[..., 1 + event % self.n_rows] = self.relative_bias[..., self.n_events - event]
        return bias

    def _keep(self, event: int, keys: np.ndarray, values: np.ndarray) -> None:
        if self.n_rows:
            self.keys[:, event % self.n_rows] = keys
            self.values[:, event % self.n_rows] = values


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

    def test_what_is_cached_is_that_of_the_full_history(self) -> None:
        """After wrapping, each row holds the keys and values of the event it stands for."""
        backend, x = backend_of(), events(8)
        ring = Ring(backend)
        for event in x:
            ring.observe(event)

        full = backend.full_history(x)

        for event in range(4, 8):
            for cached, exact in ((ring.keys, full.keys), (ring.values, full.values)):
                np.testing.assert_allclose(cached[:, event % 4], exact[:, event], atol=2e-6)

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
        """With L = 1 there is no row but the event's own, and a step still works."""
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

    def test_a_hidden_row_is_never_read(self) -> None:
        """Minus infinity hides a row whatever it holds; without it the row counts."""
        ring, x = Ring(backend_of()), events(1)[0]
        hidden = backend_of().step(x, ring.keys, ring.values, ring.bias())
        alone = backend_of().step(x, ring.keys * 0, ring.values * 0, ring.bias())
        seen = backend_of().step(x, ring.keys, ring.values, np.zeros_like(ring.bias()))

        np.testing.assert_array_equal(hidden.h, alone.h)
        assert not np.array_equal(hidden.h, seen.h)

    def test_a_bias_must_be_a_number(self) -> None:
        """NaN would spread over the whole state unseen."""
        ring = Ring(backend_of())
        bias = ring.bias()
        bias[1, 0, 2] = np.nan

        with pytest.raises(BackendError, match="bias: expected numbers or minus infinity"):
            ring.backend.step(events(1)[0], ring.keys, ring.values, bias)

    @pytest.mark.parametrize("wrong", ["x", "keys", "values", "bias"])
    def test_step_arrays_must_have_their_shapes(self, wrong: str) -> None:
        """A ring of another size is refused, whichever array it is."""
        ring = Ring(backend_of())
        arrays = {"x": events(1)[0], "keys": ring.keys, "values": ring.values, "bias": ring.bias()}
        arrays[wrong] = arrays[wrong][..., 1:]

        with pytest.raises(BackendError, match="step: expected arrays of"):
            ring.backend.step(**arrays)

    def test_score_arrays_must_have_their_shapes(self) -> None:
        """Candidates of another width are refused; none at all are fine."""
        backend, h = backend_of(), np.ones(4, np.float32)

        assert backend.score(h, np.zeros((0, 4), np.float32)).shape == (0,)
        with pytest.raises(BackendError, match="expected h"):
            backend.score(h, np.zeros((2, 3), np.float32))
