# SPDX-License-Identifier: Apache-2.0
"""The options of every command that calls the admin service: which server, and who calls.

::

    @click.command()
    @server_options
    @json_option
    def pushes(*, server: AdminEndpoint, json_path: str | None) -> None:
        with AdminClient(server) as client: ...
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.client import AdminEndpoint, AdminTls

__all__ = ["optional_server_options", "server_options"]

R = TypeVar("R")

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


def server_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add ``--server`` and its kin, which arrive as the argument ``server``: an AdminEndpoint.

    Args:
        command: The function below ``@click.command()``.
    """
    return _with_options(command, is_required=True)


def optional_server_options(command: Callable[..., R]) -> Callable[..., R]:
    """Add the same options; ``server`` is None when the command is given no server.

    Args:
        command: The function below ``@click.command()``.
    """
    return _with_options(command, is_required=False)


def _with_options(command: Callable[..., R], *, is_required: bool) -> Callable[..., R]:
    @functools.wraps(command)
    def wrapped(
        *,
        server: str | None,
        token_file: Path | None,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        insecure: bool,
        **others: Any,
    ) -> R:
        endpoint = None
        if server is not None:
            endpoint = AdminEndpoint(
                target=server,
                token="" if token_file is None else _read_token(token_file),
                tls=_tls(tls_ca, tls_cert, tls_key),
                is_plaintext=True if insecure else None,
            )
        return command(server=endpoint, **others)

    decorated: Callable[..., R] = wrapped
    for option in reversed(_options(is_required=is_required)):
        decorated = option(decorated)
    return decorated


def _options(*, is_required: bool) -> list[Callable[[Callable[..., R]], Callable[..., R]]]:
    return [
        click.option(
            "--server", metavar="HOST:PORT", required=is_required, help="Where admins call."
        ),
        click.option("--token-file", type=_FILE, help="File that holds the admin's token."),
        click.option(
            "--tls-ca", type=_FILE, help="PEM of the authorities to trust; default: system's."
        ),
        click.option(
            "--tls-cert", type=_FILE, help="PEM of the admin's certificate chain (mutual TLS)."
        ),
        click.option("--tls-key", type=_FILE, help="PEM of the certificate's private key."),
        click.option("--insecure", is_flag=True, help="Plain text also beyond this machine."),
    ]


def _read_token(path: Path) -> str:
    token = path.read_text(encoding="utf-8").strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ConfigError(f"{str(path)!r}: expected one line with an admin's token")
    return token


def _tls(ca: Path | None, cert: Path | None, key: Path | None) -> AdminTls | None:
    if ca is None and cert is None and key is None:
        return None
    return AdminTls(
        root_certificates=None if ca is None else ca.read_bytes(),
        certificate_chain=None if cert is None else cert.read_bytes(),
        private_key=None if key is None else key.read_bytes(),
    )
