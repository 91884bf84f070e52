# SPDX-License-Identifier: Apache-2.0
"""A plan's weights without those that would only compute constants; see ``folding``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from pocketrec_device.lowering.channels import Channels, ChannelSource
from pocketrec_quantization.folding import Folding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from pocketrec_device.lowering.kernels import Product
    from pocketrec_quantization.backbone import Feed

__all__ = ["FoldedSource"]

_Scalar = TypeVar("_Scalar", bound=np.generic)


class FoldedSource(ChannelSource):
    """What is left of the products of a graph under a plan.

    Args:
        source: The plan's weights, whole.
        products: Of the graph, whole.
        feeds: Which of them only feed another one, under the products' names.
    """

    def __init__(
        self, source: ChannelSource, products: Sequence[Product], feeds: Sequence[Feed]
    ) -> None:
        self._source = source
        self._folding = Folding(
            feeds,
            {feed.layer: source.off(feed.layer) for feed in feeds},
            {product.name: product.n_inputs for product in products},
        )
        self._biases = {product.name: product.bias_values for product in products}
        self._readers: dict[str, NDArray[np.float32]] = {}
        rows, columns = self._folding.rows, self._folding.columns
        self._fitted = {
            product.name: replace(
                product,
                n_inputs=len(columns.get(product.name, range(product.n_inputs))),
                n_outputs=len(rows.get(product.name, range(product.n_outputs))),
            )
            for product in products
            if product.name in rows or product.name in columns
        }

    def fitted(self, product: Product) -> Product:
        """Return a product with the sides that are left of it."""
        return self._fitted.get(product.name, product)

    def kept(self, product: Product) -> NDArray[np.intp]:
        """Return the channels of a whole product that are left, ascending."""
        return self._folding.cut_channels(product.name, np.arange(product.n_outputs))

    def transposed(self, name: str) -> NDArray[np.float32]:
        """See ``ChannelSource.transposed``."""
        return self._cut(name, self._whole(name))

    def channels(self, name: str) -> Channels:
        """See ``ChannelSource.channels``."""
        whole = self._source.channels(name)
        return Channels(
            codes=self._cut(name, whole.codes),
            scales=self._folding.cut_channels(name, whole.scales),
            widths=self._folding.cut_channels(name, whole.widths),
        )

    def widths(self, name: str) -> NDArray[np.uint8]:
        """See ``ChannelSource.widths``."""
        return self._folding.cut_channels(name, self._source.widths(name))

    def bias(self, product: Product) -> NDArray[np.float32]:
        """See ``ChannelSource.bias``."""
        name = product.name
        if name not in self._folding.columns:
            return self._folding.cut_channels(name, self._biases[name])
        weights = self._whole(name).T
        return self._folding.bias(name, weights, self._biases).astype(np.float32)

    def _whole(self, name: str) -> NDArray[np.float32]:
        """Return all weights of a product, (N, C); of a reader they are asked for twice."""
        if name not in self._folding.columns:
            return self._source.transposed(name)
        if name not in self._readers:
            self._readers[name] = self._source.transposed(name)
        return self._readers[name]

    def _cut(self, name: str, transposed: NDArray[_Scalar]) -> NDArray[_Scalar]:
        """Return what is left of (N, C)."""
        return np.ascontiguousarray(self._folding.cut(name, transposed.T).T)
