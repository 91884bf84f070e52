# SPDX-License-Identifier: Apache-2.0
"""A stream of plans and news from a server, as events; hangs up when the server falls silent."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pocketrec_proto.v1 import device_service_pb2 as messages

if TYPE_CHECKING:
    from grpc import _CallIterator

__all__ = ["FeedEvent", "events_of"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedEvent:
    """What a server said.

    Args:
        sequence: Of the newest order that it takes into account.
        plan: A plan container, unverified; empty = none.
        are_targets_changed: Whether another bundle may be due.
        pause_s: How long to wait before dialling again, because the server stops; None = it
            does not.
    """

    sequence: int
    plan: bytes = b""
    are_targets_changed: bool = False
    pause_s: float | None = None


def events_of(
    stream: _CallIterator[messages.WatchPlansResponse], *, silence_s: float
) -> Iterator[FeedEvent]:
    """Yield what a stream says; the stream is cancelled after a silence, and at the end.

    Args:
        stream: A call that has begun.
        silence_s: How long the server may say nothing.

    Raises:
        grpc.RpcError: The call failed, or was cancelled.
    """
    try:
        while True:
            with _cancelled_after(stream, silence_s):
                message = next(stream, None)
            if message is None:
                return
            yield _event(message)
    finally:
        stream.cancel()


@contextmanager
def _cancelled_after(
    stream: _CallIterator[messages.WatchPlansResponse], silence_s: float
) -> Iterator[None]:
    timer = threading.Timer(silence_s, stream.cancel)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _event(message: messages.WatchPlansResponse) -> FeedEvent:
    kind = message.WhichOneof("event")
    return FeedEvent(
        sequence=message.sequence,
        plan=message.plan if kind == "plan" else b"",
        are_targets_changed=kind == "targets_changed",
        pause_s=message.going_away.pause_ms / 1000 if kind == "going_away" else None,
    )
