# SPDX-License-Identifier: Apache-2.0
"""Requests for plans that arrive while others are worked on, worked on together.

There is no timer: a request that finds nobody at work is served at once, and those that come
meanwhile make up the next batch. So a lone request is never delayed, and batches grow with the
load. One thread works at a time; what waits costs no thread.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from contextvars import Context

from pocketrec_cloud.delivery.plans.director import Outcome, PlanRequest
from pocketrec_quantization.checks import check_integer

__all__ = ["DEFAULT_MAX_BATCH", "PlanQueue"]

DEFAULT_MAX_BATCH = 64
"""Requests that are worked on together."""


class PlanQueue:
    """Serves callers of one event loop in batches.

    Args:
        serve: Answers requests, one outcome each, in order; runs on ``executor``.
        executor: Keeps the loop free.
        max_batch: Most requests in one call of ``serve``.

    Raises:
        ConfigError: ``max_batch`` is below 1.
    """

    def __init__(
        self,
        serve: Callable[[Sequence[PlanRequest]], Sequence[Outcome]],
        executor: Executor,
        *,
        max_batch: int = DEFAULT_MAX_BATCH,
    ) -> None:
        check_integer(max_batch, field="max_batch", minimum=1)
        self._serve, self._executor, self._max_batch = serve, executor, max_batch
        self._waiting: deque[tuple[PlanRequest, asyncio.Future[bytes]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a batch to end."""
        return len(self._waiting)

    async def ask(self, request: PlanRequest) -> bytes:
        """Return the answer to one request.

        Raises:
            PocketRecError: What ``serve`` gives as this request's outcome.
            OSError: Likewise.
        """
        answer: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, answer))
        if self._worker is None:
            # A context of its own: what is said of a batch is about no single request.
            self._worker = asyncio.create_task(self._work(), context=Context())
        return await answer

    async def _work(self) -> None:
        """Serve until nobody waits."""
        try:
            while self._waiting:
                n_taken = min(len(self._waiting), self._max_batch)
                batch = [self._waiting.popleft() for _ in range(n_taken)]
                outcomes = await self._outcomes([request for request, _ in batch])
                for (_, answer), outcome in zip(batch, outcomes, strict=True):
                    if answer.done():  # who asked has hung up
                        continue
                    if isinstance(outcome, bytes):
                        answer.set_result(outcome)
                    else:
                        answer.set_exception(outcome)
        finally:
            self._worker = None

    async def _outcomes(self, requests: list[PlanRequest]) -> Sequence[bytes | Exception]:
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._executor, self._serve, requests)
        except Exception as error:  # noqa: BLE001  nobody may wait for ever
            return [error] * len(requests)
