# SPDX-License-Identifier: Apache-2.0
"""The operator's guide, done: every command of it, in order, in an empty folder."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from tests.integration.builds import write_build
from tests.postgres import PostgresServer

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "operations.md"
TIMEOUT_S = 300
DATABASE = "postgresql://pocketrec:choose-one@127.0.0.1:5432/pocketrec"
PORTS = ("50051", "50052", "9464")

pytestmark = pytest.mark.slow


def commands() -> str:
    """Return all blocks of the guide that say they are for a shell."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    return "\n".join(blocks)


def free_port(number: int = 0) -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", number))
        port: int = listener.getsockname()[1]
        return port


def free_pair() -> int:
    """Return the first of two free ports in a row, one per server process."""
    while True:
        first = free_port()
        with suppress(OSError):
            free_port(first + 1)
            return first


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """An empty folder with two builds, as step 7 leaves them; ends what still runs there."""
    for version in (1, 2):
        write_build(tmp_path / f"build-{version}", version=version)
    yield tmp_path
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        os.kill(int((tmp_path / "server.pid").read_text()), signal.SIGKILL)


@pytest.fixture
def pocketrec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for the PATH with the command, which finds the sources under test."""
    path = tmp_path_factory.mktemp("bin")
    script = path / "pocketrec"
    script.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pocketrec "$@"\n')
    script.chmod(0o755)
    (path / "python3").symlink_to(sys.executable)
    return path


def test_guide(folder: Path, pocketrec: Path, postgres: PostgresServer) -> None:
    """All commands succeed one after the other, and every device ends on version 2."""
    replaced = {"50051": free_port(), "50052": free_port(), "9464": free_pair()}
    script = commands().replace(DATABASE, postgres.create_database())
    for number, port in replaced.items():
        assert number in script
        script = script.replace(number, str(port))
    environment = os.environ | {
        "PATH": os.pathsep.join([str(pocketrec), os.environ["PATH"]]),
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }

    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_S,
    )

    log = folder / "server.log"
    assert done.returncode == 0, done.stderr + (log.read_text() if log.exists() else "")
    assert '"level": "error"' not in log.read_text()
    shown = subprocess.run(
        [str(pocketrec / "pocketrec"), "device", "status", "--store", "device-one", "--json", "-"],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert '"bundle_version": 2' in shown.stdout
