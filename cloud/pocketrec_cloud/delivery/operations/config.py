# SPDX-License-Identifier: Apache-2.0
"""What an operator may switch on."""

from __future__ import annotations

from dataclasses import dataclass

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.operations.faults import ChaosSettings
from pocketrec_quantization.checks import check_integer

__all__ = ["OperationsConfig"]

_MAX_PORT = 65_535


@dataclass(frozen=True, slots=True, kw_only=True)
class OperationsConfig:
    """How a server may be watched, and harmed on purpose.

    Args:
        metrics_host: Where metrics and health are served over HTTP.
        metrics_port: Of the first server process; each further one takes the next port. 0 takes
            free ones, None serves nothing.
        logs_calls: Whether every call gets a line in the log.
        otlp_endpoint: Where spans are sent, such as "http://127.0.0.1:4317"; empty = nowhere.
        chaos: Faults to make; None = none.
        health_every_s: From one look at what the server depends on to the next.
        health_timeout_s: How long a dependency may take to answer.

    Raises:
        ConfigError: A port, a time or the endpoint cannot be used.
    """

    metrics_host: str = "127.0.0.1"
    metrics_port: int | None = None
    logs_calls: bool = False
    otlp_endpoint: str = ""
    chaos: ChaosSettings | None = None
    health_every_s: float = 5.0
    health_timeout_s: float = 5.0

    def __post_init__(self) -> None:
        if self.metrics_port is not None:
            check_integer(self.metrics_port, field="metrics_port", maximum=_MAX_PORT)
        if not self.health_every_s > 0 or not self.health_timeout_s > 0:
            raise ConfigError(
                "expected health_every_s and health_timeout_s above 0, "
                f"got {self.health_every_s} and {self.health_timeout_s}"
            )
        if self.otlp_endpoint and not self.otlp_endpoint.startswith(("http://", "https://")):
            raise ConfigError(
                f"otlp_endpoint: expected http://HOST:PORT or https://, got {self.otlp_endpoint!r}"
            )

    def metrics_port_of(self, worker: int) -> int | None:
        """Return the port of one server process, counted from 0.

        Raises:
            ConfigError: There is no such port.
        """
        if not self.metrics_port:
            return self.metrics_port
        if self.metrics_port + worker > _MAX_PORT:
            raise ConfigError(f"there is no port {self.metrics_port + worker} for metrics")
        return self.metrics_port + worker
