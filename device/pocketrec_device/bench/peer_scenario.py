# SPDX-License-Identifier: Apache-2.0
"""Times another runtime at what pocketrec's ``observe_rerank`` does.

In the clock, as there: a new event's id is looked up and taken in, the candidates' ids are
looked up, scores are computed, and the ids of the best come out. The network runs over the
whole window each time, since such an export keeps no state.
"""

from __future__ import annotations

import itertools
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec_device.bench.peers import load_peer
from pocketrec_device.bench.scenarios import Effort, K, Scenario, sliced
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pocketrec_quantization.peers import PeerSession

__all__ = ["load_peer_scenario", "peer_scenario"]

_N_EVENTS = 1009
_N_LISTS = 64


def load_peer_scenario(job: dict[str, Any]) -> tuple[Scenario, dict[str, Any]]:
    """Load a peer's file, and return what to time and the facts of its record.

    Args:
        job: As ``worker.measure`` takes it.

    Raises:
        ConfigError: There is no such peer.
        ArtifactError: The bundle cannot be used.
    """
    bundle = BundleFolder.open(Path(job["bundle"]))
    items = bundle.read_items()
    peer = load_peer(job["peer"])
    n_candidates = min(job["n_candidates"], items.n_items)
    window = bundle.manifest.backbone.window
    session = peer.load(Path(job["peer_file"]), window=window, n_candidates=n_candidates)
    effort = Effort(**{key: job[key] for key in ("warmup", "runs", "min_seconds")})
    scenario = peer_scenario(session, items.item_ids, seed=job["seed"], effort=effort)
    return scenario, {"backend_version": peer.name, "layers": []}


def peer_scenario(
    session: PeerSession, item_ids: Sequence[str], *, seed: int, effort: Effort
) -> Scenario:
    """Return one new event and one ranking on a user with a full window.

    Args:
        session: The loaded peer.
        item_ids: V ids; item index i is ``item_ids[i - 1]``.
        seed: Of the history, events and candidates.
        effort: How long to measure.
    """
    index_of = {item: index for index, item in enumerate(item_ids, start=1)}
    rng = np.random.default_rng(seed)

    def draw(n: int, *, replace: bool) -> list[str]:
        return [item_ids[i] for i in rng.choice(len(item_ids), n, replace=replace)]

    history, candidates = session.history, session.candidates
    history[:] = [index_of[item] for item in draw(history.size, replace=True)]
    events = itertools.cycle(draw(_N_EVENTS, replace=True))
    lists = itertools.cycle([draw(candidates.size, replace=False) for _ in range(_N_LISTS)])

    def observe_rerank() -> list[str]:
        history[:-1] = history[1:]
        history[-1] = index_of[next(events)]
        ids = next(lists)
        candidates[:] = itemgetter(*ids)(index_of)
        scores = session.run()
        return [ids[i] for i in scores.argsort()[: -K - 1 : -1].tolist()]

    return Scenario(first=observe_rerank, rounds=sliced({"observe_rerank": observe_rerank}, effort))
