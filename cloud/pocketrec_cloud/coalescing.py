# SPDX-License-Identifier: Apache-2.0
"""One call for requests that arrive while another call is running.

There is no timer: a request that finds nobody at work is served at once, on its own thread.
Those that come meanwhile wait for each other, and the first of them then works for all. So a
lone request is never delayed, batches grow with the load, and between calls there is nothing
to stop or to drain.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from pocketrec.errors import PocketRecError
from pocketrec_quantization.checks import check_integer

__all__ = ["Coalescer"]

Request = TypeVar("Request")
Answer = TypeVar("Answer")


@dataclass(slots=True, eq=False)
class _Waiting(Generic[Request, Answer]):
    """One call; when it is woken it has an answer or an error, or else has to lead."""

    request: Request
    woken: threading.Event = field(default_factory=threading.Event)
    answers: Sequence[Answer] = ()
    error: BaseException | None = None

    def answer(self) -> Answer:
        if self.error is not None:
            raise self.error
        return self.answers[0]


class Coalescer(Generic[Request, Answer]):
    """Serves several callers at once; safe to share between threads.

    Args:
        serve: Answers requests of one kind, one answer each, in order.
        kind: What requests must have in common to be served in one call.
        size: How much of ``max_size`` a request takes.
        max_size: Most that one call serves; a request above it is served alone.

    Raises:
        ConfigError: ``max_size`` is below 1.
    """

    def __init__(
        self,
        serve: Callable[[list[Request]], Sequence[Answer]],
        *,
        kind: Callable[[Request], Hashable] = lambda _: None,
        size: Callable[[Request], int] = lambda _: 1,
        max_size: int,
    ) -> None:
        check_integer(max_size, field="max_size", minimum=1)
        self._serve, self._kind, self._size, self._max_size = serve, kind, size, max_size
        self._lock = threading.Lock()
        self._waiting: deque[_Waiting[Request, Answer]] = deque()
        self._is_busy = False

    @property
    def n_waiting(self) -> int:
        """How many requests wait for a call to end."""
        return len(self._waiting)

    def ask(self, request: Request) -> Answer:
        """Return the answer to one request.

        Args:
            request: Served with others of its kind, if there are any.

        Raises:
            PocketRecError: What ``serve`` raises for this request alone.
        """
        own: _Waiting[Request, Answer] = _Waiting(request)
        with self._lock:
            is_leader = not self._is_busy
            self._is_busy = True
            if not is_leader:
                self._waiting.append(own)
        if not is_leader:
            own.woken.wait()
        if not own.answers and own.error is None:
            self._lead(own)
        return own.answer()

    def _lead(self, own: _Waiting[Request, Answer]) -> None:
        """Work for the caller and for those who wait for the same; then wake the next leader."""
        batch = self._take(own)
        try:
            self._answer(batch)
        except BaseException as error:
            for waiting in batch:
                waiting.error = waiting.error or error
            raise
        finally:
            for waiting in batch:
                waiting.woken.set()
            self._hand_over()

    def _take(self, own: _Waiting[Request, Answer]) -> list[_Waiting[Request, Answer]]:
        """Return the caller's request and waiting ones of its kind, oldest first."""
        batch, kind, size = [own], self._kind(own.request), self._size(own.request)
        others: deque[_Waiting[Request, Answer]] = deque()
        with self._lock:
            for waiting in self._waiting:
                larger = size + self._size(waiting.request)
                if self._kind(waiting.request) == kind and larger <= self._max_size:
                    batch.append(waiting)
                    size = larger
                else:
                    others.append(waiting)
            self._waiting = others
        return batch

    def _answer(self, batch: list[_Waiting[Request, Answer]]) -> None:
        try:
            answers = self._serve([waiting.request for waiting in batch])
        except PocketRecError as error:
            if len(batch) == 1:
                batch[0].error = error
                return
            for waiting in batch:  # one of them is to blame, the others are not
                self._answer([waiting])
            return
        for waiting, answer in zip(batch, answers, strict=True):
            waiting.answers = (answer,)

    def _hand_over(self) -> None:
        with self._lock:
            successor = self._waiting.popleft() if self._waiting else None
            self._is_busy = successor is not None
        if successor is not None:
            successor.woken.set()
