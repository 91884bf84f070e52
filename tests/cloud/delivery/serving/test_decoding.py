# SPDX-License-Identifier: Apache-2.0
"""Bytes that are no message, over a real socket."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import grpc
import pytest

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

CUT = b"\x0a\xff"  # a field that says it is longer than the message
DEADLINE_S = 20.0


@pytest.mark.parametrize("method", ["GetPlan", "WatchPlans"])
class TestDecodingInterceptor:
    def test_message_that_is_none_is_the_callers_mistake(
        self, method: str, deployment: Deployment, caplog: pytest.LogCaptureFixture
    ) -> None:
        """It is refused as such, and leaves no traceback."""
        path = f"/pocketrec.v1.DeviceService/{method}"

        with deployment.serve() as target, grpc.insecure_channel(target) as channel:
            call: Iterator[bytes] = channel.unary_stream(path)(CUT, timeout=DEADLINE_S)
            with pytest.raises(grpc.RpcError) as failure:
                list(call)

        assert failure.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]
        assert "Traceback" not in caplog.text
