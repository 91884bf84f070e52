# SPDX-License-Identifier: Apache-2.0
"""How to serve: addresses, certificates, limits and what plans are like."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from pathlib import Path

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.plans.drafting import PlanPolicy
from pocketrec_cloud.delivery.plans.queue import DEFAULT_MAX_BATCH
from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_quantization.checks import check_integer

__all__ = ["AdminListener", "Listening", "ServerConfig", "TlsFiles", "address_of"]

_MAX_WORKERS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """PEM files: the server's chain and key, and whom clients must be certified by.

    With ``client_ca`` every client has to show a certificate (mutual TLS).
    """

    certificate: Path
    key: Path
    client_ca: Path | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdminListener:
    """Where admins call.

    Args:
        host: Name or address to listen on.
        port: TCP port; 0 takes a free one.
        tls: Certificate and key; None serves plaintext.
        certificates: Which client certificates stand for admins; they take a ``client_ca``.
    """

    host: str = "127.0.0.1"
    port: int = 0
    tls: TlsFiles | None = None
    certificates: AdminCertificates = field(default_factory=AdminCertificates)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerConfig:
    """How to serve.

    Args:
        store: Folder of the repository, or the URL of a bucket.
        keys: Folder that holds ``online/`` with snapshot, timestamp and director keys.
        database: URL of the database; empty = SQLite in the store's folder.
        host: Name or address to listen on.
        port: TCP port; 0 takes a free one.
        tls: Certificate and key; None serves plaintext.
        admin: Where admins call; None = nowhere.
        is_plaintext_allowed: Whether to serve plaintext beyond this machine.
        workers: Processes that share the work.
        policy: What plans are like by default.
        limits: What callers may send.
        watch: How streams of plans behave.
        operations: How the server may be watched.
        max_calls: Calls at once in one process, streams of plans apart.
        max_plan_batch: Most requests for plans that are worked on together, when they meet.
        refresh_every_s: How often to see whether the timestamp grows old.
        grace_s: How long calls in flight may take after a signal to stop.

    Raises:
        ConfigError: Plaintext beyond this machine was not allowed explicitly, or a number is
            out of its range.
    """

    store: str | Path
    keys: Path
    database: str = ""
    host: str = "127.0.0.1"
    port: int = 0
    tls: TlsFiles | None = None
    admin: AdminListener | None = None
    is_plaintext_allowed: bool = False
    workers: int = 1
    policy: PlanPolicy = field(default_factory=PlanPolicy)
    limits: Limits = field(default_factory=Limits)
    watch: WatchSettings = field(default_factory=WatchSettings)
    operations: OperationsConfig = field(default_factory=OperationsConfig)
    max_calls: int = 256
    max_plan_batch: int = DEFAULT_MAX_BATCH
    refresh_every_s: float = 60.0
    grace_s: float = 10.0

    def __post_init__(self) -> None:
        check_integer(self.max_plan_batch, field="max_plan_batch", minimum=1)
        check_integer(self.max_calls, field="max_calls", minimum=1)
        check_integer(self.workers, field="workers", minimum=1, maximum=_MAX_WORKERS)
        listeners = [(self.host, self.tls)]
        if self.admin is not None:
            listeners.append((self.admin.host, self.admin.tls))
        for host, tls in listeners:
            if tls is None and not self.is_plaintext_allowed and not _is_loopback(host):
                raise ConfigError(
                    f"{host!r} can be reached from other machines and there is no certificate; "
                    "pass --tls-cert and --tls-key, or --insecure if something else encrypts"
                )
        if self.operations.chaos is not None and not self.is_plaintext_allowed:
            self._keep_chaos_here()

    def _keep_chaos_here(self) -> None:
        """Refuse to answer wrongly on purpose where devices of users may call."""
        if not _is_loopback(self.host):
            raise ConfigError(
                f"{self.host!r} can be reached from other machines, which --chaos is not for; "
                "listen on 127.0.0.1, or pass --insecure if no user's device can call"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Listening:
    """Where a server is reached.

    Args:
        address: For devices, such as "127.0.0.1:50051".
        admin_address: For admins; empty = nowhere.
        metrics_address: Of the first process; empty = nowhere.
    """

    address: str
    admin_address: str = ""
    metrics_address: str = ""


def address_of(host: str, port: int) -> str:
    """Return what a client dials."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
