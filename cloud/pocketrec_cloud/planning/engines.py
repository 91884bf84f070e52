# SPDX-License-Identifier: Apache-2.0
"""Where the shards of a large job are worked on: processes of this machine, or Ray."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any, Protocol, TypeVar

from pocketrec.errors import ConfigError, MissingExtraError
from pocketrec_quantization.checks import check_integer

__all__ = ["ENGINES", "Engine", "LocalEngine", "RayEngine", "make_engine"]

ENGINES = ("local", "ray")
"""Names that ``make_engine`` knows."""

_ONE_THREAD = {"OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
_Answer = TypeVar("_Answer")


class Engine(Protocol):
    """Works on many numbers at once."""

    def run(
        self, task: Callable[[Any, int], _Answer], job: Any, numbers: Sequence[int]
    ) -> Iterator[_Answer]:
        """Yield ``task(job, number)`` of every number, as they come.

        Args:
            task: A function of a module; what it raises ends the run.
            job: Its first argument; can be sent to other processes.
            numbers: Its second arguments.
        """
        ...


class LocalEngine:
    """Processes of this machine, each on one thread.

    Args:
        workers: How many; one works in this process.

    Raises:
        ConfigError: ``workers`` is below 1.
    """

    def __init__(self, workers: int) -> None:
        check_integer(workers, field="workers", minimum=1)
        self._workers = workers

    def run(
        self, task: Callable[[Any, int], _Answer], job: Any, numbers: Sequence[int]
    ) -> Iterator[_Answer]:
        """Yield answers as they come; see :class:`Engine`."""
        workers = min(self._workers, len(numbers))
        if workers <= 1:
            yield from (task(job, number) for number in numbers)
            return
        context = multiprocessing.get_context("spawn")
        with _environment(_ONE_THREAD), ProcessPoolExecutor(workers, mp_context=context) as pool:
            futures = [pool.submit(task, job, number) for number in numbers]
            try:
                for future in as_completed(futures):
                    yield future.result()
            finally:
                pool.shutdown(cancel_futures=True)


class RayEngine:
    """A Ray cluster: the one that ``RAY_ADDRESS`` names, or else this machine.

    Every machine must reach the job's files under the same paths.

    Args:
        workers: CPUs of a cluster that is started here; None takes all.

    Raises:
        MissingExtraError: Ray is not installed.
    """

    def __init__(self, workers: int | None = None) -> None:
        if find_spec("ray") is None:
            raise MissingExtraError(
                "the engine 'ray' needs the package 'ray', which is not installed; "
                "run `pip install 'pocketrec[cloud,ray]'`"
            )
        self._workers = workers

    def run(
        self, task: Callable[[Any, int], _Answer], job: Any, numbers: Sequence[int]
    ) -> Iterator[_Answer]:
        """Yield answers as they come; see :class:`Engine`."""
        import ray

        is_ours = not ray.is_initialized()
        if is_ours:
            ray.init(**self._options(), log_to_driver=False, logging_level="WARNING")
        try:
            remote, shared = ray.remote(task), ray.put(job)
            waiting = [remote.remote(shared, number) for number in numbers]
            while waiting:
                done, waiting = ray.wait(waiting)
                try:
                    yield from ray.get(done)
                except ray.exceptions.RayTaskError as error:
                    raise error.cause from error
        finally:
            if is_ours:
                ray.shutdown()

    def _options(self) -> dict[str, Any]:
        """Return how to connect; workers on this machine import what this process does."""
        if "RAY_ADDRESS" in os.environ:
            return {"runtime_env": {"env_vars": _ONE_THREAD}}
        path = os.pathsep.join(folder for folder in sys.path if folder)
        return {
            "num_cpus": self._workers,
            "include_dashboard": False,
            "runtime_env": {"env_vars": {**_ONE_THREAD, "PYTHONPATH": path}},
        }


def make_engine(name: str, workers: int) -> Engine:
    """Return an engine by name.

    Args:
        name: One of :data:`ENGINES`.
        workers: Processes at once, from 1.

    Raises:
        ConfigError: There is no such engine, or ``workers`` is below 1.
        MissingExtraError: Its library is not installed.
    """
    if name == "local":
        return LocalEngine(workers)
    if name == "ray":
        return RayEngine(workers)
    raise ConfigError(f"engine: expected one of {', '.join(ENGINES)}, got {name!r}")


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    """Set variables that processes started meanwhile inherit."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
