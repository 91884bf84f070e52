# SPDX-License-Identifier: Apache-2.0
"""A pruned channel whose constant is folded: nothing changes but what has to be kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from pocketrec_quantization.backbone import BackboneConfig, coded_layers, layer_feeds
from pocketrec_quantization.budget import coded_bytes
from pocketrec_quantization.caser_reference import CaserReference
from pocketrec_quantization.folding import Folding, resident_bytes
from pocketrec_quantization.layers import LayerShape, split_by_layer, total_channels
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.testing import TINY_CASER, TINY_CONFIG, tiny_frozen

CONFIGS = {"sasrec": TINY_CONFIG, "caser": TINY_CASER}


def widths_of(config: BackboneConfig, seed: int, pruned: float) -> NDArray[np.uint8]:
    """Return random widths, of which a share is 0."""
    rng = np.random.default_rng(seed)
    widths = rng.choice(np.array([2, 4, 8], np.uint8), total_channels(coded_layers(config)))
    widths[rng.random(widths.size) < pruned] = 0
    return widths


def make(config: BackboneConfig, widths: NDArray[np.uint8], *, is_folded: bool) -> object:
    """Return the reference executor of a plan."""
    frozen = tiny_frozen(config)
    kind = {"sasrec": ReferenceBackend, "caser": CaserReference}[config.kind]
    weights = {**frozen.dense, **frozen.adapt(widths)}
    return kind(weights, config, widths=widths if is_folded else None)


seeds = st.integers(0, 10_000)
shares = st.sampled_from([0.0, 0.1, 0.5, 0.9, 1.0])


class TestFeeds:
    @pytest.mark.parametrize("kind", CONFIGS)
    def test_every_column_is_read_at_most_once(self, kind: str) -> None:
        """Each channel has as many columns as the others of its layer, and shares none."""
        layers = {layer.name: layer for layer in coded_layers(CONFIGS[kind])}
        by_reader: dict[str, list[NDArray[np.intp]]] = {}

        for feed in layer_feeds(CONFIGS[kind]):
            assert len(feed.columns) == layers[feed.layer].n_channels
            by_reader.setdefault(feed.reader, []).append(feed.columns.ravel())

        for reader, columns in by_reader.items():
            everything = np.sort(np.concatenate(columns))
            assert everything.tolist() == list(range(layers[reader].n_elements))


class TestFolding:
    @given(seeds, shares)
    def test_states_of_a_sasrec_stay(self, seed: int, pruned: float) -> None:
        """Whatever is pruned: histories, cached keys and values, and steps on them."""
        config, widths = TINY_CONFIG, widths_of(TINY_CONFIG, seed, pruned)
        whole, folded = (make(config, widths, is_folded=folded) for folded in (False, True))
        assert isinstance(whole, ReferenceBackend)
        assert isinstance(folded, ReferenceBackend)
        rng = np.random.default_rng(seed)
        x = rng.standard_normal((4, config.embedding_dim)).astype(np.float32)

        expected, found = whole.prefill(x), folded.prefill(x)

        for one, other in zip(expected, found, strict=True):
            np.testing.assert_allclose(other, one, atol=1e-6)
        bias = rng.standard_normal((2, config.n_heads, config.window)).astype(np.float32)
        for one, other in zip(
            whole.step(x[0], expected.keys, expected.values, bias),
            folded.step(x[0], expected.keys, expected.values, bias),
            strict=True,
        ):
            np.testing.assert_allclose(other, one, atol=1e-6)

    @given(seeds, shares)
    def test_states_of_a_caser_stay(self, seed: int, pruned: float) -> None:
        """Filters along both sides of the window, pooled or laid out as a row."""
        config, widths = TINY_CASER, widths_of(TINY_CASER, seed, pruned)
        whole, folded = (make(config, widths, is_folded=folded) for folded in (False, True))
        assert isinstance(whole, CaserReference)
        assert isinstance(folded, CaserReference)
        window = np.random.default_rng(seed).standard_normal((5, 4)).astype(np.float32)

        np.testing.assert_allclose(folded.step(window), whole.step(window), atol=1e-6)

    @given(seeds, shares)
    def test_exactly_the_pruned_channels_go(self, seed: int, pruned: float) -> None:
        """Their rows and the columns that read them; of a layer that is all off one stays."""
        for config in CONFIGS.values():
            layers, widths = coded_layers(config), widths_of(config, seed, pruned)
            by_layer = split_by_layer(widths, layers)

            folding = Folding.of_layers(layer_feeds(config), layers, widths)

            gone: dict[str, list[int]] = {}
            for feed in layer_feeds(config):
                on = np.flatnonzero(by_layer[feed.layer])
                kept = on if on.size else np.zeros(1, np.intp)
                everything = np.arange(len(feed.columns))
                assert folding.rows.get(feed.layer, everything).tolist() == kept.tolist()
                columns = feed.columns[np.setdiff1d(everything, kept)]
                gone.setdefault(feed.reader, []).extend(columns.ravel().tolist())
            for layer in layers:
                kept_columns = set(folding.columns.get(layer.name, range(layer.n_elements)))
                assert kept_columns == set(range(layer.n_elements)) - set(gone.get(layer.name, ()))

    def test_a_bias_takes_the_constants(self) -> None:
        """By hand: a channel of bias 3 that is read with weights 2 and -1, one of bias -5."""
        (feed, *_) = layer_feeds(TINY_CONFIG)
        off = np.zeros(8, np.bool_)
        off[[1, 4]] = True
        bias, weights = np.zeros(8, np.float32), np.zeros((2, 8), np.float32)
        bias[[1, 4]] = 3, -5
        weights[:, 1], weights[:, 4] = (2, -1), (7, 7)

        folding = Folding([feed], {feed.layer: off}, {feed.reader: 8})
        found = folding.bias(
            feed.reader, weights, {feed.layer: bias, feed.reader: np.array([10, 20], np.float32)}
        )

        assert found.tolist() == [16, 17]


class TestResidentBytes:
    @given(seeds, shares)
    @example(seed=0, pruned=0.0)
    def test_shrinks_by_the_columns_that_go(self, seed: int, pruned: float) -> None:
        """Each channel of a reader at its own width; scales stay."""
        for config in CONFIGS.values():
            layers, widths = coded_layers(config), widths_of(config, seed, pruned)
            by_layer = split_by_layer(widths, layers)
            feeds = layer_feeds(config)
            gone = dict.fromkeys((feed.reader for feed in feeds), 0)
            for feed in feeds:
                n_off = int((by_layer[feed.layer] == 0).sum())
                n_gone = min(n_off, len(feed.columns) - 1)
                gone[feed.reader] += n_gone * feed.columns.shape[1]
            shrunk = sum(
                -(-layer.n_elements * int(bits) // 8)
                - -(-(layer.n_elements - gone[layer.name]) * int(bits) // 8)
                for layer in layers
                if layer.name in gone
                for bits in by_layer[layer.name]
            )

            found = resident_bytes(feeds, layers, widths)

            assert found == coded_bytes(layers, widths) - shrunk
            assert pruned > 0 or shrunk == 0

    def test_a_slice_of_a_pool_weighs_as_much_as_no_pool(self) -> None:
        """64 of 256 channels on, 2 bits: what a width of 64 takes, 15,360 bytes."""
        pool = BackboneConfig(
            kind="sasrec", embedding_dim=64, n_blocks=2, n_heads=2, window=20, ffn_multiplier=4
        )
        layers = coded_layers(pool)
        widths = np.full(total_channels(layers), 2, np.uint8)
        for name, part in split_by_layer(widths, layers).items():
            if name.endswith("ffn1"):
                part[np.random.default_rng(0).permutation(part.size)[64:]] = 0

        assert resident_bytes(layer_feeds(pool), layers, widths) == 15_360
        assert coded_bytes(layers, widths) == 21_504

    def test_layers_that_feed_nobody_are_coded_bytes(self) -> None:
        """Without feeds nothing is left out."""
        layers = (LayerShape("one", 3, 8),)
        widths = np.array([0, 2, 8], np.uint8)

        assert resident_bytes((), layers, widths) == coded_bytes(layers, widths)
