# SPDX-License-Identifier: Apache-2.0
"""Makes the test vectors of a bundle's extractor, and measures what int8 rows change.

The graph is run in ONNX Runtime and compared before anything is written, as a device will
do before it switches.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pocketrec.errors import QuantizationError
from pocketrec_cloud.graph_runners import open_session
from pocketrec_quantization.extract_vectors import ExtractCase, ExtractVectors

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.extractor import Extractor
    from pocketrec_quantization.item_table import ItemTable

__all__ = ["RowEffect", "extract_tolerance", "make_extract_vectors", "measure_rows"]

N_CASES = 6


@dataclass(frozen=True, slots=True, kw_only=True)
class RowEffect:
    """How far user embeddings from int8 item rows are from those of float embeddings.

    Attributes:
        largest: Largest absolute difference of an entry.
        relative: Length of the difference over the length of the embedding, mean.
    """

    largest: float
    relative: float


def make_extract_vectors(
    extractor: Extractor, graph: bytes, items: ItemTable, *, window: int, seed: int
) -> ExtractVectors:
    """Extract from generated histories: a bundle holds nobody's real events.

    Args:
        extractor: The reference, for the bundle's item rows.
        graph: The same as an ONNX graph.
        items: The bundle's item table.
        window: How many events an extractor looks back at most.
        seed: Seed of the histories.

    Returns:
        Cases with histories of 1 to ``window`` events, the shortest and the longest among
        them.

    Raises:
        QuantizationError: The graph disagrees with the reference.
    """
    session = open_session(graph)
    cases = []
    tolerance = extract_tolerance(extractor.embedding_dim)
    for history in _histories(items, window, seed):
        x = items.embed(history)
        z = extractor.embed(x)
        worst = float(np.abs(session.run(["z"], {"x": x})[0][0] - z).max())
        if not worst <= tolerance:  # NaN must fail too
            raise QuantizationError(
                f"extract: expected z within {tolerance:.2g} of the reference, found an entry "
                f"{worst:.2g} off after {len(history)} events; do not publish this bundle"
            )
        cases.append(ExtractCase(history=history, z=z))
    return ExtractVectors(cases=tuple(cases), tolerance=tolerance)


def measure_rows(
    extractor: Extractor,
    embeddings: NDArray[np.float32],
    items: ItemTable,
    *,
    window: int,
    seed: int,
) -> RowEffect:
    """Compare what devices extract from int8 rows with what was seen in training.

    Args:
        extractor: For the bundle's item rows.
        embeddings: (V + 1, D) float32, what those rows were quantized from.
        items: The bundle's item table.
        window: How many events an extractor looks back at most.
        seed: Seed of generated histories.
    """
    largest, relative = [], []
    for history in _histories(items, window, seed):
        exact = extractor.embed(embeddings[history])
        difference = extractor.embed(items.embed(history)) - exact
        largest.append(float(np.abs(difference).max()))
        length = float(np.linalg.norm(exact)) or 1.0
        relative.append(float(np.linalg.norm(difference)) / length)
    return RowEffect(largest=max(largest), relative=float(np.mean(relative)))


def extract_tolerance(embedding_dim: int) -> float:
    """Return how far float32 arithmetic may move an entry of z, which lies within -1..1.

    A gate sums 2 D products. Its state then fades, so that errors of former events do not
    add up without end: eight events' worth are allowed for.

    Args:
        embedding_dim: D.

    Source:
        The usual bound n u on sums of n terms (Higham 2002, chapter 3); the factor is
        our choice.
    """
    unit_roundoff = 2.0**-24
    return 8 * 2 * max(embedding_dim, 16) * unit_roundoff


def _histories(items: ItemTable, window: int, seed: int) -> list[NDArray[np.int32]]:
    rng = np.random.default_rng(seed)
    lengths = [1, window, *rng.integers(1, window + 1, N_CASES - 2)]
    return [rng.integers(1, items.n_items + 1, n).astype(np.int32) for n in lengths]
