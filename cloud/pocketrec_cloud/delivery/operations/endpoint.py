# SPDX-License-Identifier: Apache-2.0
"""Metrics and health over HTTP, for whoever watches the server.

``/metrics`` is for Prometheus, ``/healthz`` says that the process lives, ``/readyz`` whether it
can do its work (status 503 if not) and which dependency fails, by name only.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable
from http import HTTPStatus
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry, make_wsgi_app

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.operations.health import HealthReport

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["OperationsEndpoint"]

_JSON = "application/json; charset=utf-8"


class OperationsEndpoint:
    """One HTTP server on threads of its own; it can do nothing but tell.

    Args:
        host: Address to listen on.
        port: TCP port; 0 takes a free one.
        registry: What ``/metrics`` shows.
        report: What ``/readyz`` shows.

    Raises:
        ConfigError: The address cannot be listened on.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        registry: CollectorRegistry,
        report: Callable[[], HealthReport],
    ) -> None:
        self._metrics: Any = make_wsgi_app(registry)
        self._report = report
        try:
            self._server = make_server(
                host, port, self._answer, server_class=_Server, handler_class=_QuietHandler
            )
        except OSError as exc:
            raise ConfigError(
                f"cannot serve metrics on {host}:{port} ({exc.strerror}); is the port taken?"
            ) from exc
        self.address = f"{host}:{self._server.server_port}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="pocketrec-metrics", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _answer(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        if path == "/metrics":
            content: Iterable[bytes] = self._metrics(environ, start)
            return content
        if path == "/healthz":
            return _respond(start, HTTPStatus.OK, {"status": "alive"})
        if path == "/readyz":
            report = self._report()
            status = HTTPStatus.OK if report.is_healthy else HTTPStatus.SERVICE_UNAVAILABLE
            found = {name: not problem for name, problem in report.problems.items()}
            return _respond(start, status, {"is_ready": report.is_healthy, "dependencies": found})
        return _respond(start, HTTPStatus.NOT_FOUND, {"paths": ["/metrics", "/healthz", "/readyz"]})


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 10  # seconds; who dials and says nothing is hung up on

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  of the base class
        """Say nothing: who scrapes comes every few seconds."""


def _respond(start: StartResponse, status: HTTPStatus, body: object) -> list[bytes]:
    content = json.dumps(body).encode() + b"\n"
    start(
        f"{status.value} {status.phrase}",
        [("Content-Type", _JSON), ("Content-Length", str(len(content)))],
    )
    return [content]
