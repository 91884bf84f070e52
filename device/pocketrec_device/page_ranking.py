# SPDX-License-Identifier: Apache-2.0
"""Ranks several lists for the same moment, such as the rows of a page."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pocketrec.errors import ConfigError
from pocketrec_device.ranking import MODES, check_lists

if TYPE_CHECKING:
    from pocketrec_device.live import LiveSession, Slates, Snapshot
    from pocketrec_device.ranking import Mode, Ranking

__all__ = ["rank_lists"]


def rank_lists(
    live: LiveSession,
    candidate_lists: Sequence[Sequence[str]],
    k: int,
    *,
    mode: Mode,
    server_scores: Sequence[Sequence[float]] | None,
    server_weight: float,
    exclude_seen: bool,
) -> tuple[Ranking, ...]:
    """Return the k best candidates of several lists; arguments as ``Runtime.rerank_many``.

    Raises:
        ConfigError: An argument is out of its range.
        StoreError: Nothing is installed yet.
        BackendError: Inference failed.
    """
    if mode not in MODES:
        raise ConfigError(f"mode: expected one of {MODES}, got {mode!r}")

    def rank_all(moment: Snapshot | Slates) -> tuple[Ranking, ...]:
        checked = check_lists(
            candidate_lists,
            server_scores=server_scores,
            server_weight=server_weight,
            excluded=moment.seen,
            table=moment.engine.items,
        )
        return tuple(moment.rank(candidates, k) for candidates in checked)

    if mode == "pointwise":
        return rank_all(live.snapshot(with_seen=exclude_seen))
    with live.slates(with_seen=exclude_seen) as slates:
        return rank_all(slates)
