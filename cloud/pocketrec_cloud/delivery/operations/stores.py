# SPDX-License-Identifier: Apache-2.0
"""A store whose every operation is timed, and counted when it fails."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import wraps
from typing import Any, cast

from pocketrec_cloud.delivery.store_protocols import DeliveryStore

__all__ = ["watch_store"]

# Ends, locks and waits take as long as they take; what is recalled takes no storage.
_UNTIMED = frozenset({"close", "listen", "lock", "recall_session"})


def watch_store(
    store: DeliveryStore, around: Callable[[str], AbstractContextManager[None]]
) -> DeliveryStore:
    """Return a store that does what another one does, with something around every operation.

    Args:
        store: What does the work; operations that it has beyond the protocol are kept.
        around: Returns what to enter, by the name of an operation such as "swap_plans".
    """
    return cast("DeliveryStore", _WatchedStore(store, around))


class _WatchedStore:
    def __init__(
        self, store: DeliveryStore, around: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        self._store, self._around = store, around

    def __getattr__(self, name: str) -> Any:
        """Return an operation with the watch around it; it is made once."""
        operation = getattr(self._store, name)
        if name.startswith("_") or name in _UNTIMED or not callable(operation):
            return operation

        @wraps(operation)
        def watched(*args: object, **kwargs: object) -> object:
            with self._around(name):
                return operation(*args, **kwargs)

        setattr(self, name, watched)
        return watched
