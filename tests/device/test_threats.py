# SPDX-License-Identifier: Apache-2.0
"""The threats a device meets, one test each, against a real server over a real socket.

In every test the device has version 1 and a history. Whatever happens to it, it raises
the error that names the cause, keeps its last good pair, and ranks exactly as before:
in this process and after a restart.
"""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.device.server_process import server_process
from tests.device.unharmed import HISTORY, unharmed

from pocketrec.errors import (
    DeadlineError,
    ExpiredArtifactError,
    HealthCheckError,
    IncompatibleArtifactError,
    IntegrityError,
    RejectedError,
    RollbackError,
    ServiceUnavailableError,
)
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.repository import create_repository
from pocketrec_device import Runtime
from pocketrec_device.registration import forget_token
from pocketrec_quantization.bundle import CARD, FROZEN, VECTORS, BundleFolder
from pocketrec_quantization.plan import Plan, encode_plan
from pocketrec_quantization.vectors import TestVectors

if TYPE_CHECKING:
    from tests.device.conftest import Deployment, TinyModel
    from tests.device.man_in_the_middle import ManInTheMiddle

    from pocketrec_proto.v1 import device_service_pb2 as pb
    from pocketrec_quantization.item_table import ItemTable

MakeDevice = Callable[..., Runtime]
MakeBundle = Callable[..., BundleFolder]
DAY_S = 24 * 3600


@dataclass(frozen=True)
class Director:
    """Whoever signs plans."""

    key: SigningKey

    def answer(self, plan: Plan) -> Callable[[pb.GetPlanRequest, pb.GetPlanResponse], None]:
        """Return a meddler that answers with this plan, signed."""
        signed = encode_plan(replace(plan, key_id=self.key.public.key_id), self.key.sign)
        return lambda _, answer: setattr(answer, "plan", signed)


@pytest.fixture
def director(deployment: Deployment) -> Director:
    """The director whose key the device trusts."""
    return Director(SigningKey.load(deployment.config.keys / "online" / "director.pem"))


class TestIdentity:
    def test_revoked_device(
        self, device: Runtime, middle: ManInTheMiddle, deployment: Deployment
    ) -> None:
        """The server's operator shut this device out: it gets nothing new."""
        with deployment.storage() as storage:
            storage.database.revoke_device(device.status().device_id, int(time.time()))
        with deployment.serve() as restarted:
            middle.upstream = restarted
            with unharmed(device, RejectedError, "this device was revoked") as caught:
                device.sync(middle.target)

        assert caught.value.code == "PERMISSION_DENIED"

    def test_answer_of_another_registration(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """A challenge that somebody put in the way proves nothing to the server."""

        def swap(_: pb.GetChallengeRequest, answer: pb.GetChallengeResponse) -> None:
            answer.challenge = answer.challenge[:-1] + bytes([answer.challenge[-1] ^ 1])

        middle.meddle["GetChallenge"] = swap
        store = device._store
        with store.writing():
            forget_token(store)
        with unharmed(device, RejectedError, "expected a challenge") as caught:
            device.sync(middle.target)

        assert caught.value.code == "UNAUTHENTICATED"

    def test_server_that_gives_no_time(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """A token without a life is good for the sync it was given for."""
        middle.meddle["Register"] = lambda _, answer: setattr(answer, "lifetime_s", 0)
        store = device._store
        with store.writing():
            forget_token(store)

        device.sync(middle.target)
        device.sync(middle.target)

        assert len(middle.requests("Register")) == 3


class TestNetwork:
    def test_server_down(self, device: Runtime) -> None:
        """Nobody listens."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
        with unharmed(device, ServiceUnavailableError, "GetChallenge at 127.0.0.1") as caught:
            device.sync(f"127.0.0.1:{port}")

        assert caught.value.retryable

    def test_server_that_never_answers(self, device: Runtime) -> None:
        """Somebody listens and keeps silent: the deadline ends it."""
        with (
            socket.create_server(("127.0.0.1", 0)) as silent,
            unharmed(device, DeadlineError),
        ):
            device.sync(f"127.0.0.1:{silent.getsockname()[1]}", deadline_s=0.3)

    def test_server_killed_in_mid_download_then_resumed(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """The process is killed after one chunk; the next sync goes on where it broke."""
        size = 6 * 2**20
        bundle = make_bundle(version=2, seed=1, parts={CARD: os.urandom(size)})
        deployment.publish(bundle)
        path = f"parts/{bundle.manifest.part(CARD).sha256.hex()}"
        with server_process(deployment) as process:
            middle.upstream = process.target

            def kill(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
                if request.target_path == path and answer.offset_bytes:
                    process.kill()

            middle.meddle["FetchChunk"] = kill
            with unharmed(device, ServiceUnavailableError, "FetchChunk"):
                device.sync(middle.target)
        middle.meddle.clear()
        middle.calls.clear()

        with server_process(deployment) as process:
            middle.upstream = process.target
            report = device.sync(middle.target)

        assert 0 < report.bytes_resumed < size
        assert size - report.bytes_resumed <= report.bytes_downloaded < size
        offsets = [r.offset_bytes for r in middle.requests("FetchChunk") if r.target_path == path]
        assert offsets == [report.bytes_resumed]
        assert report.bundle_version == 2

    def test_stream_that_is_slower_than_the_deadline_goes_on(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A large part may outlive many deadlines, as long as bytes keep coming."""
        deployment.publish(make_bundle(version=2, seed=1, parts={CARD: os.urandom(2 * 2**20)}))
        broken: list[int] = []

        def stall(_: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if answer.offset_bytes and answer.offset_bytes not in broken:
                broken.append(answer.offset_bytes)
                raise TimeoutError

        middle.meddle["FetchChunk"] = stall

        assert device.sync(middle.target).bundle_version == 2
        assert len(broken) >= 3

    def test_stream_without_progress_ends(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A whole deadline without a byte is the end."""
        deployment.publish(make_bundle(version=2, seed=1))

        def stall(_: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            raise TimeoutError

        middle.meddle["FetchChunk"] = stall
        with unharmed(device, DeadlineError, "FetchChunk"):
            device.sync(middle.target)


class TestBundle:
    def test_flipped_byte_in_a_part(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """The digest gives it away; the next sync fetches the part from its beginning."""
        bundle = make_bundle(version=2, seed=1)
        deployment.publish(bundle)
        path = f"parts/{bundle.manifest.part(FROZEN).sha256.hex()}"

        def flip(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if request.target_path == path:
                answer.content = bytes([answer.content[0] ^ 1]) + answer.content[1:]

        middle.meddle["FetchChunk"] = flip
        with unharmed(device, IntegrityError, "damaged on the way"):
            device.sync(middle.target)
        middle.meddle.clear()
        middle.calls.clear()

        assert device.sync(middle.target).bundle_version == 2
        offsets = [r.offset_bytes for r in middle.requests("FetchChunk") if r.target_path == path]
        assert offsets == [0]

    def test_part_that_never_ends(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """More bytes than were promised are not written to the disk."""
        deployment.publish(make_bundle(version=2, seed=1))

        def grow(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if request.target_path.startswith("parts/"):
                answer.content += bytes(2**20)

        middle.meddle["FetchChunk"] = grow
        with unharmed(device, IntegrityError, "got more"):
            device.sync(middle.target)

        downloads = device._store.path / "downloads"
        assert all(path.stat().st_size < 2**20 for path in downloads.iterdir())

    def test_chunks_out_of_order(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A chunk that does not continue the last one is refused."""
        deployment.publish(make_bundle(version=2, seed=1))

        def skip(_: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            answer.offset_bytes += 1

        middle.meddle["FetchChunk"] = skip
        with unharmed(device, IntegrityError, "expected the chunk at byte 0"):
            device.sync(middle.target)

    def test_truncated_manifest(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """A manifest that is cut short is refused before it is parsed."""

        def cut(request: pb.FetchChunkRequest, answer: pb.FetchChunkResponse) -> None:
            if request.target_path.endswith("manifest.pb"):
                answer.content = answer.content[:-5]

        middle.meddle["FetchChunk"] = cut
        with unharmed(device, IntegrityError, r"demo/manifest\.pb: expected"):
            device.sync(middle.target)

    def test_older_bundle_version_in_newer_metadata(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        bundle: BundleFolder,
    ) -> None:
        """A repository made anew with the same keys cannot take a device back."""
        deployment.publish(make_bundle(version=2, seed=1))
        device.sync(middle.target)
        shutil.rmtree(deployment.config.store)
        with deployment.storage() as storage:
            create_repository(storage, deployment.config.keys)
        deployment.publish(bundle)
        for name in ("other", "another"):  # metadata versions rise above those the device saw
            deployment.publish(make_bundle(model_name=name))

        with deployment.serve() as renewed:
            middle.upstream = renewed
            with unharmed(device, RollbackError, "above version 2, got version 1") as caught:
                device.sync(middle.target)

        assert (caught.value.installed, caught.value.offered) == (2, 1)

    def test_older_item_table_in_a_newer_bundle(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        make_items: Callable[..., ItemTable],
    ) -> None:
        """The table of a model has a version of its own, which only goes up."""
        deployment.publish(make_bundle(version=2, items=make_items(2)))
        device.sync(middle.target)
        shutil.rmtree(deployment.config.store)
        with deployment.storage() as storage:
            create_repository(storage, deployment.config.keys)
        deployment.publish(make_bundle(version=3))
        for name in ("other", "another"):  # metadata versions rise above those the device saw
            deployment.publish(make_bundle(model_name=name))

        with deployment.serve() as renewed:
            middle.upstream = renewed
            with unharmed(device, RollbackError, "item table above version 2, got version 1"):
                device.sync(middle.target)

    def test_older_metadata(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
        tmp_path: Path,
    ) -> None:
        """A server restored from a copy cannot take a device back either."""
        past = replace(deployment, folder=tmp_path / "past")
        shutil.copytree(deployment.folder, past.folder)
        deployment.publish(make_bundle(version=2, seed=1))
        device.sync(middle.target)

        with past.serve() as restored:
            middle.upstream = restored
            with unharmed(device, RollbackError, "timestamp version 2 must be >= 3") as caught:
                device.sync(middle.target)

        assert (caught.value.installed, caught.value.offered) == (3, 2)

    def test_expired_timestamp(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A server that is frozen in the past, or that froze itself, is not believed."""

        def ten_days_ago() -> float:
            return time.time() - 10 * DAY_S

        deployment.publish(make_bundle(version=2, seed=1), clock=ten_days_ago)
        with deployment.serve(clock=ten_days_ago) as frozen:
            middle.upstream = frozen
            with unharmed(device, ExpiredArtifactError, r"timestamp\.json is expired"):
                device.sync(middle.target)

    def test_metadata_signed_by_nobody_we_trust(
        self, device: Runtime, tmp_path: Path, make_bundle: MakeBundle, deployment: Deployment
    ) -> None:
        """Another deployment's server has other keys."""
        from pocketrec_cloud.delivery.publishing.keys import KeyFolder

        stranger = replace(deployment, folder=tmp_path / "stranger")
        KeyFolder(stranger.config.keys).create()
        with stranger.storage() as storage:
            create_repository(storage, stranger.config.keys)
        stranger.publish(make_bundle(version=2))

        with stranger.serve() as target, unharmed(device, IntegrityError, "signed"):
            device.sync(target)

    def test_wrong_test_vectors(
        self,
        device: Runtime,
        middle: ManInTheMiddle,
        deployment: Deployment,
        make_bundle: MakeBundle,
    ) -> None:
        """A bundle that does not compute here what it should is not switched to."""
        good = make_bundle(version=9).read_vectors()
        cases = tuple(replace(case, scores=case.scores + 1) for case in good.cases)
        wrong = TestVectors(cases=cases, tolerance=good.tolerance)
        deployment.publish(make_bundle(version=2, parts={VECTORS: wrong.to_bytes()}))

        with unharmed(device, HealthCheckError, "test vector 0 by prefill"):
            device.sync(middle.target)


class TestPlan:
    def test_older_plan_version(self, device: Runtime, middle: ManInTheMiddle) -> None:
        """A replayed plan is refused, though it was good once."""
        current = device.status().current
        assert current is not None
        first = device._store.read_plan(current.plan)
        device.sync(middle.target, average_bits=6)

        middle.meddle["GetPlan"] = lambda _, answer: setattr(answer, "plan", first)
        with unharmed(device, RollbackError, "version 3 or above, got version 1") as caught:
            device.sync(middle.target)

        assert (caught.value.installed, caught.value.offered) == (2, 1)

    def test_expired_plan(
        self, device: Runtime, middle: ManInTheMiddle, deployment: Deployment
    ) -> None:
        """A server whose clock stands still hands out plans that are over."""
        with deployment.serve(clock=lambda: time.time() - 30 * DAY_S) as late:
            middle.upstream = late
            with unharmed(device, ExpiredArtifactError, "expired"):
                device.sync(middle.target, subject="ann")

    def test_expired_plan_on_a_clock_set_back(
        self, make_device: MakeDevice, middle: ManInTheMiddle, director: Director, model: TinyModel
    ) -> None:
        """Time signed by the director is a floor under the device's own clock."""
        device = make_device(clock=lambda: 0.0)
        device.sync(middle.target)
        device.observe_many(HISTORY)

        plan = model.mixed_plan(version=5, issued_at_s=1_000, expires_at_s=2_000)
        middle.meddle["GetPlan"] = director.answer(plan)
        with unharmed(device, ExpiredArtifactError):
            device.sync(middle.target)

    def test_plan_for_another_model(
        self, device: Runtime, middle: ManInTheMiddle, director: Director, model: TinyModel
    ) -> None:
        """A plan is bound to the digest of the weights."""
        plan = replace(model.mixed_plan(version=5), model_id=b"m" * 16)
        middle.meddle["GetPlan"] = director.answer(plan)

        with unharmed(device, IncompatibleArtifactError, "digest"):
            device.sync(middle.target)

    def test_plan_for_another_subject(
        self, device: Runtime, middle: ManInTheMiddle, director: Director, model: TinyModel
    ) -> None:
        """One user's plan is not another's."""
        middle.meddle["GetPlan"] = director.answer(model.mixed_plan(version=5, subject="bob"))

        with unharmed(device, IncompatibleArtifactError, "'ann', got one for 'bob'"):
            device.sync(middle.target, subject="ann")

    def test_plan_signed_by_another_key(
        self, device: Runtime, middle: ManInTheMiddle, model: TinyModel
    ) -> None:
        """A stranger's signature counts for nothing."""
        stranger = Director(SigningKey.generate())
        middle.meddle["GetPlan"] = stranger.answer(model.mixed_plan(version=5))

        with unharmed(device, IntegrityError, "signed by none of the 1 director keys"):
            device.sync(middle.target)

    def test_unsigned_plan(self, device: Runtime, middle: ManInTheMiddle, model: TinyModel) -> None:
        """What is fine inside a bundle is not fine from the network."""
        unsigned = encode_plan(model.mixed_plan(version=5), None)
        middle.meddle["GetPlan"] = lambda _, answer: setattr(answer, "plan", unsigned)

        with unharmed(device, IntegrityError, "signed by none"):
            device.sync(middle.target)

    @pytest.mark.parametrize("length", [1, 64, 100])
    def test_truncated_plan(self, device: Runtime, middle: ManInTheMiddle, length: int) -> None:
        """A plan that is cut short is refused before it is parsed."""

        def cut(_: pb.GetPlanRequest, answer: pb.GetPlanResponse) -> None:
            answer.plan = answer.plan[:length]

        middle.meddle["GetPlan"] = cut
        with unharmed(device, IntegrityError):
            device.sync(middle.target, average_bits=6)
