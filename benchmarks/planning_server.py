# SPDX-License-Identifier: Apache-2.0
"""The delivery server of ``benchmarks.planning``, in a process of its own, without rate limits.

usage: python -m benchmarks.planning_server STORE KEYS PLANNER
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pocketrec_cloud.delivery import models
from pocketrec_cloud.delivery.handlers import Limits
from pocketrec_cloud.delivery.server import ServerConfig, serve
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.planners import Planner

__all__ = ["main"]

_UNLIMITED = 10**9


def main(words: list[str]) -> None:
    """Serve until SIGTERM; prints the address when ready.

    Args:
        words: The folders of store and keys, and the planner file.
    """
    store, keys, planner = (Path(word) for word in words)
    _offer(PersonalPlanner.from_bytes(planner.read_bytes()))
    limits = Limits(plans_per_minute=_UNLIMITED, registrations_per_minute=_UNLIMITED)
    config = ServerConfig(store=store, keys=keys, limits=limits)
    asyncio.run(serve(config, announce=lambda address: print(address, flush=True)))


def _offer(planner: Planner) -> None:
    """Add a planner to every model's: for stores whose publications cannot bring one."""
    names = vars(models)
    named_planners = names["named_planners"]

    def with_personal(*args: Any, **options: Any) -> Mapping[str, Planner]:
        return {**named_planners(*args, **options), "personal": planner}

    names["named_planners"] = with_personal


if __name__ == "__main__":
    main(sys.argv[1:])
