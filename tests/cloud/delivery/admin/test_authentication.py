# SPDX-License-Identifier: Apache-2.0
"""Who gets through to the admin service, over real sockets."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.admin.serving import Authority, Identity, serve_admins

from pocketrec.errors import ServiceError
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates, spki_sha256
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint, AdminTls
from pocketrec_cloud.delivery.admin.service import AdminService
from pocketrec_cloud.delivery.boundary.rate_limit import RateLimiter
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_proto.v1 import admin_service_pb2 as pb

if TYPE_CHECKING:
    from tests.cloud.delivery.admin.conftest import AdminClock

AddAdmin = Callable[..., str]
Serve = Callable[[dict[str, AdminRole]], AbstractContextManager[str]]


def answer_of(target: str, token: str = "", tls: AdminTls | None = None) -> str:
    """Return "OK", or the status that looking at the audit log ends with."""
    with AdminClient(AdminEndpoint(target=target, token=token, tls=tls)) as client:
        try:
            client.call(client.stub.ListAuditLog, pb.ListAuditLogRequest())
        except ServiceError as exc:
            return exc.code
        return "OK"


def revoke(target: str, token: str = "", tls: AdminTls | None = None) -> str:
    """Return the status that revoking a device that does not exist ends with."""
    with AdminClient(AdminEndpoint(target=target, token=token, tls=tls)) as client:
        with pytest.raises(ServiceError) as refusal:
            client.call(client.stub.RevokeDevice, pb.RevokeDeviceRequest(device_id="0" * 32))
        return refusal.value.code


class TestTokens:
    @pytest.fixture
    def target(self, service: AdminService) -> Iterator[str]:
        """The address of a server."""
        with serve_admins(service) as target:
            yield target

    def test_a_role_decides(self, target: str, add_admin: AddAdmin) -> None:
        """Who may look may not revoke; who may revoke may look too."""
        viewer, operator = add_admin("vera", AdminRole.VIEWER), add_admin("o", AdminRole.OPERATOR)

        assert answer_of(target, viewer) == answer_of(target, operator) == "OK"
        assert revoke(target, viewer) == "PERMISSION_DENIED"
        assert revoke(target, operator) == "NOT_FOUND"

    @pytest.mark.parametrize("token", ["", "wrong", "Bearer"])
    def test_others_are_refused(self, target: str, add_admin: AddAdmin, token: str) -> None:
        """Without a token of an admin nothing is told."""
        add_admin("vera", AdminRole.VIEWER)

        assert answer_of(target, token) == "UNAUTHENTICATED"

    def test_a_token_expires(self, target: str, add_admin: AddAdmin, clock: AdminClock) -> None:
        """From its expiry on a token is worth nothing."""
        token = add_admin("vera", AdminRole.VIEWER, expires_at_s=int(clock()) + 1)
        before = answer_of(target, token)
        clock.now_s += 1

        assert (before, answer_of(target, token)) == ("OK", "UNAUTHENTICATED")

    def test_a_removed_admin_is_refused(
        self, target: str, add_admin: AddAdmin, service: AdminService
    ) -> None:
        """The next call after the removal fails."""
        token = add_admin("vera", AdminRole.VIEWER)
        before = answer_of(target, token)
        service.store.remove_admin("vera")

        assert (before, answer_of(target, token)) == ("OK", "UNAUTHENTICATED")


class TestFailures:
    def test_guessing_is_slowed_down_and_logged(
        self, service: AdminService, add_admin: AddAdmin, caplog: pytest.LogCaptureFixture
    ) -> None:
        """After some failures an address is not listened to, and the log says who and why."""
        token = add_admin("vera", AdminRole.VIEWER)
        now_s = [0.0]
        with (
            caplog.at_level(logging.WARNING),
            serve_admins(service, failures=RateLimiter(2, lambda: now_s[0])) as target,
        ):
            answers = [answer_of(target, "guess") for _ in range(3)]
            locked_out = answer_of(target, token)
            now_s[0] = 60.0
            later = answer_of(target, token)

        assert answers == ["UNAUTHENTICATED", "UNAUTHENTICATED", "RESOURCE_EXHAUSTED"]
        assert (locked_out, later) == ("RESOURCE_EXHAUSTED", "OK")
        assert "an admin call from 127.0.0.1 was refused: unknown token" in caplog.text
        assert "guess" not in caplog.text

    def test_good_calls_are_not_counted(self, service: AdminService, add_admin: AddAdmin) -> None:
        """An admin may call as often as needed."""
        token = add_admin("vera", AdminRole.VIEWER)
        with serve_admins(service, failures=RateLimiter(1, lambda: 0.0)) as target:
            assert [answer_of(target, token) for _ in range(3)] == ["OK"] * 3


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who certifies servers and admins."""
    return Authority()


class TestCertificates:
    @pytest.fixture
    def serve(self, authority: Authority, service: AdminService) -> Serve:
        """Serves those that the authority certified."""
        own = authority.certify("server")
        credentials = grpc.ssl_server_credentials(
            [(own.key, own.certificate)], authority.certificate, require_client_auth=True
        )
        return lambda roles: serve_admins(
            service, certificates=AdminCertificates(roles=roles), credentials=credentials
        )

    @staticmethod
    def tls(authority: Authority, identity: Identity) -> AdminTls:
        """Return how somebody with a certificate calls."""
        return AdminTls(
            root_certificates=authority.certificate,
            private_key=identity.key,
            certificate_chain=identity.certificate,
        )

    def test_a_common_name_stands_for_a_role(self, serve: Serve, authority: Authority) -> None:
        """A certificate takes the place of a token."""
        tls = self.tls(authority, authority.certify("vera"))
        with serve({"vera": AdminRole.VIEWER}) as target:
            assert answer_of(target, tls=tls) == "OK"
            assert revoke(target, tls=tls) == "PERMISSION_DENIED"

    def test_a_public_key_stands_for_a_role(self, serve: Serve, authority: Authority) -> None:
        """A key that is named wins over the name in its certificate."""
        identity = authority.certify("vera")
        roles = {"vera": AdminRole.VIEWER, spki_sha256(identity.parsed): AdminRole.OPERATOR}
        with serve(roles) as target:
            assert revoke(target, tls=self.tls(authority, identity)) == "NOT_FOUND"

    def test_other_certificates_are_refused(self, serve: Serve, authority: Authority) -> None:
        """To be certified is not to be an admin."""
        with serve({"vera": AdminRole.VIEWER}) as target:
            tls = self.tls(authority, authority.certify("eve"))
            assert answer_of(target, tls=tls) == "UNAUTHENTICATED"

    def test_a_token_counts_alone(
        self,
        serve: Serve,
        authority: Authority,
        add_admin: AddAdmin,
    ) -> None:
        """Who sends a wrong token does not fall back on the certificate."""
        tls = self.tls(authority, authority.certify("vera"))
        token = add_admin("vera", AdminRole.OPERATOR)
        with serve({"vera": AdminRole.VIEWER}) as target:
            assert answer_of(target, "wrong", tls) == "UNAUTHENTICATED"
            assert revoke(target, token, tls) == "NOT_FOUND"
