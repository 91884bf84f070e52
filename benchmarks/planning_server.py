# SPDX-License-Identifier: Apache-2.0
"""The delivery server of ``benchmarks.planning``, in a process of its own, without rate limits.

usage: python -m benchmarks.planning_server STORE KEYS
"""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.serving.server import ServerConfig, serve

__all__ = ["main"]

_UNLIMITED = 10**9


def main(words: list[str]) -> None:
    """Serve until SIGTERM; prints the address when ready.

    Args:
        words: The folders of store and keys.
    """
    store, keys = (Path(word) for word in words)
    limits = Limits(
        calls_per_minute=_UNLIMITED,
        plans_per_minute=_UNLIMITED,
        registrations_per_minute=_UNLIMITED,
    )
    config = ServerConfig(store=store, keys=keys, limits=limits)
    asyncio.run(serve(config, announce=lambda at: print(at.address, flush=True)))


if __name__ == "__main__":
    main(sys.argv[1:])
