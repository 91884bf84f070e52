# SPDX-License-Identifier: Apache-2.0
"""The device runtime: re-ranks candidates offline, and keeps itself up to date safely.

What an app does at its start, at every event, and when it shows a list::

    runtime = Runtime.create("store", model="demo", root=ROOT_JSON)
    runtime.bootstrap("bundle")              # came with the app; older ones are left alone
    runtime.observe_many(history)            # item ids, oldest first
    runtime.observe("a new event")
    runtime.rerank(candidates, k=10).items   # the best ten, best first

and now and then, where there is a network::

    runtime.sync("recs.example.org:443", subject="a-pseudonym")

``docs/device.md`` has the rules. Every module is one concept: ``live``, ``session`` and
``ranking`` rank; ``engine``, ``backends`` and ``lowering`` compute; ``store``, ``state``,
``retention``, ``downloads`` and ``lock`` keep; ``refresh`` says when, ``updater`` decides,
and ``sync``, ``transport`` and ``tuf_client`` fetch what it decides on, from servers to which
``registration``, ``device_key`` and ``facts`` make the device known; ``install``,
``health`` and ``latency_guard`` switch from one pair to the next.
"""

from __future__ import annotations

from pocketrec_device.backends import LayerReport
from pocketrec_device.facts import DeviceFacts
from pocketrec_device.latency_guard import LatencyLimits
from pocketrec_device.options import RuntimeOptions
from pocketrec_device.ranking import Ranking
from pocketrec_device.refresh import RefreshPolicy, Verdict
from pocketrec_device.runtime import Runtime
from pocketrec_device.status import PairStatus, Status, SyncReport
from pocketrec_device.tls import Tls

__all__ = [
    "DeviceFacts",
    "LatencyLimits",
    "LayerReport",
    "PairStatus",
    "Ranking",
    "RefreshPolicy",
    "Runtime",
    "RuntimeOptions",
    "Status",
    "SyncReport",
    "Tls",
    "Verdict",
]
