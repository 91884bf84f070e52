# SPDX-License-Identifier: Apache-2.0

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import (
    BackendError,
    ConfigError,
    StoreError,
)
from pocketrec_device import Runtime
from pocketrec_device.settings import EngineSettings
from pocketrec_device.store import Store
from pocketrec_quantization.bundle import BundleFolder
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.plan import Plan
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from pathlib import Path

    from tests.device.conftest import TinyModel

MakeBundle = Callable[..., BundleFolder]
InstallPlan = Callable[[Plan], None]
NUMPY = EngineSettings(backend="numpy")
EVERYTHING = tuple("abcdefghijkl")


class TestRanking:
    def test_scores_are_those_of_the_reference(
        self, runtime: Runtime, bundle: BundleFolder, model: TinyModel
    ) -> None:
        """A history and candidates give what the reference executor gives."""
        items = bundle.read_items()
        reference = ReferenceBackend.from_model(
            model.frozen, model.plan().widths, bundle.manifest.backbone
        )
        h = reference.full_history(items.embed(items.indices_of("abcabcabd"))).h
        expected = reference.score(h, items.embed(items.indices_of("efgh")))

        runtime.observe_many(list("abcabcab"))
        runtime.observe("d")
        ranking = runtime.rerank(list("efgh"), 4)

        by_item = dict(zip(ranking.items, ranking.scores, strict=True))
        np.testing.assert_allclose([by_item[i] for i in "efgh"], expected, atol=1e-4)

    def test_events_on_unknown_items_change_nothing(self, runtime: Runtime) -> None:
        """What the item table lacks is reported and left out."""
        runtime.observe_many(["a", "b"])
        before = runtime.rerank(EVERYTHING, 12)

        assert runtime.observe("never heard of") is False
        assert runtime.observe_many(["?", "!"]) == 0

        assert runtime.rerank(EVERYTHING, 12) == before

    def test_unknown_candidates_come_last(self, runtime: Runtime) -> None:
        """A candidate the item table lacks keeps its place behind all others."""
        runtime.observe("a")

        ranking = runtime.rerank(["?", "b", "!", "c"], 4)

        assert set(ranking.items[:2]) == {"b", "c"}
        assert ranking.items[2:] == ("?", "!")

    def test_only_unknown_candidates_are_ranked_too(self, runtime: Runtime) -> None:
        """Nothing to compute is no error."""
        runtime.observe("a")

        assert runtime.rerank(["?", "!"], 2).items == ("?", "!")

    def test_seen_items_can_be_left_out(self, runtime: Runtime) -> None:
        """The filter knows the last L events."""
        runtime.observe_many(["a", "b", "c", "d", "e", "f"])

        ranking = runtime.rerank(["a", "b", "f", "g"], 4, exclude_seen=True)

        assert set(ranking.items) == {"a", "g"}  # L = 5: "a" has left the window

    def test_without_a_history_the_server_decides(self, runtime: Runtime) -> None:
        """Before the first event, and after a reset, server scores rank alone."""
        runtime.observe("a")
        runtime.reset()

        assert runtime.rerank(["a", "b"], 2, server_scores=[1, 2]).items == ("b", "a")
        assert runtime.rerank(["b", "a"], 2).items == ("b", "a")

    def test_one_string_is_no_history(self, runtime: Runtime) -> None:
        """A single id instead of a list would be taken letter by letter."""
        with pytest.raises(ConfigError, match="sequence of item ids"):
            runtime.observe_many("abc")


class TestOpening:
    def test_works_offline_from_what_is_installed(self, runtime: Runtime, store_path: Path) -> None:
        """A second runtime on the folder ranks like the first."""
        runtime.observe_many(["a", "b"])

        with Runtime.open(store_path, backend="numpy") as second:
            second.observe_many(["a", "b"])
            assert second.rerank(EVERYTHING, 12) == runtime.rerank(EVERYTHING, 12)

    def test_both_backends_rank_alike(self, runtime: Runtime, store_path: Path) -> None:
        """The default backend gives the reference's order."""
        runtime.observe_many(["a", "b"])

        with Runtime.open(store_path) as other:
            other.observe_many(["a", "b"])
            assert other.rerank(EVERYTHING, 12).items == runtime.rerank(EVERYTHING, 12).items

    def test_nowhere_says_to_create(self, tmp_path: Path) -> None:
        """Opening a folder that is no store names what to do."""
        with pytest.raises(StoreError, match=r"Runtime\.create"):
            Runtime.open(tmp_path / "nowhere")

    def test_an_empty_store_says_to_sync(self, tmp_path: Path) -> None:
        """A store without a bundle can be created, not opened or ranked with."""
        with Runtime.create(tmp_path / "device", model="demo") as runtime:
            assert not runtime.is_ready
            with pytest.raises(StoreError, match="sync"):
                runtime.rerank(["a"], 1)

        with pytest.raises(StoreError, match=r"nothing is installed.*sync"):
            Runtime.open(tmp_path / "device")

    @pytest.mark.parametrize("damaged", ["bundles/*/parts/*", "bundles/*/manifest.pb", "plans/*"])
    def test_damage_leaves_a_way_out(
        self, damaged: str, store_path: Path, bundle: BundleFolder
    ) -> None:
        """When no installed pair can be used, ``create`` gives a runtime that can repair it."""
        for part in store_path.glob(damaged):
            part.write_bytes(b"damaged")

        with Runtime.create(store_path, model="demo", backend="numpy") as broken:
            assert not broken.is_ready
            assert "no installed pair" in broken.problem
            assert broken.bootstrap(bundle.path)
            assert (broken.is_ready, broken.problem) == (True, "")
        with Runtime.open(store_path, backend="numpy") as repaired:
            assert repaired.problem == ""

    def test_a_misspelt_backend_is_refused_at_once(self, tmp_path: Path) -> None:
        """A store is not even made."""
        with pytest.raises(ConfigError, match="backend"):
            Runtime.create(tmp_path / "device", model="demo", backend="onnx")

        assert not (tmp_path / "device").exists()

    @pytest.mark.parametrize("compute", ["auto", "fp32"])
    def test_strict_refuses_float32(self, store_path: Path, compute: str) -> None:
        """A plan's widths are not kept in float32; the message says what keeps them."""
        with pytest.raises(BackendError, match=r"strict: .*compute='packed'"):
            Runtime.open(store_path, strict=True, compute=compute)

    def test_strict_refuses_more_bits_than_asked_for(
        self, runtime: Runtime, store_path: Path, model: TinyModel, install_plan: InstallPlan
    ) -> None:
        """8 bits in place of 2 are a fallback too; where 8 are asked for, they are not."""
        assert Runtime.open(store_path, strict=True, compute="int8").is_ready
        install_plan(model.mixed_plan(version=4))

        with pytest.raises(BackendError, match=r"keeps 8 channels of 8 bits"):
            Runtime.open(store_path, strict=True, compute="int8")

    def test_strict_accepts_packed_kernels(
        self, runtime: Runtime, store_path: Path, model: TinyModel, install_plan: InstallPlan
    ) -> None:
        """There every channel is kept and computed at its own width."""
        install_plan(model.mixed_plan(version=4))

        with Runtime.open(store_path, strict=True, compute="packed") as packed:
            assert all(report.stored == report.requested for report in packed.report())

    def test_a_closed_runtime_ranks_no_more(self, runtime: Runtime) -> None:
        """Closing lets go of everything."""
        runtime.close()

        with pytest.raises(StoreError, match="nothing is loaded"):
            runtime.observe("a")

    def test_another_process_may_have_synced(
        self, runtime: Runtime, store_path: Path, make_bundle: MakeBundle
    ) -> None:
        """``load`` picks up what somebody else installed."""
        other = Runtime.open(store_path, backend="numpy")
        other.bootstrap(make_bundle(version=2).path)

        runtime.load()

        assert runtime._live.snapshot(with_seen=False).engine.manifest.version == 2


class TestSwap:
    def test_rebuilds_the_session_from_the_last_events(
        self, runtime: Runtime, make_bundle: MakeBundle, make_items: Callable[..., ItemTable]
    ) -> None:
        """After a swap the user is who they were: the last L events are taken in again."""
        newer = make_bundle(version=2, seed=1, items=make_items(2))
        runtime.observe_many(["l", "k", "a", "b", "c", "d", "e"])
        with Runtime.create(runtime._store.path.parent / "x", model="demo") as fresh:
            fresh._settings = NUMPY
            fresh.bootstrap(newer.path)
            fresh.observe_many(["a", "b", "c", "d", "e"])
            expected = fresh.rerank(EVERYTHING, 12)

        runtime.bootstrap(newer.path)

        assert runtime.rerank(EVERYTHING, 12) == expected

    def test_leaves_out_events_the_new_items_lack(
        self, runtime: Runtime, make_bundle: MakeBundle, make_items: Callable[..., ItemTable]
    ) -> None:
        """Items that a new table dropped are no part of the rebuilt session."""
        runtime.observe_many(["a", "b"])

        runtime.bootstrap(make_bundle(version=2, items=make_items(2, tuple("bzyxw"))).path)

        assert runtime.rerank(["a", "z"], 2).items == ("z", "a")

    def test_does_not_disturb_calls_in_flight(
        self, runtime: Runtime, make_bundle: MakeBundle
    ) -> None:
        """Rankings made during swaps are whole: all scores come from one engine."""
        bundles = [make_bundle(version=version, seed=version % 2) for version in range(2, 8)]
        runtime.observe_many(["a", "b", "c"])
        possible = {runtime.rerank(EVERYTHING, 12)}
        with Runtime.create(runtime._store.path.parent / "x", model="demo") as other:
            other._settings = NUMPY
            other.bootstrap(bundles[1].path)
            other.observe_many(["a", "b", "c"])
            possible.add(other.rerank(EVERYTHING, 12))
        seen, stop = set(), threading.Event()

        def rank_on() -> None:
            while not stop.is_set():
                seen.add(runtime.rerank(EVERYTHING, 12))

        threads = [threading.Thread(target=rank_on) for _ in range(2)]
        for thread in threads:
            thread.start()
        for newer in bundles:
            runtime.bootstrap(newer.path)
        stop.set()
        for thread in threads:
            thread.join()

        assert seen <= possible

    def test_observing_from_threads_loses_no_event(self, runtime: Runtime) -> None:
        """Events from several threads are taken in one after the other."""
        threads = [
            threading.Thread(target=lambda: [runtime.observe("a") for _ in range(50)])
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

        assert runtime._live._running is not None
        assert runtime._live._running.session.n_events == 200


class TestStatus:
    def test_separates_the_payload_of_a_plan(
        self, runtime: Runtime, model: TinyModel, install_plan: InstallPlan
    ) -> None:
        """Header, 2-bit codes and signature are told apart."""
        install_plan(model.mixed_plan(version=4, subject="ann"))

        current = runtime.status().current

        assert current is not None
        assert (current.plan_version, current.subject, current.planner) == (4, "ann", "random")
        assert current.payload_bytes == -(-len(model.plan().codes) // 4)
        assert current.signature_bytes == 0
        assert 2 < current.effective_bits < 16

    def test_shows_an_expired_plan_that_keeps_ranking(
        self, runtime: Runtime, model: TinyModel, install_plan: InstallPlan
    ) -> None:
        """A plan that expires while offline is reported, and still ranks."""
        plan = model.mixed_plan(version=4, issued_at_s=1_700_000_000, expires_at_s=1_700_000_001)
        install_plan(plan)
        runtime.observe("a")

        current = runtime.status().current

        assert current is not None
        assert current.is_expired
        assert len(runtime.rerank(EVERYTHING, 12)) == 12

    def test_reports_what_each_layer_costs(self, runtime: Runtime, model: TinyModel) -> None:
        """The runtime passes on its backend's report."""
        reports = runtime.report()

        assert [report.name for report in reports] == [layer.name for layer in model.plan().layers]
        assert reports[0].requested == {8: 8}

    def test_names_what_cannot_be_read(self, runtime: Runtime, store_path: Path) -> None:
        """A damaged pair is a line in the status, not an error."""
        next(store_path.glob("plans/*")).write_bytes(b"damaged")

        status = runtime.status()

        assert status.current is None
        assert "has changed" in status.problems[0]


def test_the_package_imports_without_what_only_syncing_needs() -> None:
    """Importing loads no network, no TUF, no cryptography, no inference library, no torch."""
    script = (
        "import sys, pocketrec_device\n"
        "heavy = {'torch', 'grpc', 'tuf', 'cryptography', 'onnxruntime', 'executorch', 'onnx',"
        " 'pocketrec_cloud', 'pandas', 'sqlalchemy', 'rich', 'click'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script],
        env={"PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.strip() == "[]"


def test_nothing_of_a_history_is_written(runtime: Runtime, store_path: Path) -> None:
    """Item ids stay in memory: the store's files do not change while events come in."""

    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in store_path.rglob("*") if path.is_file()}

    before = contents()
    runtime.observe_many(["a", "b"])
    runtime.rerank(EVERYTHING, 12)
    runtime.close()

    assert contents() == before


def test_a_store_survives_another_settings_choice(runtime: Runtime, store_path: Path) -> None:
    """What one backend installed, another one opens."""
    del runtime
    store = Store(store_path)

    assert Runtime(store, NUMPY).is_ready is False
    assert Runtime.open(store_path, threads=2).is_ready
