# SPDX-License-Identifier: Apache-2.0
"""The delivery server as a process that can be killed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.device.conftest import Deployment

__all__ = ["ServerProcess", "server_process"]


@dataclass(frozen=True)
class ServerProcess:
    """A server in a process of its own."""

    process: subprocess.Popen[str]
    target: str

    def kill(self) -> None:
        """End it at once, in the middle of whatever it does."""
        self.process.kill()
        self.process.wait()


@contextmanager
def server_process(deployment: Deployment) -> Iterator[ServerProcess]:
    """Run ``pocketrec serve`` while the block runs."""
    folders = ["--store", str(deployment.config.store), "--keys", str(deployment.config.keys)]
    with subprocess.Popen(
        [
            sys.executable,
            "-c",
            "from pocketrec_cloud.delivery.serving.cli import serve; serve()",
            *folders,
            "--port",
            "0",
        ],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        try:
            yield ServerProcess(process, line.split()[-1])
        finally:
            process.kill()
