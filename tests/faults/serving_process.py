# SPDX-License-Identifier: Apache-2.0
"""A whole delivery server with its JSON log on stderr, whose clock may be wrong, and who may die.

usage: python -m tests.faults.serving_process JOB
"""

from __future__ import annotations

import asyncio
import json
import signal
import sys
import time
from pathlib import Path
from typing import Any

from tests.faults.deaths import plant

from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.logs import LogFormat, configure_logging
from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_cloud.delivery.serving.config import AdminListener, ServerConfig
from pocketrec_cloud.delivery.serving.server import DeliveryServer

__all__ = ["main"]

_UNLIMITED = 10**9  # all devices of a test share one address


def main(words: list[str]) -> None:
    """Serve until SIGTERM; prints the addresses as JSON when ready.

    Args:
        words: How to serve, as JSON.
    """
    job: dict[str, Any] = json.loads(words[0])
    configure_logging(LogFormat.JSON, "info")
    plant(job["death"])
    asyncio.run(_serve(job))


async def _serve(job: dict[str, Any]) -> None:
    unlimited = dict.fromkeys(
        ("challenges", "registrations", "calls", "plans"),
        _UNLIMITED,
    )
    limits = {f"{name}_per_minute": number for name, number in unlimited.items()}
    config = ServerConfig(
        store=Path(job["store"]),
        keys=Path(job["keys"]),
        database=job["database"],
        port=job["port"],
        admin=AdminListener(port=job["admin_port"]),
        limits=Limits(**limits, **job["limits"]),
        watch=WatchSettings(**job["watch"]),
        operations=OperationsConfig(logs_calls=True),
        grace_s=5.0,
    )
    server = DeliveryServer(config, clock=lambda: time.time() + job["skew_s"])
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    listening = await server.start()
    addresses = {"address": listening.address, "admin_address": listening.admin_address}
    sys.stdout.write(json.dumps(addresses) + "\n")
    sys.stdout.flush()
    await stopping.wait()
    await server.stop()


if __name__ == "__main__":
    main(sys.argv[1:])
