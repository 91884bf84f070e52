# SPDX-License-Identifier: Apache-2.0
"""A generated catalogue with structure that a sequence model can find and popularity cannot.

Our own design, free of anyone's data. What is planted:

* **Groups.** Every item belongs to one group. Groups differ in size of audience, and items
  within a group in popularity (both Zipf).
* **Series.** The items of a group form a ring. Who met one is likely to go on to the next.
* **Interests.** A user follows a few groups at a time, and leaves each off where it was.
* **Drift.** Between sessions an interest sometimes moves on to a neighbouring group.
* **Sessions.** Events come in short sessions of one group; now and then one strays to
  another group by popularity alone.

So the last events tell the group and the place in its series, which is much; who is popular
tells little; and the last item alone misses what a user returns to.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import ConfigError
from pocketrec_cloud.data.dataset import SequenceDataset

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["SyntheticCatalogue", "SyntheticConfig", "synthetic_interactions"]

_THEMES = (
    "Astronomy", "Baking", "Ballads", "Birds", "Castles", "Chess", "Comedy", "Cycling",
    "Deserts", "Dragons", "Gardens", "Ghosts", "Harbours", "Islands", "Jazz", "Kites",
    "Maps", "Mountains", "Orchards", "Railways", "Rivers", "Robots", "Sailing", "Winter",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class SyntheticConfig:
    """What the generated catalogue looks like.

    Attributes:
        seed: Everything follows from it.
        n_users: Users U.
        n_items: Items V; shared evenly among the groups.
        n_groups: Groups of items.
        mean_events: Average events per user.
        min_events: Nobody has fewer.
        n_interests: Groups a user follows at a time.
        session_events: Average events per session.
        drift: Probability that an interest moves on, at the end of a session.
        in_series: Probability that an event goes on in the group's series; the others follow
            popularity within the group.
        stray: Probability that an event follows the popularity of all items.
    """

    seed: int = 0
    n_users: int = 2000
    n_items: int = 1200
    n_groups: int = 24
    mean_events: int = 30
    min_events: int = 8
    n_interests: int = 3
    session_events: float = 6.0
    drift: float = 0.15
    in_series: float = 0.6
    stray: float = 0.1

    def __post_init__(self) -> None:
        if not 1 <= self.n_interests <= self.n_groups <= self.n_items:
            raise ConfigError(
                "expected 1 <= n_interests <= n_groups <= n_items, got"
                f" {self.n_interests}, {self.n_groups} and {self.n_items}"
            )
        if self.n_users < 1 or not 1 <= self.min_events <= self.mean_events:
            raise ConfigError(
                "expected a user and 1 <= min_events <= mean_events, got"
                f" n_users {self.n_users}, {self.min_events} and {self.mean_events}"
            )
        probabilities = (self.drift, self.in_series, self.stray)
        if self.session_events < 1 or not all(0 <= p <= 1 for p in probabilities):
            raise ConfigError(
                "expected session_events of at least 1 and probabilities within 0..1, got"
                f" {self.session_events}, and drift, in_series, stray {probabilities}"
            )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SyntheticCatalogue:
    """Generated interactions, with what a person needs to read them.

    Attributes:
        dataset: The interactions.
        titles: The title of item index ``i`` is ``titles[i - 1]``.
        group_names: One name per group.
        group_of_item: (V,) int64, the group of item index ``i`` at ``i - 1``.
    """

    dataset: SequenceDataset
    titles: tuple[str, ...]
    group_names: tuple[str, ...]
    group_of_item: NDArray[np.int64]


def synthetic_interactions(config: SyntheticConfig | None = None) -> SyntheticCatalogue:
    """Generate a catalogue and its users' histories.

    Args:
        config: What it looks like; the default is the demonstration's.

    Returns:
        The same catalogue for the same configuration.

    Source:
        Our own design; see the module.
    """
    config = config or SyntheticConfig()
    first_item = np.linspace(0, config.n_items, config.n_groups + 1).astype(np.int64)
    offsets, items = _histories(config, first_item)
    group_of_item = np.repeat(np.arange(config.n_groups), np.diff(first_item))
    names = tuple(_group_name(group) for group in range(config.n_groups))
    places = np.arange(config.n_items) - first_item[group_of_item] + 1
    digits = len(str(int(places.max())))
    dataset = SequenceDataset(
        item_ids=tuple(
            f"{names[group].lower().replace(' ', '-')}-{place:0{digits}d}"
            for group, place in zip(group_of_item, places, strict=True)
        ),
        user_ids=tuple(
            f"user-{user:0{len(str(config.n_users))}d}" for user in range(1, config.n_users + 1)
        ),
        offsets=offsets,
        items=items,
    )
    titles = tuple(
        f"{names[group]}, part {place}" for group, place in zip(group_of_item, places, strict=True)
    )
    return SyntheticCatalogue(
        dataset=dataset, titles=titles, group_names=names, group_of_item=group_of_item
    )


def _histories(
    config: SyntheticConfig, first_item: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
    rng = np.random.default_rng(config.seed)
    walk = _Walk(config, rng, first_item)
    lengths = _lengths(config, rng)
    events = np.stack([walk.next_items() for _ in range(int(lengths.max()))], axis=1)  # (U, T)
    is_kept = np.arange(events.shape[1]) < lengths[:, None]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return offsets, (events[is_kept] + 1).astype(np.int32)


class _Walk:
    """All users at once, one event after the other."""

    def __init__(
        self, config: SyntheticConfig, rng: np.random.Generator, first_item: NDArray[np.int64]
    ) -> None:
        self._config = config
        self._rng = rng
        self._first_item = first_item
        self._sizes = np.diff(first_item)
        self._users = np.arange(config.n_users)
        audience = _zipf(config.n_groups, exponent=0.5)
        keys = np.log(audience) + rng.gumbel(size=(config.n_users, config.n_groups))
        # The largest of log-weights with Gumbel noise are a weighted draw without replacement.
        self._interests = np.argsort(-keys, axis=1)[:, : config.n_interests]  # (U, interests)
        self._place = (rng.random((config.n_users, config.n_groups)) * self._sizes).astype(np.int64)
        self._favourites = [rng.permutation(size) for size in self._sizes]
        self._popularity = [np.cumsum(_zipf(int(size), exponent=1.0)) for size in self._sizes]
        self._audience = np.cumsum(audience)
        self._slot = rng.integers(config.n_interests, size=config.n_users)

    def next_items(self) -> NDArray[np.int64]:
        """Return every user's next item: (U,) int64 from 0."""
        config, rng = self._config, self._rng
        self._end_sessions(rng.random(config.n_users) < 1 / config.session_events)
        groups = self._interests[self._users, self._slot]
        steps = rng.choice((1, 2, 3), p=(0.75, 0.15, 0.1), size=config.n_users)
        places = (self._place[self._users, groups] + steps) % self._sizes[groups]
        is_popular = rng.random(config.n_users) >= config.in_series
        is_stray = rng.random(config.n_users) < config.stray
        goes_on = ~(is_popular | is_stray)
        self._place[self._users[goes_on], groups[goes_on]] = places[goes_on]

        strays = np.searchsorted(self._audience, rng.random(config.n_users))
        groups = np.where(is_stray, np.minimum(strays, config.n_groups - 1), groups)
        draws = rng.random(config.n_users)
        local = np.empty(config.n_users, dtype=np.int64)
        for group in range(config.n_groups):
            here = groups == group
            ranked = np.searchsorted(self._popularity[group], draws[here])
            favourites = self._favourites[group]
            popular = favourites[np.minimum(ranked, favourites.size - 1)]
            local[here] = np.where(goes_on[here], places[here], popular)
        return np.asarray(self._first_item[groups] + local)

    def _end_sessions(self, ends: NDArray[np.bool_]) -> None:
        config, rng = self._config, self._rng
        moves_on = ends & (rng.random(config.n_users) < config.drift)
        users, slots = self._users[moves_on], self._slot[moves_on]
        step = rng.choice((-1, 1), size=users.size)
        self._interests[users, slots] = (self._interests[users, slots] + step) % config.n_groups
        self._slot = np.where(
            ends & ~moves_on, rng.integers(config.n_interests, size=config.n_users), self._slot
        )


def _zipf(count: int, *, exponent: float) -> NDArray[np.float64]:
    weights = np.power(np.arange(1, count + 1, dtype=np.float64), -exponent)
    return np.asarray(weights / weights.sum())


def _lengths(config: SyntheticConfig, rng: np.random.Generator) -> NDArray[np.int64]:
    # Many short histories and a few long ones: geometric above the minimum.
    surplus = config.mean_events - config.min_events
    extra = rng.geometric(1 / (surplus + 1), size=config.n_users) - 1
    return np.minimum(config.min_events + extra, config.min_events + 6 * surplus)


def _group_name(group: int) -> str:
    series, theme = divmod(group, len(_THEMES))
    return _THEMES[theme] if series == 0 else f"{_THEMES[theme]} {series + 1}"
