# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray

from pocketrec.cli import ExitCode
from pocketrec.errors import IntegrityError, MalformedArtifactError, PlanError
from pocketrec_quantization.backbone import BackboneConfig, coded_layers, dense_shapes
from pocketrec_quantization.bundle import (
    DEFAULT_PLAN,
    FROZEN,
    ITEMS,
    VECTORS,
    BundleFolder,
    ItemTableInfo,
    Manifest,
    write_bundle,
)
from pocketrec_quantization.cli import bundle_inspect, bundle_verify, plan_diff, plan_show
from pocketrec_quantization.frozen import FrozenModel
from pocketrec_quantization.item_table import ItemTable
from pocketrec_quantization.layers import split_by_layer
from pocketrec_quantization.levels import DEFAULT_LEVELS, LevelTable
from pocketrec_quantization.plan import Plan, encode_plan, model_id
from pocketrec_quantization.plan_json import plan_from_json, plan_to_json
from pocketrec_quantization.quantizer import freeze_matrix
from pocketrec_quantization.reference import ReferenceBackend
from pocketrec_quantization.vectors import TestVectors, VectorCase

CONFIG = BackboneConfig(
    kind="sasrec", embedding_dim=4, n_blocks=1, n_heads=2, window=3, ffn_multiplier=2
)
COMMANDS = {
    "inspect": bundle_inspect,
    "verify": bundle_verify,
    "show": plan_show,
    "diff": plan_diff,
}


@cache
def make_model() -> FrozenModel:
    """Return a tiny model with arbitrary weights."""
    rng = np.random.default_rng(0)

    def draw(*shape: int) -> NDArray[np.float32]:
        return rng.normal(size=shape).astype(np.float32)

    return FrozenModel(
        matrices={
            layer.name: freeze_matrix(draw(layer.n_channels, layer.n_elements))
            for layer in coded_layers(CONFIG)
        },
        dense={name: draw(*shape) for name, shape in dense_shapes(CONFIG).items()},
    )


def make_plan(frozen: FrozenModel, code: int = 2, **changes: object) -> Plan:
    """Return a plan with one code everywhere."""
    n_channels = sum(layer.n_channels for layer in frozen.layers)
    plan = Plan(
        model_id=model_id(frozen.digest),
        levels=DEFAULT_LEVELS,
        layers=frozen.layers,
        codes=np.full(n_channels, code, np.uint8),
        budget_bytes=1000,
        subject="",
        planner="uniform-4",
        version=0,
        issued_at_s=1_700_000_000,
        expires_at_s=0,
        key_id=b"",
    )
    return replace(plan, **changes)  # type: ignore[arg-type]  # fields of Plan


def make_vectors(frozen: FrozenModel, items: ItemTable, *, error: float = 0.0) -> TestVectors:
    """Return one test vector whose scores are off by an error."""
    backend = ReferenceBackend.from_model(frozen, make_plan(frozen).widths, CONFIG)
    history, candidates = np.array([1, 2], np.int32), np.array([3, 1], np.int32)
    scores = backend.score(backend.prefill(items.embed(history)).h, items.embed(candidates))
    case = VectorCase(history=history, candidates=candidates, scores=scores + np.float32(error))
    return TestVectors(cases=(case,), tolerance={"numpy": 1e-4})


def make_bundle(
    folder: Path,
    *,
    error: float = 0.0,
    frozen: FrozenModel | None = None,
    backbone: BackboneConfig = CONFIG,
    plan: Plan | None = None,
) -> Path:
    """Write a tiny bundle and return its folder; its vectors are those of ``make_model``."""
    frozen = frozen or make_model()
    embeddings = np.random.default_rng(1).normal(size=(4, 4)).astype(np.float32)
    items = ItemTable.from_embeddings(embeddings, ("a", "b", "c"), 1)
    manifest = Manifest(
        model_name="tiny",
        version=3,
        created_at_s=1_700_000_000,
        backbone=backbone,
        items=ItemTableInfo(n_items=3, n_rows=items.n_rows, row_bits=8, version=1),
        layers=frozen.layers,
        parts=(),
        license="CC0-1.0",
        producer="a [bold] test",
    )
    parts = {
        FROZEN: frozen.to_bytes(),
        ITEMS: items.to_bytes(),
        DEFAULT_PLAN: encode_plan(plan or make_plan(frozen), None),
        VECTORS: make_vectors(make_model(), items, error=error).to_bytes(),
    }
    write_bundle(folder, manifest, parts)
    return folder


def run(command: str, *args: object, columns: int = 200) -> Result:
    """Run one command."""
    words = [str(arg) for arg in args]
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(COMMANDS[command], words)


def run_json(command: str, *args: object) -> dict[str, object]:
    """Run one command and return its JSON."""
    result = run(command, *args, "--json", "-")
    document = json.loads(result.stdout)
    assert isinstance(document, dict)
    return document


class TestBundleInspect:
    def test_the_table_names_the_parts(self, tmp_path: Path) -> None:
        """A person sees model, version, every part, and free text as it is."""
        output = run("inspect", make_bundle(tmp_path)).stdout

        for text in ("tiny version 3", "frozen", "default.plan", "a [bold] test", "2023-11-14"):
            assert text in output

    def test_digests_can_be_copied(self, tmp_path: Path) -> None:
        """They are whole in a terminal of 80 columns: other commands take them so."""
        bundle = BundleFolder.open(make_bundle(tmp_path))

        lines = run("inspect", tmp_path, columns=80).stdout.splitlines()

        for digest in (bundle.digest, bundle.model_digest):
            assert [line for line in lines if digest.hex() in line]

    def test_the_json_has_digests_and_sizes(self, tmp_path: Path) -> None:
        """A program gets the digests in hexadecimal and the total of the parts."""
        bundle = BundleFolder.open(make_bundle(tmp_path))

        result = run_json("inspect", tmp_path)

        assert result["digest"] == bundle.digest.hex()
        assert result["model_digest"] == bundle.model_digest.hex()
        assert result["total_bytes"] == sum(p.length_bytes for p in bundle.manifest.parts)
        assert result["n_channels"] == 4 * 4 + 8 + 4


class TestBundleVerify:
    def test_a_sound_bundle_passes(self, tmp_path: Path) -> None:
        """Digests, formats and test vectors come out."""
        result = run("verify", make_bundle(tmp_path))

        assert result.exit_code == ExitCode.OK
        assert "1 test vectors come out" in result.stdout

    def test_it_says_what_the_default_plan_keeps(self, tmp_path: Path) -> None:
        """At 4 bits, 5 of 8 columns of 4 channels take a byte less each."""
        frozen = make_model()
        plan = make_plan(frozen)
        codes = plan.codes.copy()
        split_by_layer(codes, plan.layers)["blocks.0.ffn1"][:3] = 1
        levels = LevelTable((0, 0, 4, 8))
        folder = make_bundle(tmp_path, plan=replace(plan, codes=codes, levels=levels))

        found = run_json("verify", folder)["default_plan"]

        assert isinstance(found, dict)
        assert found["coded_bytes"] == 16 * (2 + 4) + 5 * (2 + 4) + 4 * (4 + 4)
        assert found["resident_bytes"] == found["coded_bytes"] - 4
        text = "154 bytes of coded weights in memory, packed"
        assert text in run("verify", folder).stdout

    def test_wrong_scores_fail_the_check(self, tmp_path: Path) -> None:
        """Scores beyond the tolerance end with the exit code of failed checks."""
        result = run("verify", make_bundle(tmp_path, error=0.5))

        assert result.exit_code == ExitCode.CHECK_FAILED
        assert "1 test vectors do not come out: largest error 0.5" in result.stdout

    @pytest.mark.parametrize("scale", [3e38, -3e38])
    def test_scores_that_are_not_finite_fail_the_check(self, tmp_path: Path, scale: float) -> None:
        """Scores that overflow are wrong scores, in the table and in the JSON."""
        model = make_model()
        dense = {**model.dense, "final_norm.weight": np.full(4, scale, np.float32)}
        frozen = FrozenModel(matrices=model.matrices, dense=dense)
        folder = make_bundle(tmp_path, frozen=frozen)

        result = run("verify", folder)

        assert result.exit_code == ExitCode.CHECK_FAILED
        assert "do not come out: largest error not finite" in result.stdout
        assert run_json("verify", folder)["vectors"]["worst_error"] is None  # type: ignore[index]

    def test_weights_of_another_backbone_are_blamed_on_the_bundle(self, tmp_path: Path) -> None:
        """A manifest that claims a longer window than its weights have is malformed."""
        folder = make_bundle(tmp_path, backbone=replace(CONFIG, window=5))

        assert isinstance(run("verify", folder).exception, MalformedArtifactError)

    def test_a_flipped_bit_is_an_integrity_error(self, tmp_path: Path) -> None:
        """A part that was altered is refused."""
        path = BundleFolder.open(make_bundle(tmp_path)).part_path(ITEMS)
        content = bytearray(path.read_bytes())
        content[-1] ^= 1
        path.write_bytes(content)

        assert isinstance(run("verify", tmp_path).exception, IntegrityError)


class TestPlanShow:
    def test_the_table_has_layers_and_sizes(self, tmp_path: Path) -> None:
        """A person sees who the plan is for and what each layer gets."""
        path = tmp_path / "a.plan"
        path.write_bytes(encode_plan(make_plan(make_model()), None))

        output = run("show", path).stdout

        for text in ("everybody", "uniform-4", "blocks.0.ffn1", "8×4", "payload_bytes 7"):
            assert text in output

    def test_the_json_contains_the_twin(self, tmp_path: Path) -> None:
        """The entry plan reads back as the same plan, and what was written can be shown."""
        plan = make_plan(make_model(), subject="somebody")
        path, written = tmp_path / "a.plan", tmp_path / "a.json"
        path.write_bytes(encode_plan(plan, None))

        run("show", path, "--json", written)

        document = json.loads(written.read_text(encoding="utf-8"))
        assert plan_from_json(document["plan"]) == plan
        assert run_json("show", written)["plan"] == document["plan"]

    def test_a_time_beyond_the_calendar_is_shown_in_seconds(self, tmp_path: Path) -> None:
        """The format allows times that no date can express."""
        path = tmp_path / "a.plan"
        path.write_bytes(encode_plan(make_plan(make_model(), expires_at_s=2**53 - 1), None))

        result = run("show", path)

        assert result.exit_code == ExitCode.OK
        assert "9,007,199,254,740,991 s" in result.stdout

    def test_effective_bits_count_the_scales(self, tmp_path: Path) -> None:
        """At 4 bits a channel of 4 weights takes 2 bytes and 4 for its scale: 12 bits each."""
        path = tmp_path / "a.json"
        path.write_text(json.dumps(plan_to_json(make_plan(make_model()))), encoding="utf-8")

        layers = run_json("show", path)["layers"]

        assert isinstance(layers, list)
        assert layers[0]["effective_bits"] == 12
        assert layers[0]["channels_by_bits"] == {"4": 4}

    @pytest.mark.parametrize("content", [b"", b"{", b'{"plan": 3}', b"{\xff}", b"PKRP", b"[" * 99])
    def test_what_is_no_plan_is_refused(self, content: bytes, tmp_path: Path) -> None:
        """Neither container nor JSON twin: the error says what was expected."""
        path = tmp_path / "a.plan"
        path.write_bytes(content)

        assert isinstance(run("show", path).exception, MalformedArtifactError)

    def test_a_file_of_another_kind_is_named(self, tmp_path: Path) -> None:
        """The error says which file is no plan."""
        path = tmp_path / "README.md"
        path.write_text("# no plan", encoding="utf-8")

        error = run("show", path).exception

        assert str(error) == f"{path}: expected a plan, or its JSON twin"


class TestPlanDiff:
    @pytest.fixture
    def plans(self, tmp_path: Path) -> tuple[Path, Path]:
        """Two plans that differ in two channels of the first layer."""
        frozen = make_model()
        before = make_plan(frozen)
        codes = before.codes.copy()
        codes[:2] = (1, 3)
        paths = (tmp_path / "before.plan", tmp_path / "after.plan")
        for path, plan in zip(paths, (before, replace(before, codes=codes)), strict=True):
            path.write_bytes(encode_plan(plan, None))
        return paths

    def test_layers_that_differ_are_listed(self, plans: tuple[Path, Path]) -> None:
        """Only layers with a changed channel appear, with counts before and after."""
        result = run_json("diff", *plans)

        assert (result["n_changed"], result["n_channels"]) == (2, 28)
        assert result["layers"] == [
            {
                "name": "blocks.0.q",
                "n_channels": 4,
                "n_changed": 2,
                "before": {"4": 4},
                "after": {"2": 1, "4": 2, "8": 1},
            }
        ]

    def test_the_table_shows_both_sides(self, plans: tuple[Path, Path]) -> None:
        """A person sees how many channels of each width there were and are."""
        output = run("diff", *plans).stdout

        assert "2 of 28 channels differ in width" in output
        assert "4 → 2" in output

    def test_subjects_are_shown_as_they_are(self, plans: tuple[Path, Path], tmp_path: Path) -> None:
        """A plan without a subject is everybody's, and brackets in one are no markup."""
        path = tmp_path / "personal.plan"
        path.write_bytes(encode_plan(make_plan(make_model(), subject="[b]u[/b]"), None))

        output = run("diff", plans[0], path).stdout

        assert "everybody" in output
        assert "[b]u[/b]" in output

    def test_a_difference_is_no_failure_unless_asked(self, plans: tuple[Path, Path]) -> None:
        """Only --exit-code makes a difference end with 1."""
        assert run("diff", *plans).exit_code == ExitCode.OK
        assert run("diff", "--exit-code", *plans).exit_code == ExitCode.CHECK_FAILED
        assert run("diff", "--exit-code", plans[0], plans[0]).exit_code == ExitCode.OK

    def test_other_layers_cannot_be_compared(
        self, plans: tuple[Path, Path], tmp_path: Path
    ) -> None:
        """Plans for different layers are refused."""
        frozen = make_model()
        plan = make_plan(frozen, layers=frozen.layers[:1], codes=np.full(4, 1, np.uint8))
        path = tmp_path / "other.plan"
        path.write_bytes(encode_plan(plan, None))

        assert isinstance(run("diff", plans[0], path).exception, PlanError)

    def test_other_weights_are_pointed_out(self, plans: tuple[Path, Path], tmp_path: Path) -> None:
        """Plans of one shape for different weights are compared, with a remark."""
        path = tmp_path / "other.plan"
        path.write_bytes(encode_plan(make_plan(make_model(), model_id=bytes(16)), None))

        assert "different weights" in run("diff", plans[0], path).stdout
