# SPDX-License-Identifier: Apache-2.0
"""Syncing with a real server over a real socket, when nobody means harm."""

from __future__ import annotations

import ipaddress
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from pocketrec.errors import (
    ConfigError,
    IncompatibleArtifactError,
    MissingExtraError,
    RejectedError,
    ServiceUnavailableError,
    StoreError,
    StoreLockedError,
)
from pocketrec_cloud.delivery.publishing.repository import renew_repository
from pocketrec_cloud.delivery.serving.server import ServerConfig, TlsFiles
from pocketrec_cloud.delivery.testing import serve_in_thread
from pocketrec_device import DeviceFacts, Runtime, Tls
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import BundleFolder

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import Deployment
    from tests.device.man_in_the_middle import ManInTheMiddle

MakeDevice = Callable[..., Runtime]
MakeBundle = Callable[..., BundleFolder]
EVERYTHING = tuple("abcdefghijkl")


class TestFirstSync:
    def test_installs_bundle_and_plan(self, target: str, make_device: MakeDevice) -> None:
        """A new device fetches everything and ranks."""
        device = make_device()

        report = device.sync(target, subject="ann")

        assert (report.bundle_version, report.plan_version) == (1, 1)
        assert report.is_bundle_new
        assert report.is_plan_new
        assert report.parts_downloaded == 7
        device.observe("a")
        assert len(device.rerank(EVERYTHING, 3)) == 3

    def test_shows_in_the_status(self, target: str, make_device: MakeDevice) -> None:
        """The status names server, bundle and plan, and tells the plan's bytes apart."""
        device = make_device()
        device.sync(target, subject="ann", average_bits=4)

        status = device.status()

        assert status.server == target
        assert status.device_id
        assert status.current is not None
        assert (status.current.subject, status.current.planner) == ("ann", "global")
        assert status.current.signature_bytes == 64
        assert not status.current.is_expired

    def test_is_kept_for_the_next_start(self, target: str, make_device: MakeDevice) -> None:
        """What was synced is what a restart finds, without a network."""
        device = make_device()
        device.sync(target)
        device.observe("a")

        with Runtime.open(device._store.path, backend="numpy") as restarted:
            restarted.observe("a")
            assert restarted.rerank(EVERYTHING, 12) == device.rerank(EVERYTHING, 12)

    def test_needs_a_root_of_trust(self, target: str, tmp_path: Path) -> None:
        """Without root metadata nothing a server says can be believed."""
        device = Runtime.create(tmp_path / "device", model="demo", backend="numpy")

        with pytest.raises(StoreError, match="no root of trust"):
            device.sync(target)

    def test_of_a_model_that_is_not_published_is_rejected(
        self, target: str, deployment: Deployment, tmp_path: Path
    ) -> None:
        """A wrong model name is answered with what to check."""
        store = Store(tmp_path / "other")
        store.create("other", deployment.root)

        with pytest.raises(RejectedError, match=r"other/manifest\.pb") as caught:
            Runtime(store).sync(target)

        assert caught.value.code == "NOT_FOUND"


class TestNextSync:
    def test_downloads_nothing_when_nothing_is_new(
        self, middle: ManInTheMiddle, make_device: MakeDevice
    ) -> None:
        """An unchanged bundle costs its manifest, an unchanged plan one short call."""
        device = make_device()
        device.sync(middle.target)
        middle.calls.clear()

        report = device.sync(middle.target)

        assert not report.is_bundle_new
        assert not report.is_plan_new
        assert (report.parts_downloaded, report.parts_reused, report.bytes_downloaded) == (0, 7, 0)
        fetched = {request.target_path for request in middle.requests("FetchChunk")}
        assert fetched == {"demo/manifest.pb", "director.json"}
        assert not middle.requests("Register")

    def test_downloads_changed_parts_only(
        self,
        target: str,
        deployment: Deployment,
        make_device: MakeDevice,
        make_bundle: MakeBundle,
        make_items: Callable[..., object],
    ) -> None:
        """A new item table is one part and new vectors; the plan stays valid."""
        device = make_device()
        device.sync(target)
        deployment.publish(make_bundle(version=2, items=make_items(2)))

        report = device.sync(target)

        assert (report.parts_downloaded, report.parts_reused) == (2, 5)
        assert report.is_bundle_new
        assert not report.is_plan_new

    def test_replaces_bundle_and_plan_together(
        self,
        target: str,
        deployment: Deployment,
        make_device: MakeDevice,
        make_bundle: MakeBundle,
    ) -> None:
        """New weights come with a plan for them."""
        device = make_device()
        device.sync(target)
        deployment.publish(make_bundle(version=2, seed=1))

        report = device.sync(target)

        assert (report.bundle_version, report.plan_version) == (2, 1)
        assert report.is_plan_new

    def test_can_ask_for_another_budget(self, target: str, make_device: MakeDevice) -> None:
        """More bits make another plan, of a higher version."""
        device = make_device()
        device.sync(target, average_bits=3)

        report = device.sync(target, average_bits=6)

        assert report.plan_version == 2
        status = device.status()
        assert status.current is not None
        assert status.current.effective_bits > 5

    def test_serves_several_subjects(self, target: str, make_device: MakeDevice) -> None:
        """Users take turns on one device; going back gives the plan that was good before."""
        device = make_device()
        device.sync(target, subject="ann", average_bits=3)
        device.sync(target, subject="bob", average_bits=3)

        report = device.sync(target, subject="ann", average_bits=3)

        assert report.plan_version == 1
        status = device.status()
        assert status.current is not None
        assert status.current.subject == "ann"

    def test_replaces_a_plan_that_expired_meanwhile(
        self, deployment: Deployment, make_device: MakeDevice
    ) -> None:
        """A device that was away for long asks anew."""
        past = time.time() - 8 * 24 * 3600
        with deployment.serve(clock=lambda: past) as target:
            make_device(clock=lambda: past).sync(target)
        device = make_device()
        before = device.status().current
        assert before is not None
        assert before.is_expired

        with deployment.serve() as target:
            report = device.sync(target)

        after = device.status().current
        assert after is not None
        assert (report.plan_version, after.is_expired) == (2, False)

    def test_repairs_a_damaged_part(self, target: str, make_device: MakeDevice) -> None:
        """A part that went bad on disk is fetched again."""
        device = make_device()
        device.sync(target)
        part = max(device._store.path.glob("bundles/*/parts/*"), key=lambda p: p.stat().st_size)
        part.write_bytes(b"damaged")

        report = device.sync(target)

        assert (report.parts_downloaded, report.parts_reused) == (1, 6)
        assert Runtime.open(device._store.path, backend="numpy").problem == ""

    def test_follows_renewed_keys(
        self, target: str, deployment: Deployment, make_device: MakeDevice, make_bundle: MakeBundle
    ) -> None:
        """After every online and targets key was replaced, the root vouches for the new ones."""
        device = make_device()
        device.sync(target)
        for name in ("offline/targets", "online/snapshot", "online/timestamp"):
            (deployment.config.keys / f"{name}.pem").unlink()
        from pocketrec.signing import SigningKey

        for name in ("offline/targets", "online/snapshot", "online/timestamp"):
            SigningKey.generate().save(deployment.config.keys / f"{name}.pem")
        with deployment.storage() as storage:
            renew_repository(storage, deployment.config.keys)
        deployment.publish(make_bundle(version=2, seed=1))

        assert device.sync(target).bundle_version == 2


class TestRegistration:
    def test_happens_again_when_the_server_forgot(
        self, deployment: Deployment, make_device: MakeDevice, middle: ManInTheMiddle
    ) -> None:
        """A server that lost its records gets to know the device again, once."""
        device = make_device()
        device.sync(middle.target)
        store = device._store
        with store.writing():
            store.save(replace(store.load(), token="unknown to the server"))

        device.sync(middle.target)

        assert len(middle.requests("Register")) == 2
        assert store.load().token != "unknown to the server"

    def test_sends_a_token_to_its_own_server_only(
        self, deployment: Deployment, target: str, make_device: MakeDevice
    ) -> None:
        """Another server is registered with; it never sees the first one's token."""
        device = make_device()
        device.sync(target)
        first = device._store.load().token

        with deployment.serve() as other:
            device.sync(other)

            assert device._store.load().server == other
            assert device._store.load().token != first

    def test_happens_once_while_the_token_lives(
        self, middle: ManInTheMiddle, make_device: MakeDevice
    ) -> None:
        """A restarted app goes on with the token and the key in its store."""
        for _ in range(2):
            make_device().sync(middle.target)

        assert len(middle.requests("Register")) == 1

    def test_tells_what_the_app_declares(
        self, middle: ManInTheMiddle, deployment: Deployment, tmp_path: Path
    ) -> None:
        """Facts are told as they are now, once."""
        for version in ("2.0", "2.0", "2.1"):
            facts = DeviceFacts(app_version=version, locale="de-AT", tags=("beta",))
            device = Runtime.create(
                tmp_path / "told", model="demo", root=deployment.root, backend="numpy", facts=facts
            )
            device.sync(middle.target)

        told = [request.profile for request in middle.requests("Register")]
        assert [profile.app_version for profile in told] == ["2.0", "2.1"]
        assert (told[0].locale, list(told[0].tags)) == ("de-AT", ["beta"])

    def test_tells_nothing_about_the_user(
        self, middle: ManInTheMiddle, make_device: MakeDevice
    ) -> None:
        """No message holds an item of the history."""
        device = make_device()
        device.sync(middle.target)
        device.observe_many(["a", "b", "c"])

        device.sync(middle.target, subject="ann")

        profile = middle.requests("Register")[0].profile
        assert profile.backend.startswith("numpy ")
        request = middle.requests("GetPlan")[-1]
        assert request.subject == "ann"
        assert not request.HasField("user_embedding")


class TestAfterRollback:
    def test_the_bundle_left_behind_stays_away(
        self, target: str, deployment: Deployment, make_device: MakeDevice, make_bundle: MakeBundle
    ) -> None:
        """A sync does not undo a rollback; a newer bundle ends it."""
        device = make_device()
        device.sync(target)
        deployment.publish(make_bundle(version=2, seed=1))
        device.sync(target)
        device.rollback()

        held = device.sync(target)
        deployment.publish(make_bundle(version=3, seed=2))
        freed = device.sync(target)

        assert (held.bundle_version, held.is_held_back) == (1, True)
        assert (freed.bundle_version, freed.is_held_back) == (3, False)


class TestDefaultPlanOnly:
    @pytest.fixture(autouse=True)
    def _numpy_is_such_a_backend(self, monkeypatch: pytest.MonkeyPatch) -> None:
        only = frozenset({"numpy"})
        monkeypatch.setattr("pocketrec_device.sync.DEFAULT_PLAN_ONLY", only)

    def test_fetches_bundles_without_asking_for_plans(
        self, middle: ManInTheMiddle, make_device: MakeDevice
    ) -> None:
        """A backend with weights baked in is kept up to date with bundles alone."""
        report = make_device().sync(middle.target)

        assert (report.bundle_version, report.plan_version) == (1, 0)
        assert not middle.requests("GetPlan")

    def test_refuses_a_wish_for_a_plan(self, target: str, make_device: MakeDevice) -> None:
        """Nobody is led to believe that a personal plan runs."""
        with pytest.raises(IncompatibleArtifactError, match="default plan only"):
            make_device().sync(target, subject="ann")


class TestArguments:
    @pytest.mark.parametrize("library", ["grpc", "tuf", "cryptography"])
    def test_a_missing_library_names_the_command(
        self, make_device: MakeDevice, monkeypatch: pytest.MonkeyPatch, library: str
    ) -> None:
        """Without the network's libraries a sync says what to install."""
        monkeypatch.setitem(sys.modules, library, None)

        with pytest.raises(MissingExtraError, match=r"pip install 'pocketrec\[device\]'"):
            make_device().sync("127.0.0.1:1")

    @pytest.mark.parametrize("target", ["", "nowhere", "host:", ":80", "host:http"])
    def test_a_target_is_host_and_port(self, make_device: MakeDevice, target: str) -> None:
        """Anything else is refused before a packet is sent."""
        with pytest.raises(ConfigError, match="target"):
            make_device().sync(target)

    @pytest.mark.parametrize(
        "arguments",
        [{"subject": "x" * 129}, {"average_bits": -1}, {"average_bits": 9}, {"deadline_s": 0}],
    )
    def test_numbers_have_bounds(
        self, make_device: MakeDevice, arguments: dict[str, object]
    ) -> None:
        """What no server would accept is refused at once."""
        with pytest.raises(ConfigError):
            make_device().sync("127.0.0.1:1", **arguments)

    def test_only_one_sync_at_a_time(self, target: str, make_device: MakeDevice) -> None:
        """A second writer is told to wait."""
        device = make_device()
        with device._store.writing(), pytest.raises(StoreLockedError):
            device.sync(target)


class TestTls:
    @pytest.fixture
    def secure(self, deployment: Deployment, tmp_path: Path) -> ServerConfig:
        """A server with a certificate of its own making."""
        key = ec.generate_private_key(ec.SECP256R1())
        name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
        now = datetime.now(UTC)
        alternatives = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        certificate = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(hours=1))
            .add_extension(x509.SubjectAlternativeName(alternatives), critical=False)
            .sign(key, hashes.SHA256())
        )
        files = TlsFiles(certificate=tmp_path / "tls.pem", key=tmp_path / "tls.key")
        files.certificate.write_bytes(certificate.public_bytes(Encoding.PEM))
        files.key.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        return replace(deployment.config, tls=files)

    def test_syncs_with_a_trusted_certificate(
        self, secure: ServerConfig, make_device: MakeDevice
    ) -> None:
        """A device that trusts the certificate syncs over TLS."""
        assert secure.tls is not None
        tls = Tls(root_certificates=secure.tls.certificate.read_bytes())
        with serve_in_thread(secure) as target:
            assert make_device().sync(target, tls=tls).bundle_version == 1

    def test_refuses_an_unknown_certificate(
        self, secure: ServerConfig, make_device: MakeDevice
    ) -> None:
        """With the system's roots a self-made certificate is nobody's."""
        with serve_in_thread(secure) as target, pytest.raises(ServiceUnavailableError):
            make_device().sync(target, tls=Tls(), deadline_s=5)

    def test_halves_of_a_key_are_refused(self) -> None:
        """A key without its chain, or certificates without TLS, make no sense."""
        with pytest.raises(ConfigError, match="belong together"):
            Tls(private_key=b"key")
        with pytest.raises(ConfigError, match="enabled=False"):
            Tls(enabled=False, root_certificates=b"roots")
