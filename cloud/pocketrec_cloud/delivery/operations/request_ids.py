# SPDX-License-Identifier: Apache-2.0
"""A name for every call, the same in the server's log, its traces and the caller's error."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import ContextVar, copy_context
from typing import Any, ParamSpec, TypeVar

from pocketrec_cloud.delivery.operations.observing import Call, Ending

__all__ = ["HEADER", "ContextThreads", "RequestIds", "current_request_id"]

P = ParamSpec("P")
R = TypeVar("R")

HEADER = "x-request-id"
"""The metadata entry a caller may send; comes back as trailing metadata."""

_WELL_FORMED = re.compile(r"[A-Za-z0-9._-]{8,64}")
_CURRENT: ContextVar[str] = ContextVar("request_id", default="")


def current_request_id() -> str:
    """Return the id of the call that the running code works for; empty outside of calls."""
    return _CURRENT.get()


class RequestIds:
    """Names calls: as the caller says, if that is 8 to 64 of ``A-Za-z0-9._-``, or at random.

    Args:
        make_id: Makes an id where the caller sent none.
    """

    def __init__(self, make_id: Callable[[], str] = lambda: secrets.token_hex(8)) -> None:
        self._make_id = make_id

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Name a call from here on, and tell the caller at its end."""
        asked = call.header(HEADER)
        request_id = asked if _WELL_FORMED.fullmatch(asked) else self._make_id()
        _CURRENT.set(request_id)
        call.context.set_trailing_metadata(((HEADER, request_id),))
        return _ignore

    def sent(self, call: Call, message: object) -> None:
        """Nothing to note."""


class ContextThreads(ThreadPoolExecutor):
    """Threads whose work sees the context variables of whoever handed it in."""

    def submit(self, fn: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> Future[R]:
        """Run a function as ``ThreadPoolExecutor.submit`` does, in a copy of this context."""
        run: Callable[..., Any] = copy_context().run
        return super().submit(run, fn, *args, **kwargs)


def _ignore(ending: Ending) -> None:
    """Do nothing at the end of a call."""
