# SPDX-License-Identifier: Apache-2.0
"""The methods that ``codebook`` compares: each makes two assignments, and first values if any."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from benchmarks.codebook_clusters import (
    Clusters,
    Vectors,
    double_hashes,
    frequency_hash,
    k_means,
    louvain,
    product_quantize,
    random_hash,
    renumber,
    residual_k_means,
    secondary_labels,
    spectral,
)
from pocketrec_cloud.collaborative import InteractionSplit, Mixing, RowAssignment
from pocketrec_cloud.collaborative.codebook_table import cluster_means

__all__ = ["METHODS", "Context", "Design", "Method"]

GRAPHHASH_RESOLUTION = 200.0
PAPER_RESOLUTIONS = {"amazon-beauty": 0.1308, "gowalla": 7.57}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Design:
    """What is trained.

    Attributes:
        users: Rows of users.
        items: Rows of items.
        warm_users: First values of each codebook, None where they are drawn.
        warm_items: As for users.
    """

    users: RowAssignment
    items: RowAssignment
    warm_users: list[Vectors] | None = None
    warm_items: list[Vectors] | None = None


@dataclass(slots=True, kw_only=True, eq=False)
class Context:
    """What a method may look at.

    Attributes:
        split: Interactions; a method sees train.
        dataset: Its name.
        n_rows: Budget of users and items together.
        width: D.
        seed: Of everything random.
        full_vectors: Returns the trained full tables, of users then of items.
        found: What methods of this suite, data set and seed share.
    """

    split: InteractionSplit
    dataset: str
    n_rows: int
    width: int
    seed: int
    full_vectors: Callable[[], tuple[Vectors, Vectors]]
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def sizes(self) -> tuple[int, int]:
        """U and V."""
        return self.split.n_users, self.split.n_items

    @property
    def shares(self) -> tuple[int, int]:
        """Rows of users and of items, in proportion to how many there are."""
        users = round(self.n_rows * self.sizes[0] / sum(self.sizes))
        return users, self.n_rows - users

    def once(self, name: str, make: Callable[[], Any]) -> Any:
        """Return what ``make`` made for this name the first time."""
        if name not in self.found:
            self.found[name] = make()
        return self.found[name]


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """A method.

    Attributes:
        title: What a page calls it.
        design: Makes its assignments.
        bits: Widths that its rows are rounded to after training, 32 for none.
        is_trained: Whether it is trained end to end; else its first values are judged.
        rate: Times the learning rate; below 1 where training starts from trained vectors.
    """

    title: str
    design: Callable[[Context], Design]
    bits: tuple[int, ...] = (32, 8, 4)
    is_trained: bool = True
    rate: float = 1.0


def _full(context: Context, *, width: int | None = None) -> Design:
    users, items = (RowAssignment.full(n, width or context.width) for n in context.sizes)
    return Design(users=users, items=items)


def _full_longer(context: Context) -> Design:
    users, items = context.full_vectors()
    full = _full(context)
    return Design(users=full.users, items=full.items, warm_users=[users], warm_items=[items])


def _hash(context: Context) -> Design:
    rng = np.random.default_rng(context.seed)
    users, items = (
        RowAssignment.shared(renumber(random_hash(n, k, rng))[0], width=context.width)
        for n, k in zip(context.sizes, context.shares, strict=True)
    )
    return Design(users=users, items=items)


def _frequency(context: Context) -> Design:
    rng = np.random.default_rng(context.seed)
    train = context.split.train
    degrees = [np.asarray(train.sum(axis), np.int64).ravel() for axis in (1, 0)]
    users, items = (
        RowAssignment.shared(renumber(frequency_hash(d, k, rng))[0], width=context.width)
        for d, k in zip(degrees, context.shares, strict=True)
    )
    return Design(users=users, items=items)


def _double(context: Context) -> Design:
    rng = np.random.default_rng(context.seed)
    users, items = (
        RowAssignment.shared(first, secondary=second, width=context.width)
        for first, second in (
            double_hashes(n, k, rng) for n, k in zip(context.sizes, context.shares, strict=True)
        )
    )
    return Design(users=users, items=items)


def _from_labels(
    context: Context,
    clusters: Clusters,
    seconds: tuple[Any, Any] = (None, None),
    mixing: Mixing = Mixing.FIXED,
) -> Design:
    assignments = []
    for labels, second in zip((clusters.users, clusters.items), seconds, strict=True):
        numbers = renumber(labels) if second is None else renumber(labels, second)
        assignments.append(
            RowAssignment.shared(
                numbers[0],
                secondary=None if second is None else numbers[1],
                width=context.width,
                mixing=Mixing.FIXED if second is None else mixing,
            )
        )
    return Design(users=assignments[0], items=assignments[1])


def _graphhash(context: Context, *, sides: str = "") -> Design:
    train, balance = context.split.train, GRAPHHASH_RESOLUTION / context.split.train.nnz
    found = context.once(
        "louvain", lambda: louvain(train, resolution=GRAPHHASH_RESOLUTION, seed=context.seed)
    )
    users = secondary_labels(train, found.users, found.items, balance=balance)
    items = secondary_labels(train.T.tocsr(), found.items, found.users, balance=balance)
    return _from_labels(
        context, found, (users if "u" in sides else None, items if "i" in sides else None)
    )


def _spectral(context: Context) -> Design:
    return _from_labels(
        context,
        spectral(context.split.train, n_clusters=context.n_rows // 2, seed=context.seed),
    )


def _paper(context: Context, *, sides: str = "") -> Design:
    from pocketrec_quantization.coclustering import CoClustering

    solver = CoClustering.paper(
        resolution=PAPER_RESOLUTIONS.get(context.dataset, 1.0),
        stop_rows=context.n_rows,
        seed=context.seed,
    )
    found = context.once("paper", lambda: solver.fit(context.split.train))
    return _from_solver(context, found, sides)


def _from_solver(
    context: Context, solver: Any, sides: str, mixing: Mixing = Mixing.FIXED
) -> Design:
    # Rows of users and of items are numbered apart: both are complete already.
    clusters = Clusters(
        users=solver.user_labels_.astype(np.int64), items=solver.item_labels_.astype(np.int64)
    )
    seconds = (
        solver.secondary_user_labels_.astype(np.int64) if "u" in sides else None,
        solver.secondary_item_labels_.astype(np.int64) if "i" in sides else None,
    )
    return _from_labels(context, clusters, seconds, mixing)


def _ours(
    context: Context, *, sides: str = "", mixing: Mixing = Mixing.FIXED, is_warm: bool = False
) -> Design:
    from pocketrec_quantization.coclustering import CoClustering

    solver = context.once(
        "ours",
        lambda: CoClustering(n_rows=context.n_rows, secondary="both", seed=context.seed).fit(
            context.split.train
        ),
    )
    design = _from_solver(context, solver, sides, mixing)
    if not is_warm:
        return design
    vectors = context.full_vectors()
    first = [
        cluster_means(table, assignment.rows[:, 0], assignment.n_rows)
        for table, assignment in zip(vectors, (design.users, design.items), strict=True)
    ]
    return Design(
        users=design.users, items=design.items, warm_users=[first[0]], warm_items=[first[1]]
    )


def _k_means(context: Context, *, share: float = 1.0, is_warm: bool = True) -> Design:
    sizes = [max(1, round(share * k)) for k in context.shares]
    found = context.once(
        f"k-means {sizes}",
        lambda: [
            k_means(table, k, seed=context.seed)
            for table, k in zip(context.full_vectors(), sizes, strict=True)
        ],
    )
    users, items = (RowAssignment.shared(labels, width=context.width) for labels, _ in found)
    if not is_warm:
        return Design(users=users, items=items)
    return Design(users=users, items=items, warm_users=[found[0][1]], warm_items=[found[1][1]])


def _residual(context: Context, *, n_steps: int = 2) -> Design:
    (users, first), (items, second) = context.once(
        f"residual {n_steps}",
        lambda: [
            residual_k_means(table, (k // n_steps,) * n_steps, seed=context.seed)
            for table, k in zip(context.full_vectors(), context.shares, strict=True)
        ],
    )
    return Design(users=users, items=items, warm_users=first, warm_items=second)


def _product(context: Context, *, n_parts: int) -> Design:
    (users, first), (items, second) = context.once(
        f"product {n_parts}",
        lambda: [
            product_quantize(table, n_parts, seed=context.seed) for table in context.full_vectors()
        ],
    )
    return Design(users=users, items=items, warm_users=first, warm_items=second)


_WARM_RATE = 0.4

METHODS: Mapping[str, Method] = {
    "full": Method(title="full table", design=_full, bits=(32, 8, 4, 3, 2)),
    "k-means-trained": Method(
        title="k-means of the full table, trained on", design=_k_means, rate=_WARM_RATE
    ),
    "graphhash": Method(title="GraphHash (Louvain)", design=_graphhash),
    "ours-ui": Method(title="co-clusters, second rows for both", design=partial(_ours, sides="ui")),
    "hash": Method(title="random hash", design=_hash),
    "ours-u-warm": Method(
        title="co-clusters, second rows for users, from the full table",
        design=partial(_ours, sides="u", is_warm=True),
        rate=_WARM_RATE,
    ),
    "full-longer": Method(
        title="full table, trained on", design=_full_longer, bits=(32,), rate=_WARM_RATE
    ),
    "ours": Method(title="co-clusters", design=_ours),
    "ours-u": Method(title="co-clusters, second rows for users", design=partial(_ours, sides="u")),
    "pq4": Method(
        title="PQ of the full table, 4 parts", design=partial(_product, n_parts=4), is_trained=False
    ),
    "pq8": Method(
        title="PQ of the full table, 8 parts", design=partial(_product, n_parts=8), is_trained=False
    ),
    "pq16": Method(
        title="PQ of the full table, 16 parts",
        design=partial(_product, n_parts=16),
        is_trained=False,
    ),
    "k-means": Method(title="k-means of the full table", design=_k_means, is_trained=False),
    "k-means-quarter-trained": Method(
        title="k-means of the full table, a quarter of the rows, trained on",
        design=partial(_k_means, share=0.25),
        rate=_WARM_RATE,
    ),
    "pq8-trained": Method(
        title="PQ of the full table, 8 parts, trained on",
        design=partial(_product, n_parts=8),
        rate=_WARM_RATE,
    ),
    "graphhash-u": Method(
        title="GraphHash, second rows for users", design=partial(_graphhash, sides="u")
    ),
    "paper-u": Method(
        title="paper preset, second rows for users", design=partial(_paper, sides="u")
    ),
    "graphhash-ui": Method(
        title="GraphHash, second rows for both", design=partial(_graphhash, sides="ui")
    ),
    "k-means-sixteenth-trained": Method(
        title="k-means of the full table, a sixteenth of the rows, trained on",
        design=partial(_k_means, share=1 / 16),
        rate=_WARM_RATE,
    ),
    "k-means-scratch": Method(
        title="k-means of the full table, trained from drawn rows",
        design=partial(_k_means, is_warm=False),
    ),
    "residual": Method(
        title="two-step k-means of the full table", design=_residual, is_trained=False
    ),
    "residual-trained": Method(
        title="two-step k-means of the full table, trained on", design=_residual, rate=_WARM_RATE
    ),
    "residual4": Method(
        title="four-step k-means of the full table",
        design=partial(_residual, n_steps=4),
        is_trained=False,
    ),
    "ours-ui-mixed": Method(
        title="co-clusters, second rows for both, learned mixing",
        design=partial(_ours, sides="ui", mixing=Mixing.ENTITY),
    ),
    "ours-ui-warm": Method(
        title="co-clusters, second rows for both, from the full table",
        design=partial(_ours, sides="ui", is_warm=True),
        rate=_WARM_RATE,
    ),
    "narrow": Method(title="full table of 16 columns", design=partial(_full, width=16)),
    "frequency": Method(title="frequency hash", design=_frequency),
    "double": Method(title="double hash", design=_double),
    "paper": Method(title="paper preset", design=_paper),
    "spectral": Method(title="SpectralCoclustering", design=_spectral),
}
"""By name, in the order in which they are measured: what matters most comes first."""
