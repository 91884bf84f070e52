# SPDX-License-Identifier: Apache-2.0
"""What the benchmark of planners counts and concludes, by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from benchmarks import planner
from benchmarks.planner_run import PlannerSettings, paired_tests, summary
from benchmarks.planner_settings import DATASETS, dataset_name, recipe_of

from pocketrec.errors import ConfigError
from pocketrec_quantization.levels import DEFAULT_LEVELS

pytest.importorskip("torch", reason="needs the extra 'cloud'")

if TYPE_CHECKING:
    from pocketrec_cloud.planning.planned import PlannedBackbone


def answer(seed: int, **ndcg: list[float]) -> dict[str, Any]:
    """Return what a unit answers, as far as tests between methods read it."""
    identity = {"dataset": "d", "backbone": "sasrec", "init": "random_frozen", "seed": seed}
    return {"records": [{**identity, "method": name} for name in ndcg], "ndcg": ndcg}


class TestPairedTests:
    def test_by_hand(self) -> None:
        """Seeds are averaged user by user before anything is tested."""
        answers = [
            answer(0, personal=[0.4, 0.2, 0.6], shuffled=[0.2, 0.2, 0.2]),
            answer(1, personal=[0.6, 0.2, 0.8], shuffled=[0.2, 0.0, 0.4]),
        ]

        (found,) = paired_tests(answers)

        # Users' means: 0.5, 0.2, 0.7 against 0.2, 0.1, 0.3, so 0.3, 0.1 and 0.4.
        error = math.sqrt((0.1 / 3) ** 2 + (0.5 / 3) ** 2 + (0.4 / 3) ** 2) / math.sqrt(2 * 3)
        mean = 0.8 / 3
        assert (found["method"], found["rival"]) == ("personal", "shuffled")
        assert (found["n_seeds"], found["n_users"]) == (2, 3)
        assert found["difference"] == pytest.approx(mean)
        assert found["low"] == pytest.approx(mean - 1.96 * error)
        assert found["high"] == pytest.approx(mean + 1.96 * error)
        assert found["p"] == pytest.approx(2 * (1 - _normal(mean / error)))

    def test_only_seeds_that_both_have_count(self) -> None:
        """A rival that is not done yet is compared as far as it is."""
        answers = [
            answer(0, personal=[1.0, 0.0], mean=[0.5, 0.0]),
            answer(1, personal=[0.0, 0.0]),
        ]

        (found,) = paired_tests(answers)

        assert (found["n_seeds"], found["difference"]) == (1, 0.25)

    def test_no_difference_is_no_evidence(self) -> None:
        """Where nobody differs there is nothing to divide by."""
        (found,) = paired_tests([answer(0, personal=[0.5, 0.1], **{"global": [0.5, 0.1]})])

        assert (found["difference"], found["low"], found["high"], found["p"]) == (0, 0, 0, 1)

    def test_standardised_plans_meet_their_own_controls(self) -> None:
        """And the rivals that both kinds share."""
        own = {"personal-standardised": [0.5, 0.1], "shuffled-standardised": [0.4, 0.1]}

        found = list(paired_tests([answer(0, fp32=[0.3, 0.3], shuffled=[0.1, 0.1], **own)]))

        assert {test["rival"] for test in found} == {"shuffled-standardised", "fp32", "shuffled"}
        assert {test["method"] for test in found} == {"personal-standardised"}


def _normal(z: float) -> float:
    """Return the share of a standard normal variable below z."""
    return 0.5 * (1 + math.erf(z / math.sqrt(2)))


class TestSettings:
    def test_the_command_repeats_the_run(self) -> None:
        """Options are those of the program, defaults are left out, and paths are nobody's."""
        settings = PlannerSettings(
            data=(Path("/home/me/ml-100k/ml-100k.inter"),),
            backbones=("caser",),
            inits=("random_frozen",),
            groups=("float", "global"),
            seeds=2,
            max_epochs=3,
        )

        assert settings.command == (
            "python -m benchmarks.planner --data ml-100k/ml-100k.inter --backbone caser "
            "--init random_frozen --groups float,global --seeds 2 --device cpu --max-epochs 3"
        )
        options = {name for option in planner.main.params for name in option.opts}
        assert {word for word in settings.command.split() if word.startswith("--")} <= options

    @pytest.mark.parametrize(
        "wrong",
        [
            {"data": ()},
            {"backbones": ("lstm",)},
            {"inits": ()},
            {"groups": ("magic",)},
            {"seeds": 0},
        ],
        ids=str,
    )
    def test_nonsense_is_refused(self, wrong: dict[str, Any]) -> None:
        """Before anything is trained."""
        with pytest.raises(ConfigError, match="expected"):
            PlannerSettings(**{"data": (Path("x"),), **wrong})

    def test_a_unit_is_named_once(self) -> None:
        """Whose answers would otherwise replace each other; what pretrains comes first."""
        settings = PlannerSettings(data=(Path("a/x"), Path("b/x")), seeds=2)
        units = settings.units()

        assert len({unit.name for unit in units}) == len(units) == 16 * len(settings.groups)
        assert (units[0].init, units[0].group) == ("pretrained_frozen", "float")
        assert {unit.group for unit in units[-16:]} == {"peers"}

    def test_trials_are_kept_apart(self) -> None:
        """Their answers are no part of the real table."""
        real = PlannerSettings(data=(Path("a/x"),))
        trial = replace(real, max_epochs=1)

        assert real.folder == real.work
        assert trial.folder != real.folder
        assert {unit.work for unit in trial.units()} == {str(trial.folder)}

    def test_every_recipe_can_be_configured(self) -> None:
        """Shapes, trainings and plannings are possible ones, shortened ones too."""
        for dataset in (*DATASETS, "something-else"):
            for kind in ("sasrec", "caser"):
                recipe = recipe_of(dataset, kind)
                assert recipe.backbone(kind, 50).kind == kind
                assert recipe.pretraining(1).seed == recipe.planner(1).seed == 1
                short = recipe.shortened(2)
                assert short.pretraining(0).max_epochs == short.planner(0).max_epochs == 2

    def test_a_dataset_is_called_after_its_folder(self, tmp_path: Path) -> None:
        """Wherever that lies."""
        assert dataset_name(tmp_path / "yelp" / "events.inter") == "yelp"


class TestFacts:
    @pytest.fixture
    def planned(self) -> PlannedBackbone:
        """A Caser whose parameters can be counted by hand: 2 dimensions, 3 items."""
        from pocketrec_cloud.backbones.caser import Caser, CaserConfig
        from pocketrec_cloud.planning.configuration import PlannerTraining
        from pocketrec_cloud.planning.planned import PlannedBackbone

        shape = CaserConfig(
            n_items=3, embedding_dim=2, window=2, max_height=1, n_horizontal=4, n_vertical=1
        )
        return PlannedBackbone.start(Caser(shape).eval(), "float", PlannerTraining())

    def test_model_bytes_by_hand(self, planned: PlannedBackbone) -> None:
        """Matrices of 4 x 2, 1 x 2 and 2 x 6; 7 biases; 4 rows of 2, padding among them."""
        from benchmarks.planner_unit import _facts

        quantized = _facts(planned, np.full((1, 7), 3, np.uint8))
        exact = _facts(planned, None)

        coded = (4 * 2 + 1 * 2 + 2 * 6) + 7 * 4  # 8 bits a weight, a scale a channel
        assert quantized["model_bytes"] == coded + 4 * (2 + 4) + 4 * 7
        assert quantized["effective_bits"] == pytest.approx(8 * coded / 22)
        assert exact["model_bytes"] == 4 * 22 + 4 * 4 * 2 + 4 * 7
        assert exact["effective_bits"] == 32
        assert exact["plan_bytes"] == quantized["plan_bytes"] == 0

    def test_a_plan_has_two_bits_a_channel(self, planned: PlannedBackbone) -> None:
        """Where it is one that is sent."""
        from benchmarks.planner_unit import _facts

        codes = np.full((5, 7), 1, np.uint8)

        assert _facts(planned, codes, is_plan=True)["plan_bytes"] == 2

    @pytest.mark.parametrize("strategy", ["personal", "global", "uniform-4"])
    def test_the_strategy_of_the_training_weighs_nothing(
        self, planned: PlannedBackbone, strategy: str
    ) -> None:
        """Networks and extractor are no part of the model that ranks."""
        from benchmarks.planner_unit import _facts

        from pocketrec_cloud.planning.planned import PlannedBackbone

        codes = np.full((1, 7), 2, np.uint8)
        other = PlannedBackbone.start(planned.mixed.plain(), strategy, planned.config)

        assert _facts(other, codes) == _facts(planned, codes)


class TestSpread:
    def test_by_hand(self) -> None:
        """Two kinds of users: half of their channels differ, and always with their interests."""
        from benchmarks.planner_unit import _spread

        codes = np.array([[1, 1], [1, 1], [1, 3], [1, 3]], np.uint8)
        z = np.array([[1, 0], [2, 0], [0, 1], [0, 3]], np.float32)

        found = _spread(codes, z, DEFAULT_LEVELS)

        assert found["correlation"] == pytest.approx(1.0)
        assert found["distinct_plans"] == 0.5
        assert found["mean_width"] == [2.0, 5.0]
        assert found["std_width"] == [0.0, 3.0]
        assert found["width_std"] == 1.5
        assert set(found["plan_distance"]) == {0.0, 0.5}
        assert 0.2 < found["channels_that_differ"] < 0.45

    @pytest.mark.parametrize("same", ["plans", "users"])
    def test_where_all_are_equal_nothing_correlates(self, same: str) -> None:
        """Zero, without a warning."""
        from benchmarks.planner_unit import _spread

        rng = np.random.default_rng(0)
        codes = rng.integers(1, 4, (9, 6)).astype(np.uint8)
        z = rng.random((9, 3), np.float32)
        if same == "plans":
            codes[:] = codes[0]
        else:
            z[:] = (1, 0, 0)

        assert _spread(codes, z, DEFAULT_LEVELS)["correlation"] == 0


def test_a_summary_is_over_seeds() -> None:
    """Mean, standard deviation and number; one seed deviates from nothing."""
    assert summary([{"x": 1.0}, {"x": 3.0}], "x") == (2.0, math.sqrt(2), 2)
    assert summary([{"x": 5}], "x") == (5.0, 0.0, 1)
