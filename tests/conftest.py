# SPDX-License-Identifier: Apache-2.0
"""What holds for every test: no network but this machine, no deadlines, no surprises."""

from __future__ import annotations

import os
import socket
import sys
import venv
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import hypothesis
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tests.postgres import PostgresServer, serve_postgres

hypothesis.settings.register_profile("local", deadline=None, max_examples=50)
hypothesis.settings.register_profile(
    "ci", deadline=None, max_examples=50, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") else "local")

ROOT = Path(__file__).resolve().parents[1]
LOOPBACK = {"127.0.0.1", "::1", "localhost"}


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Spread the fast tests over all processors; others measure, and have the machine alone."""
    if config.option.markexpr != "not slow":
        return 0
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def pytest_configure(config: pytest.Config) -> None:
    """Give each of several processes, which start after this, one thread for arithmetic."""
    if getattr(config.option, "dist", "no") != "no":
        for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
            os.environ.setdefault(name, "1")


@pytest.fixture(autouse=True, scope="session")
def _only_this_machine() -> Iterator[None]:
    connect = socket.socket.connect

    def guarded(self: socket.socket, address: object) -> None:
        is_inet = self.family in (socket.AF_INET, socket.AF_INET6)
        if is_inet and isinstance(address, tuple) and address[0] not in LOOPBACK:
            pytest.fail(f"a test tried to reach {address!r}; tests stay on this machine")
        connect(self, address)  # type: ignore[arg-type]  # passed on as it came

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guarded)
        yield


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL server; a test that breaks it leaves it running."""
    with serve_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def make_installation(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Make an environment as ``pip install 'pocketrec[EXTRA]'`` would, without a network.

    The function takes an extra, or "" for none, and returns the environment's Python. The
    environment holds links to exactly the distributions that our requirements lead to.
    """
    made: dict[str, Path] = {}

    def make(extra: str) -> Path:
        if extra not in made:
            folder = tmp_path_factory.mktemp(f"installation-{extra or 'base'}")
            venv.create(folder, symlinks=True)
            (site,) = folder.glob("lib/python*/site-packages")
            for name in required_distributions("pocketrec", extra):
                link_distribution(name, site)
            made[extra] = folder / "bin" / "python"
        return made[extra]

    return make


def required_distributions(name: str, extra: str = "") -> set[str]:
    """Return the names of a distribution and of all that it requires, on this machine."""
    found: set[str] = set()
    waiting = [(name, extra)]
    seen = set(waiting)
    while waiting:
        name, extra = waiting.pop()
        try:
            requirements = [Requirement(text) for text in distribution(name).requires or []]
        except PackageNotFoundError:
            pytest.skip(f"{name} is not installed: run scripts/install")
        found.add(name)
        for needed in requirements:
            if needed.marker is None or needed.marker.evaluate({"extra": extra}):
                for each in ("", *needed.extras):
                    pair = (canonicalize_name(needed.name), each)
                    if pair not in seen:
                        seen.add(pair)
                        waiting.append(pair)
    return found


def link_distribution(name: str, site: Path) -> None:
    """Link a distribution's top-level files and folders into another site-packages."""
    files = distribution(name).files or []
    for top in {file.parts[0] for file in files} - {"..", "__pycache__"}:
        source = Path(str(distribution(name).locate_file(top)))
        if source.exists() and not (site / top).exists():
            (site / top).symlink_to(source)
