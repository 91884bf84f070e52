# SPDX-License-Identifier: Apache-2.0
"""Whether this server can do its work: asks all that it depends on, again and again.

A dependency that fails, or does not answer in time, makes the server report not serving, so
that load balancers send devices elsewhere; once all of them answer, it serves again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from pocketrec.errors import ConfigError, PocketRecError

__all__ = ["HealthMonitor", "HealthReport"]

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthReport:
    """What was found last.

    Args:
        problems: What is wrong with each dependency, by name; empty text = nothing.
    """

    problems: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_healthy(self) -> bool:
        """Whether every dependency answered, and there was a look at all."""
        return bool(self.problems) and not any(self.problems.values())


class HealthMonitor:
    """Looks after the dependencies of one server process.

    Args:
        checks: Return quietly while a dependency is well, by its name; each runs on a thread of
            its own, never twice at a time.
        announce: Awaited with what was found, after every look.
        every_s: From one look to the next.
        timeout_s: How long a dependency may take to answer.

    Raises:
        ConfigError: There is nothing to check, or a time is not positive.
    """

    def __init__(
        self,
        checks: Mapping[str, Callable[[], None]],
        announce: Callable[[HealthReport], Awaitable[None]],
        *,
        every_s: float = 5.0,
        timeout_s: float = 5.0,
    ) -> None:
        if not checks or not every_s > 0 or not timeout_s > 0:
            raise ConfigError(
                f"expected something to check and positive times, got {len(checks)} checks, "
                f"every_s={every_s}, timeout_s={timeout_s}"
            )
        self._checks, self._announce = dict(checks), announce
        self._every_s, self._timeout_s = every_s, timeout_s
        self._threads = ThreadPoolExecutor(len(checks), thread_name_prefix="pocketrec-health")
        self._waiting: dict[str, asyncio.Future[None]] = {}
        self._report = HealthReport()
        self._task: asyncio.Task[None] | None = None

    @property
    def report(self) -> HealthReport:
        """What was found last; may be read from any thread."""
        return self._report

    async def start(self) -> None:
        """Look once, then again and again until :meth:`stop`."""
        await self.look()
        self._task = asyncio.create_task(self._keep_looking())

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def look(self) -> None:
        """Ask every dependency once, and announce what was found."""
        loop = asyncio.get_running_loop()
        for name, check in self._checks.items():
            if name not in self._waiting:
                self._waiting[name] = loop.run_in_executor(self._threads, check)
        await asyncio.wait(self._waiting.values(), timeout=self._timeout_s)
        problems = {name: self._problem(name) for name in self._checks}
        for name, problem in problems.items():
            if problem and problem != self._report.problems.get(name):
                _LOG.error("%s fails: %s", name, problem)
            elif not problem and self._report.problems.get(name):
                _LOG.warning("%s is well again", name)
        self._report = HealthReport(problems=problems)
        await self._announce(self._report)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(self._every_s)
            try:
                await self.look()
            except Exception:  # noqa: BLE001  nothing may end the watch
                _LOG.exception("cannot look after the server's health")

    def _problem(self, name: str) -> str:
        """Return what a check found, and forget it unless it is still under way."""
        if not self._waiting[name].done():
            return f"no answer within {self._timeout_s:g} s"
        error = self._waiting.pop(name).exception()
        if error is None:
            return ""
        if isinstance(error, (PocketRecError, OSError)):
            return f"{type(error).__name__}: {error}"
        _LOG.error("the check of %s is broken", name, exc_info=error)
        return type(error).__name__
