# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.compression.allocation import Budget, lay_out
from pocketrec_cloud.compression.fitting import fit_table, item_weights
from pocketrec_cloud.compression.kmeans import kmeans, nearest
from pocketrec_cloud.compression.labels import LABEL_SOURCES, Evidence, biadjacency
from pocketrec_cloud.compression.layout import CodebookShape, TableLayout
from pocketrec_cloud.data.dataset import SequenceDataset
from pocketrec_cloud.data.split import leave_one_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.compression.embedding import CodebookEmbedding

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def embeddings() -> NDArray[np.float32]:
    """300 items in 5 clouds of 16 columns, padding first."""
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(5, 16))
    items = centres[rng.integers(0, 5, 300)] + 0.3 * rng.normal(size=(300, 16))
    return np.vstack([np.zeros((1, 16)), items]).astype(np.float32)


def error(table: CodebookEmbedding, embeddings: NDArray[np.float32]) -> float:
    """What of the embeddings' energy is lost."""
    found = table.weight.detach().numpy()
    return float(((found - embeddings) ** 2).sum() / (embeddings**2).sum())


class TestKMeans:
    def test_groups_are_those_that_can_be_seen(self) -> None:
        """Two pairs far apart."""
        points = np.array([[0.0], [10.0], [1.0], [11.0]], np.float32)
        centres, groups = kmeans(points, 2, weights=np.ones(4))

        assert groups[0] == groups[2] != groups[1] == groups[3]
        assert sorted(centres[:, 0].tolist()) == [0.5, 10.5]

    def test_a_heavy_point_draws_its_centre(self) -> None:
        """The mean of 0 and 4 with weights 3 and 1 is 1."""
        points = np.array([[0.0], [4.0]], np.float32)

        centres, _ = kmeans(points, 1, weights=np.array([3.0, 1.0]))

        assert centres.tolist() == [[1.0]]

    def test_no_group_stays_empty(self) -> None:
        """Points that repeat leave centres without points, which move to others."""
        points = np.array([[0.0]] * 50 + [[5.0], [9.0]], np.float32)

        _, groups = kmeans(points, 3, weights=np.ones(52))

        assert len(set(groups.tolist())) == 3

    def test_more_groups_than_points_are_not_made(self) -> None:
        """Each point is its own centre."""
        points = np.array([[1.0], [2.0]], np.float32)

        centres, groups = kmeans(points, 9, weights=np.ones(2))

        assert np.array_equal(centres[groups], points)

    @pytest.mark.parametrize("weights", [[1.0, 0.0], [1.0, np.nan], [1.0]])
    def test_impossible_weights_are_refused(self, weights: list[float]) -> None:
        """Zero, no number, or too few."""
        with pytest.raises(ConfigError):
            kmeans(np.ones((2, 1), np.float32), 1, weights=np.array(weights))

    def test_the_nearest_centre_comes_with_its_distance(self) -> None:
        """3 is 1 from 4, and 3 from 0."""
        centres = np.array([[0.0], [4.0]], np.float32)
        groups, errors = nearest(np.array([[3.0]], np.float32), centres)

        assert (groups.tolist(), errors.tolist()) == ([1], [1.0])


class TestFit:
    def test_a_row_each_loses_next_to_nothing(self, embeddings: NDArray[np.float32]) -> None:
        """At 8 bits; more at 4, and still little."""
        budget = Budget(n_items=300, embedding_dim=16, max_bytes=10**6)
        losses = [
            error(
                fit_table(lay_out("plain", budget, bits), embeddings, weights=np.ones(300)),
                embeddings,
            )
            for bits in (8, 4)
        ]

        assert losses[0] < 1e-4 < losses[1] < 0.02

    def test_more_codebooks_lose_less(self) -> None:
        """Items without groups: two over halves of the columns, against one over all."""
        rng = np.random.default_rng(0)
        items = rng.normal(size=(300, 16)).astype(np.float32)
        spread = np.vstack([np.zeros((1, 16), np.float32), items])
        one = (CodebookShape(n_rows=9, width=16),)
        two = tuple(CodebookShape(n_rows=9, begin=begin, width=8) for begin in (0, 8))
        layouts = [TableLayout(embedding_dim=16, codebooks=books) for books in (one, two)]

        losses = [
            error(fit_table(layout, spread, weights=np.ones(300)), spread) for layout in layouts
        ]

        assert losses[1] < 0.95 * losses[0]

    def test_a_residual_starts_where_shared_rows_end(self, embeddings: NDArray[np.float32]) -> None:
        """A second codebook over the same columns takes up what the first has left."""
        book = CodebookShape(n_rows=6, width=16, has_row_scales=True)
        layouts = [
            TableLayout(embedding_dim=16, codebooks=books) for books in ((book,), (book, book))
        ]

        losses = [
            error(fit_table(layout, embeddings, weights=np.ones(300)), embeddings)
            for layout in layouts
        ]

        assert losses[1] < 0.9 * losses[0]

    def test_given_groups_share_their_weighted_mean(self) -> None:
        """Items 1 and 3: (0 x 1 + 127 x 3) / 4 is 95.25; 8 bits hold that."""
        embeddings = np.array([[0.0], [0.0], [8.0], [127.0]], np.float32)
        book = CodebookShape(n_rows=3, width=1, has_row_scales=True)
        layout = TableLayout(embedding_dim=1, codebooks=(book,))
        weights, labels = np.array([1.0, 1.0, 3.0]), np.array([1, 0, 1], np.int32)

        found = fit_table(layout, embeddings, weights=weights, labels=labels)

        assert found.weight[:, 0].tolist() == pytest.approx([0, 95.25, 8, 95.25])

    def test_groups_without_a_row_are_refused(self) -> None:
        """Group 2 of two."""
        book = CodebookShape(n_rows=3, width=1, has_row_scales=True)
        layout = TableLayout(embedding_dim=1, codebooks=(book,))

        with pytest.raises(ConfigError, match="labels"):
            fit_table(
                layout,
                np.ones((3, 1), np.float32),
                weights=np.ones(2),
                labels=np.array([0, 2], np.int32),
            )

    def test_another_number_of_columns_is_refused(self, embeddings: NDArray[np.float32]) -> None:
        """15 where there are 16."""
        layout = TableLayout(embedding_dim=15, codebooks=(CodebookShape(n_rows=3, width=15),))

        with pytest.raises(ConfigError, match="columns"):
            fit_table(layout, embeddings, weights=np.ones(300))


class TestEvidence:
    def test_an_item_weighs_its_training_events_and_one(self) -> None:
        """Held-out events do not count: of 1, 2, 1, 3 the last two are."""
        split = leave_one_out(SequenceDataset.from_sequences([[1, 2, 1, 3]], n_items=3))

        assert item_weights(split).tolist() == [2.0, 2.0, 1.0]

    @pytest.mark.parametrize("name", LABEL_SOURCES)
    def test_every_source_keeps_to_the_number_of_groups(
        self, name: str, embeddings: NDArray[np.float32]
    ) -> None:
        """And gives the same seed the same groups."""
        rng = np.random.default_rng(1)
        evidence = Evidence(
            embeddings=embeddings[1:],
            weights=np.ones(300),
            sequences=[rng.integers(1, 301, 8).astype(np.int32) for _ in range(200)],
        )
        found = LABEL_SOURCES[name].labels(40, evidence, seed=3)

        assert found.shape == (300,)
        assert 0 <= found.min() <= found.max() < 40
        assert len(set(found.tolist())) > 10
        assert np.array_equal(found, LABEL_SOURCES[name].labels(40, evidence, seed=3))

    def test_events_become_edges(self) -> None:
        """One user with items 1 and 3, one with item 3 twice."""
        evidence = Evidence(
            embeddings=np.ones((3, 1), np.float32),
            weights=np.ones(3),
            sequences=[np.array([1, 3], np.int32), np.array([3, 3], np.int32)],
        )

        assert biadjacency(evidence).toarray().tolist() == [[1, 0, 1], [0, 0, 2]]
