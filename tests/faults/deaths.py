# SPDX-License-Identifier: Apache-2.0
"""Lets a process end itself, as ``kill -9`` would, at one exact step of its work."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from pocketrec.files import SystemDisk
from pocketrec_cloud.delivery.records import OrderRecord
from pocketrec_cloud.delivery.stores.sql_orders import SqlOrders

__all__ = ["die_after_order", "die_at_file", "plant"]


def die_at_file(suffix: str, *, lands: bool) -> None:
    """End this process at the first file with such a name that it puts in place.

    Args:
        suffix: How its name ends; empty = any file.
        lands: Whether it is in place by then, or lies beside it under another name.
    """
    rename = SystemDisk.rename

    def renaming(self: SystemDisk, source: Path, target: Path) -> None:
        if not target.name.endswith(suffix):
            rename(self, source, target)
            return
        if lands:
            rename(self, source, target)
        _die()

    SystemDisk.rename = renaming  # type: ignore[method-assign]


def die_after_order() -> None:
    """End this process once an order is stored: nobody was told, nor was it answered."""
    add_order = SqlOrders.add_order

    def storing(self: SqlOrders, order: OrderRecord) -> OrderRecord:
        add_order(self, order)
        _die()
        raise AssertionError("unreachable")

    SqlOrders.add_order = storing  # type: ignore[method-assign]


def plant(death: dict[str, Any]) -> None:
    """Prepare one of these ends, by the arguments as JSON has them; nothing for none."""
    match death:
        case {"file": suffix, "lands": lands}:
            die_at_file(suffix, lands=lands)
        case {"order": True}:
            die_after_order()


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)
