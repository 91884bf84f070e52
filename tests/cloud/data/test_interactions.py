# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketrec.errors import ConfigError, DataError
from pocketrec_cloud.data.interactions import read_pairs, split_interactions


def write(folder: Path, name: str, text: str) -> Path:
    """Write a file of interactions."""
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


class TestReadPairs:
    def test_files_are_united_and_repeats_are_kept_once(self, tmp_path: Path) -> None:
        """A user of two files has the items of both, in order, each once."""
        train = write(tmp_path, "train.txt", "0 0 5\n2 1 1\n")
        test = write(tmp_path, "test.txt", "0 5 3\n\n1\n")

        pairs = read_pairs(train, test)

        assert pairs.dtype == np.int32
        assert pairs.tolist() == [[0, 0], [0, 3], [0, 5], [2, 1]]

    @pytest.mark.parametrize("text", ["0 1\n0 a\n", "0 1\n0 -1\n", f"0 1\n{2**31} 1\n"])
    def test_ids_that_are_no_numbers_are_refused(self, tmp_path: Path, text: str) -> None:
        """The line of an id that is no number, or out of range, is named."""
        path = write(tmp_path, "pairs.txt", text)

        with pytest.raises(DataError) as caught:
            read_pairs(path)

        assert caught.value.line == 2

    def test_a_file_without_pairs_is_refused(self, tmp_path: Path) -> None:
        """Users without items are no interactions."""
        path = write(tmp_path, "pairs.txt", "0\n1\n")

        with pytest.raises(DataError, match="found none"):
            read_pairs(path)


class TestSplitInteractions:
    pairs = np.stack((np.arange(105), np.arange(105)[::-1]), axis=1).astype(np.int32)

    def test_parts_have_their_sizes_and_lose_nothing(self) -> None:
        """Fractions are rounded down, the last part has the rest, and all pairs are there."""
        parts = split_interactions(self.pairs, 0)

        assert [len(part) for part in parts] == [84, 10, 11]
        assert sorted(map(tuple, np.concatenate(parts))) == sorted(map(tuple, self.pairs))

    def test_the_seed_decides(self) -> None:
        """One seed always gives one split; another seed gives another."""
        first, again, other = (split_interactions(self.pairs, seed)[2] for seed in (1, 1, 2))

        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)

    def test_impossible_fractions_are_refused(self) -> None:
        """Fractions that do not add up, and arrays that are no pairs, are refused."""
        with pytest.raises(ConfigError, match="add up to 1"):
            split_interactions(self.pairs, 0, (0.8, 0.1))
        with pytest.raises(ConfigError, match=r"\(E, 2\)"):
            split_interactions(self.pairs[:, :1], 0)
