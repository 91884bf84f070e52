# SPDX-License-Identifier: Apache-2.0
"""Several server processes on one port, as ``pocketrec serve --workers`` runs them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.devices import register_device

from pocketrec_cloud.delivery.publishing.layout import DATABASE_FILE
from pocketrec_cloud.delivery.stores.opening import open_store

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

PATIENCE_S = 60.0


@pytest.fixture
def served(deployment: Deployment) -> Iterator[subprocess.Popen[str]]:
    """``pocketrec serve`` with two workers."""
    store = open_store(deployment.store / DATABASE_FILE)
    for record in deployment.published:
        store.record_model(record)
    store.close()
    folders = ["--store", str(deployment.store), "--keys", str(deployment.keys)]
    command = "from pocketrec_cloud.delivery.serving.cli import serve; serve()"
    words = [*folders, "--port", "0", "--admin-port", "0", "--workers", "2", "--json", "-"]
    with subprocess.Popen(
        [sys.executable, "-c", command, *words],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def addresses_of(process: subprocess.Popen[str]) -> dict[str, str]:
    """Return what a server announced."""
    assert process.stdout is not None
    text = ""
    while not text.rstrip().endswith("}"):
        line = process.stdout.readline()
        assert line, f"the server said only {text!r}"
        text += line
    found: dict[str, str] = json.loads(text)
    return found


def workers_of(process: subprocess.Popen[str]) -> set[int]:
    """Return the server processes below a parent, without helpers of multiprocessing."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    lines = {int(pid): Path(f"/proc/{pid}/cmdline").read_bytes() for pid in children}
    return {pid for pid, line in lines.items() if b"spawn_main" in line}


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
class TestWorkers:
    @pytest.mark.slow
    def test_workers_share_a_port_and_are_replaced(self, served: subprocess.Popen[str]) -> None:
        """Calls are answered, a worker that dies is started again, and SIGTERM ends all well."""
        addresses = addresses_of(served)
        before = workers_of(served)
        os.kill(min(before), signal.SIGKILL)
        deadline_s = time.monotonic() + PATIENCE_S
        while len(workers_of(served) - {min(before)}) < 2:
            assert time.monotonic() < deadline_s, "nobody took the place of a dead worker"
            time.sleep(0.05)
        with grpc.insecure_channel(addresses["address"]) as channel:
            token = register_device(channel).token
        served.send_signal(signal.SIGTERM)

        assert len(before) == 2
        assert addresses["admin_address"] != addresses["address"]
        assert token
        assert served.wait(PATIENCE_S) == 0
