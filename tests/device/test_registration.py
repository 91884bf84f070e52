# SPDX-License-Identifier: Apache-2.0
"""How a device becomes known, stays known, and what thieves and wrong clocks get."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest
from tests.device.identity_server import IdentityServer

from pocketrec.errors import RejectedError
from pocketrec.registration import device_id_of
from pocketrec_device.registration import forget_token, needs_token, registered
from pocketrec_device.state import DeviceState
from pocketrec_device.store import Store
from pocketrec_device.transport import ServiceClient
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_proto.v1.device_service_pb2_grpc import DeviceServiceStub

PROFILE = pb.DeviceProfile(backend="numpy 2.4", os="Linux")
NOW_S = 1_700_000_000
YEAR_S = 365 * 24 * 3600


@pytest.fixture
def server() -> Iterator[IdentityServer]:
    """A server."""
    with IdentityServer() as server:
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """The store of a device that has not registered yet."""
    return make_store(tmp_path / "device")


def make_store(path: Path) -> Store:
    """Make a store that trusts nobody."""
    store = Store(path)
    store.create("demo", None)
    return store


def register(
    store: Store,
    server: IdentityServer,
    *,
    now_s: float = NOW_S,
    profile: pb.DeviceProfile = PROFILE,
) -> DeviceState:
    """Do what a sync does first."""
    with (
        store.writing(),
        ServiceClient(server.target, tls=None, deadline_s=20) as client,
    ):
        return registered(store, client, profile, clock=lambda: now_s)


def device_of(server: IdentityServer, token: str) -> str:
    """Return whom a server takes the holder of a token for; empty = for nobody."""
    with ServiceClient(server.target, tls=None, deadline_s=20) as client:
        client.authenticate(token)
        try:
            return client.get_metadata("timestamp.json").decode()
        except RejectedError as exc:
            return exc.code.replace("UNAUTHENTICATED", "")


class TestFirstTime:
    def test_a_device_is_its_key(self, server: IdentityServer, store: Store) -> None:
        """The id follows from the key in the store, and the token is good."""
        state = register(store, server)

        assert state.device_id == device_id_of(store.device_key().public.raw)
        assert device_of(server, state.token) == state.device_id
        assert store.load() == state
        assert (state.token_lifetime_s, state.token_ends_at_s) == (3600, NOW_S + 3600)

    def test_the_key_stays(self, server: IdentityServer, store: Store) -> None:
        """Nobody else may read it, it is not sent, and pruning leaves it."""
        register(store, server)
        path = store.path / "device.key"
        pem, seed = path.read_bytes(), store.device_key().seed

        store.prune(store.load())

        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert path.read_bytes() == pem
        assert all(seed not in sent.SerializeToString() for sent in server.registrations)

    def test_facts_arrive(self, server: IdentityServer, store: Store) -> None:
        """What is told is what the server knows."""
        profile = pb.DeviceProfile(os="Android", app_version="2.1", locale="de", tags=["beta"])

        state = register(store, server, profile=profile)

        device = server.store.find_device(state.device_id)
        assert device is not None
        assert (device.os, device.app_version) == ("Android", "2.1")
        assert (device.locale, device.tags) == ("de", ("beta",))


class TestRenewal:
    def test_a_token_with_time_left_is_kept(self, server: IdentityServer, store: Store) -> None:
        """A sync soon after another one does not register."""
        first = register(store, server)

        again = register(store, server, now_s=NOW_S + 3600 - 360)

        assert again == first
        assert len(server.registrations) == 1

    def test_a_token_near_its_end_is_renewed(self, server: IdentityServer, store: Store) -> None:
        """With less than a tenth left there is a new one, for the same device."""
        first = register(store, server)

        again = register(store, server, now_s=NOW_S + 3600 - 359)

        assert again.token != first.token
        assert again.device_id == first.device_id

    def test_other_facts_are_told_at_once(self, server: IdentityServer, store: Store) -> None:
        """An app that was updated is known by its new version with the next sync."""
        state = register(store, server)
        newer = pb.DeviceProfile(backend="numpy 2.4", os="Linux", app_version="3.0")

        register(store, server, profile=newer)

        device = server.store.find_device(state.device_id)
        assert device is not None
        assert device.app_version == "3.0"

    @pytest.mark.parametrize(
        ("changes", "now_s", "expected"),
        [
            ({}, NOW_S, False),
            ({"token": ""}, NOW_S, True),
            ({"server": "other:1"}, NOW_S, True),
            ({"token_ends_at_s": 0, "token_lifetime_s": 0}, NOW_S, True),
            ({}, NOW_S + 3540, True),
            ({}, NOW_S + YEAR_S, True),
            ({}, NOW_S - 1, True),
            ({}, NOW_S - YEAR_S, True),
            ({"token_lifetime_s": 300, "token_ends_at_s": NOW_S + 60}, NOW_S, False),
            ({"token_lifetime_s": 300, "token_ends_at_s": NOW_S + 59}, NOW_S, True),
        ],
    )
    def test_when_it_is_due(
        self,
        server: IdentityServer,
        store: Store,
        changes: dict[str, object],
        *,
        now_s: int,
        expected: bool,
    ) -> None:
        """A tenth or a minute is left, or the clock cannot be right, or there is no token."""
        state = replace(register(store, server), **changes)

        assert needs_token(state, server.target, PROFILE, now_s) is expected


class TestThreats:
    def test_stolen_token_after_a_renewal(self, server: IdentityServer, store: Store) -> None:
        """A thief has a token until the device asks for the next one."""
        stolen = register(store, server).token
        assert device_of(server, stolen)

        renewed = register(store, server, now_s=NOW_S + 3500).token

        assert device_of(server, stolen) == ""
        assert device_of(server, renewed)

    def test_stolen_token_after_its_life(self, server: IdentityServer, store: Store) -> None:
        """The server's clock ends it, whatever the device does."""
        stolen = register(store, server).token
        server.now_s += 3600

        assert device_of(server, stolen) == ""

    def test_stolen_token_after_a_revocation(self, server: IdentityServer, store: Store) -> None:
        """A revoked device is nobody, and cannot become known again with its key."""
        state = register(store, server)
        server.store.revoke_device(state.device_id, int(server.now_s))

        assert device_of(server, state.token) == ""
        with pytest.raises(RejectedError, match="revoked") as refusal:
            register(store, server, now_s=NOW_S + 3600)
        assert refusal.value.code == "PERMISSION_DENIED"
        assert store.load() == state

    def test_token_of_another_server(self, server: IdentityServer, store: Store) -> None:
        """A server gets a token of its own, sees no other, and takes no other."""
        first = register(store, server)
        with IdentityServer() as other:
            second = register(store, other)

            assert device_of(other, first.token) == ""
            assert device_of(server, second.token) == ""
            assert first.device_id == second.device_id
            assert first.token not in str(other.registrations)

    def test_replayed_registration(self, server: IdentityServer, store: Store) -> None:
        """Who records a registration and sends it again gets nothing, and harms nobody."""
        state = register(store, server)
        with (
            grpc.insecure_channel(server.target) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            DeviceServiceStub(channel).Register(server.registrations[0], timeout=20)

        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert device_of(server, state.token) == state.device_id

    def test_registration_relayed_to_another_server(
        self, server: IdentityServer, store: Store
    ) -> None:
        """What was signed for one deployment is worth nothing at another one."""
        register(store, server)
        with (
            IdentityServer() as other,
            grpc.insecure_channel(other.target) as channel,
            pytest.raises(grpc.RpcError) as caught,
        ):
            DeviceServiceStub(channel).Register(server.registrations[0], timeout=20)

        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED

    @pytest.mark.parametrize("now_s", [0, NOW_S - 30 * YEAR_S, NOW_S + 50 * YEAR_S])
    def test_clock_wrong_by_years(self, server: IdentityServer, store: Store, now_s: float) -> None:
        """Device and server need not agree on the time, and the token is kept as usual."""
        state = register(store, server, now_s=now_s)
        register(store, server, now_s=now_s + 1800)

        assert device_of(server, state.token) == state.device_id
        assert len(server.registrations) == 1

    @pytest.mark.parametrize("jump_s", [-10 * YEAR_S, -1, 10 * YEAR_S])
    def test_clock_that_is_set(self, server: IdentityServer, store: Store, jump_s: int) -> None:
        """A clock that jumps costs a registration, no more."""
        register(store, server)

        state = register(store, server, now_s=NOW_S + jump_s)

        assert len(server.registrations) == 2
        assert device_of(server, state.token) == state.device_id

    @pytest.mark.parametrize("damage", [None, b"", b"rubbish", bytes(119)])
    def test_damaged_key(self, server: IdentityServer, store: Store, damage: bytes | None) -> None:
        """A device that lost its key becomes another device, with a key that lasts."""
        first = register(store, server)
        path = store.path / "device.key"
        if damage is None:
            path.unlink()
        else:
            path.write_bytes(damage)

        kept = register(store, server)
        second = register(store, server, now_s=NOW_S + 3600)
        third = register(store, server, now_s=NOW_S + 7200)

        assert kept == first  # the token it has is good until it ends
        assert second.device_id != first.device_id
        assert third.device_id == second.device_id
        assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def test_copied_store(self, server: IdentityServer, store: Store, tmp_path: Path) -> None:
        """Two copies are one device to the server: only the newest token is good."""
        register(store, server)
        twin = make_store(tmp_path / "twin")
        (twin.path / "device.key").write_bytes((store.path / "device.key").read_bytes())

        newer = register(twin, server)

        assert newer.device_id == store.load().device_id
        assert device_of(server, store.load().token) == ""


class TestForgetting:
    def test_a_token_that_is_not_taken_is_replaced(
        self, server: IdentityServer, store: Store
    ) -> None:
        """Without its token the device registers again, as the same device."""
        first = register(store, server)
        with store.writing():
            forget_token(store)

        second = register(store, server)

        assert second.device_id == first.device_id
        assert second.token != first.token
