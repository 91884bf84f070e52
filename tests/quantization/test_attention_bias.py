# SPDX-License-Identifier: Apache-2.0
"""Biases by distance, against the plain definition of a distance."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pocketrec_quantization.attention_bias import RingBias, prefill_bias, stack_relative_bias
from pocketrec_quantization.testing import TINY_CONFIG, tiny_frozen

N_BLOCKS, N_HEADS = 2, 3
windows = st.integers(1, 12)


def learned(window: int) -> np.ndarray:
    """Return (n_blocks, H, L) biases, every one of them different."""
    n_biases = N_BLOCKS * N_HEADS * window
    return np.arange(n_biases, dtype=np.float32).reshape(N_BLOCKS, N_HEADS, window)


def written(ring: RingBias, slot: int, *, is_full: bool) -> np.ndarray:
    """Return the biases of a step, written over rubbish."""
    out = np.full((N_BLOCKS, N_HEADS, ring.window), np.nan, np.float32)
    ring.write(out, slot, is_full=is_full)
    return out


class TestPrefill:
    @given(windows, st.integers(1, 30))
    def test_every_pair_of_events_has_the_bias_of_its_distance(
        self, window: int, n_events: int
    ) -> None:
        """Later events are hidden, and so are those L or more before."""
        relative = learned(window)

        bias = prefill_bias(relative, n_events)

        assert bias.shape == (N_BLOCKS, N_HEADS, n_events, n_events)
        assert bias.dtype == np.float32
        for event in range(n_events):
            for other in range(n_events):
                distance = event - other
                expected = relative[..., distance] if 0 <= distance < window else -np.inf
                np.testing.assert_array_equal(bias[..., event, other], expected)

    def test_by_hand(self) -> None:
        """Three events under L = 2: each sees itself and the one before."""
        hidden = -np.inf

        bias = prefill_bias(np.array([5, 7], np.float32), 3)

        assert bias.tolist() == [[5, hidden, hidden], [7, 5, hidden], [hidden, 7, 5]]

    def test_memory_is_its_own(self) -> None:
        """The result can be written to without touching what was learned."""
        relative = learned(4)

        prefill_bias(relative, 4)[...] = 0

        np.testing.assert_array_equal(relative, learned(4))


class TestRing:
    @given(windows.filter(lambda window: window > 1), st.integers(0, 40))
    def test_every_row_has_the_bias_of_its_event(self, window: int, n_before: int) -> None:
        """Replaying where events went gives the distance of every row; empty ones are hidden."""
        relative, n_rows = learned(window), window - 1
        expected = np.full(relative.shape, -np.inf, np.float32)
        expected[..., 0] = relative[..., 0]
        for event in range(max(0, n_before - n_rows), n_before):
            expected[..., 1 + event % n_rows] = relative[..., n_before - event]

        found = written(RingBias(relative), 1 + n_before % n_rows, is_full=n_before >= n_rows)

        np.testing.assert_array_equal(found, expected)

    @given(windows.filter(lambda window: window > 1), st.data())
    def test_distances_are_those_of_the_formula(self, window: int, data: st.DataObject) -> None:
        """A full ring's row lies (slot - row - 1) mod (L - 1) + 1 events back."""
        slot = data.draw(st.integers(1, window - 1))
        relative = learned(window)

        found = written(RingBias(relative), slot, is_full=True)

        for row in range(1, window):
            distance = (slot - row - 1) % (window - 1) + 1
            np.testing.assert_array_equal(found[..., row], relative[..., distance])

    @pytest.mark.parametrize(
        ("slot", "is_full", "expected"),
        [
            (1, False, [10, -np.inf, -np.inf, -np.inf]),
            (2, False, [10, 11, -np.inf, -np.inf]),
            (3, False, [10, 12, 11, -np.inf]),
            (1, True, [10, 13, 12, 11]),
            (2, True, [10, 11, 13, 12]),
            (3, True, [10, 12, 11, 13]),
        ],
    )
    def test_by_hand(self, slot: int, is_full: bool, expected: list[float]) -> None:
        """For L = 4, a bias of 10 + distance, filling and full."""
        out = np.empty((1, 1, 4), np.float32)

        RingBias(np.array([[[10, 11, 12, 13]]], np.float32)).write(out, slot, is_full=is_full)

        assert out[0, 0].tolist() == expected

    @pytest.mark.parametrize("is_full", [False, True])
    @pytest.mark.parametrize("slot", [0, 1])
    def test_a_window_of_one_is_the_event_alone(self, slot: int, is_full: bool) -> None:
        """With L = 1 there are no rows to be hidden or seen, and the slot is not read."""
        found = written(RingBias(learned(1)), slot, is_full=is_full)

        np.testing.assert_array_equal(found, learned(1))

    def test_a_window_of_two_has_one_row(self) -> None:
        """With L = 2 the only row is hidden at first, and one event back ever after."""
        ring = RingBias(learned(2))

        assert np.isneginf(written(ring, 1, is_full=False)[..., 1]).all()
        np.testing.assert_array_equal(written(ring, 1, is_full=True), learned(2))

    @given(windows, st.booleans(), st.data())
    def test_older_rows_are_written_alone(
        self, window: int, is_full: bool, data: st.DataObject
    ) -> None:
        """The rows that change from step to step can be written without the event's own."""
        slot = data.draw(st.integers(1, max(1, window - 1)))
        ring = RingBias(learned(window))
        older = np.full((N_BLOCKS, N_HEADS, window - 1), np.nan, np.float32)

        ring.write_older(older, slot, is_full=is_full)

        np.testing.assert_array_equal(older, written(ring, slot, is_full=is_full)[..., 1:])

    def test_what_was_learned_may_change_afterwards(self) -> None:
        """The arrays are copies: nothing done to the source reaches a running state."""
        relative = learned(5)
        ring = RingBias(relative)
        before = [written(ring, slot, is_full=True) for slot in (1, 4)]

        relative[...] = 0

        for slot, expected in zip((1, 4), before, strict=True):
            np.testing.assert_array_equal(
                written(ring, slot, is_full=True)[..., 1:], expected[..., 1:]
            )


def test_a_prefill_and_a_step_agree_on_the_last_event() -> None:
    """The last row of a whole history's bias is that of the step, sorted by distance."""
    relative = learned(5)

    last = prefill_bias(relative, 5)[..., -1, :]
    step = written(RingBias(relative), 1, is_full=True)

    np.testing.assert_array_equal(step[..., [1, 2, 3, 4, 0]], last)


def test_biases_of_all_blocks_are_stacked_in_order() -> None:
    """Block i's tensor becomes entry i; a block without one is an error."""
    dense = tiny_frozen().dense

    stacked = stack_relative_bias(dense, TINY_CONFIG.n_blocks)

    assert stacked.shape == (2, TINY_CONFIG.n_heads, TINY_CONFIG.window)
    for block in range(2):
        np.testing.assert_array_equal(stacked[block], dense[f"blocks.{block}.relative_bias"])
    with pytest.raises(KeyError, match=r"blocks\.2\.relative_bias"):
        stack_relative_bias(dense, 3)
