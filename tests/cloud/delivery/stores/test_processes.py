# SPDX-License-Identifier: Apache-2.0
"""Stores of several processes on one database."""

from __future__ import annotations

import subprocess
import sys

import pytest
from tests.cloud.delivery.stores.samples import LONG_S, ORDER, PLAN

from pocketrec.errors import StoreLockedError
from pocketrec_cloud.delivery.store_protocols import Change
from pocketrec_cloud.delivery.stores.opening import open_store

# Holds the lock while its input is open, after it gave an order.
OTHER = """
import sys
from tests.cloud.delivery.stores.samples import ORDER
from pocketrec_cloud.delivery.stores.opening import open_store

store = open_store(sys.argv[1])
with store.lock("publish", timeout_s=30.0):
    store.add_order(ORDER)
    print("held", flush=True)
    sys.stdin.read()
store.close()
"""


def test_another_process_is_heard_and_waited_for(sql_url: str) -> None:
    """Its change arrives; its lock excludes ours until it gives it back, or dies."""
    store = open_store(sql_url)
    listener = store.listen()
    listener.wait(LONG_S)
    command = [sys.executable, "-c", OTHER, sql_url]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PYTHONPATH": ":".join(sys.path)},
    ) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"

        assert listener.wait(LONG_S) == {Change.ORDERS}
        assert [order.request_id for order in store.list_orders(after=0)] == [ORDER.request_id]
        with pytest.raises(StoreLockedError), store.lock("publish", timeout_s=0.01):
            pytest.fail("two hold it")

        other.kill()
    with store.lock("publish", timeout_s=LONG_S):
        assert store.swap_plans([(PLAN, None)]) == [True]
    listener.close()
    store.close()
