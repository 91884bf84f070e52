# SPDX-License-Identifier: Apache-2.0
"""The device runtime: re-ranks candidates offline, and keeps itself up to date safely."""

from __future__ import annotations

from pocketrec_device.ranking import Ranking
from pocketrec_device.runtime import Runtime
from pocketrec_device.status import PairStatus, Status
from pocketrec_device.tls import Tls

__all__ = ["PairStatus", "Ranking", "Runtime", "Status", "Tls"]
