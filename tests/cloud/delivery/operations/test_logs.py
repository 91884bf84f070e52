# SPDX-License-Identifier: Apache-2.0
"""The log of a server: its lines, the ids in them, and what must never be in them."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from tests.cloud.delivery.operations.scripted_service import ScriptedService, call

from pocketrec_cloud.delivery.operations.logs import CallLog, LogFormat, configure_logging
from pocketrec_cloud.delivery.operations.observing import ObservingInterceptor
from pocketrec_cloud.delivery.operations.request_ids import HEADER, ContextThreads, RequestIds
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

ASKED = "app-7f3a.21"


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """The process's log, as JSON; what was configured before comes back afterwards."""
    root, stream = logging.getLogger(), io.StringIO()
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    configure_logging(LogFormat.JSON, "info", stream)
    yield stream
    root.handlers, root.level = handlers, level


def lines(log: io.StringIO) -> list[dict[str, Any]]:
    """Return the log's lines, parsed."""
    return [json.loads(line) for line in log.getvalue().splitlines()]


def ask(request: pb.GetPlanRequest, *metadata: tuple[str, str]) -> str:
    """Ask for a plan and return the request id that comes back with the answer or error."""

    async def use(channel: grpc.aio.Channel, service: ScriptedService) -> str:
        answer = DeviceServiceStub(channel).GetPlan(request, metadata=metadata)
        try:
            await answer
        except grpc.aio.AioRpcError as error:
            return str(dict(error.trailing_metadata())[HEADER])
        return str(dict(await answer.trailing_metadata())[HEADER])

    interceptors = [ObservingInterceptor([RequestIds(), CallLog()])]
    return call(interceptors, use, executor=ContextThreads(2))


class TestRequestIds:
    def test_callers_id_is_on_every_line(self, log: io.StringIO) -> None:
        """Lines of handler threads, of the error and of the call name it; so does the error."""
        returned = ask(pb.GetPlanRequest(subject="broken"), (HEADER, ASKED))

        assert returned == ASKED
        assert [(line["request_id"], line["level"]) for line in lines(log)] == [
            (ASKED, "info"),
            (ASKED, "error"),
            (ASKED, "warning"),
        ]

    @pytest.mark.parametrize("asked", ["short", "x" * 65, 'spaces "and" more'])
    def test_unusable_id_is_replaced(self, log: io.StringIO, asked: str) -> None:
        """Nobody writes what they like into the log."""
        returned = ask(pb.GetPlanRequest(), (HEADER, asked))

        assert re.fullmatch("[0-9a-f]{16}", returned)
        assert {line["request_id"] for line in lines(log)} == {returned}

    def test_each_call_has_its_own(self, log: io.StringIO) -> None:
        """Who sends no id gets a new one each time."""
        assert ask(pb.GetPlanRequest()) != ask(pb.GetPlanRequest())


class TestJsonFormatter:
    def test_end_of_a_call(self, log: io.StringIO) -> None:
        """The line that ends a call says method, status and duration as fields."""
        ask(pb.GetPlanRequest(subject="refused"))

        line = lines(log)[-1]
        assert (line["method"], line["status"], line["logger"]) == (
            "GetPlan",
            "NOT_FOUND",
            "pocketrec.calls",
        )
        assert line["duration_ms"] >= 0
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])

    def test_exception_stays_on_one_line(self, log: io.StringIO) -> None:
        """A traceback is a field of its line."""
        ask(pb.GetPlanRequest(subject="broken"))

        error = next(line for line in lines(log) if line["level"] == "error")
        assert "StoreError: the disk at /secret/path is gone" in error["exception"]

    def test_line_breaks_are_escaped(self, log: io.StringIO) -> None:
        """A message with line breaks does not forge lines."""
        logging.getLogger("any").info("first\n{}")

        assert [line["message"] for line in lines(log)] == ["first\n{}"]


class TestSecrets:
    def test_calls_leave_no_trace_of_the_caller(self, log: io.StringIO) -> None:
        """Neither token nor subject nor embedding of a call is in its lines."""
        request = pb.GetPlanRequest(
            subject="ann-pseudonym", user_embedding=pb.UserEmbedding(codes=b"embedding-bytes")
        )

        ask(request, ("authorization", "Bearer sEcReT-token_1"))

        assert lines(log)
        for secret in ("sEcReT", "ann-pseudonym", "embedding-bytes"):
            assert secret not in log.getvalue()

    @pytest.mark.parametrize("log_format", LogFormat)
    def test_bearer_tokens_are_blanked(self, log: io.StringIO, log_format: LogFormat) -> None:
        """Even a line that would show a token does not."""
        configure_logging(log_format, "info", log)

        logging.getLogger("any").info("got %r", "authorization: Bearer sEcReT-token_1")

        assert "Bearer [removed]" in log.getvalue()
        assert "sEcReT" not in log.getvalue()


class TestConfigureLogging:
    def test_level_silences(self, log: io.StringIO) -> None:
        """At warning, calls that went well write nothing."""
        configure_logging(LogFormat.JSON, "warning", log)

        ask(pb.GetPlanRequest())

        assert log.getvalue() == ""

    def test_text_names_the_call(self, log: io.StringIO) -> None:
        """Lines for people carry the id too."""
        configure_logging(LogFormat.TEXT, "info", log)

        ask(pb.GetPlanRequest(), (HEADER, ASKED))

        assert log.getvalue().count(f"[request {ASKED}]") == 2
