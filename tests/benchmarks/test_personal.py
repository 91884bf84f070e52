# SPDX-License-Identifier: Apache-2.0
"""Slices of a pool, by hand, and one small table of them: trained, continued and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks import personal
from benchmarks.personal_attempts import ATTEMPTS
from benchmarks.personal_run import PersonalSettings, run
from benchmarks.personal_settings import SETUPS, Setup, case, recipe_of
from benchmarks.personal_tests import LONGER, by_history, paired_tests
from click.testing import CliRunner
from rich.progress import Progress

from pocketrec.errors import ConfigError

torch = pytest.importorskip("torch", reason="needs the extra 'cloud'")
pytest.importorskip("matplotlib", reason="needs the extra 'plots'")

if TYPE_CHECKING:
    from pocketrec_cloud.backbones.sasrec import SASRec

GROUPS = (
    "narrow-float",
    "global-trained",
    "personal-batch-trained",
    "codes-slice-trained",
    "offset-after",
)


@pytest.fixture
def model() -> SASRec:
    """A tiny SASRec with a pool of 16 channels a block."""
    from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

    torch.manual_seed(0)
    shape = SASRecConfig(n_items=9, embedding_dim=8, window=5, ffn_multiplier=2)
    found = SASRec(shape).eval()
    with torch.no_grad():
        for number in range(2):
            found.get_parameter(f"blocks.{number}.ffn1.bias").normal_()
    return found


class TestTakeSlice:
    def test_the_highest_scores_are_on(self) -> None:
        """As many as asked for, row by row."""
        from benchmarks.personal_slices import take_slice

        scores = torch.tensor([[0.1, 3.0, 2.0, -1.0], [5.0, 4.0, 3.0, 2.0]])

        assert take_slice(scores, 2, 1.0).tolist() == [[0, 1, 1, 0], [1, 1, 0, 0]]

    def test_channels_that_are_off_learn(self) -> None:
        """Those near the border most."""
        from benchmarks.personal_slices import take_slice

        scores = torch.tensor([3.0, 1.0, 0.9, -5.0], requires_grad=True)
        torch.autograd.backward(take_slice(scores, 2, 1.0).sum())

        assert scores.grad is not None
        assert scores.grad[2] > scores.grad[0] > scores.grad[3] > 0

    def test_a_slice_as_wide_as_the_pool_is_the_pool(self) -> None:
        """Without a border there is nothing to rank."""
        from benchmarks.personal_slices import take_slice

        assert take_slice(torch.zeros(2, 3), 3, 1.0).tolist() == [[1.0] * 3] * 2


class TestDecayedMeans:
    def test_by_hand(self) -> None:
        """An event one half-life old counts half, and what lies behind the end not at all."""
        from benchmarks.personal_slices import HALF_LIVES, decayed_means

        rows = torch.tensor([[100.0], [3.0], [6.0]])
        past = torch.tensor([[1, *[2] * int(HALF_LIVES[0]), 0]])
        ages = torch.arange(int(HALF_LIVES[0]))
        recent = torch.exp2(-ages / HALF_LIVES[0]).sum()

        found = decayed_means(rows, past, torch.tensor([past.shape[1] - 1]))

        expected = (0.5 * 3 + recent * 6) / (0.5 + recent)
        assert found.shape == (1, 3)
        assert found[0, 0].item() == pytest.approx(expected.item(), rel=1e-5)


class TestSlicedSASRec:
    def test_with_all_channels_on_it_is_the_backbone(self, model: SASRec) -> None:
        """Without a slice, too."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3], [4, 5, 0]])
        sliced = SlicedSASRec(model).eval()
        expected = model(items)

        assert torch.allclose(sliced.backbone(items), expected)
        sliced.use(torch.ones(2, 2, 16))
        assert torch.allclose(sliced.backbone(items), expected, atol=1e-6)

    def test_a_channel_that_is_off_is_one_of_no_weights(self, model: SASRec) -> None:
        """As the product prunes it: its bias stays."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3]])
        slices = torch.ones(1, 2, 16)
        slices[0, 1, 4] = 0
        sliced = SlicedSASRec(model).eval()
        sliced.use(slices)
        found = sliced.backbone(items)
        with torch.no_grad():
            model.get_parameter("blocks.1.ffn1.weight")[4] = 0

        assert torch.allclose(found, model(items), atol=1e-6)

    def test_users_differ(self, model: SASRec) -> None:
        """Each row of a batch has its own slice, and its own vector."""
        from benchmarks.personal_slices import SlicedSASRec

        items = torch.tensor([[1, 2, 3], [1, 2, 3]])
        sliced = SlicedSASRec(model).eval()
        offsets = torch.zeros(2, 2, 8)
        offsets[1, :, 0] = 1  # the same for all dimensions, the norm would take it away
        sliced.use(None, offsets)
        first, second = sliced.backbone(items)

        assert torch.allclose(first, model(items)[0])
        assert not torch.allclose(first, second)


class TestTernary:
    def test_codes(self) -> None:
        """Two bits a number, and gradients where it is not clipped."""
        from benchmarks.personal_slices import ternary

        raw = torch.tensor([-3.0, -0.6, 0.2, 0.7], requires_grad=True)
        found = ternary(raw)
        torch.autograd.backward(found.sum())

        assert found.tolist() == [-1, -1, 0, 1]
        assert raw.grad is not None
        assert raw.grad.tolist() == [0, 1, 1, 1]


class TestRouter:
    @pytest.mark.parametrize("uses_batch", [True, False])
    def test_scores_are_deviations_from_the_population(self, *, uses_batch: bool) -> None:
        """Mean zero and standard deviation one over the users it was fitted to."""
        from benchmarks.personal_slices import Router

        torch.manual_seed(0)
        router = Router(
            6, (2, 5), hidden=8, dropout=0.0, is_standardised=True, uses_batch=uses_batch
        ).eval()
        z = torch.randn(40, 6)
        router.fit_population(z)

        scores = router(z)

        assert scores.shape == (40, 2, 5)
        assert torch.allclose(scores.mean(0), torch.zeros(2, 5), atol=1e-5)
        assert (scores.std(0, correction=0) <= 1.0).all()

    def test_the_batch_can_be_the_population(self) -> None:
        """Then a router that shrinks still tells users apart while it trains."""
        from benchmarks.personal_slices import Router

        torch.manual_seed(0)
        router = Router(6, (1, 4), hidden=8, dropout=0.0, is_standardised=True, uses_batch=True)
        z = torch.randn(50, 6)
        with torch.no_grad():
            router.outer.weight.mul_(100)

        assert router(z).std(0, correction=0).min() > 0.9


class TestSizes:
    @pytest.mark.parametrize("group", ["narrow-2", "personal", "codes-slice-trained"])
    def test_a_slice_weighs_as_much_as_no_pool(self, group: str) -> None:
        """Per block 4 matrices of 64 x 64, and two for a slice of 64: 2 bits and scales."""
        from benchmarks.personal_measures import sizes
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        setup = SETUPS[group]
        shape = SASRecConfig(n_items=3, window=4, ffn_multiplier=setup.multiplier)
        found = sizes(Trained(SASRec(shape), setup))

        assert found["resident_bytes"] == 2 * 6 * 64 * (64 * 2 // 8 + 4) == 15_360
        assert found["effective_bits"] == 2.5

    def test_every_setup_but_floats_keeps_to_the_target(self) -> None:
        """No more bytes than without a pool."""
        from benchmarks.personal_measures import sizes
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        for name, setup in SETUPS.items():
            shape = SASRecConfig(n_items=3, window=4, ffn_multiplier=setup.multiplier)
            found = sizes(Trained(SASRec(shape), setup))
            if setup.bits:
                assert found["effective_bits"] <= 3, name
                assert found["resident_bytes"] <= 15_360, name


class TestSettings:
    def test_attempts_are_set_up(self) -> None:
        """And so is what they have to beat; each is there once."""
        names = [(attempt.group, attempt.window) for attempt in ATTEMPTS]

        assert {group for group, _ in names} | {attempt.shared for attempt in ATTEMPTS} <= set(
            SETUPS
        )
        assert len(set(names)) == len(names)

    def test_the_command_repeats_the_run(self) -> None:
        """Options are those of the program, and paths are nobody's."""
        settings = PersonalSettings(
            data=(Path("/home/me/yelp/sequences.txt"),), groups=("global",), seeds=2
        )

        assert settings.command == (
            "python -m benchmarks.personal --data yelp/sequences.txt --seeds 2 --groups global"
        )
        options = {name for option in personal.main.params for name in option.opts}
        assert {word for word in settings.command.split() if word.startswith("--")} <= options

    @pytest.mark.parametrize(
        "wrong",
        [
            {"data": ()},
            {"groups": ("magic",)},
            {"seeds": 0},
            {"groups": ("offset-after",)},
            {"window": 1_000},
            {"backbone": "caser", "groups": ("personal",)},
        ],
        ids=str,
    )
    def test_nonsense_is_refused(self, wrong: dict[str, Any]) -> None:
        """Before anything is trained."""
        with pytest.raises(ConfigError, match="expected"):
            PersonalSettings(**{"data": (Path("x"),), **wrong})

    @pytest.mark.parametrize(
        "wrong", [{"plan": "mine"}, {"rival": "x"}, {"bits": 3}, {"shared": 2.0}], ids=str
    )
    def test_an_impossible_setup_is_refused(self, wrong: dict[str, Any]) -> None:
        """Whatever is wrong with it."""
        with pytest.raises(ConfigError, match="expected"):
            Setup(**wrong)


class TestWindows:
    def test_a_shorter_window_sees_what_a_short_history_is(self) -> None:
        """A backbone that reads fewer events is the same one to whoever has no more."""
        from benchmarks.personal_slices import shortened

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        torch.manual_seed(0)
        model = SASRec(SASRecConfig(n_items=9, embedding_dim=8, window=6)).eval()
        items = torch.tensor([[1, 2, 3]])

        short = shortened(model, 3)

        assert short.config.window == 3
        assert torch.equal(short(items), model(items))

    def test_a_case_is_named_by_its_window_where_that_is_unusual(self) -> None:
        """So that answers lie beside each other."""
        usual = recipe_of("yelp").window

        assert case("yelp", 0) == case("yelp", usual) == "yelp"
        assert case("yelp", usual - 1) == f"yelp-w{usual - 1}"

    def test_a_short_window_is_compared_with_the_full_one(self) -> None:
        """As what a device would gain by reading on."""
        usual = recipe_of("d").window
        answers = [
            _answer(0, {"narrow-float": [0.5, 0.3]}),
            _answer(
                0, {"offset-trained": [0.2, 0.2], "offset-trained:mean": [0.1, 0.1]}, usual - 1
            ),
        ]

        found = {test["rival"]: test for test in paired_tests(answers)}

        assert set(found) == {"offset-trained:mean", f"narrow-float{LONGER}"}
        assert found[f"narrow-float{LONGER}"]["difference"] == pytest.approx(-0.2)
        assert {test["window"] for test in found.values()} == {usual - 1}


class TestRivals:
    def test_an_adapter_turns_what_a_layer_says(self, model: SASRec) -> None:
        """It adds one vector as far as the output has the other."""
        from benchmarks.personal_slices import SlicedSASRec

        sliced = SlicedSASRec(model).eval()
        block = sliced.blocks[1]
        x = torch.randn(1, 3, 8)
        expected = block.feed_forward(x)
        pair = torch.randn(1, 2, 16)
        sliced.use(None, pair)
        left, right = pair[0, 1].chunk(2)

        found = block.feed_forward(x)

        assert torch.allclose(found, expected + (expected @ right)[..., None] * left, atol=1e-5)

    def test_an_adapter_starts_as_none_and_learns(self, model: SASRec) -> None:
        """Of the two vectors one begins at zero, not both."""
        from benchmarks.personal_model import Trained

        trained = Trained(model, SETUPS["adapter-trained"])
        pair = trained.offsets(torch.randn(2, 24))

        assert pair is not None
        left, right = pair.chunk(2, dim=-1)
        assert not left.any()
        assert right.all()

    def test_a_caser_adds_vectors_to_its_states(self) -> None:
        """Each user their own, whether a state is the last one or not."""
        from benchmarks.personal_slices import ShiftedCaser

        from pocketrec_cloud.backbones.caser import Caser, CaserConfig

        torch.manual_seed(0)
        model = Caser(CaserConfig(n_items=9, embedding_dim=8, window=3, max_height=2)).eval()
        items, own = torch.tensor([[1, 2, 3], [4, 5, 0]]), torch.randn(2, 1, 8)
        lengths = torch.tensor([3, 2])
        shifted = ShiftedCaser(model).eval()
        shifted.use(None, own)

        assert torch.allclose(shifted.backbone(items), model(items) + own, atol=1e-6)
        found = shifted.backbone.last_states(items, lengths)
        assert torch.allclose(found, model.last_states(items, lengths) + own[:, 0], atol=1e-6)

    def test_the_blind_are_told_nothing(self, model: SASRec) -> None:
        """Whoever the user is, the vector is the same."""
        from benchmarks.personal_model import Trained

        trained = Trained(model, SETUPS["shared-after"])

        described = trained.describe(torch.tensor([[1, 2], [3, 4]]), torch.tensor([2, 2]))

        assert not described.any()
        assert not trained.is_personal


class TestKeepAs:
    def test_only_what_tells_users_apart_is_trained(self) -> None:
        """And it starts with the model it keeps, whoever the user is."""
        from benchmarks.personal_model import Trained

        from pocketrec_cloud.backbones.sasrec import SASRec, SASRecConfig

        shape = SASRecConfig(n_items=9, embedding_dim=8, window=5, ffn_multiplier=4)
        backbone = SASRec(shape).eval()
        base = Trained(backbone, SETUPS["global-trained"])
        with torch.no_grad():
            for value in base.parameters():
                value.add_(0.1 * torch.randn_like(value))
        base.refresh()
        after = Trained(backbone, SETUPS["offset-after"])
        after.keep_as(base.state_dict())
        items = torch.tensor([[1, 2, 3]])
        expected, found = (
            model.eval().scorer([items[0].numpy()], torch.randn(1, 24))(np.array([0]))
            for model in (base, after.train())
        )

        assert torch.equal(found, expected)
        trained = {name for name, value in after.named_parameters() if value.requires_grad}
        assert all(name.startswith(("router.", "steps", "future.")) for name in trained)


class TestFoldedBytes:
    def test_by_hand(self) -> None:
        """Of a pool of 256 the columns of 64 are needed: as much as without a pool."""
        from benchmarks.personal_device import SHAPE, _plan
        from benchmarks.personal_measures import folded_bytes

        from pocketrec_quantization.backbone import BackboneConfig, coded_layers
        from pocketrec_quantization.testing import tiny_plan

        config = BackboneConfig(
            kind="sasrec",
            embedding_dim=SHAPE.d,
            n_blocks=SHAPE.blocks,
            n_heads=2,
            window=SHAPE.window,
            ffn_multiplier=4,
        )
        plan = tiny_plan(tuple(coded_layers(config)), bytes(32))

        assert folded_bytes(_plan(plan, 64)) == 15_360
        assert folded_bytes(_plan(plan, 0)) == 15_360 + 2 * 192 * (64 * 2 // 8 + 4 + 64 * 2 // 8)


class TestRegimes:
    def test_a_backbone_is_rounded_to_every_width(self, data: Path, tmp_path: Path) -> None:
        """It is trained once, and the page says what each width costs."""
        from benchmarks.personal_page import sheets
        from benchmarks.personal_regimes import REGIMES_FILE
        from benchmarks.personal_regimes import main as measure

        options = ["--data", str(data), "--work", str(tmp_path), "--dims", "8"]
        for _ in range(2):
            done = CliRunner().invoke(measure, options)
            assert done.exit_code == 0, done.output

        found = json.loads((tmp_path / REGIMES_FILE).read_text())
        assert [row["embedding_dim"] for row in found] == [recipe_of("tiny").dim, 8]
        assert all(0 <= row[width] <= 1 for row in found for width in ("fp32", "w2", "w2a8"))
        nothing: dict[str, Any] = {"records": [], "paired": [], "spread": []}
        (sheet,) = sheets({**nothing, "regimes": found})
        assert len(sheet.rows) == len(found)

    def test_activations_are_rounded_event_by_event(self, model: SASRec) -> None:
        """The largest number of each stays, and there are 255 steps at most."""
        from benchmarks.personal_model import Trained
        from benchmarks.personal_regimes import round_activations

        trained = Trained(model, Setup(multiplier=2, bits=0, plan="none")).eval()
        round_activations(trained)
        seen: list[Any] = []
        trained.coded[0].register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs))
        x = torch.randn(2, 3, 8)
        trained.coded[0](x)

        steps = seen[0][0] * 127 / x.abs().amax(-1, keepdim=True)
        assert torch.allclose(steps, steps.round(), atol=1e-3)
        assert steps.abs().max().item() == pytest.approx(127)


class TestPairedTests:
    def test_by_hand(self) -> None:
        """Seeds are averaged user by user, and nobody is compared with themselves."""
        answers = [
            _answer(0, {"personal": [0.4, 0.2], "personal:shuffled": [0.2, 0.2]}),
            _answer(1, {"personal": [0.6, 0.2], "personal:shuffled": [0.2, 0.0]}),
        ]

        (found,) = paired_tests(answers)

        assert (found["method"], found["rival"]) == ("personal", "personal:shuffled")
        assert (found["n_seeds"], found["n_users"]) == (2, 2)
        assert found["difference"] == pytest.approx(0.2)
        assert found["own"] == pytest.approx(0.35)


class TestByHistory:
    def test_users_are_told_apart_by_their_events(self) -> None:
        """Those with short histories first; groups too small to say anything are left out."""
        ndcg = {
            "personal": [0.4] * 60 + [0.2] * 60,
            "personal:shuffled": [0.0] * 120,
            "narrow-qat-2": [0.2] * 120,
        }
        answer = {**_answer(0, ndcg), "n_events": [3] * 60 + [50] * 59 + [500]}

        short, long = by_history([answer])

        assert (short["from"], short["to"], short["n_users"]) == (1, 5, 60)
        assert short["difference"] == pytest.approx(0.2)
        assert (long["from"], long["to"], long["n_users"]) == (21, 100, 59)
        assert long["difference"] == pytest.approx(0.0)


def _answer(seed: int, ndcg: dict[str, list[float]], window: int = 0) -> dict[str, Any]:
    window = window or recipe_of("d").window
    records = [
        {"dataset": "d", "window": window, "backbone": "sasrec", "seed": seed, "method": name}
        for name in ndcg
    ]
    return {"records": records, "ndcg": ndcg}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fifty users of a small generated catalogue."""
    from pocketrec_cloud.data.synthetic import SyntheticConfig, synthetic_interactions

    config = SyntheticConfig(n_users=50, n_items=40, n_groups=4, mean_events=10, n_interests=2)
    dataset = synthetic_interactions(config).dataset
    lines = (
        " ".join([dataset.user_ids[u], *(dataset.item_ids[i - 1] for i in dataset.sequence(u))])
        for u in range(dataset.n_users)
    )
    path = tmp_path_factory.mktemp("data") / "tiny" / "interactions.txt"
    path.parent.mkdir()
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(scope="module")
def settings(data: Path, tmp_path_factory: pytest.TempPathFactory) -> PersonalSettings:
    """One seed of five groups."""
    return PersonalSettings(
        data=(data,), groups=GROUPS, work=tmp_path_factory.mktemp("work"), max_epochs=1
    )


@pytest.fixture(scope="module")
def result(settings: PersonalSettings) -> dict[str, Any]:
    """Its table."""
    return run(settings, Progress(disable=True))


class TestRun:
    def test_every_plan_has_its_controls(self, result: dict[str, Any]) -> None:
        """One's own, a stranger's, a random one and the mean, in the records of ``planner``."""
        methods = {record["method"] for record in result["records"]}

        for group in GROUPS[2:]:
            controls = {f"{group}:{name}" for name in ("shuffled", "random", "mean")}
            assert controls | {group} <= methods
        assert all(0 <= record["ndcg@10"] <= 1 for record in result["records"])
        assert {"init", "effective_bits", "plan_bytes", "model_bytes", "hr@10_1:99"} <= set(
            result["records"][0]
        )

    def test_a_caser_has_vectors_and_their_controls(self, data: Path, tmp_path: Path) -> None:
        """Through a window of its own, and beside the same without vectors."""
        settings = PersonalSettings(
            data=(data,),
            groups=("narrow-qat-2", "offset-trained"),
            work=tmp_path,
            max_epochs=1,
            window=4,
            backbone="caser",
        )

        found = run(settings, Progress(disable=True))

        rivals = {test["rival"] for test in found["paired"]}
        assert {"offset-trained:shuffled", "offset-trained:random", "narrow-qat-2"} <= rivals
        assert {(r["backbone"], r["window"]) for r in found["records"]} == {("caser", 4)}
        assert all(record["effective_bits"] <= 3 for record in found["records"])

    def test_what_is_done_is_not_done_again(
        self, settings: PersonalSettings, result: dict[str, Any]
    ) -> None:
        """The second time nothing is trained."""
        again = run(settings, Progress(disable=True))

        assert again["records"] == result["records"]
        assert again["training_seconds"] == result["training_seconds"]

    def test_nobody_is_their_own_stranger(self) -> None:
        """However few they are."""
        from benchmarks.personal_unit import _derangement

        rng = np.random.default_rng(0)
        for n_users in (2, 3, 50):
            strangers = _derangement(n_users, rng)
            assert (strangers != np.arange(n_users)).all()
            assert sorted(strangers) == list(range(n_users))

    def test_page_and_plots_are_written(self, result: dict[str, Any], tmp_path: Path) -> None:
        """From what was measured before, with every method that was."""
        source, page = tmp_path / "personal.json", tmp_path / "personal.md"
        source.write_text(json.dumps(result))

        done = CliRunner().invoke(personal.main, ["--from", str(source), "--report", str(page)])

        assert done.exit_code == 0, done.output
        text = page.read_text()
        assert all(record["method"] in text for record in result["records"])
        assert "## What was tried" in text
        assert len(list(tmp_path.glob("*.png"))) == 3
