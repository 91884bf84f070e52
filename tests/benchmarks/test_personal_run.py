# SPDX-License-Identifier: Apache-2.0
"""One small table of ``personal``: trained, continued, compared and drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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

GROUPS = (
    "narrow-float",
    "global-trained",
    "personal-batch-trained",
    "codes-slice-trained",
    "offset-after",
)


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


class TestRegimes:
    def test_a_backbone_is_rounded_to_every_width(
        self, tiny_interactions: Path, tmp_path: Path
    ) -> None:
        """It is trained once, and the page says what each width costs."""
        from benchmarks.personal_page import sheets
        from benchmarks.personal_regimes import REGIMES_FILE
        from benchmarks.personal_regimes import main as measure

        options = ["--data", str(tiny_interactions), "--work", str(tmp_path), "--dims", "8"]
        for _ in range(2):
            done = CliRunner().invoke(measure, options)
            assert done.exit_code == 0, done.output

        found = json.loads((tmp_path / REGIMES_FILE).read_text())
        assert [row["embedding_dim"] for row in found] == [recipe_of("tiny").dim, 8]
        assert all(0 <= row[width] <= 1 for row in found for width in ("fp32", "w2", "w2a8"))
        nothing: dict[str, Any] = {"records": [], "paired": [], "spread": []}
        (sheet,) = sheets({**nothing, "regimes": found})
        assert len(sheet.rows) == len(found)


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
def settings(tiny_interactions: Path, tmp_path_factory: pytest.TempPathFactory) -> PersonalSettings:
    """One seed of five groups."""
    return PersonalSettings(
        data=(tiny_interactions,), groups=GROUPS, work=tmp_path_factory.mktemp("work"), max_epochs=1
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

    def test_a_caser_has_vectors_and_their_controls(
        self, tiny_interactions: Path, tmp_path: Path
    ) -> None:
        """Through a window of its own, and beside the same without vectors."""
        settings = PersonalSettings(
            data=(tiny_interactions,),
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
