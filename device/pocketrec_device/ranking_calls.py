# SPDX-License-Identifier: Apache-2.0
"""The calls that rank: events in, rankings out, for one user, offline.

They may be made from any thread, while another one swaps what ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.latency_counter import LatencyCounter, counted
from pocketrec_device.live import LiveSession
from pocketrec_device.page_ranking import rank_lists
from pocketrec_device.ranking import Candidates

if TYPE_CHECKING:
    from pocketrec_device.ranking import Mode, Ranking

__all__ = ["RankingCalls"]


class RankingCalls:
    """What an app asks while its user is there; ``Runtime`` adds where models come from.

    Args:
        latencies: Counts how long calls take; None = nobody does.
    """

    def __init__(self, latencies: LatencyCounter | None) -> None:
        self._latencies = latencies
        self._live = LiveSession()

    @property
    def latencies(self) -> LatencyCounter | None:
        """How long calls of ``rerank`` took since the last report; None unless opted in."""
        return self._latencies

    def observe(self, item_id: str) -> bool:
        """Take in one event.

        Args:
            item_id: What the user interacted with.

        Returns:
            Whether the item table knows the item; events on unknown items change nothing.

        Raises:
            StoreError: Nothing is installed yet.
            BackendError: Inference failed; the event was not taken in.
        """
        return self._live.observe(item_id)

    def observe_many(self, item_ids: Sequence[str]) -> int:
        """Take in events, oldest first; the same as observing them one by one, but faster.

        Args:
            item_ids: What the user interacted with.

        Returns:
            How many of them the item table knows; the others change nothing.

        Raises:
            ConfigError: ``item_ids`` is one string.
            StoreError: Nothing is installed yet.
            BackendError: Inference failed; the events before it were taken in.
        """
        if isinstance(item_ids, str):
            raise ConfigError(f"item_ids: expected a sequence of item ids, got {item_ids!r}")
        return self._live.observe_many(item_ids)

    def reset(self) -> None:
        """Forget the history: another user, or a new session.

        Raises:
            StoreError: Nothing is installed yet.
        """
        self._live.reset()

    @counted
    def rerank(
        self,
        candidates: Sequence[str],
        k: int,
        *,
        mode: Mode = "pointwise",
        server_scores: Sequence[float] | None = None,
        server_weight: float = 0.0,
        exclude_seen: bool = False,
    ) -> Ranking:
        """Return the k best candidates for the user now; ``ranking`` has the rules.

        Args:
            candidates: Item ids, in the order that decides ties.
            k: How many to return, from 1; all when there are fewer.
            mode: ``"pointwise"``, or ``"sequential"``: a slate whose later picks know the
                earlier ones, at the price of one ``observe`` per pick.
            server_scores: One score per candidate. They rank alone while there is no
                history, and are blended in by ``server_weight`` afterwards.
            server_weight: ``score = device score + server_weight * server score``.
            exclude_seen: Leave out what is among the last L events.

        Raises:
            ConfigError: An argument is out of its range.
            StoreError: Nothing is installed yet.
            BackendError: Inference failed.
        """
        if mode != "pointwise":
            scores = None if server_scores is None else [server_scores]
            (slate,) = self.rerank_many(
                [candidates],
                k,
                mode=mode,
                server_scores=scores,
                server_weight=server_weight,
                exclude_seen=exclude_seen,
            )
            return slate
        now = self._live.snapshot(with_seen=exclude_seen)
        checked = Candidates.of(
            candidates,
            server_scores=server_scores,
            server_weight=server_weight,
            excluded=now.seen,
            table=now.engine.items,
        )
        return now.rank(checked, k)

    def rerank_many(
        self,
        candidate_lists: Sequence[Sequence[str]],
        k: int,
        *,
        mode: Mode = "pointwise",
        server_scores: Sequence[Sequence[float]] | None = None,
        server_weight: float = 0.0,
        exclude_seen: bool = False,
    ) -> tuple[Ranking, ...]:
        """Return the k best candidates of several lists, such as the rows of a page.

        All lists are ranked for the same moment: an event or a swap that comes in between
        changes none of them.

        Args:
            candidate_lists: Lists of item ids.
            k: How many to return of each, from 1.
            mode: As for ``rerank``.
            server_scores: One sequence of scores per list.
            server_weight: As for ``rerank``.
            exclude_seen: As for ``rerank``.

        Raises:
            ConfigError: An argument is out of its range.
            StoreError: Nothing is installed yet.
            BackendError: Inference failed.
        """
        return rank_lists(
            self._live,
            candidate_lists,
            k,
            mode=mode,
            server_scores=server_scores,
            server_weight=server_weight,
            exclude_seen=exclude_seen,
        )
