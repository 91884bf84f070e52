# SPDX-License-Identifier: Apache-2.0
"""Nobody gets in with what was said before, what was stolen, or what another server gave."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from tests.cloud.delivery.devices import Device, signed_request
from tests.faults.servers import DEADLINE_S, Site, bearer
from tests.faults.watchers import watch

from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.keys import KeyFolder
from pocketrec_proto.v1 import admin_service_pb2 as admin_pb
from pocketrec_proto.v1 import device_service_pb2 as pb

if TYPE_CHECKING:
    from tests.device.conftest import Deployment

pytestmark = [pytest.mark.faults, pytest.mark.slow]

UNAUTHENTICATED = grpc.StatusCode.UNAUTHENTICATED


def status_of(call: Callable[[], object]) -> grpc.StatusCode:
    """Return how a call ends."""
    try:
        call()
    except grpc.RpcError as exc:
        status: grpc.StatusCode = exc.code()  # type: ignore[attr-defined]
        return status
    return grpc.StatusCode.OK


def ask(site: Site, device: Device) -> grpc.StatusCode:
    """Ask for a plan with a device's token, and return how that ends."""
    request = site.plan_request()
    with site.channel() as stub:
        return status_of(
            lambda: stub.GetPlan(request, metadata=device.metadata, timeout=DEADLINE_S)
        )


def challenge_of(site: Site, key: SigningKey) -> bytes:
    """Ask for a challenge."""
    with site.channel() as stub:
        request = pb.GetChallengeRequest(public_key=key.public.raw)
        return bytes(stub.GetChallenge(request, timeout=DEADLINE_S).challenge)


def send(site: Site, request: pb.RegisterRequest) -> grpc.StatusCode:
    """Send a registration, and return how that ends."""
    with site.channel() as stub:
        return status_of(lambda: stub.Register(request, timeout=DEADLINE_S))


def revoke(site: Site, device: Device) -> None:
    """Take a device's rights away."""
    request = admin_pb.RevokeDeviceRequest(device_id=device.device_id, reason="stolen")
    with site.admin() as stub:
        stub.RevokeDevice(request, metadata=bearer(site.token), timeout=DEADLINE_S)


@pytest.fixture
def stranger(
    deployment: Deployment, make_site: Callable[..., Site], tmp_path: Path
) -> Iterator[Site]:
    """A server of the same store whose director key, and database, are its own."""
    folder = tmp_path / "stranger"
    shutil.copytree(deployment.folder, folder)
    shutil.rmtree(folder / "keys")
    KeyFolder(folder / "keys").create()
    site = make_site()
    with ExitStack() as stack:
        other = Site(folder, site.model_digest, site.token)
        stack.callback(other.close)
        other.start()
        yield other


class TestRegistration:
    def test_recorded_registration_is_refused(self, make_site: Callable[..., Site]) -> None:
        """It was used, and stays used, before and after the server was killed."""
        site, key = make_site(), SigningKey.generate()
        site.start()
        request = signed_request(key, challenge_of(site, key))

        first, again = send(site, request), send(site, request)
        site.kill()
        site.start()

        assert (first, again) == (grpc.StatusCode.OK, UNAUTHENTICATED)
        assert send(site, request) is UNAUTHENTICATED
        site.check()

    def test_challenge_of_another_server_or_device_is_refused(
        self, site: Site, stranger: Site
    ) -> None:
        """A challenge counts where it was made, for the key it was made for."""
        key, other = SigningKey.generate(), SigningKey.generate()

        foreign = send(site, signed_request(key, challenge_of(stranger, key)))
        borrowed = send(site, signed_request(key, challenge_of(site, other)))

        assert (foreign, borrowed) == (UNAUTHENTICATED, UNAUTHENTICATED)
        site.check()

    def test_registration_in_the_name_of_another_key_is_refused(self, site: Site) -> None:
        """Who cannot sign with a key does not get its device's token."""
        victim, thief = SigningKey.generate(), SigningKey.generate()
        challenge = challenge_of(site, victim)
        request = signed_request(thief, challenge)
        request.public_key = victim.public.raw

        assert send(site, request) is UNAUTHENTICATED
        site.check()


class TestStolenToken:
    def test_ends_with_the_next_registration(self, site: Site) -> None:
        """A device that renews its token takes it from whoever copied it."""
        device = site.register()
        before = ask(site, device)
        renewed = site.register(device.key)

        assert before is grpc.StatusCode.OK
        assert (ask(site, device), ask(site, renewed)) == (UNAUTHENTICATED, grpc.StatusCode.OK)
        site.check()

    def test_ends_with_a_revocation_and_so_does_its_stream(
        self, make_site: Callable[..., Site]
    ) -> None:
        """Nothing is answered any more, an open stream ends, and the key does not register."""
        site = make_site(watch={"session_check_s": 0.5})
        site.start()
        device = site.register()

        with site.channel() as stub:
            stream = watch(site, stub, device, "ann")
            next(stream)
            revoke(site, device)
            stream_end = status_of(lambda: list(stream))

        assert stream_end is UNAUTHENTICATED
        assert ask(site, device) is UNAUTHENTICATED
        again = send(site, signed_request(device.key, challenge_of(site, device.key)))
        assert again is grpc.StatusCode.PERMISSION_DENIED
        site.check()

    def test_ends_with_its_time_and_so_does_its_stream(
        self, make_site: Callable[..., Site]
    ) -> None:
        """An hour here is a second."""
        site = make_site(limits={"token_lifetime_s": 2})
        site.start()
        device = site.register()
        with site.channel() as stub:
            stream = watch(site, stub, device, "ann")
            next(stream)
            stream_end = status_of(lambda: list(stream))

        assert stream_end is UNAUTHENTICATED
        assert ask(site, device) is UNAUTHENTICATED
        site.check()

    def test_counts_nowhere_else(self, site: Site, stranger: Site) -> None:
        """A token of another server, or of an admin, is no device's, nor the other way round."""
        theirs, ours = stranger.register(), site.register()
        request = site.plan_request()

        with site.channel() as stub, site.admin() as admin:
            as_admin = status_of(
                lambda: stub.GetPlan(request, metadata=bearer(site.token), timeout=DEADLINE_S)
            )
            as_device = status_of(
                lambda: admin.ListDevices(
                    admin_pb.ListDevicesRequest(), metadata=ours.metadata, timeout=DEADLINE_S
                )
            )

        assert ask(site, theirs) is UNAUTHENTICATED
        assert (as_admin, as_device) == (UNAUTHENTICATED, UNAUTHENTICATED)
        site.check()
