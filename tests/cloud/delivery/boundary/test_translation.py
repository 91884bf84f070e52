# SPDX-License-Identifier: Apache-2.0
"""What a call that failed leaves in the log."""

from __future__ import annotations

import asyncio
import logging

import grpc
import pytest

from pocketrec.errors import PlanError, RejectedError
from pocketrec_cloud.delivery.boundary.translation import translated


class Ended:
    """Stands for a call that is being ended."""

    def __init__(self) -> None:
        self.status: grpc.StatusCode | None = None

    async def abort(self, status: grpc.StatusCode, message: str) -> None:
        """Note how."""
        self.status = status


def fail_with(error: Exception) -> grpc.StatusCode | None:
    """Let a call raise, and return how it ends."""
    context = Ended()

    async def call() -> None:
        async with translated(context, "GetPlan"):  # type: ignore[arg-type]
            raise error

    asyncio.run(call())
    return context.status


class TestTranslated:
    @pytest.mark.parametrize("code", ["FAILED_PRECONDITION", "INVALID_ARGUMENT"])
    def test_refusal_is_no_error_of_ours(self, code: str, caplog: pytest.LogCaptureFixture) -> None:
        """Whatever its status, it is noted without a traceback."""
        caplog.set_level(logging.INFO)

        status = fail_with(RejectedError("the caller's mistake", code=code))

        assert status is grpc.StatusCode[code]
        (record,) = caplog.records
        assert record.levelname == "INFO"
        assert not record.exc_info

    @pytest.mark.parametrize(
        "error", [PlanError("ours"), RejectedError("a status that is none", code="OK")]
    )
    def test_failure_of_ours_is_logged_with_its_traceback(
        self, error: Exception, caplog: pytest.LogCaptureFixture
    ) -> None:
        """That goes for a refusal with a status that no refusal has, too."""
        fail_with(error)

        (record,) = caplog.records
        assert record.levelname == "ERROR"
        assert record.exc_info
