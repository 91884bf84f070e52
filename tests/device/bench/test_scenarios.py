# SPDX-License-Identifier: Apache-2.0
"""Scenarios in this process, on the NumPy backend: which calls they time, and how often."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from pocketrec.errors import ConfigError, IncompatibleArtifactError, MalformedArtifactError
from pocketrec_device.bench.cells import Grid, Variant
from pocketrec_device.bench.demo_files import find_demo
from pocketrec_device.bench.quality import agreement, best_items
from pocketrec_device.bench.samples import decode_samples, encode_samples, summarise, thin
from pocketrec_device.bench.scenarios import Effort, Scenario, offline, replay, single
from pocketrec_device.bench.sessions import read_sessions
from pocketrec_device.bench.stopwatch import Stopwatch
from pocketrec_device.bench.yardstick import Bystanders, Yardstick, throttle_events
from pocketrec_device.engine import Engine, build_engine
from pocketrec_device.settings import EngineSettings
from pocketrec_quantization.bundle import DEFAULT_PLAN
from pocketrec_quantization.cases import EvaluationCases

if TYPE_CHECKING:
    from pocketrec_quantization.bundle import BundleFolder

EFFORT = Effort(warmup=1, runs=16, min_seconds=0)
SESSIONS = [["a", "b", "c", "d", "e"], ["f", "g"]]


@pytest.fixture(scope="module")
def engine(bundle: BundleFolder) -> Engine:
    """The tiny bundle in NumPy."""
    return build_engine(bundle, bundle.read(DEFAULT_PLAN), EngineSettings(backend="numpy"))


def played(engine: Engine, make: Callable[..., Scenario], *sessions: object) -> Stopwatch:
    """Return the stopwatch after all rounds."""
    stopwatch = Stopwatch()
    scenario = make(engine, *sessions, n_candidates=5, seed=0, effort=EFFORT)
    scenario.first()
    for _ in scenario.rounds(stopwatch):
        pass
    return stopwatch


class TestRounds:
    def test_single_times_every_operation_as_often(self, engine: Engine) -> None:
        """Sixteen calls in eight slices, warm-up not counted."""
        samples = played(engine, single).samples_ns

        assert {name: len(found) for name, found in samples.items()} == dict.fromkeys(
            ("prefill", "step", "score", "observe", "rerank", "observe_rerank", "prefill_rerank"),
            16,
        )

    def test_a_session_is_started_with_its_older_half(self, engine: Engine) -> None:
        """Of 5 events 3 follow, of 2 one: 4 answers per 2 starts."""
        samples = played(engine, replay, SESSIONS).samples_ns

        assert len(samples["start"]) == 16
        assert {len(samples[n]) for n in ("rerank", "observe", "observe_rerank")} == {32}
        both = zip(samples["rerank"], samples["observe"], strict=True)
        assert samples["observe_rerank"] == [first + second for first, second in both]

    def test_offline_times_users(self, engine: Engine) -> None:
        """One answer each."""
        assert played(engine, offline, SESSIONS).samples_ns.keys() == {"user"}


class TestSessions:
    def test_text_is_read_as_the_demo_writes_it(self, tmp_path: Path) -> None:
        """A user's name, then items; unknown items and short sessions are left out."""
        path = tmp_path / "events.txt"
        path.write_text("u1 a ? b\nu2 c\n\nu3 a b c\n")

        assert read_sessions(path, ["a", "b", "c"]) == [["a", "b"], ["a", "b", "c"]]

    def test_cases_are_histories_with_what_came_next(self, tmp_path: Path) -> None:
        """By item id."""
        cases = EvaluationCases(
            items=np.array([1, 2, 3], np.int32),
            offsets=np.array([0, 2, 3]),
            targets=np.array([3, 1], np.int32),
            n_items=3,
        )
        (tmp_path / "cases").write_bytes(cases.to_bytes())

        assert read_sessions(tmp_path / "cases", ["a", "b", "c"]) == [["a", "b", "c"], ["c", "a"]]

    def test_cases_of_another_catalogue_are_refused(self, tmp_path: Path) -> None:
        """Their indices would mean other items, or none."""
        cases = EvaluationCases(
            items=np.array([4], np.int32),
            offsets=np.array([0, 1]),
            targets=np.array([3], np.int32),
            n_items=4,
        )
        (tmp_path / "cases").write_bytes(cases.to_bytes())

        with pytest.raises(IncompatibleArtifactError, match="bundle's 3 items, found 4"):
            read_sessions(tmp_path / "cases", ["a", "b", "c"])

    @pytest.mark.parametrize(
        ("content", "error"), [(b"u1 a\n", ConfigError), (b"\x00\xff", MalformedArtifactError)]
    )
    def test_files_without_sessions_are_refused(
        self, tmp_path: Path, content: bytes, error: type[Exception]
    ) -> None:
        """Nothing to replay, or no text at all."""
        (tmp_path / "file").write_bytes(content)

        with pytest.raises(error):
            read_sessions(tmp_path / "file", ["a"])


class TestSamples:
    def test_text_holds_them_exactly(self) -> None:
        """Nanoseconds in, nanoseconds out."""
        samples = np.array([5, 70_000, 3_000_000_000], np.int64)

        assert decode_samples(encode_samples(samples)).tolist() == samples.tolist()

    def test_text_of_something_else_is_refused(self) -> None:
        """A fraction is no whole nanosecond."""
        with pytest.raises(ConfigError, match="whole numbers"):
            decode_samples("1 2.5")

    def test_thinning_keeps_order_and_both_ends(self) -> None:
        """Of a hundred, five evenly spread; few are kept as they are."""
        assert thin(np.arange(101), 5).tolist() == [0, 25, 50, 75, 100]
        assert thin(np.arange(3), 5).tolist() == [0, 1, 2]

    def test_a_summary_is_in_microseconds(self) -> None:
        """Of 1 to 100 us the median is 50.5."""
        summary = summarise(np.arange(1, 101) * 1000)

        assert (summary["p50"], summary["min"], summary["max"], summary["n"]) == (50.5, 1, 100, 100)
        assert summary["p90"] == pytest.approx(90.1)


class TestAgreement:
    def test_the_same_scores_agree(self) -> None:
        """All ten in common, no pair the other way round."""
        scores = np.arange(13, dtype=np.float32)

        assert best_items(scores).tolist() == [12, 11, 10, 9, 8, 7, 6, 5, 4, 3]
        assert agreement(scores, best_items(scores)) == (1.0, 0.0)

    def test_opposite_scores_flip_every_pair(self) -> None:
        """Seven of ten are still among the best of twelve."""
        scores = np.arange(13, dtype=np.float32)
        scores[0] = -np.inf
        opposite = -scores
        opposite[0] = -np.inf

        assert agreement(opposite, best_items(scores)) == (0.8, 1.0)

    def test_ties_are_no_flips(self) -> None:
        """A coarse model that cannot tell two items apart does not contradict."""
        scores = np.arange(13, dtype=np.float32)
        equal = np.ones_like(scores)

        assert agreement(equal, best_items(scores))[1] == 0

    def test_short_rankings_count_what_there_is(self) -> None:
        """With two items left, those two are the ranking."""
        scores = np.full(13, -np.inf, np.float32)
        scores[[4, 7]] = 1, 2

        assert best_items(scores).tolist() == [7, 4, *[0] * 8]
        assert agreement(scores, best_items(scores)) == (1.0, 0.0)
        assert agreement(scores, np.zeros(10, np.int64)) == (1.0, 0.0)


class TestMachine:
    def test_a_reading_is_positive(self) -> None:
        """The work takes time, whatever the machine."""
        yardstick = Yardstick()
        yardstick.read()

        assert len(yardstick.readings_us) == 1
        assert yardstick.readings_us[0] > 0

    def test_others_are_counted_without_us(self) -> None:
        """Never below nothing; unknown where the system does not say."""
        with Bystanders() as others:
            sum(range(1000))

        assert others.n_cores is None or others.n_cores >= 0

    def test_thermal_events_are_summed(self, tmp_path: Path) -> None:
        """Over all cores; what cannot be read counts nothing."""
        for core, text in enumerate(("3", "4", "none")):
            folder = tmp_path / f"cpu{core}" / "thermal_throttle"
            folder.mkdir(parents=True)
            (folder / "core_throttle_count").write_text(text)

        assert throttle_events(tmp_path) == 7
        assert throttle_events(tmp_path / "absent") == 0


class TestGrid:
    def test_every_combination_is_a_cell(self, tmp_path: Path) -> None:
        """Variants by backends, speeds and threads; the float control has no speeds."""
        variants = (
            Variant(name="float32", float_twin=tmp_path / "twin"),
            Variant(name="default"),
        )
        grid = Grid(
            variants=variants,
            backends=("onnxruntime", "numpy"),
            speeds=("balanced", "full"),
            threads=(1, 2),
        )

        names = [cell.name for cell in grid.cells()]

        assert names[:2] == [f"float32/onnxruntime/balanced/{n}/single" for n in (1, 2)]
        assert len(names) == 2 + 8
        assert len(set(names)) == len(names)

    def test_what_a_backend_cannot_do_is_said(self, tmp_path: Path) -> None:
        """ExecuTorch runs the default plan only."""
        variants = (Variant(name="default"), Variant(name="mixed", plan=tmp_path / "mixed"))

        default, mixed = Grid(variants=variants, backends=("executorch",)).cells()

        assert default.impossible == ""
        assert "default plan only" in mixed.impossible

    @pytest.mark.parametrize(
        "wrong",
        [
            {"backends": ()},
            {"backends": ("gpu",)},
            {"speeds": ("warp",)},
            {"threads": (0,)},
            {"threads": (1, 1)},
            {"scenarios": ("single", "single")},
        ],
    )
    def test_axes_that_make_no_sense_are_refused(self, wrong: dict[str, tuple[object]]) -> None:
        """Empty, unknown, or twice."""
        with pytest.raises(ConfigError):
            Grid(variants=(Variant(name="default"),), **wrong)


class TestDemoFiles:
    def test_a_finished_demo_is_found(self, tmp_path: Path) -> None:
        """Its bundle, float control, cases, and plans from fine to coarse."""
        (tmp_path / "build" / "bundle").mkdir(parents=True)
        for name in ("build/float.safetensors", "build/cases.safetensors"):
            (tmp_path / name).touch()
        for bits in (2, 4, 8):
            (tmp_path / f"uniform-{bits}.plan").touch()

        found = find_demo(tmp_path)

        assert [path.stem for path in found.plans] == ["uniform-8", "uniform-4", "uniform-2"]
        assert found.bundle == tmp_path / "build" / "bundle"

    def test_an_absent_demo_is_refused_with_advice(self, tmp_path: Path) -> None:
        """Run it, or say where it is."""
        with pytest.raises(ConfigError, match="scripts/demo"):
            find_demo(tmp_path)
