# SPDX-License-Identifier: Apache-2.0
# ruff: noqa: N802  the names of calls come from the .proto

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
import grpc
import pytest
from click.testing import CliRunner

from pocketrec.errors import (
    ConfigError,
    DeadlineError,
    RejectedError,
    ServiceError,
    ServiceUnavailableError,
)
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint, AdminTls
from pocketrec_cloud.delivery.admin.options import optional_server_options, server_options
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_proto.v1.admin_service_pb2_grpc import (
    AdminServiceServicer,
    add_AdminServiceServicer_to_server,
)


class Echo(AdminServiceServicer):
    """Answers with what it was told, or with the status it was told to."""

    def ListPushes(
        self, request: pb.ListPushesRequest, context: grpc.ServicerContext
    ) -> pb.ListPushesResponse:
        """Return the caller's token as the admin of a push."""
        metadata = dict(context.invocation_metadata())
        return pb.ListPushesResponse(pushes=[pb.Push(admin=str(metadata["authorization"]))])

    def RevokeDevice(
        self, request: pb.RevokeDeviceRequest, context: grpc.ServicerContext
    ) -> pb.RevokeDeviceResponse:
        """Fail with the status that ``device_id`` names."""
        context.abort(grpc.StatusCode[request.device_id], request.reason)

    def PublishBundle(
        self, request_iterator: Iterator[pb.PublishBundleRequest], context: grpc.ServicerContext
    ) -> pb.PublishBundleResponse:
        """Count the messages."""
        return pb.PublishBundleResponse(version=sum(1 for _ in request_iterator))


@pytest.fixture
def target() -> Iterator[str]:
    """The address of a server on the loopback."""
    server = grpc.server(ThreadPoolExecutor(1))
    add_AdminServiceServicer_to_server(Echo(), server)  # type: ignore[abstract]  # three suffice
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(None).wait()


class TestCalls:
    def test_token_goes_along(self, target: str) -> None:
        """Every call says who makes it."""
        with AdminClient(AdminEndpoint(target=target, token="secret")) as client:
            response = client.call(client.stub.ListPushes, pb.ListPushesRequest())

        assert response.pushes[0].admin == "Bearer secret"

    def test_many_messages_are_sent_in_one_call(self, target: str) -> None:
        """A stream is consumed to its end."""
        with AdminClient(AdminEndpoint(target=target)) as client:
            messages = [pb.PublishBundleRequest()] * 3
            response = client.send(client.stub.PublishBundle, messages, deadline_s=10)

        assert response.version == 3

    @pytest.mark.parametrize(
        ("status", "expected"),
        [
            ("ABORTED", ServiceUnavailableError),
            ("UNAVAILABLE", ServiceUnavailableError),
            ("DEADLINE_EXCEEDED", DeadlineError),
            ("PERMISSION_DENIED", RejectedError),
            ("UNIMPLEMENTED", RejectedError),
        ],
    )
    def test_status_becomes_our_error(
        self, status: str, expected: type[ServiceError], target: str
    ) -> None:
        """The class says whether to try again, the code what the server said."""
        request = pb.RevokeDeviceRequest(device_id=status, reason="because")

        with (
            AdminClient(AdminEndpoint(target=target)) as client,
            pytest.raises(expected, match="because") as failure,
        ):
            client.call(client.stub.RevokeDevice, request)

        assert failure.value.code == status

    def test_deadline_has_to_be_positive(self) -> None:
        """A call that may take no time cannot be made."""
        with pytest.raises(ConfigError, match="deadline_s"):
            AdminClient(AdminEndpoint(target="localhost:1"), deadline_s=0)


class TestEndpoint:
    @pytest.mark.parametrize(
        ("host", "is_encrypted"),
        [("127.0.0.1", False), ("localhost", False), ("[::1]", False), ("cloud.example", True)],
    )
    def test_only_this_machine_is_called_in_plain_text(self, host: str, is_encrypted: bool) -> None:
        """A token never travels readable by default."""
        assert AdminEndpoint(target=f"{host}:1").is_encrypted is is_encrypted

    def test_certificates_encrypt_on_this_machine_too(self) -> None:
        """Who names certificates wants them used."""
        assert AdminEndpoint(target="localhost:1", tls=AdminTls()).is_encrypted

    @pytest.mark.parametrize("target", ["", "host", ":1", "host:port"])
    def test_what_is_no_address_is_refused(self, target: str) -> None:
        """The message shows the form."""
        with pytest.raises(ConfigError, match="HOST:PORT"):
            AdminEndpoint(target=target)

    def test_certificates_in_plain_text_are_refused(self) -> None:
        """One of both is a mistake."""
        with pytest.raises(ConfigError, match="plain text"):
            AdminEndpoint(target="host:1", tls=AdminTls(), is_plaintext=True)

    def test_key_without_certificate_is_refused(self) -> None:
        """Both are needed to show who calls."""
        with pytest.raises(ConfigError, match="belong together"):
            AdminTls(private_key=b"key")

    def test_token_is_not_shown(self) -> None:
        """A printed endpoint gives no secret away."""
        assert "secret" not in repr(AdminEndpoint(target="host:1", token="secret"))


class TestOptions:
    def test_options_become_an_endpoint(self, tmp_path: Path) -> None:
        """Files are read, and whitespace around the token does not count."""
        token = tmp_path / "token"
        token.write_text("secret\n")
        seen: list[AdminEndpoint] = []
        command = click.command()(server_options(lambda *, server: seen.append(server)))

        CliRunner().invoke(
            command,
            ["--server", "host:1", "--token-file", str(token), "--insecure"],
            catch_exceptions=False,
        )

        assert seen == [AdminEndpoint(target="host:1", token="secret", is_plaintext=True)]

    def test_empty_token_is_refused(self, tmp_path: Path) -> None:
        """A file without a token is a mistake, not nobody."""
        token = tmp_path / "token"
        token.write_text("\n")
        command = click.command()(server_options(lambda *, server: None))

        with pytest.raises(ConfigError, match="admin's token"):
            CliRunner().invoke(
                command,
                ["--server", "host:1", "--token-file", str(token)],
                catch_exceptions=False,
            )

    def test_server_may_be_optional(self) -> None:
        """A command that works with or without a server is told."""
        seen: list[AdminEndpoint | None] = []
        command = click.command()(optional_server_options(lambda *, server: seen.append(server)))

        CliRunner().invoke(command, [], catch_exceptions=False)

        assert seen == [None]
