# SPDX-License-Identifier: Apache-2.0
"""The ways to compress an item table that ``codebook_sequence`` compares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pocketrec.errors import InfeasibleBudgetError, MissingExtraError
from pocketrec_cloud.compression.labels import (
    CoClusterLabels,
    HashLabels,
    KMeansLabels,
    LabelSource,
)
from pocketrec_cloud.compression.layout import number_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_cloud.compression.allocation import Budget

__all__ = ["METHODS", "Method", "product_by_faiss"]

_FAISS_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class Method:
    """One way.

    Attributes:
        name: In records.
        title: On the page.
        layout: Of ``LAYOUTS``; or ``float``, nothing compressed, or ``faiss``.
        bits: Of codes; 0 where there are none.
        source: Where groups of items come from.
        is_tuned: Whether the table is trained after the fit.
    """

    name: str
    title: str
    layout: str
    bits: int = 8
    source: LabelSource | None = None
    is_tuned: bool = False

    @property
    def has_budget(self) -> bool:
        """Whether its bytes can be chosen."""
        return self.layout not in {"float", "plain"}

    @property
    def labels(self) -> str:
        """Name of the source, or empty."""
        return "" if self.source is None else self.source.name


_SHARED = "shared"
METHODS: tuple[Method, ...] = (
    Method(name="float", title="float32", layout="float", bits=0),
    Method(name="plain-int8", title="int8, a row each", layout="plain"),
    Method(name="plain-int4", title="int4, a row each", layout="plain", bits=4),
    Method(name="product", title="product", layout="product"),
    Method(name="product-tuned", title="product, trained", layout="product", is_tuned=True),
    Method(name="faiss-pq", title="product by faiss, float32 rows", layout="faiss", bits=0),
    Method(name="residual", title="shared rows + product", layout="residual"),
    Method(
        name="residual-int4",
        title="shared rows + product, int4 rows",
        layout="residual",
        bits=4,
    ),
    Method(name="hash-int8", title="shared int8, hash", layout=_SHARED, source=HashLabels()),
    Method(
        name="k-means-int8", title="shared int8, k-means", layout=_SHARED, source=KMeansLabels()
    ),
    Method(
        name="k-means-int4",
        title="shared int4, k-means",
        layout=_SHARED,
        bits=4,
        source=KMeansLabels(),
    ),
    Method(
        name="co-clusters-int8",
        title="shared int8, co-clusters",
        layout=_SHARED,
        source=CoClusterLabels(),
    ),
    Method(
        name="co-clusters-int4",
        title="shared int4, co-clusters",
        layout=_SHARED,
        bits=4,
        source=CoClusterLabels(),
    ),
    Method(name="product-int4", title="product, int4 rows", layout="product", bits=4),
    Method(name="float-tuned", title="float32, trained on", layout="float", bits=0, is_tuned=True),
    Method(
        name="co-clusters-int4-tuned",
        title="shared int4, co-clusters, trained",
        layout=_SHARED,
        bits=4,
        source=CoClusterLabels(),
        is_tuned=True,
    ),
    Method(
        name="k-means-int4-tuned",
        title="shared int4, k-means, trained",
        layout=_SHARED,
        bits=4,
        source=KMeansLabels(),
        is_tuned=True,
    ),
    Method(
        name="residual-tuned",
        title="shared rows + product, trained",
        layout="residual",
        is_tuned=True,
    ),
    Method(
        name="residual-int4-tuned",
        title="shared rows + product, int4 rows, trained",
        layout="residual",
        bits=4,
        is_tuned=True,
    ),
    Method(
        name="product-int4-tuned",
        title="product, int4 rows, trained",
        layout="product",
        bits=4,
        is_tuned=True,
    ),
)
"""In the order in which they are measured: what is cheap and what matters first."""


def product_by_faiss(
    embeddings: NDArray[np.float32], budget: Budget, seed: int
) -> tuple[NDArray[np.float32], int, int]:
    """Return a table as faiss compresses it, its bytes, and rows.

    Its rows are float32, and its codebooks are equally wide: D / M columns.

    Args:
        embeddings: (V + 1, D) float32.
        budget: What it may weigh.
        seed: Of its k-means.

    Raises:
        InfeasibleBudgetError: Its float32 rows alone are above the budget.
        MissingExtraError: faiss is not installed.
    """
    try:
        import faiss
    except ModuleNotFoundError as error:
        raise MissingExtraError(
            "the comparison with faiss needs it: run `pip install 'pocketrec[baselines]'`, or "
            "name other methods"
        ) from error
    dim, n_items = budget.embedding_dim, budget.n_items
    rows_bytes = 4 * _FAISS_ROWS * dim
    one = number_bytes(_FAISS_ROWS, n_items)
    n_books = max(
        (m for m in range(1, dim + 1) if dim % m == 0 and m * one + rows_bytes <= budget.max_bytes),
        default=0,
    )
    if n_books == 0:
        raise InfeasibleBudgetError(
            f"expected at least {one + rows_bytes} bytes, found {budget.max_bytes}",
            requested_bytes=budget.max_bytes,
            minimum_bytes=one + rows_bytes,
        )
    quantizer: Any = faiss.ProductQuantizer(dim, n_books, 8)
    quantizer.cp.seed = seed + 1
    items = np.ascontiguousarray(embeddings[1:], np.float32)
    quantizer.train(items)
    decoded = np.zeros_like(embeddings)
    decoded[1:] = quantizer.decode(quantizer.compute_codes(items))
    return decoded, n_books * one + rows_bytes, n_books * _FAISS_ROWS
