# SPDX-License-Identifier: Apache-2.0
"""Bundles are published through a real admin service that has no offline key."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.cloud.delivery.admin.serving import serve_admins
from tests.cloud.delivery.conftest import add_extractor, make_sensitivity
from tests.cloud.delivery.tuf_clients import download
from tuf.api.metadata import Metadata, Snapshot, TargetFile, Targets, Timestamp

from pocketrec.errors import (
    ConfigError,
    IntegrityError,
    RejectedError,
    RollbackError,
    ServiceError,
    ServiceUnavailableError,
)
from pocketrec_cloud.delivery.admin.client import AdminClient, AdminEndpoint
from pocketrec_cloud.delivery.publishing.keys import KeyFolder, Role
from pocketrec_cloud.delivery.publishing.publication import read_publication
from pocketrec_cloud.delivery.publishing.remote import RemotePublisher
from pocketrec_cloud.delivery.publishing.repository import to_datetime
from pocketrec_cloud.delivery.publishing.targets import find_line, list_bundle
from pocketrec_cloud.delivery.publishing.tuf_editor import sign_next
from pocketrec_cloud.delivery.records import AdminRole
from pocketrec_proto.v1 import admin_service_pb2 as pb
from pocketrec_quantization.bundle import CARD, ITEMS, BundleFolder, decode_manifest
from pocketrec_quantization.bundle import encode_manifest as encode
from pocketrec_quantization.testing import tiny_personal_planner

if TYPE_CHECKING:
    from tests.cloud.delivery.conftest import Deployment

    from pocketrec_cloud.delivery.admin.service import AdminService


@dataclass(frozen=True, kw_only=True)
class Site:
    """A server without offline keys, and a publisher's machine without online keys."""

    server: Deployment
    offline: Path
    client: AdminClient
    inboxes: Path

    def publisher(self, keys: Path | None = None) -> RemotePublisher:
        """Return what publishes from the publisher's machine."""
        return RemotePublisher(self.client, keys or self.offline, clock=self.server.clock)

    def publish(self, bundle: BundleFolder, *, is_candidate: bool = False) -> None:
        """Publish a bundle from the publisher's machine."""
        self.publisher().publish(bundle, make_sensitivity(bundle), is_candidate=is_candidate)

    def current(self) -> int:
        """Return the version that a device gets."""
        return decode_manifest(download(self.server.tuf_client(), "demo/manifest.pb")).version


@pytest.fixture
def site(
    service: AdminService,
    deployment: Deployment,
    add_admin: Callable[..., str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Site]:
    """The deployment, its keys on two machines, and a connection as a publisher."""
    offline, inboxes = tmp_path / "publisher", tmp_path / "inboxes"
    inboxes.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(inboxes))
    offline.mkdir()
    shutil.move(deployment.keys / "offline", offline / "offline")
    desk = replace(service.publishing, storage=deployment.storage, keys=deployment.keys)
    service = replace(service, publishing=desk, clock=deployment.clock)
    token = add_admin("paula", AdminRole.PUBLISHER)
    with (
        serve_admins(service) as target,
        AdminClient(AdminEndpoint(target=target, token=token)) as client,
    ):
        yield Site(server=deployment, offline=offline, client=client, inboxes=inboxes)
    assert not list(inboxes.iterdir())


@dataclass
class Submission:
    """One call of PublishBundle, for tests that spoil something in it."""

    pieces: list[pb.FilePiece]
    order: pb.PublicationOrder
    targets: Metadata[Targets]

    def send(self, site: Site, *, resign: bool = False) -> pb.PublishBundleResponse:
        """Send it."""
        if resign:
            self.targets.sign(KeyFolder(site.offline).signer(Role.TARGETS))
            self.order.targets = self.targets.to_bytes()
        messages = [pb.PublishBundleRequest(piece=piece) for piece in self.pieces]
        messages.append(pb.PublishBundleRequest(order=self.order))
        return site.client.send(site.client.stub.PublishBundle, messages, deadline_s=30)


@pytest.fixture
def submission(site: Site) -> Submission:
    """What would publish version 2."""
    bundle = site.server.bundle(version=2)
    manifest, sensitivity = encode(bundle.manifest), make_sensitivity(bundle)
    answer = site.client.call(site.client.stub.GetPublication, pb.GetPublicationRequest())
    targets = Metadata[Targets].from_bytes(answer.targets)
    list_bundle(targets.signed, manifest, is_candidate=False)
    signer = KeyFolder(site.offline).signer(Role.TARGETS)
    sign_next(targets, signer, to_datetime(site.server.clock()))
    files = [manifest, sensitivity, bundle.read(ITEMS), bundle.read(CARD)]
    digests = [bytes.fromhex(TargetFile.from_data("", file).hashes["sha256"]) for file in files]
    return Submission(
        pieces=[
            pb.FilePiece(sha256=digest, content=file)
            for digest, file in zip(digests, files, strict=True)
        ],
        order=pb.PublicationOrder(
            targets=targets.to_bytes(),
            model_name="demo",
            bundle_digest=digests[0],
            sensitivity_sha256=digests[1],
        ),
        targets=targets,
    )


class TestRemotePublisher:
    def test_bundle_is_published(self, site: Site) -> None:
        """Only the offline key here and only the online keys there, and devices get it all."""
        bundle = site.server.bundle(version=2)

        site.publish(bundle)

        client = site.server.tuf_client()
        assert decode_manifest(download(client, "demo/manifest.pb")) == bundle.manifest
        for part in bundle.manifest.parts:
            assert download(client, f"parts/{part.sha256.hex()}") == bundle.read(part.name)
        assert site.server.layout.sensitivity(bundle.model_digest).read_bytes() == (
            make_sensitivity(bundle)
        )
        assert site.server.database.find_bundle(bundle.digest) is not None

    def test_planner_comes_along(self, site: Site) -> None:
        """It lies beside the sensitivities, and is no target."""
        bundle = add_extractor(site.server.bundle(version=2), site.server.folder / "extractor")
        planner = tiny_personal_planner(bundle.manifest.layers, bundle.model_digest).to_bytes()

        site.publisher().publish(bundle, make_sensitivity(bundle), planner=planner)

        assert site.server.layout.personal_planner(bundle.digest).read_bytes() == planner
        assert site.current() == 2

    def test_file_of_many_pieces_arrives(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """What is larger than a piece is put together again."""
        monkeypatch.setattr("pocketrec_cloud.delivery.publishing.remote.MAX_PIECE_BYTES", 100_000)

        site.publish(site.server.bundle(version=2))

        assert site.current() == 2

    def test_candidate_is_promoted_and_another_withdrawn(self, site: Site) -> None:
        """What a rollout needs works without the store at hand."""
        first, second = (site.server.bundle(version=version) for version in (2, 3))
        site.publish(first, is_candidate=True)
        site.publish(second, is_candidate=True)
        assert site.current() == 1

        site.publisher().withdraw("demo", second.digest)
        site.publisher().promote("demo", first.digest)

        assert site.current() == 2
        line = find_line(read_publication(site.server.artifacts).targets.signed, "demo")
        assert [listed.version for listed in line.bundles] == [1, 2]

    def test_everything_is_written_down(self, site: Site) -> None:
        """The log says who published what."""
        bundle = site.server.bundle(version=2)
        site.publish(bundle, is_candidate=True)
        site.publisher().promote("demo", bundle.digest)

        entries = site.client.call(site.client.stub.ListAuditLog, pb.ListAuditLogRequest()).entries

        assert [(entry.admin, entry.action, entry.subject) for entry in entries] == [
            ("paula", "PublishBundle", "demo")
        ] * 2
        details = [json.loads(entry.details) for entry in entries]
        assert [detail["action"] for detail in details] == ["publish", "promote"]
        assert [detail["is_current"] for detail in details] == [False, True]
        assert {detail["version"] for detail in details} == {2}

    def test_older_bundle_is_refused_before_anything_is_sent(self, site: Site) -> None:
        """The publisher sees that devices would refuse it."""
        with pytest.raises(RollbackError):
            site.publish(site.server.bundle(version=1, seed=1))

    def test_key_of_another_deployment_is_refused(self, site: Site) -> None:
        """Signing with it would be for nothing."""
        other = KeyFolder(site.server.folder / "other")
        other.create()
        bundle = site.server.bundle(version=2)

        with pytest.raises(ConfigError, match="another targets key"):
            site.publisher(other.root).publish(bundle, make_sensitivity(bundle))

    def test_nothing_is_signed_on_top_of_a_forgery(self, site: Site) -> None:
        """A server that was taken over gets no signature for what it made up."""
        published = read_publication(site.server.artifacts).targets
        forged = copy.deepcopy(published)
        forged.signed.targets["demo/evil"] = TargetFile.from_data("demo/evil", b"evil")
        name = f"{published.signed.version}.targets.json"
        content = forged.to_bytes()
        (site.server.layout.metadata / name).write_bytes(content)
        _vouch_for(site.server, content)

        with pytest.raises(IntegrityError, match="not signed with the targets key"):
            site.publish(site.server.bundle(version=2))


def _vouch_for(server: Deployment, targets: bytes) -> None:
    """Change snapshot and timestamp as who holds the server could."""
    timestamp = Metadata[Timestamp].from_bytes(server.layout.timestamp.read_bytes())
    path = server.layout.metadata / f"{timestamp.signed.snapshot_meta.version}.snapshot.json"
    snapshot = Metadata[Snapshot].from_bytes(path.read_bytes())
    meta = snapshot.signed.meta["targets.json"]
    meta.length, meta.hashes = len(targets), TargetFile.from_data("", targets).hashes
    path.write_bytes(snapshot.to_bytes())
    meta = timestamp.signed.snapshot_meta
    meta.length, meta.hashes = None, None
    server.layout.timestamp.write_bytes(timestamp.to_bytes())


class TestAcceptance:
    """What a server takes from a publisher who may be mistaken, or not who they seem."""

    def test_submission_is_taken(self, site: Site, submission: Submission) -> None:
        """The one that the other tests spoil is good."""
        answer = submission.send(site)

        assert (answer.version, answer.bundle_digest) == (2, submission.order.bundle_digest)
        assert site.current() == 2

    def test_second_of_two_publications_is_aborted(
        self, site: Site, submission: Submission
    ) -> None:
        """Who signed on top of what is published no more has to sign again."""
        site.publish(site.server.bundle(model_name="other"))

        with pytest.raises(ServiceUnavailableError, match="another publication") as failure:
            submission.send(site)

        assert failure.value.code == "ABORTED"
        assert site.current() == 1

    def test_token_without_the_key_publishes_nothing(
        self, site: Site, submission: Submission
    ) -> None:
        """A signature of any other key does not count."""
        thief = KeyFolder(site.server.folder / "thief")
        thief.create()
        submission.targets.sign(thief.signer(Role.TARGETS))
        submission.order.targets = submission.targets.to_bytes()

        with pytest.raises(RejectedError, match="not signed with the targets key") as failure:
            submission.send(site)

        assert failure.value.code == "PERMISSION_DENIED"
        assert site.current() == 1

    def test_metadata_that_says_more_is_refused(self, site: Site, submission: Submission) -> None:
        """Even the right key publishes nothing that the server did not look at."""
        more = TargetFile.from_data("demo/more", b"more")
        submission.targets.signed.targets["demo/more"] = more

        with pytest.raises(RejectedError, match="this one change"):
            submission.send(site, resign=True)

    def test_expired_metadata_is_refused(self, site: Site, submission: Submission) -> None:
        """Devices would refuse it."""
        site.server.clock.now_s += 400 * 24 * 3600

        with pytest.raises(RejectedError, match="expired"):
            submission.send(site)

    @pytest.mark.parametrize("number", range(4))  # manifest, sensitivities, item table, card
    def test_absent_file_is_named(self, number: int, site: Site, submission: Submission) -> None:
        """A file that neither came nor is here already is missed."""
        absent = submission.pieces.pop(number)

        with pytest.raises(RejectedError, match=absent.sha256.hex()):
            submission.send(site)
        assert site.current() == 1

    @pytest.mark.parametrize("number", range(4))
    def test_spoilt_file_is_named(self, number: int, site: Site, submission: Submission) -> None:
        """Bytes that are not what the name says are refused."""
        piece = submission.pieces[number]
        piece.content = piece.content[:-1] + bytes([piece.content[-1] ^ 1])

        with pytest.raises(RejectedError, match=f"{piece.sha256.hex()}: the .* bytes that came"):
            submission.send(site)

    def test_sensitivities_of_another_model_are_refused(
        self, site: Site, submission: Submission
    ) -> None:
        """A bundle that could not be planned for is not published."""
        submission.order.sensitivity_sha256 = submission.order.bundle_digest

        with pytest.raises(RejectedError) as failure:
            submission.send(site)

        assert failure.value.code == "INVALID_ARGUMENT"

    def test_manifest_of_another_line_is_refused(self, site: Site, submission: Submission) -> None:
        """The order's model is the bundle's."""
        submission.order.model_name = "other"

        with pytest.raises(RejectedError, match="the manifest is of 'demo'"):
            submission.send(site)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"bundle_digest": b"short"}, "bundle_digest of 32 bytes"),
            ({"targets": b"{}"}, "targets metadata"),
            ({"targets": b""}, "targets metadata"),
            ({"planner_sha256": bytes(32)}, "planner_sha256: the file"),
        ],
    )
    def test_field_that_makes_no_sense_is_named(
        self, change: dict[str, bytes], message: str, site: Site, submission: Submission
    ) -> None:
        """The message says what was expected."""
        for field, value in change.items():
            setattr(submission.order, field, value)

        with pytest.raises(RejectedError, match=message):
            submission.send(site)

    def test_pieces_out_of_order_are_refused(self, site: Site, submission: Submission) -> None:
        """A file is sent from its start."""
        submission.pieces[0].offset_bytes = 1

        with pytest.raises(RejectedError, match="the piece at byte 0"):
            submission.send(site)

    def test_piece_that_is_too_large_is_refused(self, site: Site, submission: Submission) -> None:
        """A message is at most a MiB and a little."""
        submission.pieces[0].content = bytes(2**20 + 1)

        with pytest.raises(RejectedError, match="at most 1048576 bytes"):
            submission.send(site)

    def test_order_has_to_come_last_and_at_all(self, site: Site, submission: Submission) -> None:
        """A call is pieces and one order."""
        order = pb.PublishBundleRequest(order=submission.order)
        piece = pb.PublishBundleRequest(piece=submission.pieces[0])
        nothing = pb.PublishBundleRequest()

        for messages in ([order, piece], [piece], [], [nothing]):
            with pytest.raises(RejectedError, match=r"last|expected"):
                site.client.send(site.client.stub.PublishBundle, messages, deadline_s=10)

    def test_version_that_is_used_up_is_refused(self, site: Site, submission: Submission) -> None:
        """The server looks itself whether devices would refuse it."""
        published = read_publication(site.server.artifacts).targets
        submission.targets = copy.deepcopy(published)
        old = BundleFolder.open(site.server.folder / "demo-1-0")
        sensitivity = make_sensitivity(old)
        digest = bytes.fromhex(TargetFile.from_data("", sensitivity).hashes["sha256"])
        submission.targets.signed.version += 1
        submission.pieces = [
            pb.FilePiece(sha256=old.digest, content=encode(old.manifest)),
            pb.FilePiece(sha256=digest, content=sensitivity),
        ]
        submission.order.bundle_digest = old.digest
        submission.order.sensitivity_sha256 = digest

        with pytest.raises(RejectedError, match=r"item table|higher version") as failure:
            submission.send(site, resign=True)

        assert failure.value.code == "FAILED_PRECONDITION"

    def test_change_that_is_none_is_refused(self, site: Site, submission: Submission) -> None:
        """Without sensitivities an order promotes or withdraws, and nothing else."""
        submission.order.sensitivity_sha256 = b""

        with pytest.raises(RejectedError, match="not published"):
            submission.send(site)


class TestRoles:
    def test_viewer_reads_and_publishes_nothing(
        self, site: Site, submission: Submission, add_admin: Callable[..., str]
    ) -> None:
        """Metadata is public, publishing takes the role."""
        token = add_admin("victor", AdminRole.VIEWER)
        endpoint = AdminEndpoint(target=site.client._target, token=token)

        with AdminClient(endpoint) as client:
            answer = client.call(client.stub.GetPublication, pb.GetPublicationRequest())
            with pytest.raises(RejectedError) as failure:
                submission.send(replace(site, client=client))

        assert answer.targets
        assert failure.value.code == "PERMISSION_DENIED"

    def test_nobody_reads_nothing(self, site: Site) -> None:
        """Without a token there is no answer."""
        with (
            AdminClient(AdminEndpoint(target=site.client._target)) as client,
            pytest.raises(ServiceError) as failure,
        ):
            client.call(client.stub.GetPublication, pb.GetPublicationRequest())

        assert failure.value.code == "UNAUTHENTICATED"


class TestLimits:
    def test_publication_that_is_too_large_is_refused(
        self,
        site: Site,
        submission: Submission,
        service: AdminService,
        add_admin: Callable[..., str],
    ) -> None:
        """Nobody fills the server's disk."""
        small = replace(
            service.publishing,
            storage=site.server.storage,
            keys=site.server.keys,
            max_bytes=sum(len(piece.content) for piece in submission.pieces) - 1,
        )
        with serve_admins(replace(service, publishing=small)) as target:
            token = add_admin("paula", AdminRole.PUBLISHER)
            with (
                AdminClient(AdminEndpoint(target=target, token=token)) as client,
                pytest.raises(ServiceUnavailableError) as failure,
            ):
                submission.send(replace(site, client=client))

        assert failure.value.code == "RESOURCE_EXHAUSTED"

    def test_caller_who_hangs_up_leaves_nothing(self, site: Site, submission: Submission) -> None:
        """Half a publication is thrown away with the call."""

        def pieces() -> Iterator[pb.PublishBundleRequest]:
            yield pb.PublishBundleRequest(piece=submission.pieces[0])
            raise RuntimeError("the publisher's machine goes down")

        with pytest.raises(ServiceError):
            site.client.send(site.client.stub.PublishBundle, pieces(), deadline_s=10)

        assert site.current() == 1
