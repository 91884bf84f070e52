# SPDX-License-Identifier: Apache-2.0
"""Foreign errors and connection settings, without a server."""

from __future__ import annotations

import inspect

import grpc
import pytest
from tuf.api import exceptions as tuf_errors

from pocketrec.errors import (
    ExpiredArtifactError,
    IntegrityError,
    MalformedArtifactError,
    PocketRecError,
    RollbackError,
    ServiceUnavailableError,
)
from pocketrec_device.tls import Tls
from pocketrec_device.transport import STATUS_ERRORS, ServiceClient, is_plain_text, service_error
from pocketrec_device.tuf_client import published_error


def test_every_status_code_has_a_meaning() -> None:
    """A new gRPC status must be given a class; OK is no error."""
    assert set(STATUS_ERRORS) == set(grpc.StatusCode) - {grpc.StatusCode.OK}


@pytest.mark.parametrize(
    ("target", "tls", "expected"),
    [
        ("127.0.0.1:1", None, True),
        ("localhost:1", None, True),
        ("[::1]:1", None, True),
        ("10.0.0.1:1", None, False),
        ("example.org:1", None, False),
        ("localhost.example.org:1", None, False),
        ("example.org:1", Tls(enabled=False), True),
        ("127.0.0.1:1", Tls(), False),
    ],
)
def test_plain_text_needs_this_machine_or_a_word(
    target: str, tls: Tls | None, *, expected: bool
) -> None:
    """The token crosses a network in plain text only when the app says so."""
    assert is_plain_text(target, tls) is expected


def test_a_connection_is_lazy() -> None:
    """Making a client dials nobody, so that a dead server costs nothing before a call."""
    with ServiceClient("127.0.0.1:1", tls=None, deadline_s=1) as client:
        assert client.target == "127.0.0.1:1"


@pytest.mark.parametrize(
    ("metadata", "ending"),
    [
        ((("x-request-id", "7de3f74bc50ffbde"),), "it broke (request 7de3f74bc50ffbde)"),
        ((("x-request-id", "no id\n<forged line>"),), "it broke"),
        ((("other", "7de3f74bc50ffbde"),), "it broke"),
        (None, "it broke"),
    ],
)
def test_errors_name_the_request(metadata: tuple[tuple[str, str], ...] | None, ending: str) -> None:
    """What the server calls a call finds it in the server's log; anything else is left out."""
    status = grpc.aio.AioRpcError(
        grpc.StatusCode.INTERNAL, grpc.aio.Metadata(), metadata, details="it broke"
    )

    error = service_error(status, "GetPlan at host:1")

    assert str(error) == f"GetPlan at host:1 failed with INTERNAL: {ending}"


TUF_ERRORS: list[tuple[Exception, type[PocketRecError]]] = [
    (tuf_errors.ExpiredMetadataError("x"), ExpiredArtifactError),
    (tuf_errors.BadVersionNumberError("version 1 must be >= 2"), RollbackError),
    (tuf_errors.EqualVersionNumberError("x"), RollbackError),
    (tuf_errors.UnsignedMetadataError("x"), IntegrityError),
    (tuf_errors.LengthOrHashMismatchError("x"), IntegrityError),
    (tuf_errors.DownloadLengthMismatchError("x"), IntegrityError),
    (tuf_errors.RepositoryError("x"), MalformedArtifactError),
    (tuf_errors.DownloadHTTPError("x", 500), ServiceUnavailableError),
    (tuf_errors.SlowRetrievalError("x"), ServiceUnavailableError),
    (tuf_errors.DownloadError("x"), ServiceUnavailableError),
]


class TestTufErrors:
    @pytest.mark.parametrize(
        ("error", "expected"),
        TUF_ERRORS,
    )
    def test_have_a_meaning(self, error: Exception, expected: type[PocketRecError]) -> None:
        """Each of python-tuf's errors becomes the one of ours that says who must act."""
        assert type(published_error(error)) is expected

    def test_are_all_listed_above(self) -> None:
        """A new class in python-tuf must be given a meaning."""
        own = {
            value
            for value in vars(tuf_errors).values()
            if inspect.isclass(value) and value.__module__ == tuf_errors.__name__
        }

        assert own == {type(error) for error, _ in TUF_ERRORS}

    def test_give_back_our_own_cause(self) -> None:
        """An error that our transport raised inside python-tuf comes out as it was."""
        ours = ServiceUnavailableError("down", code="UNAVAILABLE")
        wrapped = tuf_errors.DownloadError("Failed to download")
        wrapped.__cause__ = ours

        assert published_error(wrapped) is ours
