# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.collaborative import InteractionSplit


def write(folder: Path, **files: str) -> Path:
    """Write files of interactions."""
    for name, text in files.items():
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


class TestRead:
    def test_a_published_split_is_kept(self, tmp_path: Path) -> None:
        """Every file is a part; users and items count up to the largest number of all."""
        folder = write(tmp_path, train="0 1 2\n1 0\n", val="2 1\n", test="0 4\n")

        found = InteractionSplit.read(folder)

        assert (found.n_users, found.n_items) == (3, 5)
        assert [part.nnz for part in (found.train, found.validation, found.test)] == [3, 1, 1]
        assert found.validation[2, 1] == found.test[0, 4] == 1

    def test_without_validation_the_union_is_split_by_seed(self, tmp_path: Path) -> None:
        """Eight, one and one of ten interactions, the same for one seed."""
        folder = write(tmp_path, train="0 0 1 2 3 4 5\n", test="1 0 1 2 3\n")

        first, again, other = (InteractionSplit.read(folder, seed=seed) for seed in (0, 0, 1))

        assert [part.nnz for part in (first.train, first.validation, first.test)] == [8, 1, 1]
        assert np.array_equal(first.train.toarray(), again.train.toarray())
        assert not np.array_equal(first.train.toarray(), other.train.toarray())

    def test_an_interaction_in_two_files_is_refused(self, tmp_path: Path) -> None:
        """What was trained on cannot be tested."""
        folder = write(tmp_path, train="0 1 2\n", val="0 2\n", test="0 3\n")

        with pytest.raises(ConfigError, match="found some in two"):
            InteractionSplit.read(folder)
