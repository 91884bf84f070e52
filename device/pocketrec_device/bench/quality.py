# SPDX-License-Identifier: Apache-2.0
"""What a row's ranking is worth: on its own, and beside the float model's.

HR and NDCG say how well held-out items are ranked. The other two say how far the ranking is
from the baseline's, whoever is right: ``top10_overlap``, the share of the baseline's ten best
items that are among the row's ten best; and ``rank_flips``, the share of the 45 pairs of
those ten that the row puts in the opposite order. Both are means over users; items that a
user has seen are in no ranking.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.metrics import bootstrap_mean, hit_rate, ndcg, paired_bootstrap, rank_of_target
from pocketrec_quantization.cases import EvaluationCases

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from pocketrec_device.engine import Engine

__all__ = ["N_BEST", "agreement", "best_items", "quality_of", "rank_cases"]

N_BEST = 10


def rank_cases(
    engine: Engine, path: Path, *, seed: int, baseline: Path | None = None
) -> dict[str, Any]:
    """Rank every held-out target among all items the user has not seen.

    Args:
        engine: What computes.
        path: Evaluation cases.
        seed: Of tie-breaks.
        baseline: ``best`` of another engine, as a file of (n_cases, 10) int64; None if this
            is the baseline.

    Returns:
        ``ranks``, one per case; ``best``, one list per case for the baseline, else empty;
        ``top10_overlap`` and ``rank_flips``.

    Raises:
        BackendError: Inference failed.
        OSError: A file cannot be read.
    """
    cases = EvaluationCases.from_bytes(path.read_bytes())
    others = None if baseline is None else np.load(baseline)
    rng = np.random.default_rng(seed)
    everything = engine.items.gather(np.arange(cases.n_items + 1))
    window = engine.manifest.backbone.window
    ranks, best, agreements = [], [], []
    for case in range(cases.n_cases):
        history, target = cases.history(case), cases.targets[case : case + 1].astype(np.int64)
        session = engine.backend.new_state()
        session.observe(engine.items.embed(history[-window:]))
        scores = everything.scores(session.h)
        own = scores[target]
        scores[history] = -np.inf
        scores[0] = -np.inf
        scores[target] = own
        ranks.append(int(rank_of_target(scores[None], target, rng)[0]))
        ten = best_items(scores)
        best.append(ten.tolist())
        agreements.append(agreement(scores, ten if others is None else others[case]))
    overlap, flips = np.mean(agreements, axis=0).tolist()
    return {
        "ranks": ranks,
        "best": best if baseline is None else [],
        "top10_overlap": overlap,
        "rank_flips": flips,
    }


def best_items(scores: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the ten best items, best first, (10,) int64; 0 where there are fewer.

    Args:
        scores: (V + 1,) float32; minus infinity takes an item out of the ranking.
    """
    found = np.zeros(N_BEST, np.int64)
    order = np.argsort(-scores, kind="stable")[:N_BEST]
    kept = order[np.isfinite(scores[order])]
    found[: kept.size] = kept
    return found


def agreement(scores: NDArray[np.float32], baseline: NDArray[np.int64]) -> tuple[float, float]:
    """Return overlap and flips of one user's ranking, both 0..1.

    Args:
        scores: (V + 1,) float32, as ``best_items`` takes them.
        baseline: (10,) int64, the best items of the baseline, 0 where there are fewer.
    """
    expected = baseline[baseline > 0]
    if not expected.size:
        return 1.0, 0.0
    overlap = np.isin(expected, best_items(scores)).mean()
    own = scores[expected].tolist()
    pairs = [first < second for first, second in combinations(own, 2)]
    return float(overlap), sum(pairs) / len(pairs) if pairs else 0.0


def quality_of(
    ranking: Mapping[str, Any] | None, baseline: Sequence[int] | None
) -> dict[str, Any] | None:
    """Return the quality of a row; None if nothing was ranked.

    Args:
        ranking: What ``rank_cases`` returned, or None.
        baseline: Ranks of the baseline, one per case, or None.
    """
    if ranking is None or baseline is None:
        return None
    own, other = np.array(ranking["ranks"]), np.array(baseline)
    interval = bootstrap_mean(ndcg(own, 10))
    change = paired_bootstrap(ndcg(own, 10), ndcg(other, 10))
    return {
        "hr@5": float(hit_rate(own, 5).mean()),
        "hr@10": float(hit_rate(own, 10).mean()),
        "ndcg@5": float(ndcg(own, 5).mean()),
        "ndcg@10": interval.mean,
        "ndcg@10_interval": [interval.low, interval.high],
        "ndcg@10_change": change.mean,
        "ndcg@10_change_interval": [change.low, change.high],
        "top10_overlap": ranking["top10_overlap"],
        "rank_flips": ranking["rank_flips"],
    }
