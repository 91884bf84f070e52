# SPDX-License-Identifier: Apache-2.0
"""The options of ``serve`` that are about watching it, and about faults on purpose."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

import click

from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.faults import parse_chaos
from pocketrec_cloud.delivery.operations.logs import LogFormat, configure_logging

__all__ = ["operations_options"]

_OPTIONS = (
    click.option(
        "--metrics-port",
        type=click.IntRange(0, 65535),
        help="Serve /metrics, /healthz and /readyz over HTTP; each further process takes the next "
        "port, 0 = any.",
    ),
    click.option(
        "--metrics-host",
        default=OperationsConfig().metrics_host,
        show_default=True,
        help="Address for it.",
    ),
    click.option(
        "--log-format",
        type=click.Choice([each.value for each in LogFormat]),
        default=LogFormat.TEXT.value,
        show_default=True,
        help="One line per event, or one JSON object.",
    ),
    click.option(
        "--log-level",
        type=click.Choice(["debug", "info", "warning", "error"]),
        default="info",
        show_default=True,
        help="The least that is logged; info has a line per call.",
    ),
    click.option(
        "--otlp-endpoint",
        default="",
        metavar="URL",
        help="Send spans to this OpenTelemetry collector (gRPC); needs the extra tracing.",
    ),
    click.option(
        "--chaos",
        metavar="FAULTS",
        help="For tests: answer devices wrongly on purpose, such as "
        "delay=50ms..200ms,drop=0.05,corrupt=0.01,stale=on,seed=7.",
    ),
)


def operations_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options to a command, which gets ``operations=OperationsConfig(...)`` of them.

    The log is configured before the command runs.
    """

    @wraps(command)
    def configured(
        *,
        metrics_port: int | None,
        metrics_host: str,
        log_format: str,
        log_level: str,
        otlp_endpoint: str,
        chaos: str | None,
        **others: Any,
    ) -> Any:
        configure_logging(LogFormat(log_format), log_level)
        operations = OperationsConfig(
            metrics_host=metrics_host,
            metrics_port=metrics_port,
            logs_calls=True,
            otlp_endpoint=otlp_endpoint,
            chaos=None if chaos is None else parse_chaos(chaos),
        )
        return command(operations=operations, **others)

    for option in reversed(_OPTIONS):
        configured = option(configured)
    return configured
