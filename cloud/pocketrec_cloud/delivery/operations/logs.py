# SPDX-License-Identifier: Apache-2.0
"""How the server's log looks: text for people, or one JSON object per line.

Whatever the form, a line carries the id of the call it is about, and bearer tokens are blanked
should one ever get into a message.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TextIO

import grpc

from pocketrec_cloud.delivery.operations.observing import Call, Ending
from pocketrec_cloud.delivery.operations.request_ids import current_request_id

__all__ = ["CallLog", "JsonFormatter", "LogFormat", "TextFormatter", "configure_logging"]

_CALLS = logging.getLogger("pocketrec.calls")
_SECRET = re.compile(r"(?i)(bearer\s+)[A-Za-z0-9._~+/=-]+")
_FIELDS = ("method", "status", "duration_ms")
_OUR_FAULT = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.DATA_LOSS,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.UNKNOWN,
)


class LogFormat(StrEnum):
    """What one line of the log is."""

    TEXT = "text"
    JSON = "json"


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and what is known of the call.

    ``request_id`` is there inside calls; ``method``, ``status`` and ``duration_ms`` in the line
    that ends one; ``exception`` where there is one. ``time`` is UTC, to the millisecond.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, object] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _blanked(record.getMessage()),
        }
        if request_id := current_request_id():
            line["request_id"] = request_id
        line |= {name: getattr(record, name) for name in _FIELDS if hasattr(record, name)}
        if record.exc_info:
            line["exception"] = _blanked(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """Time, level, id of the call if there is one, and the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(message)s")

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record, or the lines if it has a traceback."""
        text = _blanked(super().format(record))
        request_id = current_request_id()
        return f"{text} [request {request_id}]" if request_id else text


class CallLog:
    """Writes one line per call that ended; at level WARNING where the server is at fault."""

    def begin(self, call: Call) -> Callable[[Ending], None]:
        """Wait for the end of a call."""

        def end(ending: Ending) -> None:
            level = logging.WARNING if ending.status in _OUR_FAULT else logging.INFO
            if not _CALLS.isEnabledFor(level):
                return
            duration_ms = round(1000 * ending.duration_s, 3)
            _CALLS.log(
                level,
                "%s: %s in %s ms",
                call.method,
                ending.status.name,
                duration_ms,
                extra={
                    "method": call.method,
                    "status": ending.status.name,
                    "duration_ms": duration_ms,
                },
            )

        return end

    def sent(self, call: Call, message: object) -> None:
        """Nothing to note."""


def configure_logging(log_format: LogFormat, level: str, stream: TextIO | None = None) -> None:
    """Make the process's log look like this; what was configured before is replaced.

    Args:
        log_format: What one line is.
        level: The least that is written, such as "INFO".
        stream: Where to; None = stderr.
    """
    handler = logging.StreamHandler(stream)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _blanked(text: str) -> str:
    return _SECRET.sub(r"\1[removed]", text)
