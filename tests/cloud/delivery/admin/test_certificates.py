# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

from typing import Any

import pytest
from tests.cloud.delivery.admin.serving import Authority

from pocketrec.errors import ConfigError
from pocketrec_cloud.delivery.admin.certificates import AdminCertificates, spki_sha256
from pocketrec_cloud.delivery.records import AdminRole


@pytest.fixture(scope="module")
def authority() -> Authority:
    """Who signs certificates."""
    return Authority()


class TestAdminCertificates:
    def test_common_name(self, authority: Authority) -> None:
        """The identity is the name, with its role."""
        known = AdminCertificates(roles={"vera": AdminRole.VIEWER})

        found = known.find(authority.certify("vera").certificate)

        assert found is not None
        assert (found.name, found.role) == ("vera", AdminRole.VIEWER)
        assert known.find(authority.certify("vera2").certificate) is None

    def test_two_common_names_are_none(self, authority: Authority) -> None:
        """Nobody picks the name that suits."""
        known = AdminCertificates(roles={"vera": AdminRole.VIEWER})

        assert known.find(authority.certify("eve", "vera").certificate) is None

    def test_a_name_cannot_pass_for_a_key(self, authority: Authority) -> None:
        """Whoever gets a name like a digest certified is not that key."""
        named = spki_sha256(authority.certify("vera").parsed)
        known = AdminCertificates(roles={named: AdminRole.OPERATOR})

        # A common name has at most 64 characters, so it could only be a part of the digest.
        assert known.find(authority.certify(named[:64]).certificate) is None

    def test_other_bytes_are_nobody(self) -> None:
        """What cannot be read is nobody's certificate."""
        assert AdminCertificates(roles={"vera": AdminRole.VIEWER}).find(b"rubbish") is None

    @pytest.mark.parametrize("name", ["", "sha256:", "sha256:" + "A" * 64, "sha256:" + "0" * 63])
    def test_names_are_checked(self, name: str) -> None:
        """A digest that is not whole would never match."""
        with pytest.raises(ConfigError, match="admin_certificates: expected a common name"):
            AdminCertificates(roles={name: AdminRole.VIEWER})

    def test_roles_are_checked(self) -> None:
        """A role is one of three."""
        roles: Any = {"vera": "operator"}

        with pytest.raises(ConfigError, match="expected an AdminRole"):
            AdminCertificates(roles=roles)
