# SPDX-License-Identifier: Apache-2.0
"""Personal plans, from a device's history up to a server and back down, over real sockets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.device.conftest import CONFIG, Deployment, tiny_items, tiny_model, write_tiny_bundle
from tests.device.man_in_the_middle import ManInTheMiddle

from pocketrec.errors import HealthCheckError, IncompatibleArtifactError, RejectedError
from pocketrec.signing import SigningKey
from pocketrec_cloud.delivery.publishing.artifacts import open_artifacts
from pocketrec_cloud.delivery.publishing.layout import target_name
from pocketrec_cloud.onnx_graphs import write_extract_graph
from pocketrec_device import Runtime
from pocketrec_device.refresh import Reason, RefreshPolicy
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_device.transport import PlanRequest, ServiceClient
from pocketrec_proto.v1 import device_service_pb2 as pb
from pocketrec_quantization.bundle import EXTRACT, EXTRACT_VECTORS, BundleFolder, ExtractorInfo
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.personal import PersonalPlanner
from pocketrec_quantization.plan import decode_plan
from pocketrec_quantization.testing import (
    tiny_extract_vectors,
    tiny_extractor,
    tiny_personal_planner,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from pocketrec_quantization.item_table import ItemTable

DIM = CONFIG.embedding_dim
WINDOW = 9  # of the extractor; the backbone's is 5
EVERYTHING = tuple("abcdefghijkl")
ANN, BOB = "aabacabdab", "lkjlkilkjl"


@dataclass(frozen=True)
class Personal:
    """A bundle with an extractor, and the planner that goes with it."""

    bundle: BundleFolder
    planner: PersonalPlanner


def write_personal_bundle(
    folder: Path, *, version: int = 2, seed: int = 0, items: ItemTable | None = None
) -> Personal:
    """Write one; the seed decides extractor and planner, the backbone stays."""
    extractor, items = tiny_extractor(DIM, seed=seed), items or tiny_items(1)
    bundle = write_tiny_bundle(
        folder,
        version=version,
        items=items,
        extractor=ExtractorInfo(kind="gru", window=WINDOW),
        parts={
            EXTRACT: write_extract_graph(extractor),
            EXTRACT_VECTORS: tiny_extract_vectors(extractor, items).to_bytes(),
        },
    )
    frozen = tiny_model(0).frozen
    return Personal(bundle, tiny_personal_planner(frozen.layers, frozen.digest, DIM, seed=seed))


@pytest.fixture
def personal(deployment: Deployment, tmp_path: Path) -> Personal:
    """Published."""
    made = write_personal_bundle(tmp_path / "personal")
    deployment.publish(made.bundle, planner=made.planner)
    return made


@pytest.fixture
def middle(personal: Personal, deployment: Deployment) -> Iterator[ManInTheMiddle]:
    """A server for it, and somebody who listens."""
    with deployment.serve() as target, ManInTheMiddle(target) as middle:
        yield middle


@pytest.fixture
def make_user(tmp_path: Path, deployment: Deployment, personal: Personal) -> Callable[..., Runtime]:
    """Makes the device of somebody with a history, on any backend."""

    def make(
        name: str, history: str = "", *, backend: str = "onnxruntime", **options: object
    ) -> Runtime:
        store = Store(tmp_path / name)
        store.create("demo", deployment.root)
        settings = EngineSettings(backend=backend, compute="fp32" if backend != "numpy" else "auto")
        device = Runtime(store, settings, **options)  # type: ignore[arg-type]
        device.bootstrap(personal.bundle.path)
        device.observe_many(tuple(history))
        return device

    return make


MakeUser = Callable[..., Runtime]


def codes_of(device: Runtime) -> NDArray[np.uint8]:
    """Return the codes of the plan that runs."""
    engine = device._live.engine
    assert engine is not None
    return engine.plan.codes


def coded_weights(frozen: object, codes: NDArray[np.uint8]) -> dict[str, NDArray[np.int8]]:
    """Return the integer codes of every matrix under a plan's codes."""
    model = tiny_model(0)
    widths = model.plan(codes=codes).widths
    by_layer = split_by_layer(widths, model.frozen.layers)
    return {
        name: matrix.codes_at(by_layer[name])
        for name, matrix in frozen.matrices.items()  # type: ignore[attr-defined]
    }


class TestPersonalPlans:
    def test_differ_between_users(self, middle: ManInTheMiddle, make_user: MakeUser) -> None:
        """Two histories lead to two plans, and the plans to two rankings of one page."""
        ann, bob = make_user("ann", ANN), make_user("bob", BOB)
        for device, subject in ((ann, "ann"), (bob, "bob")):
            report = device.sync(middle.target, subject=subject)
            assert (report.is_plan_new, report.plan_version) == (True, 1)

        status = ann.status().current
        assert status is not None
        assert (status.planner, status.subject) == ("personal", "ann")
        assert (codes_of(ann) != codes_of(bob)).mean() > 0.1
        for device in (ann, bob):  # the same history on both: what differs is the plan
            device.reset()
            device.observe_many(tuple("cdefg"))
        scores = [device.rerank(EVERYTHING, 12).scores for device in (ann, bob)]
        assert scores[0] != scores[1]
        rankings = [device.rerank(EVERYTHING, 12).items for device in (ann, bob)]
        assert rankings[0] != rankings[1]

    def test_adapt_alike_on_server_and_device(
        self,
        middle: ManInTheMiddle,
        make_user: MakeUser,
        personal: Personal,
        deployment: Deployment,
    ) -> None:
        """The server's weights under its plan are the device's, code by code."""
        artifacts = open_artifacts(deployment.config.store)
        frozen_data = artifacts.read(target_name(personal.bundle.model_digest.hex()))
        for name, history in (("ann", ANN), ("bob", BOB)):
            device = make_user(name, history)
            device.sync(middle.target, subject=name)
            sent = middle.requests("GetPlan")[-1].user_embedding
            z = np.frombuffer(sent.codes, np.int8) * np.float32(sent.scale)
            engine = device._live.engine
            assert engine is not None

            planned = personal.planner.plan([z], engine.plan.budget_bytes)[0]

            on_server = coded_weights(type(tiny_model(0).frozen).from_bytes(frozen_data), planned)
            installed = device._store.open_bundle(engine.pair.bundle).read_frozen()
            on_device = coded_weights(installed, codes_of(device))
            assert on_server.keys() == on_device.keys()
            assert all(np.array_equal(on_server[n], on_device[n]) for n in on_server)

    def test_come_from_the_embedding_alone(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """What goes up is D bytes and a scale, close to the extractor's state; no item id."""
        device = make_user("ann", ANN)
        device.sync(middle.target, subject="ann")
        z = device.user_embedding()

        request = middle.requests("GetPlan")[-1]

        assert z is not None
        assert len(request.user_embedding.codes) == DIM
        sent = np.frombuffer(request.user_embedding.codes, np.int8) * request.user_embedding.scale
        assert np.abs(sent - z).max() <= 0.02 * np.abs(z).max()
        allowed = {"model_digest", "bundle_digest", "subject", "user_embedding"}
        assert {field.name for field, _ in request.ListFields()} <= allowed

    def test_never_tell_an_item(
        self,
        middle: ManInTheMiddle,
        make_device: Callable[..., Runtime],
        deployment: Deployment,
        tmp_path: Path,
    ) -> None:
        """Whatever a device with a history says in a sync, no item id is in it."""
        ids = tuple(f"secret-{number}" for number in range(12))
        told = write_personal_bundle(tmp_path / "told", version=3, items=tiny_items(3, ids))
        deployment.publish(told.bundle, planner=told.planner)
        device = make_device()
        device.bootstrap(told.bundle.path)
        device.observe_many(ids[:7])

        device.sync(middle.target, subject="ann")

        assert middle.requests("GetPlan")[-1].HasField("user_embedding")
        assert all(b"secret" not in message.SerializeToString() for _, message in middle.calls)

    def test_look_further_back_than_the_backbone(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """The first of nine events still counts; the one before it does not."""
        same = make_user("same", "z" + ANN[-9:]).user_embedding()
        longer = make_user("longer", "lll" + ANN[-9:]).user_embedding()
        other = make_user("other", "l" + ANN[-8:]).user_embedding()

        assert same is not None
        assert longer is not None
        assert other is not None
        assert np.array_equal(same, longer)
        assert np.abs(same - other).max() > 1e-4

    def test_survive_a_swap_of_plans(self, middle: ManInTheMiddle, make_user: MakeUser) -> None:
        """A new plan rebuilds the session; what the extractor looks back at stays."""
        device = make_user("ann", ANN)
        before = device.user_embedding()

        device.sync(middle.target, subject="ann")

        after = device.user_embedding()
        assert before is not None
        assert after is not None
        assert np.array_equal(before, after)

    def test_count_up_when_the_user_moves_on(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """Other codes are the next version; the same codes are nothing new."""
        device = make_user("ann", ANN)
        device.sync(middle.target, subject="ann")
        same = device.sync(middle.target, subject="ann")
        device.observe_many(tuple(BOB))

        report = device.sync(middle.target, subject="ann")

        assert (same.plan_version, same.is_plan_new) == (1, False)
        assert (report.plan_version, report.is_plan_new) == (2, True)

    def test_are_the_same_on_every_backend(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """The graph and the reference extract alike, to a float's last digits."""
        z = [make_user(b, ANN, backend=b).user_embedding() for b in ("numpy", "onnxruntime")]

        assert z[0] is not None
        assert z[1] is not None
        np.testing.assert_allclose(z[0], z[1], atol=1e-6)

    def test_are_made_with_the_extractor_of_the_bundle_that_comes(
        self, middle: ManInTheMiddle, make_user: MakeUser, deployment: Deployment, tmp_path: Path
    ) -> None:
        """Embeddings of an older extractor mean nothing to the new planner."""
        device = make_user("ann", ANN)
        device.sync(middle.target, subject="ann")
        newer = write_personal_bundle(tmp_path / "newer", version=3, seed=1, items=tiny_items(2))
        deployment.publish(newer.bundle, planner=newer.planner)

        report = device.sync(middle.target, subject="ann")

        request = middle.requests("GetPlan")[-1]
        z = device.user_embedding()
        assert z is not None
        assert (report.bundle_version, report.plan_version) == (3, 2)
        assert request.bundle_digest == newer.bundle.digest
        sent = np.frombuffer(request.user_embedding.codes, np.int8) * request.user_embedding.scale
        assert np.abs(sent - z).max() <= 0.02 * np.abs(z).max()


class TestFallback:
    def test_without_a_history_is_the_global_plan(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """Nothing is known, nothing is told, and the plan is the one measured for everybody."""
        device = make_user("new")
        assert device.user_embedding() is None

        device.sync(middle.target, subject="new")

        assert not middle.requests("GetPlan")[-1].HasField("user_embedding")
        status = device.status().current
        assert status is not None
        assert status.planner == "global"

    def test_without_a_subject_is_the_global_plan(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """The plan for everybody is nobody's: the history is not told about."""
        device = make_user("anonymous", ANN)

        device.sync(middle.target)

        assert not middle.requests("GetPlan")[-1].HasField("user_embedding")
        status = device.status().current
        assert status is not None
        assert status.planner == "global"

    def test_without_an_extractor_there_is_no_embedding(self, runtime: Runtime) -> None:
        """Bundles of before rank as before."""
        runtime.observe_many(tuple("abc"))

        assert runtime.user_embedding() is None


class TestRefusals:
    @pytest.fixture
    def client(self, middle: ManInTheMiddle) -> Iterator[ServiceClient]:
        """A registered client that sends what it likes."""
        with ServiceClient(middle.target, tls=None, deadline_s=20) as client:
            known = client.register(pb.DeviceProfile(), SigningKey.generate())
            client.authenticate(known.token)
            yield client

    @pytest.fixture
    def request_(self, personal: Personal) -> PlanRequest:
        """A request that is answered."""
        return PlanRequest(
            model_digest=personal.bundle.model_digest,
            bundle_digest=personal.bundle.digest,
            subject="ann",
            average_bits=0,
            installed_version=0,
            user_embedding=Coded(bytes(DIM), 1.0),  # type: ignore[arg-type]
        )

    def test_an_honest_request_is_answered(
        self, client: ServiceClient, request_: PlanRequest
    ) -> None:
        """Zeros are an embedding as good as any."""
        assert decode_plan(client.get_plan(request_)).planner == "personal"

    @pytest.mark.parametrize(
        ("changes", "complaint"),
        [
            ({"scale": float("nan")}, r"user_embedding.scale above 0 and at most .* got nan"),
            ({"scale": float("inf")}, r"user_embedding.scale above 0 and at most .* got inf"),
            ({"scale": -1.0}, r"user_embedding.scale above 0"),
            ({"codes": bytes(DIM + 1)}, r"user_embedding.codes: .* of 8 dimensions, got 9"),
            ({"codes": b""}, r"user_embedding.codes: .* of 8 dimensions, got 0"),
        ],
    )
    def test_an_embedding_that_is_none(
        self,
        client: ServiceClient,
        request_: PlanRequest,
        changes: dict[str, object],
        complaint: str,
    ) -> None:
        """Numbers that are none, or too many of them, are refused by the field's name."""
        embedding = replace(Coded(bytes(DIM), 1.0), **changes)  # type: ignore[arg-type]

        with pytest.raises(RejectedError, match=complaint) as refusal:
            client.get_plan(replace(request_, user_embedding=embedding))  # type: ignore[arg-type]

        assert refusal.value.code == "INVALID_ARGUMENT"

    @pytest.mark.parametrize(
        ("changes", "code", "complaint"),
        [
            ({"model_digest": b"short"}, "INVALID_ARGUMENT", "model_digest of 32 bytes, got 5"),
            ({"model_digest": b"?" * 32}, "NOT_FOUND", "fetch the current bundle first"),
            ({"bundle_digest": b""}, "INVALID_ARGUMENT", "bundle_digest: .* needed with"),
            ({"bundle_digest": b"?" * 32}, "INVALID_ARGUMENT", "bundle_digest: .* 3f3f3f"),
            ({"average_bits": 1.5}, "INVALID_ARGUMENT", r"average_bits: .* 2 to 8 \(\d+ to \d+ b"),
            ({"average_bits": 9.0}, "INVALID_ARGUMENT", "average_bits between 0 and 8, got 9"),
        ],
    )
    def test_fields_that_fit_nothing(
        self,
        client: ServiceClient,
        request_: PlanRequest,
        changes: dict[str, object],
        code: str,
        complaint: str,
    ) -> None:
        """A wrong model, bundle or budget is refused with what would be right."""
        with pytest.raises(RejectedError, match=complaint) as refusal:
            client.get_plan(replace(request_, **changes))  # type: ignore[arg-type]

        assert refusal.value.code == code

    def test_a_planner_of_another_model(self, deployment: Deployment, tmp_path: Path) -> None:
        """It is not published, and the bundle is not either."""
        made = write_personal_bundle(tmp_path / "made")
        stranger = replace(made.planner, model_digest=bytes(32), arrays=dict(made.planner.arrays))

        with pytest.raises(IncompatibleArtifactError, match="model_digest"):
            deployment.publish(made.bundle, planner=stranger)
        deployment.publish(made.bundle)

    def test_an_extractor_that_computes_something_else(
        self, deployment: Deployment, tmp_path: Path, make_device: Callable[..., Runtime]
    ) -> None:
        """A device runs the extractor's own test vectors before it switches."""
        wrong = tiny_extract_vectors(tiny_extractor(DIM, seed=1), tiny_items(1)).to_bytes()
        bundle = write_tiny_bundle(
            tmp_path / "wrong",
            version=2,
            extractor=ExtractorInfo(kind="gru", window=WINDOW),
            parts={
                EXTRACT: write_extract_graph(tiny_extractor(DIM)),
                EXTRACT_VECTORS: wrong,
            },
        )

        with pytest.raises(HealthCheckError, match="extract vector 0"):
            make_device().bootstrap(bundle.path)


class TestOlderBundles:
    def test_have_the_planner_they_came_with(
        self, middle: ManInTheMiddle, make_user: MakeUser, deployment: Deployment, tmp_path: Path
    ) -> None:
        """A device held back after a rollback is planned for by its own extractor's planner."""
        device = make_user("ann", ANN)
        device.sync(middle.target, subject="ann")
        own = codes_of(device)
        newer = write_personal_bundle(tmp_path / "newer", version=3, seed=1)
        deployment.publish(newer.bundle, planner=newer.planner)
        device.sync(middle.target, subject="ann")
        assert not np.array_equal(codes_of(device), own)
        device.rollback()

        report = device.sync(middle.target, subject="ann")

        assert (report.bundle_version, report.is_held_back) == (2, True)
        assert np.array_equal(codes_of(device), own)


class TestRefresh:
    POLICY = RefreshPolicy(
        max_drift=0.1, at_session_start=False, needs_free_network=False, min_interval_s=0
    )

    def test_drift_is_that_of_the_embedding(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """A plan made for an embedding is due again when the embedding has turned."""
        device = make_user("ann", ANN, refresh=self.POLICY)
        device.sync(middle.target, subject="ann")
        z = device.user_embedding()
        assert not device.refresh_due().is_due

        device.observe_many(tuple(BOB))

        now = device.user_embedding()
        assert z is not None
        assert now is not None
        assert z @ now < 0.9 * np.linalg.norm(z) * np.linalg.norm(now)
        assert device.refresh_due().reason is Reason.DRIFT

    def test_a_closed_runtime_does_not_extract(
        self, middle: ManInTheMiddle, make_user: MakeUser
    ) -> None:
        """After closing there is nothing to compare with."""
        device = make_user("ann", ANN, refresh=self.POLICY)
        device.sync(middle.target, subject="ann")
        device.close()

        assert device.refresh_due().reason is Reason.NOTHING_INSTALLED


@dataclass(frozen=True)
class Coded:
    """An embedding as it travels, with anything in it."""

    codes: bytes
    scale: float
