# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import numpy as np
import pytest

from pocketrec.errors import ConfigError
from pocketrec_cloud.data.split import leave_one_out
from pocketrec_cloud.data.synthetic import (
    SyntheticCatalogue,
    SyntheticConfig,
    synthetic_interactions,
)


@pytest.fixture(scope="module")
def catalogue() -> SyntheticCatalogue:
    """The demonstration's catalogue."""
    return synthetic_interactions()


def hit_rate(catalogue: SyntheticCatalogue, *, by_last_item: bool) -> float:
    """Return HR@10 of counting: what is popular, or what followed the last item."""
    split = leave_one_out(catalogue.dataset)
    n_rows = catalogue.dataset.n_items + 1
    followed = np.zeros((n_rows, n_rows), dtype=np.float32)
    for user in split.users:
        events = split.train_sequence(user)
        np.add.at(followed, (events[:-1], events[1:]), 1)
    popular = followed.sum(axis=0)
    n_hits = 0
    for user in split.users:
        last, target = split.history(user, "test")[-1], split.target(user, "test")
        scores = followed[last] + popular * 1e-6 if by_last_item else popular
        n_hits += int(np.count_nonzero(scores > scores[target]) < 10)
    return n_hits / split.users.size


class TestSyntheticInteractions:
    def test_the_default_is_the_size_it_says(self, catalogue: SyntheticCatalogue) -> None:
        """About 2,000 users, 1,200 items and 30 events each."""
        dataset = catalogue.dataset

        assert (dataset.n_users, dataset.n_items) == (2000, 1200)
        assert dataset.n_events / dataset.n_users == pytest.approx(30, rel=0.1)
        assert np.diff(dataset.offsets).min() >= SyntheticConfig().min_events

    def test_a_seed_gives_one_catalogue(self) -> None:
        """The same seed gives the same events, another seed others."""
        small = {"n_users": 20, "n_items": 60, "n_groups": 6}
        first, again, other = (
            synthetic_interactions(SyntheticConfig(seed=seed, **small)).dataset
            for seed in (1, 1, 2)
        )

        assert np.array_equal(first.items, again.items)
        assert not np.array_equal(first.items, other.items)

    def test_every_item_can_be_shown(self, catalogue: SyntheticCatalogue) -> None:
        """Ids are unique and sorted, and each has a title that names its group."""
        dataset = catalogue.dataset

        assert dataset.item_ids == tuple(sorted(set(dataset.item_ids)))
        assert len(catalogue.titles) == dataset.n_items
        for index in (1, 77, dataset.n_items):
            group = catalogue.group_names[catalogue.group_of_item[index - 1]]
            assert catalogue.titles[index - 1].startswith(group)

    def test_popularity_is_skewed(self, catalogue: SyntheticCatalogue) -> None:
        """A fifth of the items takes more than a third of the events."""
        counts = np.sort(np.bincount(catalogue.dataset.items))[::-1]

        assert counts[: catalogue.dataset.n_items // 5].sum() > catalogue.dataset.n_events / 3

    def test_order_tells_much_more_than_popularity(self, catalogue: SyntheticCatalogue) -> None:
        """What followed the last item hits at least four times as often as what is popular."""
        by_popularity = hit_rate(catalogue, by_last_item=False)
        by_last_item = hit_rate(catalogue, by_last_item=True)

        assert by_last_item > 4 * by_popularity > 0

    def test_sessions_stay_in_a_group(self, catalogue: SyntheticCatalogue) -> None:
        """Most events share the group of the event before, and some do not."""
        dataset = catalogue.dataset
        groups = catalogue.group_of_item[dataset.items - 1]
        is_first = np.isin(np.arange(1, dataset.n_events), dataset.offsets)
        stays = (groups[1:] == groups[:-1])[~is_first].mean()

        assert 0.5 < stays < 0.9

    @pytest.mark.parametrize(
        "wrong",
        [
            {"n_groups": 0},
            {"n_groups": 2000},
            {"n_interests": 25},
            {"n_users": 0},
            {"min_events": 31},
            {"session_events": 0.5},
            {"drift": 1.5},
        ],
        ids=str,
    )
    def test_impossible_fields_are_refused(self, wrong: dict[str, int]) -> None:
        """A configuration that cannot be generated is refused when it is made."""
        with pytest.raises(ConfigError, match="expected"):
            SyntheticConfig(**wrong)

    def test_more_groups_than_names(self) -> None:
        """Names repeat with a number once they run out, and ids stay unique."""
        config = SyntheticConfig(n_users=5, n_items=100, n_groups=50)

        dataset = synthetic_interactions(config).dataset

        assert len(set(dataset.item_ids)) == 100
