# SPDX-License-Identifier: Apache-2.0
"""Benchmarks on the tiny bundle: what they report, never how long anything took."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.device.bench.conftest import (
    N_CASES,
    OPERATIONS,
    QUICK,
    Inputs,
    coarse_plan,
    job,
    measure,
    unseen_scores,
)

from pocketrec.errors import (
    BackendError,
    ConfigError,
    IncompatibleArtifactError,
    MalformedArtifactError,
)
from pocketrec.metrics import ndcg
from pocketrec_device.bench import (
    BenchConfig,
    Grid,
    Side,
    Variant,
    run_bench,
    worker,
)
from pocketrec_device.bench.processes import Interpreter
from pocketrec_device.bench.samples import PERCENTILES
from pocketrec_quantization.budget import coded_bytes, effective_bits
from pocketrec_quantization.bundle import MANIFEST_FILE
from pocketrec_quantization.cases import EvaluationCases
from pocketrec_quantization.plan import encode_plan, plan_sizes
from pocketrec_quantization.reference import ReferenceBackend

if TYPE_CHECKING:
    from tests.device.conftest import TinyModel

    from pocketrec_quantization.bundle import BundleFolder


class TestReport:
    def test_the_run_is_described(self, result: dict[str, Any], bundle: BundleFolder) -> None:
        """Bundle, options, cases, versions and machine: enough to do it again."""
        assert result["bundle"]["digest"] == bundle.digest.hex()
        assert result["config"] == asdict(QUICK)
        assert result["n_cases"] == N_CASES
        assert result["records"][0]["backend_version"].startswith("onnxruntime ")
        assert {"pocketrec", "numpy", "python"} <= result["environment"]["versions"].keys()
        assert {"machine", "cpu", "cores"} <= result["environment"]["hardware"].keys()
        json.dumps(result, allow_nan=False)

    def test_rows_are_in_the_order_asked_for(self, result: dict[str, Any]) -> None:
        """A table keeps its order."""
        assert [r["variant"] for r in result["records"]] == ["float32", "default", "coarse"]

    def test_every_operation_is_timed(self, records: dict[str, dict[str, Any]]) -> None:
        """At least as many calls as asked for, with percentiles in order."""
        for record in records.values():
            assert record["latency_us"].keys() == OPERATIONS
            for summary in record["latency_us"].values():
                values = [summary[f"p{p}"] for p in PERCENTILES]
                assert summary["n"] >= 5
                assert [summary["min"], *values, summary["max"]] == sorted(
                    [summary["min"], *values, summary["max"]]
                )

    def test_start_and_memory_are_measured(self, records: dict[str, dict[str, Any]]) -> None:
        """Loading uses memory, so the peak lies above the idle process."""
        for record in records.values():
            assert record["peak_rss_bytes"] > record["idle_rss_bytes"] > 0
            assert min(record[key] for key in ("import_ms", "load_ms", "first_run_ms")) > 0

    def test_what_computes_is_admitted(self, records: dict[str, dict[str, Any]]) -> None:
        """All rows compute in float32, whatever their plans ask for."""
        for record in records.values():
            assert [text.split()[0] for text in record["computed"]] == ["float32"]


class TestSizes:
    def test_plans_cost_what_their_files_hold(
        self, records: dict[str, dict[str, Any]], inputs: Inputs, model: TinyModel
    ) -> None:
        """Payload, whole plan, coded weights and bits per weight, counted independently."""
        plan = coarse_plan(model)
        sizes = plan_sizes(inputs.coarse.read_bytes())
        record = records["coarse"]

        assert record["plan_bytes"] == inputs.coarse.stat().st_size == sizes.total_bytes
        assert record["plan_payload_bytes"] == -(-plan.codes.size // 4)
        assert record["coded_bytes"] == coded_bytes(plan.layers, plan.widths)
        assert record["effective_bits"] == effective_bits(plan.layers, plan.widths)

    def test_bundles_cost_all_their_files(
        self, records: dict[str, dict[str, Any]], bundle: BundleFolder
    ) -> None:
        """Every part and the manifest."""
        files = [bundle.path / MANIFEST_FILE, *(bundle.path / "parts").iterdir()]

        assert records["default"]["bundle_bytes"] == sum(path.stat().st_size for path in files)

    def test_the_float_control_has_no_plan(
        self, records: dict[str, dict[str, Any]], inputs: Inputs, model: TinyModel
    ) -> None:
        """32 bits per weight, and its own file."""
        n_weights = sum(layer.n_channels * layer.n_elements for layer in model.frozen.layers)
        record = records["float32"]

        assert (record["effective_bits"], record["plan_bytes"]) == (32, 0)
        assert record["coded_bytes"] == 4 * n_weights
        assert record["bundle_bytes"] == inputs.twin.stat().st_size


class TestQuality:
    def test_the_float_control_ranks_as_the_float_model(
        self, records: dict[str, dict[str, Any]]
    ) -> None:
        """The targets were chosen so that the float model is never wrong."""
        quality = records["float32"]["quality"]

        assert quality["hr@5"] == quality["ndcg@10"] == 1
        assert quality["ndcg@10_change"] == 0

    @pytest.mark.parametrize("name", ["default", "coarse"])
    def test_ranks_are_those_of_the_reference(
        self,
        records: dict[str, dict[str, Any]],
        inputs: Inputs,
        model: TinyModel,
        bundle: BundleFolder,
        name: str,
    ) -> None:
        """NDCG is what NumPy alone finds under the same plan."""
        plan = coarse_plan(model) if name == "coarse" else model.plan()
        config = bundle.manifest.backbone
        reference = ReferenceBackend.from_model(model.frozen, plan.widths, config)
        embeddings = bundle.read_items().embed(np.arange(13))
        cases = EvaluationCases.from_bytes(inputs.cases.read_bytes())

        ranks = []
        for case, target in enumerate(cases.targets):
            scores = unseen_scores(reference, embeddings, cases.history(case))
            ranks.append(int((scores > scores[target]).sum()))

        quality = records[name]["quality"]
        assert quality["ndcg@10"] == pytest.approx(ndcg(np.array(ranks), 10).mean())
        assert quality["hr@5"] == np.mean(np.array(ranks) < 5)

    def test_coarser_weights_rank_worse(self, records: dict[str, dict[str, Any]]) -> None:
        """Against the float control 8 bits lose little, and 2 bits lose for certain."""
        default, coarse = records["default"]["quality"], records["coarse"]["quality"]

        assert coarse["ndcg@10"] < default["ndcg@10"] <= 1
        assert default["ndcg@10_change"] == pytest.approx(default["ndcg@10"] - 1)
        assert coarse["ndcg@10_change_interval"][1] < 0

    def test_a_repeated_target_is_ranked(
        self, bundle: BundleFolder, tmp_path: Path, model: TinyModel
    ) -> None:
        """A target that the user has met before stays in the ranking, all else seen does not."""
        everything = np.arange(1, 13, dtype=np.int32)
        cases = EvaluationCases(
            items=everything,
            offsets=np.array([0, 12]),
            targets=np.array([4], np.int32),
            n_items=12,
        )
        (tmp_path / "cases").write_bytes(cases.to_bytes())

        measured = worker.measure(job(bundle, cases=str(tmp_path / "cases")))

        assert measured["ranking"]["ranks"] == [0]

    def test_without_cases_there_is_no_quality(self, bundle: BundleFolder) -> None:
        """Timing needs nobody's events."""
        result = measure(bundle, [Variant(name="default")], backends=("numpy",))

        assert result["n_cases"] is None
        assert result["records"][0]["quality"] is None


class TestProcesses:
    def test_variants_take_turns(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """Each process of a variant is followed by one of the next, and all samples count."""
        said: list[str] = []
        variants = [Variant(name="default"), Variant(name="mixed", plan=inputs.mixed)]

        result = measure(
            bundle,
            variants,
            replace(QUICK, repeat=2),
            backends=("numpy",),
            progress=said.append,
        )

        assert said == [
            "default/numpy/balanced/1/single, process 1 of 2",
            "mixed/numpy/balanced/1/single, process 1 of 2",
            "default/numpy/balanced/1/single, process 2 of 2",
            "mixed/numpy/balanced/1/single, process 2 of 2",
        ]
        assert result["records"][0]["latency_us"]["rerank"]["n"] >= 10

    def test_memory_is_the_workers_own(self, bundle: BundleFolder) -> None:
        """What the benchmark's own process holds is not counted."""
        ballast = np.ones(2**24)  # 128 MiB

        result = measure(bundle, [Variant(name="default")], backends=("numpy",))

        assert ballast[0] == 1
        assert result["records"][0]["idle_rss_bytes"] < ballast.nbytes / 2

    def test_a_failing_process_is_a_backend_error(
        self, bundle: BundleFolder, inputs: Inputs
    ) -> None:
        """The last line of what it said is in the message."""
        control = Variant(name="float", float_twin=inputs.twin)

        with pytest.raises(BackendError, match="float control runs on 'onnxruntime'"):
            measure(bundle, [control], backends=("numpy",))

    @pytest.mark.parametrize("program", ["true", "echo"])
    def test_a_program_that_measures_nothing_is_a_backend_error(
        self, bundle: BundleFolder, program: str
    ) -> None:
        """Silence and other words are no measurement; the program is named."""
        with pytest.raises(BackendError, match=f"expected a measurement of {program}"):
            Interpreter(python=program).measure(job(bundle))


class TestRefusals:
    """Nothing of this starts a process."""

    def test_a_plan_for_another_model(
        self, bundle: BundleFolder, model: TinyModel, tmp_path: Path
    ) -> None:
        """A plan is checked against the bundle before anything is measured."""
        path = tmp_path / "other.plan"
        path.write_bytes(encode_plan(replace(model.plan(), model_id=bytes(16)), None))

        with pytest.raises(IncompatibleArtifactError):
            measure(bundle, [Variant(name="other", plan=path)])

    def test_what_is_no_file_of_cases(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """Cases are read before anything is measured."""
        with pytest.raises(MalformedArtifactError):
            measure(bundle, [Variant(name="default")], cases=inputs.twin)

    def test_what_holds_no_sessions(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """Before a process is started."""
        grid = Grid(variants=(Variant(name="default"),), scenarios=("session",))
        sessions = inputs.cases.with_name("sessions.txt")
        sessions.write_text("user-1 unheard-of\n")

        with pytest.raises(ConfigError, match=r"sessions\.txt"):
            run_bench(Side(folder=bundle.path, grid=grid, sessions=sessions), QUICK)

    def test_cases_over_another_catalogue(
        self, bundle: BundleFolder, tmp_path: Path, inputs: Inputs
    ) -> None:
        """The message names both numbers of items."""
        cases = replace(EvaluationCases.from_bytes(inputs.cases.read_bytes()), n_items=13)
        (tmp_path / "cases").write_bytes(cases.to_bytes())

        with pytest.raises(IncompatibleArtifactError, match="bundle's 12 items, found 13"):
            measure(bundle, [Variant(name="default")], cases=tmp_path / "cases")

    def test_what_is_no_float_twin(self, bundle: BundleFolder, inputs: Inputs) -> None:
        """So is the float twin."""
        with pytest.raises(MalformedArtifactError):
            measure(bundle, [Variant(name="float", float_twin=inputs.cases)])

    @pytest.mark.parametrize("names", [[], ["a", "a"]], ids=["none", "equal"])
    def test_rows_without_names_of_their_own(self, bundle: BundleFolder, names: list[str]) -> None:
        """Two plan files of one name would be mixed up."""
        with pytest.raises(ConfigError, match="different names"):
            measure(bundle, [Variant(name=name) for name in names])

    @pytest.mark.parametrize(
        "wrong",
        [{"runs": 0}, {"repeat": 0}, {"n_candidates": 0}, {"kept_samples": 0}, {"warmup": -1}],
    )
    def test_counts_that_make_no_sense(self, wrong: dict[str, int]) -> None:
        """Without calls there is nothing to summarise."""
        with pytest.raises(ConfigError, match="at least 1"):
            BenchConfig(**wrong)
