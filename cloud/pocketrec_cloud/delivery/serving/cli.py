# SPDX-License-Identifier: Apache-2.0
"""The command ``serve``."""

from __future__ import annotations

import asyncio
from functools import partial
from pathlib import Path

import click

from pocketrec.console import emit, json_option
from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates
from pocketrec_cloud.delivery.boundary.limits import Limits
from pocketrec_cloud.delivery.operations.config import OperationsConfig
from pocketrec_cloud.delivery.operations.logs import LogFormat, configure_logging
from pocketrec_cloud.delivery.operations.options import operations_options
from pocketrec_cloud.delivery.plans.drafting import PlanPolicy
from pocketrec_cloud.delivery.push.hub import WatchSettings
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_cloud.delivery.serving.config import (
    AdminListener,
    Listening,
    ServerConfig,
    TlsFiles,
)
from pocketrec_cloud.delivery.serving.server import serve as serve_until_stopped
from pocketrec_cloud.delivery.serving.workers import serve_with_workers

__all__ = ["serve"]

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_FOLDER = click.Path(file_okay=False, path_type=Path)
_PORT = click.IntRange(0, 65535)
_WATCH = WatchSettings()


@click.command()
@click.option("--store", required=True, help="Folder of the repository, or s3://BUCKET/PREFIX.")
@click.option("--keys", type=_FOLDER, required=True, help="Folder with online/ keys.")
@click.option(
    "--database",
    default="",
    metavar="URL",
    help="postgresql://..., or a SQLite file; default: pocketrec.db in the store's folder.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=_PORT, default=50051, show_default=True, help="0 = any.")
@click.option("--tls-cert", type=_FILE, help="Certificate chain, PEM.")
@click.option("--tls-key", type=_FILE, help="Private key of the certificate, PEM.")
@click.option("--tls-client-ca", type=_FILE, help="Ask devices for a certificate of this CA, PEM.")
@click.option("--insecure", is_flag=True, help="Allow plaintext beyond this machine.")
@click.option("--admin-port", type=_PORT, help="Answer admins there, 0 = any; default: nowhere.")
@click.option(
    "--admin-host", default="127.0.0.1", show_default=True, help="Address to answer admins on."
)
@click.option("--admin-tls-cert", type=_FILE, help="Certificate chain for admins, PEM.")
@click.option("--admin-tls-key", type=_FILE, help="Private key of that certificate, PEM.")
@click.option("--admin-client-ca", type=_FILE, help="Ask admins for a certificate of this CA, PEM.")
@click.option(
    "--admin-certificate",
    "admin_certificates",
    multiple=True,
    metavar="NAME=ROLE",
    help="A common name, or sha256:HEX of a public key, that stands for a viewer, publisher or "
    "operator; may be repeated.",
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=1,
    show_default=True,
    help="Processes that share the ports.",
)
@click.option(
    "--max-streams",
    type=click.IntRange(1),
    default=_WATCH.max_streams,
    show_default=True,
    help="Devices that may watch one process.",
)
@click.option(
    "--average-bits",
    type=click.FloatRange(2, 8),
    default=PlanPolicy().average_bits,
    show_default=True,
    help="Bits per weight of a plan when the device does not say.",
)
@click.option(
    "--registrations-per-minute",
    type=click.IntRange(1),
    default=Limits().registrations_per_minute,
    show_default=True,
    help="New devices per address.",
)
@click.option(
    "--token-lifetime-s",
    type=click.IntRange(60, 30 * 24 * 3600),
    default=Limits().token_lifetime_s,
    show_default=True,
    help="Seconds until a device's token ends.",
)
@json_option
@operations_options
def serve(
    *,
    store: str,
    keys: Path,
    database: str,
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    tls_client_ca: Path | None,
    insecure: bool,
    admin_port: int | None,
    admin_host: str,
    admin_tls_cert: Path | None,
    admin_tls_key: Path | None,
    admin_client_ca: Path | None,
    admin_certificates: tuple[str, ...],
    workers: int,
    max_streams: int,
    average_bits: float,
    registrations_per_minute: int,
    token_lifetime_s: int,
    operations: OperationsConfig,
    json_path: str | None,
) -> None:
    """Serve bundles and plans to devices over gRPC, until SIGTERM or Ctrl-C.

    Prints "listening on HOST:PORT" when it is ready, or its JSON; its log goes to stderr.
    """
    admin = None
    if admin_port is not None:
        admin = AdminListener(
            host=admin_host,
            port=admin_port,
            tls=_tls_files(admin_tls_cert, admin_tls_key, admin_client_ca),
            certificates=_certificates(admin_certificates),
        )
    config = ServerConfig(
        store=store,
        keys=keys,
        database=database,
        host=host,
        port=port,
        tls=_tls_files(tls_cert, tls_key, tls_client_ca),
        admin=admin,
        is_plaintext_allowed=insecure,
        workers=workers,
        policy=PlanPolicy(average_bits=average_bits),
        limits=Limits(
            registrations_per_minute=registrations_per_minute, token_lifetime_s=token_lifetime_s
        ),
        watch=WatchSettings(max_streams=max_streams),
        operations=operations,
    )
    _run(config, json_path)


def _run(config: ServerConfig, json_path: str | None) -> None:
    def announce(listening: Listening) -> None:
        result = {"address": listening.address, "is_encrypted": config.tls is not None}
        lines = [f"listening on {listening.address}"]
        if listening.admin_address:
            result["admin_address"] = listening.admin_address
            lines.append(f"admins on {listening.admin_address}")
        if listening.metrics_address:
            result["metrics_address"] = listening.metrics_address
            lines.append(f"metrics on {listening.metrics_address}")
        emit(
            result,
            render=lambda console: console.print("\n".join(lines), soft_wrap=True, markup=False),
            json_path=json_path,
        )

    if config.workers == 1:
        asyncio.run(serve_until_stopped(config, announce=announce))
        return
    options = click.get_current_context().params
    log_format, level = LogFormat(options["log_format"]), str(options["log_level"])
    prepare = partial(configure_logging, log_format, level)
    serve_with_workers(config, announce=announce, prepare=prepare)


def _certificates(entries: tuple[str, ...]) -> AdminCertificates:
    roles: dict[str, AdminRole] = {}
    for entry in entries:
        name, _, role = entry.rpartition("=")
        if role not in list(AdminRole):
            known = ", ".join(AdminRole)
            raise ConfigError(f"--admin-certificate: expected NAME={known}, got {entry!r}")
        roles[name] = AdminRole(role)
    return AdminCertificates(roles=roles)


def _tls_files(cert: Path | None, key: Path | None, client_ca: Path | None) -> TlsFiles | None:
    if cert is not None and key is not None:
        return TlsFiles(certificate=cert, key=key, client_ca=client_ca)
    if cert is not None or key is not None or client_ca is not None:
        raise ConfigError("expected a certificate and its key together")
    return None
