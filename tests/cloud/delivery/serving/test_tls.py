# SPDX-License-Identifier: Apache-2.0
"""Who gets through to a server with a certificate."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
)
from tests.cloud.delivery.devices import register_device

from pocketrec_cloud.delivery.serving.server import TlsFiles

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    """A certificate for localhost that signs itself."""
    return make_certificate(tmp_path)


def test_client_that_trusts_the_certificate_is_served(
    deployment: Deployment, files: TlsFiles
) -> None:
    """With the certificate as trust anchor, calls succeed."""
    credentials = grpc.ssl_channel_credentials(files.certificate.read_bytes())
    with (
        deployment.serve(tls=files) as target,
        grpc.secure_channel(target, credentials) as channel,
    ):
        assert is_registered(channel)


def test_client_that_does_not_trust_it_is_not(deployment: Deployment, files: TlsFiles) -> None:
    """Neither plaintext nor another trust anchor gets through."""
    (files.key.parent / "other").mkdir()
    other = make_certificate(files.key.parent / "other")
    credentials = grpc.ssl_channel_credentials(other.certificate.read_bytes())
    with deployment.serve(tls=files) as target:
        with grpc.insecure_channel(target) as plain:
            plain_code = refusal(plain)
        with grpc.secure_channel(target, credentials) as stranger:
            stranger_code = refusal(stranger)

    assert (plain_code, stranger_code) == (grpc.StatusCode.UNAVAILABLE,) * 2


def test_mutual_tls_asks_for_a_certificate(deployment: Deployment, files: TlsFiles) -> None:
    """With a client CA, only devices that it certified get through."""
    mutual = TlsFiles(certificate=files.certificate, key=files.key, client_ca=files.certificate)
    root = files.certificate.read_bytes()
    known = grpc.ssl_channel_credentials(root, files.key.read_bytes(), root)
    with deployment.serve(tls=mutual) as target:
        with grpc.secure_channel(target, known) as channel:
            assert is_registered(channel)
        with grpc.secure_channel(target, grpc.ssl_channel_credentials(root)) as stranger:
            code = refusal(stranger)

    assert code == grpc.StatusCode.UNAVAILABLE


def is_registered(channel: grpc.Channel) -> bool:
    """Return whether a device got a token."""
    return bool(register_device(channel).token)


def refusal(channel: grpc.Channel) -> grpc.StatusCode:
    """Return the code that registering fails with."""
    with pytest.raises(grpc.RpcError) as failure:
        is_registered(channel)
    return failure.value.code()


def make_certificate(folder: Path) -> TlsFiles:
    """Write a self-signed certificate for localhost and 127.0.0.1."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    names: list[x509.GeneralName] = [
        x509.DNSName("localhost"),
        x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
    ]
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    files = TlsFiles(certificate=folder / "cert.pem", key=folder / "key.pem")
    files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
    files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return files
