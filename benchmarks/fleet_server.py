# SPDX-License-Identifier: Apache-2.0
"""The delivery server of ``benchmarks.fleet``, in processes of its own, for one address's devices.

usage: python -m benchmarks.fleet_server CONFIG
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path

from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_cloud.delivery.serving.config import AdminListener, Listening, ServerConfig
from pocketrec_cloud.delivery.serving.server import serve
from pocketrec_cloud.delivery.serving.workers import serve_with_workers

__all__ = ["main"]

_UNLIMITED = 10**9  # all devices share one address here


def main(words: list[str]) -> None:
    """Serve until SIGTERM; prints the addresses as JSON when ready.

    Args:
        words: Folders, ports, database, number of processes and heartbeat, as JSON.
    """
    job = json.loads(words[0])
    config = ServerConfig(
        store=Path(job["store"]),
        keys=Path(job["keys"]),
        database=job["database"],
        port=job["port"],
        admin=AdminListener(port=job["admin_port"]),
        workers=job["workers"],
        limits=Limits(
            plans_per_minute=_UNLIMITED,
            challenges_per_minute=_UNLIMITED,
            registrations_per_minute=_UNLIMITED,
        ),
        watch=WatchSettings(heartbeat_s=job["heartbeat_s"]),
    )
    if config.workers == 1:
        asyncio.run(serve(config, announce=_announce))
    else:
        serve_with_workers(config, announce=_announce)


def _announce(listening: Listening) -> None:
    addresses = {"address": listening.address, "admin_address": listening.admin_address}
    print(json.dumps(addresses), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
