# SPDX-License-Identifier: Apache-2.0
"""Nested quantization, plans of 2 bits per channel, and the artifacts that carry them.

The cloud freezes the weights once, decides a width for every channel and packs the
decision into a plan; the device reads the same frozen weights at those widths:

    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> weights = rng.uniform(-0.2, 0.2, (96, 64)).astype(np.float32)
    >>> model = FrozenModel(matrices={"q": freeze_matrix(weights)}, dense={})
    >>> budget = budget_bytes(model.layers, 3.0)
    >>> codes = allocate(rng.random((96, 2)), model.layers, budget)
    >>> from pocketrec_quantization.plan import model_id
    >>> plan = Plan(model_id=model_id(model.digest), levels=DEFAULT_LEVELS, layers=model.layers,
    ...     codes=codes, budget_bytes=budget, subject="", planner="example", version=1,
    ...     issued_at_s=0, expires_at_s=0, key_id=b"")
    >>> plan_sizes(encode_plan(plan, None)).payload_bytes, coded_bytes(model.layers, plan.widths)
    (24, 2688)
    >>> adapted = model.adapt(plan.widths)["q.weight"]
    >>> f"{np.linalg.norm(adapted - weights) / np.linalg.norm(weights):.2f}"
    '0.24'

NumPy and protobuf only: devices import this package. Every module is one concept:
``quantizer`` and ``frozen`` hold weights, ``plan`` and ``plan_json`` decisions,
``budget`` and ``planners`` make them, ``item_table``, ``vectors``, ``manifest`` and
``bundle`` complete what is published, and ``reference`` computes what it must give.
"""

from __future__ import annotations

from pocketrec_quantization.budget import allocate, budget_bytes, coded_bytes
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.levels import DEFAULT_LEVELS
from pocketrec_quantization.plan import Plan, decode_plan, encode_plan, plan_sizes
from pocketrec_quantization.quantizer import freeze_matrix

__all__ = [
    "DEFAULT_LEVELS",
    "BundleFolder",
    "FrozenModel",
    "ItemTable",
    "Plan",
    "allocate",
    "budget_bytes",
    "coded_bytes",
    "decode_plan",
    "encode_plan",
    "freeze_matrix",
    "plan_sizes",
]
