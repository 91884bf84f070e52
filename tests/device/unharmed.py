# SPDX-License-Identifier: Apache-2.0
"""What every threat must leave intact: the installed pair, and the rankings it gives."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import pytest

from pocketrec_device import Ranking, Runtime

__all__ = ["CANDIDATES", "HISTORY", "ranking_after_restart", "ranking_of", "unharmed"]

Error = TypeVar("Error", bound=Exception)

HISTORY = tuple("abcab")  # L events: a swap rebuilds the session from no more
CANDIDATES = tuple("abcdefghijkl")


def ranking_of(device: Runtime) -> Ranking:
    """Rank everything."""
    return device.rerank(CANDIDATES, len(CANDIDATES))


def ranking_after_restart(device: Runtime) -> Ranking:
    """Rank everything with what a new process would find."""
    with Runtime.open(device._store.path, backend="numpy") as restarted:
        restarted.observe_many(HISTORY)
        return ranking_of(restarted)


@contextmanager
def unharmed(
    device: Runtime, error: type[Error], match: str | None = None
) -> Iterator[pytest.ExceptionInfo[Error]]:
    """Expect an error that changes neither what runs nor what a restart finds."""
    before, status = ranking_of(device), device.status()
    with pytest.raises(error, match=match) as caught:
        yield caught
    assert ranking_of(device) == before
    assert ranking_after_restart(device) == before
    assert (device.status().current, device.status().previous) == (status.current, status.previous)
