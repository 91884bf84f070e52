# SPDX-License-Identifier: Apache-2.0
"""Ends a call whose caller does not read."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["broken_off_after"]

_LOG = logging.getLogger(__name__)


@contextmanager
def broken_off_after(timeout_s: float) -> Iterator[None]:
    """End the call of the current task if the block takes longer; put a ``yield`` inside.

    Args:
        timeout_s: How long a message may take to be written.
    """
    task = asyncio.current_task()

    def break_off() -> None:
        _LOG.info("a stream ends: its reader has read nothing for %g s", timeout_s)
        if task is not None:
            task.cancel()

    timer = asyncio.get_running_loop().call_later(timeout_s, break_off)
    try:
        yield
    finally:
        timer.cancel()
