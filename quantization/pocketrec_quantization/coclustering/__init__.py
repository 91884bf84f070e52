# SPDX-License-Identifier: Apache-2.0
"""Balanced co-clusters of users and items, so that similar ones share an embedding row.

Works on any scipy sparse matrix of interactions:

    >>> import numpy as np
    >>> from scipy import sparse
    >>> users, items = np.repeat(np.arange(6), 2), np.array([0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3])
    >>> interactions = sparse.coo_array((np.ones(12), (users, items)))
    >>> clustering = CoClustering(n_rows=4).fit(interactions)
    >>> clustering.user_labels_.tolist(), clustering.item_labels_.tolist()
    ([0, 0, 0, 1, 1, 1], [0, 0, 1, 1])
    >>> clustering.assign_users(sparse.coo_array(([1.0], ([0], [3])), shape=(1, 4))).tolist()
    [1]

Needs numba and scipy (extra ``cloud``), which are imported when they are first needed.
Devices never import this package: they look rows up.
"""

from __future__ import annotations

from pocketrec_quantization.coclustering.estimator import CoClustering
from pocketrec_quantization.coclustering.partition import objective_of
from pocketrec_quantization.coclustering.propagation import SweepReport
from pocketrec_quantization.coclustering.weighting import WeightScheme

__all__ = ["CoClustering", "SweepReport", "WeightScheme", "objective_of"]
